"""The AUTH mechanisms (RFC 4954) as step objects.

A mechanism's exchange is a generator. It yields a challenge, is sent the client's decoded response, and returns the
credentials; nothing here waits for anything, and nothing here knows base64 or reply codes. An initial response
(RFC 4954 section 4) answers the first challenge before it is sent, so the first challenge of a mechanism that
takes one does not matter to it. A mechanism that must look something up yields a `SecretNeeded`.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import attrs

from .credentials import (
    CramMD5Credentials,
    Credentials,
    ExternalCredentials,
    OAuthCredentials,
    PlainCredentials,
)
from .errors import ProtocolError, SMTPError
from .values import ShowsFields

__all__ = [
    "MECHANISMS",
    "AuthenticationFailed",
    "Exchange",
    "Mechanism",
    "SASLContext",
    "SecretNeeded",
]


class AuthenticationFailed(SMTPError):
    """The mechanism itself found the proof wrong: 535 5.7.8, and no handler is asked."""

    def __init__(self) -> None:
        super().__init__("Authentication credentials invalid", 535, "5.7.8")


@attrs.frozen(repr=False)
class SASLContext(ShowsFields):
    """What a mechanism may know of the session.

    Attributes:
        hostname: The server's name.
        peer_certificate: The client's TLS certificate (DER), or None.
        server_certificate: Our TLS certificate (DER) where it is known, for channel binding, or None.
        plus: The ``-PLUS`` variant of the mechanism is offered too.
    """

    hostname: str = "localhost"
    peer_certificate: bytes | None = None
    server_certificate: bytes | None = None
    plus: bool = False


@attrs.frozen(repr=False)
class SecretNeeded(ShowsFields):
    """Yielded to have the stored secret of a user looked up; the ScramSecret or None is sent back.

    Attributes:
        username: Whose.
    """

    username: str


#: Yields challenges (or a SecretNeeded), is sent responses (or the secret), returns the credentials.
Exchange = Generator[bytes | SecretNeeded, Any, Credentials]


def _always(context: SASLContext) -> bool:
    return True


@attrs.frozen(repr=False)
class Mechanism(ShowsFields):
    """One SASL mechanism; make one to have a mechanism of your own in ``Config(auth_mechanisms=...)``.

    Args:
        name: As EHLO shows it: upper-case letters, digits, hyphens and underscores, at most 20 (RFC 4422 section 3.1).
        start: Begins an exchange.
        takes_initial_response: The client may speak first (RFC 4954 section 4).
        usable: Whether a session may use it now.
        oauth: Refusals are told in a challenge first (RFC 7628 section 3.2.2).

    Raises:
        ValueError: The name is not one.
    """

    name: str = attrs.field()
    start: Callable[[SASLContext], Exchange]
    takes_initial_response: bool = True
    usable: Callable[[SASLContext], bool] = _always
    oauth: bool = False

    @name.validator
    def _check_name(self, attribute: attrs.Attribute[str], value: str) -> None:
        if not re.fullmatch(r"[A-Z0-9_-]{1,20}", value):
            raise ValueError(f"name must be 1 to 20 upper-case letters, digits, - and _, not {value!r}")


def text_of(value: bytes, what: str = "the response") -> str:
    """Decode a response.

    Raises:
        ProtocolError: 501 5.5.2: not UTF-8, or NUL in it.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"{what} is not UTF-8", 501, "5.5.2") from None
    if "\0" in text:
        raise ProtocolError(f"NUL in {what}", 501, "5.5.2")
    return text


def _plain(context: SASLContext) -> Exchange:
    """RFC 4616: [authzid] NUL authcid NUL passwd, the last two never empty."""
    parts = (yield b"").split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise ProtocolError("Malformed PLAIN response", 501, "5.5.2")
    authzid, username, password = (text_of(part) for part in parts)
    return PlainCredentials("PLAIN", username, password, authzid or None)


def _login(context: SASLContext) -> Exchange:
    """Two questions; clients know them by heart, so they are asked in the words everybody asks them."""
    username = text_of((yield b"Username:"), "the user name")
    password = text_of((yield b"Password:"), "the password")
    if not username or not password:
        raise ProtocolError("The user name or the password is empty", 501, "5.5.2")
    return PlainCredentials("LOGIN", username, password)


def _cram_md5(context: SASLContext) -> Exchange:
    """RFC 2195: the digest of a challenge that was never used before."""
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


def saslname(value: str) -> str:
    """Decode a saslname (RFC 5801 section 4).

    Raises:
        ProtocolError: 501 5.5.2.
    """
    if re.search(r"=(?!2C|3D)", value):
        raise ProtocolError("Malformed name", 501, "5.5.2")
    return value.replace("=2C", ",").replace("=3D", "=")


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
    # Without a token the client asks what it needs one for (RFC 7628 section 4.3); the refusal's challenge says that.
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

    return Mechanism(name, start, usable=_has_channel_binding if name.endswith("-PLUS") else _always)


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
