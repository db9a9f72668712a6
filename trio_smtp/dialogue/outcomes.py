"""Exceptions become replies, in one place."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from trio_smtp.app.contexts import CloseReason
from trio_smtp.app.message import StreamConsumed
from trio_smtp.app.session import Session
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.replies import Reply

__all__ = ["CRASHED", "EndSession", "logger", "outcome", "what_goes_on"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: What a client learns of a handler's crash: nothing but that it may try again.
CRASHED = Reply(451, "Requested action aborted: local error in processing", "4.3.0")


class EndSession(Exception):
    """Ends the session from anywhere inside it.

    Args:
        reason: For `on_close` and the log.
        reply: The last words, or None.
    """

    def __init__(self, reason: CloseReason, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def outcome(exc: Exception, phase: str, session: Session) -> Reply:
    """The reply to what a handler raised.

    Args:
        exc: A refusal, a group of nothing but refusals (a handler's own nursery wraps what it raises), or a crash.
        phase: Where, for the log.
        session: Whose, for the log.

    Returns:
        The first refusal's reply; for anything else `CRASHED`, and the traceback is logged.
    """
    leaves = list(_leaves(exc))
    if all(isinstance(leaf, SMTPError) and not isinstance(leaf, StreamConsumed) for leaf in leaves):
        assert isinstance(leaves[0], SMTPError)
        return leaves[0].reply
    logger.error("session=%s %s handler failed", session.id, phase, exc_info=exc)
    return CRASHED


def what_goes_on(group: BaseExceptionGroup[BaseException], phase: str, session: Session) -> BaseException:
    """What is to be raised of a group that holds Cancelled or KeyboardInterrupt: these.

    What else is in it must not be lost from the log.
    """
    handled, rest = group.split(Exception)
    if isinstance(handled, Exception):
        outcome(handled, phase, session)
    return rest or group
