"""Wakes tasks whose sockets have become readable, with one registration for a connection's whole life (Linux alone).

trio registers a socket for each wait anew. That system call, and the Python around it, is a tenth of what a command
costs. A `Readiness` registers each socket once, edge-triggered, with an epoll object of its own, and trio waits for
that object. With many connections one such wait wakes several tasks. For a few it would be a detour, so a server with
up to `_FEW` connections leaves new ones to trio.

An edge-triggered registration tells of new octets once. So whoever reads must go on until the socket is drained, and
says so: `Readable.short` after a read that found less than it asked for, `Readable.empty` after one that found
nothing. What the kernel tells between two waits is kept in `Readable`.

A waiting task may leave a function that takes the octets in its place (`Readable.wait`). `Readiness` calls the function
in the task's context, and the task sleeps on for as long as the function needs nothing else: to wake a task costs as
much as a system call.

A short read has drained a TCP socket, unless the client has sent urgent data: a read ends at an urgent octet (tcp(7)).
A read from a Unix socket also ends at descriptors that were sent. Those sockets are read until nothing is there.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import final

import outcome
import trio
from trio.lowlevel import Abort

__all__ = ["Readable", "Readiness"]

#: While so many connections are open, or fewer, sockets are left to trio.
_FEW = 8
#: The names are missing on systems without epoll, where nothing is registered.
_HAS_EPOLL = hasattr(select, "epoll")
_IN, _PRI, _RDHUP, _HUP, _ERR, _ET = (
    getattr(select, f"EPOLL{name}", 0) for name in ("IN", "PRI", "RDHUP", "HUP", "ERR", "ET")
)
_WANTED = _IN | _PRI | _RDHUP | _ET
#: The peer has sent its last, or the connection is broken: a read never has to wait again.
_OVER = _RDHUP | _HUP | _ERR


@final
class Readable:
    """Whether a socket has something to read; one task at a time may wait for it.

    Args:
        sock: The socket.
    """

    __slots__ = ("_left_to_trio", "_over", "_ready", "_short_is_all", "_socket", "_take", "_task")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._ready = False  # the registration tells of what is there already
        self._over = False
        self._short_is_all = sock.family in (socket.AF_INET, socket.AF_INET6)
        self._left_to_trio = False
        self._task: trio.lowlevel.Task | None = None
        self._take: Callable[[], bool] | None = None

    def wait(self, take: Callable[[], bool] | None = None) -> Awaitable[None]:
        """Wait until a read may find something; a checkpoint also when that is so already.

        Args:
            take: Reads in place of this task when something comes, in the task's context but while no task runs. True:
                it has taken what came, and this task waits on. What it raises is raised here.

        Raises:
            trio.BusyResourceError: Another task waits for this socket.
            trio.ClosedResourceError: The socket was closed.
        """
        if self._left_to_trio:
            return trio.lowlevel.wait_readable(self._socket)  # noqa: ASYNC105 - the caller awaits
        if self._ready:
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105
        if self._task is not None:
            raise trio.BusyResourceError("another task is waiting for this socket")
        self._task = trio.lowlevel.current_task()
        self._take = take
        return trio.lowlevel.wait_task_rescheduled(self._give_up)  # noqa: ASYNC105

    def _give_up(self, _raise_cancel: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    @property
    def drained(self) -> bool:
        """Nothing is there to be read: the kernel tells when that changes."""
        return not self._ready

    def short(self) -> None:
        """A read found less than it asked for: the next one waits, unless there may be more, or the end."""
        self._ready = self._over or not self._short_is_all

    def empty(self) -> None:
        """A read found nothing."""
        self._ready = False

    def wake(self, events: int) -> None:
        """The kernel tells of these events."""
        self._ready = True
        if events & _OVER:
            self._over = True
        if events & _PRI:
            self._short_is_all = False
        if self._task is None:
            return
        if self._take is not None:
            try:
                if self._task.context.run(self._take) and self.drained:
                    return
            except BaseException as exc:  # noqa: BLE001 - raised in the task, whose function it is
                self._reschedule(outcome.Error(exc))
                return
        self._reschedule(None)

    def close(self) -> None:
        """The socket is closed: the task that waits for it is told."""
        self._reschedule(outcome.Error(trio.ClosedResourceError("another task closed this socket")))

    def leave_to_trio(self) -> None:
        """Nobody tells of events any more: the task that waits looks for itself, and waits with trio from now on."""
        self._left_to_trio = True
        self._reschedule(None)

    def _reschedule(self, result: outcome.Error | None) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        if result is None:
            trio.lowlevel.reschedule(task)
        else:
            trio.lowlevel.reschedule(task, result)


@final
class Readiness(trio.abc.Instrument):
    """Tells the `Readable` objects of one event loop what has come, right after trio has waited for I/O.

    It works while `run` runs: before and after that, and when something is raised in it (by a signal handler, or
    because memory ran out), sockets are left to trio.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._readables: dict[int, Readable] = {}
        self._open = 0
        self._running = False
        self._needed = trio.Event()

    def opened(self) -> None:
        """A connection was opened; `remove` must follow."""
        self._open += 1

    def register(self, sock: socket.socket) -> Readable | None:
        """Register a socket for the rest of its life; None: it is left to trio, for now."""
        if self._open <= _FEW or not self._running:
            return None
        readable = Readable(sock)
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
                trio.lowlevel.add_instrument(self)
                self._needed.set()
            self._epoll.register(sock, _WANTED)
        except OSError:  # no descriptor, or no memory in the kernel
            return None
        self._readables[sock.fileno()] = readable
        return readable

    def remove(self, sock: socket.socket, readable: Readable | None) -> None:
        """Forget a socket that is about to be closed.

        Args:
            sock: The socket, still open.
            readable: What `register` returned last.
        """
        self._open -= 1
        if readable is None:
            return
        if self._epoll is not None and self._readables.pop(sock.fileno(), None) is not None:
            # Closing the socket is not enough: a process that was forked meanwhile may hold it too.
            with suppress(OSError):
                self._epoll.unregister(sock)
        readable.close()

    def after_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        try:
            if self._epoll is not None:
                for descriptor, events in self._epoll.poll(0):
                    readable = self._readables.get(descriptor)
                    if readable is not None:  # one that was told before may have closed this socket
                        readable.wake(events)
        except BaseException:
            self._stop()
            raise

    async def run(self) -> None:
        """Have trio's wait for I/O end when a socket has something to read, until cancelled."""
        self._running = _HAS_EPOLL
        try:
            await self._needed.wait()
            with suppress(trio.ClosedResourceError):  # `_stop` has closed it
                while self._epoll is not None:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
        finally:
            self._stop()
            with suppress(KeyError):  # it was never needed, or trio has removed it because something was raised in it
                trio.lowlevel.remove_instrument(self)

    def _stop(self) -> None:
        self._running = False
        for readable in self._readables.values():
            readable.leave_to_trio()
        self._readables.clear()
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            trio.lowlevel.notify_closing(epoll.fileno())
            epoll.close()
