"""The accept loop of every listener.

trio's own `accept` takes a pass of the scheduler for each connection. For sockets this loop waits until the system has
connections ready, and accepts up to 16 of them in one go before other tasks run. Every other listener is asked with
`accept()`. When descriptors or memory run out, both pause and go on: clients wait in the system's queue meanwhile.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from .readiness import Readiness
from .transport import Outbox, SocketTransport

__all__ = ["accept"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: Connections accepted in one go, before other tasks run.
_BATCH = 16
#: Errors of a connection that was gone before it was accepted; the listener is fine (accept(2); trio ignores the same).
_IGNORABLE = frozenset(
    getattr(errno, name)
    for name in (
        "EPERM", "ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH",
        "EOPNOTSUPP", "ENETUNREACH", "ENOSYS", "ESOCKTNOSUPPORT", "EPFNOSUPPORT", "EAFNOSUPPORT", "ECONNRESET",
    )
    if hasattr(errno, name)
)  # fmt: skip
#: Descriptors or memory ran out: accepting pauses for so many seconds.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PAUSE = 0.1


async def accept(
    listener: trio.abc.Listener[trio.abc.Stream],
    start: Callable[[trio.abc.Stream], None],
    outbox: Outbox,
    readiness: Readiness | None = None,
) -> None:
    """Accept connections until cancelled.

    Args:
        listener: Any trio listener; the caller closes it. The sockets of a `trio.SocketListener` are accepted without
            its `accept()`, and become `SocketTransport` objects; streams of any other listener are passed on unchanged.
        start: Called with each new stream; must not block.
        outbox: Of each `SocketTransport`.
        readiness: Likewise.

    Error handling:
        A socket that was gone before it was accepted is ignored. When descriptors or memory run out, accepting logs an
        error, pauses for 0.1 seconds and goes on. Any other OSError is raised.
    """
    if isinstance(listener, trio.SocketListener):
        with _same_descriptor(listener.socket) as sock:
            transport = partial(SocketTransport, outbox=outbox, readiness=readiness)
            batch = partial(_accept_batch, listener.socket, sock, start, transport)
            await _keep_accepting(batch, f"accepting pauses for {_PAUSE} s: %s")
    else:
        await _keep_accepting(partial(_accept_one, listener, start), "accepting pauses: %s")


async def _keep_accepting(accept_some: Callable[[], Awaitable[None]], pauses: str) -> None:
    while True:
        try:
            await accept_some()
        except OSError as exc:
            if exc.errno not in _EXHAUSTED:
                raise
            logger.error(pauses, exc.strerror)
            await trio.sleep(_PAUSE)


async def _accept_one(listener: trio.abc.Listener[trio.abc.Stream], start: Callable[[trio.abc.Stream], None]) -> None:
    start(await listener.accept())


async def _accept_batch(
    listening: trio.socket.SocketType,
    sock: socket.socket,
    start: Callable[[trio.abc.Stream], None],
    transport: Callable[[socket.socket], trio.abc.Stream],
) -> None:
    await trio.lowlevel.wait_readable(listening)  # and not `sock`, which does not know when the listener was closed
    for _ in range(_BATCH):
        try:
            accepted, _address = sock.accept()
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno not in _IGNORABLE:
                raise
        else:
            start(transport(accepted))


@contextmanager
def _same_descriptor(listening: trio.socket.SocketType) -> Iterator[socket.socket]:
    """A second socket object, whose `accept` never waits, for a descriptor that stays the listener's."""
    if listening.family in (socket.AF_INET, socket.AF_INET6):
        # Accepted sockets inherit this option, which saves a system call for each.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock = socket.socket(fileno=listening.fileno())
    try:
        sock.setblocking(False)  # after socket.setdefaulttimeout() a new socket object waits, and blocks the event loop
        yield sock
    finally:
        sock.detach()
