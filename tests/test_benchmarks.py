"""The benchmarks: that they run, count right and end. What the machine makes of them is not asserted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.socket_support import port_of
from trio_smtp import App, Config, DataContext, create_context

from .conftest import CertificateFiles
from .socket_support import serving

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_large_message_takes_next_to_no_memory() -> None:
    finished = run("memory.py", "--size", "32")
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stdout
    assert re.search(r"^message +32\.0 MiB in [0-9.]+ s, hash right$", finished.stdout, re.MULTILINE)
    assert re.search(r"^growth +[0-9.]+ MiB, must be less than 4: holds$", finished.stdout, re.MULTILINE)


def test_the_exit_code_tells_when_it_does_not_hold() -> None:
    finished = run("memory.py", "--size", "1", "--most", "-1")
    assert finished.returncode == 1
    assert "must be less than -1: DOES NOT HOLD" in finished.stdout


@pytest.mark.program("postfix")
@pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts as root only")
def test_the_first_command_after_starttls_beside_postfix() -> None:
    # Not in tmp_path: Postfix's own user must be able to get there.
    with tempfile.TemporaryDirectory(prefix="trio-smtp-") as directory:
        Path(directory).chmod(0o755)
        finished = run("first_command.py", "--tries", "3", "--most", "10000", TMPDIR=directory)
        assert list(Path(directory).iterdir()) == []
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stdout
    row = r"^(trio_smtp|Postfix smtpd) +median +([0-9.]+) +least +([0-9.]+) +most +([0-9.]+)$"
    rows = re.findall(row, finished.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == ["trio_smtp", "Postfix smtpd"]
    assert all(0 < float(least) <= float(middle) <= float(most) for _, middle, least, most in rows)


def test_the_first_command_without_postfix_and_its_exit_code() -> None:
    finished = run("first_command.py", "--tries", "1", "--most", "0", PATH="")
    assert finished.returncode == 1
    assert finished.stderr == "Postfix smtpd is left out: it is not installed.\n"
    assert "must be less than 0 ms: DOES NOT HOLD" in finished.stdout


def run_one_case(directory: Path) -> subprocess.CompletedProcess[str]:
    return run(
        *("run.py", "--cases", "c", "--servers", "trio_smtp,smtp-server", "--rounds", "1", "--seconds", "0.2"),
        *("--output", str(directory)),
        PATH=str(directory),
    )


def test_a_run_writes_its_table_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    finished = run_one_case(tmp_path)
    assert finished.returncode == 0, finished.stderr
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    case, rate = (line.split(" | ") for line in page.splitlines() if re.search(r"\| (CPU µs|messages/s) \|", line))
    assert case[0] == "| c: 4 KiB, used again, pipelined"
    assert all(float(line[2].strip("≥ |").replace(",", "")) > 0 for line in (case, rate))
    assert "* smtp-server is left out: npm install smtp-server (NODE_PATH says where it is)." in page
    assert page.partition("-->\n")[2].rpartition("<!--")[0].strip() == finished.stdout.strip()


def test_the_case_of_its_own_has_a_table_that_says_what_a_250_means(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    finished = run(
        *("run.py", "--cases", "durable", "--rounds", "1", "--output", str(tmp_path)),
        *("--directory", str(tmp_path / "disk")),
        PATH=str(tmp_path),
    )
    assert finished.returncode == 0, finished.stderr
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert page.startswith("<!-- begin: durable -->\n\n| case | figure | trio_smtp |")
    figures = [line.split(" | ") for line in page.splitlines() if re.search(r"\| (messages/s|p99 ms|CPU µs) \|", line)]
    assert [cells[0].strip("| ") for cells in figures[::3]] == [
        f"{connections}: 4 KiB into a Maildir" for connections in ("1 connection", "20 connections", "100 connections")
    ]
    assert len(figures) == 9
    assert all(float(cells[2].strip(" |").replace(",", "")) > 0 for cells in figures)
    assert "* What a 250 of trio_smtp means: the file and its name in the Maildir are synced." in page
    assert list((tmp_path / "disk").iterdir()) == []


def test_what_stands_around_the_table_stays(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    begin, end = "<!-- begin: servers -->\n", "<!-- end: servers -->\n"
    page.write_text(f"# Head\n\n{begin}an old table\n{end}\nMore.\n", encoding="utf-8")
    assert run_one_case(tmp_path).returncode == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Head\n\n{begin}\n| case | figure | trio_smtp |\n")
    assert text.endswith(f"\n\n{end}\nMore.\n")
    assert "old" not in text


@pytest.mark.program("ps")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_what_a_run_started_ends_with_it(name: str, status: int) -> None:
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--cases", "b", "--servers", "trio_smtp", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "round 1 of 5 ...\n"  # the server is up
        children = list(children_of(process.pid))
        process.send_signal(getattr(signal, name))
        assert process.wait(30) == status
    assert children
    deadline = time.monotonic() + 30
    while any(runs(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def children_of(parent: int) -> Iterator[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, ppid = map(int, line.split())
        if ppid == parent:
            yield pid


class Counted:
    """An App that counts what it accepts, and refuses a message after so many."""

    def __init__(self, most: int = 1_000_000) -> None:
        self.app = App()
        self.sizes: list[int] = []

        @self.app.on_data
        async def count(ctx: DataContext) -> None:
            await ctx.stream.discard()
            if len(self.sizes) == most:
                ctx.reject("No more", 452)
            self.sizes.append(ctx.stream.byte_length)


async def load(port: int, *arguments: str) -> tuple[int, Any, str]:
    """Exit code, what was printed (read as JSON), and what was said of errors."""
    finished = await trio.run_process(
        [sys.executable, str(BENCHMARKS / "load.py"), str(port), "--pid", str(os.getpid()), *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return finished.returncode, json.loads(finished.stdout or "null"), finished.stderr.decode()


@pytest.mark.parametrize("kind", [[], ["--new"], ["--pipelined"], ["--bdat"], ["--new", "--starttls"]], ids=" ".join)
async def test_the_client_counts_the_messages_that_were_accepted(
    kind: list[str], certificate_files: CertificateFiles, ca_file: Path
) -> None:
    counted = Counted()
    if "--starttls" in kind:
        kind = [*kind, str(ca_file)]
    context = create_context(certificate_files.cert, certificate_files.key)
    async with serving(counted.app, ssl_context=context) as server:
        code, found, errors = await load(port_of(server), *kind, "--connections", "1", "--messages", "25")
    assert (code, errors) == (0, "")
    assert (found["messages"], found["octets"]) == (25, 25 * 4096)
    assert counted.sizes == [4096] * 25
    assert found["seconds"] > 0
    assert found["server_cpu"] > 0


async def test_the_client_tells_how_long_nearly_all_messages_took() -> None:
    app = App()

    @app.on_data
    async def wait(ctx: DataContext) -> None:
        await ctx.stream.discard()
        await trio.sleep(0.05)

    async with serving(app) as server:
        _, found, _ = await load(port_of(server), "--connections", "1", "--messages", "3")
    assert 0.05 <= found["latency_p99"] <= found["seconds"]


async def test_messages_of_the_warm_up_are_not_counted() -> None:
    counted = Counted()
    async with serving(counted.app) as server:
        _, found, _ = await load(port_of(server), "--warm-up", "0.05", "--connections", "1", "--messages", "5")
    assert found["messages"] == 5
    assert len(counted.sizes) > 5


async def test_dots_before_lines_are_doubled() -> None:
    counted = Counted()
    async with serving(counted.app) as server:
        _, found, _ = await load(port_of(server), "--dotted", "--size", "7600", "--connections", "1", "--messages", "1")
    assert found["octets"] == 7600
    assert counted.sizes == [7500]


async def test_a_refused_message_ends_the_client_and_is_not_counted() -> None:
    async with serving(Counted(most=3).app) as server:
        code, found, errors = await load(port_of(server), "--connections", "1", "--messages", "4")
    assert (code, found) == (1, None)
    assert errors == f"after b'{'x' * 40}': b'452 4.3.1 No more\\r\\n' is not what answers it\n"


async def test_a_lost_connection_ends_the_client() -> None:
    async def greet_and_leave(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"220 mx.example\r\n")
            await stream.receive_some()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet_and_leave, [listener])
        code, found, errors = await load(listener.socket.getsockname()[1], "--connections", "1")
        nursery.cancel_scope.cancel()
    assert (code, found) == (1, None)
    assert errors == "after b'EHLO load.example\\r\\n': the server closed the connection; b'' came before\n"


async def test_a_server_that_answers_too_little_ends_the_client() -> None:
    app = App()

    @app.on_data
    async def hang(_: DataContext) -> None:
        await trio.sleep_forever()

    async with serving(app) as server:
        code, found, errors = await load(port_of(server), "--seconds", "0", "--patience", "0.2")
    assert (code, found) == (1, None)
    assert errors == "the server answers too little: 0 messages until the time was up\n"


async def test_a_server_without_the_extension_is_told_apart_from_a_failure() -> None:
    async with serving(Counted().app, chunking=False) as server:
        assert await load(port_of(server), "--bdat") == (0, {"unsupported": "CHUNKING"}, "")


async def test_idle_connections_are_all_there() -> None:
    async with serving(Counted().app) as server:
        code, found, errors = await load(port_of(server), "--idle", "100")
        assert server.stats.connections_accepted == 100
    assert (code, errors) == (0, "")
    assert found["connections"] == 100


async def test_an_idle_connection_that_is_refused_ends_the_client() -> None:
    async with serving(Counted().app, Config(hostname="mx.example", max_connections=50)) as server:
        code, found, errors = await load(port_of(server), "--idle", "100")
    assert (code, found) == (1, None)
    assert "421" in errors
