"""SMTPServer and serve: listeners of every kind, and what a server survives."""

from __future__ import annotations

import errno
import gc
import math
import socket
import ssl
import stat
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from trio_smtp import App, AuthContext, Config, ConnectContext, MailFromContext, Session, SMTPServer, serve
from trio_smtp.testing import Client, MemoryListener

from .socket_support import connected, serving
from .support import BODY, logged, mail_app, note_closes, send, start_transaction
from .tls_support import NAME, server_context, shake_hands

# Making one


def test_it_wants_an_app() -> None:
    with pytest.raises(TypeError, match="app must be an App, not 'myapp'"):
        SMTPServer("myapp")  # type: ignore[arg-type]


def test_an_app_that_takes_no_mail_is_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    SMTPServer(app)
    assert logged(caplog) == []
    SMTPServer(App())
    assert logged(caplog) == ["the App has no on_data handler: every message will be refused"]


def test_no_handler_is_registered_any_more() -> None:
    app, _ = mail_app()
    SMTPServer(app)
    with pytest.raises(RuntimeError, match="on_close: register handlers before serving begins"):
        note_closes(app)


def test_it_has_a_config_of_its_own() -> None:
    server = SMTPServer(mail_app()[0])
    assert server.config.port == 8025
    assert (server.listeners, server.sessions) == ([], [])


# serve


async def test_serve_opens_what_the_config_names() -> None:
    app, taken = mail_app()
    async with trio.open_nursery() as nursery:
        server: SMTPServer = await nursery.start(serve, app, Config(port=0, hostname="mx.example"))
        (listener,) = server.listeners
        assert isinstance(listener, trio.SocketListener)
        assert listener.socket.getsockname() == ("127.0.0.1", server.port)
        async with connected(server) as client:
            assert client.greeting.lines == ("mx.example ESMTP",)
            assert (await send(client)).code == 503
            await client.ehlo()
            assert (await send(client)).code == 250
            assert (await client.quit()).code == 221
            assert await client.read_to_end() == b""
        server.drain()
    assert taken == [BODY]
    assert server.listeners == []


async def test_serve_on_a_unix_socket(tmp_path: Path) -> None:
    app, taken = mail_app()
    path = tmp_path / "smtp"
    async with trio.open_nursery() as nursery:
        server: SMTPServer = await nursery.start(serve, app, Config(unix_path=str(path)))
        client = Client(await trio.open_unix_socket(path))
        await client.read_reply()
        await client.ehlo()
        (session,) = server.sessions
        assert (session.remote_address, session.remote_port, session.local_address) == (None, None, None)
        assert (session.client_hostname, session.original_peer) == ("unknown", (None, None))
        assert (await send(client)).code == 250
        assert server.port is None
        await client.aclose()
        server.drain()
    assert taken == [BODY]
    assert not path.exists()


@pytest.mark.parametrize("implicit", [True, False])
async def test_a_port_in_use_is_a_plain_error(server_ssl_context: ssl.SSLContext, implicit: bool) -> None:
    app, _ = mail_app()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = Config(port=taken.getsockname()[1], ssl_context=server_ssl_context, implicit_tls=implicit)
        with pytest.raises(OSError, match="in use") as caught:  # not a group
            await serve(app, config)
        assert caught.value.errno == errno.EADDRINUSE
        async with trio.open_nursery() as nursery:
            with pytest.raises(OSError, match="in use"):
                await nursery.start(serve, app, config)


async def test_an_address_that_is_not_ours_is_a_plain_error() -> None:
    with pytest.raises(OSError, match=r"assign|192\.0\.2\.1"):
        await serve(mail_app()[0], Config(host="192.0.2.1", port=0))


# Listeners


async def test_serve_tcp_several_times_in_one_server() -> None:
    app, taken = mail_app()
    server = SMTPServer(app, Config(host="192.0.2.1", port=8025))  # not ours: what serve_tcp is told goes first
    async with trio.open_nursery() as nursery:
        addresses = []
        for _ in range(3):
            (listener,) = await nursery.start(partial(server.serve_tcp, host="127.0.0.1", port=0))
            addresses.append(listener.socket.getsockname())
            assert server.listeners[-1] is listener
        assert len(set(addresses)) == 3
        assert addresses[0] == ("127.0.0.1", server.port)  # the first one's
        for address in addresses:
            async with await trio.open_tcp_stream(*address) as stream:
                client = Client(stream)
                await client.read_reply()
                await client.ehlo()
                assert (await send(client)).code == 250
        server.drain()
    assert len(taken) == 3
    assert server.stats.connections_accepted == 3


async def test_serve_tcp_where_the_config_says() -> None:
    app, _ = mail_app()
    server = SMTPServer(app, Config(host="127.0.0.1", port=0))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_tcp)
        async with connected(server) as client:
            assert client.greeting.code == 220
        server.drain()


async def test_serve_unix(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp"
    server = SMTPServer(app, Config(unix_path=str(tmp_path / "another")))
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(server.serve_unix, path, mode=0o600))
        assert server.listeners == [listener]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with await trio.open_unix_socket(path) as stream:
            assert (await Client(stream).read_reply()).code == 220
        await nursery.start(server.serve_unix)
        assert (tmp_path / "another").is_socket()
        server.drain()
    assert list(tmp_path.iterdir()) == []


async def test_serve_unix_without_a_path() -> None:
    with pytest.raises(ValueError, match="unix_path"):
        await SMTPServer(mail_app()[0]).serve_unix()


async def test_listeners_are_closed_at_the_end() -> None:
    app, _ = mail_app()
    server = SMTPServer(app)
    listeners = [await server.listen_tcp(port=0), await server.listen_tcp(port=0)]
    memory = MemoryListener()
    everything = [listeners[0][0], memory, listeners[1][0]]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, everything)
        assert server.listeners == everything
        nursery.cancel_scope.cancel()
    assert server.listeners == []
    for (listener,) in listeners:
        assert listener.socket.fileno() == -1
    with pytest.raises(trio.BrokenResourceError):
        await memory.connect()


def test_a_server_that_does_not_listen_has_no_port() -> None:
    app, _ = mail_app()
    assert SMTPServer(app).port is None


async def test_memory_listener(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    server = SMTPServer(app)
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        assert await nursery.start(server.serve_listeners, [listener]) == [listener]
        clients = [Client(await listener.connect()) for _ in range(3)]
        for client in clients:
            assert (await client.read_reply()).code == 220
            await client.ehlo()
        assert len({session.id for session in server.sessions}) == 3
        for client in clients:
            assert (await send(client)).code == 250
        await clients[0].quit()
        await clients[0].aclose()
        await clients[1].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.sessions) == 1
        assert server.port is None
        server.drain()
        assert (await clients[2].read_reply()).code == 421
        await clients[2].aclose()
    assert len(taken) == 3


async def test_tls_listeners(server_certificate: trustme.LeafCert, client_ssl_context: ssl.SSLContext) -> None:
    app, taken = mail_app()
    server = SMTPServer(app)
    (below,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = trio.SSLListener(below, server_context(server_certificate), https_compatible=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        client = Client(await trio.open_tcp_stream(*below.socket.getsockname()))
        await shake_hands(client, client_ssl_context)
        await client.ehlo()
        (session,) = server.sessions
        assert session.secure
        assert (session.remote_address, session.servername) == ("127.0.0.1", NAME)
        assert (await send(client)).code == 250
        await client.aclose()
        server.drain()
    assert taken == [BODY]


class BadListener(trio.abc.Listener[trio.abc.Stream]):
    """Fails with the errors it was given, and works after that."""

    def __init__(self, *codes: int) -> None:
        self._errors = [OSError(code, errno.errorcode[code]) for code in codes]
        self._listener = MemoryListener()
        self.connect = self._listener.connect

    async def accept(self) -> trio.abc.Stream:
        if self._errors:
            raise self._errors.pop(0)
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


async def test_a_listener_that_runs_out_of_descriptors_pauses(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()
    listener = BadListener(errno.EMFILE, errno.ENFILE)
    async with trio.open_nursery() as nursery:
        await nursery.start(SMTPServer(app).serve_listeners, [listener])
        start = trio.current_time()
        client = Client(await listener.connect())
        assert (await client.read_reply()).code == 220
        assert trio.current_time() - start == pytest.approx(0.2)
        nursery.cancel_scope.cancel()
    assert logged(caplog)[:2] == ["accepting pauses: EMFILE", "accepting pauses: ENFILE"]


async def test_a_listener_that_breaks_ends_the_serving() -> None:
    app, _ = mail_app()
    server = SMTPServer(app)
    listener = BadListener(errno.EBADF)
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="EBADF"), flatten_subgroups=True):
        await server.serve_listeners([listener])
    assert server.listeners == []
    with pytest.raises(trio.BrokenResourceError):
        await listener.connect()


async def test_serve_stream_is_one_session() -> None:
    app, taken = mail_app()
    server = SMTPServer(app)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        session: Session = await nursery.start(server.serve_stream, theirs)
        assert server.sessions == [session]
        client = Client(ours)
        assert (await client.read_reply()).code == 220
        await client.ehlo()
        await send(client)
        await client.quit()
        await client.aclose()
    assert server.sessions == []
    assert taken == [BODY]
    with pytest.raises(trio.ClosedResourceError):
        await theirs.receive_some()


# What a server survives, and what it shares


async def test_a_crash_in_one_session_is_nothing_to_another(caplog: pytest.LogCaptureFixture) -> None:
    app, taken = mail_app()

    @app.on_mail_from
    async def crash(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "crash":
            raise RuntimeError("a bug")

    @app.on_close
    async def crash_too(ctx: object) -> None:
        raise RuntimeError("another bug")

    async with serving(app) as server, connected(server) as bystander:
        await bystander.ehlo()
        async with connected(server) as client:
            await client.ehlo()
            assert (await client.command("MAIL FROM:<crash@example.org>")).code == 451
        assert (await send(bystander)).code == 250
    assert taken == [BODY]
    crashes = sorted(r.getMessage().split(" ", 1)[1] for r in caplog.records if r.exc_info)
    assert crashes == ["on_close handler failed"] * 2 + ["on_mail_from handler failed"]


async def test_keyboard_interrupt_is_nobodys_to_swallow() -> None:
    app, _ = mail_app()

    @app.on_connect
    async def interrupt(ctx: ConnectContext) -> None:
        raise KeyboardInterrupt

    _, theirs = trio.testing.memory_stream_pair()
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True, allow_unwrapped=True):
        await SMTPServer(app).serve_stream(theirs)
    with pytest.raises(trio.ClosedResourceError):
        await theirs.receive_some()


async def test_one_app_under_several_configs_at_once(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    """25 with STARTTLS, 465 with TLS at once and AUTH required, LMTP on a Unix socket."""
    app, taken = mail_app()

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        ctx.accept()

    path = tmp_path / "lmtp"
    configs = (
        Config(port=0, ssl_context=server_ssl_context),
        Config(port=0, ssl_context=server_ssl_context, implicit_tls=True, auth_required=True),
        Config(unix_path=str(path), lmtp=True),
    )
    async with trio.open_nursery() as nursery:
        mx, submission, local = [await nursery.start(serve, app, config) for config in configs]
        async with connected(mx) as client:
            await client.starttls(client_ssl_context, NAME)
            await client.ehlo()
            assert (await send(client, b"one\r\n")).code == 250
        async with await trio.open_tcp_stream("127.0.0.1", submission.port) as stream:
            client = Client(stream)
            await shake_hands(client, client_ssl_context)
            await client.ehlo()
            assert (await send(client)).code == 530
            await client.auth_plain("somebody", "secret")
            assert (await send(client, b"two\r\n")).code == 250
            await client.aclose()
        async with await trio.open_unix_socket(path) as stream:
            client = Client(stream)
            await client.read_reply()
            await client.command("LHLO client.example")
            assert (await send(client, b"three\r\n")).code == 250
        for server in (mx, submission, local):
            assert server.stats.messages_accepted == 1
            server.drain()
    assert taken == [b"one\r\n", b"two\r\n", b"three\r\n"]


async def test_a_client_that_sends_without_end_does_not_hold_up_another() -> None:
    app, _ = mail_app()
    async with serving(app) as server, connected(server) as busy, trio.open_nursery() as nursery:

        async def chatter() -> None:
            while True:
                await busy.send_bytes(b"NOOP\r\n" * 1000)

        async def listen() -> None:
            while True:
                await busy.read_reply()

        nursery.start_soon(chatter)
        nursery.start_soon(listen)
        with trio.fail_after(20):
            async with connected(server) as client:
                await client.ehlo()
                for _ in range(5):
                    assert (await send(client)).code == 250
                await start_transaction(client)
        nursery.cancel_scope.cancel()


def test_authentication_that_nobody_can_give_is_told_when_the_server_starts(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    SMTPServer(app, Config(auth_required=True, allow_insecure_auth=True))
    assert logged(caplog) == ["auth_required, but the App has no on_auth handler: every sender will be refused"]
    caplog.clear()

    able, _ = mail_app()

    @able.on_auth
    async def check(ctx: AuthContext) -> None:
        return

    SMTPServer(able, Config(auth_required=True, allow_insecure_auth=True))
    assert logged(caplog) == []


async def test_serving_that_was_cancelled_leaves_nothing_behind() -> None:
    app, _ = mail_app()
    server = SMTPServer(app)

    async def serve() -> int:
        """How many cancel scopes there are afterwards (trio keeps those with a deadline for a while)."""
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, [MemoryListener()])
            nursery.cancel_scope.cancel()
        gc.collect()
        # By type: some objects of Django answer `isinstance` by importing settings.
        scopes = [each for each in gc.get_objects() if type(each) is trio.CancelScope]
        return sum(scope.deadline == math.inf for scope in scopes)

    first = await serve()
    assert [await serve() for _ in range(3)] == [first] * 3
    assert server.listeners == []
