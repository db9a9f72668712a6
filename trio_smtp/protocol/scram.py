"""SCRAM (RFC 5802, RFC 7677), by the scramp library, as a SASL exchange."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import re
import secrets
from types import ModuleType

from .credentials import ScramCredentials, ScramSecret
from .errors import ProtocolError
from .sasl import AuthenticationFailed, Exchange, SASLContext, SecretNeeded, saslname, text_of

__all__ = ["library", "make_secret", "scram"]

_CLIENT_FIRST = re.compile(r"(?:[ny]|p=[A-Za-z0-9.-]+),(?:a=[^,]*)?,n=([^,]+),r=[!-+.-~-]+.*", re.DOTALL)
#: The proof or the channel binding is wrong, as opposed to malformed messages.
_FAILURES = frozenset(
    ("invalid-proof", "channel-bindings-dont-match", "server-does-support-channel-binding", "unknown-user")
)
_DIGEST_SIZES = {"SCRAM-SHA-1": 20, "SCRAM-SHA-256": 32, "SCRAM-SHA-512": 64}
# An unknown user gets a salt like any other, the same one at each attempt.
_PRETENCE = secrets.token_bytes(32)


def library() -> ModuleType:
    """The scramp library.

    Raises:
        ImportError: It is not installed; the text names the extra to install.
    """
    try:
        return importlib.import_module("scramp")
    except ImportError as error:
        raise ImportError("SCRAM needs the extra scram: pip install 'trio-smtp[scram]'") from error


def make_secret(password: str, mechanism: str, iterations: int | None, salt: bytes | None) -> ScramSecret:
    """See `ScramSecret.from_password`."""
    scramp = library()
    if mechanism not in _DIGEST_SIZES:
        raise ValueError(f"mechanism must be one of {', '.join(_DIGEST_SIZES)}, not {mechanism!r}")
    try:
        made = scramp.ScramMechanism(mechanism).make_auth_info(password, iterations, salt)
    except scramp.ScramException as exc:
        raise ValueError(str(exc)) from exc
    return ScramSecret(mechanism, *made)


def _pretended_secret(username: str, mechanism: str) -> ScramSecret:
    salt = hmac.new(_PRETENCE, username.encode(), hashlib.sha256).digest()
    size = _DIGEST_SIZES[mechanism]
    return ScramSecret(mechanism, salt, secrets.token_bytes(size), secrets.token_bytes(size))


def _pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"


def scram(name: str, context: SASLContext) -> Exchange:
    """One exchange: client-first, server-first, client-final, server-final.

    The server's final message goes out as a challenge that the client answers with nothing (RFC 4954 section 4
    knows no data in a 235).
    """
    scramp = library()
    mechanism = name.removesuffix("-PLUS")
    binding = None
    if context.server_certificate is not None and (context.plus or name.endswith("-PLUS")):
        binding = ("tls-server-end-point", _pem(context.server_certificate))
    first = text_of((yield b""))
    match = _CLIENT_FIRST.fullmatch(first)
    if match is None:
        raise ProtocolError("Malformed SCRAM message", 501, "5.5.2")
    username = saslname(match[1])
    found: ScramSecret | None = yield SecretNeeded(username)
    known = found is not None and found.mechanism == mechanism
    secret = found if found is not None and known else _pretended_secret(username, mechanism)

    def look_up(_: str) -> tuple[bytes, bytes, bytes, int]:
        return secret.salt, secret.stored_key, secret.server_key, secret.iterations

    try:
        server = scramp.ScramMechanism(name).make_server(look_up, channel_binding=binding)
        server.set_client_first(first)
        final = text_of((yield server.get_server_first().encode()))
        server.set_client_final(final)
        answer = server.get_server_final()
    except scramp.ScramException as exc:
        if exc.server_error is not None and exc.server_error.value in _FAILURES:
            raise AuthenticationFailed from None
        raise ProtocolError("Malformed SCRAM message", 501, "5.5.2") from None
    if not known:
        raise AuthenticationFailed
    yield answer.encode()
    return ScramCredentials(name, username)
