"""The setting ``metrics``: mistakes in it are one line for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from trio_smtp import App

from .errors import RUNTIME, CommandError, reason_of

__all__ = ["measuring"]


@contextmanager
def measuring(apps: Iterable[App], place: str | None) -> Iterator[None]:
    """Serve metrics of the Apps that are served inside.

    Args:
        apps: Which are not served yet.
        place: ``HOST:PORT``; None: nowhere.

    Raises:
        CommandError: It is no such place, or cannot be had; or the extra is not installed.
    """
    if place is None:
        yield
        return
    try:
        from trio_smtp.plugins.metrics import CannotListen, metrics

        plugin = metrics(place)
    except ImportError as error:
        raise CommandError(f"metrics: {error}", RUNTIME) from error
    except ValueError as error:
        raise CommandError(f"metrics: {error}") from error
    for app in dict.fromkeys(apps):
        app.use(plugin)
    try:
        yield
    except CannotListen as error:
        raise CommandError(f"metrics: {reason_of(error)}", RUNTIME) from error
