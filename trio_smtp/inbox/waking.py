"""Waits in an event loop, Trio's or asyncio's, for what happens in other threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import trio

__all__ = ["Waker"]


class Waker:
    """Wakes one task of the event loop it is made in. `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._call = _caller()

    def wake(self) -> None:
        """Have `wait` return.

        Raises:
            RuntimeError: The event loop has ended.
        """
        self._call(self._set)

    def _set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Wait for the next `wake`, or return at once when there was one since the last call."""
        await self._event.wait()
        self._event = anyio.Event()


def _caller() -> Callable[[Callable[[], object]], object]:
    """What calls a function in the event loop that runs now, from any thread."""
    try:
        return trio.lowlevel.current_trio_token().run_sync_soon
    except RuntimeError:
        import asyncio

        loop: Any = asyncio.get_running_loop()
        call: Callable[[Callable[[], object]], object] = loop.call_soon_threadsafe
        return call
