"""The body of a message: a trio memory channel that is consumed once.

A bare channel cannot tell "end of message" from "client vanished": both close it. So the receiving end,
`MessageStream`, *raises* when the body is not whole, and half a message can never look like a whole one.
What puts the octets in as they arrive, and says how they ended, is a `MessageSink` (sink.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_smtp.protocol.errors import SMTPError

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = [
    "MessageIncomplete",
    "MessageMalformed",
    "MessageStream",
    "MessageTooLarge",
    "StreamConsumed",
]

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
