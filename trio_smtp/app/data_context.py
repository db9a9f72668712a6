"""What an `on_data` handler is given: the message, its envelope, and what may be done with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import attrs

from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.replies import Reply

from .body import Body
from .config import Config
from .contexts import Context
from .delivering import watched
from .message import MessageStream
from .session import Envelope

if TYPE_CHECKING:
    from .spool import SpooledMessage
    from .spooling import Spooling

__all__ = ["DataContext"]


@attrs.define(eq=False, repr=False)
class DataContext(Context):
    """The message.

    Attributes:
        stream: The body, to be read once; another stream after `add_field` and `spool`.
        envelope: The transaction's envelope, also when the client has given the message up and the session has another.
        recipients: The recipients as they were accepted, whatever handlers have made of ``envelope.rcpt_to``.
    """

    stream: MessageStream
    envelope: Envelope
    _config: Config
    _body: Body
    _spooling: Spooling | None = None
    _refused: dict[Address, Reply] = attrs.field(factory=dict)
    recipients: tuple[Address, ...] = attrs.field(init=False)

    _refusal: ClassVar[tuple[int, str]] = (552, "Message refused")

    def __attrs_post_init__(self) -> None:
        self.recipients = tuple(self.envelope.rcpt_to)

    @property
    def size_exceeded(self) -> bool:
        """The message has more than ``max_message_size`` octets."""
        return self.stream.size_exceeded

    async def flush(self) -> None:
        """Do nothing: the replies to all that came before the message were sent when it began."""

    def delivering(self, target: str) -> AbstractContextManager[None]:
        """What handing the message to a target is done in, so that metrics and traces have it.

        Args:
            target: Names the kind of target, such as ``"maildir"``: never an address or another text of a client's.

        Returns:
            A context manager. What is raised inside comes out: an `SMTPError` says that the target refuses the message.

        Raises:
            ValueError: The name has other characters than a-z, 0-9 and _, or more than 32.

        Example:
            >>> with ctx.delivering("database"):
            ...     await store(await ctx.stream.read())
        """
        return watched(self.app.delivery_watchers, self.session, target)

    def reject_recipient(
        self, recipient: Address, message: str | Iterable[str], code: int = 550, *, enhanced: str | None = None
    ) -> None:
        """Refuse the message for one of its recipients and not for the others (LMTP only).

        Args:
            recipient: The object out of `recipients`, whether it is still in ``envelope.rcpt_to`` or not.
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
        if recipient not in self.recipients:
            raise ValueError(f"recipient must be one of ctx.recipients, not {recipient!r}")
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

        return received_header(self.session, self.envelope, self._config.hostname)

    def add_field(self, name: str, value: str) -> None:
        """Put a header field in front of the message, for every handler that reads after this one, and for deliveries.

        The field that was added last stands first. When the message does not begin with a header field or an empty
        line, an empty line follows the fields that were added.

        Args:
            name: Printable ASCII without a colon.
            value: Line ends and control characters become blanks; it is folded and encoded.

        Raises:
            ValueError: The name is not that of a field.
            RuntimeError: Reading has begun.

        RFC: RFC 5322 section 2.2.3 (folding), RFC 2047 (what is not ASCII, unless the client said SMTPUTF8).
        """
        self.stream = self._spool().add_field(name, value)

    async def spool(self) -> SpooledMessage:
        """Read the whole message, so that it can be read more than once, and changed; `stream` replays it as edited.

        Spooling is not taking: the message is accepted only when a handler reads ``stream`` to its end or discards it.

        Returns:
            The message; the same object each time. When the stream was begun, ``stream`` is a fresh one.

        Raises:
            StreamConsumed: Reading began before the message was spooled.
            MessageTooLarge: More octets than allowed.
            MessageMalformed: The body broke a rule, or the header section has more than 1,048,576 octets.
            MessageIncomplete: The client did not finish.
            SMTPError: The disk is full (452 4.3.1), or cannot be written (451 4.3.0).
            trio.ClosedResourceError: The stream was closed.

        Cancellation: the rest of the message is lost, and another `spool` raises `StreamConsumed`.

        Resource handling: in memory up to ``Config.spool_memory`` octets, with more in an unnamed temporary file in
        ``Config.spool_directory``; given back at the end of the transaction.
        """
        spooling = self._spool()
        message = await spooling.spool()
        self.stream = spooling.stream
        return message

    def _spool(self) -> Spooling:
        if self._spooling is None:
            from .spooling import Spooling  # which not every server needs

            self._spooling = Spooling(
                self.stream, self._body, self._config, self.session.id, utf8=self.envelope.smtp_utf8
            )
        return self._spooling
