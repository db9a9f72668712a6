"""Runs `on_reply` and `on_transaction_end`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

import trio
from trio.lowlevel import checkpoint_if_cancelled

from trio_smtp.app.application import Chain, Phase
from trio_smtp.app.hooks import ReplyContext
from trio_smtp.app.returned import refuse_returned
from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.hooks import HeldReply, Hooks
from trio_smtp.dialogue.log import logger
from trio_smtp.dialogue.outcomes import rest_of
from trio_smtp.dialogue.output import MAX_WAITING_OCTETS
from trio_smtp.dialogue.steps import EndSession

from .clock import HANDLERS, Clock
from .ending import run_last_handlers
from .wire import Wire

__all__ = ["reply_handlers", "settle"]


@final
class _ReplyHandlers:
    """Shows the replies that are held to the handlers of `on_reply`.

    Args:
        dialogue: Whose replies.
        hooks: Holds them.
        chain: The handlers.
        clock: Holds the handlers to their time.
    """

    __slots__ = ("_chain", "_clock", "_dialogue", "_hooks")

    def __init__(self, dialogue: Dialogue, hooks: Hooks, chain: Chain, clock: Clock) -> None:
        self._dialogue = dialogue
        self._hooks = hooks
        self._chain = chain
        self._clock = clock

    async def run(self) -> None:
        """Run them for each reply; the replies, or what is sent in their place, are in the output then.

        Raises:
            EndSession: The session ends after a reply; those behind it are dropped.
        """
        held, clock, dialogue = self._hooks.held, self._clock, self._dialogue
        if not held:
            return
        activity = clock.activity
        clock.arm(HANDLERS, dialogue.service.config.handler_timeout)
        while held:
            if await self._show(held.pop(0)) and not dialogue.machine.closed:
                while held:
                    dialogue.output.drop(held.pop())
                raise EndSession("refused")
        clock.resume(activity)

    async def _show(self, held: HeldReply) -> bool:
        """Run the handlers for one reply; True: the session ends after it."""
        context = ReplyContext(self._dialogue.session, held.verb, held.reply, held.octets)
        octets: bytes | None = None  # when the handlers fail, the reply is sent as it is
        try:
            returned: object = await self._chain(context)  # type: ignore[func-returns-value]
            if returned is not None:
                refuse_returned(context, returned)
            octets = context.octets
            await checkpoint_if_cancelled()
        except Exception as exc:
            if self._clock.aborted is None:
                logger.error("session=%s %s handler failed", context.session.id, Phase.REPLY.value, exc_info=exc)
            await checkpoint_if_cancelled()
        except BaseExceptionGroup as group:
            raise rest_of(group, Phase.REPLY.value, context.session) from None
        finally:
            self._dialogue.output.release(held, octets)
        return context.closes


def reply_handlers(dialogue: Dialogue, clock: Clock) -> Callable[[], Awaitable[None]] | None:
    """What shows held replies to `on_reply`; None: there are no handlers of it."""
    hooks = dialogue.hooks
    chain = dialogue.service.chains.get(Phase.REPLY) if hooks is not None else None
    return _ReplyHandlers(dialogue, hooks, chain, clock).run if hooks is not None and chain is not None else None


async def settle(wire: Wire, clock: Clock, dialogue: Dialogue, hooks: Hooks) -> None:
    """A command was answered: show the reply, and tell of the transaction that has ended with it."""
    end = hooks.next_end(dialogue.session, dialogue.machine)
    if end is None:
        await wire.show_replies()
        if dialogue.output.octets > MAX_WAITING_OCTETS:
            await wire.flush()
            await trio.lowlevel.checkpoint()
        return
    try:
        await wire.flush()
    finally:
        clock.disarm()
        await run_last_handlers(dialogue, Phase.TRANSACTION_END, end)
