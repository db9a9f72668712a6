"""Logging that never ends a session: a record that the system has no descriptor or no room for is lost.

A `logging.handlers.WatchedFileHandler` after a rotation, and a `logging.FileHandler` with ``delay``, open their file
while they emit, and raise what that raises out of the call that logs. Newer versions of Python import modules when a
record is formatted for the first time. Both need descriptors, at the moment when there may be none: when the library
logs that accepting pauses for want of them.
"""

from __future__ import annotations

import errno
import logging
import sys
from functools import cache
from typing import Any

__all__ = ["SteadyHandler", "SteadyLogger", "steady_loggers"]

#: What the system, and the import of a module without descriptors, raises.
_REFUSED_BY_THE_SYSTEM = (OSError, ImportError)


class SteadyLogger(logging.Logger):
    """A logger whose calls return when a handler raises OSError or ImportError; the record is lost."""

    def handle(self, record: logging.LogRecord) -> None:
        """Hand a record to the handlers, as `logging.Logger` does."""
        try:
            super().handle(record)
        except _REFUSED_BY_THE_SYSTEM:
            return  # saying so would need what the system has just refused


class SteadyHandler(logging.StreamHandler[Any]):
    """A `logging.StreamHandler` that drops a record in silence when the system refuses what writing it needs."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Report a record that cannot be formatted, which is a mistake in the call, and nothing else."""
        if not isinstance(sys.exception(), _REFUSED_BY_THE_SYSTEM):
            super().handleError(record)


def steady_loggers(name: str = "trio_smtp") -> None:
    """Make a logger, and those below it that exist, `SteadyLogger` objects.

    A logger whose class the program has chosen (`logging.setLoggerClass`) stays as it is. What formatting a record
    imports is imported now, once in the process.

    Args:
        name: The logger's name.
    """
    for each in (name, *(known for known in logging.Logger.manager.loggerDict if known.startswith(f"{name}."))):
        logger = logging.getLogger(each)
        if type(logger) is logging.Logger:
            logger.__class__ = SteadyLogger
    _format_once()


@cache
def _format_once() -> None:
    """Format a record with everything that a traceback may have, so that formatting imports nothing later."""
    error = OSError(errno.EMFILE, "")
    error.__context__ = NameError("", name="")
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for exc in (error, ExceptionGroup("", [error, ImportError("", name="")])):
        try:
            raise exc
        except (OSError, ExceptionGroup) as raised:
            information = (type(raised), raised, raised.__traceback__)
            formatter.format(logging.LogRecord("", logging.ERROR, "", 0, "", (), information))
