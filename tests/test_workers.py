"""The supervisor of workers on a clock of its own, a worker's inside, and what both ask of the system."""

from __future__ import annotations

import errno
import io
import itertools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest
import trio
import trio.testing

import trio_smtp.server.workers
from trio_smtp import App, Config, SMTPServer, serve_workers
from trio_smtp.server.processes import System
from trio_smtp.server.shared_sockets import Listening
from trio_smtp.server.workers import Supervisor, work
from trio_smtp.testing import Client

from .support import crashes, logged, mail_app, note_closes, start_data

ENDS = bytes([signal.SIGTERM])
CHILD = bytes([signal.SIGCHLD])
DRAIN_TIMEOUT = 5.0


class Exited(BaseException):
    """A child ended, in this process."""


class FakeSystem(System):
    """Processes that are numbers, and time that passes while somebody waits."""

    def __init__(self) -> None:
        super().__init__(hangups=True)
        self.time = 1000.0
        self.pids = itertools.count(1)
        #: When processes were started and killed, counted from the beginning.
        self.forks: list[float] = []
        self.kills: list[tuple[float, int]] = []
        self.codes: dict[int, int] = {}
        #: What happens when.
        self.script: list[tuple[float, Callable[[], bytes]]] = []
        self.exits: list[int] = []
        #: What becomes of a process that was started; gives what fork() gives.
        self.born: Callable[[int], int] = int
        #: Called as this process would end.
        self.at_exit: Callable[[], object] = int

    def __enter__(self) -> FakeSystem:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def at(self, seconds: float, numbers: bytes) -> None:
        """Signals come."""
        self.script.append((1000.0 + seconds, lambda: numbers))

    def dies(self, seconds: float, pid: int, code: int) -> None:
        """A process ends."""

        def die() -> bytes:
            self.codes[pid] = code
            return CHILD

        self.script.append((1000.0 + seconds, die))

    def wait(self, seconds: float | None) -> bytes:
        self.script.sort(key=lambda event: event[0])
        if self.script and (seconds is None or self.script[0][0] <= self.time + seconds):
            self.time, event = self.script.pop(0)
            return event()
        assert seconds is not None, "it waits for ever"
        assert seconds >= 0
        self.time += seconds
        return b""

    def now(self) -> float:
        return self.time

    def fork(self) -> int:
        self.forks.append(round(self.time - 1000, 3))
        return self.born(next(self.pids))

    def ended(self, pid: int) -> int | None:
        return self.codes.pop(pid, None)

    def kill(self, pid: int) -> None:
        self.kills.append((round(self.time - 1000, 3), pid))
        self.dies(self.time - 1000, pid, -signal.SIGKILL)

    def exit(self, code: int) -> NoReturn:
        self.at_exit()
        self.exits.append(code)
        raise Exited


@pytest.fixture
def system() -> FakeSystem:
    return FakeSystem()


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """The ends that workers read, in the order in which they were made."""
    ends: list[socket.socket] = []
    make = socket.socketpair

    def socketpair() -> tuple[socket.socket, socket.socket]:
        ours, theirs = make()
        ends.append(theirs.dup())
        return ours, theirs

    monkeypatch.setattr(socket, "socketpair", socketpair)
    yield ends
    for end in ends:
        end.close()


def supervisor(system: FakeSystem | None, workers: int = 2, **arguments: Any) -> Supervisor:
    server = SMTPServer(mail_app()[0], Config(drain_timeout=DRAIN_TIMEOUT))
    sockets = [[socket.create_server(("127.0.0.1", 0))] for _ in range(workers)]
    return Supervisor([Listening(server, sockets)], workers, system=system, **arguments)


# The end


def test_a_signal_drains_every_worker(system: FakeSystem, orders: list[socket.socket]) -> None:
    said: list[str] = []
    watched = supervisor(system, started=lambda: said.append("started"), draining=lambda: said.append("draining"))
    sockets = [own[0] for own in watched._listening[0].sockets]
    descriptors: list[list[int]] = []

    def look() -> bytes:
        descriptors.append([sock.fileno() for sock in sockets])
        return b""

    system.script.append((1000.5, look))
    system.at(1, ENDS)
    system.script.append((1001.5, look))
    system.dies(2, 1, 0)
    system.dies(3, 2, 0)
    assert watched.run() == 0
    assert said == ["started", "draining"]
    assert [end.recv(10) for end in orders] == [b"d", b"d"]
    assert system.kills == []
    assert min(descriptors[0]) > 0
    assert descriptors[1] == [-1, -1]  # nobody is to wait for workers that accept no more


def test_a_second_signal_stops_them(system: FakeSystem, orders: list[socket.socket]) -> None:
    system.at(1, ENDS)
    system.at(2, bytes([signal.SIGINT]))
    system.dies(3, 1, 0)
    system.dies(3, 2, 0)
    assert supervisor(system).run() == 128 + signal.SIGINT
    assert [end.recv(10) for end in orders] == [b"ds", b"ds"]


def test_a_third_signal_kills_them(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    system.at(1, ENDS)
    system.at(2, ENDS)
    system.at(3, ENDS)
    assert supervisor(system).run() == 128 + signal.SIGTERM
    assert system.kills == [(3, 1), (3, 2)]
    assert logged(caplog)[:2] == [f"worker {n} does not end: killing process {n + 1}" for n in range(2)]


def test_what_does_not_drain_is_killed(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    system.at(1, ENDS)
    system.dies(1 + DRAIN_TIMEOUT, 1, 0)
    assert supervisor(system).run() == 1
    assert system.kills == [(1 + DRAIN_TIMEOUT + 40, 2)]
    assert logged(caplog) == [
        "worker 1 does not end: killing process 2",
        "worker 1, process 2, was ended by signal 9",
    ]


def test_what_does_not_stop_is_killed(system: FakeSystem) -> None:
    system.at(1, ENDS)
    system.at(4, ENDS)
    assert supervisor(system, 1).run() == 128 + signal.SIGTERM
    assert system.kills == [(4 + 40, 1)]


def test_a_worker_that_fails_while_it_drains(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    system.at(1, ENDS)
    system.dies(2, 1, 3)
    system.dies(3, 2, 0)
    assert supervisor(system).run() == 1
    assert logged(caplog) == ["worker 0, process 1, exited with code 3"]


def test_a_dead_worker_is_not_replaced_at_the_end(system: FakeSystem) -> None:
    system.dies(1, 1, 0)
    system.at(1.05, ENDS)
    assert supervisor(system, 1).run() == 0
    assert system.forks == [0]


# Replacement


def test_a_worker_that_always_dies_is_replaced_ever_more_slowly(
    system: FakeSystem, caplog: pytest.LogCaptureFixture
) -> None:
    def die_at_once(pid: int) -> int:
        system.dies(system.time - 1000, pid, 1)
        return pid

    system.born = die_at_once
    system.at(100, ENDS)
    assert supervisor(system, 1).run() == 0
    assert system.forks == [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, *(12.7 + 10 * n for n in range(1, 9))]
    assert logged(caplog)[:2] == [
        "worker 0, process 1, exited with code 1; the next one starts in 0.1 s",
        "worker 0, process 2, exited with code 1; the next one starts in 0.2 s",
    ]


def test_one_that_lived_long_is_replaced_soon(system: FakeSystem) -> None:
    system.dies(1, 1, 1)
    system.dies(2, 2, 1)
    system.dies(3, 3, 1)
    system.dies(20, 4, 1)
    system.at(30, ENDS)
    system.dies(31, 5, 0)
    assert supervisor(system, 1).run() == 0
    assert system.forks == [0, 1.1, 2.2, 3.4, 20.1]


def test_one_that_is_overdue_is_not_waited_for(system: FakeSystem) -> None:
    """The first cannot be had, and the second one takes its time."""

    def slow(pid: int) -> int:
        if pid == 1:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        system.time += 5 if pid == 2 else 0
        return pid

    system.born = slow
    system.at(10, ENDS)
    system.dies(11, 2, 0)
    system.dies(11, 3, 0)
    assert supervisor(system).run() == 0
    assert system.forks == [0, 0, 5]


def test_descriptors_that_cannot_be_had_are_tried_again(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    make, refusals = socket.socketpair, iter([True, False])

    def socketpair() -> tuple[socket.socket, socket.socket]:
        if next(refusals):
            raise OSError(errno.EMFILE, "Too many open files")
        return make()

    monkeypatch.setattr(socket, "socketpair", socketpair)
    system.at(10, ENDS)
    system.dies(11, 1, 0)
    assert supervisor(system, 1).run() == 0
    assert system.forks == [0.1]


def test_others_go_on_meanwhile(system: FakeSystem, orders: list[socket.socket]) -> None:
    system.dies(1, 1, -signal.SIGSEGV)
    system.at(2, ENDS)
    system.dies(3, 2, 0)
    system.dies(3, 3, 0)
    assert supervisor(system).run() == 0
    assert [end.recv(10) for end in orders] == [b"", b"d", b"d"]


def test_a_process_that_cannot_be_had_is_tried_again(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(pid: int) -> int:
        if pid < 3:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return pid

    system.born = refuse
    system.at(10, ENDS)
    system.dies(11, 3, 0)
    assert supervisor(system, 1).run() == 0
    assert system.forks == [0, 0.1, 0.3]
    assert logged(caplog) == [
        f"worker 0 cannot be started: Resource temporarily unavailable; the next one starts in {delay} s"
        for delay in (0.1, 0.2)
    ]


def test_a_hangup_is_handed_on(system: FakeSystem, orders: list[socket.socket]) -> None:
    system.at(1, bytes([signal.SIGHUP, signal.SIGCHLD]))
    system.at(2, ENDS)
    system.dies(3, 1, 0)
    system.dies(3, 2, 0)
    assert supervisor(system).run() == 0
    assert [end.recv(10) for end in orders] == [b"rd", b"rd"]


def test_a_hangup_while_a_worker_is_missing(system: FakeSystem, orders: list[socket.socket]) -> None:
    system.dies(1, 1, 1)
    system.at(1.05, bytes([signal.SIGHUP]))
    system.at(2, ENDS)
    system.dies(3, 2, 0)
    system.dies(3, 3, 0)
    assert supervisor(system).run() == 0
    assert [end.recv(10) for end in orders] == [b"", b"rd", b"d"]


def test_a_worker_that_reads_no_orders_does_not_hang_the_supervisor(system: FakeSystem) -> None:
    make = socket.socketpair
    with pytest.MonkeyPatch.context() as patch:
        ends = [make(), make()]
        for ours, _ in ends:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        patch.setattr(socket, "socketpair", lambda: (ends[0][0], ends[0][1].dup()))
        for n in range(2000):
            system.at(1 + n / 10_000, bytes([signal.SIGHUP] * 100))
        system.at(2, ENDS)
        assert supervisor(system, 1).run() == 1
    assert system.kills == [(2 + DRAIN_TIMEOUT + 40, 1)]
    for end in itertools.chain(*ends):
        end.close()


def test_workers_drain_when_the_supervisor_fails(system: FakeSystem, orders: list[socket.socket]) -> None:
    system.script.append((1001.0, lambda: 1 // 0))  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        supervisor(system).run()
    assert [end.recv(10) for end in orders] == [b"", b""]


# A worker


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_keeps_what_is_its_own(system: FakeSystem, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A worker begins: here it is this process that becomes it."""
    served = []

    async def work(listening: Any, orders: socket.socket, reload: object, reload_first: bool) -> None:
        served.append((listening, reload_first))
        assert orders.recv(10) == b""  # the end of the supervisor is closed here: nobody else has it
        orders.close()

    watched = supervisor(system)
    (listening,) = watched._listening
    closed: list[bool] = []
    system.born = lambda pid: 0 if pid == number + 1 else pid
    system.at_exit = lambda: closed.extend(own[0].fileno() < 0 for own in listening.sockets)
    monkeypatch.setattr(trio_smtp.server.workers, "work", work)
    with pytest.raises(Exited):
        watched.run()
    assert system.exits == [0]
    assert served == [([(listening.server, listening.sockets[number])], False)]
    assert closed == [each != number for each in range(2)]
    ends = [place.orders for place in watched._places if place.orders is not None]
    assert [end.fileno() for end in ends] == [-1] * (number + 1)


def test_a_worker_that_begins_after_a_hangup_is_told(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, object]] = []

    async def work(_: Any, orders: socket.socket, *reload: object) -> None:
        orders.close()
        told.append((reload[0], reload[1]))

    async def reload(_: SMTPServer) -> None:
        raise AssertionError

    system.at(1, bytes([signal.SIGHUP]))
    system.dies(2, 1, 1)
    system.born = lambda pid: 0 if pid == 2 else pid
    monkeypatch.setattr(trio_smtp.server.workers, "work", work)
    with pytest.raises(Exited):
        supervisor(system, 1, reload=reload).run()
    assert told == [(reload, True)]


def test_a_worker_that_crashes(
    system: FakeSystem, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(_: Any, orders: socket.socket, *__: object) -> None:
        orders.close()
        raise SystemExit(7)

    system.born = lambda _: 0
    monkeypatch.setattr(trio_smtp.server.workers, "work", work)
    with pytest.raises(Exited):
        supervisor(system, 1).run()
    assert system.exits == [1]
    assert crashes(caplog) == ["worker 0 failed"]


def test_what_was_printed_is_not_printed_by_the_child(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    monkeypatch.setattr(sys, "stderr", None)
    sys.stdout.write("Listening\n")
    system.at(1, ENDS)
    system.dies(2, 1, 0)
    assert supervisor(system, 1).run() == 0
    assert raw.getvalue() == b"Listening\n"


@attrs.define
class Working:
    """A worker in this process."""

    server: SMTPServer
    sockets: list[socket.socket]
    supervisor: socket.socket
    orders: socket.socket

    async def connect(self) -> Client:
        address = self.sockets[0].getsockname()
        client = Client(await trio.open_tcp_stream(*address))
        client.greeting = await client.read_reply()
        return client

    def run(self, *arguments: Any) -> Any:
        return work([(self.server, self.sockets)], self.orders, *arguments)


@pytest.fixture
def working() -> Iterator[Working]:
    app, _ = mail_app()
    note_closes(app)
    ours, theirs = socket.socketpair()
    server = SMTPServer(app, Config(hostname="mx.example"))
    with ours, socket.create_server(("127.0.0.1", 0)) as listening:
        yield Working(server, [listening], ours, theirs)


@pytest.mark.parametrize("way", ["order", "supervisor gone", "signal"])
async def test_a_worker_drains(working: Working, way: str, caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run)
        client = await working.connect()
        await start_data(client)
        if way == "order":
            working.supervisor.send(b"d")
        elif way == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            working.supervisor.close()
        while working.server.listeners:
            await trio.lowlevel.checkpoint()
        await client.send_bytes(b"Hello\r\n.\r\n")
        assert (await client.read_reply()).code == 250
        assert (await client.read_reply()).code == 421
        await client.aclose()
    assert working.orders.fileno() == working.sockets[0].fileno() == -1
    assert logged(caplog) == (["the supervisor is gone: draining"] if way == "supervisor gone" else [])


async def test_a_worker_stops(working: Working) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run)
        client = await working.connect()
        await start_data(client)
        working.supervisor.send(b"ds")
        assert await client.read_to_end() == b""
        await client.aclose()
    assert working.orders.fileno() == working.sockets[0].fileno() == -1


async def test_a_worker_reloads_in_order_and_goes_on(working: Working, caplog: pytest.LogCaptureFixture) -> None:
    begun: list[SMTPServer] = []
    enough, first = trio.Event(), trio.Event()

    async def reload(server: SMTPServer) -> None:
        begun.append(server)
        if len(begun) == 1:
            await first.wait()
            raise OSError("no certificate")
        enough.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run, reload)
        client = await working.connect()
        working.supervisor.send(b"r")
        while not begun:
            await trio.lowlevel.checkpoint()
        working.supervisor.send(b"r")
        assert (await client.ehlo()).code == 250  # a slow one hinders nobody
        await trio.testing.wait_all_tasks_blocked()
        assert begun == [working.server]
        first.set()
        await enough.wait()
        assert begun == [working.server] * 2
        working.supervisor.send(b"d")
        assert (await client.read_reply()).code == 421
        await client.aclose()
    assert crashes(caplog) == ["reload failed"]


async def test_a_worker_without_anything_to_reload(working: Working) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run)
        client = await working.connect()
        working.supervisor.send(b"rd")
        assert (await client.read_reply()).code == 421
        await client.aclose()


async def test_a_worker_that_comes_after_a_hangup_reloads_before_it_serves(working: Working) -> None:
    seen: list[int] = []

    async def reload(server: SMTPServer) -> None:
        seen.append(len(server.listeners))

    working.supervisor.close()
    await working.run(reload, True)
    assert seen == [0]


@pytest.mark.parametrize("way", [b"s", b"d", b""], ids=["stop", "drain", "supervisor gone"])
async def test_a_worker_that_reloads_first_hears_its_orders(working: Working, way: bytes) -> None:
    reloading = trio.Event()

    async def hang(server: SMTPServer) -> None:
        reloading.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run, hang, True)
        await reloading.wait()
        if way:
            working.supervisor.send(way)
        else:
            working.supervisor.close()
    assert working.orders.fileno() == -1


# The system


def test_signals_wait_to_be_read() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    _, writer = pair = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    with System(hangups=True) as system:
        for number in numbers:
            os.kill(os.getpid(), number)
            assert system.wait(60) == bytes([number])
        assert system.wait(0) == b""
        assert system.wait(0.001) == b""
    assert signal.set_wakeup_fd(-1) == writer.fileno()
    for end in pair:
        end.close()
    assert [signal.getsignal(number) for number in numbers] == before
    with System(hangups=False):
        assert signal.getsignal(signal.SIGHUP) is before[2]


def test_processes_and_the_time() -> None:
    system = System(hangups=False)
    program = [sys.executable, "-c", "input(); raise SystemExit(3)"]
    moment = system.now()
    for code in (3, -signal.SIGKILL):
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as typed:
            pid = os.posix_spawn(sys.executable, program, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
            os.close(reader)
            assert system.ended(pid) is None
            if code < 0:
                system.kill(pid)
            else:
                typed.write("\n")
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert system.ended(pid) == code
    assert system.now() >= moment


def test_a_fork_in_the_parent_and_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: list[set[int]] = []

    def fork(pid: int) -> int:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        return pid

    with System(hangups=True) as system:
        monkeypatch.setattr(os, "fork", lambda: fork(7))
        assert system.fork() == 7
        os.kill(os.getpid(), signal.SIGTERM)
        assert system.wait(60) == ENDS
        monkeypatch.setattr(os, "fork", lambda: fork(0))
        assert system.fork() == 0
        os.kill(os.getpid(), signal.SIGTERM)  # neither ends it nor reaches the supervisor
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        assert system._writer.fileno() == -1
    assert all(mask >= {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP} for mask in blocked)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT}


def test_a_child_ends_without_the_exit_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> NoReturn:
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Exited) as exited:
        System(hangups=False).exit(3)
    assert exited.value.args == (3,)


# serve_workers


class Recorder(Supervisor):
    """Is told to begin and to end at once."""

    made: list[Recorder]

    def run(self) -> int:
        type(self).made.append(self)
        self._started()
        for each in self._listening:
            each.close()
        return 5


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    Recorder.made = []
    monkeypatch.setattr(trio_smtp.server.workers, "Supervisor", Recorder)
    return Recorder.made


def test_serving_several_configs(made: list[Recorder]) -> None:
    opened: list[socket.socket] = []
    configs = [Config(port=0), Config(port=0, lmtp=True)]
    assert serve_workers(App(), configs, workers=3, started=opened.extend) == 5
    (supervisor,) = made
    assert [each.server.config for each in supervisor._listening] == configs
    assert len(supervisor._places) == 3
    assert opened == [each.sockets[0][0] for each in supervisor._listening]


def test_serving_sockets_of_somebody_else(made: list[Recorder]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert serve_workers(App(), workers=2, sockets=[given]) == 5
    ((listening,),) = [each._listening for each in made]
    assert listening.server.config == Config()
    assert listening.sockets == [[given], [given]]


def test_all_listeners_or_none(made: list[Recorder], tmp_path: Path) -> None:
    first = tmp_path / "first"
    with pytest.raises(FileNotFoundError):
        serve_workers(App(), [Config(unix_path=str(first)), Config(unix_path=str(tmp_path / "no" / "x"))], workers=1)
    assert not first.exists()
    assert made == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"workers": 1, "config": []}, "0 Configs: there must be one"),
        ({"workers": 1, "config": [Config(), Config()], "sockets": []}, "2 Configs: .* one alone where sockets"),
    ],
)
def test_arguments_that_mean_nothing(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        serve_workers(App(), **arguments)


async def test_not_inside_an_event_loop() -> None:
    with pytest.raises(RuntimeError, match=r"in place of trio\.run, not inside it"):
        serve_workers(App(), workers=1)


def test_not_in_another_thread() -> None:
    raised: list[RuntimeError] = []

    def serve() -> None:
        try:
            serve_workers(App(), workers=1)
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(60)
    assert "main thread" in str(raised[0])


def test_not_where_nothing_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(RuntimeError, match=r"needs os\.fork"):
        serve_workers(App(), workers=1)


def test_only_apps_are_served() -> None:
    with pytest.raises(TypeError, match="app must be an App"):
        serve_workers(None, workers=1)  # type: ignore[arg-type]


def test_new_processes_are_in_the_log(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    system.at(1, ENDS)
    system.dies(2, 1, 0)
    assert supervisor(system, 1).run() == 0
    assert logged(caplog, logging.INFO) == ["worker 0 is process 1"]
