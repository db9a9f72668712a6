"""What connections have to say in one pass of the scheduler leaves when the pass ends: whole, in order, and in time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import COMPILED
from trio_smtp import App, CloseContext, Config, SMTPServer
from trio_smtp.net.closing import linger
from trio_smtp.net.transport import Outbox, SocketTransport

Pair = tuple[SocketTransport, socket.socket]


class Counting(socket.socket):
    """Counts its sends."""

    __slots__ = ("sends",)

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.sends: int = 0

    def send(self, *args: object) -> int:
        self.sends += 1
        return super().send(*args)  # type: ignore[arg-type]


def sends(ours: SocketTransport) -> int:
    """How often the outbox, `close` or a send had the socket send."""
    assert isinstance(ours.socket, Counting)
    return ours.socket.sends


@contextmanager
def pair(outbox: Outbox | None) -> Iterator[Pair]:
    """One of ours, and a client's socket that does not wait; both have small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        ours, _ = listener.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setblocking(False)
        transport = SocketTransport(Counting(ours), outbox)
        try:
            yield transport, client
        finally:
            transport.close()


def arrived(client: socket.socket) -> bytes:
    """What the client finds now."""
    data = b""
    try:
        while more := client.recv(65_536):
            data += more
    except BlockingIOError:
        pass
    return data


async def receive(client: socket.socket) -> bytes:
    """Wait for what the client finds next."""
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(client)
    return client.recv(65_536)


async def get_stuck(ours: SocketTransport) -> bytes:
    """Send soon until the socket does not take it; returns what was sent."""
    sent = b""
    while ours.stuck_since is None:
        data = b"%07d\n" % len(sent) * 100
        assert ours.send_soon(data)
        sent += data
        await wait_all_tasks_blocked()
    return sent


async def read_all(client: socket.socket, clock: MockClock, octets: int) -> bytes:
    """Read so many octets, while time goes on in steps in which the outbox tries again."""
    data = b""
    while len(data) < octets:
        data += arrived(client)
        clock.jump(0.2)
        await wait_all_tasks_blocked(0.001)
    return data


async def test_what_is_sent_in_one_pass_leaves_when_it_ends() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (one, first), pair(outbox) as (two, second):
        assert one.send_soon(b"250 OK\r\n")
        assert two.send_soon(b"354 Go on\r\n")
        assert one.send_soon(b"221 Bye\r\n")
        assert (arrived(first), arrived(second)) == (b"", b"")
        await wait_all_tasks_blocked()
        assert (arrived(first), arrived(second)) == (b"250 OK\r\n221 Bye\r\n", b"354 Go on\r\n")


async def test_send_all_sends_before_it_returns_and_after_what_waits() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        with trio.testing.assert_no_checkpoints():
            await ours.send_all(memoryview(b"220 Hello\r\n"))
        assert arrived(client) == b"220 Hello\r\n"
        assert ours.send_soon(b"250 One\r\n")
        assert ours.send_soon(b"250 Two\r\n")
        with trio.testing.assert_no_checkpoints():
            await ours.send_all(bytearray(b"250 Three\r\n"))
        assert ours.send_soon(b"250 Four\r\n")
        assert arrived(client) == b"250 One\r\n250 Two\r\n250 Three\r\n"
        await wait_all_tasks_blocked()
        assert arrived(client) == b"250 Four\r\n"


async def test_a_broken_connection_is_raised_by_send_all_itself() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(ours.socket)
        assert ours.send_soon(b"250 One\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"250 Two\r\n")
        assert not ours.waiting


async def test_tls_stands_on_send_all(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    with Outbox().at_work() as outbox:
        ours, theirs = socket.socketpair()
        below = SocketTransport(ours, outbox)
        server = trio.SSLStream(below, server_ssl_context, server_side=True)
        client = trio.SSLStream(SocketTransport(theirs), client_ssl_context, server_hostname="localhost")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(client.do_handshake)
        await server.send_all(b"250 OK\r\n")
        assert not below.waiting
        with trio.fail_after(5):
            assert await client.receive_some() == b"250 OK\r\n"
        await trio.aclose_forcefully(client)
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"250 OK\r\n")
        await trio.aclose_forcefully(server)


async def test_much_is_not_held_back() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        assert not ours.send_soon(bytes(16_385))
        assert ours.send_soon(b"first")
        ours.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
        await ours.send_all(b"x" * 16_385)
        assert arrived(client).startswith(b"firstxxxx")


async def test_little_after_little_is_not_held_back_either() -> None:
    pieces = [b"%03d\n" % number * 250 for number in range(17)]
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        assert [ours.send_soon(piece) for piece in pieces] == [True] * 16 + [False]  # 16,384 octets wait, and no more
        assert arrived(client) == b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, pieces[-1])
            received = b""
            while len(received) < 17_000:
                received += arrived(client)
                await trio.lowlevel.checkpoint()
        assert received == b"".join(pieces)


async def test_without_an_outbox_nothing_waits() -> None:
    with pair(None) as (ours, client):
        assert not ours.send_soon(b"250 OK\r\n")
        await ours.send_all(b"250 OK\r\n")
        assert arrived(client) == b"250 OK\r\n"


async def test_what_a_socket_does_not_take_is_tried_again_and_arrives_whole(mock_clock: MockClock) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        sent = await get_stuck(ours)
        since = ours.stuck_since
        assert since == trio.current_time()
        assert not ours.send_soon(b"more")
        assert await read_all(client, mock_clock, len(sent)) == sent
        assert ours.stuck_since is None
        before = sends(ours)
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert sends(ours) == before  # not tried again, now that nothing waits
        assert ours.send_soon(b"more")
        await wait_all_tasks_blocked()
        assert arrived(client) == b"more"


async def test_stuck_octets_are_overdue_once(mock_clock: MockClock) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        assert not ours.is_overdue(trio.current_time(), 0)
        sent = await get_stuck(ours)
        now = trio.current_time()
        assert not ours.is_overdue(now + 9.9, 10)
        assert ours.is_overdue(now + 10, 10)
        assert not ours.is_overdue(now + 20, 10)
        assert await read_all(client, mock_clock, len(sent)) == sent


async def test_a_stuck_socket_is_not_tried_at_each_pass(mock_clock: MockClock) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        sent = await get_stuck(ours)
        mock_clock.jump(1)
        await wait_all_tasks_blocked()  # tried in vain
        received = arrived(client)
        await wait_all_tasks_blocked(0.01)
        received += arrived(client)
        assert len(received) < len(sent)
        assert received + await read_all(client, mock_clock, len(sent) - len(received)) == sent


async def test_send_all_sends_what_is_stuck_first(mock_clock: MockClock) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        sent = await get_stuck(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, b"the end")
            await wait_all_tasks_blocked()
            received = b""
            while len(received) < len(sent) + 7:  # time stands still: it waits for the socket
                received += arrived(client)
                await wait_all_tasks_blocked(0.001)
        assert received == sent + b"the end"
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert arrived(client) == b""


async def test_the_end_of_sending_comes_after_what_waits() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        ours.send_soon(b"221 Bye\r\n")
        await ours.send_eof()
        assert arrived(client) == b"221 Bye\r\n"
        assert client.recv(1) == b""
        assert not ours.send_soon(b"more")


async def test_the_end_of_sending_waits_for_what_is_stuck(mock_clock: MockClock) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        sent = await get_stuck(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_eof)
            received = b""
            while len(received) < len(sent):
                received += arrived(client)
                await wait_all_tasks_blocked(0.001)
        assert received + arrived(client) == sent
        assert client.recv(1) == b""


async def test_closing_sends_what_waits() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        ours.send_soon(b"421 Bye\r\n")
        ours.close()
        assert arrived(client) == b"421 Bye\r\n"
        await wait_all_tasks_blocked()


async def test_a_stuck_connection_that_is_closed_is_forgotten(mock_clock: MockClock) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, _):
        await get_stuck(ours)
        ours.close()
        before = sends(ours)
        for _ in range(3):
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert sends(ours) == before  # there was nothing to send


async def test_a_broken_connection_shows_at_the_next_receive() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(ours.socket)
        assert ours.send_soon(b"250 OK\r\n")
        await wait_all_tasks_blocked()
        with suppress(trio.BrokenResourceError):
            assert await ours.receive_some() == b""


async def test_an_outbox_that_is_not_at_work_takes_nothing() -> None:
    outbox = Outbox()
    with pair(outbox) as (ours, client):
        assert not ours.send_soon(b"before")
        with outbox.at_work():
            assert ours.send_soon(b"within")
        assert arrived(client) == b"within"  # the end of the block sends what waits
        assert not ours.send_soon(b"after")
        await ours.send_all(b"after")
        assert arrived(client) == b"after"


async def test_what_is_stuck_when_the_block_ends_is_still_sent_first() -> None:
    with ExitStack() as stack:
        with Outbox().at_work() as outbox:
            ours, client = stack.enter_context(pair(outbox))
            sent = await get_stuck(ours)
        assert ours.stuck_since is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, b"the end")
            received = b""
            while len(received) < len(sent) + 7:
                received += arrived(client)
                await wait_all_tasks_blocked(0.001)
        assert received == sent + b"the end"
        assert ours.stuck_since is None


async def test_a_send_that_is_cancelled_leaves_no_gap(mock_clock: MockClock) -> None:
    """What arrives is a beginning of what was to be sent: what was stuck, and then the rest."""
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        sent = await get_stuck(ours)
        with trio.move_on_after(0) as limit:
            await ours.send_all(b"x" * 100_000)
        assert limit.cancelled_caught
        assert not ours.waiting
        ours.socket.shutdown(socket.SHUT_WR)
        received = b""
        while more := await receive(client):
            received += more
        assert (sent + b"x" * 100_000).startswith(received)
        assert len(received) < len(sent) + 100_000


async def test_a_send_that_fits_is_not_cancelled() -> None:
    with pair(None) as (ours, client), trio.CancelScope() as scope:
        scope.cancel()
        await ours.send_all(b"250 OK\r\n")
        assert arrived(client) == b"250 OK\r\n"
    assert not scope.cancelled_caught


@pytest.mark.skipif(COMPILED, reason="what is patched is not seen by compiled code")
async def test_an_outbox_that_fails_holds_nothing_back_any_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(transport: SocketTransport) -> bool:
        raise MemoryError

    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        with monkeypatch.context() as patch:
            patch.setattr(SocketTransport, "push", fail)
            assert ours.send_soon(b"one ")
            await wait_all_tasks_blocked()
        assert "MemoryError" in caplog.text  # trio's line: the instrument is disabled
        assert not ours.send_soon(b"two")
        await ours.send_all(b"two")
        assert arrived(client) == b"one two"


# A whole session


@asynccontextmanager
async def session(**changes: float) -> AsyncIterator[tuple[SocketTransport, socket.socket, list[str]]]:
    """A session on sockets with small buffers; the reason of its end is in the list when it has ended."""
    reasons: list[str] = []
    app = App()

    @app.on_data
    async def discard(ctx: object) -> None:
        raise AssertionError

    @app.on_close
    async def note(ctx: CloseContext) -> None:
        reasons.append(ctx.reason)

    server = SMTPServer(app, Config(hostname="mx.example.com", **changes))  # type: ignore[arg-type]
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, ours)
            await wait_all_tasks_blocked()
            yield ours, client, reasons
            nursery.cancel_scope.cancel()


async def get_server_stuck(ours: SocketTransport, client: socket.socket) -> int:
    """Send commands and read nothing, until replies are stuck and the server waits for more; returns their number."""
    commands = 0
    while ours.stuck_since is None:
        client.send(b"HELP\r\n")
        commands += 1
        await wait_all_tasks_blocked(0.001)
    return commands


async def test_a_client_that_stops_reading_is_closed_after_send_timeout(mock_clock: MockClock) -> None:
    async with session(send_timeout=10, command_timeout=300) as (ours, client, reasons):
        await get_server_stuck(ours, client)
        mock_clock.jump(9.9)
        await wait_all_tasks_blocked()
        assert reasons == []
        for _ in range(3):
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert reasons == ["timeout"]


async def test_a_client_that_reads_late_gets_every_reply(mock_clock: MockClock) -> None:
    async with session() as (ours, client, reasons):
        commands = await get_server_stuck(ours, client)
        received = b""
        while received.count(b"\r\n214 ") < commands:
            received += arrived(client)
            mock_clock.jump(0.2)
            await wait_all_tasks_blocked(0.001)
        client.send(b"NOOP\r\n")
        await wait_all_tasks_blocked(0.01)
        assert arrived(client) == b"250 OK\r\n"
        assert reasons == []


async def test_linger_sends_what_waits() -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        assert ours.send_soon(b"221 Bye\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(linger, ours)
            await wait_all_tasks_blocked()
            assert arrived(client) == b"221 Bye\r\n"
            client.close()
