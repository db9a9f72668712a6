"""What a handler in asyncio is given in place of its context: the same object, whose awaitables are asyncio's.

A stand-in hands each attribute on. Async methods run in Trio, by an `AsyncioCall`; other methods are called where they
stand, because the Trio task of the handler waits meanwhile; streams and spooled messages that come out have a stand-in
of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial, wraps
from typing import Any, NoReturn, Self

from trio_smtp import Aborted, SpooledMessage

from .asyncio_call import AsyncioCall

__all__ = ["BridgedContext"]


def _bridged(call: AsyncioCall, value: Any) -> Any:
    """A stand-in for a value that waits for Trio, and any other value as it is."""
    if hasattr(type(value), "__anext__"):
        return _BridgedStream(call, value)
    if isinstance(value, SpooledMessage):
        return _Bridged(call, value)
    if inspect.iscoroutinefunction(value):
        return _asking(call, value)
    if inspect.ismethod(value):
        return _calling(call, value)
    return value


class _Bridged:
    """Stands for a context, or what belongs to one; ``isinstance`` takes it for that."""

    __slots__ = ("_call", "_real")

    _call: AsyncioCall
    _real: Any

    def __init__(self, call: AsyncioCall, real: Any) -> None:
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "_real", real)

    @property  # type: ignore[misc] # as unittest.mock does it
    def __class__(self) -> type:
        return type(self._real)

    def __getattr__(self, name: str) -> Any:
        return _bridged(self._call, getattr(self._real, name))

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, _real_of(self._call, value))

    def __repr__(self) -> str:
        return repr(self._real)

    def __eq__(self, other: object) -> bool:
        return self._real is _real_of(self._call, other)

    def __hash__(self) -> int:
        return hash(self._real)


class BridgedContext(_Bridged):
    """Stands for a context."""

    __slots__ = ()

    def abort(self, *, reset: bool = True) -> NoReturn:
        """End the connection without a word; see `Context.abort`."""
        real = self._real

        def abort() -> None:
            with suppress(Aborted):
                real.abort(reset=reset)

        self._call.tell(abort)
        raise Aborted


class _BridgedStream(_Bridged):
    """Stands for a message that is read, or a spooled one's chunks.

    A chunk that comes while the task that wants it is cancelled is kept for the next one.
    """

    __slots__ = ()

    def __aiter__(self) -> Self:
        self._real.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        return await self._next(self._real.__anext__)

    async def receive(self) -> bytes:
        """Receive the next chunk; see `MessageStream.receive`."""
        return await self._next(self._real.receive)

    async def read(self, limit: int | None = None) -> bytes:
        """Read the rest; see `MessageStream.read`."""
        kept = self._call.kept.pop(id(self._real), b"")
        rest: bytes = await self._call.ask(self._real.read, None if limit is None else limit - len(kept))
        return kept + rest

    async def _next(self, function: Callable[[], Awaitable[bytes]]) -> bytes:
        def keep(chunk: bytes) -> None:
            self._call.kept[id(self._real)] = chunk

        kept: bytes | None = self._call.kept.pop(id(self._real), None)
        if kept is None:
            kept = await self._call.ask(function, keep=keep)
        return kept

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self._call.ask(self._real.aclose)


class _FromAsyncio:
    """An async iterator of asyncio's, for Trio."""

    def __init__(self, call: AsyncioCall, iterator: AsyncIterator[Any]) -> None:
        self._call = call
        self._iterator = iterator

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._call.another().run(self._iterator.__anext__)


def _asking(call: AsyncioCall, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def ask(*args: Any, **options: Any) -> Any:
        run = partial(function, *_reals_of(call, args), **options)
        return _bridged(call, await call.ask(run))

    return ask


def _calling(call: AsyncioCall, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call_here(*args: Any, **options: Any) -> Any:
        return _bridged(call, function(*_reals_of(call, args), **options))

    return call_here


def _reals_of(call: AsyncioCall, values: Iterable[Any]) -> list[Any]:
    return [_real_of(call, value) for value in values]


def _real_of(call: AsyncioCall, value: Any) -> Any:
    """What a stand-in stands for; what Trio can iterate over, of an asynchronous iterable; other values as they are."""
    if isinstance(value, _Bridged):
        return value._real  # noqa: SLF001 - this module's own
    return _FromAsyncio(call, aiter(value)) if hasattr(type(value), "__aiter__") else value
