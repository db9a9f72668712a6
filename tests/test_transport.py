"""The thin edge between sockets and everything else: the stream, the accept loop, and a connection's last octets."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_smtp.net import transport
from trio_smtp.net.transport import SocketTransport, accept_sockets, close_now, farewell

#: More than any socket's buffers hold on this machine.
FLOOD = b"x" * 16_777_216

Pair = tuple[SocketTransport, SocketTransport]


def unix_sockets() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def pair(sockets: Callable[[], tuple[socket.socket, socket.socket]] = tcp_sockets) -> Pair:
    ours, theirs = sockets()
    return SocketTransport(ours), SocketTransport(theirs)


def clog(stream: SocketTransport) -> int:
    """Send until nothing more fits; returns the octets that did."""
    sent = 0
    while now := stream._send_now(FLOOD):
        sent += now
    return sent


class WithCheckpoints(trio.abc.HalfCloseableStream):
    """Without the deliberate deviation from trio's rules: what is sent at once takes no pass of the scheduler."""

    def __init__(self, sock: socket.socket) -> None:
        self.transport = SocketTransport(sock)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.transport.send_all(data)
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await self.transport.send_eof()
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.transport.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.transport.aclose()


def maker(
    sockets: Callable[[], tuple[socket.socket, socket.socket]], *, clogged: bool = False
) -> Callable[[], Awaitable[tuple[WithCheckpoints, WithCheckpoints]]]:
    async def make() -> tuple[WithCheckpoints, WithCheckpoints]:
        ours, theirs = map(WithCheckpoints, sockets())
        if clogged:
            clog(ours.transport)
            clog(theirs.transport)
        await trio.lowlevel.checkpoint()
        return ours, theirs

    return make


# The stream


async def test_keeps_the_rules_of_trio_streams_over_tcp() -> None:
    # A TCP socket that takes no more may take a little more in a moment: it cannot be clogged for certain.
    await trio.testing.check_half_closeable_stream(maker(tcp_sockets), None)


async def test_keeps_the_rules_of_trio_streams_over_unix_sockets() -> None:
    await trio.testing.check_two_way_stream(maker(unix_sockets), maker(unix_sockets, clogged=True))
    # send_eof does not look whether another task is sending: only one task ever sends on a connection.
    await trio.testing.check_half_closeable_stream(maker(unix_sockets), None)


async def test_a_send_that_fits_takes_no_pass_of_the_scheduler_and_a_receive_always_does() -> None:
    ours, theirs = pair()
    with trio.testing.assert_no_checkpoints():
        await ours.send_all(b"ready")
    with trio.testing.assert_checkpoints():
        assert await theirs.receive_some(5) == b"ready"
    ours.close()
    theirs.close()


async def test_a_client_that_always_has_data_ready_takes_its_turn_like_any_other() -> None:
    turns: list[str] = []

    async def read_all(name: str, stream: SocketTransport) -> None:
        while await stream.receive_some(1):
            turns.append(name)
        stream.close()

    async with trio.open_nursery() as nursery:
        for name in "abc":
            ours, theirs = pair()
            await ours.send_all(b"x" * 30)
            ours.close()
            nursery.start_soon(read_all, name, theirs)
    assert len(turns) == 90
    for end in range(90):
        counts = [turns[:end].count(name) for name in "abc"]
        assert max(counts) - min(counts) <= 2


async def test_back_pressure() -> None:
    ours, theirs = pair()
    sent = trio.Event()

    async def send() -> None:
        await ours.send_all(FLOOD)
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert not sent.is_set()
        received = 0
        while received < len(FLOOD):
            received += len(await theirs.receive_some())
        await sent.wait()
    ours.close()
    assert await theirs.receive_some() == b""
    theirs.close()


async def test_a_send_that_waits_can_be_cancelled() -> None:
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, FLOOD)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    # What had gone through arrives, and the stream goes on working.
    ours.socket.shutdown(socket.SHUT_WR)
    received = 0
    while data := await theirs.receive_some():
        received += len(data)
    assert 0 < received < len(FLOOD)
    assert theirs._send_now(b"still there") == 11
    assert await ours.receive_some() == b"still there"
    ours.close()
    theirs.close()


async def test_a_receive_that_waits_can_be_cancelled() -> None:
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    ours._send_now(b"nothing is lost")
    assert await theirs.receive_some() == b"nothing is lost"
    ours.close()
    theirs.close()


class Thief(trio.abc.Instrument):
    """Takes what has arrived after the system said that it is there, and before the task that waits for it runs."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stolen = b""

    def after_io_wait(self, timeout: float) -> None:
        if not self.stolen:
            with suppress(BlockingIOError):
                self.stolen = self.sock.recv(5)


async def test_a_receive_that_finds_nothing_after_all_waits_on() -> None:
    ours, theirs = pair()
    thief = Thief(theirs.socket)
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await theirs.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(thief)
        ours._send_now(b"first")
        await trio.testing.wait_all_tasks_blocked()
        assert (thief.stolen, received) == (b"first", [])
        ours._send_now(b"second")
    trio.lowlevel.remove_instrument(thief)
    assert received == [b"second"]
    ours.close()
    theirs.close()


def reset(stream: SocketTransport) -> None:
    """Close so that the other end gets a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.close()


async def test_a_reset_breaks_every_operation() -> None:
    ours, theirs = pair()
    reset(theirs)
    with pytest.raises(trio.BrokenResourceError):
        await ours.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_eof()
    ours.close()


async def test_a_reset_wakes_a_send_that_waits() -> None:
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await ours.send_all(FLOOD)

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        reset(theirs)
    ours.close()


async def test_closing_wakes_whoever_waits_and_ends_everything() -> None:
    ours, theirs = pair()

    async def expect_closed(operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, ours.receive_some)
        nursery.start_soon(expect_closed, lambda: ours.send_all(FLOOD))
        await trio.testing.wait_all_tasks_blocked()
        ours.close()
    ours.close()
    for operation in (ours.receive_some, ours.wait_send_all_might_not_block, ours.send_eof):
        await expect_closed(operation)
    with pytest.raises(trio.ClosedResourceError):
        ours._send_now(b"x")
    theirs.close()


# Accepting


@asynccontextmanager
async def accepting() -> AsyncIterator[tuple[list[SocketTransport], trio.SocketListener]]:
    """An accept loop on a listener, and the connections it has accepted."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    accepted: list[SocketTransport] = []
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept_sockets, listener, accepted.append)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield accepted, listener
        finally:
            nursery.cancel_scope.cancel()
            for stream in accepted:
                stream.close()


def connect(listener: trio.SocketListener, times: int) -> list[socket.socket]:
    return [socket.create_connection(listener.socket.getsockname()) for _ in range(times)]


def close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


class Accepts:
    """Stands in for `socket.socket.accept`: counts, and fails with the errors it was given before it works again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.errors: list[int] = []
        real = socket.socket.accept

        def accept(sock: socket.socket) -> tuple[socket.socket, object]:
            self.calls += 1
            if self.errors:
                code = self.errors.pop(0)
                raise OSError(code, errno.errorcode[code])
            return real(sock)

        monkeypatch.setattr(socket.socket, "accept", accept)


@pytest.fixture
def accepts(monkeypatch: pytest.MonkeyPatch) -> Accepts:
    return Accepts(monkeypatch)


class Steps(trio.abc.Instrument):
    """How many connections there were after each step of any task."""

    def __init__(self, accepted: list[SocketTransport]) -> None:
        self.accepted = accepted
        self.seen = {0}

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seen.add(len(self.accepted))


async def test_accepts_in_batches_and_lets_others_run_between_them() -> None:
    async with accepting() as (accepted, listener):
        steps = Steps(accepted)
        trio.lowlevel.add_instrument(steps)
        clients = connect(listener, 40)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
        assert sorted(steps.seen) == [0, 16, 32, 40]
        close_all(clients)


async def test_a_default_timeout_of_sockets_is_none_of_the_accept_loop() -> None:
    socket.setdefaulttimeout(0.001)  # a batch that ends would wait for it, and the loop would end with TimeoutError
    try:
        async with accepting() as (accepted, listener):
            socket.setdefaulttimeout(None)
            clients = connect(listener, 2)
            await trio.testing.wait_all_tasks_blocked()
            assert len(accepted) == 2
            close_all(clients)
    finally:
        socket.setdefaulttimeout(None)


async def test_accepted_sockets_send_small_replies_at_once() -> None:
    async with accepting() as (accepted, listener):
        clients = connect(listener, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert accepted[0].socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not accepted[0].socket.getblocking()
        assert accepted[0].socket.getpeername() == clients[0].getsockname()
        close_all(clients)


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPERM, errno.ENETUNREACH])
async def test_a_connection_that_was_gone_before_it_was_accepted_is_nothing(accepts: Accepts, code: int) -> None:
    async with accepting() as (accepted, listener):
        accepts.errors = [code] * 3
        clients = connect(listener, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert len(accepted) == 2
        close_all(clients)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_accepting_pauses_when_descriptors_run_out_and_goes_on(
    accepts: Accepts, code: int, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with accepting() as (accepted, listener):
        accepts.errors = [code]
        clients = connect(listener, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert (accepts.calls, accepted) == (1, [])
        mock_clock.jump(0.1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(accepted) == 2
        close_all(clients)
    assert [(r.levelno, "accepting pauses" in r.getMessage()) for r in caplog.records] == [(logging.ERROR, True)]


async def test_an_error_of_the_listener_itself_is_raised(accepts: Accepts) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        accepts.errors = [errno.EINVAL]
        clients = connect(listener, 1)
        with pytest.raises(OSError, match="EINVAL"):
            await accept_sockets(listener, lambda stream: None)
        # The descriptor is the listener's still.
        assert listener.socket.getsockname()[1] > 0
        close_all(clients)


async def test_unix_listeners_too(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.listen()
    accepted: list[SocketTransport] = []
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept_sockets, listener, accepted.append)
        client = socket.socket(socket.AF_UNIX)
        client.connect(listener.socket.getsockname())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(accepted) == 1
    accepted[0].close()
    client.close()


# The end


async def test_farewell_with_unread_input_does_not_reset_before_the_reply_is_read() -> None:
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        await theirs.send_all(b"NOOP\r\n" * 1000)
        await ours.send_all(b"421 Enough\r\n")

        async def part() -> None:
            await farewell(ours)
            ours.close()

        nursery.start_soon(part)
        await trio.testing.wait_all_tasks_blocked()
        await theirs.send_all(b"NOOP\r\n" * 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert await theirs.receive_some() == b"421 Enough\r\n"
        assert await theirs.receive_some() == b""  # a reset would raise
        theirs.close()


async def test_farewell_over_tls_with_unread_input_does_not_reset_either(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    ours, theirs = pair()
    server = trio.SSLStream(ours, server_ssl_context, server_side=True, https_compatible=True)
    client = trio.SSLStream(theirs, client_ssl_context, server_hostname="localhost", https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    async with trio.open_nursery() as nursery:
        # More than the end of TLS takes in: what is left would make the system reset the connection.
        await client.send_all(b"NOOP\r\n" * 18_000)
        await server.send_all(b"421 Enough\r\n")

        async def part() -> None:
            await farewell(server)
            await close_now(server)

        nursery.start_soon(part)
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"NOOP\r\n" * 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert await client.receive_some() == b"421 Enough\r\n"
        assert await client.receive_some() == b""
        assert await theirs.receive_some() == b""  # a reset would raise
        await close_now(client)


async def test_farewell_over_tls_says_close_notify(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server = trio.SSLStream(ours, server_ssl_context, server_side=True, https_compatible=True)
    # Not https_compatible: an end without close_notify would be a BrokenResourceError.
    client = trio.SSLStream(theirs, client_ssl_context, server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(farewell, server)
        assert await client.receive_some() == b""
        await client.aclose()


async def test_farewell_drops_64_kib_and_no_more() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"x" * 100_000)
    await farewell(ours)
    left = await ours.receive_some()
    assert 100_000 - 65_536 - 16_384 < len(left) <= 100_000 - 65_536


async def test_farewell_to_nobody() -> None:
    ours, theirs = pair()
    reset(theirs)
    await farewell(ours)
    ours.close()
    await farewell(ours)


async def test_farewell_on_a_stream_that_cannot_be_half_closed() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()

    class Plain(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise AssertionError("nothing more is sent")

        async def wait_send_all_might_not_block(self) -> None:
            raise AssertionError("nothing more is sent")

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await ours.receive_some(max_bytes)

        async def aclose(self) -> None:
            await ours.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(farewell, Plain())
        await theirs.send_all(b"ignored")
        await theirs.aclose()


async def test_close_now_does_not_wait_for_a_handshake(server_ssl_context: ssl.SSLContext) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await close_now(trio.SSLStream(ours, server_ssl_context, server_side=True))
    assert await theirs.receive_some() == b""


async def test_close_now_closes_sockets_without_a_checkpoint() -> None:
    ours, theirs = pair()
    with trio.testing.assert_no_checkpoints():
        await close_now(ours)
    assert await theirs.receive_some() == b""
    theirs.close()


def test_the_errors_that_are_passed_over_are_not_those_that_pause() -> None:
    assert not transport._IGNORABLE & transport._EXHAUSTED
