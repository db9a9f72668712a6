"""The command where standard streams are closed (``trio-smtp >&-``): it serves, and ends without a traceback."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from trio_smtp.cli import output

from .password_support import PASSWORD
from .worker_support import PATIENCE, ROOT

NAMES = ("stdin", "stdout", "stderr")
CLOSED = [closed for size in (1, 2, 3) for closed in itertools.combinations(range(3), size)]
by_closed = pytest.mark.parametrize("closed", CLOSED, ids=lambda closed: "-".join(NAMES[number] for number in closed))

#: An App that says in its reply what descriptors 0 to 2 are, and prints and logs in passing.
LOOKING_APP = """
import logging, os, sys
import trio_smtp

app = trio_smtp.App()

@app.on_data
async def take(ctx):
    await ctx.stream.discard()
    print("printed")
    sys.stderr.write("said")
    sys.stdin.read()
    logging.getLogger("app").error("logged")
    ctx.reply = trio_smtp.Reply(250, " ".join(os.readlink(f"/proc/self/fd/{n}") for n in range(3)))
"""


@contextmanager
def started(closed: tuple[int, ...], directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command with these descriptors closed; the others are pipes."""
    redirections = " ".join(f"{number}>&-" for number in closed)
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "trio_smtp", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def run(closed: tuple[int, ...], directory: Path, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with started(closed, directory, *arguments) as process:
        out, err = process.communicate(stdin, PATIENCE)
        return process.returncode, out, err


def connected(path: Path) -> socket.socket:
    """A connection to a server that is starting."""
    deadline = time.monotonic() + PATIENCE
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return client


def send_message(path: Path) -> str:
    """Send a message; gives the text of the reply to it."""
    with connected(path) as client, client.makefile("rwb") as stream:
        reply = line = stream.readline()
        for command in ("EHLO x", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA", "Hello\r\n.", "QUIT"):
            stream.write(command.encode() + b"\r\n")
            stream.flush()
            while (line := stream.readline())[3:4] == b"-":
                pass
            if command.startswith("Hello"):
                reply = line
        assert line.startswith(b"221")
    assert reply.startswith(b"250 "), reply
    return reply.decode().rstrip("\r\n")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at descriptors in /proc")
@pytest.mark.parametrize("workers", [1, 2])
@by_closed
def test_it_serves(closed: tuple[int, ...], workers: int, tmp_path: Path) -> None:
    (tmp_path / "looking_app.py").write_text(LOOKING_APP)
    arguments = ("looking_app:app", "--unix-path", "smtp.sock", "--workers", str(workers))
    with started(closed, tmp_path, *arguments) as process:
        assert process.stdin is not None
        process.stdin.close()  # the App reads to its end
        descriptors = send_message(tmp_path / "smtp.sock").split(" ")[-3:]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
    for number in range(3):
        assert descriptors[number].startswith("/dev/null" if number in closed else "pipe:")
    if 1 in closed:
        assert out == ""
    else:
        assert "Listening on " in out
        assert "printed\n" in out
    if 2 in closed:
        assert err == ""
    else:
        assert err.startswith("said")
        assert err.endswith("ERROR app: logged\n")
        assert "Traceback" not in err


@by_closed
def test_the_built_in_application_stores(closed: tuple[int, ...], tmp_path: Path) -> None:
    with started(closed, tmp_path, "--unix-path", "smtp.sock", "-vv") as process:
        assert "Queued as" in send_message(tmp_path / "smtp.sock")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--help"], (0, "usage: trio-smtp", ""), id="help"),
        pytest.param(["passwd", "--help"], (0, "usage: trio-smtp passwd", ""), id="help of passwd"),
        pytest.param(["--version"], (0, "trio-smtp ", ""), id="version"),
        pytest.param(["--nope"], (2, "", "trio-smtp: unrecognized arguments: --nope"), id="a mistake"),
        pytest.param(["nope"], (2, "", "trio-smtp: APP must be"), id="no App"),
        pytest.param(["--host", "a" * 70], (1, "", "trio-smtp: cannot listen on "), id="a host that is no name"),
        pytest.param(["passwd", "users"], (2, "", "trio-smtp passwd: "), id="a mistake of passwd"),
        pytest.param(["passwd", "users", "ali", "--delete"], (1, "", "trio-smtp: "), id="an unknown user"),
    ],
)
@by_closed
def test_what_ends_at_once(
    closed: tuple[int, ...], arguments: list[str], expected: tuple[int, str, str], tmp_path: Path
) -> None:
    code, out, err = expected
    ended, said, complained = run(closed, tmp_path, *arguments)
    assert ended == code
    assert said.startswith("" if 1 in closed else out)
    assert bool(said) is (bool(out) and 1 not in closed)
    assert complained.startswith("" if 2 in closed else err)
    assert complained.count("\n") == (bool(err) and 2 not in closed)


@by_closed
def test_a_password(closed: tuple[int, ...], tmp_path: Path) -> None:
    ended, said, complained = run(closed, tmp_path, "passwd", "users", "ali", stdin=f"{PASSWORD}\n")
    if 0 in closed:
        assert ended == 2
        assert not (tmp_path / "users").exists()
        assert complained == ("" if 2 in closed else "trio-smtp: a password is neither empty nor has it a NUL in it\n")
        return
    assert ended == 0
    assert (said, complained) == ("" if 1 in closed else "ali: added\n", "")
    assert PasswordHasher().verify((tmp_path / "users").read_text().strip().partition(":")[2], PASSWORD)


# In this process


def test_a_descriptor_that_is_closed_is_opened() -> None:
    before = os.dup(0)
    try:
        os.close(0)
        output.open_standard_streams()
        assert os.path.samestat(os.fstat(0), os.stat(os.devnull))  # noqa: PTH116 - a descriptor has no Path
        assert os.get_inheritable(0)
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_that_is_missing_or_closed_is_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    closed = os.fdopen(reader) if name == "stdin" else os.fdopen(writer, "w")
    closed.close()
    os.close(writer if name == "stdin" else reader)
    for stream in (None, closed):
        monkeypatch.setattr(sys, name, stream)
        output.open_standard_streams()
        replaced = getattr(sys, name)
        assert replaced not in (None, closed)
        assert replaced.fileno() > 2
        if name == "stdin":
            assert replaced.read() == ""
        else:
            output.say(replaced, "text")
        os.close(replaced.fileno())
        output.open_standard_streams()
        assert getattr(sys, name) is replaced
