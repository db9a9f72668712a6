"""DATA: a message on its way from the wire through a memory channel to the handlers.

A message that is in the buffer after one receive goes into the channel as a whole, and the handlers run inline: no
nursery, no second task. Any other is streamed: the handlers run in a child task, and this one reads. The two have
clocks of their own: a slow handler is not a slow client. Back-pressure is the channel's.

250 is a promise: it is given only when the handlers returned and read the message to its end, or discarded it on
purpose. Whatever they did, the wire is read on to the end mark, so that no body line is taken for a command.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import attrs
import trio

from .app import Phase
from .contexts import DataContext, DataStartContext
from .message import MessageIncomplete, MessageMalformed, MessageSink
from .outcomes import EndSession, logger, outcome
from .protocol.commands import Command, Verb
from .protocol.framing import NEED_DATA, BodyChunk, EndOfBody, MalformedBody
from .protocol.replies import Reply

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["receive_message"]

_START = Reply(354, "End data with <CR><LF>.<CR><LF>")
_ACCEPTED = Reply(250, "Message accepted", "2.0.0")
_NO_HANDLER = Reply(554, "This server takes no mail", "5.3.5")
_NOT_READ = Reply(451, "Message not taken", "4.3.0")
_TOO_LARGE = Reply(552, "Message exceeds the maximum size", "5.3.4")
_SILENT = Reply(421, "Timeout waiting for the message", "4.4.2")
_TOO_SLOW = Reply(421, "The message comes too slowly", "4.4.2")

#: The least bound on what is read and thrown away for a message that is refused, in octets.
_MIN_DROPPED = 16 * 1024 * 1024
#: `min_data_rate` holds after so many seconds.
_RATE_GRACE = 60.0


async def receive_message(conn: Connection, command: Command) -> Reply | None:
    """The whole of a DATA command; returns a reply only when it is refused before the 354."""
    if not conn.app.handles(Phase.DATA):
        return _NO_HANDLER
    reply = _START
    if conn.app.handles(Phase.DATA_START):
        reply = await conn.phase(Phase.DATA_START, DataStartContext(conn.session, _START))
        if reply.code >= 400:
            return reply
    conn.write(reply, enhanced=False)
    conn.machine.advance(Verb.DATA, reply.code)
    await conn.flush()
    conn.framer.start_body()
    transfer = _Transfer(conn)
    try:
        reply = await transfer.run()
    except BaseException:
        # The session ends here, whatever it was that ended it.
        conn.stats.messages_incomplete += 1
        transfer.log("incomplete")
        raise
    _conclude(conn, transfer, reply)
    return None


def _conclude(conn: Connection, transfer: _Transfer, reply: Reply) -> None:
    """Send the message's reply and begin a new transaction."""
    if reply.code < 400:
        conn.stats.messages_accepted += 1
        conn.errors = 0
    else:
        conn.stats.messages_refused += 1
    transfer.log(f"reply={reply.code}")
    conn.write(reply)
    conn.machine.advance(Verb.END_OF_DATA, reply.code)
    conn.session.transaction += 1
    conn.begin_transaction_anew()


@attrs.define(eq=False, init=False)
class _Transfer:
    """One message on its way."""

    conn: Connection
    sink: MessageSink | None
    # The handlers' reply, and what was wrong with the message when they had ended.
    reply: Reply | None
    error: Exception | None
    # Seconds of handler_timeout that are left, and those spent waiting for the client.
    handler_left: float
    client_seconds: float
    began: float

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.sink = None
        self.reply = None
        self.error = None
        self.handler_left = conn.config.handler_timeout
        self.client_seconds = 0.0
        self.began = trio.current_time()

    async def run(self) -> Reply:
        chunks, malformed, whole = await self._first_read()
        sink = self.sink = MessageSink(max(1, len(chunks)), self.conn.config.max_message_size)
        for chunk in chunks:
            sink.put_nowait(chunk)
        if malformed is not None:
            sink.fail(MessageMalformed(malformed))
        if whole:
            sink.end()
            await self._handle(sink, timed=True)
        else:
            await self._stream(sink)
        return self._judge(sink)

    async def _first_read(self) -> tuple[list[bytes], str | None, bool]:
        """What one receive brings: the chunks, what is wrong with them, and whether the end mark was among them."""
        conn = self.conn
        chunks: list[bytes] = []
        malformed: str | None = None
        received = False
        while True:
            event = conn.framer.next_event()
            if event is NEED_DATA:
                if received:
                    return chunks, malformed, False
                conn.arm("data", conn.config.data_timeout)
                await conn.receive()
                received = True
            elif isinstance(event, BodyChunk):
                chunks.append(event.data)
            elif isinstance(event, EndOfBody):
                return chunks, malformed, True
            elif isinstance(event, MalformedBody):
                malformed = event.reason

    async def _handle(self, sink: MessageSink, *, timed: bool) -> None:
        """Run the handlers and note how they ended."""
        conn, session = self.conn, self.conn.session
        context = DataContext(session, _ACCEPTED, sink.stream, session.envelope, conn.config.hostname)
        self.reply = await conn.phase(Phase.DATA, context, timed=timed)
        self.error = sink.error
        sink.close_stream()

    def _judge(self, sink: MessageSink) -> Reply:
        """What the client is told."""
        reply, session = self.reply, self.conn.session
        assert reply is not None
        if self.error is not None:
            return outcome(self.error, Phase.DATA.value, session)
        if reply.code >= 400:
            return reply
        if sink.finished:
            return reply
        if sink.error is not None:
            return outcome(sink.error, Phase.DATA.value, session)
        logger.error(
            "session=%s the handlers neither read the message to its end nor discarded it: refused", session.id
        )
        return _NOT_READ

    # Streaming

    async def _stream(self, sink: MessageSink) -> None:
        """Handlers and reader side by side."""
        conn = self.conn
        conn.disarm()
        conn.activity = "handler"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._handle_in_child, sink)
            end = await self._read_on(sink)
            if self.reply is None:
                conn.arm("handler", max(self.handler_left, 0.001))
        if end is not None:
            raise end

    async def _handle_in_child(self, sink: MessageSink) -> None:
        await self._handle(sink, timed=False)

    async def _read_on(self, sink: MessageSink) -> EndSession | None:
        """Read to the end mark; returns what ends the session, where the message does."""
        conn, config = self.conn, self.conn.config
        bound = math.inf if config.max_message_size is None else max(_MIN_DROPPED, 2 * config.max_message_size)
        with trio.CancelScope() as client:
            while True:
                event = conn.framer.next_event()
                if event is NEED_DATA:
                    end = await self._wait_for_client(client)
                    if end is not None:
                        sink.fail(MessageIncomplete("the client is gone or too slow"))
                        return end
                elif isinstance(event, BodyChunk):
                    if not sink.put_nowait(event.data):
                        await self._wait_for_handlers(client, sink, event.data)
                    if sink.dropped > bound:
                        sink.fail(MessageIncomplete("too much of it was thrown away"))
                        return EndSession("abuse", self.reply if self.reply and self.reply.code >= 400 else _TOO_LARGE)
                elif isinstance(event, EndOfBody):
                    sink.end()
                    return None
                elif isinstance(event, MalformedBody):
                    sink.fail(MessageMalformed(event.reason))
        sink.fail(MessageIncomplete("the client fell silent"))
        return EndSession("timeout", _SILENT)

    async def _wait_for_client(self, client: trio.CancelScope) -> EndSession | None:
        conn, config = self.conn, self.conn.config
        before = trio.current_time()
        least = before + config.data_timeout
        if not least <= client.deadline <= least + 1.0:
            client.deadline = least + min(1.0, config.data_timeout / 4)
        try:
            await conn.receive()
        except EndSession as end:
            return end
        self.client_seconds += trio.current_time() - before
        received = self.sink.stream.byte_length if self.sink else 0
        if self.client_seconds > _RATE_GRACE and received < config.min_data_rate * self.client_seconds:
            return EndSession("timeout", _TOO_SLOW)
        return None

    async def _wait_for_handlers(self, client: trio.CancelScope, sink: MessageSink, chunk: bytes) -> None:
        """The channel is full: the handlers' clock runs, the client's does not."""
        conn = self.conn
        before = trio.current_time()
        client.deadline = math.inf
        conn.arm("handler", max(self.handler_left, 0.001))
        await sink.put(chunk)
        self.handler_left -= trio.current_time() - before
        conn.disarm()

    def log(self, result: str) -> None:
        """One line a message."""
        conn = self.conn
        if logger.isEnabledFor(logging.INFO):
            session, envelope = conn.session, conn.session.envelope
            logger.info(
                "session=%s peer=%s message from=<%s> recipients=%d size=%d %s seconds=%.3f",
                session.id,
                session.remote_address,
                envelope.mail_from,
                len(envelope.rcpt_to),
                self.sink.stream.byte_length if self.sink else 0,
                result,
                trio.current_time() - self.began,
            )
