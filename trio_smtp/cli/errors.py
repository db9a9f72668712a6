"""Exit codes of the command, and errors that are shown as one line."""

from __future__ import annotations

from collections.abc import Callable

from .logs import complain, log_crash

__all__ = ["PROGRAM", "RUNTIME", "USAGE", "CommandError", "reason_of", "reported"]

PROGRAM = "trio-smtp"

#: Exit codes: a mistake in what was asked for, and a refusal of the system.
USAGE, RUNTIME = 2, 1


class CommandError(Exception):
    """The command cannot do what it was asked for; the text is one line for people.

    Args:
        message: The line.
        status: The exit code, `USAGE` or `RUNTIME`.
    """

    def __init__(self, message: str, status: int = USAGE) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status


def reason_of(error: OSError | ValueError) -> str:
    """The reason in the words of the system, without the number and the file of an OSError."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def reported(command: Callable[[], int]) -> int:
    """Run a command; a `CommandError` becomes one line on stderr.

    Returns:
        The exit code.
    """
    try:
        return command()
    except CommandError as error:
        complain(str(error))
        return error.status
    except Exception:
        if not log_crash():
            raise
        return RUNTIME
