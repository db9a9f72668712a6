"""The addresses at both ends of a stream."""

from __future__ import annotations

import socket

import attrs
import trio

from .transport import SocketTransport

__all__ = ["Endpoints", "endpoints_of"]

_IP = frozenset({socket.AF_INET, socket.AF_INET6})


@attrs.frozen
class Endpoints:
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
