"""What the command writes to stderr and stdout: lines of text, or with ``log_format = "json"`` a JSON object a line.

With JSON everything is on stderr: records of logging, warnings, errors of the command, and its start lines.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys

from trio_smtp.net.steady_log import SteadyHandler

from .output import LossyWriter, say

__all__ = ["JSONFormatter", "complain", "log_crash", "set_up_logging", "show"]

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_PROGRAM = "trio-smtp"
#: What every record has; the rest is what the caller has added.
_PLAIN = frozenset({*vars(logging.makeLogRecord({})), "asctime", "message", "taskName"})

# sys.stdout is looked up at each write: a program that runs the command may replace it.
_stdout = LossyWriter(lambda: sys.stdout)


class JSONFormatter(logging.Formatter):
    """Makes a line of JSON, in ASCII, of a record: time, level, logger, message, and what the record has besides."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        found = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        found |= {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


def set_up_logging(verbose: int, log_format: str, *, workers: int = 1) -> None:
    """Log to stderr, unless the program that runs the command has set up its own.

    Args:
        verbose: 0: warnings; 1: what happens; 2 and more: the dialogue as well.
        log_format: ``"text"`` or ``"json"``.
        workers: With several, lines of text have the process's number.
    """
    level = _LEVELS[min(verbose, len(_LEVELS) - 1)]
    handler = SteadyHandler(LossyWriter(lambda: sys.stderr))
    if log_format == "json":
        handler.setFormatter(JSONFormatter())
        logging.captureWarnings(True)
    else:
        number = "%(process)d " if workers > 1 else ""
        handler.setFormatter(logging.Formatter(f"%(asctime)s {number}%(levelname)s %(name)s: %(message)s"))
    if _json_handler() is not None:  # --log-format was looked at before the rest
        logging.getLogger().setLevel(level)
    logging.basicConfig(level=level, handlers=[handler])


def show(text: str) -> None:
    """Print a line at once, or drop it when its reader does not take it at once."""
    if not _logged(text, logging.INFO):
        _stdout.write(f"{text}\n")


def complain(text: str, program: str = _PROGRAM) -> None:
    """Write an error of the command to stderr."""
    if not _logged(text, logging.ERROR):
        say(sys.stderr, f"{program}: {text}")


def log_crash() -> bool:
    """Log the exception that is handled, with its traceback; False where stderr is text, which Python writes itself."""
    if _json_handler() is None:
        return False
    logging.getLogger(_PROGRAM).critical("the command ends by an error", exc_info=sys.exception())
    return True


def _logged(text: str, level: int) -> bool:
    """Write a line as a record of the command, whatever level is logged; False where stderr is text."""
    handler = _json_handler()
    if handler is None:
        return False
    handler.handle(logging.LogRecord(_PROGRAM, level, "", 0, "%s", (text,), None))
    return True


def _json_handler() -> logging.Handler | None:
    found = (each for each in logging.getLogger().handlers if isinstance(each.formatter, JSONFormatter))
    return next(found, None)
