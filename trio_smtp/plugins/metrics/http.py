"""A small HTTP server for pages that a program makes: one GET for each connection, each bounded.

Whoever can reach the port may be hostile: a header section has at most 8 KiB, a connection lasts at most 10 seconds,
and there are at most 32 at a time; more are closed at once.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import attrs
import trio

try:
    import h11
except ImportError as _error:
    raise ImportError("metrics need the extra metrics: pip install 'trio-smtp[metrics]'") from _error

__all__ = ["Page", "serve_http"]

logger: logging.Logger = logging.getLogger("trio_smtp")

_MAX_CONNECTIONS = 32
_MAX_HEADERS = 8192
_SECONDS = 10.0


@attrs.frozen
class Page:
    """An answer.

    Attributes:
        text: Its body.
        status: Its status code.
        content_type: What the text is.
    """

    text: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


async def serve_http(sock: socket.socket, answer: Callable[[str], Page | None]) -> None:
    """Serve until cancelled.

    Args:
        sock: Listens; closed at the end.
        answer: Called with the path of a GET; None: there is no such page.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    places = trio.CapacityLimiter(_MAX_CONNECTIONS)

    async def talk(stream: trio.SocketStream) -> None:
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)
            return
        try:
            with trio.move_on_after(_SECONDS):
                await _talk(stream, answer)
        except (OSError, trio.BrokenResourceError):
            pass  # the client is gone
        except Exception:
            logger.exception("the metrics' page cannot be made")
        finally:
            places.release()
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(talk, [listener])


async def _talk(stream: trio.SocketStream, answer: Callable[[str], Page | None]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADERS)
    head = False
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(4096))
    except h11.RemoteProtocolError as error:
        page = Page("what came is no HTTP request\n", error.error_status_hint)
    else:
        if not isinstance(event, h11.Request):
            return  # the client has closed
        page, head = _page(event, answer), event.method == b"HEAD"
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.text.encode()))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *([("Allow", "GET, HEAD")] if page.status == 405 else []),
    ]
    octets = connection.send(h11.Response(status_code=page.status, headers=headers)) or b""
    if not head:
        octets += page.text.encode()
    await stream.send_all(octets)
    await stream.send_eof()
    # Closing at once would reset the connection where the client has sent more, and the page would be lost.
    while await stream.receive_some(4096):
        pass


def _page(request: h11.Request, answer: Callable[[str], Page | None]) -> Page:
    if request.method not in (b"GET", b"HEAD"):
        return Page("GET and HEAD alone\n", 405)
    page = answer(request.target.decode("ascii", "replace").partition("?")[0])
    return Page("there are /metrics, /livez and /readyz\n", 404) if page is None else page
