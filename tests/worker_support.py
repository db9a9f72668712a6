"""What the tests of workers share: servers in processes of their own, whose lines one can wait for."""

from __future__ import annotations

import os
import queue
import re
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Seconds for anything that waits: far more than a loaded machine needs.
PATIENCE = 60

#: An App that says which process took a message.
PID_APP = """
import os
import trio_smtp

app = trio_smtp.App()

@app.on_data
async def take(ctx):
    await ctx.stream.discard()
    ctx.reply = trio_smtp.Reply(250, f"taken by {os.getpid()}", "2.0.0")
"""


class Process:
    """A server in a process of its own.

    Args:
        arguments: Those of Python.
        directory: Where it works.
    """

    def __init__(self, arguments: tuple[str, ...], directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a group of its own can be sent a signal, and be ended
        )
        self.pid = self._process.pid
        self.output, self.errors = self._lines(self._process.stdout), self._lines(self._process.stderr)
        #: The process of each worker, by its number, as far as the log was read.
        self.workers: dict[int, int] = {}
        self.log: list[str] = []

    @staticmethod
    def _lines(file: IO[str] | None) -> queue.Queue[str | None]:
        lines = queue.Queue[str | None]()

        def read() -> None:
            assert file is not None
            with file:
                for line in file:
                    lines.put(line.rstrip("\n"))
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        return lines

    def _rest(self, lines: queue.Queue[str | None]) -> Iterator[str]:
        """Lines as they come, up to the end, which stays there."""
        try:
            while (line := lines.get(timeout=PATIENCE)) is not None:
                yield line
        except queue.Empty:
            while not self.errors.empty():
                self.log.append(str(self.errors.get()))
            pytest.fail("nothing more comes; the log:\n" + "\n".join(self.log))
        lines.put(None)

    def line(self, pattern: str) -> str:
        """Wait for a line of output; gives the first group, or the line."""
        for line in self._rest(self.output):
            if found := re.search(pattern, line):
                return found[1] if found.re.groups else line
        raise AssertionError(f"no line like {pattern!r}; the log:\n{self.rest_of_log()}")

    def logged(self, pattern: str) -> str:
        """Wait for a line of the log."""
        for line in self._rest(self.errors):
            self.log.append(line)
            if started := re.search(r"worker (\d+) is process (\d+)", line):
                self.workers[int(started[1])] = int(started[2])
            if re.search(pattern, line):
                return line
        raise AssertionError(f"nothing like {pattern!r} in the log:\n" + "\n".join(self.log))

    def rest_of_log(self) -> str:
        """All that was written there when it and its workers have ended."""
        self.log.extend(self._rest(self.errors))
        return "\n".join(self.log)

    def rest_of_output(self) -> list[str]:
        """What is written until no process has the output any more: the workers have ended too."""
        return list(self._rest(self.output))

    def port(self) -> int:
        """Where it listens."""
        return int(self.line(r"^Listening on 127\.0\.0\.1:(\d+)"))

    def started(self, workers: int) -> None:
        """Wait until that many workers were started."""
        for number in range(workers):
            self.logged(f"worker {number} is process")

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it to the supervisor."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the supervisor's exit code."""
        return self._process.wait(PATIENCE)

    def end(self) -> None:
        """End whatever is left of it."""
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self.rest_of_output()
        self.rest_of_log()


@contextmanager
def python(directory: Path, *arguments: str) -> Iterator[Process]:
    """Python with these arguments, ended at the end."""
    process = Process(arguments, directory)
    try:
        yield process
    finally:
        process.end()


@contextmanager
def command(directory: Path, *arguments: str) -> Iterator[Process]:
    """The command, which logs when workers start; ended at the end."""
    with python(directory, "-m", "trio_smtp", "-v", *arguments) as process:
        yield process


def send(client: smtplib.SMTP) -> str:
    """Send a message; gives the reply's text."""
    client.ehlo_or_helo_if_needed()
    begin(client)
    return finish(client)


def begin(client: smtplib.SMTP) -> None:
    """Begin a message: its end is owed."""
    client.ehlo_or_helo_if_needed()
    client.mail("alice@example.com")
    client.rcpt("bob@example.com")
    assert client.docmd("DATA")[0] == 354
    client.send(b"Subject: Hello\r\n\r\n")


def finish(client: smtplib.SMTP) -> str:
    """End the message, and have it taken."""
    client.send(b"It works.\r\n.\r\n")
    code, text = client.getreply()
    assert code == 250
    return text.decode()


def taken_by(reply: str) -> int:
    """The process that says so."""
    return int(reply.rpartition(" ")[2])


def until(reached: Callable[[], bool], tries: int = 500) -> None:
    """Do it until it is so."""
    for _ in range(tries):
        if reached():
            return
    pytest.fail("that never happened")


def connect(port: int) -> smtplib.SMTP:
    """A client of smtplib."""
    return smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
