"""The command and its service manager: what it tells, when, and what it does with a manager that is not there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_smtp.cli import service_manager
from trio_smtp.cli.service_manager import ManagedSystem, keep_telling, tell, tell_ready, tell_reloading, tell_stopping

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "packaging" / "systemd" / "trio-smtp.service"
PATIENCE = 30.0


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(PATIENCE)
        yield sock


def heard(sock: socket.socket) -> list[str]:
    """What was told until now, except signs of life."""
    sock.setblocking(False)
    told = []
    try:
        while True:
            told.append(sock.recv(4096).decode())
    except BlockingIOError:
        return told


def next_but_life(sock: socket.socket) -> str:
    while (told := sock.recv(4096).decode()) == "WATCHDOG=1":
        pass
    return told


ABSTRACT = pytest.param("@trio-smtp-test-{}", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux has it"))


@pytest.mark.parametrize("name", ["notify", ABSTRACT])
def test_what_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = name.format(os.getpid()) if name.startswith("@") else str(tmp_path / name)
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    with manager("\0" + place[1:] if place.startswith("@") else place) as sock:
        tell_ready()
        tell_ready("Serving")
        tell_reloading()
        tell_stopping()
        told = heard(sock)
    assert [re.sub(r"\d{4,}", "N", each) for each in told] == [
        "READY=1",
        "READY=1\nSTATUS=Serving",
        "RELOADING=1\nMONOTONIC_USEC=N",
        "STOPPING=1\nSTATUS=Finishing what is under way",
    ]


@pytest.mark.parametrize("place", [None, "", "missing", "x" * 200])
def test_a_manager_that_is_not_there(
    place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if place is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / place) if place else "")
    tell("READY=1")
    assert len(caplog.messages) == (1 if place else 0)
    assert all(message.startswith("cannot tell the service manager READY=1: ") for message in caplog.messages)


@pytest.mark.parametrize(
    ("microseconds", "pid", "expected"),
    [
        ("20000000", None, 10.0),
        ("20000000", "own", 10.0),
        ("20000000", "1", None),
        (None, None, None),
        ("", None, None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("9" * 30, None, None),
        ("²", None, None),
    ],
)
async def test_signs_of_life(
    microseconds: str | None,
    pid: str | None,
    expected: float | None,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "WATCHDOG_USEC": microseconds,
        "WATCHDOG_PID": str(os.getpid()) if pid == "own" else pid,
    }.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    moments: list[float] = []
    monkeypatch.setattr(service_manager, "tell", lambda line: moments.append(trio.current_time()))
    began = trio.current_time()
    with trio.move_on_after(25):
        await keep_telling()
    assert [moment - began for moment in moments] == ([] if expected is None else [0.0, expected, 2 * expected])


def test_the_supervisor_gives_signs_of_life_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(service_manager, "tell", lambda *lines: told.append(lines[0]))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    with ManagedSystem(hangups=True) as system:
        assert system.wait(None) == b""
        assert system.wait(0.001) == b""
        assert told == ["WATCHDOG=1"] * 2
        monkeypatch.delenv("WATCHDOG_USEC")
        os.kill(os.getpid(), signal.SIGHUP)
        assert system.wait(None) == bytes([signal.SIGHUP])
        assert told[2:] == ["RELOADING=1", "READY=1"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_whole_life_of_a_service(workers: str, tmp_path: Path) -> None:
    place = str(tmp_path / "notify")
    command = [sys.executable, "-m", "trio_smtp", "--port", "0", "--host", "127.0.0.1", "--workers", workers]
    command += ["--maildir", str(tmp_path / "mail")]
    environment = os.environ | {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "200000", "PYTHONPATH": str(ROOT)}
    with (
        manager(place) as sock,
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process,
    ):
        try:
            assert next_but_life(sock).startswith("READY=1\nSTATUS=Storing messages in the Maildir ")
            for _ in range(3):
                assert sock.recv(4096) == b"WATCHDOG=1"
            process.send_signal(signal.SIGHUP)
            assert next_but_life(sock).startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert next_but_life(sock) == "READY=1"
            process.send_signal(signal.SIGTERM)
            assert next_but_life(sock).startswith("STOPPING=1\n")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.program("systemd-analyze")
@pytest.mark.parametrize("names", [["trio-smtp.service"], ["trio-smtp.socket", "trio-smtp-socket.service"]])
def test_the_unit_files_are_some(names: list[str], tmp_path: Path) -> None:
    units = [tmp_path / name for name in names]
    for unit in units:
        # The programs that it names need not be installed here.
        text = (SERVICE.parent / unit.name).read_text("utf-8").replace("/usr/bin/trio-smtp", "/bin/true")
        unit.write_text(text, "utf-8")
    finished = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_service_manager_waits_as_long_as_the_docs_say() -> None:
    docs = (ROOT / "docs" / "operations.md").read_text("utf-8")
    units = [unit.read_text("utf-8") for unit in SERVICE.parent.glob("*.service")]
    (stop,) = set(re.findall(r"^TimeoutStopSec=\d+$", "\n".join([docs, *units]), re.MULTILINE))
    assert stop == "TimeoutStopSec=135"


def test_the_steps_of_the_dockerfile(tmp_path: Path) -> None:
    """It holds without Docker too: its file serves, the health check answers, and the drain is short."""
    lines = (ROOT / "packaging" / "docker" / "Dockerfile").read_text("utf-8").splitlines()
    steps = dict(line.split(" ", 1) for line in lines if line[:1].isupper())
    assert steps["STOPSIGNAL"] == "SIGTERM"
    assert steps["USER"] == "trio-smtp"
    image = (ROOT / "packaging" / "docker" / "server.toml").read_text("utf-8")
    fields = tomllib.loads(image)
    assert steps["EXPOSE"] == str(fields["listen"][0]["port"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = tmp_path / "server.toml"
    own.write_text(image.replace("2525", str(port)).replace("/var/lib/trio-smtp", str(tmp_path)), "utf-8")
    run = [sys.executable, "-m", "trio_smtp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # Docker gives no terminal: nothing to read, and pipes to write to.
    with subprocess.Popen(
        [*run, "--config", str(own)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            check = steps["HEALTHCHECK"].partition("CMD ")[2]
            assert check == '["trio-smtp", "check", "127.0.0.1:2525"]'
            while subprocess.run(
                [*run, "check", f"127.0.0.1:{port}"],
                check=False,
                env=environment,
                capture_output=True,
                timeout=PATIENCE,
            ).returncode:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(9) == 0  # Docker kills after ten seconds
        finally:
            process.kill()
            process.communicate()
