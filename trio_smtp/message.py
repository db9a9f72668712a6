"""The body of a message: a trio memory channel that is consumed once.

A bare channel cannot tell "end of message" from "client vanished": both close it. So the receiving end,
`MessageStream`, *raises* when the body is not whole, and half a message can never look like a whole one.
`MessageSink` is the sending end: the connection puts the octets in as they arrive, and says how they ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .protocol.errors import SMTPError

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = [
    "MessageIncomplete",
    "MessageMalformed",
    "MessageSink",
    "MessageStream",
    "MessageTooLarge",
    "StreamConsumed",
]

_Channel = tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]]

# Subscribed once: doing it again for each message costs as much as the channel.
_open_channel = trio.open_memory_channel[bytes]
#: Chunks that a channel for messages at hand holds: more than one receive brings.
_AT_HAND = 8
#: Such channels, empty and open, for the next message: making one takes longer than all the rest of a message's way
#: through it.
_spare: list[_Channel] = []
_MAX_SPARE = 16
#: From this size on, in octets, a message is parsed in a worker thread.
_PARSE_IN_THREAD = 65_536


class StreamConsumed(SMTPError):
    """The message was read already; a message can be read once."""

    def __init__(self) -> None:
        super().__init__("Internal error: the message was read twice", 451, "4.3.0")


class MessageTooLarge(SMTPError):
    """The message has more octets than are allowed: 552 5.3.4 (RFC 1870 section 6.3)."""

    def __init__(self) -> None:
        super().__init__("Message exceeds the maximum size", 552, "5.3.4")


class MessageMalformed(SMTPError):
    """The body broke a rule of the wire (bare CR or LF, a line too long): 550 5.6.0.

    Args:
        reason: What was wrong.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"Message refused: {reason}", 550, "5.6.0")


class MessageIncomplete(SMTPError):
    """The client vanished, fell silent or gave the message up before its end: 451 4.4.2.

    Args:
        reason: What happened.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"Message incomplete: {reason}", 451, "4.4.2")


class MessageStream(trio.abc.ReceiveChannel[bytes]):
    """The octets of one message: dots unstuffed, line ends as sent (CRLF), in chunks of 1 to 65,536 octets.

    Read it once, by ``async for``, `read`, `read_message` or `receive`. The positive reply is sent only after
    the message was read to its end, or given up on purpose with `discard`.

    Error handling: when the body is not whole, every way of reading it raises `MessageTooLarge`,
    `MessageMalformed` or `MessageIncomplete`. Swallowing that does not change the reply.
    """

    __slots__ = (
        "_channel",
        "_complete",
        "_consumed",
        "_error",
        "_finished",
        "_left",
        "_length",
        "_size_exceeded",
        "_taps",
    )

    def __init__(self) -> None:
        # None: closed.
        self._channel: trio.MemoryReceiveChannel[bytes] | None = None
        # Chunks in the channel, when all of the message is there; None: its end is the channel's.
        self._left: int | None = None
        self._taps: list[Callable[[bytes], None]] = []
        self._length = 0
        self._complete = False
        self._consumed = False
        self._finished = False
        self._size_exceeded = False
        self._error: Exception | None = None

    @property
    def byte_length(self) -> int:
        """Octets received from the client so far, dots unstuffed."""
        return self._length

    @property
    def size_exceeded(self) -> bool:
        """The message has more than ``max_message_size`` octets."""
        return self._size_exceeded

    @property
    def complete(self) -> bool:
        """The end mark was seen and nothing was wrong."""
        return self._complete

    def tap(self, callback: Callable[[bytes], None]) -> None:
        """See the octets without being the one that consumes them.

        Args:
            callback: Called with every chunk as it is handed on, and with ``b""`` at the end of a whole message.
                What it raises refuses the message, as if a handler had raised it.
        """
        self._taps.append(callback)

    async def receive(self) -> bytes:
        """The next chunk.

        Raises:
            trio.EndOfChannel: The message is whole and was handed on completely.
            trio.ClosedResourceError: The stream was closed.
            MessageTooLarge: More octets than allowed.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.

        Cancellation: a chunk is never lost; takes what is ready without a pass of the scheduler.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        chunk = self._take() if self._left is not None else await self._wait()
        if not chunk:
            raise trio.EndOfChannel
        return chunk

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        chunk = self._take() if self._left is not None else await self._wait()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def _take(self) -> bytes:
        """The next chunk of a message that is there as a whole, or ``b""`` at its end."""
        if self._channel is None:
            raise trio.ClosedResourceError
        if not self._left:
            return self._reach_end()
        chunk = self._channel.receive_nowait()
        # Not before: what is raised in between must not leave a chunk in the channel that nobody counts.
        self._left -= 1
        if self._taps:
            self._run_taps(chunk)
        return chunk

    async def _wait(self) -> bytes:
        """The same for one that is on its way."""
        if self._channel is None:
            raise trio.ClosedResourceError
        try:
            try:
                chunk = self._channel.receive_nowait()
            except trio.WouldBlock:
                chunk = await self._channel.receive()
        except trio.EndOfChannel:
            return self._reach_end()
        if self._taps:
            self._run_taps(chunk)
        return chunk

    def _reach_end(self) -> bytes:
        if self._error is not None:
            raise self._error
        if not self._finished:
            if self._taps:
                self._run_taps(b"")
            self._finished = True
        return b""

    def _close(self) -> None:
        # Without the end that sends it is open: the channel of a message at hand is another's next.
        if self._channel is not None and self._left is None:
            self._channel.close()
        self._channel = None

    def _run_taps(self, chunk: bytes) -> None:
        try:
            for tap in self._taps:
                tap(chunk)
        except Exception as exc:
            # Kept, so that a handler which swallows it does not change the reply.
            self._fail(exc)
            self._close()
            if isinstance(exc, (trio.EndOfChannel, StopAsyncIteration)):
                # Whoever reads would take it for the end of a whole message.
                raise RuntimeError(f"a tap raised {type(exc).__name__}") from exc
            raise

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._complete = False

    def __aiter__(self) -> MessageStream:
        """The chunks; once.

        Raises:
            StreamConsumed: The message was read already.
        """
        self._consume()
        return self

    def _consume(self) -> None:
        if self._consumed:
            raise StreamConsumed
        self._consumed = True

    async def read(self, limit: int | None = None) -> bytes:
        """The whole message (what is left of it).

        Args:
            limit: The most octets to take; None: no limit but the server's.

        Raises:
            MessageTooLarge: There are more than `limit` octets, or more than the server allows.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.
            StreamConsumed: The message was read already.
        """
        chunks: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if limit is not None and size > limit:
                error = MessageTooLarge()
                self._fail(error)
                raise error
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def read_message(self) -> EmailMessage:
        """The whole message, parsed with the policy ``email.policy.SMTP``, in a thread when it is large.

        Raises:
            MessageTooLarge: More octets than allowed.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.
            StreamConsumed: The message was read already.
        """
        from email import message_from_bytes, policy

        data = await self.read()
        if len(data) < _PARSE_IN_THREAD:
            return message_from_bytes(data, policy=policy.SMTP)
        return await trio.to_thread.run_sync(lambda: message_from_bytes(data, policy=policy.SMTP))

    async def discard(self) -> None:
        """Take the rest of the message and throw it away, on purpose: the reply stays positive.

        Raises:
            MessageTooLarge: More octets than allowed.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.
        """
        self._consumed = True
        with suppress(trio.EndOfChannel):
            while True:
                await self.receive()

    async def aclose(self) -> None:
        """Give the message up: the reply becomes 451 unless the message was read to its end before."""
        self._close()
        await trio.lowlevel.checkpoint()


class MessageSink:
    """The sending end of a `MessageStream`; `open` or `hand_over` makes the channel between them.

    Args:
        max_size: The most octets a message may have; None: no limit.

    Attributes:
        stream: The receiving end, for the handlers.
        dropped: Octets of the body that were thrown away because nobody takes them.
    """

    __slots__ = ("_channel", "_ended", "_max_size", "_spare", "_taking", "dropped", "stream")

    def __init__(self, max_size: int | None) -> None:
        self._channel: trio.MemorySendChannel[bytes] | None = None
        # The channel, when it is to be used again.
        self._spare: _Channel | None = None
        self.stream: MessageStream = MessageStream()
        self._max_size = math.inf if max_size is None else max_size
        self._taking = True
        self._ended = False
        self.dropped: int = 0

    def open(self, chunks: Sequence[bytes]) -> None:
        """Begin a message that is on its way with the chunks that have come; the channel holds these, or one."""
        self._channel, self.stream._channel = _open_channel(max(1, len(chunks)))
        for chunk in chunks:
            self.put_nowait(chunk)
        if not self._taking:
            self._stop()

    def hand_over(self, chunks: Sequence[bytes]) -> None:
        """Hand on the whole of a message that is there: at once, and up to its end."""
        stream = self.stream
        if len(chunks) <= _AT_HAND:
            try:
                self._spare = _spare.pop()
            except IndexError:
                self._spare = _open_channel(_AT_HAND)
            self._channel, stream._channel = self._spare
        else:
            self._channel, stream._channel = _open_channel(len(chunks))
        left = 0
        for chunk in chunks:
            self.put_nowait(chunk)
            left += self._taking
        stream._left = left
        self.end()

    @property
    def error(self) -> Exception | None:
        """What is wrong with the message, or what a tap raised."""
        return self.stream._error

    @property
    def finished(self) -> bool:
        """The handlers read the message to its end, or discarded the rest on purpose."""
        return self.stream._finished

    def put_nowait(self, chunk: bytes) -> bool:
        """Take a chunk in, or drop it when the message failed or nobody reads; False: the channel is full."""
        stream = self.stream
        if self._taking and stream._length + len(chunk) > self._max_size:
            stream._size_exceeded = True
            self.fail(MessageTooLarge())
        if self._taking:
            assert self._channel is not None
            try:
                self._channel.send_nowait(chunk)
            except trio.WouldBlock:
                return False
            except trio.BrokenResourceError:
                self._taking = False
        stream._length += len(chunk)
        if not self._taking:
            self.dropped += len(chunk)
        return True

    async def put(self, chunk: bytes) -> None:
        """The same, waiting until the reader has made room."""
        assert self._channel is not None
        self.stream._length += len(chunk)
        try:
            await self._channel.send(chunk)
        except trio.BrokenResourceError:
            self._taking = False
            self.dropped += len(chunk)

    def end(self) -> None:
        """The end mark was seen."""
        if self.stream._error is None:
            self.stream._complete = True
        self._ended = True
        self._stop()

    def fail(self, error: SMTPError) -> None:
        """The message will not be whole; the first reason stays, and a message that has ended has ended."""
        if not self._ended:
            self.stream._fail(error)
        self._stop()

    def _stop(self) -> None:
        self._taking = False
        if self._channel is not None and self._spare is None:
            self._channel.close()

    def close_stream(self) -> None:
        """The handlers are done: what still arrives is dropped."""
        stream = self.stream
        stream._close()
        if self._spare is not None and len(_spare) < _MAX_SPARE:
            receive_channel = self._spare[1]
            while stream._left:  # a handler that refused early
                receive_channel.receive_nowait()
                stream._left -= 1
            _spare.append(self._spare)
            self._spare = None
