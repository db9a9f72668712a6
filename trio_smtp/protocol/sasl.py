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
from .exchange import AuthenticationFailed, Exchange, Mechanism, SASLContext, SecretNeeded, saslname, text_of

__all__ = [
    "MECHANISMS",
    "AuthenticationFailed",
    "Exchange",
    "Mechanism",
    "SASLContext",
    "SecretNeeded",
]


def _plain(context: SASLContext) -> Exchange:
    """RFC 4616: [authzid] NUL authcid NUL passwd, the last two never empty."""
    parts = (yield b"").split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise ProtocolError("Malformed PLAIN response", 501, "5.5.2")
    authzid, username, password = (text_of(part) for part in parts)
    return PlainCredentials("PLAIN", username, password, authzid or None)


def _login(context: SASLContext) -> Exchange:
    """Two questions, in the words that clients expect."""
    username = text_of((yield b"Username:"), "the user name")
    password = text_of((yield b"Password:"), "the password")
    if not username or not password:
        raise ProtocolError("The user name or the password is empty", 501, "5.5.2")
    return PlainCredentials("LOGIN", username, password)


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
    return ExternalCredentials(text_of((yield b"")) or None)


def _has_certificate(context: SASLContext) -> bool:
    return context.peer_certificate is not None


def _has_channel_binding(context: SASLContext) -> bool:
    if context.server_certificate is None:
        return False
    from .scram import channel_binding  # an extra

    return channel_binding(context.server_certificate) is not None


def _scram(name: str) -> Mechanism:
    def start(context: SASLContext) -> Exchange:
        from .scram import scram  # an extra

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
