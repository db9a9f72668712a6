"""What the tests of the webhook share: an application that notes requests, and servers that answer octets."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import trio

from trio_smtp import App
from trio_smtp.delivery.webhook import webhook

KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
MESSAGE = b"From: a@example.org\r\nTo: b@example.com\r\nSubject: Hi\r\n\r\nHello\r\n"
URL = "http://app.example/in"


class Application:
    """Notes requests, and answers them with a status or as a function says."""

    def __init__(self, answer: int | Exception | Callable[[httpx2.Request], httpx2.Response] = 200) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer
        self.transport = httpx2.MockTransport(self._take)

    def _take(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        if isinstance(self._answer, int):
            return httpx2.Response(self._answer)
        return self._answer(request)

    def app(self, url: str = URL, **options: Any) -> App:
        """An App that posts to this application."""
        app = App()
        app.use(webhook(url, **{"secret": SECRET, "transport": self.transport, **options}))
        return app


def posting_to(port: int, *, scheme: str = "http", **options: Any) -> App:
    """An App that posts to a port of this machine."""
    app = App()
    app.use(webhook(f"{scheme}://localhost:{port}/in", **{"secret": SECRET, **options}))
    return app


@asynccontextmanager
async def answering(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A server on a port; `serve` gets each connection, and what it sends is its own matter."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.abc.ReceiveStream) -> bytes:
    """Receive one request of a known length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65_536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(length.split(b":")[1]):
        body += await stream.receive_some(65_536)
    return head + b"\r\n\r\n" + body
