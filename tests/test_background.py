"""BackgroundServer in synchronous programs: beginning, use, end."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from trio_smtp import App, Config, DataContext, MailFromContext, Running
from trio_smtp.background import BackgroundServer

from .background_support import MESSAGE, Storing, connected, no_thread_is_left, send
from .socket_support import needs_ipv6


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    with no_thread_is_left():
        yield


def test_a_block_is_served() -> None:
    app = Storing()
    with BackgroundServer(app) as server:
        assert server.host == "127.0.0.1"
        assert server.url == f"smtp://127.0.0.1:{server.port}"
        send(server)
        (only,) = server.servers
        port = only.port
        assert port == server.port
    assert app.stored == [MESSAGE]
    assert threading.get_ident() not in app.threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_several_listeners_and_apps() -> None:
    first, second = Storing(), Storing()
    with BackgroundServer(first, [Config(port=0), (second, Config(port=0, lmtp=True))]) as server:
        assert [each.app for each in server.servers] == [first, second]
        port = server.servers[1].port
        assert port is not None
        with smtplib.LMTP("127.0.0.1", port) as client:
            client.sendmail("alice@example.com", ["bob@example.com"], MESSAGE)
    assert (first.stored, second.stored) == ([], [MESSAGE])


def test_functions_are_called_in_the_servers_thread() -> None:
    async def later(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number + 1

    def fail() -> None:
        raise LookupError("mine")

    with BackgroundServer(Storing()) as server:
        assert server.call(threading.get_ident) != threading.get_ident()
        assert server.call(divmod, 7, 2) == (3, 1)
        assert server.call_async(later, 1) == 2
        with pytest.raises(LookupError, match="mine"):
            server.call(fail)


def test_lifespans_are_entered_and_left_in_the_thread() -> None:
    app = Storing()
    events: list[tuple[str, int]] = []

    @app.lifespan
    async def note(running: Running) -> AsyncIterator[None]:
        events.append(("entered", threading.get_ident()))
        yield
        events.append(("left", threading.get_ident()))

    with BackgroundServer(app) as server:
        ident = server.call(threading.get_ident)
    assert events == [("entered", ident), ("left", ident)]


def test_leaving_with_an_open_connection_is_quick() -> None:
    with ExitStack() as clients:
        with BackgroundServer(Storing()) as server:
            for _ in range(3):
                clients.enter_context(connected(server))
            before = time.monotonic()
        assert time.monotonic() - before < 0.5


def test_a_transaction_under_way_gets_its_time() -> None:
    app = App()
    begun = threading.Event()

    @app.on_mail_from
    async def slow(ctx: MailFromContext) -> None:
        begun.set()
        await trio.sleep(0.3)

    replies: list[tuple[int, bytes]] = []

    def use(client: smtplib.SMTP) -> None:
        replies.append(client.mail("alice@example.com"))
        client.quit()

    with BackgroundServer(app, drain_timeout=10) as server:
        client = smtplib.SMTP(server.host, server.port, timeout=30)
        client.ehlo()
        thread = threading.Thread(target=use, args=[client])
        thread.start()
        assert begun.wait(10)
    thread.join()
    assert [code for code, _ in replies] == [250]


def test_unix_sockets_have_no_port(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with BackgroundServer(Storing(), Config(unix_path=str(path))) as server:
        with pytest.raises(RuntimeError, match="port: the first listener is no TCP port but '/"):
            _ = server.port
        assert path.is_socket()
    assert not path.exists()


@pytest.mark.parametrize(
    ("host", "seen", "shown"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "[::1]"),
        ("::", "::1", "[::1]"),
    ],
)
def test_the_address_is_one_that_clients_can_use(host: str, seen: str, shown: str) -> None:
    if ":" in host:
        needs_ipv6()
    with BackgroundServer(Storing(), Config(host=host, port=0)) as server:
        assert server.host == seen
        assert server.url == f"smtp://{shown}:{server.port}"
        send(server)


def test_the_url_names_the_protocol(server_ssl_context: ssl.SSLContext) -> None:
    with BackgroundServer(Storing(), Config(port=0, lmtp=True)) as server:
        assert server.url.startswith("lmtp://")
    with BackgroundServer(Storing(), Config(port=0, ssl_context=server_ssl_context, implicit_tls=True)) as server:
        assert server.url.startswith("smtps://")


def test_a_drain_ends_the_server_inside_the_block() -> None:
    app = Storing()

    @app.on_data
    async def drain(ctx: DataContext) -> None:
        server.drain()

    def call_until_the_end() -> None:
        for _ in range(1000):
            server.call(time.sleep, 0.01)

    with BackgroundServer(app) as server:
        with connected(server) as client:
            client.sendmail("alice@example.com", ["bob@example.com"], MESSAGE)
        with pytest.raises(RuntimeError, match="the server has ended"):
            call_until_the_end()
        server.drain()
        assert server.port
    assert app.stored == [MESSAGE]


def test_several_blocks_at_once() -> None:
    app = Storing()
    with BackgroundServer(app) as first, BackgroundServer(app) as second:
        assert first.port != second.port
        send(first)
        send(second)
    assert app.stored == [MESSAGE] * 2
    assert len(app.threads) == 2


def test_leaving_while_a_connection_is_refused_is_quick() -> None:
    with ExitStack() as clients:
        with BackgroundServer(Storing(), Config(port=0, max_connections=1)) as server:
            with connected(server):
                refused = clients.enter_context(socket.create_connection((server.host, server.port), timeout=10))
                assert refused.recv(1000).startswith(b"421")
            while server.call(lambda: server.servers[0].sessions):
                time.sleep(0.01)
            before = time.monotonic()
        assert time.monotonic() - before < 0.9
