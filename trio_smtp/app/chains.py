"""How the handlers of a phase become one function, its chain, when serving begins."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from .hooks import CloseContext, TransactionEndContext
from .returned import refuse_returned

__all__ = ["CallNext", "Chain", "Filter", "Middleware", "Registered", "compile_chain", "logging_failures"]

_logger = logging.getLogger("trio_smtp")
_FAILED_AT_THE_END = "session=%s %s handler failed"

C = TypeVar("C")

#: What a middleware awaits to run the rest of the chain.
CallNext = Callable[[], Awaitable[None]]
#: A handler after which the chain goes on.
Filter = Callable[[C], Awaitable[None]]
#: A handler that awaits ``call_next()`` to run the rest of the chain; code after that runs on the way back.
Middleware = Callable[[C, CallNext], Awaitable[None]]
#: All handlers of a phase in one: call it with the phase's context and await what it returns.
Chain = Callable[[Any], Awaitable[None]]
#: A handler, and whether it is a middleware.
Registered = tuple[Callable[..., Awaitable[None]], bool]


def compile_chain(handlers: Sequence[Registered]) -> Chain:
    """Make one chain of a phase's handlers, from the last to the first."""
    steps: list[Chain] = []
    for handler, middleware in reversed(handlers):
        if middleware:
            steps = [_around(handler, _in_order(steps))]  # the middleware decides about all steps after it
        else:
            steps.insert(0, handler)
    return _in_order(steps)


def _in_order(steps: Sequence[Chain]) -> Chain:
    if len(steps) == 1:
        return steps[0]

    async def run(context: Any) -> None:
        for step in steps:
            returned: object = await step(context)  # type: ignore[func-returns-value] # None, unless written wrongly
            if returned is not None:
                refuse_returned(context, returned)

    return run


def _around(middleware: Middleware[Any], rest: Chain) -> Chain:
    def run(context: Any) -> Awaitable[None]:
        called = False

        async def call_next() -> None:
            nonlocal called
            if called:
                raise RuntimeError("call_next() was called twice")
            called = True
            returned: object = await rest(context)  # type: ignore[func-returns-value] # None, unless written wrongly
            if returned is not None:
                refuse_returned(context, returned)

        return middleware(context, call_next)  # the caller awaits it: an `async def run` would be one coroutine more

    return run


def logging_failures(phase: str, registered: Registered) -> Registered:
    """Wrap a handler of a phase that cannot refuse: what it raises is logged, and the handlers after it run, once."""
    handler, middleware = registered

    async def run_filter(context: CloseContext | TransactionEndContext) -> None:
        try:
            returned: object = await handler(context)  # type: ignore[func-returns-value]
            if returned is not None:
                refuse_returned(context, returned)
        except Exception:
            _logger.exception(_FAILED_AT_THE_END, context.session.id, phase)

    async def run_middleware(context: CloseContext | TransactionEndContext, call_next: CallNext) -> None:
        called = False

        async def note_call() -> None:
            nonlocal called
            called = True
            await call_next()

        try:
            returned: object = await handler(context, note_call)  # type: ignore[func-returns-value]
            if returned is not None:
                refuse_returned(context, returned)
        except Exception:
            _logger.exception(_FAILED_AT_THE_END, context.session.id, phase)
        else:
            return
        if not called:  # the middleware failed before it went on, so the others have not run yet
            await call_next()

    return (run_middleware if middleware else run_filter), middleware
