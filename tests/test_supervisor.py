"""The supervisor of workers, on a clock of its own."""

from __future__ import annotations

import errno
import io
import itertools
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from trio_smtp import Config, SMTPServer
from trio_smtp.server.shared_sockets import Listening
from trio_smtp.server.supervisor import Supervisor

from .supervisor_support import ENDS, Exited, FakeSystem
from .support import crashes, logged, mail_app

DRAIN_TIMEOUT = 5.0
LIFESPAN_TIMEOUT = 7.0


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


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[socket.socket, socket.socket]]:
    """The supervisor's ends and the workers', in the order in which they were made."""
    made: list[tuple[socket.socket, socket.socket]] = []
    make = socket.socketpair

    def socketpair() -> tuple[socket.socket, socket.socket]:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(socket, "socketpair", socketpair)
    return made


def supervisor(system: FakeSystem | None, workers: int = 2, **arguments: Any) -> Supervisor:
    server = SMTPServer(mail_app()[0], Config(drain_timeout=DRAIN_TIMEOUT, lifespan_timeout=LIFESPAN_TIMEOUT))
    sockets = [[socket.create_server(("127.0.0.1", 0))] for _ in range(workers)]
    return Supervisor([Listening(server, sockets)], workers, system=system, **arguments)


# The end


def test_a_signal_drains_every_worker(system: FakeSystem, orders: list[socket.socket]) -> None:
    said: list[str] = []
    watched = supervisor(system, started=lambda: said.append("started"), draining=lambda: said.append("draining"))
    sockets = [own[0] for own in watched.listening[0].sockets]
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
    assert system.kills == [(1 + DRAIN_TIMEOUT + LIFESPAN_TIMEOUT + 70, 2)]
    assert logged(caplog) == [
        "worker 1 does not end: killing process 2",
        "worker 1, process 2, was ended by signal 9",
    ]


def test_what_does_not_stop_is_killed(system: FakeSystem) -> None:
    system.at(1, ENDS)
    system.at(4, ENDS)
    assert supervisor(system, 1).run() == 128 + signal.SIGTERM
    assert system.kills == [(4 + LIFESPAN_TIMEOUT + 70, 1)]


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
    assert system.kills == [(2 + DRAIN_TIMEOUT + LIFESPAN_TIMEOUT + 70, 1)]
    for end in itertools.chain(*ends):
        end.close()


def test_workers_drain_when_the_supervisor_fails(system: FakeSystem, orders: list[socket.socket]) -> None:
    system.script.append((1001.0, lambda: 1 // 0))  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        supervisor(system).run()
    assert [end.recv(10) for end in orders] == [b"", b""]


# A worker begins


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_keeps_what_is_its_own(
    system: FakeSystem, number: int, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    """A worker begins: here it is this process that becomes it."""
    served = []

    async def work(listening: Any, orders: socket.socket, reload: object, reload_first: bool) -> None:
        served.append((listening, reload_first))
        assert orders.recv(10) == b""  # the end of the supervisor is closed here: nobody else has it
        orders.close()

    watched = supervisor(system, work=work)
    (listening,) = watched.listening
    closed: list[bool] = []
    system.born = lambda pid: 0 if pid == number + 1 else pid
    system.at_exit = lambda: closed.extend(own[0].fileno() < 0 for own in listening.sockets)
    with pytest.raises(Exited):
        watched.run()
    assert system.exits == [0]
    assert served == [([(listening.server, listening.sockets[number])], False)]
    assert closed == [each != number for each in range(2)]
    supervisors = pairs[: number + 1]  # those that follow are trio's
    assert [ours.fileno() for ours, _ in supervisors] == [-1] * (number + 1)


def test_a_worker_that_begins_after_a_hangup_is_told(system: FakeSystem) -> None:
    told: list[tuple[object, object]] = []

    async def work(_: Any, orders: socket.socket, *reload: object) -> None:
        orders.close()
        told.append((reload[0], reload[1]))

    async def reload(_: SMTPServer) -> None:
        raise AssertionError

    system.at(1, bytes([signal.SIGHUP]))
    system.dies(2, 1, 1)
    system.born = lambda pid: 0 if pid == 2 else pid
    with pytest.raises(Exited):
        supervisor(system, 1, reload=reload, work=work).run()
    assert told == [(reload, True)]


def test_a_worker_that_crashes(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    async def work(_: Any, orders: socket.socket, *__: object) -> None:
        orders.close()
        raise SystemExit(7)

    system.born = lambda _: 0
    with pytest.raises(Exited):
        supervisor(system, 1, work=work).run()
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


def test_new_processes_are_in_the_log(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    system.at(1, ENDS)
    system.dies(2, 1, 0)
    assert supervisor(system, 1).run() == 0
    assert logged(caplog, logging.INFO) == ["worker 0 is process 1"]
