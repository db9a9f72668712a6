"""The thin edge between sockets and everything else, behind trio's Stream and Listener interfaces.

trio's own SocketStream takes a full pass of the scheduler for every receive and another for every send. A server
whose every send is followed by a receive needs one: here a receive always waits (that is the checkpoint, and the
fairness: a client that always has data ready takes its turn like any other), and a send that fits into the
socket's buffer does not. What does not fit waits, and can be cancelled.

What connections have to say in one pass of the scheduler leaves together, when the pass ends (`Outbox`). On one machine
a send costs three times as much when it wakes a reader that had gone to sleep; of readers that are woken one right
after the other, most have not had the time to.
"""

from __future__ import annotations

import operator
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

__all__ = ["Outbox", "SocketTransport"]

#: The most octets that wait for the end of a pass.
_MAX_SOON = 16_384
#: What a socket did not take then is tried again after so many seconds.
_RETRY_PAUSE = 0.1


class SocketTransport(trio.abc.HalfCloseableStream):
    """A connected stream socket.

    Args:
        sock: A connected socket; this object owns it and makes it non-blocking.
        outbox: Small sends wait there for the end of the pass; None: nothing waits.

    Attributes:
        socket: As given.
        stuck_since: Since when the socket has not taken what waits, by trio's clock; None: nothing is stuck.

    Resource handling: closing is immediate and wakes whoever waits.
    """

    __slots__ = ("_eof_sent", "_outbox", "_waiting", "socket", "stuck_since")

    def __init__(self, sock: socket.socket, outbox: Outbox | None = None) -> None:
        sock.setblocking(False)
        self.socket: socket.socket = sock
        self.stuck_since: float | None = None
        self._outbox = outbox
        self._waiting = b""
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

    def send_soon(self, data: bytes) -> bool:
        """Have octets sent when this pass of the scheduler ends; of a broken connection the next receive tells.

        Returns:
            False: not taken. There is no outbox at work, it is too much, or earlier octets are stuck: use `send_all`.
        """
        outbox = self._outbox
        if outbox is None or outbox.failed or self.stuck_since is not None or len(data) > _MAX_SOON or self._eof_sent:
            return False
        if self._waiting:
            if len(self._waiting) + len(data) > _MAX_SOON:
                return False
            self._waiting += data
        else:
            self._waiting = data
            outbox.add(self)
        return True

    def push(self) -> bool:
        """Send what waits, as far as the socket takes it; True: nothing waits any more."""
        data, self._waiting = self._waiting, b""
        if data:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            except BaseException as exc:
                sent = len(data)
                # Octets are missing now, whatever the error was: nothing may follow them.
                with suppress(OSError):
                    self.socket.shutdown(socket.SHUT_RDWR)
                if not isinstance(exc, OSError):
                    raise
            self._waiting = data[sent:]
        return not self._waiting

    def _send_now(self, data: bytes | memoryview) -> int:
        """Send what the socket takes at once; returns how many octets that was."""
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
        if not (self.socket.fileno() >= 0 and self.send_soon(bytes(data))):
            await self._send_through(data)

    async def _send_through(self, data: bytes | bytearray | memoryview) -> None:
        """Send what waits, and this."""
        if self._waiting:
            data = self._waiting + bytes(data)
            self._waiting = b""
        self.stuck_since = None
        with memoryview(data) as view:
            sent = self._send_now(view)
            while sent < len(view):
                await trio.lowlevel.wait_writable(self.socket)
                with view[sent:] as rest:
                    sent += self._send_now(rest)

    @property
    def waiting(self) -> bool:
        """Octets wait for the socket."""
        return bool(self._waiting)

    async def send_waiting(self) -> None:
        """Wait until the socket has taken what waits."""
        if self._waiting:
            await self._send_through(b"")

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this socket was closed")
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._waiting:
            await self._send_through(b"")
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise _broken(self.socket) from exc
        self._eof_sent = True

    def close(self) -> None:
        """Close at once; what waits is sent as far as the socket takes it."""
        if self.socket.fileno() >= 0:
            self.push()
            self._waiting = b""
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


class Outbox(trio.abc.Instrument):
    """Sends the small sends of each pass of the scheduler when it ends, right before the loop waits.

    What a socket does not take then is stuck: it is tried again at later passes, at intervals. They come at least as
    often as the server's watch looks at its connections. So nobody needs to wait for a socket while its owner waits
    to hear from it; and an owner that has more to send uses `SocketTransport.send_all`, which waits.

    Attributes:
        failed: Something was raised in it (by a signal handler, or memory ran out). trio has logged that and calls it
            no more, so nothing can wait here any longer.
    """

    def __init__(self) -> None:
        self.failed: bool = False
        self._ready: list[SocketTransport] = []
        self._stuck: set[SocketTransport] = set()
        self._retry_at = 0.0
        self.add: Callable[[SocketTransport], None] = self._ready.append

    @contextmanager
    def at_work(self) -> Iterator[Outbox]:
        """Send at the end of each pass while the block runs."""
        trio.lowlevel.add_instrument(self)
        try:
            yield self
        finally:
            with suppress(KeyError):  # trio has removed it when it failed
                trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        try:
            if self._ready:
                for transport in self._ready:
                    if not transport.push():
                        transport.stuck_since = trio.current_time()
                        self._stuck.add(transport)
                self._ready.clear()
            if self._stuck:
                self._try_again(trio.current_time())
        except BaseException:
            self.failed = True
            for transport in self._ready:  # nobody else would send it while its owner waits
                with suppress(Exception):
                    if not transport.push():
                        transport.stuck_since = trio.current_time()
            self._ready.clear()
            raise

    def _try_again(self, now: float) -> None:
        if now >= self._retry_at:
            self._retry_at = now + _RETRY_PAUSE
            for transport in list(self._stuck):
                if transport.push():
                    transport.stuck_since = None
                    self._stuck.discard(transport)
