"""The driver's share in a message: octets of the body go to handlers that are stepped by hand."""

from __future__ import annotations

import math
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

import trio

from trio_smtp import DataContext, Envelope, MessageStream, Reply
from trio_smtp.app.application import Phase
from trio_smtp.app.body import Body
from trio_smtp.app.message import MessageIncomplete, MessageMalformed, MessageTooLarge
from trio_smtp.app.returned import refuse_returned
from trio_smtp.dialogue.budget import discard_bound
from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.outcomes import reply_to
from trio_smtp.dialogue.steps import Chunk, EndSession, Message
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.framing import NEED_DATA, BodyChunk, EndOfBody, MalformedBody

__all__ = ["Delivery", "HandlerWaits", "Receiving", "call"]

T = TypeVar("T")
#: A part of the driver: stops where octets must be received, and goes on when they were fed.
Receiving = Generator[None, None, T]

_ACCEPTED = Reply(250, "Message accepted", "2.0.0")
_NOT_READ = Reply(451, "Message not taken", "4.3.0")
_TOO_LARGE = Reply(552, "Message exceeds the maximum size", "5.3.4")

#: What a handler that reads `BodyStream` is suspended with, until more of the body has come.
_MORE_OCTETS: Final = "more octets of the body"


class HandlerWaits(BaseException):
    """A handler waits for something that only an event loop can bring; no handler's crash, so it passes through."""


async def _await(handlers: Callable[..., Awaitable[T]], arguments: tuple[object, ...]) -> T:
    return await handlers(*arguments)


def call(handlers: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Run handlers to their end, in one step.

    Raises:
        HandlerWaits: They are not at their end after that.
    """
    coroutine = _await(handlers, arguments)
    try:
        wanted = coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise HandlerWaits(f"{arguments} waits for {wanted!r}")


@types.coroutine
def _more_octets() -> Generator[str, None, None]:
    yield _MORE_OCTETS


class BodyStream(MessageStream):
    """A `MessageStream` that is read without an event loop: where no octets are there, it suspends the coroutine.

    Attributes:
        chunks: What has come and was not read yet.
        ended: Nothing more comes; the shared `Body` says whether the message is whole.
    """

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._source = None
        self.chunks: deque[bytes] = deque()
        self.ended = False
        self._closed = False

    async def aclose(self) -> None:
        self._closed = True

    async def _next(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        while not self.chunks and not self.ended:
            await _more_octets()
        if not self.chunks:
            return self._reach_end(self._body)
        chunk = self.chunks.popleft()
        if self._taps:
            self._run_taps(chunk)
        return chunk


class Delivery:
    """One message on its way to its handlers, which run whenever octets have come.

    Args:
        dialogue: Lends its framer, which has been told that a body or a chunk comes.
        envelope: The transaction's.
        receive: Receives more octets and feeds them.
    """

    def __init__(self, dialogue: Dialogue, envelope: Envelope, receive: Callable[[], Receiving[None]]) -> None:
        config, chain = dialogue.service.config, dialogue.service.chains[Phase.DATA]
        self._dialogue = dialogue
        self._envelope = envelope
        self._receive = receive
        self._most = math.inf if config.max_message_size is None else config.max_message_size
        self._began = dialogue.now()
        self._body = Body()
        self._stream = BodyStream(self._body)
        self._context = DataContext(dialogue.session, _ACCEPTED, self._stream, envelope, config, self._body)
        self._handlers: Coroutine[Any, None, None] = _await(chain, (self._context,))
        self._dropped = 0
        #: What the handlers answered, and what was wrong with the message then.
        self._reply: Reply | None = None
        self._error: Exception | None = None
        self._settled = False
        self._step()

    # Octets in

    def take(self, step: Message | Chunk) -> Receiving[None]:
        """Take a body, or a chunk, to its end; the step's slots say how the message ended, when it has.

        Raises:
            EndSession: More octets were thrown away than a client may send in vain.
        """
        framer, bound, malformed = self._dialogue.framer, discard_bound(self._dialogue.service.config), False
        while not isinstance(event := framer.next_event(), EndOfBody):
            if event is NEED_DATA:
                yield from self._receive()
                if malformed:
                    self._dropped += framer.pending  # the framer hands on no more of the body
            elif isinstance(event, BodyChunk):
                self._put(event.data)
            else:
                assert isinstance(event, MalformedBody)
                malformed = True
                self._fail(MessageMalformed(event.reason))
            if self._dropped > bound:
                raise EndSession("abuse", self._reply if self._reply and self._reply.code >= 400 else _TOO_LARGE)
        if isinstance(step, Message) or step.last:
            self._end()
        elif self._reply is None and self._body.error is None:
            return
        self._settled = True
        step.accepted = self._context.recipients
        step.reply, step.recipients = self._verdict(), self._context.recipient_replies
        step.octets, step.began = self._body.length, self._began

    def _put(self, chunk: bytes) -> None:
        body = self._body
        body.length += len(chunk)
        if body.length > self._most and body.error is None:
            body.size_exceeded = True
            self._fail(MessageTooLarge())
        if self._reply is None and body.error is None:
            self._stream.chunks.append(chunk)
            self._step()
        else:
            self._dropped += len(chunk)

    def _fail(self, error: SMTPError) -> None:
        self._body.fail(error)
        self._end()

    def _end(self) -> None:
        if self._body.error is None:
            self._body.complete = True
        self._stream.ended = True
        self._step()

    def give_up(self) -> None:
        """The client does not finish the message; nothing happens where it was answered."""
        if not self._settled:
            self._settled = True
            self._fail(MessageIncomplete("the client did not finish it"))
            self._dialogue.service.stats.messages_incomplete += 1
            self._dialogue.log.message(self._envelope, self._body.length, self._began)

    # Handlers

    def _step(self) -> None:
        """Let the handlers go on, to their end or to where they need more octets."""
        if self._reply is not None:
            return
        try:
            wanted = self._handlers.send(None)
        except StopIteration as stop:
            self._reply = self._reply_of_handlers(stop.value)
        except Exception as exc:
            self._reply = reply_to(exc, Phase.DATA.value, self._dialogue.session)
        else:
            if wanted is not _MORE_OCTETS:
                raise HandlerWaits(f"on_data waits for {wanted!r}")
            return
        self._error = self._body.error

    def _reply_of_handlers(self, returned: object) -> Reply:
        try:
            if returned is not None:
                refuse_returned(self._context, returned)
        except TypeError as exc:
            return reply_to(exc, Phase.DATA.value, self._dialogue.session)
        return self._context.reply

    def _verdict(self) -> Reply:
        """The handlers' refusal, what was wrong with the message, or the 250 where it was read to its end."""
        reply, error, body, session = self._reply, self._error, self._body, self._dialogue.session
        assert reply is not None, "the handlers read on after the end"
        if reply.code in (421, 521):
            return reply
        if error is not None and (isinstance(error, SMTPError) or reply.code < 400):
            return reply_to(error, Phase.DATA.value, session)
        if reply.code >= 400 or body.finished:
            return reply
        return _NOT_READ if body.error is None else reply_to(body.error, Phase.DATA.value, session)
