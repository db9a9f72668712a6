"""The webhook against servers on real sockets: an application under hypercorn, and servers that mean harm."""

from __future__ import annotations

import gzip
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from trio_smtp.testing import open_client

from .corpus import MAILS
from .corpus_support import is_strict
from .inbox.web_support import open_server
from .webhook_support import MESSAGE, answering, posting_to, read_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Serve = Callable[[trio.SocketStream], Awaitable[None]]


async def outcome(serve: Serve, **options: Any) -> int:
    async with answering(serve) as port, open_client(posting_to(port, format="raw", **options)) as client:
        await client.ehlo()
        return (await client.send_message("a@example.org", ["b@example.com"], MESSAGE)).code


async def test_the_corpus_through_a_starlette_app() -> None:
    taken: list[tuple[str, bytes]] = []

    async def take(request: Request) -> Response:
        taken.append((request.headers["webhook-id"], await request.body()))
        return PlainTextResponse("taken", 202)

    application = Starlette(routes=[Route("/in", take, methods=["POST"])])
    mails = [mail.octets for mail in MAILS if mail.octets.endswith(b"\r\n") and is_strict(mail.octets)][::4]
    async with (
        open_server(application) as port,
        open_client(posting_to(port, format="raw", trace=False)) as client,
    ):
        await client.ehlo()
        for octets in mails:
            reply = await client.send_message("a@example.org", ["b@example.com"], octets)
            assert (reply.code, reply.text) == (250, f"Queued as {taken[-1][0]}")
    assert [octets for _, octets in taken] == mails


async def test_connections_are_kept_and_bounded() -> None:
    opened, busy, most = 0, 0, 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal opened, busy, most
        opened += 1
        while await read_request(stream):
            busy += 1
            most = max(most, busy)
            await trio.sleep(0.02)
            busy -= 1
            await stream.send_all(OK)

    async with answering(serve) as port:
        app = posting_to(port, max_connections=2)
        async with app.running(), trio.open_nursery() as nursery:

            async def send() -> None:
                async with open_client(app) as client:
                    await client.ehlo()
                    for _ in range(3):
                        assert (await client.send_message("a@example.org", ["b@example.com"], MESSAGE)).code == 250

            for _ in range(5):
                nursery.start_soon(send)
    assert (opened, most) == (2, 2)


async def test_an_answer_that_takes_its_time_with_a_100_before() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 422 No\r\nContent-Length: 3\r\n\r\nbad")

    assert await outcome(serve) == 550


async def test_a_server_that_closes_at_each_octet() -> None:
    """Nothing but a whole head is an answer."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
    whole = answer.index(b"\r\n\r\n") + 4
    for length in range(len(answer) + 1):

        async def serve(stream: trio.SocketStream, length: int = length) -> None:
            await read_request(stream)
            await stream.send_all(answer[:length])
            await stream.aclose()

        assert await outcome(serve) == (250 if length >= whole else 451), length


BOMB = gzip.compress(bytes(50_000_000))
HOSTILE = {
    "silent": (b"", 451),
    "nonsense": (b"\x1b[31m250 OK\r\n\r\n", 451),
    "smtp": (b"250 OK\r\n", 451),
    "no status": (b"HTTP/1.1 abc OK\r\n\r\n", 451),
    "an endless head": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000, 451),
    "endless 100": (b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000, 451),
    "switching protocols": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 451),
    "a redirect": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 451),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 451),
    "an early end of chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n", 250),
    "a body of many octets": (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n" + b"x" * 300_000, 250),
    "a bomb": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(BOMB), BOMB),
        250,
    ),
    "a cookie": (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", 250),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_answers(name: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, code = HOSTILE[name]

    async def serve(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(answer)
        if code == 451:
            await trio.sleep_forever()

    assert await outcome(serve, total_timeout=0.5) == code
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("trio_smtp.delivery")]
    assert len(messages) == (code == 451)
    assert all(message.isascii() and message.isprintable() and len(message) < 400 for message in messages)


async def test_nobody_listens_and_the_next_message_goes_through() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    async with open_client(posting_to(port)) as client:
        await client.ehlo()
        assert (await client.send_message("a@example.org", ["b@example.com"], MESSAGE)).code == 451

        async def serve(stream: trio.SocketStream) -> None:
            await read_request(stream)
            await stream.send_all(OK)

        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            assert (await client.send_message("a@example.org", ["b@example.com"], MESSAGE)).code == 250
            nursery.cancel_scope.cancel()


async def test_certificates_are_checked(ca: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(server)
    client_context = ssl.create_default_context()
    ca.configure_trust(client_context)

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server, server_side=True, https_compatible=True)
        await read_request(tls)
        await tls.send_all(OK)

    for context, code in ((None, 451), (client_context, 250)):
        async with answering(serve) as port:
            app = posting_to(port, scheme="https", ssl_context=context)
            async with open_client(app) as client:
                await client.ehlo()
                assert (await client.send_message("a@example.org", ["b@example.com"], MESSAGE)).code == code
    assert "cannot post the message to https://localhost:" in caplog.text


async def test_a_proxy_is_used_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        seen.append(await read_request(stream))
        await stream.send_all(OK)

    async with answering(serve) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        for trust_env, code in ((True, 250), (False, 451)):
            app = posting_to(1, trust_env=trust_env)  # nobody listens on port 1
            async with open_client(app) as client:
                await client.ehlo()
                assert (await client.send_message("a@example.org", ["b@example.com"], MESSAGE)).code == code
    assert [request.split(b" ")[1] for request in seen] == [b"http://localhost:1/in"]


async def test_an_application_that_takes_its_time_with_a_large_body() -> None:
    """Each piece has the time; the whole has `total_timeout`."""
    taken = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal taken
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        while taken < 6_000_000:
            taken += len(await stream.receive_some(400_000))
            await trio.sleep(0.02)
        await stream.send_all(OK)

    large = MESSAGE + (b"x" * 70 + b"\r\n") * 84_000
    for total_timeout, code in ((30, 250), (0.2, 451)):
        taken = 0
        async with answering(serve) as port:
            app = posting_to(port, format="raw", read_timeout=0.4, total_timeout=total_timeout)
            async with open_client(app) as client:
                await client.ehlo()
                assert (await client.send_message("a@example.org", ["b@example.com"], large)).code == code


async def test_a_handler_that_is_cancelled_gives_its_connection_back() -> None:
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        seen.append(await read_request(stream))
        if len(seen) == 1:
            await trio.sleep_forever()
        await stream.send_all(OK)

    async with answering(serve) as port:
        app = posting_to(port, max_connections=1)
        async with app.running():
            for handler_timeout, code in ((0.2, 421), (30, 250)):
                async with open_client(app, handler_timeout=handler_timeout) as client:
                    await client.ehlo()
                    reply = await client.send_message("a@example.org", ["b@example.com"], MESSAGE)
                    assert reply.code == code
