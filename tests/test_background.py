"""BackgroundServer in synchronous programs: beginning, use, end."""

from __future__ import annotations

import gc
import smtplib
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from trio_smtp import App, Config, DataContext, MailFromContext, Running
from trio_smtp.background import BackgroundServer

MESSAGE = b"Subject: Hi\r\n\r\nHello\r\n"


class Storing(App):
    """Takes messages, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[bytes] = []
        self.threads: set[int] = set()

        @self.on_data
        async def store(ctx: DataContext) -> None:
            self.stored.append(await ctx.stream.read())
            self.threads.add(threading.get_ident())


@pytest.fixture(autouse=True)
def _no_threads_are_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = {thread for thread in set(threading.enumerate()) - before if "BackgroundServer" in thread.name}
    assert left == set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()


def send(server: BackgroundServer, message: bytes = MESSAGE) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=30) as client:
        client.sendmail("alice@example.com", ["bob@example.com"], message)


def test_a_block_is_served() -> None:
    app = Storing()
    with BackgroundServer(app) as server:
        assert server.host == "127.0.0.1"
        assert server.url == f"smtp://127.0.0.1:{server.port}"
        send(server)
        (only,) = server.servers
        assert only.port == server.port
    assert app.stored == [MESSAGE]
    assert threading.get_ident() not in app.threads


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


def test_a_port_in_use_comes_out_of_the_beginning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = BackgroundServer(Storing(), Config(port=taken.getsockname()[1]))
        with pytest.raises(OSError, match="in use") as refused, server:
            pytest.fail("the block was executed")
    assert "open_tcp_listeners" in {entry.name for entry in refused.traceback}


def test_leaving_with_an_open_connection_is_quick() -> None:
    with BackgroundServer(Storing()) as server:
        client = smtplib.SMTP(server.host, server.port, timeout=30)
        client.ehlo()
        before = time.monotonic()
    assert time.monotonic() - before < 1
    client.close()


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
