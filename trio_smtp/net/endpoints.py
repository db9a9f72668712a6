"""The addresses at both ends of a stream."""

from __future__ import annotations

import socket
from typing import NamedTuple

import trio

from .transport import SocketTransport

__all__ = ["Endpoints", "PlacedStream", "endpoints_of"]

_IP = frozenset({socket.AF_INET, socket.AF_INET6})


class Endpoints(NamedTuple):
    """Where a connection comes from, and where it came in.

    Attributes:
        remote: The IP address and the port of the peer; None: the stream has none, or they are unknown.
        local: Those of this end, likewise.
    """

    remote: tuple[str, int] | None = None
    local: tuple[str, int] | None = None


def endpoints_of(stream: trio.abc.Stream) -> Endpoints:
    """Ask a stream for its addresses; they are not brought into canonical form.

    Args:
        stream: Any trio stream, below any number of `trio.SSLStream`. Its own `endpoints` attribute counts first, if
            that holds `Endpoints`, and then its socket.

    Returns:
        The addresses. Unix sockets, streams without a socket, and sockets whose peer is gone already have none.
    """
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    own = getattr(stream, "endpoints", None)
    if isinstance(own, Endpoints):
        return own
    if isinstance(stream, SocketTransport | trio.SocketStream) and stream.socket.family in _IP:
        try:
            remote, local = stream.socket.getpeername(), stream.socket.getsockname()
        except OSError:
            return Endpoints()
        return Endpoints((remote[0], remote[1]), (local[0], local[1]))
    return Endpoints()


class PlacedStream(trio.abc.HalfCloseableStream):
    """Gives endpoints to a stream that has none of its own, such as one in memory.

    Args:
        stream: The stream below.
        endpoints: What `endpoints_of` says of it.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, endpoints: Endpoints) -> None:
        self._stream = stream
        self.endpoints: Endpoints = endpoints

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`."""
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        await self._stream.aclose()
