"""asyncio_handler: handlers that run in the asyncio loop which has entered a `BackgroundServer`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast

from .asyncio_call import AsyncioCall, entered_loop
from .bridged import BridgedContext

__all__ = ["asyncio_handler"]

H = TypeVar("H", bound=Callable[..., Awaitable[None]])


def asyncio_handler(function: H) -> H:
    """Make a handler of a coroutine function that runs in asyncio: in the loop that entered the `BackgroundServer`.

    It works for every phase, and as a middleware. What is awaited of the context is awaited in asyncio: ``await
    ctx.stream.read()``, ``async for chunk in ctx.stream``, ``await ctx.spool()`` and what comes of it, ``await
    call_next()``. Everything else of a context is as in Trio. The handler runs in the context variables of the task
    that entered the block.

    Args:
        function: ``async def handler(ctx)`` or ``async def handler(ctx, call_next)``.

    Returns:
        The handler, to be registered with an App.

    Raises:
        TypeError: The function is no coroutine function.

    Error handling: what the function raises is raised in the server, so ``ctx.reject()`` refuses. When its task is
    cancelled by another one, its loop is closed, or it raises what is no `Exception`, the server gets a RuntimeError,
    and the client 451. So it does when no asyncio loop has entered the server.

    Cancellation: what ends the handler, such as `Config.handler_timeout`, cancels the asyncio task, and waits for its
    end. When the asyncio task is cancelled while it awaits something of its context, that is cancelled in Trio, and
    waited for; a chunk that has come in this moment is what the next `receive` returns.

    Resource handling: the context is for the function's own loop, until the function returns. What is awaited of it
    later, or in another loop, raises RuntimeError.

    Example:
        >>> @app.on_data
        ... @asyncio_handler
        ... async def store(ctx: DataContext) -> None:
        ...     async with session.post(url, data=await ctx.stream.read()) as response:
        ...         response.raise_for_status()
    """
    if not _is_coroutine_function(function):
        raise TypeError(f"asyncio_handler: {function!r} is not a coroutine function; write `async def handler(ctx)`")

    @wraps(function)
    async def handler(context: Any, *call_next: Callable[[], Awaitable[None]]) -> None:
        entered = entered_loop.get(None)
        if entered is None:
            raise RuntimeError("asyncio_handler: serve inside `async with BackgroundServer(app):` in asyncio")
        call = AsyncioCall(entered)
        await call.run(function, BridgedContext(call, context), *(partial(call.ask, each) for each in call_next))

    return cast("H", handler)


def _is_coroutine_function(function: object) -> bool:
    called = getattr(type(function), "__call__", None)  # noqa: B004 - an object may have an async `__call__`
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
