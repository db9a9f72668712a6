"""A real web server on a real port, and a websocket client that is small enough for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio
import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, Request, TextMessage

from trio_smtp.inbox import Inbox
from trio_smtp.inbox.api.types import ASGIApp
from trio_smtp.inbox.web import _hypercorn, bind, serve_web


@asynccontextmanager
async def open_server(application: ASGIApp) -> AsyncIterator[int]:
    """Serve an application by hypercorn; gives the port."""
    sockets = bind("127.0.0.1", 0)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_web, application, sockets, _hypercorn)
            yield sockets[0].getsockname()[1]
            nursery.cancel_scope.cancel()
    finally:
        for sock in sockets:
            sock.close()


@asynccontextmanager
async def open_web(inbox: Inbox, **options: Any) -> AsyncIterator[tuple[int, httpx.AsyncClient]]:
    """Serve an inbox; gives the port, and a client."""
    async with (
        open_server(inbox.asgi(**options)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield port, client


class Refused(Exception):
    """The server does not want this websocket; the argument is the status."""


class Socket:
    """A websocket's client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    async def open(self, host: str, path: str, headers: dict[str, str]) -> None:
        """Shake hands.

        Raises:
            Refused: The server says no.
        """
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._stream.send_all(self._connection.send(Request(host=host, target=path, extra_headers=extra)))
        event = await self._next()
        if isinstance(event, RejectConnection):
            raise Refused(event.status_code)
        assert isinstance(event, AcceptConnection)

    async def _next(self) -> Any:
        while True:
            for event in self._connection.events():
                if isinstance(event, Ping):
                    await self._stream.send_all(self._connection.send(event.response()))
                    continue
                return event
            self._connection.receive_data(await self._stream.receive_some() or None)

    async def receive(self) -> dict[str, Any]:
        """The next event, decoded."""
        event = await self._next()
        assert isinstance(event, TextMessage), event
        found: dict[str, Any] = json.loads(event.data)
        return found

    async def receive_type(self, kind: str) -> Any:
        """The data of the next event of a type."""
        with trio.fail_after(10):
            while (event := await self.receive())["Type"] != kind:
                pass
        return event["Data"]

    async def send(self, text: str) -> None:
        """Say something."""
        await self._stream.send_all(self._connection.send(TextMessage(data=text)))

    async def close(self) -> None:
        """Say good-bye."""
        await self._stream.send_all(self._connection.send(CloseConnection(code=1000)))


@asynccontextmanager
async def open_socket(port: int, path: str = "/api/events", **headers: str) -> AsyncIterator[Socket]:
    """A websocket; ``host`` among the headers is the host that is asked for."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        socket = Socket(stream)
        with trio.fail_after(10):
            await socket.open(headers.pop("host", f"127.0.0.1:{port}"), path, headers)
        yield socket
