"""What the tests of servers on real sockets share."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trio_smtp import App, Config, SMTPServer
from trio_smtp.testing import Client


@asynccontextmanager
async def serving(app: App, config: Config | None = None, **fields: Any) -> AsyncIterator[SMTPServer]:
    """A server on a free port of 127.0.0.1; cancelled at the end."""
    server = SMTPServer(app, config or Config(hostname="mx.example", **fields))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0))
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(server: SMTPServer, host: str = "127.0.0.1") -> AsyncIterator[Client]:
    """A client on a socket that has read the greeting, or what came in its place."""
    stream = await trio.open_tcp_stream(host, port_of(server))
    async with stream:
        client = Client(stream)
        client.greeting = await client.read_reply()
        yield client


def port_of(server: SMTPServer) -> int:
    """The port of a server that listens on TCP."""
    assert server.port is not None
    return server.port


def needs_ipv6() -> None:
    """Skip where there is no IPv6 loopback."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
