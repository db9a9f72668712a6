"""SCRAM (RFC 5802, RFC 7677) as a SASL exchange. The scramp library makes secrets; the proof is verified here.

scramp's server refuses an authorization identity, which Cyrus SASL and GNU SASL always send. The proof covers it, so
that it cannot be taken out of the message before scramp reads it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import stringprep

import attrs

from .channel_binding import channel_binding
from .credentials import (
    DIGEST_SIZES,
    SALT_SIZE,
    USUAL_ITERATIONS,
    ScramCredentials,
    ScramSecret,
    make_secret,
)
from .errors import ProtocolError
from .exchange import (
    AuthenticationFailed,
    Exchange,
    SASLContext,
    SecretNeeded,
    other_identity,
    saslname,
    text_of,
)
from .extras import scramp as library
from .values import ShowsFields

__all__ = ["Pretence", "channel_binding", "library", "make_secret", "scram", "scram_with"]

#: Attributes that no RFC gives a meaning to; ``m`` would be one that must be understood.
_EXTENSIONS = r"(?:,[A-Zbdf-hj-loqt-uw-z]=[^,]+)*"
_NONCE = r"[!-+.-~-]+"
_CLIENT_FIRST = re.compile(
    rf"(?P<header>(?:[ny]|p=(?P<binding>[A-Za-z0-9.-]+)),(?:a=(?P<authzid>[^,]+))?,)"
    rf"(?P<bare>n=(?P<username>[^,]+),r=(?P<nonce>{_NONCE}){_EXTENSIONS})"
)
_CLIENT_FINAL = re.compile(rf"(?P<unproved>c=(?P<binding>[^,]+),r=(?P<nonce>{_NONCE}){_EXTENSIONS}),p=(?P<proof>[^,]+)")
#: What RFC 4013 section 2.3 keeps out of user names.
_PROHIBITED = (
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


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
    mechanism = name.removesuffix("-PLUS")
    first = _read_first(text_of((yield b"")), name, context)
    found: ScramSecret | None = yield SecretNeeded(first.username)
    if found is not None and found.mechanism == mechanism:
        secret, known = found, True
        pretence.note(found)
    else:
        secret, known = pretence.secret_of(first.username, mechanism), False
    nonce = first.nonce + secrets.token_hex(32)
    challenge = f"r={nonce},s={base64.b64encode(secret.salt).decode()},i={secret.iterations}"
    final = text_of((yield challenge.encode()))
    signature = _verify(first, challenge, nonce, final, secret)
    if not known:  # after the proof was looked at: a malformed one is refused in the same way for everybody
        raise AuthenticationFailed
    yield b"v=" + base64.b64encode(signature)
    return ScramCredentials(name, first.username, first.authzid)


def _malformed() -> ProtocolError:
    return ProtocolError("Malformed SCRAM message", 501, "5.5.2")


@attrs.frozen(repr=False)
class _ClientFirst(ShowsFields):
    """What the client's first message says.

    Attributes:
        bare: The message without the GS2 header; the proof covers it.
        channel: What the client's final message must repeat: the GS2 header, and the channel binding behind it.
        username: Decoded.
        authzid: Decoded; empty where it is the user name.
        nonce: The client's part of the nonce.
    """

    bare: str
    channel: bytes
    username: str
    authzid: str
    nonce: str


def _read_first(text: str, name: str, context: SASLContext) -> _ClientFirst:
    """Read the client's first message (RFC 5802 section 7), and compare its channel binding flag with ours.

    Raises:
        ProtocolError: 501: the message is malformed, or asks for another type of channel binding.
        AuthenticationFailed: The flag shows that the client was not told of our channel binding (RFC 5802 section 6),
            or has none where the mechanism needs one.
    """
    match = _CLIENT_FIRST.fullmatch(text)
    if match is None:
        raise _malformed()
    username, authzid = saslname(match["username"]), saslname(match["authzid"] or "")
    if any(prohibits(char) for char in username for prohibits in _PROHIBITED):
        raise _malformed()
    binding = None
    if context.server_certificate is not None and (context.plus or name.endswith("-PLUS")):
        binding = channel_binding(context.server_certificate)
    channel: bytes = match["header"].encode()
    if match["binding"] is not None:
        if binding is None or match["binding"] != "tls-server-end-point":
            raise ProtocolError("Unsupported channel binding", 501, "5.5.4")
        channel += binding
    elif name.endswith("-PLUS") or (text[0] == "y" and binding is not None):
        raise AuthenticationFailed
    return _ClientFirst(match["bare"], channel, username, other_identity(authzid, username), match["nonce"])


def _verify(first: _ClientFirst, challenge: str, nonce: str, text: str, secret: ScramSecret) -> bytes:
    """Check the client's final message (RFC 5802 section 3).

    Returns:
        The server's signature.

    Raises:
        ProtocolError: 501: the message is malformed, or repeats another nonce than the one it was sent.
        AuthenticationFailed: The proof or the channel binding is wrong.
    """
    match = _CLIENT_FINAL.fullmatch(text)
    if match is None:
        raise _malformed()
    try:
        channel, proof = (base64.b64decode(match[field], validate=True) for field in ("binding", "proof"))
    except ValueError:
        raise _malformed() from None
    if not hmac.compare_digest(match["nonce"], nonce):
        raise _malformed()
    digest = secret.mechanism.removeprefix("SCRAM-").replace("-", "").lower()
    message = f"{first.bare},{challenge},{match['unproved']}".encode()
    signature = hmac.digest(secret.stored_key, message, digest)
    if len(proof) != len(signature) or not hmac.compare_digest(channel, first.channel):
        raise AuthenticationFailed
    client_key = bytes(ours ^ theirs for ours, theirs in zip(proof, signature, strict=True))
    if not hmac.compare_digest(hashlib.new(digest, client_key).digest(), secret.stored_key):
        raise AuthenticationFailed
    return hmac.digest(secret.server_key, message, digest)
