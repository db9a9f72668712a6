"""The clock of one connection: what is awaited, until when, and who ended the connection.

One cancel scope ends everything that a connection does. Whoever cancels it, or gives it a deadline, names the `Cause`.

What is awaited changes with nearly every command, and moving a cancel scope's deadline costs more than most commands
do. So `arm` only notes until when something is awaited, and the server's `Watch` looks at all connections at short
intervals. The ends that seldom move (of the session, of a drain, of handlers beside a reader) are deadlines of the
scope.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from types import TracebackType
from typing import Final, final

import trio

__all__ = [
    "BODY",
    "COMMAND",
    "EARLY_TALK",
    "FIRST_HANDSHAKE",
    "HANDLERS",
    "HANDSHAKE",
    "LINGER",
    "PAUSE",
    "PROXY_HEADER",
    "SEND",
    "Activity",
    "Cause",
    "Clock",
    "Reader",
]

#: The least time that handlers are given, in seconds, when theirs is used up.
_LAST_CHANCE = 0.001


class Cause(enum.Enum):
    """Why a connection was cancelled."""

    #: The client was silent.
    SILENCE = enum.auto()
    #: `session_timeout` was over.
    SESSION_OVER = enum.auto()
    #: Handlers had used up their time.
    SLOW_HANDLERS = enum.auto()
    #: The client did not read its replies, or did not send its PROXY header.
    STUCK = enum.auto()
    #: The TLS handshake did not end in time.
    NO_HANDSHAKE = enum.auto()
    #: The server drains.
    DRAIN = enum.auto()
    #: The session was over, and the client did not close its end in time.
    LINGERED = enum.auto()
    #: A handler aborted the connection.
    ABORTED = enum.auto()


@final
class Activity:
    """What is awaited.

    Attributes:
        overdue: The cause when its time is over.
        silent: The client cannot be told why the connection ends: a reply or a handshake is under way.
        idle: A drain may end the connection at once, unless a transaction is in flight.
    """

    __slots__ = ("idle", "overdue", "silent")

    def __init__(self, overdue: Cause, *, silent: bool = False, idle: bool = False) -> None:
        self.overdue: Cause = overdue
        self.silent: bool = silent
        self.idle: bool = idle


#: A command line.
COMMAND: Final = Activity(Cause.SILENCE, idle=True)
#: More of a message.
BODY: Final = Activity(Cause.SILENCE)
#: The end of a pause that the client is made to wait, or a DNS look-up.
PAUSE: Final = Activity(Cause.SILENCE)
#: The end of the pause before the greeting, in which a client must not talk.
EARLY_TALK: Final = Activity(Cause.SILENCE, idle=True)
#: Handlers.
HANDLERS: Final = Activity(Cause.SLOW_HANDLERS)
#: The client's reading of replies.
SEND: Final = Activity(Cause.STUCK, silent=True)
#: The PROXY header.
PROXY_HEADER: Final = Activity(Cause.STUCK, silent=True)
#: The TLS handshake after STARTTLS.
HANDSHAKE: Final = Activity(Cause.NO_HANDSHAKE, silent=True)
#: The TLS handshake with which a connection begins.
FIRST_HANDSHAKE: Final = Activity(Cause.NO_HANDSHAKE, silent=True, idle=True)
#: The end of the client's side, after the last reply.
LINGER: Final = Activity(Cause.LINGERED, silent=True)


@final
class Clock:
    """Time, and the end, of one connection.

    Args:
        now: The clock, in seconds: a method of the run's clock, which takes a third of `trio.current_time`'s time.
        end: When the session ends at the latest.

    Attributes:
        now: As given.
        activity: What is awaited.
        scope: What is cancelled: everything that the connection does, or its reader while handlers run beside it.
        aborted: A handler has aborted the connection: True: by a reset; None: none has.
    """

    __slots__ = (
        "_cause",
        "_deadline_cause",
        "_draining",
        "_end",
        "_expires",
        "_whole",
        "aborted",
        "activity",
        "now",
        "scope",
    )

    def __init__(self, now: Callable[[], float], end: float) -> None:
        self.now: Callable[[], float] = now
        self.activity: Activity = PAUSE  # until the connection's task has begun
        self._end = end
        self._expires = math.inf
        self._draining = False
        self.aborted: bool | None = None
        # Named by what cancelled the scope, and by what gave the whole scope its deadline.
        self._cause: Cause | None = None
        self._deadline_cause = Cause.SESSION_OVER
        self._whole = trio.CancelScope(deadline=end)
        self.scope: trio.CancelScope = self._whole

    @property
    def cause(self) -> Cause:
        """Why the scope was cancelled, as the client is told.

        Handlers may take long to end when they are cancelled. A drain that comes meanwhile is the cause then, and so is
        the session's end where handlers had used up their time.
        """
        if self.aborted is not None:
            return Cause.ABORTED
        cause = self._cause or self._deadline_cause
        if cause is Cause.LINGERED:
            return cause
        if self._draining:
            return Cause.DRAIN
        if cause is Cause.SLOW_HANDLERS and self.now() >= self._end:
            return Cause.SESSION_OVER
        return cause

    def arm(self, activity: Activity, seconds: float) -> float:
        """Something is awaited from now on, for so many seconds at most; returns the time."""
        self.activity = activity
        now = self.now()
        self._expires = now + seconds
        return now

    def disarm(self) -> None:
        """Nothing has a deadline but the session."""
        self._expires = math.inf

    def resume(self, activity: Activity) -> None:
        """What a send has interrupted is awaited again."""
        self.activity = activity

    def expire(self, now: float) -> None:
        """Cancel when the time of what is awaited is over; called by the watch.

        When the session is over too, that is the cause, as if its deadline had been found first.
        """
        if self._expires <= now:
            self._cancel(self.activity.overdue if now < self._end else self._deadline_cause)

    def give_up_sending(self) -> None:
        """Cancel: the client does not read its replies, whatever else is awaited."""
        self.activity = SEND
        self._cancel(SEND.overdue)

    def _cancel(self, cause: Cause) -> None:
        self._expires = math.inf
        self._cause = cause
        self.scope.cancel()

    def drain(self, seconds: float, *, at_once: bool) -> None:
        """End the session within so many seconds, or at once."""
        self._draining = True
        self._end = min(self._end, self.now() + seconds)
        self.scope.deadline = min(self.scope.deadline, self._end)
        if at_once:
            self._cancel(Cause.DRAIN)

    def abort(self, reset: bool) -> None:
        """End everything at once, without a word, by a reset or by the end of the stream; the first call counts."""
        if self.aborted is None:
            self.aborted = reset
        self._whole.cancel()

    # What gives the session's end another cause

    def arm_end(self, activity: Activity, seconds: float) -> None:
        """Await something that names the cause when the session's end comes first: a handshake, or lingering."""
        self.arm(activity, seconds)
        self._deadline_cause = activity.overdue

    def await_client(self) -> None:
        """The client is awaited again, or nobody: the session's end is the only deadline of the whole scope."""
        self._deadline_cause = Cause.SESSION_OVER
        self._whole.deadline = self._end

    def await_handlers(self, seconds: float) -> None:
        """Handlers beside a reader are awaited, for so many seconds at most."""
        self.activity = HANDLERS
        self._expires = math.inf
        self._deadline_cause = Cause.SLOW_HANDLERS
        self._whole.deadline = min(self.now() + max(seconds, _LAST_CHANCE), self._end)

    # A reader beside handlers: a slow handler is not a slow client, so each has a time of its own

    def reader(self) -> Reader:
        """A context in which this task reads while handlers run in another: the watch cancels the reader alone.

        The one place where `scope` changes.
        """
        return Reader(self)

    def begin_reader(self, scope: trio.CancelScope) -> None:
        """Hold the reader to its deadlines from now on."""
        self._expires = math.inf
        self.scope = scope

    def end_reader(self) -> None:
        """Hold everything to its deadlines again."""
        self._cause = None
        self.scope = self._whole


@final
class Reader:
    """See `Clock.reader`.

    Attributes:
        cause: Why the reader was cancelled; None: it was not.
    """

    __slots__ = ("_clock", "_scope", "cause", "silent")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scope = trio.CancelScope()
        self.cause: Cause | None = None
        self.silent: bool = False

    def __enter__(self) -> Reader:
        self._scope.__enter__()
        self._clock.begin_reader(self._scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        handled = self._scope.__exit__(kind, exc, traceback)
        if self._scope.cancelled_caught:
            self.cause = self._clock.cause
            self.silent = self._clock.activity.silent
        self._clock.end_reader()
        return handled
