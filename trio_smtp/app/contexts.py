"""What a handler is given: one context class for each phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NoReturn

import attrs

from trio_smtp.protocol.addresses import Address, rewritten
from trio_smtp.protocol.credentials import Credentials
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.values import ShowsFields

from .base import BaseApp
from .session import Envelope, Session

__all__ = [
    "AuthContext",
    "ConnectContext",
    "Context",
    "DataStartContext",
    "HeloContext",
    "MailFromContext",
    "RcptToContext",
    "SecureContext",
    "VerifyContext",
    "oauth_challenge_of",
]


@attrs.define(eq=False, repr=False)
class Context(ShowsFields):
    """What all contexts that can refuse have in common.

    Attributes:
        session: The client's session.
    """

    session: Session
    _reply: Reply

    _refusal: ClassVar[tuple[int, str]] = (550, "Refused")

    @property
    def app(self) -> BaseApp:
        """The App; ``app.state`` has what lifespans and handlers share."""
        return self.session.app

    @property
    def envelope(self) -> Envelope:
        """The envelope of the session's transaction; one without a sender when none is in progress."""
        return self.session.envelope

    @property
    def reply(self) -> Reply:
        """The positive reply that will be sent. Assign another of the same class (2xx or 3xx) to change it.

        A string that is assigned is the text of the reply that stands: its codes stay.

        Raises:
            ValueError: The new reply is of another class.
        """
        return self._reply

    @reply.setter
    def reply(self, reply: Reply | str) -> None:
        if isinstance(reply, str):
            reply = Reply(self._reply.code, reply, self._reply.enhanced)
        if reply.code // 100 != self.reply.code // 100:
            raise ValueError(f"reply: the class of {reply.code} must stay {self.reply.code // 100}; refuse by reject()")
        self._reply = reply

    def reject(
        self, message: str | Iterable[str] | None = None, code: int | None = None, *, enhanced: str | None = None
    ) -> NoReturn:
        """Refuse: the chain ends here and the client gets this reply.

        Args:
            message: A string, or several for a multi-line reply; cleaned before it leaves.
            code: 4xx or 5xx; None: the phase's own. 421 and 521 close the connection after the reply.
            enhanced: The enhanced status code; None: the usual one for the code.

        Raises:
            SMTPError: Always; let it pass.
            ValueError: The code is not 4xx or 5xx, or the enhanced code does not fit it.
        """
        default_code, default_message = self._refusal
        raise SMTPError(
            default_message if message is None else message, default_code if code is None else code, enhanced
        )

    def disconnect(
        self, message: str | Iterable[str] = "Closing connection", code: int = 421, *, enhanced: str | None = None
    ) -> NoReturn:
        """Refuse and close the connection.

        Args:
            message: The text for the client.
            code: 421 or 521.
            enhanced: The enhanced status code; None: the usual one for the code.

        Raises:
            SMTPError: Always; let it pass.
            ValueError: The code is neither 421 nor 521.
        """
        if code not in (421, 521):
            raise ValueError(f"code must be 421 or 521 (they close the connection), not {code}")
        raise SMTPError(message, code, enhanced)

    async def flush(self) -> None:
        """Send the replies that wait: those to commands which the client has sent together with this one.

        The server keeps them for a moment, so that they leave together. A handler that waits for long, or calls
        `abort`, and wants the client to have them, flushes first. The handlers' time begins anew.
        """
        await self.session._flush()  # noqa: SLF001 - for contexts alone

    def abort(self, *, reset: bool = True) -> NoReturn:
        """End the connection without a word: replies that were not sent yet are dropped.

        Whatever else the connection does ends at once, the reading of a message as well.

        Args:
            reset: The client's system sees a reset; otherwise the end of the connection. Where the connection is no
                socket of the server's own, its stream is closed forcefully.

        Raises:
            Aborted: Always; let it pass. The connection ends also when it is swallowed.
        """
        self.session._abort(reset=reset)  # noqa: SLF001 - for contexts alone


# Contexts without fields of their own are plain subclasses: they inherit what attrs generated for Context, and
# generating a class costs a measurable part of a millisecond at import.
class ConnectContext(Context):
    """A client connected; the 220 greeting was not sent yet."""

    __slots__ = ()


class SecureContext(Context):
    """A TLS handshake was completed; ``session.tls`` says what was agreed on."""

    __slots__ = ()

    _refusal: ClassVar[tuple[int, str]] = (550, "TLS session refused")


@attrs.define(eq=False, repr=False)
class HeloContext(Context):
    """HELO, EHLO or LHLO.

    Attributes:
        domain: What the client calls itself.
        extensions: The EHLO keyword lines, editable; empty for HELO.
    """

    domain: str
    extensions: list[str]

    @property
    def reply(self) -> Reply:
        """The positive reply: the greeting line and a line for each extension. A string replaces the greeting line."""
        return Reply(self._reply.code, (*self._reply.lines, *self.extensions))

    @reply.setter
    def reply(self, reply: Reply | str) -> None:
        if isinstance(reply, str):
            reply = Reply(self._reply.code, (reply, *self.extensions), self._reply.enhanced)
        if reply.code // 100 != 2:
            raise ValueError(f"reply: the class of {reply.code} must stay 2; refuse by reject()")
        self._reply = Reply(reply.code, reply.lines[:1], reply.enhanced)
        self.extensions[:] = reply.lines[1:]


@attrs.define(eq=False, repr=False)
class AuthContext(Context):
    """The SASL exchange is complete; unless a handler calls `accept`, the client gets 535.

    Attributes:
        credentials: What the client presented.
        accepted: Whether `accept` was called.
        user: What `accept` was called with.
        authzid: The authorization identity that `accept` was called with.
    """

    credentials: Credentials
    accepted: bool = False
    user: object = None
    authzid: str = ""
    _challenge: Mapping[str, str] | None = None

    _refusal: ClassVar[tuple[int, str]] = (535, "Authentication credentials invalid")

    def challenge(self, error: Mapping[str, str]) -> None:
        """Set the JSON of the error challenge that goes before the refusal of an OAuth token.

        Args:
            error: Such as ``{"status": "401", "schemes": "bearer", "scope": "mail"}``.

        Raises:
            TypeError: Keys and values must be strings.

        RFC: RFC 7628 section 3.2.2.
        """
        if not all(isinstance(text, str) for pair in error.items() for text in pair):
            raise TypeError(f"error must map strings to strings, not {error!r}")
        self._challenge = dict(error)

    def accept(self, user: object = None, *, authzid: str = "") -> None:
        """Let the client in.

        A client may ask to act as somebody else: ``credentials.authzid`` is that authorization identity, and ``""``
        where the client named none, or the user's own name. When it names another one, the client gets 535 unless it
        is given here. EXTERNAL has no other user name: there it may also be the `user`.

        Args:
            user: Kept in ``session.user``; None is legal (``session.authenticated`` tells).
            authzid: ``credentials.authzid``, when the user may act as that identity.
        """
        self.accepted = True
        self.user = user
        self.authzid = authzid


@attrs.define(eq=False, repr=False)
class MailFromContext(Context):
    """MAIL.

    Attributes:
        address: The sender; ``address.address == ""`` is the null sender.
    """

    _address: Address

    _refusal: ClassVar[tuple[int, str]] = (550, "Sender refused")

    @property
    def address(self) -> Address:
        """The sender. Assign another, made by `Address.parse`, to rewrite it.

        A copy of what is assigned takes the place in the envelope at once: it has the parameters and the ``data`` of
        the address that was sent, which is its ``original``.

        Raises:
            TypeError: What is assigned is no address.
        """
        return self._address

    @address.setter
    def address(self, address: Address) -> None:
        self._address = self.envelope.mail_from = rewritten(self._address, address)


@attrs.define(eq=False, repr=False)
class RcptToContext(Context):
    """RCPT.

    Attributes:
        address: The recipient; it is in ``session.envelope.rcpt_to`` only after the whole chain has returned.
    """

    _address: Address

    _refusal: ClassVar[tuple[int, str]] = (550, "Recipient refused")

    @property
    def address(self) -> Address:
        """The recipient. Assign another, made by `Address.parse`, to rewrite it.

        A copy of what is assigned comes into the envelope: it has the parameters and the ``data`` of the address that
        was sent, which is its ``original``.

        Raises:
            TypeError: What is assigned is no address.
            ValueError: It is the null sender, which receives nothing.
        """
        return self._address

    @address.setter
    def address(self, address: Address) -> None:
        address = rewritten(self._address, address)
        if not address.address:
            raise ValueError("address: the null sender cannot be a recipient")
        self._address = address


class DataStartContext(Context):
    """DATA, before 354."""

    __slots__ = ()

    _refusal: ClassVar[tuple[int, str]] = (554, "Transaction refused")


@attrs.define(eq=False, repr=False)
class VerifyContext(Context):
    """VRFY or EXPN.

    Attributes:
        argument: The user name, mailbox or list asked for.
    """

    argument: str

    _refusal: ClassVar[tuple[int, str]] = (550, "Not known here")


def oauth_challenge_of(context: AuthContext) -> Mapping[str, str]:
    """The error challenge that an OAuth client gets before it is refused."""
    return context._challenge or {"status": "401", "schemes": "bearer"}  # noqa: SLF001 - handlers set it, and need not read it
