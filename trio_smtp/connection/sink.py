"""The sending end of a message's channel: the connection puts the octets in, and says how they ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from trio_smtp.app.message import MessageStream, MessageTooLarge
from trio_smtp.protocol.errors import SMTPError

__all__ = ["MessageSink"]

_Channel = tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]]

# Subscribed once: doing it again for each message costs as much as the channel.
_open_channel = trio.open_memory_channel[bytes]
#: Chunks that a channel for messages at hand holds: more than one receive brings.
_AT_HAND = 8
#: Such channels, empty and open, for the next message: making one takes longer than all the rest of a message's way
#: through it.
_spare: list[_Channel] = []
_MAX_SPARE = 16


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
        if isinstance(stream._error, SMTPError):
            # What was raised in the handlers holds their frames, which hold the stream, which holds it.
            stream._error.__traceback__ = stream._error.__context__ = None
        if self._spare is not None and len(_spare) < _MAX_SPARE:
            receive_channel = self._spare[1]
            while stream._left:  # a handler that refused early
                receive_channel.receive_nowait()
                stream._left -= 1
            _spare.append(self._spare)
            self._spare = None
