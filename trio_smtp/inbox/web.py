"""Serves the web application: hypercorn's Trio worker behind a page of ours, so that it can be exchanged.

The sockets are bound here, before anything is served: a port in use is an `OSError` then, and not an error inside of
three groups. When the web side crashes it is started again, and mail goes on.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import trio

from trio_smtp import Running

from .api.types import ASGIApp

__all__ = ["bind", "is_loopback", "serve_web", "web"]

logger: logging.Logger = logging.getLogger("trio_smtp.inbox")

#: Serves an application on sockets that listen, until it is cancelled.
Serve = Callable[[ASGIApp, Sequence[socket.socket]], Awaitable[None]]

_BACKLOG = 128
#: Seconds that requests under way are given at the end. A websocket takes all of it.
_GRACE = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host.

    Args:
        host: An address or a name; ``""``: all of this machine's.
        port: The port; 0: any free one, the same for all addresses.

    Raises:
        OSError: One cannot be had; none is kept.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], sockets[0].getsockname()[1] or address[1], *address[2:]))
            sock.listen(_BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def web(
    application: ASGIApp, sockets: Sequence[socket.socket], *, serve: Serve | None = None
) -> Callable[[Running], AsyncIterator[None]]:
    """Make a lifespan that serves the web application as long as the App is served.

    Args:
        application: What is served.
        sockets: Where it listens; they are closed at the end.
        serve: The server; None: hypercorn.

    Returns:
        What `App.lifespan` takes.
    """

    async def lifespan(running: Running) -> AsyncIterator[None]:
        try:
            running.nursery.start_soon(serve_web, application, sockets, _hypercorn if serve is None else serve)
            yield
        finally:
            for sock in sockets:
                sock.close()

    return lifespan


async def serve_web(application: ASGIApp, sockets: Sequence[socket.socket], serve: Serve) -> None:
    """Serve the application until it is cancelled; start again when the server crashes.

    Args:
        application: What is served.
        sockets: Where it listens; they stay open.
        serve: The server.
    """
    pause = _FIRST_PAUSE
    while True:
        began = trio.current_time()
        try:
            await serve(application, sockets)
            logger.error("the web server has ended by itself; it starts again in %g s", pause)
        except Exception:
            logger.exception("the web server has crashed; it starts again in %g s; mail goes on", pause)
        await trio.sleep(pause)
        lasted = trio.current_time() - began
        pause = _FIRST_PAUSE if lasted > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)


async def _hypercorn(application: ASGIApp, sockets: Sequence[socket.socket]) -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    # Copies, which hypercorn owns and closes.
    config.bind = [f"fd://{os.dup(sock.fileno())}" for sock in sockets]
    config.errorlog = None
    config.graceful_timeout = _GRACE
    config.include_server_header = False
    config.websocket_max_message_size = 65_536
    framework: Any = application
    await serve(framework, config, mode="asgi")
