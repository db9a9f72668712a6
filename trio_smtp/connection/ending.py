"""The end of a session: the last reply, closing, and `on_close`, each with a time limit of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.hooks import CloseContext, CloseReason, TransactionEndContext
from trio_smtp.app.session import Session
from trio_smtp.dialogue.dialogue import DRAINING, Dialogue
from trio_smtp.dialogue.log import facts, logger
from trio_smtp.dialogue.outcomes import rest_of
from trio_smtp.dialogue.steps import EndSession
from trio_smtp.net.closing import LINGER_SECONDS, linger
from trio_smtp.protocol.replies import Reply

from .clock import LINGER, Cause, Clock
from .wire import Wire

__all__ = ["finish", "last_words", "leave", "run_last_handlers"]

_IDLE_TIMEOUT = Reply(421, "Timeout waiting for the client", "4.4.2")
_HANDLER_TIMEOUT = Reply(421, "Timeout in processing", "4.3.0")

#: What a connection that was cancelled ends with: the reason, and the last words.
_WORDS: Mapping[Cause, tuple[CloseReason, Reply | None]] = {
    Cause.SILENCE: ("timeout", _IDLE_TIMEOUT),
    Cause.SESSION_OVER: ("timeout", _IDLE_TIMEOUT),
    Cause.SLOW_HANDLERS: ("timeout", _HANDLER_TIMEOUT),
    Cause.STUCK: ("timeout", None),
    Cause.NO_HANDSHAKE: ("tls", None),
    Cause.DRAIN: ("drained", DRAINING),
    Cause.ABORTED: ("aborted", None),
}

#: For the last words, and for `on_close` or `on_transaction_end`, in seconds.
_LAST_WORDS_LIMIT = 5.0
_LAST_HANDLERS_LIMIT = 30.0


def last_words(cause: Cause, *, silent: bool) -> tuple[CloseReason, Reply | None]:
    """What a connection that was cancelled ends with.

    Args:
        cause: Why it was cancelled.
        silent: A reply or a handshake was under way: another reply has no place there.

    Returns:
        The reason, and the last words or None.
    """
    reason, reply = _WORDS[cause]
    return reason, None if silent else reply


async def leave(wire: Wire, clock: Clock, session: Session) -> None:
    """After the last reply of a session that ends in order: send it, and wait a moment for the client to close."""
    try:
        await wire.flush_through()
        clock.arm_end(LINGER, LINGER_SECONDS)
        await linger(wire.stream)
    except EndSession:
        return  # the client did not wait for it
    except Exception as exc:
        _log_failure(session, exc)


async def finish(wire: Wire, dialogue: Dialogue, words: Reply | None, *, owed: bool) -> None:
    """Say the last words and close; the caller shields that.

    Args:
        wire: Closed at the end.
        dialogue: Has the replies that wait.
        words: The last words, or None.
        owed: Without last words, too, the replies that wait are sent.
    """
    session = dialogue.session
    try:
        if words is not None or owed:
            with trio.move_on_after(min(_LAST_WORDS_LIMIT, dialogue.service.config.send_timeout)) as limit:
                if words is not None:
                    dialogue.say_last(words)
                await wire.show_replies()
                if not wire.aborted:
                    await _say_last(wire, dialogue, limit)
    except Exception as exc:
        _log_failure(session, exc)
    finally:
        try:
            await wire.close()
        except Exception as exc:
            _log_failure(session, exc)


def _log_failure(session: Session, exc: Exception) -> None:
    logger.error("session=%s closing failed", session.id, exc_info=exc, extra=facts(session, "closing failed"))


async def _say_last(wire: Wire, dialogue: Dialogue, limit: trio.CancelScope) -> None:
    # The session's cancel scope has been left: only `limit` bounds what follows.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await wire.stream.send_all(dialogue.take_output())
        await wire.send_rest()
        limit.deadline = min(limit.deadline, trio.current_time() + LINGER_SECONDS)
        await linger(wire.stream)


async def run_last_handlers(dialogue: Dialogue, phase: Phase, context: CloseContext | TransactionEndContext) -> None:
    """Run `on_close` or `on_transaction_end` where there are handlers of it: shielded, for so long at most."""
    chain = dialogue.service.chains.get(phase)
    if chain is None:
        return
    with trio.CancelScope(deadline=trio.current_time() + _LAST_HANDLERS_LIMIT, shield=True) as limit:
        try:
            await chain(context)
        except BaseExceptionGroup as group:  # a handler's own nursery: its tasks failed while they were cancelled
            raise rest_of(group, phase.value, dialogue.session) from None
    if limit.cancelled_caught:
        dialogue.log.event(logging.ERROR, f"{phase.value} did not end in time")
