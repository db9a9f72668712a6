"""The steps that a dialogue yields, which its driver performs.

The dialogue is a generator. It yields a step, is resumed when the step was performed, and reads the answer out of the
step's own slot; so `Generator[Step, None, T]` is fully typed, and the driver is a loop over steps. A driver that ends
early closes the generator: an exception of the driver's own is never thrown into it.

The octets of a message never pass through a step: while a `Message`, a `Chunk` or a `Drop` is performed, the driver
reads them from the dialogue's framer. What a driver has to do beside the steps: send the replies that wait before
handlers run when `Output.due` says so, and bound the octets that it throws away for a message by `discard_bound`.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, final

from trio_smtp.app.contexts import Context
from trio_smtp.app.hooks import CloseReason
from trio_smtp.app.session import Envelope, Session, TLSInfo
from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.credentials import ScramSecret
from trio_smtp.protocol.replies import Reply

__all__ = [
    "FLUSH",
    "NEED_LINE",
    "NEED_MORE",
    "SETTLE",
    "Ask",
    "BeginChunks",
    "Chunk",
    "Drop",
    "EndChunks",
    "EndSession",
    "Leave",
    "LookUp",
    "Message",
    "Pause",
    "ShakeHands",
    "Step",
    "Steps",
]

T = TypeVar("T")


class _Plain(enum.Enum):
    NEED_LINE = "NEED_LINE"
    NEED_MORE = "NEED_MORE"
    FLUSH = "FLUSH"
    SETTLE = "SETTLE"


#: A line is awaited: send the replies that wait, start the line's deadline, receive octets and feed them.
NEED_LINE: Final = _Plain.NEED_LINE
#: The line is not whole yet: receive and feed more, under the deadline that NEED_LINE started.
NEED_MORE: Final = _Plain.NEED_MORE
#: Replies must leave, because there are many or the session ends: send them, and let other connections have their turn.
FLUSH: Final = _Plain.FLUSH
#: A command was answered in a session that has `Hooks`: run `on_reply` for the replies that are held, then
#: `on_transaction_end` where a transaction has ended. The replies leave before that, or when there are many.
SETTLE: Final = _Plain.SETTLE


@final
class Ask:
    """Run the handlers of a phase, or of an extension's verb.

    Args:
        where: The phase or the verb, for the log.
        context: What the handlers are given.
        handlers: What runs them.

    Attributes:
        reply: The answer: the context's reply, or what the handlers' exception stands for.
    """

    __slots__ = ("context", "handlers", "reply", "where")
    reply: Reply

    def __init__(self, where: str, context: Context, handlers: Callable[[Any], Awaitable[object]]) -> None:
        self.where: str = where
        self.context: Context = context
        self.handlers: Callable[[Any], Awaitable[object]] = handlers


@final
class LookUp:
    """Look up the stored secret of a user, for SCRAM.

    Args:
        lookup: The program's function.
        username: Whose secret.
        session: For the function.

    Attributes:
        secret: The answer; None: there is no such user.
        refusal: The answer when the look-up refused, or crashed.
    """

    __slots__ = ("lookup", "refusal", "secret", "session", "username")

    def __init__(
        self, lookup: Callable[[str, Session], Awaitable[ScramSecret | None]], username: str, session: Session
    ) -> None:
        self.lookup: Callable[[str, Session], Awaitable[ScramSecret | None]] = lookup
        self.username: str = username
        self.session: Session = session
        self.secret: ScramSecret | None = None
        self.refusal: Reply | None = None


@final
class Pause:
    """Send the replies that wait, and let this client wait for so many seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds


@final
class ShakeHands:
    """Send the replies that wait, wrap the stream in TLS and shake hands.

    Attributes:
        info: The answer: what was agreed on.
    """

    __slots__ = ("info",)

    def __init__(self) -> None:
        self.info: TLSInfo | None = None


@final
class Message:
    """Take a message whose octets come without a command between them: DATA, or a BDAT that is first and last.

    Args:
        envelope: Its envelope.
        invited: None of it has come: the client awaits the 354, unless it does not keep to the protocol.

    Attributes:
        reply: The answer: what the client is told.
        accepted: The recipients as they were accepted: in LMTP each has a reply.
        recipients: In LMTP: the recipients whose reply a handler has set.
        octets: How many the message has.
        began: When the first of them was awaited, in seconds.
    """

    __slots__ = ("accepted", "began", "envelope", "invited", "octets", "recipients", "reply")
    accepted: Sequence[Address]
    recipients: Mapping[Address, Reply]
    octets: int
    began: float

    def __init__(self, envelope: Envelope, *, invited: bool) -> None:
        self.envelope: Envelope = envelope
        self.invited: bool = invited
        self.reply: Reply | None = None


@final
class BeginChunks:
    """A message begins that comes in chunks, with commands between them: the handlers run beside the dialogue.

    `EndChunks` follows, unless the session ends before: right behind a `Chunk` that was answered, or when the client
    gave the message up.
    """

    __slots__ = ("envelope",)

    def __init__(self, envelope: Envelope) -> None:
        self.envelope: Envelope = envelope


@final
class Chunk:
    """Take a chunk of that message.

    Args:
        last: It is the last one.

    Attributes:
        reply: The answer, when the message is over with this chunk: what the client is told. None: it goes on.
        accepted: As in `Message`.
        recipients: As in `Message`.
        octets: How many the message has, or had when it was refused.
        began: As in `Message`.
    """

    __slots__ = ("accepted", "began", "last", "octets", "recipients", "reply")
    accepted: Sequence[Address]
    recipients: Mapping[Address, Reply]
    octets: int
    began: float

    def __init__(self, *, last: bool) -> None:
        self.last: bool = last
        self.reply: Reply | None = None


@final
class Drop:
    """Read a chunk that is refused and drop its octets.

    Args:
        most: How many octets may come; more of them end the session.
    """

    __slots__ = ("most",)

    def __init__(self, most: float) -> None:
        self.most: float = most


@final
class EndChunks:
    """The message that came in chunks was answered, or the client gave it up (RSET, a HELO, QUIT).

    Args:
        reason: The session is over, and ends when the handlers have ended; None: it goes on.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: CloseReason | None = None) -> None:
        self.reason = reason


@final
class Leave:
    """The last reply was said: send it, wait until the client closes, for a moment, and close."""

    __slots__ = ("reason",)

    def __init__(self, reason: CloseReason) -> None:
        self.reason = reason


#: Four plain steps, and those that have slots for their answers.
Step = (
    Literal[_Plain.NEED_LINE, _Plain.NEED_MORE, _Plain.FLUSH, _Plain.SETTLE]
    | Ask
    | LookUp
    | Pause
    | ShakeHands
    | Message
    | BeginChunks
    | Chunk
    | Drop
    | EndChunks
    | Leave
)
#: A part of a dialogue: yields steps, returns what it was for.
Steps = Generator[Step, None, T]


class EndSession(Exception):
    """Ends the session from anywhere inside it.

    Args:
        reason: For `on_close` and the log.
        reply: The last words, or None.
    """

    def __init__(self, reason: CloseReason, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply
