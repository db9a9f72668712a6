"""What a SASL mechanism is (RFC 4422), as AUTH uses it (RFC 4954).

A mechanism's exchange is a generator. It yields a challenge, is sent the client's decoded response, and returns the
credentials. It never waits, and base64 and reply codes are the caller's business. A client that gives an initial
response (RFC 4954 section 4) is not sent the first challenge, so the exchange must not depend on its having been read.
A mechanism that needs a user's stored secret yields a `SecretNeeded`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import attrs

from .credentials import Credentials
from .errors import ProtocolError, SMTPError
from .values import ShowsFields

__all__ = [
    "AuthenticationFailed",
    "Exchange",
    "Mechanism",
    "SASLContext",
    "SecretNeeded",
    "other_identity",
    "saslname",
    "text_of",
]


class AuthenticationFailed(SMTPError):
    """The mechanism found the proof wrong: 535 5.7.8 without asking a handler."""

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
        username: The user's name.
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
        oauth: A refusal is explained in a challenge before its reply (RFC 7628 section 3.2.2).

    Raises:
        ValueError: The name is not allowed.
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


def saslname(value: str) -> str:
    """Decode a saslname (RFC 5801 section 4).

    Raises:
        ProtocolError: 501 5.5.2: the name is malformed.
    """
    if re.search(r"=(?!2C|3D)", value):
        raise ProtocolError("Malformed name", 501, "5.5.2")
    return value.replace("=2C", ",").replace("=3D", "=")


def other_identity(authzid: str, username: str) -> str:
    """The authorization identity where it is another one than the user's own name; ``""`` otherwise."""
    return "" if authzid == username else authzid


def text_of(value: bytes, what: str = "the response") -> str:
    """Decode a response.

    Raises:
        ProtocolError: 501 5.5.2: the response is not UTF-8, or has a NUL in it.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"{what} is not UTF-8", 501, "5.5.2") from None
    if "\0" in text:
        raise ProtocolError(f"NUL in {what}", 501, "5.5.2")
    return text
