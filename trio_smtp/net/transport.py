"""`SocketTransport`, a stream on a socket, and the `Outbox` that sends what its connections say in one pass.

A pass is one turn of trio's loop: it waits for I/O, then takes each task that can go on one step further. Replies that
are sent with `send_soon` leave when the pass ends, all of them one right after the other; `send_all` keeps trio's
contract and sends before it returns. What both have to send leaves in the order of the calls.
"""

from __future__ import annotations

import operator
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from .readiness import Readable, Readiness

__all__ = ["Outbox", "SocketTransport"]

#: The most octets that `send_soon` takes for one pass.
_MAX_SOON = 16_384
#: The outbox tries stuck sockets again at intervals of so many seconds.
_RETRY_PAUSE = 0.1
#: An `abort` without a reset reads and drops so many blocks of 64 KiB at most.
_DROPPED_BLOCKS = 16
#: The value of SO_LINGER (on, no seconds) with which closing resets the connection.
_NO_LINGER = struct.pack("ii", 1, 0)


class SocketTransport(trio.abc.HalfCloseableStream):
    """A connected stream socket; one task at a time may send.

    It keeps the contracts of `trio.abc.Stream` but for one: a send that fits into the socket's buffer is no checkpoint.
    trio's own SocketStream takes a pass for every send and another for every receive. A server receives after each of
    its sends, so the receive's checkpoint is enough for other tasks to have their turn, and for cancellation.

    Args:
        sock: A connected socket; this object owns it and makes it non-blocking.
        outbox: Sends what `send_soon` is given; None: `send_soon` takes nothing.
        readiness: Tells what has come; None: each wait is left to trio.

    Attributes:
        socket: As given.
        stuck_since: Since when the socket has not taken all that `send_soon` was given, by trio's clock. None: it has
            taken everything, `send_all` waits for the rest, or `is_overdue` has returned True.

    Resource handling:
        Closing is immediate, and wakes whoever waits with `trio.ClosedResourceError`.
    """

    __slots__ = ("_eof_sent", "_outbox", "_readable", "_readiness", "_waiting", "socket", "stuck_since")

    def __init__(self, sock: socket.socket, outbox: Outbox | None = None, readiness: Readiness | None = None) -> None:
        sock.setblocking(False)
        self.socket: socket.socket = sock
        self._readiness = readiness
        self._readable: Readable | None = None
        if readiness is not None:
            readiness.opened()
        self.stuck_since: float | None = None
        self._outbox = outbox
        #: What `send_soon` was given and the socket has not taken yet.
        self._waiting = b""
        self._eof_sent = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`.

        Waits until the socket is readable before it reads, also when octets are there already. That wait is the
        checkpoint: a client that always has octets ready takes its turn like any other.
        """
        if max_bytes is None:
            max_bytes = 65_536
        elif operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        sock, readable = self.socket, self._readable
        while True:
            if sock.fileno() < 0:
                raise trio.ClosedResourceError("this socket was closed")
            if readable is None and self.register():
                readable = self._readable
            if readable is None:
                await trio.lowlevel.wait_readable(sock)
            else:
                await readable.wait()
            try:
                data = sock.recv(max_bytes)
            except BlockingIOError:
                if readable is not None:
                    readable.empty()
                continue
            except OSError as exc:
                raise _broken(sock) from exc
            if readable is not None and len(data) < max_bytes:
                readable.short()
            return data

    def register(self) -> bool:
        """Have the kernel tell of octets, once for the socket's life; False: waiting is left to trio, for now."""
        if self._readable is None and self._readiness is not None and self.socket.fileno() >= 0:
            self._readable = self._readiness.register(self.socket)
        return self._readable is not None

    async def receive_while(self, take: Callable[[bytes], bool], max_bytes: int) -> bool:
        """Receive, and hand on what comes, until `take` returns False; after `register` has returned True.

        This task is not woken between two calls of `take`, which must not wait for anything, nor ask which task runs.

        Args:
            take: Is given octets.
            max_bytes: The most octets of one call.

        Returns:
            False: The peer has sent its last.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: The transport was closed.
            BaseException: What `take` raises.
        """
        readable, sock = self._readable, self.socket
        assert readable is not None
        open_, more, called = True, True, False

        def receive() -> bool:
            nonlocal open_, more, called
            called = True
            try:
                data = sock.recv(max_bytes)
            except BlockingIOError:
                readable.empty()
                return True
            except OSError as exc:
                raise _broken(sock) from exc
            if len(data) < max_bytes:
                readable.short()
            open_ = bool(data)
            more = open_ and take(data)
            return more

        while more:
            called = False
            await readable.wait(receive)
            if not called:
                receive()
        return open_

    def send_soon(self, data: bytes) -> bool:
        """Have octets sent when this pass ends.

        Nothing is raised when the connection is broken: the next `receive_some` tells.

        Returns:
            False: They were not taken, and `send_all` must send them. No outbox is at work, more than 16 KiB would
                wait, earlier octets are stuck, or `send_eof` was called.
        """
        outbox = self._outbox
        if (
            outbox is None
            or not outbox.working
            or self.stuck_since is not None
            or len(data) > _MAX_SOON
            or self._eof_sent
        ):
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
        """Send what `send_soon` was given, as far as the socket takes it at once.

        Returns:
            True: All of it was sent, or is lost because the connection is broken.
        """
        data, self._waiting = self._waiting, b""
        if data:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            except BaseException as exc:
                sent = len(data)
                # Whatever the error was, these octets are lost. The connection ends, so that no others follow them.
                with suppress(OSError):
                    self.socket.shutdown(socket.SHUT_RDWR)
                if not isinstance(exc, OSError):
                    raise
            self._waiting = data[sent:]
        return not self._waiting

    def note_stuck(self, now: float) -> None:
        """Note that the socket has not taken everything, after `push` returned False."""
        self.stuck_since = now

    def push_again(self) -> bool:
        """Try `push` again; the transport is no longer stuck when everything was sent or is lost."""
        pushed = self.push()
        if pushed:
            self.stuck_since = None
        return pushed

    def is_overdue(self, now: float, timeout: float) -> bool:
        """Whether the client has left octets unread for so long; true only once for the same octets.

        Args:
            now: The time by trio's clock.
            timeout: In seconds.
        """
        if self.stuck_since is None or self.stuck_since + timeout > now:
            return False
        self.stuck_since = None
        return True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`; what `send_soon` was given leaves first.

        The socket has taken everything when this returns. It waits, and can be cancelled, only while the socket's
        buffer is full.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: The transport was closed, or `send_eof` was called.
        """
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

    def _send_now(self, data: memoryview) -> int:
        """Send what the socket takes at once; returns how many octets that was."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            if self._eof_sent:
                raise trio.ClosedResourceError("nothing can be sent after send_eof") from exc
            raise _broken(self.socket) from exc

    @property
    def waiting(self) -> bool:
        """`send_soon` was given octets that the socket has not taken yet."""
        return bool(self._waiting)

    async def send_waiting(self) -> None:
        """Wait until the socket has taken all that `send_soon` was given.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: The transport was closed meanwhile.
        """
        if self._waiting:
            await self.send_all(b"")

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this socket was closed")
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`; what `send_soon` was given leaves first."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.send_waiting()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise _broken(self.socket) from exc
        self._eof_sent = True

    def close(self) -> None:
        """Close at once. What `send_soon` was given is sent as far as the socket takes it; the rest is lost.

        An error of the system is not raised: the descriptor is closed whatever the error.
        """
        if self.socket.fileno() >= 0:
            self.push()
            self._waiting = b""
            if self._readiness is not None:
                self._readiness.remove(self.socket, self._readable)
            trio.lowlevel.notify_closing(self.socket)
            try:
                self.socket.close()
            except OSError:
                return

    def abort(self, *, reset: bool) -> None:
        """Close at once. What `send_soon` was given is lost.

        Args:
            reset: The peer sees a reset, where the socket is one of TCP; otherwise the end of the stream.
        """
        self._waiting = b""
        with suppress(OSError):
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            else:
                self.socket.shutdown(socket.SHUT_WR)
                # Unread input would have the system reset the connection; what is read is bounded.
                for _ in range(_DROPPED_BLOCKS):
                    if not self.socket.recv(65_536):
                        break
        self.close()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self.close()
        await trio.lowlevel.checkpoint()


def _broken(sock: socket.socket) -> Exception:
    if sock.fileno() < 0:
        return trio.ClosedResourceError("this socket was closed")
    return trio.BrokenResourceError("the connection is broken")


class Outbox(trio.abc.Instrument):
    """Sends what `send_soon` was given when a pass ends, right before trio waits for I/O.

    On one machine, waking a reader that has gone to sleep makes a send three times as expensive. Sending to all clients
    one right after the other, at the end of the pass, finds most of them still awake.

    A socket that does not take everything is stuck. The outbox tries it again at the ends of later passes, at most once
    in 0.1 seconds; a server's passes come at least as often as it looks after its connections' deadlines. So a
    connection can wait for its client's next octets while the client has yet to read its replies.

    Attributes:
        working: It sends at the end of each pass: inside `at_work`, and until something is raised in it (by a signal
            handler, or because memory ran out). trio logs that and never calls it again.
    """

    def __init__(self) -> None:
        self.working: bool = False
        self._ready: list[SocketTransport] = []
        self._stuck: set[SocketTransport] = set()
        self._retry_at = 0.0
        # Called for nearly every reply: the list's own method saves the call of a Python function around it.
        self.add: Callable[[SocketTransport], None] = self._ready.append

    @contextmanager
    def at_work(self) -> Iterator[Outbox]:
        """Send at the end of each pass while the block runs; what still waits at the end of the block is sent then."""
        trio.lowlevel.add_instrument(self)
        self.working = True
        try:
            yield self
        finally:
            self.working = False
            with suppress(KeyError):  # trio has removed it already if something was raised in it
                trio.lowlevel.remove_instrument(self)
            self._push_ready()

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`."""
        try:
            if self._ready:
                for transport in self._ready:
                    if not transport.push():
                        transport.note_stuck(trio.current_time())
                        self._stuck.add(transport)
                self._ready.clear()
            if self._stuck:
                self._try_again(trio.current_time())
        except BaseException:
            self.working = False
            self._push_ready()
            raise

    def _push_ready(self) -> None:
        """Send for the last time: this outbox will not be called again, and owners wait for their clients' answers."""
        for transport in self._ready:
            with suppress(Exception):
                if not transport.push():
                    transport.note_stuck(trio.current_time())
        self._ready.clear()

    def _try_again(self, now: float) -> None:
        if now >= self._retry_at:
            self._retry_at = now + _RETRY_PAUSE
            for transport in list(self._stuck):
                if transport.push_again():
                    self._stuck.discard(transport)
