"""The sending end of a message's channel: the connection puts the octets in, and notes how the message ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import trio

from trio_smtp.app.body import Body
from trio_smtp.app.message import MessageStream, MessageTooLarge
from trio_smtp.protocol.errors import SMTPError

__all__ = ["ChannelPool", "MessageSink"]

_Channel = tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]]

# The subscript is evaluated here and not for each message: it costs as much as opening the channel.
_open_channel = trio.open_memory_channel[bytes]
#: Chunks that a channel of the pool holds: more than one receive brings.
_POOLED_CHUNKS = 8
_MAX_POOLED = 16


@final
class ChannelPool:
    """Empty channels kept for reuse: creating one costs more than everything else a small message does in it.

    `Body.left` counts the chunks in such a channel and so tells the end of the message. Neither end of the channel is
    closed for that, and the next message can use it.
    """

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: list[_Channel] = []

    def take(self) -> _Channel:
        """Return a channel that is empty and open, kept or new."""
        try:
            return self._spare.pop()
        except IndexError:
            return _open_channel(_POOLED_CHUNKS)

    def give_back(self, channel: _Channel, chunks: int) -> None:
        """Keep a channel for the next message, unless enough are kept.

        Args:
            channel: Both ends, open.
            chunks: How many chunks are still in it; they are thrown away.
        """
        if len(self._spare) < _MAX_POOLED:
            while chunks:
                channel[1].receive_nowait()
                chunks -= 1
            self._spare.append(channel)


_pool = ChannelPool()


class MessageSink:
    """The sending end of a `MessageStream`; `open` or `hand_over` makes the channel between them.

    Args:
        max_size: The most octets a message may have; None: no limit.

    Attributes:
        stream: The receiving end, for the handlers.
        body: What both ends share.
        dropped: Octets of the body that were thrown away, because the message failed or no handler reads it.
    """

    __slots__ = ("_channel", "_max_size", "_pooled", "_taking", "body", "dropped", "stream")

    def __init__(self, max_size: int | None) -> None:
        body = Body()
        self.body: Body = body
        self.stream: MessageStream = MessageStream(body)
        self._channel: trio.MemorySendChannel[bytes] | None = None
        # The same channel with its other end, when it goes back to the pool.
        self._pooled: _Channel | None = None
        self._max_size = math.inf if max_size is None else max_size
        self._taking = True
        self.dropped: int = 0

    def open(self, chunks: Sequence[bytes]) -> None:
        """Begin a message that is still coming.

        Args:
            chunks: What has come of it. The channel holds as many chunks, and at least one.
        """
        self._channel, self.body.channel = _open_channel(max(1, len(chunks)))
        for chunk in chunks:
            self.put_nowait(chunk)
        if not self._taking:
            self._stop()

    def hand_over(self, chunks: Sequence[bytes]) -> None:
        """Hand over a message that has come as a whole, its end included, without waiting.

        Args:
            chunks: All of it.
        """
        body = self.body
        if len(chunks) <= _POOLED_CHUNKS:
            self._pooled = _pool.take()
            self._channel, body.channel = self._pooled
        else:
            self._channel, body.channel = _open_channel(len(chunks))
        body.left = 0
        for chunk in chunks:
            self.put_nowait(chunk)
            body.left += self._taking
        self._taking = False
        if body.error is None:
            body.complete = True

    @property
    def error(self) -> Exception | None:
        """What is wrong with the message, or what a tap raised."""
        return self.body.error

    @property
    def finished(self) -> bool:
        """The handlers read the message to its end, or discarded the rest on purpose."""
        return self.body.finished

    def put_nowait(self, chunk: bytes) -> bool:
        """Take a chunk, or drop it when the message failed or no handler reads it; False: the channel is full."""
        body = self.body
        length = body.length + len(chunk)
        if self._taking:
            if length > self._max_size:
                body.size_exceeded = True
                self.fail(MessageTooLarge())
            else:
                assert self._channel is not None
                try:
                    self._channel.send_nowait(chunk)
                except trio.WouldBlock:
                    return False
                except trio.BrokenResourceError:
                    self._taking = False
        body.length = length
        if not self._taking:
            self.dropped += len(chunk)
        return True

    async def put(self, chunk: bytes) -> None:
        """Take a chunk for which `put_nowait` found no room, as soon as the reader has made some."""
        assert self._channel is not None
        self.body.length += len(chunk)
        try:
            await self._channel.send(chunk)
        except trio.BrokenResourceError:
            self._taking = False
            self.dropped += len(chunk)

    def drop(self, octets: int) -> None:
        """Count octets that are thrown away before they become chunks."""
        self.dropped += octets

    def end(self) -> None:
        """The end mark was seen."""
        if self.body.error is None:
            self.body.complete = True
        self._stop()

    def fail(self, error: SMTPError) -> None:
        """The message will not be whole; the first reason stays, and a message that is complete cannot fail."""
        if not self.body.complete:
            self.body.fail(error)
        self._stop()

    def _stop(self) -> None:
        self._taking = False
        if self._channel is not None and self.body.left is None:
            self._channel.close()

    def close_stream(self) -> None:
        """The handlers are done: what still arrives is dropped."""
        body = self.body
        body.close()
        error = body.error
        if isinstance(error, SMTPError):
            # Its traceback holds the handlers' frames, which hold the stream, whose body holds the error: a cycle.
            error.__traceback__ = error.__context__ = None
        if body.release is not None:
            self.release()
        if self._pooled is not None:
            _pool.give_back(self._pooled, body.left or 0)
            self._pooled = None

    def release(self) -> None:
        """The transaction is over: give back what the message was spooled into."""
        if self.body.release is not None:
            self.body.release()
            self.body.release = None
