"""`endpoints_of`: the addresses of sockets, of streams that name their own, and of streams that have none."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio
import trio.testing

from tests.socket_support import needs_ipv6
from tests.transport_support import pair
from trio_smtp.net.endpoints import Endpoints, PlacedStream, endpoints_of
from trio_smtp.net.transport import SocketTransport

SOMEWHERE = Endpoints(("192.0.2.1", 4711), ("198.51.100.1", 25))


def placed(endpoints: Endpoints) -> PlacedStream:
    """A stream that names its endpoints itself."""
    return PlacedStream(trio.testing.memory_stream_pair()[0], endpoints)


async def test_a_transport() -> None:
    ours, theirs = pair()
    ends = endpoints_of(ours)
    assert ends == Endpoints(theirs.socket.getsockname(), ours.socket.getsockname())
    assert endpoints_of(theirs) == Endpoints(ends.local, ends.remote)
    ours.close()
    theirs.close()


async def test_a_stream_of_trios() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as client, await listener.accept() as server:
            assert endpoints_of(client).remote == ("127.0.0.1", port)
            assert endpoints_of(server).local == ("127.0.0.1", port)


async def test_ipv6_without_flow_and_scope() -> None:
    needs_ipv6()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        address = listening.getsockname()
        with socket.create_connection(address[:2]) as client:
            assert len(client.getpeername()) == 4
            assert endpoints_of(SocketTransport(client)) == Endpoints(address[:2], client.getsockname()[:2])


async def test_below_any_number_of_tls_streams(server_ssl_context: ssl.SSLContext) -> None:
    ours, theirs = pair()
    inner = trio.SSLStream(ours, server_ssl_context, server_side=True)
    outer = trio.SSLStream(inner, server_ssl_context, server_side=True)
    assert endpoints_of(outer) == endpoints_of(ours) != Endpoints()
    ours.close()
    theirs.close()


async def test_what_a_stream_says_of_itself_counts_first(server_ssl_context: ssl.SSLContext) -> None:
    assert endpoints_of(placed(SOMEWHERE)) == SOMEWHERE
    assert endpoints_of(trio.SSLStream(placed(SOMEWHERE), server_ssl_context, server_side=True)) == SOMEWHERE


async def test_an_attribute_that_only_has_the_name_does_not_count() -> None:
    stream = placed(SOMEWHERE)
    stream.endpoints = "elsewhere"  # type: ignore[assignment]
    assert endpoints_of(stream) == Endpoints()


async def test_a_placed_stream_keeps_the_rules_of_trios_streams() -> None:
    async def make() -> tuple[PlacedStream, PlacedStream]:
        ours, theirs = trio.testing.memory_stream_pair()
        return PlacedStream(ours, SOMEWHERE), PlacedStream(theirs, SOMEWHERE)

    await trio.testing.check_half_closeable_stream(make, None)


async def test_unix_and_memory_streams_have_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert endpoints_of(SocketTransport(ours)) == Endpoints()
    assert endpoints_of(trio.testing.memory_stream_pair()[0]) == Endpoints()


@pytest.mark.parametrize("closed", [False, True])
async def test_a_socket_that_is_gone_has_none(closed: bool) -> None:
    with socket.socket() as sock:
        stream = SocketTransport(sock)
        if closed:
            stream.close()
        assert endpoints_of(stream) == Endpoints()
