"""Streams that stand in place of the one that was received: with fields in front, or replaying a spooled message."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import trio
from trio.lowlevel import checkpoint_if_cancelled

from .body import Body
from .fields import MAX_NAME, Head
from .message import MessageStream
from .spool import SpooledMessage

__all__ = ["Prefixed", "Replay"]

_CHUNK = 65_536


class _Layer(MessageStream):
    """A stream whose chunks come from elsewhere than the channel.

    Its body is that of the message: length and errors are those of what was sent, and reading this stream to its end
    is noted there.
    """

    __slots__ = ("_closed", "_ended")

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._source = None
        self._closed = False
        self._ended = False

    async def _next(self) -> bytes:
        await checkpoint_if_cancelled()
        if self._wait_before is not None:
            await self._wait_before()
        body = self._body
        if self._closed:
            raise trio.ClosedResourceError
        if body.error is not None:
            raise body.error
        chunk = b"" if self._ended else await self._fetch()
        if not chunk and self._ended:
            return b""
        if self._taps:
            self._run_taps(chunk)
        if not chunk:
            self._ended = body.finished = True
        return chunk

    @abstractmethod
    async def _fetch(self) -> bytes:
        """The next chunk; none: the message is over."""


class Replay(_Layer):
    """Replays a spooled message as edited.

    Args:
        body: The message's.
        message: What is replayed.
    """

    __slots__ = ("_chunks",)

    def __init__(self, body: Body, message: SpooledMessage) -> None:
        super().__init__(body)
        self._chunks = message.chunks()

    async def _fetch(self) -> bytes:
        return await anext(self._chunks, b"")

    async def aclose(self) -> None:
        """Give this replay up; the message has others."""
        self._closed = True
        await self._chunks.aclose()


class Prefixed(_Layer):
    """A message that is not spooled, with fields in front.

    Args:
        body: The message's.
        sent: The stream as it was received.
        write_fields: Gives the fields, for the beginning of the message.
    """

    __slots__ = ("_held", "_opened", "_sent", "_sent_ended", "_write_fields")

    def __init__(self, body: Body, sent: MessageStream, write_fields: Callable[[Head], bytes]) -> None:
        super().__init__(body)
        self._sent = sent
        self._write_fields = write_fields
        # The beginning of the message, until its first line has come; then what is to be handed on first.
        self._held = bytearray()
        self._opened = False
        self._sent_ended = False

    async def _fetch(self) -> bytes:
        if not self._opened:
            await self._hold_first_line()
            head = Head(0)
            head.feed(bytes(self._held))
            if self._sent_ended:
                head.finish()
            self._held[:0] = self._write_fields(head)
            self._opened = True
        if self._held:
            chunk = bytes(self._held[:_CHUNK])
            del self._held[:_CHUNK]
            return chunk
        return b"" if self._sent_ended else await self._receive_sent()

    async def _hold_first_line(self) -> None:
        while not self._sent_ended and len(self._held) < MAX_NAME and b"\n" not in self._held:
            self._held += await self._receive_sent()

    async def _receive_sent(self) -> bytes:
        try:
            return await self._sent.receive()
        except trio.EndOfChannel:
            self._sent_ended = True
            # The reader of this stream has not received all of it yet.
            self._body.finished = False
            return b""

    async def aclose(self) -> None:
        """Give the message up."""
        self._closed = True
        await self._sent.aclose()
