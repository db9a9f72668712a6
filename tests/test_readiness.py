"""Sockets that are registered once: every octet, end and error is told, whatever happens meanwhile."""

from __future__ import annotations

import contextvars
import os
import random
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.socket_support import port_of
from tests.support import COMPILED
from tests.transport_support import WithCheckpoints, tcp_sockets, unix_sockets
from trio_smtp import App, Config, DataContext, SMTPServer
from trio_smtp.net import readiness as module
from trio_smtp.net.readiness import Readiness
from trio_smtp.net.transport import SocketTransport

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll is Linux's")

Pair = tuple[SocketTransport, socket.socket]


@pytest.fixture(autouse=True)
def none_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FEW", 0)


@asynccontextmanager
async def at_work() -> AsyncIterator[Readiness]:
    async with trio.open_nursery() as nursery:
        readiness = Readiness()
        nursery.start_soon(readiness.run)
        await wait_all_tasks_blocked()
        yield readiness
        nursery.cancel_scope.cancel()


@contextmanager
def pair(
    readiness: Readiness, sockets: Callable[[], tuple[socket.socket, socket.socket]] = tcp_sockets
) -> Iterator[Pair]:
    sock, client = sockets()
    ours = SocketTransport(sock, readiness=readiness)
    try:
        yield ours, client
    finally:
        ours.close()
        client.close()


async def until(condition: Callable[..., bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what comes through sockets sets no event
        await trio.sleep(0.001)


def registered(readiness: Readiness, ours: SocketTransport) -> bool:
    """Whether the kernel tells the object of this socket."""
    return ours.socket.fileno() in readiness._readables  # noqa: SLF001


@pytest.mark.parametrize("sockets", [tcp_sockets, unix_sockets])
async def test_the_contract_of_streams_holds(
    sockets: Callable[[], tuple[socket.socket, socket.socket]],
) -> None:
    async with at_work() as readiness:

        async def make() -> tuple[WithCheckpoints, WithCheckpoints]:
            one, other = (WithCheckpoints(sock, readiness) for sock in sockets())
            return one, other

        await trio.testing.check_half_closeable_stream(make, None)


Step = bytes | str  # what the client sends; "end", "reset", or "wait": what was sent is read first


async def _read_by_task(ours: SocketTransport, most: int, take: Callable[[bytes], bool]) -> None:
    while take(await ours.receive_some(most)):
        pass


async def _read_without_task(ours: SocketTransport, most: int, take: Callable[[bytes], bool]) -> None:
    assert ours.register()
    assert not await ours.receive_while(take, most)
    take(b"")


@pytest.mark.parametrize("reader", [_read_by_task, _read_without_task], ids=["by the task", "without the task"])
@pytest.mark.parametrize("waits", [True, False], ids=["the reader waits before", "the reader comes after"])
@pytest.mark.parametrize(
    ("steps", "most"),
    [
        pytest.param([b"a"], 100, id="one octet"),
        pytest.param([b"a", "wait", b"b", "wait", b"c"], 100, id="one after the other"),
        pytest.param([b"abc", b"def"], 100, id="twice before a read"),
        pytest.param([b"abcdef"], 3, id="reads of exactly what is there"),
        pytest.param([b"abcdefg"], 3, id="more than one read takes"),
        pytest.param([b"abc", "end"], 100, id="octets and the end"),
        pytest.param([b"abc", "end"], 3, id="octets and the end, read exactly"),
        pytest.param([b"abc", "wait", "end"], 100, id="the end by itself"),
        pytest.param(["end"], 100, id="the end at once"),
        pytest.param([b"abc", "wait", "reset"], 100, id="a reset"),
        pytest.param([b"x" * 200_000, "end"], 65_532, id="many"),
    ],
)
async def test_octets_ends_and_errors_are_told(
    steps: list[Step],
    most: int,
    waits: bool,
    reader: Callable[[SocketTransport, int, Callable[[bytes], bool]], Awaitable[None]],
) -> None:
    expected = b"".join(step for step in steps if isinstance(step, bytes))
    received = bytearray()
    outcome = "open"

    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):

            async def read() -> None:
                nonlocal outcome

                def take(data: bytes) -> bool:
                    assert len(data) <= most
                    received.extend(data)
                    return bool(data)

                try:
                    await reader(ours, most, take)
                    outcome = "end"
                except trio.BrokenResourceError:
                    outcome = "reset"

            async with trio.open_nursery() as nursery:
                if waits:
                    nursery.start_soon(read)
                    await wait_all_tasks_blocked()
                    assert registered(readiness, ours)
                sent = 0
                for step in steps:
                    if isinstance(step, bytes):
                        client.setblocking(True)
                        await trio.to_thread.run_sync(client.sendall, step)
                        sent += len(step)
                    elif step == "end":
                        client.shutdown(socket.SHUT_WR)
                    elif step == "reset":
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        client.close()
                    elif waits:
                        await until(lambda so_far=sent: len(received) == so_far)
                if not waits:
                    nursery.start_soon(read)
                await until(lambda: len(received) == len(expected))
                if steps[-1] in ("end", "reset"):
                    await until(lambda: outcome != "open")
                nursery.cancel_scope.cancel()
    assert bytes(received) == expected
    assert outcome == (steps[-1] if steps[-1] in ("end", "reset") else "open")


def _urgent(client: socket.socket) -> None:
    client.sendall(b"EH")
    client.send(b"!", socket.MSG_OOB)
    client.sendall(b"LO me\r\n")


def _descriptors(client: socket.socket) -> None:
    client.sendall(b"EH")
    socket.send_fds(client, [b"L"], [client.fileno()])
    client.sendall(b"O me\r\n")


@pytest.mark.parametrize("waits", [True, False], ids=["the reader waits before", "the reader comes after"])
@pytest.mark.parametrize(
    ("sockets", "send"), [(tcp_sockets, _urgent), (unix_sockets, _descriptors)], ids=["urgent data", "descriptors"]
)
async def test_what_follows_where_the_system_ends_a_read_is_read(
    sockets: Callable[[], tuple[socket.socket, socket.socket]], send: Callable[[socket.socket], None], waits: bool
) -> None:
    async with at_work() as readiness:
        with pair(readiness, sockets) as (ours, client), trio.fail_after(5):
            if waits:
                with trio.move_on_after(0.01):
                    await ours.receive_some()
            for _ in range(3):
                send(client)
                received = [await ours.receive_some()]
                while not received[-1].endswith(b"\n"):
                    received.append(await ours.receive_some())
                assert b"".join(received) == b"EHLO me\r\n"
                assert len(received) > 1  # the system did end a read in the middle
            # Nothing is told where nothing is.
            with trio.move_on_after(0.05) as scope:
                await ours.receive_some()
            assert scope.cancelled_caught


class Taker:
    """Takes octets until a semicolon; notes in which context, and whether a task runs."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.names: list[str] = []
        self.tasks = 0

    def __call__(self, octets: bytes) -> bool:
        self.taken.append(octets)
        self.names.append(NAME.get())
        try:
            trio.lowlevel.current_task()
            self.tasks += 1
        except RuntimeError:
            pass
        if b"!" in octets:
            raise ValueError("an exclamation mark")
        return b";" not in octets


NAME = contextvars.ContextVar("NAME", default="nobody")


async def test_a_task_sleeps_while_its_function_takes_what_comes() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            take = Taker()

            async def read() -> None:
                NAME.set("the reader")
                assert ours.register()
                assert await ours.receive_while(take, 100)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                (task,) = nursery.child_tasks
                for octets in (b"a", b"b", b"c"):
                    client.sendall(octets)
                    await until(lambda octets=octets: take.taken[-1:] == [octets])
                    assert task in nursery.child_tasks
                client.sendall(b"d;")
            assert take.taken == [b"a", b"b", b"c", b"d;"]
            assert take.names == ["the reader"] * 4
            assert take.tasks == 0
            # What comes when nobody waits stays in the socket.
            client.sendall(b"e")
            await wait_all_tasks_blocked()
            assert await ours.receive_some() == b"e"


async def test_what_the_function_raises_is_raised_in_the_task() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), pair(readiness) as (other, others_client), trio.fail_after(5):
            assert ours.register()
            client.sendall(b"a!")
            others_client.sendall(b"b")
            with pytest.raises(ValueError, match="exclamation"):
                await ours.receive_while(Taker(), 100)
            assert await other.receive_some() == b"b"
            client.sendall(b"c;")
            assert await ours.receive_while(Taker(), 100)


async def test_a_function_may_close_a_socket_that_is_told_of_too(caplog: pytest.LogCaptureFixture) -> None:
    async with at_work() as readiness:
        with pair(readiness) as (one, client), pair(readiness) as (other, others_client), trio.fail_after(5):
            closed: list[SocketTransport] = []

            async def read(ours: SocketTransport, beside: SocketTransport) -> None:
                def take(_: bytes) -> bool:
                    closed.append(beside)
                    beside.close()
                    return False

                assert ours.register()
                try:
                    assert await ours.receive_while(take, 100)
                except trio.ClosedResourceError:
                    assert closed == [ours]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, one, other)
                nursery.start_soon(read, other, one)
                await wait_all_tasks_blocked()
                client.sendall(b"a")
                others_client.sendall(b"b")
            (gone,) = closed
            left, its_client = (one, client) if gone is other else (other, others_client)
            assert registered(readiness, left)
            its_client.sendall(b"c")
            assert await left.receive_some() == b"c"
    assert caplog.records == []


async def test_the_wait_of_a_function_can_be_cancelled() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            assert ours.register()
            take = Taker()
            with trio.move_on_after(0.01) as scope:
                await ours.receive_while(take, 100)
            assert scope.cancelled_caught
            client.sendall(b"a;")
            await wait_all_tasks_blocked()
            assert take.taken == []
            assert await ours.receive_some() == b"a;"


@pytest.mark.parametrize("sockets", [tcp_sockets, unix_sockets])
async def test_a_function_gets_on_when_the_work_ends(
    sockets: Callable[[], tuple[socket.socket, socket.socket]],
) -> None:
    async with at_work() as readiness:
        with pair(readiness, sockets) as (ours, client), trio.fail_after(5):
            take = Taker()
            assert ours.register()

            async def read() -> None:
                assert await ours.receive_while(take, 3)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                client.sendall(b"abcdef")
                await until(lambda: len(take.taken) == 2)
                readiness._stop()  # noqa: SLF001
                client.sendall(b"g")
                await until(lambda: len(take.taken) == 3)
                client.sendall(b";")
            assert take.taken == [b"abc", b"def", b"g", b";"]


async def test_a_closed_socket_is_not_registered() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, _):
            ours.close()
            assert not ours.register()


async def test_a_wait_can_be_cancelled_and_begun_again() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            with trio.move_on_after(0.01) as scope:
                await ours.receive_some()
            assert scope.cancelled_caught
            client.sendall(b"a")
            await wait_all_tasks_blocked()
            assert await ours.receive_some() == b"a"


async def test_one_task_at_a_time_waits() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.receive_some)
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await ours.receive_some()
                client.sendall(b"a")


async def test_octets_that_were_there_take_a_pass_all_the_same() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            client.sendall(b"abcdef")
            assert await ours.receive_some(3) == b"abc"
            with trio.testing.assert_checkpoints():
                assert await ours.receive_some(3) == b"def"


async def test_closing_wakes_whoever_waits() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, _), trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_expect_closed, ours)
                await wait_all_tasks_blocked()
                assert registered(readiness, ours)
                ours.close()
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some()


async def _expect_closed(ours: SocketTransport) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


async def test_a_socket_that_somebody_else_holds_tells_nothing_after_closing() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            with trio.move_on_after(0.01):
                await ours.receive_some()
            descriptor = ours.socket.fileno()
            held = os.dup(descriptor)  # as a process does that was forked meanwhile
            try:
                ours.close()
                # Another connection gets the number: whatever is told of the closed one must not reach it.
                with pair(readiness) as (other, _):
                    with trio.move_on_after(0.01):
                        await other.receive_some()
                    assert registered(readiness, other)
                    client.sendall(b"for the closed one")
                    with trio.move_on_after(0.05) as scope:
                        await other.receive_some()
                    assert scope.cancelled_caught
            finally:
                os.close(held)


async def test_when_the_work_ends_trio_goes_on() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            received: list[bytes] = []

            async def read() -> None:
                with trio.CancelScope(shield=True):
                    received.extend([await ours.receive_some(), await ours.receive_some()])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                assert registered(readiness, ours)
                readiness._stop()  # noqa: SLF001 - what the end of `run` does, in whatever order tasks are cancelled
                await wait_all_tasks_blocked()
                assert received == []
                client.sendall(b"a")
                await wait_all_tasks_blocked()
                client.sendall(b"b")
            assert received == [b"a", b"b"]
            assert not registered(readiness, ours)


@pytest.mark.skipif(COMPILED, reason="a compiled class cannot be patched")
async def test_an_error_inside_leaves_all_to_trio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                received: list[bytes] = []

                async def read() -> None:
                    received.append(await ours.receive_some())

                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                monkeypatch.setattr(module.Readable, "wake", _fail)
                client.sendall(b"a")
            assert received == [b"a"]
            client.sendall(b"b")
            assert await ours.receive_some() == b"b"
    (record,) = caplog.records
    assert record.name == "trio.abc.Instrument"


def _fail(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("fault", ["no epoll object", "another system", "not at work", "few"])
async def test_what_cannot_be_registered_is_left_to_trio(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def refuse(*_: object) -> select.epoll:
        raise OSError

    if fault == "no epoll object":
        monkeypatch.setattr(select, "epoll", refuse)
    elif fault == "another system":
        monkeypatch.setattr(module, "_HAS_EPOLL", False)
    elif fault == "few":
        monkeypatch.setattr(module, "_FEW", 1)
    async with at_work() as readiness:
        if fault == "not at work":
            readiness._stop()  # noqa: SLF001
        with pair(readiness) as (ours, client), trio.fail_after(5):
            client.sendall(b"a")
            assert await ours.receive_some() == b"a"
            assert not registered(readiness, ours)


async def test_a_registration_that_the_system_refuses_is_left_to_trio() -> None:
    async with at_work() as readiness:
        with pair(readiness) as (ours, client), trio.fail_after(5):
            assert readiness.register(ours.socket) is not None
            client.sendall(b"a")
            assert await ours.receive_some() == b"a"  # the system takes no socket twice


async def test_connections_are_registered_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FEW", 1)
    async with at_work() as readiness:
        with pair(readiness) as (first, client), trio.fail_after(5):
            client.sendall(b"a")
            assert await first.receive_some() == b"a"
            assert not registered(readiness, first)
            with pair(readiness) as (second, _):
                client.sendall(b"b")
                assert await first.receive_some() == b"b"
                assert registered(readiness, first)
                assert not registered(readiness, second)
            client.sendall(b"c")
            assert await first.receive_some() == b"c"


async def test_nothing_is_lost_among_many_connections() -> None:
    rng = random.Random(12)

    async def echo(ours: SocketTransport) -> None:
        while data := await ours.receive_some(rng.choice([1, 7, 100, 65_532])):
            if rng.random() < 0.3:
                await trio.lowlevel.checkpoint()
            await ours.send_all(data)
        ours.close()

    async def talk(client: socket.socket) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
        for _ in range(20):
            octets = rng.randbytes(rng.choice([1, 7, 100, 101, 5000]))
            await stream.send_all(octets)
            back = b""
            while len(back) < len(octets):
                back += await stream.receive_some()
            assert back == octets
            if rng.random() < 0.2:
                await trio.sleep(0.001)
        await stream.aclose()

    with trio.fail_after(30):
        async with at_work() as readiness, trio.open_nursery() as nursery:
            for _ in range(30):
                sock, client = tcp_sockets()
                nursery.start_soon(echo, SocketTransport(sock, readiness=readiness))
                nursery.start_soon(talk, client)


async def test_a_server_of_many_connections_drains() -> None:
    taken: list[bytes] = []
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())

    async def client(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:

            async def say(octets: bytes, code: bytes) -> None:
                await stream.send_all(octets)
                assert (await stream.receive_some()).startswith(code)

            await say(b"", b"220")
            await say(b"HELO me\r\n", b"250")
            for _ in range(3):
                await say(b"MAIL FROM:<a@example.org>\r\n", b"250")
                await say(b"RCPT TO:<b@example.com>\r\n", b"250")
                await say(b"DATA\r\n", b"354")
                await say(b"x\r\n.\r\n", b"250")
            assert (await stream.receive_some()).startswith(b"421")

    server = SMTPServer(app, Config(host="127.0.0.1", port=0))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_tcp)
            for _ in range(12):
                nursery.start_soon(client, port_of(server))
            await until(lambda: len(taken) == 36)
            server.drain()
    assert taken == [b"x\r\n"] * 36
