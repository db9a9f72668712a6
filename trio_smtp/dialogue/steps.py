"""What a dialogue asks of the one that drives it.

The dialogue is a generator. It yields a step, is resumed when the step was performed, and reads the answer out of the
step's own slot; so `Generator[Step, None, T]` is fully typed, and the driver is a loop over steps. A driver that ends
early closes the generator: an exception of the driver's own is never thrown into it.

A message lends the driver the dialogue's framer: its octets never pass through a step.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Final, Literal, TypeVar, final

from trio_smtp.app.contexts import CloseReason, Context
from trio_smtp.app.session import Envelope, Session, TLSInfo
from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.credentials import ScramSecret
from trio_smtp.protocol.replies import Reply

__all__ = [
    "FLUSH",
    "NEED_LINE",
    "NEED_MORE",
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
    "Verdict",
]

T = TypeVar("T")


class _Plain(enum.Enum):
    NEED_LINE = "NEED_LINE"
    NEED_MORE = "NEED_MORE"
    FLUSH = "FLUSH"


#: A line is awaited: send the replies that wait, start the line's deadline, receive octets and feed them.
NEED_LINE: Final = _Plain.NEED_LINE
#: The line is not whole yet: receive and feed more, under the deadline that NEED_LINE started.
NEED_MORE: Final = _Plain.NEED_MORE
#: Replies must leave, because there are many or the session ends: send them, and let other connections have their turn.
FLUSH: Final = _Plain.FLUSH


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

    def __init__(self, where: str, context: Context, handlers: Callable[[Any], Awaitable[None]]) -> None:
        self.where = where
        self.context = context
        self.handlers = handlers
        self.reply: Reply = context.reply


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
        self.lookup = lookup
        self.username = username
        self.session = session
        self.secret: ScramSecret | None = None
        self.refusal: Reply | None = None


@final
class Pause:
    """Send the replies that wait, and let this client wait for so many seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


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
class Verdict:
    """How a message ended, or its refusal before its end.

    Attributes:
        reply: What the client is told.
        recipients: In LMTP: the recipients whose reply a handler has set.
        octets: How many the message has, or had when it was refused.
        began: When the first of them was awaited, in seconds.
    """

    __slots__ = ("began", "octets", "recipients", "reply")

    def __init__(self, reply: Reply, recipients: Mapping[Address, Reply], octets: int, began: float) -> None:
        self.reply = reply
        self.recipients = recipients
        self.octets = octets
        self.began = began


@final
class Message:
    """Take a message whose octets come without a command between them: DATA, or a BDAT that is first and last.

    Args:
        envelope: Its envelope.

    Attributes:
        verdict: The answer.
    """

    __slots__ = ("envelope", "verdict")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.verdict: Verdict | None = None


@final
class BeginChunks:
    """A message begins that comes in chunks, with commands between them: the handlers run beside the dialogue.

    `EndChunks` follows, unless the session ends before.
    """

    __slots__ = ("envelope",)

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope


@final
class Chunk:
    """Take a chunk of that message.

    Args:
        last: It is the last one.

    Attributes:
        verdict: The answer; None: the chunk was taken and the message goes on.
    """

    __slots__ = ("last", "verdict")

    def __init__(self, *, last: bool) -> None:
        self.last = last
        self.verdict: Verdict | None = None


@final
class Drop:
    """Read a chunk that is refused and drop its octets.

    Args:
        most: How many octets may come; more of them end the session.
    """

    __slots__ = ("most",)

    def __init__(self, most: float) -> None:
        self.most = most


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


#: Three plain steps, and those that have slots for their answers.
Step = (
    Literal[_Plain.NEED_LINE, _Plain.NEED_MORE, _Plain.FLUSH]
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
