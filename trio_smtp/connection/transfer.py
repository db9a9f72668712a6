"""A message on its way from the framer through a memory channel to the handlers.

A message that is in the buffer after one receive goes into the channel as a whole, and the handlers run inline: no
nursery, no second task. Any other is streamed: the handlers run in a child task, and this task reads, each with a
deadline of its own (`Clock.reader`). Back-pressure is the channel's.

250 is a promise: it is given only when the handlers returned and read the message to its end, or discarded it on
purpose. Whatever they did, the wire is read on to the end of the body, so that no line of it is taken for a command.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import final

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.data_context import DataContext
from trio_smtp.app.message import MessageIncomplete, MessageMalformed
from trio_smtp.app.session import Envelope
from trio_smtp.dialogue.budget import discard_bound
from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.log import facts, logger
from trio_smtp.dialogue.outcomes import reply_to
from trio_smtp.dialogue.steps import Ask, Chunk, EndSession, Message
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.framing import NEED_DATA, BodyChunk, EndOfBody, MalformedBody
from trio_smtp.protocol.replies import Reply

from .clock import BODY, Clock
from .ending import last_words
from .handlers import Handlers
from .sink import MessageSink
from .wire import Wire

__all__ = ["BodyReceiver", "Transfer", "drop"]

_TOO_LARGE = Reply(552, "Message exceeds the maximum size", "5.3.4")
_ACCEPTED = Reply(250, "Message accepted", "2.0.0")
_NOT_READ = Reply(451, "Message not taken", "4.3.0")
_TOO_SLOW = Reply(421, "The message comes too slowly", "4.4.2")

#: `min_data_rate` holds after so many seconds.
_RATE_GRACE = 60.0
_DATA = Phase.DATA


@final  # where the module is compiled, nothing can inherit from it
class BodyReceiver:
    """Receives bodies for the framer, and holds the client to its clocks: silence, and the rate.

    Args:
        wire: Where octets come from; replies that wait leave through it first.
        dialogue: Its framer is fed.
        clock: Notes the silence.
    """

    __slots__ = ("_before", "_clock", "_dialogue", "_octets", "_seconds", "_wire")

    def __init__(self, wire: Wire, dialogue: Dialogue, clock: Clock) -> None:
        self._wire = wire
        self._dialogue = dialogue
        self._clock = clock
        self._before = 0.0
        self._seconds = 0.0
        self._octets = 0

    def begin(self) -> None:
        """Another body begins: its rate is its own."""
        self._seconds = 0.0
        self._octets = 0

    async def receive(self) -> int:
        """Receive more of the body; returns how many octets came.

        Raises:
            EndSession: The client is gone, or sends too slowly.
        """
        if self._dialogue.output.octets and not self._wire.flush_soon():
            await self._wire.flush()
        self.await_octets()
        octets = await self._wire.receive()
        self.take(octets)
        return len(octets)

    def await_octets(self) -> None:
        """More of the body is awaited from now on."""
        self._before = self._clock.arm(BODY, self._dialogue.service.config.data_timeout)

    def take(self, octets: bytes) -> None:
        """More of the body has come.

        Raises:
            EndSession: The client sends too slowly.
        """
        dialogue, config = self._dialogue, self._dialogue.service.config
        dialogue.framer.feed(octets)
        self._octets += len(octets)
        self._seconds += self._clock.now() - self._before
        if self._seconds > _RATE_GRACE and self._octets < config.min_data_rate * self._seconds:
            dialogue.log.event(logging.WARNING, "the message comes too slowly")
            raise EndSession("timeout", _TOO_SLOW)


async def drop(receiver: BodyReceiver, dialogue: Dialogue, most: float) -> None:
    """Read a chunk to its end and drop it.

    Args:
        receiver: Receives it.
        dialogue: Its framer has been told of the chunk.
        most: The most octets that may come.

    Raises:
        EndSession: There are too many, or the client is gone or too slow.
    """
    receiver.begin()
    dropped, next_event = 0, dialogue.framer.next_event
    while True:
        event = next_event()
        if event is NEED_DATA:
            await receiver.receive()
        elif isinstance(event, BodyChunk):
            dropped += len(event.data)
            if dropped > most:
                dialogue.log.event(logging.WARNING, "too much of a refused message")
                raise EndSession("abuse", _TOO_LARGE)
        else:
            return


@final  # where the module is compiled, nothing can inherit from it
class Transfer:
    """One message on its way.

    Args:
        receiver: Receives the body.
        dialogue: Lends its framer; counts and logs a message that is cut off.
        handlers: Run the handlers.
        clock: Holds reader and handlers to their times.
        envelope: The transaction's; RSET gives the session another.
    """

    __slots__ = (
        "_ask",
        "_began",
        "_clock",
        "_context",
        "_dialogue",
        "_envelope",
        "_error",
        "_handlers",
        "_handlers_done",
        "_handlers_left",
        "_malformed",
        "_receiver",
        "_reply",
        "_settled",
        "_sink",
    )

    def __init__(
        self, receiver: BodyReceiver, dialogue: Dialogue, handlers: Handlers, clock: Clock, envelope: Envelope
    ) -> None:
        config = dialogue.service.config
        receiver.begin()
        self._receiver = receiver
        self._dialogue = dialogue
        self._handlers = handlers
        self._clock = clock
        self._envelope = envelope
        self._began = clock.now()
        self._sink = MessageSink(config.max_message_size)
        self._context = DataContext(dialogue.session, _ACCEPTED, self._sink.stream, envelope, config, self._sink.body)
        self._ask = Ask(_DATA, self._context, dialogue.service.chains[_DATA])
        self._handlers_left = config.handler_timeout
        self._handlers_done: trio.Event | None = None
        self._malformed = False
        # The message has its verdict, or was counted as cut off.
        self._settled = False
        # How the handlers ended, and what was wrong with the message then.
        self._reply: Reply | None = None
        self._error: Exception | None = None

    async def take_whole(self, step: Message, *, received: bool = False) -> None:
        """Take a body whose octets come without a command between them; the answer is in the step.

        Args:
            step: Gets the answer.
            received: What one receive has brought is in the framer.
        """
        chunks: list[bytes] = []
        whole = False
        next_event = self._dialogue.framer.next_event
        try:
            # What one receive brings.
            while not whole:
                event = next_event()
                if isinstance(event, BodyChunk):
                    chunks.append(event.data)
                elif isinstance(event, EndOfBody):
                    whole = True
                elif event is NEED_DATA:
                    if received:
                        break
                    await self._receiver.receive()
                    received = True
                else:
                    assert isinstance(event, MalformedBody)
                    self._find_malformed(event)
            if whole:
                self._sink.hand_over(chunks)
                await self._handlers.run(self._ask)
                self._note_end_of_handlers()
            else:
                await self._side_by_side(self._read_to_end_mark, chunks)
        except BaseException:
            self.give_up()
            raise
        self._answer(step)

    # The handlers

    def _find_malformed(self, event: MalformedBody) -> None:
        self._malformed = True
        self._sink.fail(MessageMalformed(event.reason))

    def _note_end_of_handlers(self) -> None:
        self._reply = self._ask.reply
        self._error = self._sink.error
        self._sink.close_stream()

    async def _handle_beside_reader(self) -> None:
        assert self._handlers_done is not None
        await self._handlers.run_beside_reader(self._ask)
        self._note_end_of_handlers()
        self._handlers_done.set()

    async def _side_by_side(self, read: Callable[[], Awaitable[None]], chunks: Sequence[bytes] = ()) -> None:
        """Run the handlers in a child task while this task reads; waits for their end.

        Args:
            read: Reads what comes. A message that has not ended when it returns is given up.
            chunks: What has come already.

        Raises:
            EndSession: The reader ended the session; the handlers have ended.
        """
        clock, sink = self._clock, self._sink
        clock.disarm()
        sink.open(chunks)
        self._handlers_done = trio.Event()
        end: EndSession | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._handle_beside_reader, name="trio_smtp.handlers")
            with clock.reader() as reader:
                try:
                    await read()
                except EndSession as exc:
                    end = exc
                except BaseException:
                    # Handlers that are shielded from this cancellation would wait for the rest of the message for ever.
                    sink.fail(MessageIncomplete("the client did not finish it"))
                    raise
            if reader.cause is not None:
                end = EndSession(*last_words(reader.cause, silent=reader.silent))
            if not sink.stream.complete:
                sink.fail(MessageIncomplete("the client did not finish it"))
            self._await_handlers()
        clock.await_client()
        if end is not None:
            try:
                raise end
            finally:
                del end  # its traceback holds this frame, which would hold it: a cycle

    def _await_handlers(self) -> None:
        self._clock.await_handlers(self._handlers_left)

    async def _wait_for_handlers(self) -> None:
        """Wait until they have ended; their clock runs, the client's does not."""
        assert self._handlers_done is not None
        self._await_handlers()
        await self._handlers_done.wait()

    # The reader

    async def _read_to_end(self) -> None:
        """Read to the end of the body, or of the chunk.

        Raises:
            EndSession: There is no end to be had.
        """
        sink, framer = self._sink, self._dialogue.framer
        next_event = framer.next_event
        bound = discard_bound(self._dialogue.service.config)
        while sink.dropped <= bound:
            event = next_event()
            if event is NEED_DATA:
                if framer.counted > bound:
                    break
                octets = await self._receiver.receive()
                if self._malformed:
                    sink.drop(octets)  # the framer hands on no more of it
            elif isinstance(event, BodyChunk):
                if not sink.put_nowait(event.data):
                    await self._make_room(event.data)
            elif isinstance(event, EndOfBody):
                return
            else:
                assert isinstance(event, MalformedBody)
                self._find_malformed(event)
        self._dialogue.log.event(logging.WARNING, "too much of a refused message")
        raise EndSession("abuse", self._reply if self._reply and self._reply.code >= 400 else _TOO_LARGE)

    async def _read_to_end_mark(self) -> None:
        await self._read_to_end()
        self._sink.end()

    async def _make_room(self, chunk: bytes) -> None:
        """Put a chunk into the full channel; the handlers' clock runs until they have made room."""
        before = self._clock.now()
        self._await_handlers()
        await self._sink.put(chunk)
        self._handlers_left -= self._clock.now() - before
        self._clock.await_client()

    # Chunks with commands between them

    async def take_chunks(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run the handlers beside the dialogue, which takes chunk after chunk.

        Args:
            lead: Leads the dialogue until `take_chunk` has given a verdict, or the message is given up.
        """

        async def read() -> None:
            await lead()
            self.give_up()  # when RSET, a HELO or QUIT gave it up

        try:
            await self._side_by_side(read)
        except BaseException:
            self.give_up()
            raise

    async def take_chunk(self, step: Chunk) -> None:
        """Take one chunk while the handlers run; the answer, when the message is over, is in the step."""
        await self._read_to_end()
        if self._reply is None and self._sink.error is None:
            if not step.last:
                return
            self._sink.end()
        await self._wait_for_handlers()
        self._answer(step)

    # The end

    def _answer(self, step: Message | Chunk) -> None:
        """The handlers have ended: the message has its verdict."""
        self._settled = True
        step.reply = self._verdict()
        step.accepted = self._context.recipients
        step.recipients = self._context.recipient_replies
        step.octets = self._sink.stream.byte_length
        step.began = self._began

    def _verdict(self) -> Reply:
        reply, session, sink = self._reply, self._dialogue.session, self._sink
        assert reply is not None
        error = self._error
        if reply.code in (421, 521):
            return reply  # a handler that closes the connection does, whatever was wrong with the message
        if error is not None and (isinstance(error, SMTPError) or reply.code < 400):
            return reply_to(error, _DATA.value, session)
        if reply.code >= 400 or sink.finished:
            return reply
        if sink.error is not None:
            return reply_to(sink.error, _DATA.value, session)
        logger.error(
            "session=%s the handlers neither read the message to its end nor discarded it: refused",
            session.id,
            extra=facts(session, "message not taken"),
        )
        return _NOT_READ

    def give_up(self) -> None:
        """Count and log a message that was cut off or given up; does nothing where it was answered, or noted before."""
        self._sink.release()
        if self._settled:
            return
        self._settled = True
        dialogue = self._dialogue
        dialogue.service.stats.messages_incomplete += 1
        if dialogue.framer.lone_dot:
            dialogue.log.lone_dot()
        dialogue.log.message(self._envelope, self._sink.stream.byte_length, self._began)
