"""What a supervisor asks of the system: signals, processes and the time."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

__all__ = ["System"]


class System:
    """What a supervisor asks of the system: signals, processes and the time.

    Signals are caught inside ``with system:``.

    Args:
        hangups: Catch SIGHUP as well.
    """

    def __init__(self, *, hangups: bool) -> None:
        self._numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, *([signal.SIGHUP] if hangups else [])]

    def __enter__(self) -> System:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _note) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float | None) -> bytes:
        """Wait for signals, at most so many seconds (None: without limit); returns their numbers."""
        self._reader.settimeout(seconds)
        with suppress(TimeoutError, BlockingIOError):
            return self._reader.recv(4096)
        return b""

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""
        return time.monotonic()

    def fork(self) -> int:
        """Fork: returns 0 in the child, which no longer reads the supervisor's signals, and the child's id here."""
        # Blocked, because the child writes to the supervisor's wakeup descriptor until it has closed its copy.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                self._reader.close()
                self._writer.close()
                # The other signals do nothing in the child: the supervisor obeys those that a terminal sends to all.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def exit(self, code: int) -> NoReturn:
        """End a child at once: without the exit handlers and buffers that it has inherited."""
        os._exit(code)

    def ended(self, pid: int) -> int | None:
        """The exit code of a child, negative for a signal; None while it lives."""
        found, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def kill(self, pid: int) -> None:
        """End a child that has not been waited for."""
        os.kill(pid, signal.SIGKILL)


def _note(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: Python writes the signal's number to the wakeup descriptor when there is a handler."""
