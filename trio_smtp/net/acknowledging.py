"""Has the system acknowledge at once what a client has sent."""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

from .transport import SocketTransport

__all__ = ["acknowledge_at_once"]

#: Linux alone has it.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def acknowledge_at_once(stream: trio.abc.Stream) -> None:
    """Have the system acknowledge what has come, which it would otherwise put off for 40 ms.

    A client with Nagle's algorithm (most mail clients) sends nothing while its last octets are not acknowledged. When
    its turn to speak comes twice in a row, as after a TLS handshake, it would wait for that. The option holds until the
    system decides anew, so it is set at each such moment. Does nothing where system or stream have no such option.

    Args:
        stream: A stream on a socket, or any other.
    """
    sock = stream.socket if isinstance(stream, (SocketTransport, trio.SocketStream)) else None
    if sock is not None and _QUICKACK is not None:
        with suppress(OSError):  # a Unix socket, or one that was closed
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
