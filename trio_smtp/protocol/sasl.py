"""The SASL mechanisms that are known by name; what a mechanism is stands in exchange.py."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping

from .credentials import (
    CramMD5Credentials,
    ExternalCredentials,
    OAuthCredentials,
    PlainCredentials,
)
from .errors import ProtocolError
from .exchange import (
    AuthenticationFailed,
    Exchange,
    Mechanism,
    SASLContext,
    SecretNeeded,
    other_identity,
    saslname,
    text_of,
)

__all__ = [
    "MECHANISMS",
    "AuthenticationFailed",
    "Exchange",
    "Mechanism",
    "SASLContext",
    "SecretNeeded",
]


def _plain(context: SASLContext) -> Exchange:
    """RFC 4616: [authzid] NUL authcid NUL passwd. Whether the last two may be empty is left to handlers."""
    parts = (yield b"").split(b"\0")
    if len(parts) != 3:
        raise ProtocolError("Malformed PLAIN response", 501, "5.5.2")
    authzid, username = text_of(parts[0]), text_of(parts[1])
    return PlainCredentials("PLAIN", username, _password(parts[2]), other_identity(authzid, username), parts[2])


def _login(context: SASLContext) -> Exchange:
    """Two questions, in the words that clients expect."""
    username = text_of((yield b"Username:"), "the user name")
    password = yield b"Password:"
    if b"\0" in password:
        raise ProtocolError("NUL in the password", 501, "5.5.2")
    return PlainCredentials("LOGIN", username, _password(password), password_octets=password)


def _password(octets: bytes) -> str:
    """A password as text: old clients send Latin-1, which has a character for every octet."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _cram_md5(context: SASLContext) -> Exchange:
    """RFC 2195: the digest of a challenge that is never used twice."""
    challenge = f"<{secrets.token_hex(16)}.{int(time.time())}@{context.hostname}>"
    response = text_of((yield challenge.encode()))
    username, _, digest = response.rpartition(" ")
    if not username or not re.fullmatch(r"[0-9A-Fa-f]{32}", digest):
        raise ProtocolError("Malformed CRAM-MD5 response", 501, "5.5.2")
    return CramMD5Credentials(username, challenge, digest)


def _key_values(fields: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals or key in found:
            raise ProtocolError("Malformed OAuth response", 501, "5.5.2")
        found[key] = value
    return found


def _bearer(values: Mapping[str, str]) -> str:
    match = re.fullmatch(r"bearer +([A-Za-z0-9._~+/-]+=*) *", values.get("auth", ""), re.IGNORECASE | re.ASCII)
    if match is None:
        raise ProtocolError("Malformed OAuth response: no bearer token", 501, "5.5.2")
    return match[1]


def _xoauth2(context: SASLContext) -> Exchange:
    """user=... ^A auth=Bearer ... ^A ^A."""
    fields = text_of((yield b"")).split("\1")
    if len(fields) < 3 or fields[-2:] != ["", ""]:
        raise ProtocolError("Malformed XOAUTH2 response", 501, "5.5.2")
    values = _key_values(fields[:-2])
    if not values.get("user"):
        raise ProtocolError("Malformed XOAUTH2 response: no user", 501, "5.5.2")
    return OAuthCredentials("XOAUTH2", values["user"], _bearer(values))


def _oauthbearer(context: SASLContext) -> Exchange:
    """RFC 7628 section 3.1: gs2-header ^A *(key=value ^A) ^A."""
    header, *fields = text_of((yield b"")).split("\1")
    gs2 = re.fullmatch(r"[ny],(?:a=([^,]+))?,", header)
    if gs2 is None or len(fields) < 3 or fields[-2:] != ["", ""]:
        raise ProtocolError("Malformed OAUTHBEARER response", 501, "5.5.2")
    values = _key_values(fields[:-2])
    port = values.get("port")
    if port is not None and not re.fullmatch(r"[0-9]{1,5}", port):
        raise ProtocolError("Malformed OAUTHBEARER response: port", 501, "5.5.2")
    # A client without a token asks which one it needs (RFC 7628 section 4.3); the challenge of the refusal tells it.
    token = "" if values.get("auth") == "" else _bearer(values)
    username, host = saslname(gs2[1] or ""), values.get("host")
    return OAuthCredentials("OAUTHBEARER", username, token, host, int(port) if port else None)


def _external(context: SASLContext) -> Exchange:
    """RFC 4422 appendix A: the authorization identity, or nothing."""
    return ExternalCredentials(text_of((yield b"")))


def _has_certificate(context: SASLContext) -> bool:
    return context.peer_certificate is not None


def _has_channel_binding(context: SASLContext) -> bool:
    if context.server_certificate is None:
        return False
    from .channel_binding import channel_binding  # for -PLUS alone

    return channel_binding(context.server_certificate) is not None


def _scram(name: str) -> Mechanism:
    def start(context: SASLContext) -> Exchange:
        from .scram import scram  # for SCRAM alone

        return scram(name, context)

    return Mechanism(name, start, usable=_has_channel_binding) if name.endswith("-PLUS") else Mechanism(name, start)


#: The mechanisms known by name.
MECHANISMS: Mapping[str, Mechanism] = {
    mechanism.name: mechanism
    for mechanism in (
        Mechanism("PLAIN", _plain),
        Mechanism("LOGIN", _login),
        Mechanism("CRAM-MD5", _cram_md5, takes_initial_response=False),
        Mechanism("XOAUTH2", _xoauth2, oauth=True),
        Mechanism("OAUTHBEARER", _oauthbearer, oauth=True),
        Mechanism("EXTERNAL", _external, usable=_has_certificate),
        *(_scram(f"SCRAM-SHA-{bits}{plus}") for bits in (1, 256, 512) for plus in ("", "-PLUS")),
    )
}
