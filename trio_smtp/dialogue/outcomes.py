"""How handlers ended: turns what they raised into a reply."""

from __future__ import annotations

from collections.abc import Iterator

from trio_smtp.app.message import StreamConsumed
from trio_smtp.app.session import Session
from trio_smtp.protocol.errors import SMTPError
from trio_smtp.protocol.replies import Reply

from .log import facts, logger

__all__ = ["CRASHED", "as_error", "reply_to", "rest_of"]

#: What a client learns of a handler's crash: nothing but that it may try again.
CRASHED = Reply(451, "Requested action aborted: local error in processing", "4.3.0")


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def reply_to(exc: Exception, where: str, session: Session) -> Reply:
    """The reply to what a handler raised.

    Args:
        exc: A refusal, a group of nothing but refusals (a handler's own nursery wraps what it raises), or a crash.
        where: The phase, for the log.
        session: Whose, for the log.

    Returns:
        The first refusal's reply; for anything else `CRASHED`, and the traceback is logged.
    """
    leaves = list(_leaves(exc))
    if all(isinstance(leaf, SMTPError) and not isinstance(leaf, StreamConsumed) for leaf in leaves):
        assert isinstance(leaves[0], SMTPError)
        return leaves[0].reply
    logger.error(
        "session=%s %s handler failed", session.id, where, exc_info=exc, extra=facts(session, "handler failed")
    )
    return CRASHED


def as_error(reply: Reply) -> SMTPError:
    """Make an exception of a refusal where it is raised: one that is kept elsewhere would keep the frames it passes."""
    return SMTPError(reply.lines, reply.code, reply.enhanced)


def rest_of(group: BaseExceptionGroup[BaseException], where: str, session: Session) -> BaseException:
    """What is to be raised on of a group that holds Cancelled or KeyboardInterrupt: these alone.

    The other exceptions of the group are logged.
    """
    handled, rest = group.split(Exception)
    if isinstance(handled, Exception):
        reply_to(handled, where, session)
    return rest or group
