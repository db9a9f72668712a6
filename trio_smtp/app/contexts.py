"""What a handler is given: one context class for each phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, NoReturn

import attrs

from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.credentials import Credentials
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.values import ShowsFields

from .base import BaseApp
from .message import MessageStream
from .session import Envelope, Session

__all__ = [
    "AuthContext",
    "CloseContext",
    "CloseReason",
    "CommandContext",
    "ConnectContext",
    "Context",
    "DataContext",
    "DataStartContext",
    "HeloContext",
    "MailFromContext",
    "RcptToContext",
    "SecureContext",
    "VerifyContext",
]

#: Why a session ended.
CloseReason = Literal["quit", "lost", "timeout", "drained", "refused", "abuse", "tls", "error", "cancelled"]


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

        Raises:
            ValueError: The new reply is of another class.
        """
        return self._reply

    @reply.setter
    def reply(self, reply: Reply) -> None:
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
        """The positive reply: the greeting line and a line for each extension."""
        return Reply(self._reply.code, (*self._reply.lines, *self.extensions))

    @reply.setter
    def reply(self, reply: Reply) -> None:
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
    """

    credentials: Credentials
    accepted: bool = False
    user: object = None
    _challenge: Mapping[str, str] | None = None

    _refusal: ClassVar[tuple[int, str]] = (535, "Authentication credentials invalid")

    @property
    def oauth_challenge(self) -> Mapping[str, str]:
        """The error challenge that an OAuth client gets before it is refused."""
        return self._challenge or {"status": "401", "schemes": "bearer"}

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

    def accept(self, user: object = None) -> None:
        """Let the client in.

        Args:
            user: Kept in ``session.user``; None is legal (``session.authenticated`` tells).
        """
        self.accepted = True
        self.user = user


@attrs.define(eq=False, repr=False)
class MailFromContext(Context):
    """MAIL.

    Attributes:
        address: The sender; ``address.address == ""`` is the null sender.
    """

    address: Address

    _refusal: ClassVar[tuple[int, str]] = (550, "Sender refused")


@attrs.define(eq=False, repr=False)
class RcptToContext(Context):
    """RCPT.

    Attributes:
        address: The recipient; it is in ``session.envelope.rcpt_to`` only after the whole chain has returned.
    """

    address: Address

    _refusal: ClassVar[tuple[int, str]] = (550, "Recipient refused")


class DataStartContext(Context):
    """DATA, before 354."""

    __slots__ = ()

    _refusal: ClassVar[tuple[int, str]] = (554, "Transaction refused")


@attrs.define(eq=False, repr=False)
class DataContext(Context):
    """The message.

    Attributes:
        stream: The body, to be read once.
        envelope: The transaction's envelope, also when the client has given the message up and the session has another.
    """

    stream: MessageStream
    envelope: Envelope
    _hostname: str
    _refused: dict[Address, Reply] = attrs.field(factory=dict)

    _refusal: ClassVar[tuple[int, str]] = (552, "Message refused")

    @property
    def size_exceeded(self) -> bool:
        """The message has more than ``max_message_size`` octets."""
        return self.stream.size_exceeded

    def reject_recipient(
        self, recipient: Address, message: str | Iterable[str], code: int = 550, *, enhanced: str | None = None
    ) -> None:
        """Refuse the message for one of its recipients and not for the others (LMTP only).

        Args:
            recipient: The object out of ``envelope.rcpt_to``.
            message: The text of that recipient's reply.
            code: 4xx or 5xx.
            enhanced: The enhanced status code; None: the usual one for the code.

        Raises:
            RuntimeError: The session speaks SMTP, which has one reply for all recipients.
            ValueError: Not a recipient of this message, or the code is not 4xx or 5xx.

        RFC: RFC 2033 section 4.2.
        """
        if not self.session.lmtp:
            raise RuntimeError("reject_recipient needs LMTP: SMTP has one reply to a message for all its recipients")
        if recipient not in self.envelope.rcpt_to:
            raise ValueError(f"recipient must be one of envelope.rcpt_to, not {recipient!r}")
        self._refused[recipient] = SMTPError(message, code, enhanced).reply

    @property
    def recipient_replies(self) -> Mapping[Address, Reply]:
        """What `reject_recipient` has set."""
        return self._refused

    def received_header(self) -> bytes:
        """The Received header field for this message, CRLF included, folded.

        If the message begins with a space or a tab, put an empty line between this field and the message: the message
        would continue the field otherwise.

        RFC: RFC 5321 section 4.4, RFC 3848, RFC 6531 section 4.3, RFC 8314 section 4.3 (the tls clause).
        """
        from .received import received_header  # loads date formatting, which not every server needs

        return received_header(self.session, self.envelope, self._hostname)


@attrs.define(eq=False, repr=False)
class VerifyContext(Context):
    """VRFY or EXPN.

    Attributes:
        argument: The user name, mailbox or list asked for.
    """

    argument: str

    _refusal: ClassVar[tuple[int, str]] = (550, "Not known here")


@attrs.define(eq=False, repr=False)
class CommandContext(Context):
    """A command whose verb an `Extension` has added.

    Attributes:
        verb: The verb, upper case.
        argument: What follows the verb.
    """

    verb: str
    argument: str


@attrs.frozen(eq=False, repr=False)
class CloseContext(ShowsFields):
    """The session has ended; no reply can be sent any more.

    Attributes:
        session: The client's session.
        reason: Why it ended.
    """

    session: Session
    reason: CloseReason

    @property
    def app(self) -> BaseApp:
        """The App; ``app.state`` has what lifespans and handlers share."""
        return self.session.app

    @property
    def envelope(self) -> Envelope:
        """The session's envelope at its end: that of a transaction which was broken off, or one without a sender."""
        return self.session.envelope
