"""Slow and greedy clients: each ends as the default Config says, and none of them for ever."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from tests.socket_support import port_of
from tests.support import closed, note_closes, start_data, start_transaction
from trio_smtp import App, AuthContext, Config, DataContext, SMTPServer
from trio_smtp.connection.wire import RECEIVE_SIZE
from trio_smtp.dialogue.output import MAX_WAITING_OCTETS
from trio_smtp.protocol.networks import host_key
from trio_smtp.testing import Client, MemoryListener, open_client

from .support import Mailbox, replies_in, watched_log

#: What a timeout may be late: the watch looks every second.
LATE = 1.1


async def drip(client: Client, wire: bytes, every: float) -> float:
    """Send one octet at a time, again and again, until the server has closed; returns the seconds that took."""
    began = trio.current_time()
    ended = 0.0

    async def send() -> None:
        position = 0
        while True:
            await trio.sleep(every)
            try:
                await client.send_bytes(wire[position % len(wire) : position % len(wire) + 1])
            except trio.BrokenResourceError:
                return
            position += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await client.stream.receive_some(1)  # the last words, or the end
        ended = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return ended


async def test_a_command_that_drips(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(Mailbox().app) as client:
        assert 300 <= await drip(client, b"NOOP ", 0.5) <= 300 + LATE


async def test_a_line_without_end(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        reply = await client.command(b"NOOP " + b"x" * 140_000)
        assert (reply.code, reply.enhanced) == (500, None)
        assert await closed(client)


async def test_an_auth_exchange_that_drips(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()

    @box.app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept()

    async with open_client(box.app, allow_insecure_auth=True) as client:
        await client.ehlo()
        assert (await client.command("AUTH LOGIN")).code == 334
        assert 300 <= await drip(client, b"YWFh", 1) <= 300 + LATE


@pytest.mark.parametrize(("every", "least", "most"), [(1, 60, 62), (170, 60, 341), (1000, 180, 180 + LATE)])
async def test_a_message_that_drips(
    autojump_clock: trio.testing.MockClock, every: float, least: float, most: float
) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        await start_data(client)
        assert least <= await drip(client, b"x", every) <= most
    assert box.taken == []


@pytest.mark.parametrize(("every", "least", "most"), [(1, 60, 62), (1000, 180, 180 + LATE)])
@pytest.mark.parametrize("last", ["", " LAST"])
async def test_a_chunk_that_drips(
    autojump_clock: trio.testing.MockClock, last: str, every: float, least: float, most: float
) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        await start_transaction(client)
        await client.send_bytes(f"BDAT 1000000{last}\r\n".encode())
        assert least <= await drip(client, b"x", every) <= most
    assert box.taken == []


async def test_a_chunk_of_nobody_that_drips(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(Mailbox().app) as client:
        await client.send_bytes(b"BDAT 1000000\r\n")
        assert 60 <= await drip(client, b"x", 1) <= 62


TALKED = (250, 252, 354, 550, 552, 554)


async def endure(client: Client, commands: list[bytes], every: float, codes: tuple[int, ...] = TALKED) -> float:
    """Say these again and again, at this pace, and read the replies, until the server has had enough."""
    began = trio.current_time()
    while trio.current_time() - began < 10_000:
        for command in commands:
            await trio.sleep(every)
            with suppress(trio.BrokenResourceError):
                await client.send_bytes(command + b"\r\n")
            reply = await client.read_reply()
            if reply.code == 421:
                assert reply.enhanced in (None, "4.4.2")
                assert await closed(client)
                return trio.current_time() - began
            assert reply.code in codes
    raise AssertionError("nothing has ended it")


TALK = {
    "NOOP": [b"NOOP"],
    "RSET": [b"RSET"],
    "VRFY": [b"VRFY a"],
    "EHLO": [b"EHLO again"],
    "transactions without a message": [b"MAIL FROM:<a@example.org>", b"RCPT TO:<b@example.com>", b"RSET"],
    "recipients": [b"MAIL FROM:<a@example.org>", *[b"RCPT TO:<b@example.com>"] * 1000],
    "refused messages": [
        b"MAIL FROM:<a@example.org>",
        b"RCPT TO:<b@example.com>",
        b"DATA",
        b"Subject: no\r\n\r\n.",
    ],
}


@pytest.mark.parametrize("every", [5, 50])
@pytest.mark.parametrize("commands", TALK.values(), ids=TALK)
async def test_endless_talk_without_a_message(
    autojump_clock: trio.testing.MockClock, commands: list[bytes], every: float
) -> None:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        await ctx.stream.discard()
        ctx.reject()

    reasons = note_closes(app)
    with watched_log() as records:
        async with open_client(app) as client:
            await client.ehlo()
            seconds = await endure(client, commands, every)
    assert 3600 <= seconds <= 3600 + 2 * every + LATE
    assert reasons == ["timeout"]
    (record,) = records
    assert "no message for too long" in record.getMessage()


@pytest.mark.parametrize("guard", ["auth_required", "starttls_required"])
async def test_endless_talk_before_what_is_required(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext, guard: str
) -> None:
    """Such refusals are no errors of the client's, but they end as all talk does."""
    app = Mailbox().app

    @app.on_auth
    async def nobody(ctx: AuthContext) -> None:
        return

    reasons = note_closes(app)
    required: dict[str, Any] = {guard: True}
    async with open_client(app, ssl_context=server_ssl_context, **required) as client:
        await client.ehlo()
        talk = [b"MAIL FROM:<a@example.org>", b"RCPT TO:<b@example.com>", b"DATA", b"BDAT 0 LAST"]
        seconds = await endure(client, talk, 5, (530,))
    assert 3600 <= seconds <= 3600 + 10 + LATE
    assert reasons == ["timeout"]


async def test_a_message_an_octet_a_chunk(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        await start_transaction(client)
        assert 3600 <= await endure(client, [b"BDAT 0", b"NOOP"], 200) <= 4001
    assert box.taken == []


async def test_who_sends_messages_may_stay(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        await client.ehlo()
        for _ in range(20):
            await trio.sleep(290)
            assert (await client.command("NOOP")).code == 250
            await trio.sleep(290)
            assert (await client.send_message("a@example.org", ["b@example.com"], b"Hello\r\n")).code == 250
        assert trio.current_time() > 3 * 3600
    assert len(box.taken) == 20


async def test_a_long_message_in_chunks_may_take_its_time(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        await start_transaction(client)
        for _ in range(20):
            await trio.sleep(290)
            await client.send_bytes(b"BDAT 65536\r\n" + b"x" * 65_536)
            assert (await client.read_reply()).code == 250
        assert (await client.command("BDAT 0 LAST")).code == 250
    assert [len(body) for body in box.bodies] == [20 * 65_536]


async def test_a_streamed_message_leaves_no_deadline_behind(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        await start_data(client)
        await client.send_bytes(b"x" * 70_000 + b"\r\n")
        await trio.sleep(1)
        await client.send_bytes(b".\r\n")
        assert (await client.read_reply()).code == 250
        for _ in range(5):
            await trio.sleep(250)
            assert (await client.command("NOOP")).code == 250


# Clients that do not read


async def test_a_client_that_never_reads(autojump_clock: trio.testing.MockClock) -> None:
    app = Mailbox().app
    reasons = note_closes(app)
    ours, theirs = trio.testing.lockstep_stream_pair()
    with trio.fail_after(70):
        await SMTPServer(app, Config(hostname="mx.example")).serve_stream(theirs)
    assert 60 <= trio.current_time() <= 60 + LATE
    assert reasons == ["timeout"]
    await ours.aclose()


class Narrow(trio.abc.HalfCloseableStream):
    """A server's end that notes how much is sent at a time."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, gate: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._gate = gate
        self.sent: list[int] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(len(data))
        await self._gate()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_many_commands_at_once_are_answered_in_slices(autojump_clock: trio.testing.MockClock) -> None:
    """What waits to be sent is bounded, and others have their turn while one client's thousands are answered."""
    server = SMTPServer(Mailbox().app, Config(hostname="mx.example"))
    ours, theirs = trio.testing.memory_stream_pair()
    narrow = Narrow(theirs, trio.lowlevel.checkpoint)
    greedy = RECEIVE_SIZE // len(b"HELP\r\n")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, narrow)
        await ours.send_all(b"HELP\r\n" * greedy + b"QUIT\r\n")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(others)
        said = b""
        while data := await ours.receive_some(65_536):
            said += data
        nursery.cancel_scope.cancel()
    assert len(replies_in(said)) == greedy + 2
    assert max(narrow.sent) < MAX_WAITING_OCTETS + 512
    assert len(narrow.sent) > 10


async def test_ten_thousand_recipients(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()
    async with open_client(box.app) as client:
        await client.send_bytes(b"EHLO x\r\nMAIL FROM:<a@example.org>\r\n")
        await client.send_bytes(b"".join(b"RCPT TO:<b%d@example.com>\r\n" % n for n in range(10_000)))
        await client.send_bytes(b"DATA\r\n")
        codes = [(await client.read_reply()).code for _ in range(10_003)]
        assert codes == [250, 250, *[250] * 1000, *[452] * 9000, 354]
        assert (await client.command(b"Hello\r\n.")).code == 250
    (envelope, _), *rest = box.taken
    assert len(envelope.rcpt_to) == 1000
    assert rest == []


# TLS


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("drips", [False, True])
async def test_a_handshake_that_drips(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext, implicit: bool, drips: bool
) -> None:
    with watched_log():
        async with open_client(Mailbox().app, ssl_context=server_ssl_context, implicit_tls=implicit) as client:
            if not implicit:
                assert (await client.command("EHLO x")).code == 250
                assert (await client.command("STARTTLS")).code == 220
            # The head of a record that promises 16 KiB.
            wire = b"\x16\x03\x01\x40\x00\x01" + bytes(1000) if drips else b"\x16"
            assert 30 <= await drip(client, wire, 0.5 if drips else 100) <= 30 + LATE
            assert await client.read_to_end() == b""
            assert client.server.stats.tls_failures == 1


# Real sockets, and a clock that is moved by hand: what is waited for is I/O, never time.


async def connect(server: SMTPServer, source: str = "127.0.0.1") -> Client:
    return Client(await trio.open_tcp_stream("127.0.0.1", port_of(server), local_address=source))


@pytest.mark.parametrize("header", [b"", b"PROXY TCP4 1.2.3.4", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"])
async def test_a_proxy_header_that_does_not_come(mock_clock: trio.testing.MockClock, header: bytes) -> None:
    app = Mailbox().app
    reasons = note_closes(app)
    async with trio.open_nursery() as nursery:
        server = SMTPServer(app, Config(proxy_protocol=["127.0.0.0/8"]))
        await nursery.start(lambda task_status: server.serve_tcp(port=0, task_status=task_status))
        client = await connect(server)
        await client.send_bytes(header)
        while not server.sessions or server.stats.octets_received < len(header):
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(4.9)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(server.sessions) == 1
        mock_clock.jump(1.5)
        assert await client.read_to_end() == b""
        await client.aclose()
        nursery.cancel_scope.cancel()
    # Nobody was greeted, so nobody is told.
    assert reasons == []


async def test_a_silent_client_on_a_real_socket(mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server = SMTPServer(Mailbox().app, Config(hostname="mx.example"))
        await nursery.start(lambda task_status: server.serve_tcp(port=0, task_status=task_status))
        client = await connect(server)
        assert (await client.read_reply()).code == 220
        await client.send_bytes(b"NOO")
        while server.stats.octets_received < 3:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(299)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(server.sessions) == 1
        mock_clock.jump(2.5)
        assert (await client.read_reply()).code == 421
        assert await closed(client)
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_one_host_cannot_take_all_places() -> None:
    async with trio.open_nursery() as nursery:
        server = SMTPServer(Mailbox().app, Config(hostname="mx.example", max_connections_per_host=3))
        await nursery.start(lambda task_status: server.serve_tcp(port=0, task_status=task_status))
        clients = [await connect(server) for _ in range(3)]
        assert [(await client.read_reply()).code for client in clients] == [220] * 3
        with watched_log() as records:
            refused = await connect(server)
            reply = await refused.read_reply()
        assert (reply.code, "your host" in reply.text) == (421, True)
        assert "refused" in records[0].getMessage()
        other = await connect(server, "127.0.0.2")
        assert (await other.read_reply()).code == 220
        await clients[0].quit()
        await clients[0].aclose()
        while len(server.sessions) > 3:
            await trio.lowlevel.checkpoint()
        again = await connect(server)
        assert (await again.read_reply()).code == 220
        for client in (*clients, refused, other, again):
            await client.aclose()
        nursery.cancel_scope.cancel()


async def test_one_host_has_many_ipv6_addresses() -> None:
    """A /64 is what one customer is given; behind a proxy it is the header's address that counts."""
    assert host_key("2001:db8::1") == host_key("2001:db8::ffff:2") != host_key("2001:db8:0:1::1")
    config = Config(hostname="mx.example", max_connections_per_host=2, proxy_protocol=["127.0.0.1"])
    async with trio.open_nursery() as nursery:
        server = SMTPServer(Mailbox().app, config)
        await nursery.start(lambda task_status: server.serve_tcp(port=0, task_status=task_status))
        codes = []
        clients = []
        for source in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"):
            client = await connect(server)
            await client.send_bytes(f"PROXY TCP6 {source} 2001:db8::25 1 25\r\n".encode())
            codes.append((await client.read_reply()).code)
            clients.append(client)
        assert codes == [220, 220, 421, 220]
        for client in clients:
            await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_flood_of_connections(autojump_clock: trio.testing.MockClock) -> None:
    """Over the limit some are told so and the others are closed; when the idle have had their time there is room."""
    server = SMTPServer(Mailbox().app, Config(hostname="mx.example"))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_listeners, [listener])
        served = [await listener.connect() for _ in range(1000)]
        with watched_log() as records:
            refused = [await listener.connect() for _ in range(300)]
            await trio.testing.wait_all_tasks_blocked()
        assert len(server.sessions) == 1000
        assert server.stats.connections_refused == len(records) == 300
        said = [await Client(stream).read_to_end() for stream in refused]
        assert set(said) == {b"421 Too many connections\r\n", b""}
        assert 100 <= said.count(b"421 Too many connections\r\n") < 120
        assert len(server.sessions) == 1000
        await trio.sleep(300 + 2 * LATE)
        assert len(server.sessions) == 0
        late = Client(await listener.connect())
        assert (await late.read_reply()).code == 220
        for stream in (*served, *refused, late.stream):
            await stream.aclose()
        nursery.cancel_scope.cancel()
