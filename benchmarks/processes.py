"""Processes that are measured: started on a core of their own, their CPU time and memory, and their end."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

#: Seconds for a server to say 220, and for one to end.
PATIENCE = 20.0


def cpu_clock(pid: int) -> Callable[[], float]:
    """A clock of the CPU time, in seconds, that all threads of a process took."""
    if sys.platform != "linux":
        return lambda: _seconds(_ps(pid, "time"))
    # The number of a process's clock, as clock_getcpuclockid(3) makes it: to the nanosecond, where /proc has ticks.
    clock = (~pid << 3) | 2
    return lambda: time.clock_gettime(clock)


def _ps(pid: int, what: str) -> str:
    return subprocess.run(
        ["ps", "-o", f"{what}=", "-p", str(pid)], capture_output=True, text=True, check=True
    ).stdout.strip()


def _seconds(text: str) -> float:
    """Read what ps says: [[days-]hours:]minutes:seconds."""
    days, _, rest = text.rpartition("-")
    total = 0.0
    for part in rest.split(":"):
        total = total * 60 + float(part)
    return total + 86_400 * int(days or 0)


def _status(pid: int, field: str) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def resident_memory(pid: int) -> int:
    """A process's resident memory now, in octets."""
    now = _status(pid, "VmRSS")
    return int(_ps(pid, "rss")) * 1024 if now is None else now


def peak_memory(pid: int) -> int | None:
    """The most resident memory a process ever had, in octets; None where the system does not tell."""
    return _status(pid, "VmHWM")


def open_files(number: int) -> None:
    """Allow this process, and those that it starts, so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def cores() -> tuple[int, int] | None:
    """A core for the server and one for the client; None where there are not two, or none can be chosen."""
    if sys.platform != "linux":
        return None
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else None


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started in here runs on that core, as if by taskset."""
    if core is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment() -> dict[str, str]:
    """The environment of what is measured: bytecode may be kept, or each start would compile anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server(NamedTuple):
    """A server that has said 220."""

    port: int
    pid: int


@contextmanager
def signals_later() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM take effect when what this gives is called, or the block ends.

    A process that is being started is not known yet to who would end it.
    """
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def let_in() -> None:
        while handlers:
            signal.signal(*handlers.popitem())
        if came:
            signal.raise_signal(came.pop())

    try:
        yield let_in
    finally:
        let_in()


def run(command: list[str], core: int | None, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command on that core to its end; it does not outlive this.

    Raises:
        subprocess.TimeoutExpired: It took longer than so many seconds.
    """
    with signals_later() as let_signals_in:
        with on_core(core):
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
            )
        with process:
            try:
                let_signals_in()
                said, complained = process.communicate(timeout=seconds)
            except BaseException:
                process.kill()
                raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


@contextmanager
def running(command: list[str], core: int | None) -> Iterator[Server]:
    """Start a server on that core, "{port}" in its command replaced by a free one; it is ended afterwards.

    Raises:
        OSError: It did not start; the text is the last line that it said.
    """
    port = free_port()
    with tempfile.TemporaryFile() as errors, signals_later() as let_signals_in:
        with on_core(core):
            process = subprocess.Popen(
                [argument.replace("{port}", str(port)) for argument in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for the benchmark, which ends the server
            )
        try:
            let_signals_in()
            if not _came_up(process, port):
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                raise OSError(f"did not start: {said[-1] if said else 'it said nothing'}")
            yield Server(port, process.pid)
        finally:
            _end(process)


def _came_up(process: subprocess.Popen[bytes], port: int) -> bool:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
                if sock.recv(512).startswith(b"220"):
                    sock.sendall(b"QUIT\r\n")
                    sock.recv(512)
                    return True
        except OSError:
            time.sleep(0.01)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to one that does not go."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
