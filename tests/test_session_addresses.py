"""Who is at the other end of a connection, and where it came in."""

from __future__ import annotations

import socket

import pytest
import trio

from trio_smtp import SMTPServer
from trio_smtp.net.transport import SocketTransport
from trio_smtp.protocol.networks import canonical, host_key

from .socket_support import connected, needs_ipv6, serving
from .support import mail_app, note_closes


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_addresses_are_canonical(given: str, form: str) -> None:
    assert canonical(given) == form


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        (None, ""),
    ],
)
def test_an_ipv6_network_of_64_bits_is_one_host(address: str | None, host: str) -> None:
    assert host_key(address) == host


async def test_the_ends_of_a_tcp_connection() -> None:
    app, _ = mail_app()
    async with serving(app) as server, connected(server) as client:
        assert isinstance(client.stream, trio.SocketStream)
        host, port = client.stream.socket.getsockname()
        (session,) = server.sessions
        assert (session.remote_address, session.remote_port) == (host, port)
        assert (session.local_address, session.local_port) == ("127.0.0.1", server.port)
        assert session.original_peer == (host, port)
        assert session.client_hostname == f"[{host}]"


async def test_the_ends_of_an_ipv6_connection() -> None:
    needs_ipv6()
    app, _ = mail_app()
    server = SMTPServer(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(host="::1", port=0))
        async with connected(server, "::1"):
            (session,) = server.sessions
            assert (session.remote_address, session.local_address) == ("::1", "::1")
            assert session.client_hostname == "[::1]"
        server.drain()


async def test_ipv4_through_an_ipv6_socket_is_ipv4() -> None:
    needs_ipv6()
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    listening.setblocking(False)
    app, _ = mail_app()
    server = SMTPServer(app)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        async with connected(server):
            (session,) = server.sessions
            assert (session.remote_address, session.local_address) == ("127.0.0.1", "127.0.0.1")
        server.drain()


async def test_a_socket_that_is_gone_before_it_is_looked_at() -> None:
    """The client reset the connection while it waited to be accepted."""
    app, _ = mail_app()
    reasons = note_closes(app)
    server = SMTPServer(app)
    await server.serve_stream(SocketTransport(socket.socket()))  # never connected: nobody at the other end
    assert server.sessions == []
    assert reasons == ["lost"]
