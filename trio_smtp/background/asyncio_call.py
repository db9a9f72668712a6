"""A call from Trio into asyncio, and calls back from it.

A Trio task, that of a handler, waits in `AsyncioCall.run` while an asyncio task executes the coroutine function. What
that function awaits of Trio's, such as a message, runs in a nursery of the waiting task (`AsyncioCall.ask`), so it
belongs to the handler: its time limit holds, and what the connection cancels is cancelled. Cancellation crosses in both
directions, and whoever cancels waits until the other side has ended.

Each side reaches the other by its loop's thread-safe callback alone, and those arrive in the order they were sent.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncioCall", "EnteredLoop", "entered_loop"]

T = TypeVar("T")

#: Seconds between two looks at a loop in which something is waited for: a loop does not tell that it is closed.
_LOOK_SECONDS = 0.5
#: After so many looks in a row at a loop that does not run, a cancelled task in it is not waited for any longer.
_LOOKS = 2


class EnteredLoop:
    """The asyncio loop that has entered a `BackgroundServer`; the handlers of `asyncio_handler` run in it.

    Made in that loop.

    Attributes:
        loop: The loop.
        context: The context of the task that has entered the block, for the tasks of handlers.
        abandoned: Nothing runs in the loop any more.
    """

    def __init__(self) -> None:
        import asyncio

        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.context: contextvars.Context = contextvars.copy_context()
        self.abandoned: bool = False

    def abandon(self) -> None:
        """Do not wait for tasks of the loop any longer: its thread is about to block."""
        self.abandoned = True

    @property
    def gone(self) -> bool:
        """Nothing will run in the loop any more."""
        return self.abandoned or self.loop.is_closed()

    def runs_here(self) -> bool:
        """Whether this is called inside the loop."""
        import asyncio

        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False


#: The loop that has entered the server which this Trio loop serves.
entered_loop: trio.lowlevel.RunVar[EnteredLoop | None] = trio.lowlevel.RunVar("trio_smtp.background.entered_loop")


class AsyncioCall:
    """One call of a coroutine function in asyncio; made by the Trio task that waits for it.

    Args:
        entered: The loop.

    Attributes:
        kept: What iterators have given to a task that was cancelled meanwhile, by the iterator's id.
    """

    def __init__(self, entered: EnteredLoop) -> None:
        self._entered = entered
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._cancel_sent = False
        self._value: Any = None
        self._error: Exception | None = None
        # Runs what the coroutine function asks for; None before and after.
        self._nursery: trio.Nursery | None = None
        self.kept: dict[int, bytes] = {}

    # In Trio

    async def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call the function in asyncio, and wait.

        Returns:
            What it returns. What it raises is raised here.

        Raises:
            RuntimeError: The loop was closed, or the asyncio task was cancelled by another one, or has raised what is
                no `Exception`.

        Cancellation: the asyncio task is cancelled, and waited for.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                if self._send(self._begin, function, args):
                    await self._wait()
                else:
                    self._error = _closed()
                self._nursery.cancel_scope.cancel()
        except BaseException as exc:
            if self._error is None or not _is_cancellation(exc):
                raise
        finally:
            self._nursery = None
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    async def _wait(self) -> None:
        try:
            while not await self._ends_soon():
                if self._entered.gone:
                    self._error = _closed()
                    return
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                self.cancel_task()
                idle = 0
                while idle < _LOOKS and not self._entered.gone and not await self._ends_soon():
                    idle = 0 if self._entered.loop.is_running() else idle + 1
            raise

    async def _ends_soon(self) -> bool:
        with trio.move_on_after(_LOOK_SECONDS):
            await self._ended.wait()
        return self._ended.is_set()

    def cancel_task(self) -> None:
        """Cancel the asyncio task, once: a second time would interrupt what it does at its end."""
        if not self._cancel_sent:
            self._cancel_sent = True
            self._send(self._cancel_now)

    def another(self) -> AsyncioCall:
        """A call into the same loop."""
        return AsyncioCall(self._entered)

    def start(self, request: _Request[Any]) -> None:
        """Run what the coroutine function has asked for."""
        # A nursery that is cancelled may be closed before its block is left, and then takes no task.
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            request.refuse(RuntimeError("the handler has ended, and its context with it"))
        else:
            self._nursery.start_soon(request.run)

    def _send(self, function: Callable[..., object], *args: object) -> bool:
        """Have a function called in the asyncio loop; False where that is closed."""
        try:
            self._entered.loop.call_soon_threadsafe(function, *args, context=self._entered.context.copy())
        except RuntimeError:
            return False
        return True

    # In asyncio

    def _begin(self, function: Callable[..., Awaitable[Any]], args: tuple[object, ...]) -> None:
        async def call() -> Any:
            return await function(*args)

        self._task = self._entered.loop.create_task(call(), name=f"asyncio_handler {_name_of(function)}")
        self._task.add_done_callback(self._end)

    def _cancel_now(self) -> None:
        assert self._task is not None  # `_begin` was sent first
        self._task.cancel()

    def _end(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._fail(RuntimeError("the asyncio task of the handler was cancelled"), None)
        elif (error := task.exception()) is None:
            self._value = task.result()
        elif isinstance(error, Exception):
            self._error = error
        else:
            self._fail(RuntimeError(f"the asyncio task of the handler ended by {type(error).__name__}"), error)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._ended.set)

    def _fail(self, error: RuntimeError, cause: BaseException | None) -> None:
        if not self._cancel_sent:  # otherwise Trio's own cancellation goes on
            error.__cause__ = cause
            self._error = error

    async def ask(
        self,
        function: Callable[..., Awaitable[T]],
        *args: object,
        keep: Callable[[T], object] | None = None,
    ) -> T:
        """Run an async function of Trio's for the coroutine function, in the nursery of the waiting task.

        Args:
            function: For Trio.
            args: Its arguments.
            keep: Called with what the function has returned although it was cancelled.

        Raises:
            RuntimeError: The handler or the server has ended; or this is another loop or thread than the handler's.

        Cancellation: the function is cancelled, and waited for.
        """
        if not self._entered.runs_here():
            raise RuntimeError("a context is for the asyncio loop that its handler runs in: await it there")
        request = _Request(self, self._entered.loop, function, args)
        self.tell(self.start, request)
        return await request.result(keep)

    def tell(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in Trio.

        Raises:
            RuntimeError: The server has ended.
        """
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            raise RuntimeError("the server has ended, and this context with it") from None


class _Request(Generic[T]):
    """An async function of Trio's that asyncio waits for.

    Args:
        call: Runs it.
        loop: Waits for it.
        function: The function.
        args: Its arguments.
    """

    def __init__(
        self,
        call: AsyncioCall,
        loop: asyncio.AbstractEventLoop,
        function: Callable[..., Awaitable[T]],
        args: tuple[object, ...],
    ) -> None:
        self._call = call
        self._loop = loop
        self._function = function
        self._args = args
        self._future: asyncio.Future[T] = loop.create_future()
        self._scope = trio.CancelScope()

    # In Trio

    async def run(self) -> None:
        """Run the function; its exceptions go to asyncio."""
        with self._scope:
            try:
                value = await self._function(*self._args)
            except Exception as exc:  # noqa: BLE001 - asyncio's task gets it
                self.refuse(exc)
            except BaseException:
                # The order matters: an asyncio task that has seen its future cancelled may be busy with its end.
                if not self._scope.cancel_called:
                    self._call.cancel_task()
                self._settle(self._future.cancel)
                raise
            else:
                self._settle(partial(self._future.set_result, value))

    def refuse(self, error: Exception) -> None:
        """Have an exception raised in asyncio."""
        self._settle(partial(self._future.set_exception, error))

    def _settle(self, change: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(change)

    # In asyncio

    async def result(self, keep: Callable[[T], object] | None) -> T:
        """Wait for what the function returns or raises; see `AsyncioCall.ask`."""
        import asyncio

        try:
            await asyncio.wait([self._future])
        except asyncio.CancelledError:
            with suppress(RuntimeError):  # the server has ended, and the function with it
                self._call.tell(self._scope.cancel)
            while not self._future.done():
                with suppress(asyncio.CancelledError):  # the first one is raised
                    await asyncio.wait([self._future])
            if not self._future.cancelled() and self._future.exception() is None and keep is not None:
                keep(self._future.result())
            raise
        return self._future.result()


def _is_cancellation(exc: BaseException) -> bool:
    rest = exc.split(trio.Cancelled)[1] if isinstance(exc, BaseExceptionGroup) else exc
    return rest is None or isinstance(rest, trio.Cancelled)


def _closed() -> RuntimeError:
    return RuntimeError("the asyncio loop of the handler was closed")


def _name_of(function: object) -> str:
    return str(getattr(function, "__qualname__", function))
