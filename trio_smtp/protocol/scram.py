"""SCRAM (RFC 5802, RFC 7677), by the scramp library, as a SASL exchange."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from functools import lru_cache

from .credentials import (
    DIGEST_SIZES,
    SALT_SIZE,
    USUAL_ITERATIONS,
    ScramCredentials,
    ScramSecret,
    make_secret,
)
from .errors import ProtocolError
from .exchange import AuthenticationFailed, Exchange, SASLContext, SecretNeeded, saslname, text_of
from .extras import scramp as library

__all__ = ["Pretence", "channel_binding", "library", "make_secret", "scram", "scram_with"]

_CLIENT_FIRST = re.compile(r"(?:[ny]|p=[A-Za-z0-9.-]+),(a=[^,]*)?,n=([^,]+),r=[!-+.-~-]+.*", re.DOTALL)
#: Errors of scramp for a wrong proof or channel binding, as opposed to malformed messages.
_FAILURES = frozenset(("invalid-proof", "channel-bindings-dont-match", "server-does-support-channel-binding"))
_NO_SUCH_BINDING = frozenset(("channel-binding-not-supported", "unsupported-channel-binding-type"))


class Pretence:
    """Makes up secrets for users who are unknown: an exchange with one looks like any other, until its proof fails."""

    __slots__ = ("_key", "_usual")

    def __init__(self) -> None:
        # A salt is derived from this key: it looks like any other, and is the same at each attempt.
        self._key = secrets.token_bytes(32)
        # Octets of salt and iterations of the last known user's secret, by mechanism.
        self._usual: dict[str, tuple[int, int]] = {}

    def note(self, secret: ScramSecret) -> None:
        """A known user has this secret: those that are made up will be like it."""
        self._usual[secret.mechanism] = len(secret.salt), secret.iterations

    def secret_of(self, username: str, mechanism: str) -> ScramSecret:
        """Make up the secret of an unknown user."""
        octets, iterations = self._usual.get(mechanism, (SALT_SIZE, USUAL_ITERATIONS))
        salt = hashlib.shake_256(b"%b %b %b" % (self._key, mechanism.encode(), username.encode())).digest(octets)
        size = DIGEST_SIZES[mechanism]
        return ScramSecret(mechanism, salt, secrets.token_bytes(size), secrets.token_bytes(size), iterations)


_PRETENCE = Pretence()


@lru_cache(maxsize=64)
def channel_binding(certificate: bytes) -> tuple[str, str] | None:
    """The channel binding ``tls-server-end-point`` of a server's certificate (DER), as scramp takes it.

    Returns:
        The binding, or None: not every signature algorithm has one (RFC 5929 section 4.1).
    """
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(certificate).decode()}-----END CERTIFICATE-----\n"
    binding = "tls-server-end-point", pem
    scramp = library()
    try:
        scramp.ScramMechanism("SCRAM-SHA-1-PLUS").make_server(str, channel_binding=binding)
    except (scramp.ScramException, TypeError):  # TypeError: the digest of an Ed448 signature has no fixed size
        return None
    return binding


def scram(name: str, context: SASLContext) -> Exchange:
    """See `scram_with`; all servers of a process share one `Pretence`."""
    return scram_with(_PRETENCE, name, context)


def scram_with(pretence: Pretence, name: str, context: SASLContext) -> Exchange:
    """One exchange: client-first, server-first, client-final, server-final.

    The server's final message goes out as a challenge that the client answers with nothing (RFC 4954 section 4
    knows no data in a 235).

    Args:
        pretence: Makes up the secrets of unknown users.
        name: The mechanism.
        context: Of the session.
    """
    scramp = library()
    mechanism = name.removesuffix("-PLUS")
    binding = None
    if context.server_certificate is not None and (context.plus or name.endswith("-PLUS")):
        binding = channel_binding(context.server_certificate)
    first = text_of((yield b""))
    match = _CLIENT_FIRST.fullmatch(first)
    if match is None:
        raise ProtocolError("Malformed SCRAM message", 501, "5.5.2")
    if match[1] is not None:
        raise ProtocolError("SCRAM is not available with an authorization identity", 501, "5.5.4")
    username = saslname(match[2])
    found: ScramSecret | None = yield SecretNeeded(username)
    if found is not None and found.mechanism == mechanism:
        secret, known = found, True
        pretence.note(found)
    else:
        secret, known = pretence.secret_of(username, mechanism), False

    def look_up(_: str) -> tuple[bytes, bytes, bytes, int]:
        return secret.salt, secret.stored_key, secret.server_key, secret.iterations

    try:
        server = scramp.ScramMechanism(name).make_server(look_up, channel_binding=binding)
        server.set_client_first(first)
        final = text_of((yield server.get_server_first().encode()))
        server.set_client_final(final)
        answer = server.get_server_final()
    except scramp.ScramException as exc:
        problem = exc.server_error.value if exc.server_error is not None else ""
        if problem in _FAILURES:
            raise AuthenticationFailed from None
        if problem in _NO_SUCH_BINDING:
            raise ProtocolError("Unsupported channel binding", 501, "5.5.4") from None
        raise ProtocolError("Malformed SCRAM message", 501, "5.5.2") from None
    if not known:
        raise AuthenticationFailed
    yield answer.encode()
    return ScramCredentials(name, username)
