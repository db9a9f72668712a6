"""One connection: drives a dialogue over a wire, in one task.

The dialogue (dialogue/converse.py) says what it needs, step by step; this is what does it. Whatever ends the session
raises `EndSession`, or cancels the clock's scope; the last acts stand in ending.py, and are shielded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, final

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import CloseReason
from trio_smtp.app.session import Session
from trio_smtp.dialogue.converse import converse
from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.log import logger
from trio_smtp.dialogue.service import Service
from trio_smtp.dialogue.steps import (
    FLUSH,
    NEED_LINE,
    NEED_MORE,
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
    Steps,
)
from trio_smtp.protocol.machine import State
from trio_smtp.protocol.replies import Reply

from .clock import COMMAND, HANDSHAKE, PAUSE, Cause, Clock
from .ending import finish, last_words, leave, run_close_handlers
from .handlers import Handlers
from .handshake import shake_hands
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
        stream: The client's stream; closed at the end.
        session: The client's session.
        place: Where the connection is counted.

    Attributes:
        session: As given.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_dialogue",
        "_handlers",
        "_place",
        "_reason",
        "_steps",
        "_transfer",
        "_wire",
        "session",
    )

    def __init__(self, service: Service, stream: trio.abc.Stream, session: Session, place: Place) -> None:
        config = service.config
        now = trio.lowlevel.current_clock().current_time
        self.session = session
        self._place = place
        self._dialogue = dialogue = Dialogue(service, session, now)
        self._clock = clock = Clock(now, dialogue.log.opened + (config.session_timeout or math.inf))
        self._wire = wire = Wire(stream, dialogue.output, clock, service.stats, config.send_timeout)
        self._handlers = Handlers(session, wire, dialogue.output, clock, config.handler_timeout)
        self._steps: Steps[None] = converse(dialogue)
        # The message whose chunks are coming.
        self._transfer: Transfer | None = None
        self._reason: CloseReason = "cancelled"

    def drain(self, seconds: float) -> None:
        """Let a transaction in flight end, within so many seconds, and then say 421; an idle client hears it now."""
        self._dialogue.drain()
        idle = self._clock.activity.idle and not self._dialogue.machine.in_transaction
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
        watch.begin(self._wire)
        try:
            with clock.scope:
                await open_connection(self._wire, clock, self._dialogue, self._place)
                await self._drive()
            if clock.scope.cancelled_caught:
                words = self._interrupted(clock.cause)
        except EndSession as end:
            self._reason, words = end.reason, end.reply
        except Exception as exc:
            logger.error("session=%s internal error", self.session.id, exc_info=exc)
            self._reason, words = "error", _INTERNAL
        finally:
            try:
                await self._end(words)
            finally:
                watch.end(self._wire)
                ended(self)

    async def _drive(self) -> None:
        """Perform the dialogue's steps, to its end or to that of a message that comes in chunks."""
        dialogue, wire, clock = self._dialogue, self._wire, self._clock
        output, timeout = dialogue.output, dialogue.service.config.command_timeout
        for step in self._steps:
            if step is NEED_LINE or step is NEED_MORE:
                if step is NEED_LINE:
                    if output.octets:
                        octets = output.take()
                        if not wire.send_soon(octets):
                            await wire.send(octets)
                    clock.arm(COMMAND, timeout)
                octets = await wire.receive()
                dialogue.framer.feed(octets)
            elif type(step) is Ask:
                await self._handlers.run(step)
            elif await _PERFORM[type(step)](self, step):
                return

    def _interrupted(self, cause: Cause) -> Reply | None:
        """The scope was cancelled: note the reason, and return the last words."""
        if cause is Cause.LINGERED:
            return None  # the session had ended
        if cause is Cause.NO_HANDSHAKE:
            self._dialogue.service.stats.tls_failures += 1
            self._dialogue.log.event(logging.WARNING, "the TLS handshake did not end in time")
        self._reason, words = last_words(cause, silent=self._clock.activity.silent)
        return words

    async def _end(self, words: Reply | None) -> None:
        self._steps.close()
        dialogue, wire = self._dialogue, self._wire
        if dialogue.machine.state is State.CLOSED:
            words = None  # they have been said: the time of a message given up by QUIT was over
        dialogue.close()
        # The client may have shut down only its sending half: it can still read replies that are waiting.
        owed = self._reason == "lost" and wire.unsent
        chain = dialogue.service.chains.get(Phase.CLOSE)
        if words is not None or owed or chain is not None or not wire.close_at_once():
            with trio.CancelScope(shield=True):
                await finish(wire, dialogue, words, owed=owed)
                if chain is not None and dialogue.connected:
                    await run_close_handlers(dialogue, chain, self._reason)
        details = f"reason={self._reason} transactions={self.session.transaction}"
        dialogue.log.event(logging.INFO, "connection closed", details)

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
        await self._wire.flush()
        await trio.lowlevel.checkpoint()

    async def _shake_hands(self, step: ShakeHands) -> None:
        await self._wire.flush()
        step.info = await shake_hands(self._wire, self._clock, self._dialogue, HANDSHAKE)

    async def _leave(self, step: Leave) -> None:
        self._reason = step.reason
        await leave(self._wire, self._clock, self.session.id)

    def _message(self, step: Message) -> Awaitable[None]:
        return self._new_transfer(step).take_whole(step)

    def _new_transfer(self, step: Message | BeginChunks) -> Transfer:
        dialogue, clock = self._dialogue, self._clock
        receiver = BodyReceiver(self._wire, dialogue, clock)
        return Transfer(receiver, dialogue, self._handlers, clock, step.envelope)

    async def _begin_chunks(self, step: BeginChunks) -> None:
        self._transfer = self._new_transfer(step)
        try:
            await self._transfer.take_chunks(self._drive)
        finally:
            self._transfer = None

    async def _chunk(self, step: Chunk) -> None:
        assert self._transfer is not None
        step.verdict = await self._transfer.take_chunk(last=step.last)

    async def _end_chunks(self, step: EndChunks) -> bool:
        await self._wire.flush()
        return True

    async def _drop(self, step: Drop) -> None:
        await drop(BodyReceiver(self._wire, self._dialogue, self._clock), self._dialogue, step.most)


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
