"""`SocketTransport`: trio's contract for streams, on real sockets."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from tests.transport_support import FLOOD, WithCheckpoints, pair, reset, tcp_sockets, unix_sockets
from trio_smtp.net.transport import Outbox, SocketTransport


def clog(stream: SocketTransport) -> int:
    """Send until nothing more fits; returns the octets that did."""
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += stream.socket.send(FLOOD)
    return sent


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
    assert theirs.socket.send(b"still there") == 11
    assert await ours.receive_some() == b"still there"
    ours.close()
    theirs.close()


async def test_a_receive_that_waits_can_be_cancelled() -> None:
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    ours.socket.send(b"nothing is lost")
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
        ours.socket.send(b"first")
        await trio.testing.wait_all_tasks_blocked()
        assert (thief.stolen, received) == (b"first", [])
        ours.socket.send(b"second")
    trio.lowlevel.remove_instrument(thief)
    assert received == [b"second"]
    ours.close()
    theirs.close()


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
        await ours.send_all(b"x")
    theirs.close()


@pytest.mark.parametrize("reset_it", [True, False])
async def test_abort_drops_what_was_to_be_sent_soon(reset_it: bool) -> None:
    outbox = Outbox()
    with outbox.at_work():
        sock, other = tcp_sockets()
        ours, theirs = SocketTransport(sock, outbox), SocketTransport(other)
        assert ours.send_soon(b"250 OK\r\n")
        ours.abort(reset=reset_it)
        ours.abort(reset=reset_it)  # closed already
        if reset_it:
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
        else:
            assert await theirs.receive_some() == b""
        theirs.close()


async def test_abort_without_a_reset_reads_no_more_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_smtp.net.transport._DROPPED_BLOCKS", 1)
    ours, theirs = pair()
    await theirs.send_all(b"NOOP\r\n")
    ours.abort(reset=False)
    assert await theirs.receive_some() == b""
    theirs.close()
    ours, theirs = pair()
    theirs.close()
    ours.abort(reset=False)
