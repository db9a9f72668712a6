"""Replies that a socket does not take, or that are lost on the way: what the client reads is whole, or it ends."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import logged, mail_app, note_closes, start_transaction
from tests.test_outbox import arrived, get_stuck, pair
from trio_smtp import App, Config, DataContext, MessageIncomplete, SMTPServer
from trio_smtp.net.transport import Outbox, SocketTransport
from trio_smtp.testing import open_client

_MAIL = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"


class FailsOnce(socket.socket):
    """A socket whose next send raises `error`, and that is well again afterwards."""

    __slots__ = ("error",)

    def __init__(self, sock: socket.socket, error: Exception | None = None) -> None:
        super().__init__(fileno=sock.detach())
        self.setblocking(False)
        self.error = error

    def send(self, *args: object) -> int:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().send(*args)  # type: ignore[arg-type]


def fill(ours: SocketTransport) -> bytes:
    """Have the socket take all it can, behind the back of its owner; returns what it took."""
    octets = 0
    for size in (1000, 1):
        try:
            while True:
                octets += ours.socket.send(b"-" * size)
        except BlockingIOError:
            pass
    return b"-" * octets


async def pass_time(clock: MockClock, seconds: float) -> None:
    """In steps, so that the outbox and the server's watch have their turns."""
    for _ in range(round(seconds * 2)):
        clock.jump(0.5)
        await wait_all_tasks_blocked(0.001)


async def read_to_end(client: socket.socket, clock: MockClock, most: int = 5000) -> bytes:
    """All that comes until the server ends the connection; time goes on slowly."""
    data = b""
    for _ in range(most):
        try:
            more = client.recv(65_536)
        except BlockingIOError:
            clock.jump(0.01)
            await wait_all_tasks_blocked(0.001)
            continue
        if not more:
            return data
        data += more
    raise AssertionError("the server did not end the connection")


@asynccontextmanager
async def session(app: App, **changes: float) -> AsyncIterator[tuple[SocketTransport, socket.socket]]:
    """A session whose greeting was read.

    On Unix sockets: what such a socket takes depends on the reader alone, and not on the timers of a network.
    """
    server = SMTPServer(app, Config(hostname="mx.example.com", **changes))  # type: ignore[arg-type]
    theirs, client = socket.socketpair()
    client.setblocking(False)
    with Outbox().at_work() as outbox, client, FailsOnce(theirs) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours = SocketTransport(sock, outbox)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, ours)
            await wait_all_tasks_blocked(0.001)
            assert arrived(client).startswith(b"220 ")
            yield ours, client
            nursery.cancel_scope.cancel()


def fail_next(ours: SocketTransport, error: Exception) -> None:
    assert isinstance(ours.socket, FailsOnce)
    ours.socket.error = error


# A send that fails


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EPIPE])
async def test_nothing_follows_octets_that_were_lost(number: int) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        assert ours.send_soon(b"250 One\r\n")
        await wait_all_tasks_blocked()
        ours.socket = FailsOnce(ours.socket, OSError(number, "no"))
        assert ours.send_soon(b"550 Two\r\n")
        await wait_all_tasks_blocked()
        ours.send_soon(b"250 Three\r\n")
        await wait_all_tasks_blocked()
        assert arrived(client) == b"250 One\r\n"
        assert client.recv(1) == b""
        assert not ours.waiting
        with trio.fail_after(5):
            assert await ours.receive_some() == b""


async def test_a_reply_that_was_lost_ends_the_session() -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app) as (ours, client):
        fail_next(ours, OSError(errno.ENOBUFS, "No buffer space available"))
        client.send(b"VRFY someone\r\n")
        await wait_all_tasks_blocked(0.001)
        assert client.recv(65_536) == b""
        assert reasons == ["lost"]


async def test_a_stuck_reply_whose_send_fails_later_ends_the_session(mock_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app) as (ours, client):
        taken = fill(ours)
        client.send(b"NOOP\r\n")
        await wait_all_tasks_blocked(0.001)
        assert ours.stuck_since is not None
        fail_next(ours, OSError(errno.ENOBUFS, "No buffer space available"))
        assert await read_to_end(client, mock_clock) == taken
        assert reasons == ["lost"]


async def test_one_failure_of_the_outbox_holds_up_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (one, _), pair(outbox) as (two, other):
        one.socket = FailsOnce(one.socket, MemoryError())
        assert one.send_soon(b"250 One\r\n")
        assert two.send_soon(b"250 Two\r\n")
        with pair(outbox) as (three, _):
            three.socket = FailsOnce(three.socket, BlockingIOError())
            assert three.send_soon(b"250 Three\r\n")
            await wait_all_tasks_blocked()
            assert three.stuck_since is not None  # send_timeout holds for it
        assert not outbox.working
        assert "MemoryError" in caplog.text
        with pytest.raises(trio.BrokenResourceError):
            await one.send_all(b"250 One more\r\n")
        assert arrived(other) == b"250 Two\r\n"
        await two.send_all(b"250 Three\r\n")
        assert arrived(other) == b"250 Three\r\n"


# The end, and a client that reads late


async def test_the_end_in_order_waits_for_a_client_that_reads_late(mock_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app, send_timeout=60) as (ours, client):
        taken = fill(ours)
        client.send(b"NOOP\r\nQUIT\r\n")
        await pass_time(mock_clock, 30)
        assert reasons == []
        assert await read_to_end(client, mock_clock) == taken + b"250 OK\r\n221 Bye\r\n"
        client.close()
        await wait_all_tasks_blocked(0.001)
        assert reasons == ["quit"]


async def test_after_the_221_was_taken_there_is_a_second_and_no_more(mock_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app, send_timeout=60) as (ours, client):
        taken = fill(ours)
        client.send(b"QUIT\r\n")
        await pass_time(mock_clock, 10)
        assert (await read_to_end(client, mock_clock)) == taken + b"221 Bye\r\n"
        await pass_time(mock_clock, 2.5)
        assert reasons == ["quit"]


@pytest.mark.parametrize("sent", [b"QUIT\r\n", b"GET / HTTP/1.1\r\n"])
async def test_a_client_that_breaks_off_is_not_waited_for(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app, send_timeout=60) as (ours, client):
        fill(ours)
        client.send(sent)
        await wait_all_tasks_blocked(0.001)
        assert reasons == []
        client.close()
        await wait_all_tasks_blocked(0.01)  # time stands still
        assert reasons == ["quit" if sent == b"QUIT\r\n" else "abuse"]
        assert logged(caplog, logging.ERROR) == []


@pytest.mark.parametrize("before", [b"", b"NOOP\r\n"])
async def test_last_words_wait_for_a_client_that_reads_late(mock_clock: MockClock, before: bytes) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app, max_errors=1) as (ours, client):
        taken = fill(ours)
        client.send(before)
        await wait_all_tasks_blocked(0.001)
        client.send(b"NONSENSE\r\n")
        await pass_time(mock_clock, 4)
        assert reasons == []
        said = b"250 OK\r\n" * bool(before) + b"421 Too many errors\r\n"
        assert await read_to_end(client, mock_clock) == taken + said
        client.close()
        await wait_all_tasks_blocked(0.001)
        assert reasons == ["abuse"]


@pytest.mark.parametrize(
    ("send_timeout", "sent", "half_closed", "seconds", "reason"),
    [
        pytest.param(10, b"QUIT\r\n", False, (9.5, 11.5), "timeout", id="the end in order"),
        pytest.param(60, b"NONSENSE\r\n", False, (4.5, 5), "abuse", id="last words"),
        pytest.param(3, b"NONSENSE\r\n", False, (2.5, 3), "abuse", id="last words, send_timeout is less"),
        pytest.param(60, b"NOOP\r\n", True, (4.5, 5), "lost", id="half closed"),
    ],
)
async def test_a_client_that_reads_nothing_is_closed_in_the_end(
    mock_clock: MockClock,
    *,
    send_timeout: float,
    sent: bytes,
    half_closed: bool,
    seconds: tuple[float, float],
    reason: str,
) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app, max_errors=1, send_timeout=send_timeout) as (ours, client):
        fill(ours)
        client.send(sent)
        if half_closed:
            client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked(0.001)
        least, most = seconds
        await pass_time(mock_clock, least)
        assert reasons == []
        await pass_time(mock_clock, most - least)
        assert reasons == [reason]


# A client that has said all


def nothing_noted(app: App) -> list[str]:
    """The same with an App that has no `on_close`."""
    return []


@pytest.mark.parametrize("note", [note_closes, nothing_noted])
async def test_a_client_that_half_closes_reads_every_reply(
    mock_clock: MockClock, note: Callable[[App], list[str]]
) -> None:
    app, _ = mail_app()
    reasons = note(app)
    async with session(app) as (ours, client):
        taken = fill(ours)
        client.send(b"NOOP\r\n" * 3)
        client.shutdown(socket.SHUT_WR)
        await pass_time(mock_clock, 4)
        assert reasons == []
        assert await read_to_end(client, mock_clock) == taken + b"250 OK\r\n" * 3
        assert ours.socket.fileno() < 0
        assert reasons == ["lost"] * (note is note_closes)


async def test_a_client_that_breaks_off_with_stuck_replies_is_closed_at_once(mock_clock: MockClock) -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with session(app, send_timeout=60) as (ours, client):
        fill(ours)
        client.send(b"NOOP\r\n")
        await wait_all_tasks_blocked(0.001)
        assert ours.stuck_since is not None
        client.close()
        await wait_all_tasks_blocked(0.01)  # time stands still
        assert reasons == ["lost"]


async def test_waiting_for_the_socket_to_take_what_waits(mock_clock: MockClock) -> None:
    with Outbox().at_work() as outbox, pair(outbox) as (ours, client):
        await ours.send_waiting()
        assert arrived(client) == b""
        seen = [ours.waiting]
        sent = await get_stuck(ours)
        seen.append(ours.waiting)
        taken = trio.Event()

        async def wait() -> None:
            await ours.send_waiting()
            taken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked(0.01)
            assert not taken.is_set()
            assert ours.stuck_since is None
            received = b""
            while not taken.is_set():  # time stands still
                received += arrived(client)
                await wait_all_tasks_blocked(0.001)
        assert [*seen, ours.waiting] == [False, True, False]
        while len(received) < len(sent):
            received += arrived(client)
        assert received == sent


# A message that is streamed meanwhile


async def test_replies_that_nobody_reads_end_the_message_and_leave_its_handlers_their_time(
    mock_clock: MockClock,
) -> None:
    app = App()
    reasons = note_closes(app)
    events: list[str] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        except MessageIncomplete:
            events.append("incomplete")
            await trio.sleep(20)
            events.append("cleaned up")
            raise

    async with session(app, send_timeout=10, handler_timeout=60) as (ours, client):
        client.send(b"EHLO client.example\r\n")
        await wait_all_tasks_blocked(0.001)
        assert b"250 HELP\r\n" in arrived(client)
        fill(ours)
        client.send(_MAIL)
        await wait_all_tasks_blocked(0.001)
        assert ours.stuck_since is not None
        client.send(b"Subject: test\r\n")
        await wait_all_tasks_blocked(0.001)
        await pass_time(mock_clock, 9.5)
        assert events == []
        await pass_time(mock_clock, 2)
        assert events == ["incomplete"]
        await pass_time(mock_clock, 18)
        assert (events, reasons) == (["incomplete"], [])
        await pass_time(mock_clock, 3)
        assert (events, reasons) == (["incomplete", "cleaned up"], ["timeout"])


class LateHandlers(trio.abc.Instrument):
    """Time passes before the first step of a message's handlers, as when another task holds the loop."""

    def __init__(self, clock: MockClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.jumped = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name == "trio_smtp.handlers" and not self.jumped:
            self.jumped = True
            self.clock.jump(self.seconds)


async def test_handlers_beside_a_reader_send_nothing(autojump_clock: MockClock) -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await trio.sleep(5)
        await ctx.stream.read()

    late = LateHandlers(autojump_clock, 1.1)
    trio.lowlevel.add_instrument(late)
    async with open_client(app, send_timeout=1, handler_timeout=60) as client:
        await start_transaction(client)
        await client.send_bytes(b"BDAT 3\r\nabc" * 3 + b"BDAT 3 LAST\r\nabc")
        replies = [await client.read_reply() for _ in range(4)]
        assert [reply.text for reply in replies] == ["3 octets received"] * 3 + ["Message accepted"]
    assert late.jumped
    trio.lowlevel.remove_instrument(late)
