"""The AUTH mechanisms (RFC 4954) as step objects, and the credentials they yield.

A mechanism is a generator function. It yields a challenge, is sent the client's decoded response, and returns the
credentials; nothing here waits for anything, and nothing here knows base64 or reply codes. An initial response
(RFC 4954 section 4) answers the first challenge before it is sent, so the first challenge of a mechanism that
takes one does not matter to it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Generator, Mapping

import attrs

from .errors import ProtocolError

__all__ = ["MECHANISMS", "Credentials", "Exchange", "Mechanism", "PlainCredentials"]


@attrs.frozen
class PlainCredentials:
    """A user name and a password, from PLAIN or LOGIN.

    Attributes:
        method: ``"PLAIN"`` or ``"LOGIN"``.
        username: The authentication identity.
        password: The password; not in the repr.
        authzid: The identity to act as, when PLAIN names one that is not empty; None otherwise.

    RFC: RFC 4616; draft-murchison-sasl-login.
    """

    method: str
    username: str
    password: str = attrs.field(repr=False)
    authzid: str | None = None

    def validate_password(self, password: str) -> bool:
        """Whether the client knows this password, compared in constant time."""
        return hmac.compare_digest(self.password.encode(), password.encode())


#: What `AuthContext.credentials` may be.
Credentials = PlainCredentials

#: Yields challenges, is sent responses, returns the credentials.
Exchange = Generator[bytes, bytes, Credentials]


@attrs.frozen
class Mechanism:
    """One SASL mechanism.

    Args:
        name: As EHLO shows it, upper case.
        start: Begins an exchange.
        takes_initial_response: The client may speak first (RFC 4954 section 4).
    """

    name: str
    start: Callable[[], Exchange]
    takes_initial_response: bool = True


def _text(value: bytes, what: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"{what} is not UTF-8", 501, "5.5.2") from None
    if "\0" in text:
        raise ProtocolError(f"NUL in {what}", 501, "5.5.2")
    return text


def _plain() -> Exchange:
    """RFC 4616: [authzid] NUL authcid NUL passwd."""
    parts = (yield b"").split(b"\0")
    if len(parts) != 3 or not parts[1]:
        raise ProtocolError("Malformed PLAIN response", 501, "5.5.2")
    authzid, username, password = (_text(part, "the response") for part in parts)
    return PlainCredentials("PLAIN", username, password, authzid or None)


def _login() -> Exchange:
    """Two questions; clients know them by heart, so they are asked in the words everybody asks them."""
    username = _text((yield b"Username:"), "the user name")
    password = _text((yield b"Password:"), "the password")
    if not username:
        raise ProtocolError("The user name is empty", 501, "5.5.2")
    return PlainCredentials("LOGIN", username, password)


#: The mechanisms known by name.
MECHANISMS: Mapping[str, Mechanism] = {
    mechanism.name: mechanism
    for mechanism in (
        Mechanism("PLAIN", _plain),
        Mechanism("LOGIN", _login),
    )
}
