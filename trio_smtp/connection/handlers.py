"""Runs handlers in their time; what they raise becomes a reply."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import final

from trio.lowlevel import checkpoint_if_cancelled

from trio_smtp.app.returned import refuse_returned
from trio_smtp.app.session import Session
from trio_smtp.dialogue.outcomes import reply_to, rest_of
from trio_smtp.dialogue.output import Output
from trio_smtp.dialogue.steps import Ask, LookUp

from .clock import HANDLERS, Clock
from .wire import Wire

__all__ = ["Handlers"]


@final  # where the module is compiled, nothing can inherit from it
class Handlers:
    """Runs the handlers of one session.

    Args:
        session: For the log.
        wire: Replies leave through it before handlers hold them up.
        output: The replies that wait.
        clock: Holds handlers to their time.
        timeout: Their time, in seconds.
    """

    __slots__ = ("_clock", "_output", "_session", "_timeout", "_wire")

    def __init__(self, session: Session, wire: Wire, output: Output, clock: Clock, timeout: float) -> None:
        self._session = session
        self._wire = wire
        self._output = output
        self._clock = clock
        self._timeout = timeout

    def run(self, ask: Ask) -> Awaitable[None]:
        """Run handlers while nothing else is awaited; the answer is in ``ask.reply``."""
        if self._output.octets and self._output.due:
            return self._flush_and_run(ask)
        self._clock.arm(HANDLERS, self._timeout)
        return self.run_beside_reader(ask)

    async def _flush_and_run(self, ask: Ask) -> None:
        await self._wire.flush()
        self._clock.arm(HANDLERS, self._timeout)
        await self.run_beside_reader(ask)

    async def run_beside_reader(self, ask: Ask) -> None:
        """Run handlers while a reader awaits the client: the reader sends, and sees to the handlers' time."""
        try:
            returned = await ask.handlers(ask.context)
            if returned is not None:
                refuse_returned(ask.context, returned)
            ask.reply = ask.context.reply
        except Exception as exc:
            ask.reply = reply_to(exc, ask.where, self._session)
        except BaseExceptionGroup as group:
            raise rest_of(group, ask.where, self._session) from None
        # Handlers that caught their cancellation are cancelled all the same.
        await checkpoint_if_cancelled()

    async def look_up(self, step: LookUp) -> None:
        """Look up a secret; the answer is in the step."""
        self._clock.arm(HANDLERS, self._timeout)
        try:
            step.secret = await step.lookup(step.username, step.session)
        except Exception as exc:
            step.refusal = reply_to(exc, "scram_lookup", self._session)
        except BaseExceptionGroup as group:
            raise rest_of(group, "scram_lookup", self._session) from None
