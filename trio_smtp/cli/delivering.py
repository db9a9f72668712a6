"""Runs a delivery for the commands that send, and says what has become of it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import trio

from trio_smtp.client import DeliveryError, ExtensionMissing, SendResult

from .errors import PROGRAM, RUNTIME, CommandError
from .output import say

__all__ = ["delivered"]


def delivered(deliver: Callable[[], Awaitable[SendResult]]) -> int:
    """Deliver one message; recipients that were refused are named on stderr.

    Args:
        deliver: Connects and sends.

    Returns:
        The exit code: 0 when every recipient has the message, 1 when one was refused, 130 when it was interrupted.

    Raises:
        CommandError: Nobody has the message, or it is not known; or a mistake in the arguments.
    """
    try:
        result = trio.run(deliver)
    except (DeliveryError, ImportError) as error:
        raise CommandError(_shown(error), RUNTIME) from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        return 130
    for recipient, reply in result.refused.items():
        say(sys.stderr, f"{PROGRAM}: {recipient} was refused: {reply.code} {' / '.join(reply.lines)}")
    return RUNTIME if result.refused else 0


def _shown(error: DeliveryError | ImportError) -> str:
    if isinstance(error, ExtensionMissing) and error.extension == "STARTTLS":
        return "the server does not offer STARTTLS: --tls none sends without it, for everybody on the way to read"
    return str(error)
