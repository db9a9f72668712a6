"""The thin edge between sockets and everything else, behind trio's Stream and Listener interfaces.

trio's own SocketStream takes a full pass of the scheduler for every receive and another for every send. A server
whose every send is followed by a receive needs one: here a receive always waits (that is the checkpoint, and the
fairness: a client that always has data ready takes its turn like any other), and a send that fits into the
socket's buffer does not. What does not fit waits, and can be cancelled.
"""

from __future__ import annotations

import errno
import logging
import operator
import socket
from collections.abc import Callable
from contextlib import suppress

import trio

__all__ = ["SocketTransport", "accept_sockets", "close_now", "farewell", "try_send_of"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: Connections accepted in one go, before others get their turn.
_ACCEPT_BATCH = 16
#: The listener is fine, this connection is not (accept(2); trio ignores the same).
_IGNORABLE = frozenset(
    getattr(errno, name)
    for name in (
        "EPERM", "ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH",
        "EOPNOTSUPP", "ENETUNREACH", "ENOSYS", "ESOCKTNOSUPPORT", "EPFNOSUPPORT", "EAFNOSUPPORT", "ECONNRESET",
    )
    if hasattr(errno, name)
)  # fmt: skip
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_EXHAUSTED_PAUSE = 0.1
#: What is read and dropped after the last words, in octets and seconds.
_FAREWELL_OCTETS = 65_536
_FAREWELL_SECONDS = 1.0


class SocketTransport(trio.abc.HalfCloseableStream):
    """A connected stream socket.

    Args:
        sock: A connected socket; this object owns it and makes it non-blocking.

    Resource handling: closing is immediate and wakes whoever waits.
    """

    __slots__ = ("_eof_sent", "socket")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket: socket.socket = sock
        self._eof_sent = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`; always waits for the socket first."""
        if max_bytes is None:
            max_bytes = 65_536
        elif operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        sock = self.socket
        while True:
            if sock.fileno() < 0:
                raise trio.ClosedResourceError("this socket was closed")
            await trio.lowlevel.wait_readable(sock)
            try:
                return sock.recv(max_bytes)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise _broken(sock) from exc

    def try_send(self, data: bytes | memoryview) -> int:
        """Send what the socket takes at once; returns how many octets that was.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: The socket was closed, or `send_eof` was called.
        """
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            if self._eof_sent:
                raise trio.ClosedResourceError("nothing can be sent after send_eof") from exc
            raise _broken(self.socket) from exc

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`; waits only when the socket's buffer is full."""
        with memoryview(data) as view:
            sent = self.try_send(view)
            while sent < len(view):
                await trio.lowlevel.wait_writable(self.socket)
                with view[sent:] as rest:
                    sent += self.try_send(rest)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this socket was closed")
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise _broken(self.socket) from exc
        self._eof_sent = True

    def close(self) -> None:
        """Close at once."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self.close()
        await trio.lowlevel.checkpoint()


def _broken(sock: socket.socket) -> Exception:
    if sock.fileno() < 0:
        return trio.ClosedResourceError("this socket was closed")
    return trio.BrokenResourceError("the connection is broken")


def try_send_of(stream: trio.abc.Stream) -> Callable[[bytes], int] | None:
    """How to send on this stream without waiting, where it can do that."""
    return stream.try_send if isinstance(stream, SocketTransport) else None


async def accept_sockets(listener: trio.SocketListener, start: Callable[[SocketTransport], None]) -> None:
    """Accept connections for ever, in batches.

    Args:
        listener: Its sockets are accepted from here, not through it; it stays the owner of its socket.
        start: Called with each new connection; must not block.

    Error handling: a connection that was gone before it was accepted is ignored; when descriptors or memory run
    out, accepting pauses and goes on.
    """
    if listener.socket.family in (socket.AF_INET, socket.AF_INET6):
        # Accepted sockets inherit it, which saves a system call for each.
        listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A second object for the same descriptor: trio's accept() takes a pass of the scheduler for each connection.
    acceptor = socket.socket(fileno=listener.socket.fileno())
    try:
        while True:
            await trio.lowlevel.wait_readable(listener.socket)
            for _ in range(_ACCEPT_BATCH):
                try:
                    sock, _address = acceptor.accept()
                except BlockingIOError:
                    break
                except OSError as exc:
                    if exc.errno in _EXHAUSTED:
                        logger.error("accepting pauses for %s s: %s", _EXHAUSTED_PAUSE, exc.strerror)
                        await trio.sleep(_EXHAUSTED_PAUSE)
                        break
                    if exc.errno not in _IGNORABLE:
                        raise
                    continue
                start(SocketTransport(sock))
    finally:
        acceptor.detach()


async def farewell(stream: trio.abc.Stream) -> None:
    """Say that nothing more will be sent, and drop what still comes, for a short while.

    Closing with unread input would reset the connection, and the reset can overtake the last reply.
    """
    with trio.move_on_after(_FAREWELL_SECONDS):
        try:
            if isinstance(stream, trio.SSLStream):
                stream = await _end_tls(stream)
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            dropped = 0
            while dropped < _FAREWELL_OCTETS:
                data = await stream.receive_some(16_384)
                if not data:
                    break
                dropped += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def _end_tls(stream: trio.SSLStream[trio.abc.Stream]) -> trio.abc.Stream:
    """Exchange close_notify; returns the stream below, which may have more input that is not read."""
    below = stream.transport_stream
    with suppress(trio.BrokenResourceError):  # the client sent something else, which nobody reads any more
        await stream.unwrap()
    return below


async def close_now(stream: trio.abc.Stream) -> None:
    """Close without waiting for anything (SSLStream's own aclose might wait for a handshake)."""
    if isinstance(stream, SocketTransport):
        stream.close()
    else:
        await trio.aclose_forcefully(stream)
