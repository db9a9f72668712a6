"""One connection: performs the steps that its dialogue yields, in one task.

The dialogue is in dialogue/converse.py, its steps in dialogue/steps.py. An end is an `EndSession` that is raised, or a
cancellation of the clock's scope. What follows is in ending.py, shielded from cancellation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, final

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.hooks import CloseContext, CloseReason
from trio_smtp.app.session import Session
from trio_smtp.dialogue.converse import converse
from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.log import facts, logger
from trio_smtp.dialogue.service import Service
from trio_smtp.dialogue.steps import (
    FLUSH,
    NEED_LINE,
    NEED_MORE,
    SETTLE,
    Ask,
    BeginChunks,
    Chunk,
    Drop,
    EndChunks,
    EndSession,
    Leave,
    LookUp,
    Message,
    Pause,
    ShakeHands,
    Step,
    Steps,
)
from trio_smtp.protocol.machine import State
from trio_smtp.protocol.replies import Reply

from .clock import COMMAND, HANDLERS, HANDSHAKE, PAUSE, PROXY_HEADER, Cause, Clock
from .ending import finish, last_words, leave, run_last_handlers
from .handlers import Handlers
from .handshake import TLS, shake_hands
from .hooks import reply_handlers, settle
from .opening import open_connection
from .places import Place
from .transfer import BodyReceiver, Transfer, drop
from .watch import Watch
from .wire import Wire

__all__ = ["Connection"]

_INTERNAL = Reply(421, "Internal error", "4.3.0")


@final  # where the module is compiled, nothing can inherit from it
class Connection:
    """One client's connection.

    Args:
        service: What the server's sessions share.
        tls: What its handshakes use.
        stream: The client's stream; closed at the end.
        session: The client's session.
        place: Where the connection is counted.

    Attributes:
        session: As given.
    """

    __slots__ = (
        "__weakref__",
        "_alone",
        "_awaited",
        "_clock",
        "_dialogue",
        "_handlers",
        "_place",
        "_reason",
        "_receiver",
        "_step",
        "_steps",
        "_task",
        "_tls",
        "_transfer",
        "_wire",
        "session",
    )

    def __init__(self, service: Service, tls: TLS, stream: trio.abc.Stream, session: Session, place: Place) -> None:
        config = service.config
        now = trio.lowlevel.current_clock().current_time
        self.session: Session = session
        self._place = place
        self._tls = tls
        self._dialogue = dialogue = Dialogue(service, session, now)
        self._clock = clock = Clock(now, dialogue.log.opened + (config.session_timeout or math.inf))
        session._call_to_abort(clock.abort)
        session._call_to_send(self._send_now)
        self._wire = wire = Wire(
            stream, dialogue.output, clock, service.stats, config.send_timeout, show=reply_handlers(dialogue, clock)
        )
        self._handlers = Handlers(session, wire, dialogue.output, clock, config.handler_timeout)
        self._receiver = BodyReceiver(wire, dialogue, clock)
        self._steps: Steps[None] = converse(dialogue)
        # The one that serves the connection; None before it does.
        self._task: trio.lowlevel.Task | None = None
        # The step that `_hear` has come to; None: the dialogue is over.
        self._step: Step | None = None
        # `_hear` runs nothing of the program's, which may ask which task runs.
        self._alone = dialogue.hooks is None and not service.extended and not dialogue.log.debug
        # The message whose first octets are awaited by `_hear`.
        self._awaited: Transfer | None = None
        # The message whose chunks are coming.
        self._transfer: Transfer | None = None
        self._reason: CloseReason = "cancelled"

    def drain(self, seconds: float) -> None:
        """Let a transaction in flight end, within so many seconds, and then say 421; an idle client hears it now."""
        self._dialogue.drain()
        # A program's parser of parameters, or what says whether an extension is available, may call this method in the
        # connection's own task: the command is not answered yet, though no handlers are awaited.
        idle = self._clock.activity.idle and not self._dialogue.machine.in_transaction
        idle = idle and trio.lowlevel.current_task() is not self._task
        self._clock.drain(seconds, at_once=idle)

    async def run(self, watch: Watch, ended: Callable[[Connection], None]) -> None:
        """Serve the client to its end. Nothing but cancellation and KeyboardInterrupt comes out.

        Every coroutine between this task and the socket is suspended and resumed once for each receive, so there are no
        layers that only pass on.

        Args:
            watch: Holds the connection to its deadlines.
            ended: Called at the end, whatever happens.
        """
        clock, words = self._clock, None
        self._task = trio.lowlevel.current_task()
        watch.begin(self._wire)
        try:
            with clock.scope:
                try:
                    await open_connection(self._wire, self._tls, clock, self._dialogue, self._place)
                    await self._drive()
                finally:
                    self._steps.close()  # runs what a SASL mechanism has in its `finally`, which may raise anything
            if clock.scope.cancelled_caught:
                words = self._interrupted(clock.cause)
        except EndSession as end:
            self._reason, words = end.reason, end.reply
        except Exception as exc:
            extra = facts(self.session, "internal error")
            logger.error("session=%s internal error", self.session.id, exc_info=exc, extra=extra)
            self._reason, words = "error", _INTERNAL
        finally:
            try:
                await self._end(words)
            finally:
                self.session._call_to_send(None)  # the two would keep each other
                watch.end(self._wire)
                ended(self)

    async def _drive(self) -> None:
        """Perform the dialogue's steps, to its end or to that of a message that comes in chunks."""
        dialogue, wire, clock = self._dialogue, self._wire, self._clock
        output, timeout = dialogue.output, dialogue.service.config.command_timeout
        step = next(self._steps, None)
        while step is not None:
            if step is NEED_LINE:  # NEED_MORE comes after that, in `_hear`
                if output.octets and not wire.flush_soon():
                    await wire.flush()
                clock.arm(COMMAND, timeout)
                await wire.receive_while(self._hear, alone=self._alone)
                step = self._step
                continue
            if type(step) is Ask:
                await self._handlers.run(step)
            elif await _PERFORM[type(step)](self, step):
                return
            step = next(self._steps, None)

    def _hear(self, octets: bytes) -> bool:
        """Take what the client says, and answer what needs no waiting.

        Returns:
            True: Nothing but more octets is awaited. False: `_step` is to be performed.
        """
        dialogue, wire = self._dialogue, self._wire
        if self._awaited is not None:
            self._receiver.take(octets)
            return False
        dialogue.framer.feed(octets)
        step = self._step = next(self._steps, None)
        if step is NEED_LINE:
            if wire.flush_soon():
                self._clock.arm(COMMAND, dialogue.service.config.command_timeout)
                return True
        elif type(step) is Message and step.invited and not dialogue.framer.pending and wire.flush_soon():
            self._awaited = self._transfer_of(step)
            self._receiver.await_octets()
            return True
        return step is NEED_MORE

    def _interrupted(self, cause: Cause) -> Reply | None:
        """The scope was cancelled: note the reason, and return the last words."""
        if cause is Cause.LINGERED:
            return None  # the session had ended
        if cause is Cause.NO_HANDSHAKE:
            self._dialogue.service.stats.tls_failures += 1
            self._dialogue.log.event(logging.WARNING, "the TLS handshake did not end in time")
        elif self._clock.activity is PROXY_HEADER and cause is Cause.STUCK:
            self._dialogue.log.event(logging.WARNING, "the trusted proxy sent no PROXY header in time")
        self._reason, words = last_words(cause, silent=self._clock.activity.silent)
        return words

    async def _end(self, words: Reply | None) -> None:
        if self._awaited is not None:
            self._awaited.give_up()
        dialogue, wire = self._dialogue, self._wire
        if self._clock.aborted is not None:
            self._reason, words = "aborted", None
        if dialogue.machine.state is State.CLOSED:
            # The client was told already: QUIT was answered, and then the handlers of the message that it gave up had
            # used up their time.
            words = None
        dialogue.close()
        # The client may have shut down only its sending half: it can still read replies that are waiting.
        owed = self._reason == "lost" and wire.unsent
        hooks = dialogue.hooks
        if hooks is not None and self._reason == "refused":
            owed = dialogue.output.octets > 0  # `close_after` was called for the last of them
        if words is not None or owed or Phase.CLOSE in dialogue.service.chains or hooks or not wire.close_at_once():
            with trio.CancelScope(shield=True):
                await finish(wire, dialogue, words, owed=owed)
                await self._run_last_handlers()
        dialogue.log.closed(self._reason)

    async def _run_last_handlers(self) -> None:
        dialogue, hooks = self._dialogue, self._dialogue.hooks
        end = hooks.last_end(self.session, dialogue.machine) if hooks is not None else None
        if end is not None:
            await run_last_handlers(dialogue, Phase.TRANSACTION_END, end)
        if self._clock.aborted is not None:
            self._reason = "aborted"  # perhaps by a handler that was shown the last words
        if dialogue.connected:
            await run_last_handlers(dialogue, Phase.CLOSE, CloseContext(self.session, self._reason))

    async def _send_now(self) -> None:
        """What `Context.flush` does; that the client is gone shows at the next receive."""
        with suppress(EndSession):
            await self._wire.flush()
        self._clock.arm(HANDLERS, self._dialogue.service.config.handler_timeout)

    # The steps that are no lines; True: the message that came in chunks is over

    async def _look_up(self, step: LookUp) -> None:
        await self._handlers.look_up(step)

    async def _pause(self, step: Pause) -> None:
        """Hold up this connection, and no other."""
        await self._wire.flush()
        self._clock.arm(PAUSE, step.seconds + self._dialogue.service.config.command_timeout)
        await trio.sleep(step.seconds)

    async def _flush(self, step: object) -> None:
        """Whoever pipelines thousands of commands lets others have their turn in between."""
        if step is SETTLE:
            assert self._dialogue.hooks is not None
            await settle(self._wire, self._clock, self._dialogue, self._dialogue.hooks)
            return
        await self._wire.flush()
        await trio.lowlevel.checkpoint()

    async def _shake_hands(self, step: ShakeHands) -> None:
        await self._wire.flush()
        step.info = await shake_hands(self._wire, self._tls, self._clock, self._dialogue, HANDSHAKE)

    def _leave(self, step: Leave) -> Awaitable[None]:
        self._reason = step.reason
        return leave(self._wire, self._clock, self.session)

    def _message(self, step: Message) -> Awaitable[None]:
        transfer, self._awaited = self._awaited, None
        if transfer is not None:
            return transfer.take_whole(step, received=True)
        # The 354 leaves first: a client that is gone before has not begun a message.
        return self._transfer_of(step).take_whole(step) if self._wire.flush_soon() else self._flush_and_take(step)

    async def _flush_and_take(self, step: Message) -> None:
        await self._wire.flush()
        await self._transfer_of(step).take_whole(step)

    def _transfer_of(self, step: Message | BeginChunks) -> Transfer:
        return Transfer(self._receiver, self._dialogue, self._handlers, self._clock, step.envelope)

    async def _begin_chunks(self, step: BeginChunks) -> None:
        await self._wire.flush()
        self._transfer = self._transfer_of(step)
        try:
            await self._transfer.take_chunks(self._drive)
        finally:
            self._transfer = None

    async def _chunk(self, step: Chunk) -> None:
        assert self._transfer is not None
        await self._transfer.take_chunk(step)

    async def _end_chunks(self, step: EndChunks) -> bool:
        if step.reason is not None:
            self._reason = step.reason
        await self._wire.flush()
        return True

    async def _drop(self, step: Drop) -> None:
        await drop(self._receiver, self._dialogue, step.most)


_PERFORM: Mapping[object, Callable[[Connection, Any], Awaitable[bool | None]]] = {
    LookUp: Connection._look_up,
    Pause: Connection._pause,
    type(FLUSH): Connection._flush,
    ShakeHands: Connection._shake_hands,
    Message: Connection._message,
    BeginChunks: Connection._begin_chunks,
    Chunk: Connection._chunk,
    Drop: Connection._drop,
    EndChunks: Connection._end_chunks,
    Leave: Connection._leave,
}
