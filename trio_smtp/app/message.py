"""The body of a message: a trio memory channel that is consumed once.

A bare channel cannot tell "end of message" from "client vanished": both close it. So the receiving end,
`MessageStream`, *raises* when the body is not whole, and half a message can never look like a whole one.
The connection holds the sending end; both ends share a `Body`, in which the connection notes how the message ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint_if_cancelled

from trio_smtp.protocol.errors import SMTPError

from .body import Body
from .parsing import MessageUnparsable, parse_message

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = [
    "MessageIncomplete",
    "MessageMalformed",
    "MessageStream",
    "MessageTooLarge",
    "MessageUnparsable",
    "StreamConsumed",
    "has_begun",
]


class StreamConsumed(SMTPError):
    """The message was read already; a message can be read once."""

    def __init__(self) -> None:
        super().__init__("Internal error: the message was read twice", 451, "4.3.0")


class MessageTooLarge(SMTPError):
    """The message has more octets than are allowed: 552 5.3.4 (RFC 1870 section 6.3)."""

    def __init__(self) -> None:
        super().__init__("Message exceeds the maximum size", 552, "5.3.4")


class MessageMalformed(SMTPError):
    """The body broke a rule of the wire (a bare CR or LF where they are refused, a line too long): 550 5.6.0.

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

    Args:
        body: What the sending end shares with this one; None: a stream without a sending end, which is closed.

    Error handling: when the body is not whole, every way of reading it raises `MessageTooLarge`,
    `MessageMalformed` or `MessageIncomplete`. Swallowing that error does not change the reply.

    Resource handling: the server closes the stream when the handlers have returned, so a handler need not. A task that
    keeps the stream longer gets `trio.ClosedResourceError`.
    """

    __slots__ = ("_begun", "_body", "_consumed", "_source", "_taps", "_wait_before")

    def __init__(self, body: Body | None = None) -> None:
        self._body = Body() if body is None else body
        # Whose channel the chunks come from; None: `_next` gives them. A `_next` for all would be a coroutine a chunk.
        self._source = body
        self._begun = False
        self._consumed = False
        self._taps: list[Callable[[bytes], None]] = []
        self._wait_before: Callable[[], Awaitable[None]] | None = None

    @property
    def byte_length(self) -> int:
        """Octets received from the client so far, dots unstuffed."""
        return self._body.length

    @property
    def size_exceeded(self) -> bool:
        """The message has more than ``max_message_size`` octets."""
        return self._body.size_exceeded

    @property
    def complete(self) -> bool:
        """The end mark was seen and nothing was wrong."""
        return self._body.complete

    @property
    def finished(self) -> bool:
        """A handler has read the message to its end, or discarded the rest on purpose."""
        return self._body.finished

    def tap(self, callback: Callable[[bytes], None]) -> None:
        """See the octets without consuming them.

        Args:
            callback: Called with every chunk when the handler that reads the message receives it, and with ``b""`` at
                the end of a whole message. What it raises refuses the message, as if a handler had raised it.
        """
        self._taps.append(callback)

    def before_receive(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Have a function awaited before each receive, to slow the message down: a client that sends faster is held up.

        Args:
            wait: Awaited before each chunk, and before the end, is received; another call replaces it. What it raises
                comes out of the receive, and no chunk is lost. Its time is that of the handlers
                (``Config.handler_timeout``).
        """
        self._wait_before, self._source = wait, None

    async def receive(self) -> bytes:
        """Receive the next chunk.

        Returns:
            1 to 65,536 octets.

        Raises:
            trio.EndOfChannel: The message is whole, and all of it was received.
            trio.ClosedResourceError: The stream was closed.
            MessageTooLarge: More octets than allowed.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.

        Cancellation: no chunk is lost; the next call returns it. A chunk that is ready is returned without a pass of
        the scheduler.
        """
        self._begun = True
        source = self._source
        if source is None:
            chunk = await self._next()
        else:
            await checkpoint_if_cancelled()
            chunk = self._take(source) if source.left is not None else await self._wait(source)
        if not chunk:
            raise trio.EndOfChannel
        return chunk

    async def __anext__(self) -> bytes:
        self._begun = True
        source = self._source
        if source is None:
            chunk = await self._next()
        else:
            await checkpoint_if_cancelled()
            chunk = self._take(source) if source.left is not None else await self._wait(source)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> bytes:
        """Return the next chunk, or ``b""`` at the end, of a stream whose ``_source`` is None.

        A subclass whose chunks come from elsewhere sets ``_source = None`` and overrides this method.
        """
        await checkpoint_if_cancelled()
        if self._wait_before is not None:
            await self._wait_before()
        body = self._body
        return self._take(body) if body.left is not None else await self._wait(body)

    def _take(self, body: Body) -> bytes:
        """Return the next chunk of a message that is in the channel as a whole, or ``b""`` at its end."""
        if body.channel is None:
            raise trio.ClosedResourceError
        if not body.left:
            return self._reach_end(body)
        chunk = body.channel.receive_nowait()
        # Decrement only after the receive: if it raised, the chunk is still in the channel and must stay counted.
        body.left -= 1
        if self._taps:
            self._run_taps(chunk)
        return chunk

    async def _wait(self, body: Body) -> bytes:
        """Return the next chunk of a message that is still coming, or ``b""`` at its end."""
        if body.channel is None:
            raise trio.ClosedResourceError
        try:
            try:
                chunk = body.channel.receive_nowait()
            except trio.WouldBlock:
                chunk = await body.channel.receive()
        except trio.EndOfChannel:
            return self._reach_end(body)
        if self._taps:
            self._run_taps(chunk)
        return chunk

    def _reach_end(self, body: Body) -> bytes:
        if body.error is not None:
            raise body.error
        if not body.finished:
            if self._taps:
                self._run_taps(b"")
            body.finished = True
        return b""

    def _run_taps(self, chunk: bytes) -> None:
        try:
            for tap in self._taps:
                tap(chunk)
        except Exception as exc:
            # The error is kept, so that a handler which swallows it does not change the reply.
            self._body.fail(exc)
            self._body.close()
            if isinstance(exc, (trio.EndOfChannel, StopAsyncIteration)):
                # The reader would take either of them for the end of a whole message.
                raise RuntimeError(f"a tap raised {type(exc).__name__}") from exc
            raise

    def __aiter__(self) -> MessageStream:
        """Iterate over the chunks; once.

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
        """Read the whole message, or what `receive` has left of it.

        Args:
            limit: The most octets to take; None: no limit but the server's.

        Returns:
            All the octets, in memory.

        Raises:
            MessageTooLarge: There are more than `limit` octets, or more than the server allows.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.
            StreamConsumed: The message was read already.
            trio.ClosedResourceError: The stream was closed.

        Cancellation: what was read so far is lost, and another `read` raises `StreamConsumed`. The reply is 451 unless
        `discard` or `receive` takes the rest.
        """
        chunks: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if limit is not None and size > limit:
                error = MessageTooLarge()
                self._body.fail(error)
                raise error
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def read_message(self) -> EmailMessage:
        """Read the whole message and parse it with the policy ``email.policy.SMTP``, made tolerant.

        A field that its parser cannot take is given as an unstructured one: its text, ``params == {}``,
        ``content_type`` and ``content_disposition`` None, no ``addresses``. So neither reading a field raises, nor
        ``get_body``, ``iter_attachments``, or ``get_content`` of a part that is no multipart; text whose character
        set is unknown is read as UTF-8 or Latin-1.

        Raises:
            MessageUnparsable: Its parts are nested too deeply, or the parser failed.
            MessageTooLarge: More octets than allowed.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.
            StreamConsumed: The message was read already.
            trio.ClosedResourceError: The stream was closed.

        Cancellation: as with `read`. A message of 65,536 octets or more, or with a header section of more than 4,096,
        is parsed in a worker thread; a cancellation that comes meanwhile does not stop the thread, and takes effect at
        the next checkpoint after this call.

        Resource handling: the octets and the parsed message are in memory at the same time. The worker thread counts
        against trio's default thread limiter.
        """
        return await parse_message(await self.read())

    async def discard(self) -> None:
        """Receive the rest of the message and throw it away, on purpose: the reply stays positive.

        Raises:
            MessageTooLarge: More octets than allowed.
            MessageMalformed: The body broke a rule.
            MessageIncomplete: The client did not finish.
            trio.ClosedResourceError: The stream was closed.

        Cancellation: another call goes on with the rest; without one the reply is 451.

        Resource handling: holds one chunk at a time. Waits until the client has sent the whole message.
        """
        self._consumed = True
        with suppress(trio.EndOfChannel):
            while True:
                await self.receive()

    async def aclose(self) -> None:
        """Give the message up: the reply becomes 451 unless the message was read to its end before.

        Cancellation: the stream is closed in any case.
        """
        self._body.close()
        await trio.lowlevel.checkpoint()


def has_begun(stream: MessageStream) -> bool:
    """Whether reading a stream has begun, in whatever way."""
    return stream._begun or stream._consumed  # noqa: SLF001 - for what puts another stream in its place
