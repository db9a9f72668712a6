"""`run`: programs in processes of their own, ended by real signals; and what it refuses."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_smtp import App, Config, Running, SMTPServer, run
from trio_smtp.server import running as module

from .support import logged
from .worker_support import Process, begin, connect, finish, python, send

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

#: A program with a lifespan; SETUP is what comes before `run`.
PROGRAM = """
import logging, trio
from trio_smtp import App, Config, run

app = App()

@app.lifespan
async def lifespan(running):
    print("entered", flush=True)
    ENTRY
    try:
        yield
    finally:
        print("left", flush=True)

@app.on_data
async def take(ctx):
    await ctx.stream.discard()

if __name__ == "__main__":
    SETUP
    code = run(app, Config(port=0), Config(port=0), started=lambda servers: print("started", len(servers)))
    print("code", code, flush=True)
"""


def program(directory: Path, *, entry: str = "pass", setup: str = "pass") -> None:
    (directory / "program.py").write_text(PROGRAM.replace("ENTRY", entry).replace("SETUP", setup))


def port_of(server: Process) -> int:
    return int(server.logged(r"INFO listening on 127\.0\.0\.1:\d+$").rpartition(":")[2])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_a_second_one_stops(number: int, tmp_path: Path) -> None:
    program(tmp_path)
    for signals, code in ((1, 0), (2, 128 + number)):
        with python(tmp_path, "program.py") as server:
            port, other = port_of(server), port_of(server)
            with connect(other) as client:
                send(client)
            with connect(port) as client:
                begin(client)
                server.signal(number)
                server.logged("INFO finishing what is under way")
                if signals == 2:
                    server.signal(number)
                    assert client.sock is not None
                    assert client.sock.recv(100) == b""
                    client.close()
                else:
                    finish(client)
                    assert client.getreply()[0] == 421
            assert server.wait() == 0
            assert server.rest_of_output() == ["entered", "started 2", "left", f"code {code}"]
            assert "Traceback" not in server.rest_of_log()


def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    program(tmp_path, entry="await trio.sleep_forever()")
    with python(tmp_path, "program.py") as server:
        server.line("entered")
        server.signal(signal.SIGINT)
        assert server.line("^code") == "code 130"
        assert server.wait() == 0
        assert "Traceback" not in server.rest_of_log()


def test_a_third_ctrl_c_does_not_wait_for_lifespans(tmp_path: Path) -> None:
    program(tmp_path)
    text = (tmp_path / "program.py").read_text()
    (tmp_path / "program.py").write_text(
        text.replace('print("left", flush=True)', 'print("leaving", flush=True); await trio.sleep(60)')
    )
    with python(tmp_path, "program.py") as server:
        port_of(server)
        server.signal(signal.SIGINT)
        server.line("leaving")
        server.signal(signal.SIGINT)
        time.sleep(0.5)  # two at once would be one
        server.signal(signal.SIGINT)
        assert re.fullmatch("code 130", server.line("^code"))
        assert "Traceback" not in server.rest_of_log()


def test_a_program_with_logging_of_its_own_keeps_it(tmp_path: Path) -> None:
    program(tmp_path, setup='logging.basicConfig(level=logging.INFO, format="mine %(message)s")')
    with python(tmp_path, "program.py") as server:
        server.logged("^mine listening on")
        server.signal()
        assert server.line("^code") == "code 0"


def test_the_readmes_first_app_says_where_it_listens(tmp_path: Path) -> None:
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "App()" in code]
    (tmp_path / "first.py").write_text(code.replace("port=2525", "port=0"))
    with python(tmp_path, "first.py") as server:
        port = port_of(server)
        with connect(port) as client:
            client.sendmail("a@example.org", "b@example.com", "Subject: hi\r\n\r\nhi\r\n")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert "Traceback" not in server.rest_of_log()
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1


# In this process


def test_only_in_the_main_thread() -> None:
    errors: list[str] = []

    def other() -> None:
        with pytest.raises(RuntimeError, match="main thread") as caught:
            run(App())
        errors.append(str(caught.value))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert errors != []


def test_an_address_in_use_comes_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        run(App(), Config(port=taken.getsockname()[1]))


def test_what_it_says(tmp_path: Path, caplog: pytest.LogCaptureFixture, server_ssl_context: Any) -> None:
    caplog.set_level(logging.INFO)
    seen: list[SMTPServer] = []

    def started(servers: list[SMTPServer]) -> None:
        seen.extend(servers)
        os.kill(os.getpid(), signal.SIGTERM)

    more: list[Config | tuple[App, Config]] = [
        Config(host="::1", port=0, ssl_context=server_ssl_context),
        (App(), Config(unix_path=str(tmp_path / "socket"))),
        Config(port=0, ssl_context=server_ssl_context, implicit_tls=True),
    ]
    assert run(App(), Config(port=0), *more, started=started) == 0
    places = [line for line in logged(caplog, logging.INFO) if line.startswith("listening")]
    assert [re.sub(r":\d+( |$)", r":PORT\1", place) for place in places] == [
        "listening on 127.0.0.1:PORT",
        "listening on [::1]:PORT (STARTTLS)",
        f"listening on {tmp_path / 'socket'}",
        "listening on 127.0.0.1:PORT (TLS)",
    ]
    assert len(seen) == 4


def test_signals_in_this_process() -> None:
    app = App()

    async def end() -> None:
        await trio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    @app.lifespan
    async def twice(running: Running) -> AsyncIterator[None]:
        running.nursery.start_soon(end)
        yield
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep(0.2)

    assert run(app, Config(port=0)) == 128 + signal.SIGTERM


def test_a_signal_before_anything_is_accepted_stops() -> None:
    app = App()

    @app.lifespan
    async def hangs(running: Running) -> AsyncIterator[None]:
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()
        yield  # type: ignore[unreachable]

    assert run(app, Config(port=0)) == 128 + signal.SIGTERM


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_the_log_is_as_it_was_afterwards(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.Logger("trio_smtp", level)  # noqa: LOG001 - one without handlers above it
    monkeypatch.setattr(module, "logger", logger)
    during: list[int] = []

    def started(servers: list[SMTPServer]) -> None:
        during.append(logger.level)
        for server in servers:
            server.drain()

    assert run(App(), Config(port=0), started=started) == 0
    assert during == [level or logging.INFO]
    assert (logger.level, logger.handlers) == (level, [])


def test_what_started_raises_comes_out() -> None:
    def started(_: object) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(App(), Config(port=0), started=started)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]), None),
    ],
)
def test_a_keyboard_interrupt_is_no_traceback(
    raised: BaseException, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise raised

    monkeypatch.setattr(trio, "run", interrupted)
    if code is not None:
        assert run(App()) == code
        return
    with pytest.raises(BaseExceptionGroup):
        run(App())


def test_serving_ends_when_all_servers_were_drained_by_the_program() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from trio_smtp import *; raise SystemExit(run(App(), Config(port=0), started=lambda s: s[0].drain()))",
        ],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
