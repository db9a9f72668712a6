"""The end of a session: what is said last, and the last acts, each with a limit of its own."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import CloseContext, CloseReason
from trio_smtp.dialogue.outcomes import EndSession, logger
from trio_smtp.net.closing import LINGER_SECONDS, linger
from trio_smtp.protocol.replies import Reply

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["DRAINING", "finish", "interruption", "take_leave"]

DRAINING = Reply(421, "Service shutting down", "4.3.2")
_IDLE_TIMEOUT = Reply(421, "Timeout waiting for the client", "4.4.2")
_HANDLER_TIMEOUT = Reply(421, "Timeout in processing", "4.3.0")

#: For the last words, and for `on_close`, in seconds.
_LAST_WORDS_LIMIT = 5.0
_CLOSE_HANDLERS_LIMIT = 30.0


async def take_leave(conn: Connection) -> None:
    """After the last reply of a session that ends in order."""
    try:
        await conn.flush_through()
        conn.arm("leave", LINGER_SECONDS)
        await linger(conn.stream)
    except EndSession:
        return  # the client did not wait for it
    except Exception as exc:
        logger.error("session=%s closing failed", conn.session.id, exc_info=exc)


def interruption(conn: Connection) -> tuple[CloseReason, Reply | None]:
    """Why the scope was cancelled, and what is to be said of it."""
    if conn.activity == "leave":
        return conn.reason, None
    if conn.draining and conn.activity in ("send", "tls", "proxy"):
        return "drained", None  # in the middle of a reply or a handshake there is no place for another
    if conn.activity == "tls":
        conn.stats.tls_failures += 1
        conn.log(logging.WARNING, "the TLS handshake did not end in time")
        return "tls", None
    if conn.draining:
        return "drained", DRAINING
    if conn.activity in ("send", "proxy"):
        return "timeout", None
    timed_out = trio.current_time() >= conn.session_end or conn.activity != "handler"
    return "timeout", _IDLE_TIMEOUT if timed_out else _HANDLER_TIMEOUT


async def finish(conn: Connection, last_words: Reply | None) -> None:
    """Say the last words, close, and run `on_close`; the caller shields that."""
    try:
        if last_words is not None or conn.owes_replies:
            with trio.move_on_after(min(_LAST_WORDS_LIMIT, conn.config.send_timeout)) as limit:
                if last_words is not None:
                    conn.write(last_words)
                await _say_goodbye(conn, limit)
    except Exception as exc:
        logger.error("session=%s closing failed", conn.session.id, exc_info=exc)
    finally:
        await _close(conn)
    if conn.seen and Phase.CLOSE in conn.chains:
        await _run_close_handlers(conn)


async def _say_goodbye(conn: Connection, limit: trio.CancelScope) -> None:
    # No scope of the session's is open any more: its deadline is nobody's.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, EndSession):
        await conn.stream.send_all(conn.take_replies())
        await conn.send_waiting()
        limit.deadline = min(limit.deadline, trio.current_time() + LINGER_SECONDS)
        await linger(conn.stream)


async def _close(conn: Connection) -> None:
    try:
        await conn.close()
    except Exception as exc:
        logger.error("session=%s closing failed", conn.session.id, exc_info=exc)


async def _run_close_handlers(conn: Connection) -> None:
    with trio.move_on_after(_CLOSE_HANDLERS_LIMIT) as limit:
        await conn.chains[Phase.CLOSE](CloseContext(conn.session, conn.reason))
    if limit.cancelled_caught:
        conn.log(logging.ERROR, "on_close did not end in time")
