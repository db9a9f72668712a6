"""A driver of the dialogue without an event loop: what trio_smtp/connection does under Trio, in plain calls.

A driver makes one `Service` for a server, and for each client a `Session`, a `Dialogue` and the iterator
``converse(dialogue)``. It performs the steps that the iterator yields, each before it asks for the next one, and
writes the answer into the step's own slot. It never throws into the iterator. What a driver has to do:

* Before the first step. Where the connection begins with a PROXY header, `proxied` takes it over; where it begins with
  TLS, `Dialogue.secured` is told what the handshake agreed on.
* Replies. `Dialogue.take_output` has them. They are sent before anything is awaited: octets, a pause, a handshake, the
  end; on FLUSH; and before handlers run when `Output.due` says so. Sent earlier they would do no harm but cost more.
* NEED_LINE, NEED_MORE. Receive octets and `Dialogue.feed` them. The time for a line (``command_timeout``) begins at
  NEED_LINE. A client that is gone ends the session with the reason "lost".
* Ask, LookUp. Run the coroutine function. What handlers raise becomes a reply by `reply_to`, what a look-up raises
  becomes the step's refusal by `reply_to`. The handlers' time is ``handler_timeout``.
* Pause. Wait; other clients do not.
* ShakeHands. Wrap the stream in TLS and shake hands. The dialogue has thrown away what it was fed before.
* Message. The framer is the driver's now: `Framer.next_event` gives the body, up to EndOfBody. Hand it to the handlers
  of `Phase.DATA` in a `DataContext`, read on to the end whatever they say, and put the verdict into the step. 250 is a
  promise: handlers gave it, and read the message to its end.
* BeginChunks, Chunk, EndChunks. The same in parts. Handlers stay suspended between the chunks, while commands are
  answered. A chunk has a verdict when it was the last one, or when the message has failed; EndChunks without one
  means that the client gave the message up, and the handlers must learn that it is not whole.
* Drop. Read a chunk to its EndOfBody, and end the session when it has more octets than the step allows.
* SETTLE. There are handlers of `on_command`, `on_reply` or `on_transaction_end` (`Dialogue.hooks`): run the last two.
* Leave. Send what waits, and close. No step follows.
* EndSession comes out of the iterator when the session ends in another way: say its reply, if it has one, and close.
* The end, whatever its reason: close the iterator, `Dialogue.close`, and run the handlers of `Phase.CLOSE` where
  `Dialogue.connected`. The iterator may be closed at any step, and more than once.
* A drain. Call `Dialogue.drain`; a client whose next line is awaited outside a transaction hears `DRAINING` at once.

This driver runs handlers by stepping their coroutines. Handlers may read the message, and are suspended while no octets
of it are there; whatever else they wait for is an error. Time passes only in pauses, and when `Driver.wait` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from tests.dialogue.delivery import Delivery, Receiving, call
from trio_smtp import CloseContext, Reply, Session
from trio_smtp.app.application import Phase
from trio_smtp.app.hooks import CloseReason
from trio_smtp.app.returned import refuse_returned
from trio_smtp.app.session import TLSInfo
from trio_smtp.dialogue.converse import converse
from trio_smtp.dialogue.dialogue import DRAINING, Dialogue
from trio_smtp.dialogue.outcomes import reply_to
from trio_smtp.dialogue.service import Service
from trio_smtp.dialogue.steps import (
    FLUSH,
    NEED_LINE,
    NEED_MORE,
    Ask,
    BeginChunks,
    Chunk,
    Drop,
    EndChunks,
    EndSession,
    Leave,
    LookUp,
    Message,
    Pause,
    ShakeHands,
    Step,
)
from trio_smtp.protocol.framing import NEED_DATA, BodyChunk
from trio_smtp.protocol.machine import State

__all__ = ["TLS", "Driver", "converse_with"]

#: What every handshake agrees on here.
TLS = TLSInfo("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256", "TLSv1.3", 128)
_DROPPED_TOO_MUCH = Reply(552, "Message exceeds the maximum size", "5.3.4")


class Driver:
    """One client's dialogue; the greeting has been said when it was made.

    Args:
        service: What the server's sessions share.
        session: The client's; None: one without addresses.
        tls: What handshakes agree on; None: they fail.
        on_step: Called with each step before it is performed. What it raises ends the session and comes out.

    Attributes:
        dialogue: The dialogue.
        session: Its session.
        seconds: The time.
        reason: Why the session ended; None: it goes on.
        idle: The next line is awaited.
        steps: The iterator.
        on_step: Called with each step before it is performed, or None.
    """

    def __init__(
        self,
        service: Service,
        session: Session | None = None,
        *,
        tls: TLSInfo | None = TLS,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.session = session if session is not None else Session(lmtp=service.config.lmtp)
        self.seconds = 0.0
        self.reason: CloseReason | None = None
        self.idle = False
        assert not service.hooked, "this driver runs no on_command, on_reply and on_transaction_end"
        self.dialogue = Dialogue(service, self.session, lambda: self.seconds)
        self.steps = converse(self.dialogue)
        self._tls = tls
        self.on_step = on_step
        self._said: list[bytes] = []
        self._delivery: Delivery | None = None
        self._main = self._run()
        if service.config.implicit_tls and tls is not None:
            self.dialogue.secured(tls)
        next(self._main, None)

    # The client's side

    def take(self) -> bytes:
        """What was said since the last call."""
        if not self._said:
            return b""
        said = b"".join(self._said)
        self._said.clear()
        return said

    def feed(self, octets: bytes) -> bytes:
        """Let octets arrive; returns what is said. Octets behind the end of the session are lost."""
        if self.reason is None and octets:
            self.dialogue.feed(octets)
            next(self._main, None)
        return self.take()

    def leave(self) -> bytes:
        """The client closes its end; returns what is said."""
        return self._interrupt(EndSession("lost"))

    def drain(self) -> bytes:
        """The server drains; returns what is said."""
        self.dialogue.drain()
        if self.idle and not self.dialogue.machine.in_transaction:
            return self._interrupt(EndSession("drained", DRAINING))
        return self.take()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds

    def close(self) -> None:
        """Cancel: end the session at the step it is at, without a word."""
        self._main.close()

    def _interrupt(self, end: EndSession) -> bytes:
        if self.reason is None:
            with suppress(StopIteration):
                self._main.throw(end)  # into this driver's own loop, never into the dialogue
        return self.take()

    # The loop

    def _run(self) -> Receiving[None]:
        words: Reply | None = None
        try:
            yield from self._perform_steps()
        except EndSession as end:
            self.reason, words = end.reason, end.reply
        finally:
            self._end(words)

    def _end(self, words: Reply | None) -> None:
        dialogue = self.dialogue
        self.reason = self.reason or "cancelled"
        self._give_up()
        self.steps.close()
        if words is not None and dialogue.machine.state is not State.CLOSED:
            dialogue.say(words)
            self._send()
        dialogue.close()
        chain = dialogue.service.chains.get(Phase.CLOSE)
        if chain is not None and dialogue.connected:
            call(chain, CloseContext(self.session, self.reason))

    def _perform_steps(self) -> Receiving[None]:
        for step in self.steps:
            if self.on_step is not None:
                self.on_step(step)
            if step is NEED_LINE or step is NEED_MORE:
                self.idle = True
                yield from self._receive()
                self.idle = False
            elif isinstance(step, Ask):
                self._ask(step)
            elif isinstance(step, Message | Chunk):
                yield from self._take(step)
            elif isinstance(step, BeginChunks):
                self._delivery = Delivery(self.dialogue, step.envelope, self._receive)
            elif isinstance(step, EndChunks):
                self._give_up()
            elif isinstance(step, Drop):
                yield from self._drop(step)
            elif isinstance(step, LookUp):
                self._look_up(step)
            else:
                self._send()
                self._perform(step)

    def _perform(self, step: Step) -> None:
        """A step before which the replies that wait have been sent."""
        if isinstance(step, Pause):
            self.seconds += step.seconds
        elif isinstance(step, ShakeHands):
            if self._tls is None:
                raise EndSession("tls")
            step.info = self._tls
        elif isinstance(step, Leave):
            self.reason = step.reason
        else:
            assert step is FLUSH

    def _send(self) -> None:
        if self.dialogue.output.octets:
            self._said.append(self.dialogue.take_output())

    def _receive(self) -> Receiving[None]:
        self._send()
        yield  # `feed` goes on here

    def _ask(self, step: Ask) -> None:
        if self.dialogue.output.due:
            self._send()
        try:
            returned = call(step.handlers, step.context)
            if returned is not None:
                refuse_returned(step.context, returned)
            step.reply = step.context.reply
        except Exception as exc:
            step.reply = reply_to(exc, step.where, self.session)

    def _look_up(self, step: LookUp) -> None:
        try:
            step.secret = call(step.lookup, step.username, step.session)
        except Exception as exc:
            step.refusal = reply_to(exc, "scram_lookup", self.session)

    # Messages

    def _take(self, step: Message | Chunk) -> Receiving[None]:
        if isinstance(step, Message):
            self._delivery = Delivery(self.dialogue, step.envelope, self._receive)
        assert self._delivery is not None
        yield from self._delivery.take(step)

    def _give_up(self) -> None:
        if self._delivery is not None:
            self._delivery.give_up()
            self._delivery = None

    def _drop(self, step: Drop) -> Receiving[None]:
        dropped, next_event = 0, self.dialogue.framer.next_event
        while True:
            event = next_event()
            if event is NEED_DATA:
                yield from self._receive()
            elif isinstance(event, BodyChunk):
                dropped += len(event.data)
                if dropped > step.most:
                    raise EndSession("abuse", _DROPPED_TOO_MUCH)
            else:
                return


def converse_with(service: Service, segments: Iterable[bytes]) -> bytes:
    """Let segments arrive, then the end of the client's side; returns all that was said."""
    driver = Driver(service)
    said = driver.take() + b"".join(map(driver.feed, segments))
    return said + driver.leave()
