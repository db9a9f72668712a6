"""What a supervisor asks of the system: signals, processes and the time."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import NoReturn

import pytest

from trio_smtp.server.processes import System

from .supervisor_support import ENDS, Exited


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

    pairs: list[tuple[socket.socket, socket.socket]] = []
    real = socket.socketpair

    def socketpair() -> tuple[socket.socket, socket.socket]:
        pairs.append(real())
        return pairs[-1]

    monkeypatch.setattr(socket, "socketpair", socketpair)
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
        assert [end.fileno() for pair in pairs for end in pair] == [-1, -1]
    assert all(mask >= {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP} for mask in blocked)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT}


def test_a_child_ends_without_the_exit_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> NoReturn:
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Exited) as exited:
        System(hangups=False).exit(3)
    assert exited.value.args == (3,)
