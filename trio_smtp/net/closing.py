"""The end of a connection: waiting a moment for the client to have read everything, and closing.

Closing a socket that has unread input makes the system reset the connection, and the reset can overtake the last reply.
So the last reply is followed by the end of the stream, and the client's input is read and dropped until it closes too.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from .transport import SocketTransport

__all__ = ["LINGER_SECONDS", "close", "linger"]

#: How long `linger` may take, in seconds; its callers set the deadline.
LINGER_SECONDS = 1.0
#: The most octets that `linger` reads and drops, to within one receive.
_LINGER_OCTETS = 65_536


async def linger(stream: trio.abc.Stream) -> None:
    """Send the end of the stream, then read and drop the client's input until it closes, or has sent 64 KiB.

    Does nothing more once the connection is broken or closed. The stream stays open: `close` comes after.

    Cancellation:
        There is no time limit in here. Callers allow `LINGER_SECONDS`, counted from when the last reply was sent.
    """
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        if isinstance(stream, trio.SSLStream):
            stream = await _end_tls(stream)
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        dropped = 0
        while dropped < _LINGER_OCTETS:
            data = await stream.receive_some(16_384)
            if not data:
                break
            dropped += len(data)


async def _end_tls(stream: trio.SSLStream[trio.abc.Stream]) -> trio.abc.Stream:
    """Exchange close_notify; returns the stream below, whose unread input may go on."""
    below = stream.transport_stream
    with suppress(trio.BrokenResourceError):  # the client sent data instead: the caller drops what follows
        await stream.unwrap()
    return below


async def close(stream: trio.abc.Stream) -> None:
    """Close without waiting for anything; an SSLStream's own `aclose` may wait for a handshake.

    A `SocketTransport` is closed without a checkpoint.
    """
    if isinstance(stream, SocketTransport):
        stream.close()
    else:
        await trio.aclose_forcefully(stream)
