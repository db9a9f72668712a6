"""What the tests of transports share: two ends of one connection, both `SocketTransport`."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from trio_smtp.net.readiness import Readiness
from trio_smtp.net.transport import SocketTransport

#: More than any socket's buffers hold on this machine.
FLOOD = b"x" * 16_777_216

Pair = tuple[SocketTransport, SocketTransport]


def unix_sockets() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def pair(sockets: Callable[[], tuple[socket.socket, socket.socket]] = tcp_sockets) -> Pair:
    ours, theirs = sockets()
    return SocketTransport(ours), SocketTransport(theirs)


def reset(stream: SocketTransport) -> None:
    """Close so that the other end gets a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.close()


class WithCheckpoints(trio.abc.HalfCloseableStream):
    """Without the deliberate deviation from trio's rules: what is sent at once takes no pass of the scheduler."""

    def __init__(self, sock: socket.socket, readiness: Readiness | None = None) -> None:
        self.transport = SocketTransport(sock, readiness=readiness)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.transport.send_all(data)
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await self.transport.send_eof()
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.transport.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.transport.aclose()
