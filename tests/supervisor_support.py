"""What the tests of the supervisor share: a system whose processes are numbers and whose time passes in jumps."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import NoReturn

from trio_smtp.server.processes import System

ENDS = bytes([signal.SIGTERM])
CHILD = bytes([signal.SIGCHLD])


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
