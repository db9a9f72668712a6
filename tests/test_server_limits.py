"""max_connections and max_connections_per_host: who is refused, and how."""

from __future__ import annotations

import logging
import ssl

import pytest
import trio
import trio.testing
import trustme

from tests.socket_support import port_of
from trio_smtp import Config, ConnectContext, SMTPServer
from trio_smtp.testing import Client, MemoryListener

from .socket_support import connected, serving
from .support import BODY, logged, mail_app, note_closes, send
from .tls_support import server_context, shake_hands

FULL = b"421 4.3.2 Too many connections\r\n"
FULL_FOR_HOST = b"421 4.7.0 Too many connections from your host\r\n"


async def read_all(listening: SMTPServer) -> bytes:
    """Connect; returns everything the server says."""
    async with await trio.open_tcp_stream("127.0.0.1", port_of(listening)) as stream:
        return await Client(stream).read_to_end()


async def test_one_connection_too_many(caplog: pytest.LogCaptureFixture) -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    greeted = 0

    @app.on_connect
    async def connect(ctx: ConnectContext) -> None:
        nonlocal greeted
        greeted += 1

    async with serving(app, max_connections=2) as listening, connected(listening) as one, connected(listening):
        for _ in range(3):
            assert await read_all(listening) == FULL.replace(b"4.3.2 ", b"")
        stats = listening.stats
        assert (stats.connections_accepted, stats.connections_open, stats.connections_refused) == (2, 2, 3)
        assert stats.replies == {220: 2, 421: 3}
        # Those who are in do not notice.
        await one.ehlo()
        assert (await send(one)).code == 250
        # Nobody's session: no handler hears of it.
        assert (greeted, reasons, len(listening.sessions)) == (2, [], 2)
        await one.quit()
        await one.aclose()
        await trio.testing.wait_all_tasks_blocked()
        async with connected(listening) as another:
            assert another.greeting.code == 220
    assert taken == [BODY]
    assert logged(caplog) == ["peer=127.0.0.1 refused: Too many connections"] * 3


async def test_one_too_many_from_a_host(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    async with serving(app, max_connections_per_host=1) as listening:
        async with connected(listening):
            assert await read_all(listening) == FULL_FOR_HOST.replace(b"4.7.0 ", b"")
            assert listening.stats.connections_refused == 1
        await trio.testing.wait_all_tasks_blocked()
        async with connected(listening) as client:
            assert client.greeting.code == 220
    assert logged(caplog) == ["peer=127.0.0.1 refused: Too many connections from your host"]


async def test_the_total_is_looked_at_first() -> None:
    app, _ = mail_app()
    async with serving(app, max_connections=1, max_connections_per_host=1) as listening, connected(listening):
        assert await read_all(listening) == FULL.replace(b"4.3.2 ", b"")


async def test_an_ipv6_network_of_64_bits_is_one_host() -> None:
    app, _ = mail_app()

    async def come_from(listening: SMTPServer, address: str) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port_of(listening)))
        await client.send_bytes(b"PROXY TCP6 %b 2001:db8::25 4321 25\r\n" % address.encode())
        client.greeting = await client.read_reply()
        return client

    async with serving(app, max_connections_per_host=2, proxy_protocol=("127.0.0.0/8",)) as listening:
        addresses = ("2001:db8:1::1", "2001:db8:1::2", "2001:db8:1:0:ffff::3", "2001:db8:1:1::1", "2001:db8:2::1")
        clients = [await come_from(listening, address) for address in addresses]
        assert [client.greeting.code for client in clients] == [220, 220, 421, 220, 220]
        for client in clients:
            await client.aclose()


async def test_nobody_is_a_host_on_a_stream_without_addresses() -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections_per_host=1))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(listening.serve_listeners, [listener])
        for _ in range(3):
            assert (await Client(await listener.connect()).read_reply()).code == 220
        nursery.cancel_scope.cancel()


async def test_serve_stream_knows_no_limit() -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections=1))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            ours, theirs = trio.testing.memory_stream_pair()
            await nursery.start(listening.serve_stream, theirs)
            assert (await Client(ours).read_reply()).code == 220
        nursery.cancel_scope.cancel()


# How they are refused


async def test_a_refusal_on_an_implicit_tls_port_is_silent(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = mail_app()
    async with serving(app, max_connections=1, implicit_tls=True, ssl_context=server_ssl_context) as listening:
        client = Client(await trio.open_tcp_stream("127.0.0.1", port_of(listening)))
        await shake_hands(client, client_ssl_context)
        assert await read_all(listening) == b""
        assert listening.stats.connections_refused == 1
        assert listening.stats.replies == {220: 1}
        await client.aclose()


async def test_a_refusal_on_a_listener_of_tls_streams_is_silent(server_certificate: trustme.LeafCert) -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections=1))
    (below,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = trio.SSLListener(below, server_context(server_certificate))
    async with trio.open_nursery() as nursery:
        await nursery.start(listening.serve_listeners, [listener])
        async with await trio.open_tcp_stream(*below.socket.getsockname()):
            async with await trio.open_tcp_stream(*below.socket.getsockname()) as stream:
                assert await Client(stream).read_to_end() == b""
            nursery.cancel_scope.cancel()


async def test_a_refused_client_that_talks_gets_its_reply_all_the_same() -> None:
    app, _ = mail_app()
    async with serving(app, max_connections=1) as listening, connected(listening):
        client = Client(await trio.open_tcp_stream("127.0.0.1", port_of(listening)))
        await client.send_bytes(b"EHLO client.example\r\n" * 1000)
        assert await client.read_to_end() == b"421 Too many connections\r\n"  # and no reset
        await client.aclose()


async def test_a_refused_client_that_vanishes() -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections=1))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(listening.serve_listeners, [listener])
        first = await listener.connect()
        await trio.aclose_forcefully(await listener.connect())
        await trio.testing.wait_all_tasks_blocked()
        assert listening.stats.connections_refused == 1
        assert (await Client(first).read_reply()).code == 220
        nursery.cancel_scope.cancel()


async def test_a_refused_client_that_does_not_go(autojump_clock: trio.testing.MockClock) -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections=1))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(listening.serve_listeners, [listener])
        await listener.connect()
        refused = await listener.connect()
        start = trio.current_time()
        assert (await Client(refused).read_reply()).code == 421
        await trio.sleep(1.5)
        with pytest.raises(trio.BrokenResourceError):
            await refused.send_all(b"still here")
        assert trio.current_time() - start == 1.5
        nursery.cancel_scope.cancel()


async def test_a_refused_client_that_does_not_listen(autojump_clock: trio.testing.MockClock) -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections=1))

    class Listener(MemoryListener):
        async def accept(self) -> trio.abc.Stream:
            stream = await super().accept()
            assert isinstance(stream, trio.StapledStream)
            stream.send_stream.send_all_hook = trio.sleep_forever
            return stream

    listener = Listener()
    async with trio.open_nursery() as nursery:
        await nursery.start(listening.serve_listeners, [listener])
        await listener.connect()
        refused = await listener.connect()
        await trio.sleep(4.9)
        await refused.send_all(b"still here")
        await trio.sleep(0.2)
        with pytest.raises(trio.BrokenResourceError):
            await refused.send_all(b"still here")
        nursery.cancel_scope.cancel()


async def test_more_refusals_at_a_time_than_can_be_said_are_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections=1))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(listening.serve_listeners, [listener])
        await listener.connect()
        clients = [Client(await listener.connect()) for _ in range(102)]
        said = [await client.read_to_end() for client in clients]
        assert said == [b"421 Too many connections\r\n"] * 100 + [b""] * 2
        await trio.sleep(1.1)  # longer than a client has to go
        assert await Client(await listener.connect()).read_to_end() == b"421 Too many connections\r\n"
        assert listening.stats.connections_refused == 103
        assert listening.stats.replies[421] == 101
        nursery.cancel_scope.cancel()


async def test_cancelling_the_server_cuts_refusals_short(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()
    listening = SMTPServer(app, Config(max_connections=1))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(listening.serve_listeners, [listener])
        await listener.connect()
        refused = await listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == start
    with pytest.raises(trio.BrokenResourceError):
        await refused.send_all(b"still here")
    assert logged(caplog, logging.ERROR) == []
