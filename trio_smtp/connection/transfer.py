"""A message on its way from the wire through a memory channel to the handlers.

A message that is in the buffer after one receive goes into the channel as a whole, and the handlers run inline: no
nursery, no second task. Any other is streamed: the handlers run in a child task, and this one reads. The two have
clocks of their own, because a slow handler is not a slow client: while they run side by side, the connection's scope
is the reader's, and the one around the nursery holds the handlers to what is left of their time. Back-pressure is the
channel's.

250 is a promise: it is given only when the handlers returned and read the message to its end, or discarded it on
purpose. Whatever they did, the wire is read on to the end of the body, so that no line of it is taken for a command.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import DataContext
from trio_smtp.app.message import MessageIncomplete, MessageMalformed
from trio_smtp.dialogue.outcomes import EndSession, logger, outcome
from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.framing import NEED_DATA, BodyChunk, EndOfBody, MalformedBody
from trio_smtp.protocol.replies import Reply

from .ending import interruption
from .sink import MessageSink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .connection import Connection

__all__ = ["TOO_LARGE", "ClientClock", "Transfer", "discard_bound"]

TOO_LARGE = Reply(552, "Message exceeds the maximum size", "5.3.4")
_ACCEPTED = Reply(250, "Message accepted", "2.0.0")
_NOT_READ = Reply(451, "Message not taken", "4.3.0")
_TOO_SLOW = Reply(421, "The message comes too slowly", "4.4.2")

#: The least bound on what is read and thrown away for a message that is refused, in octets.
_MIN_DROPPED = 16 * 1024 * 1024
#: `min_data_rate` holds after so many seconds.
_RATE_GRACE = 60.0
#: The least time handlers are given, in seconds, when theirs is used up.
_LAST_CHANCE = 0.001


def discard_bound(conn: Connection) -> float:
    """The most octets of a message that are read only to be thrown away."""
    most = conn.config.max_message_size
    return math.inf if most is None else max(_MIN_DROPPED, 2 * most)


class ClientClock:
    """The clocks that hold while a body is awaited: silence, and the rate."""

    __slots__ = ("_conn", "_octets", "_seconds")

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._seconds = 0.0
        self._octets = 0

    async def receive(self) -> int:
        """Receive more of the body; returns how many octets came.

        Raises:
            EndSession: The client is gone, or sends too slowly.
        """
        conn = self._conn
        if not conn.flush_soon():
            await conn.flush()
        before = conn.arm("data", conn.config.data_timeout)
        octets = await conn.receive()
        self._octets += octets
        self._seconds += conn.now() - before
        if self._seconds > _RATE_GRACE and self._octets < conn.config.min_data_rate * self._seconds:
            conn.log(logging.WARNING, "the message comes too slowly")
            raise EndSession("timeout", _TOO_SLOW)
        return octets


class Transfer:
    """One message on its way.

    Attributes:
        sink: Where the body goes; made when it begins to come.
        reply: What the handlers ended with, once they have.
        refused: LMTP: the recipients whose reply a handler has set.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_conn",
        "_envelope",
        "_error",
        "_handlers_done",
        "_handlers_left",
        "_handlers_scope",
        "_malformed",
        "refused",
        "reply",
        "sink",
    )

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._envelope = conn.session.envelope  # RSET gives the session another
        self._clock = ClientClock(conn)
        self._handlers_scope = conn.scope
        self._handlers_left = conn.config.handler_timeout
        self._handlers_done: trio.Event | None = None
        self._began = conn.now()
        self._malformed = False
        # What was wrong with the message when the handlers had ended.
        self._error: Exception | None = None
        self.sink: MessageSink = MessageSink(conn.config.max_message_size)
        self.reply: Reply | None = None
        self.refused: Mapping[Address, Reply] = {}

    @property
    def too_slow(self) -> bool:
        """It has come more slowly than `min_data_rate`, the pauses between its chunks included."""
        seconds = trio.current_time() - self._began
        return self.sink.stream.byte_length < self._conn.config.min_data_rate * seconds

    async def run(self) -> Reply:
        """Take the whole body, after 354 or with a BDAT that is the first and last; returns the reply."""
        chunks, whole = await self._first_read()
        if whole:
            self.sink.hand_over(chunks)
            await self._handle(timed=True)
        else:
            await self.side_by_side(self._read_to_end_mark, chunks)
        return self.judge()

    async def _first_read(self) -> tuple[list[bytes], bool]:
        """What one receive brings: the chunks, and whether the end was among them."""
        next_event = self._conn.framer.next_event
        chunks: list[bytes] = []
        received = False
        while True:
            event = next_event()
            if isinstance(event, BodyChunk):
                chunks.append(event.data)
            elif isinstance(event, EndOfBody):
                return chunks, True
            elif event is NEED_DATA:
                if received:
                    return chunks, False
                await self._clock.receive()
                received = True
            else:
                assert isinstance(event, MalformedBody)
                self._find_malformed(event)

    def _find_malformed(self, event: MalformedBody) -> None:
        self._malformed = True
        self.sink.fail(MessageMalformed(event.reason))

    # The handlers

    async def _handle(self, *, timed: bool) -> None:
        """Run the handlers and note how they ended."""
        session, sink = self._conn.session, self.sink
        context = DataContext(session, _ACCEPTED, sink.stream, self._envelope, self._conn.config.hostname)
        self.reply = await self._conn.phase(Phase.DATA, context, timed=timed)
        self.refused = context.recipient_replies
        self._error = sink.error
        sink.close_stream()
        if self._handlers_done is not None:
            self._handlers_done.set()

    async def _handle_in_child(self) -> None:
        await self._handle(timed=False)

    async def side_by_side(self, read: Callable[[], Awaitable[None]], chunks: Sequence[bytes] = ()) -> None:
        """Run the handlers in a child task while this one reads; waits for their end.

        Args:
            read: Reads what comes. A message that has not ended when it returns is given up.
            chunks: What has come already.

        Raises:
            EndSession: It ended the session; the handlers have ended.
        """
        conn = self._conn
        conn.disarm()
        self.sink.open(chunks)
        self._handlers_done = trio.Event()
        end: EndSession | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._handle_in_child, name="trio_smtp.handlers")
                with trio.CancelScope() as conn.scope:
                    try:
                        await read()
                    except EndSession as exc:
                        end = exc
                if conn.scope.cancelled_caught:
                    end = EndSession(*interruption(conn))
                if not self.sink.stream.complete:
                    self.sink.fail(MessageIncomplete("the client did not finish it"))
                conn.scope = self._handlers_scope  # a drain shortens the time of this one from now on
                self._let_handlers_run()
        finally:
            conn.scope = self._handlers_scope
            conn.scope.deadline = conn.session_end
        if end is not None:
            try:
                raise end
            finally:
                del end  # whose traceback holds this frame

    def _let_handlers_run(self) -> None:
        """From now on it is the handlers that are waited for."""
        conn = self._conn
        conn.activity = "handler"
        conn.disarm()
        self._handlers_scope.deadline = min(
            trio.current_time() + max(self._handlers_left, _LAST_CHANCE), conn.session_end
        )

    async def wait_for_handlers(self) -> None:
        """Wait until they have ended; their clock runs, the client's does not."""
        assert self._handlers_done is not None
        self._let_handlers_run()
        await self._handlers_done.wait()

    # The reader

    async def _read_to_end(self) -> None:
        """Read to the end of the body, or of the chunk.

        Raises:
            EndSession: There is no end to be had.
        """
        conn, sink = self._conn, self.sink
        bound = discard_bound(conn)
        while sink.dropped <= bound:
            event = conn.framer.next_event()
            if event is NEED_DATA:
                octets = await self._clock.receive()
                if self._malformed:
                    sink.dropped += octets  # the framer hands on no more of it
            elif isinstance(event, BodyChunk):
                if not sink.put_nowait(event.data):
                    await self._make_room(event.data)
            elif isinstance(event, EndOfBody):
                return
            else:
                assert isinstance(event, MalformedBody)
                self._find_malformed(event)
        conn.log(logging.WARNING, "too much of a refused message")
        raise EndSession("abuse", self.reply if self.reply and self.reply.code >= 400 else TOO_LARGE)

    async def _read_to_end_mark(self) -> None:
        await self._read_to_end()
        self.sink.end()

    async def _make_room(self, chunk: bytes) -> None:
        """The channel is full."""
        before = trio.current_time()
        self._let_handlers_run()
        await self.sink.put(chunk)
        self._handlers_left -= trio.current_time() - before
        self._handlers_scope.deadline = self._conn.session_end

    async def take_chunk(self, size: int) -> Reply | None:
        """Take one chunk of BDAT while the handlers run; returns a refusal, or None."""
        self._conn.framer.start_chunk(size)
        await self._read_to_end()
        if self.reply is None and self.sink.error is None:
            return None
        await self.wait_for_handlers()
        return self.judge()

    def judge(self) -> Reply:
        """What the client is told, when the handlers have ended."""
        reply, session, sink = self.reply, self._conn.session, self.sink
        assert reply is not None
        error = self._error
        if reply.code in (421, 521):
            return reply  # a handler that closes the connection does, whatever was wrong with the message
        if error is not None and (isinstance(error, SMTPError) or reply.code < 400):
            return outcome(error, Phase.DATA.value, session)
        if reply.code >= 400 or sink.finished:
            return reply
        if sink.error is not None:
            return outcome(sink.error, Phase.DATA.value, session)
        logger.error(
            "session=%s the handlers neither read the message to its end nor discarded it: refused", session.id
        )
        return _NOT_READ

    def log(self, replies: Sequence[Reply] = ()) -> None:
        """One line a message, with what it was answered; no reply: it was not finished."""
        conn = self._conn
        if logger.isEnabledFor(logging.INFO):
            session, envelope = conn.session, self._envelope
            result = "reply=" + ",".join(str(each.code) for each in replies) if replies else "incomplete"
            logger.info(
                "session=%s peer=%s message from=<%s> recipients=%d size=%d %s seconds=%.3f",
                session.id,
                session.remote_address,
                envelope.mail_from,
                len(envelope.rcpt_to),
                self.sink.stream.byte_length,
                result,
                trio.current_time() - self._began,
            )
