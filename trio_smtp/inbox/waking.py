"""Waits in an event loop, Trio's or asyncio's, for what happens in other threads."""

from __future__ import annotations

import anyio
from anyio.lowlevel import current_token

__all__ = ["Waker"]


class Waker:
    """Wakes one task of the event loop it is made in. `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        native = current_token().native_token
        # A trio.TrioToken, or an asyncio event loop.
        self._call = native.run_sync_soon if hasattr(native, "run_sync_soon") else native.call_soon_threadsafe  # type: ignore[attr-defined]

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
