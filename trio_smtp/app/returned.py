"""What becomes of a handler that returns something: handlers refuse by `reject()`, and return None."""

from __future__ import annotations

import logging

from .contexts import Context
from .data_context import DataContext
from .hooks import CloseContext, ReplyContext, TransactionEndContext

__all__ = ["refuse_returned"]

_logger = logging.getLogger("trio_smtp")


def refuse_returned(context: Context | CloseContext | ReplyContext | TransactionEndContext, returned: object) -> None:
    """Treat a value that a handler has returned as the handler's crash.

    Handlers of aiosmtpd refuse by what they return; accepting in silence would make an open relay of them. A message
    that was read to its end is not refused, because the client would send it again and again: the error is logged.

    Args:
        context: What the handler was given.
        returned: What it returned.

    Raises:
        TypeError: The message was not read to its end, or the phase is another.
    """
    error = f"a handler returned {returned!r}, which changes nothing: use ctx.reject() to refuse, and return None"
    if not isinstance(context, DataContext) or not context.stream.finished:
        raise TypeError(error)
    _logger.error(
        "session=%s on_data: the message was read to its end, and the reply stands: %s", context.session.id, error
    )
