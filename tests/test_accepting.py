"""The accept loop: batches, connections that were gone before they were accepted, and descriptors that run out."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_smtp.net.accepting import accept
from trio_smtp.net.transport import Outbox, SocketTransport


def noted(accepted: list[SocketTransport]) -> Callable[[trio.abc.Stream], None]:
    """Puts each new connection into the list."""

    def note(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, SocketTransport)
        accepted.append(stream)

    return note


@asynccontextmanager
async def accepting() -> AsyncIterator[tuple[list[SocketTransport], trio.SocketListener]]:
    """An accept loop on a listener, and the connections it has accepted."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    accepted: list[SocketTransport] = []
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept, listener, noted(accepted), Outbox())
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
    complaint = f"accepting pauses for 0.1 s: {errno.errorcode[code]}"
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.ERROR, complaint)]


async def test_an_error_of_the_listener_itself_is_raised(accepts: Accepts) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        accepts.errors = [errno.EINVAL]
        clients = connect(listener, 1)
        with pytest.raises(OSError, match="EINVAL"):
            await accept(listener, noted([]), Outbox())
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
        nursery.start_soon(accept, listener, noted(accepted), Outbox())
        client = socket.socket(socket.AF_UNIX)
        client.connect(listener.socket.getsockname())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(accepted) == 1
    accepted[0].close()
    client.close()


async def test_a_listener_that_is_closed_meanwhile_ends_the_loop() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await accept(listener, noted([]), Outbox())

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """Not trio's: gives each of its streams, and raises each of its errors."""

    def __init__(self, *outcomes: trio.abc.Stream | OSError) -> None:
        self.outcomes = list(outcomes)

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_any_other_listener_pauses_and_goes_on_too(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    listener = Listener(OSError(errno.EMFILE, "no descriptors"), ours, OSError(errno.EINVAL, "broken"))
    accepted: list[trio.abc.Stream] = []
    with pytest.raises(OSError, match="broken"):
        await accept(listener, accepted.append, Outbox())
    assert accepted == [ours]
    assert trio.current_time() == 0.1
    assert [r.getMessage() for r in caplog.records] == ["accepting pauses: no descriptors"]
