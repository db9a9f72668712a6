"""Waits in an event loop, asyncio's or Trio's, for what another thread does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol

import trio

__all__ = ["trio_token_here", "wait", "wait_to_the_end"]


class _Event(Protocol):
    def set(self) -> None: ...
    def wait(self) -> Awaitable[object]: ...


def trio_token_here() -> trio.lowlevel.TrioToken | None:
    """The token of the Trio loop that runs in this thread, or None. `in_trio_run` needs a newer trio."""
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


async def wait(future: Future[Any]) -> None:
    """Wait until a future is done, without blocking the event loop that runs in this thread.

    Raises:
        RuntimeError: Neither asyncio nor Trio runs here.
    """
    event, call_soon = _of_this_loop()

    def notify(_: object) -> None:
        with suppress(RuntimeError):  # the event loop has ended, and what waited in it
            call_soon(event.set)

    future.add_done_callback(notify)
    await event.wait()


async def wait_to_the_end(future: Future[Any], hurry: Callable[[], object]) -> None:
    """Wait until a future is done, whatever happens.

    Args:
        future: Is done soon after `hurry` was called.
        hurry: Called when the waiting task is cancelled. The cancellation goes on when the future is done.
    """
    try:
        await wait(future)
    except GeneratorExit:
        # The event loop has thrown the task away: nothing can be awaited any more.
        hurry()
        future.result()
        raise
    except BaseException:
        hurry()
        if trio_token_here() is not None:
            with trio.CancelScope(shield=True):
                await wait(future)
        else:
            await _wait_shielded(future)
        raise


async def _wait_shielded(future: Future[Any]) -> None:
    import asyncio

    while not future.done():
        with suppress(asyncio.CancelledError):  # the first one is raised in the end
            await wait(future)


def _of_this_loop() -> tuple[_Event, Callable[[Callable[[], object]], object]]:
    """A new event of this thread's loop, and how another thread has something called in that loop."""
    if (token := trio_token_here()) is not None:
        return trio.Event(), token.run_sync_soon
    import asyncio

    return asyncio.Event(), asyncio.get_running_loop().call_soon_threadsafe
