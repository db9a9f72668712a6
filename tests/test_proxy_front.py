"""A proxy in front (PROXY protocol): who must send a header, what becomes of it, and that TLS may follow it."""

from __future__ import annotations

import logging
import ssl
import struct
from typing import Any

import pytest
import trio
import trio.testing

from tests.peer_support import PROXY, STRANGER, front
from tests.support import BODY, closed, logged, mail_app, note_closes, send, status
from trio_smtp import App, ConnectContext, Extension, ProxyHeader, Session
from trio_smtp.testing import Client, open_client

TRUST: dict[str, Any] = {"proxy_protocol": ["192.0.2.0/24"]}
V1 = b"PROXY TCP4 198.51.100.77 198.51.100.2 40000 587\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TLVS = struct.pack("!BH", 2, 14) + b"mx.example.com" + struct.pack("!BH", 5, 2) + b"id"
V2 = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 12 + len(TLVS)) + bytes([198, 51, 100, 77, 198, 51, 100, 2])
V2 += struct.pack("!HH", 40_000, 587) + TLVS
LOCAL = SIGNATURE + b"\x20\0\0\0"
UNIX = SIGNATURE + b"\x21\x31\0\xd8" + b"127.0.0.1".ljust(108, b"\0") + b"/run/x".ljust(108, b"\0")


def ends(session: Session) -> tuple[object, ...]:
    return session.remote_address, session.remote_port, session.local_address, session.local_port


def noting_app() -> tuple[App, list[Session]]:
    """An App that notes whom `on_connect` saw."""
    app, _ = mail_app()
    seen: list[Session] = []

    @app.on_connect
    async def note(ctx: ConnectContext) -> None:
        seen.append(ctx.session)

    return app, seen


@pytest.mark.parametrize("header", [pytest.param(V1, id="v1"), pytest.param(V2, id="v2")])
async def test_a_header_says_who_it_is(header: bytes) -> None:
    app, seen = noting_app()
    async with front(app, **TRUST) as there:
        client = await there.connect(first=header)
        assert (await client.read_reply()).code == 220
        (session,) = seen
        assert ends(session) == ("198.51.100.77", 40_000, "198.51.100.2", 587)
        assert session.original_peer == (PROXY, 4711)
        assert session.client_hostname == "[198.51.100.77]"
        assert session.proxy is not None
        assert session.proxy.source == ("198.51.100.77", 40_000)
        if header is V2:
            assert (session.proxy.authority, session.proxy.unique_id) == ("mx.example.com", b"id")
            assert session.proxy.tlvs == {2: b"mx.example.com", 5: b"id"}
        await client.ehlo()
        assert (await send(client)).code == 250


@pytest.mark.parametrize("header", [pytest.param(V1, id="v1"), pytest.param(V2, id="v2")])
async def test_what_follows_the_header_is_the_clients(header: bytes) -> None:
    app, _ = noting_app()
    async with front(app, **TRUST) as there:
        client = await there.connect(first=header + b"EHLO x\r\nNOOP\r\n")
        assert [(await client.read_reply()).code for _ in range(3)] == [220, 250, 250]


@pytest.mark.parametrize("header", [pytest.param(V1, id="v1"), pytest.param(V2, id="v2")])
async def test_a_header_may_drip(header: bytes) -> None:
    app, seen = noting_app()
    async with front(app, **TRUST) as there:
        client = await there.connect()
        for position in range(len(header)):
            assert seen == []
            await client.send_bytes(header[position : position + 1])
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.read_reply()).code == 220
        assert ends(seen[0])[0] == "198.51.100.77"


@pytest.mark.parametrize(
    ("header", "proxy"),
    [
        pytest.param(b"PROXY UNKNOWN\r\n", ProxyHeader(1, local=True), id="v1 UNKNOWN"),
        pytest.param(LOCAL, ProxyHeader(2, local=True), id="v2 LOCAL"),
    ],
)
async def test_the_proxy_itself(header: bytes, proxy: ProxyHeader) -> None:
    app, seen = noting_app()
    async with front(app, max_connections_per_host=1, **TRUST) as there:
        # Health checks are not held to the limit of one host.
        for client in [await there.connect(first=header) for _ in range(3)]:
            assert (await client.read_reply()).code == 220
        assert [ends(session) for session in seen] == [(PROXY, 4711, "198.51.100.1", 25)] * 3
        assert seen[0].proxy == proxy
        assert seen[0].client_hostname == f"[{PROXY}]"


async def test_a_unix_socket_is_nowhere() -> None:
    """Its path may look like a trusted address."""
    app, seen = noting_app()
    async with front(app, xclient=["127.0.0.0/8"], max_connections_per_host=1, **TRUST) as there:
        other, client = [await there.connect(first=UNIX) for _ in range(2)]
        assert [(await each.read_reply()).code for each in (other, client)] == [220, 220]
        assert ends(seen[0]) == (None, None, None, None)
        assert seen[0].client_hostname == "unknown"
        assert seen[0].proxy is not None
        assert seen[0].proxy.source == ("unix:127.0.0.1", 0)
        await client.ehlo()
        assert status(await client.command("XCLIENT NAME=x")) == (550, "5.7.0")


async def test_an_ipv4_mapped_address_is_ipv4() -> None:
    app, seen = noting_app()
    async with front(app, **TRUST) as there:
        await there.connect(first=b"PROXY TCP6 ::ffff:203.0.113.9 2001:DB8::0 1 2\r\n")
        assert ends(seen[0]) == ("203.0.113.9", 1, "2001:db8::", 2)


async def test_strangers_are_connected_as_they_are() -> None:
    app, seen = noting_app()
    async with front(app, **TRUST) as there:
        client = await there.connect(None)
        assert (await client.read_reply()).code == 220
        client = await there.connect(STRANGER)
        assert (await client.read_reply()).code == 220
        assert [(each.remote_address, each.proxy) for each in seen] == [(None, None), (STRANGER, None)]
        # A header from them is no command.
        assert (await client.command(V1[:-2])).code == 500
        assert seen[-1].proxy is None


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"EHLO client.example\r\n", id="SMTP"),
        pytest.param(b"PROXY TCP4 198.51.100.77 198.51.100.2 40000 65536\r\n", id="a malformed v1"),
        pytest.param(V2[:12] + b"\x31" + V2[13:], id="a malformed v2"),
        pytest.param(b"\x16\x03\x01" + bytes(100), id="TLS"),
    ],
)
async def test_a_bad_header_closes_without_a_word(first: bytes, caplog: pytest.LogCaptureFixture) -> None:
    app, seen = noting_app()
    closes = note_closes(app)
    async with front(app, **TRUST) as there:
        client = await there.connect(first=first)
        assert await closed(client)
    assert (seen, closes) == ([], [])  # nobody's session
    assert any("bad PROXY header" in line for line in logged(caplog))


@pytest.mark.parametrize("first", [b"", V1[:20], V2[:14]])
async def test_a_header_that_does_not_come(first: bytes, autojump_clock: trio.testing.MockClock) -> None:
    app, seen = noting_app()
    async with front(app, proxy_timeout=5, **TRUST) as there:
        client = await there.connect(first=first)
        before = trio.current_time()
        assert await closed(client)
        assert 5 <= trio.current_time() - before <= 6
        await trio.sleep(0.1)
        assert there.server.sessions == []
    assert seen == []


async def test_the_time_is_for_the_whole_header(autojump_clock: trio.testing.MockClock) -> None:
    app, seen = noting_app()
    async with front(app, proxy_timeout=5, **TRUST) as there:
        client = await there.connect()
        before = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - one of these octets comes too late
            for position in range(len(V1)):
                await client.send_bytes(V1[position : position + 1])
                await trio.sleep(1)
        assert trio.current_time() - before <= 8
    assert seen == []


async def test_a_peer_that_leaves_inside_its_header(autojump_clock: trio.testing.MockClock) -> None:
    app, seen = noting_app()
    async with front(app, **TRUST) as there:
        client = await there.connect(first=V1[:10])
        await client.aclose()
        await trio.sleep(0.1)
        assert there.server.sessions == []
    assert seen == []


@pytest.mark.parametrize("implicit_tls", [True, False])
async def test_a_drain_inside_a_header_says_nothing(
    implicit_tls: bool,
    server_ssl_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, _ = noting_app()
    tls: dict[str, Any] = {"implicit_tls": True, "ssl_context": server_ssl_context} if implicit_tls else {}
    async with front(app, drain_timeout=2, proxy_timeout=10, **TRUST, **tls) as there:
        client = await there.connect(first=V1[:10])
        there.server.drain()
        assert await closed(client)
        assert trio.current_time() < 4


# --- Limits ---


def header_for(host: int) -> bytes:
    return b"PROXY TCP4 198.51.100.%d 198.51.100.2 1 25\r\n" % host


async def test_the_limit_of_a_host_is_for_the_headers_address(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app, seen = noting_app()
    closes = note_closes(app)
    async with front(app, max_connections_per_host=2, **TRUST) as there:
        clients = [await there.connect(first=header_for(host)) for host in (1, 1, 2, 2)]
        for client in clients:
            assert (await client.read_reply()).code == 220
        refused = await there.connect(first=header_for(1))
        assert await refused.read_to_end() == b"421 Too many connections from your host\r\n"
        assert there.server.stats.connections_refused == 1
        (line,) = logged(caplog)
        assert "peer=198.51.100.1 " in line
        assert "refused: Too many connections from your host" in line
        assert len(seen) == 4
        # One that leaves makes room for one.
        assert (await clients[0].quit()).code == 221
        await clients[0].aclose()
        await trio.sleep(2)
        again = await there.connect(first=header_for(1))
        assert (await again.read_reply()).code == 220
        stranger = [await there.connect(STRANGER) for _ in range(3)]
        assert [(await each.read_reply()).code for each in stranger] == [220, 220, 421]
    assert closes.count("refused") == 0


async def test_over_implicit_tls_the_limit_closes_without_a_word(
    server_ssl_context: ssl.SSLContext, autojump_clock: trio.testing.MockClock
) -> None:
    app, seen = noting_app()
    async with front(
        app, max_connections_per_host=1, ssl_context=server_ssl_context, implicit_tls=True, **TRUST
    ) as there:
        await there.connect(first=header_for(1))
        refused = await there.connect(first=header_for(1))
        assert await closed(refused)
    assert seen == []


# --- TLS ---


async def shake_hands(client: Client, context: ssl.SSLContext) -> None:
    client.stream = trio.SSLStream(client.stream, context, server_hostname="mx.example.com", https_compatible=True)
    await client.stream.do_handshake()


@pytest.mark.parametrize("header", [pytest.param(V1, id="v1"), pytest.param(V2, id="v2")])
async def test_a_header_before_implicit_tls(
    header: bytes,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
) -> None:
    app, seen = noting_app()
    async with front(app, ssl_context=server_ssl_context, implicit_tls=True, **TRUST) as there:
        client = await there.connect(first=header)
        await shake_hands(client, client_ssl_context)
        assert (await client.read_reply()).code == 220
        assert seen[0].secure
        assert ends(seen[0]) == ("198.51.100.77", 40_000, "198.51.100.2", 587)
        await client.ehlo()
        assert (await send(client, BODY)).code == 250


async def test_header_and_client_hello_in_one_segment(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    """Not an octet of the ClientHello may be taken for the header."""
    app, seen = noting_app()

    class Prefixed(trio.abc.Stream):
        def __init__(self, stream: trio.abc.Stream) -> None:
            self.stream, self.prefix = stream, V2

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            prefix, self.prefix = self.prefix, b""
            await self.stream.send_all(prefix + bytes(data))

        async def wait_send_all_might_not_block(self) -> None:
            await self.stream.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await self.stream.receive_some(max_bytes)

        async def aclose(self) -> None:
            await self.stream.aclose()

    async with front(app, ssl_context=server_ssl_context, implicit_tls=True, **TRUST) as there:
        client = await there.connect()
        client.stream = Prefixed(client.stream)
        await shake_hands(client, client_ssl_context)
        assert (await client.read_reply()).code == 220
        assert ends(seen[0])[0] == "198.51.100.77"


async def test_it_survives_starttls(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    app, seen = noting_app()
    async with front(app, ssl_context=server_ssl_context, **TRUST) as there:
        client = await there.connect(first=V2)
        await client.read_reply()
        await client.ehlo()
        await client.starttls(client_ssl_context, "mx.example.com")
        await client.ehlo()
        (session,) = seen
        assert session.secure
        assert ends(session) == ("198.51.100.77", 40_000, "198.51.100.2", 587)
        assert session.proxy is not None
        assert session.proxy.authority == "mx.example.com"


# --- What else depends on the address ---


async def test_what_is_offered_depends_on_the_headers_address() -> None:
    app, _ = noting_app()
    app.extend(
        Extension(
            keyword="XINSIDE",
            available=lambda session: session.remote_address == "198.51.100.77",
            mail_parameters={"XINSIDE": str},
        )
    )
    async with front(app, xforward=["198.51.100.0/24"], **TRUST) as there:
        client = await there.connect(first=V1)
        await client.read_reply()
        lines = (await client.ehlo()).lines
        assert "XINSIDE" in lines
        assert any(line.startswith("XFORWARD ") for line in lines)
        assert (await client.command("MAIL FROM:<a@example.org> XINSIDE=1")).code == 250
        client = await there.connect(first=header_for(1))
        await client.read_reply()
        assert "XINSIDE" not in (await client.ehlo()).lines


async def test_the_log_says_the_clients_address(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    app, _ = noting_app()
    async with front(app, **TRUST) as there:
        client = await there.connect(first=V1)
        await client.read_reply()
        await client.quit()
        await trio.sleep(2)
    assert any("peer=198.51.100.77" in line and "connection closed" in line for line in logged(caplog, logging.INFO))


async def test_streams_without_an_address_have_no_header() -> None:
    app, _ = mail_app()
    async with open_client(app, **TRUST) as client:
        assert client.greeting.code == 220
        assert (client.session.original_peer, client.session.proxy) == ((None, None), None)
