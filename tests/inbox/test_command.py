"""`trio-smtp inbox` as a process, its options, and the runner of the web server."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.password_support import CHEAP
from trio_smtp import App, Config, SMTPServer, serve
from trio_smtp.cli import main
from trio_smtp.inbox import Inbox
from trio_smtp.inbox import web as web_module
from trio_smtp.inbox.api.types import ASGIApp
from trio_smtp.inbox.web import bind, is_loopback, web

from .support import mail, put

ROOT = Path(__file__).parent.parent.parent


@attrs.frozen
class Process:
    """The command, listening."""

    process: subprocess.Popen[str]
    lines: list[str]
    smtp: int
    http: int

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def send(self, subject: str) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=10) as client:
            client.sendmail("alice@example.com", ["bob@example.com"], mail(subject))


@contextmanager
def running(*options: str) -> Iterator[Process]:
    """Run the command on free ports."""
    arguments = [sys.executable, "-m", "trio_smtp", "inbox", "--smtp", "0", "--http", "0", *options]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or not lines[-1].startswith("  "):
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr is not None else ""
                lines.append(line.rstrip("\n"))
            http = re.search(r"http://127\.0\.0\.1:(\d+)", lines[0])
            smtp = re.search(r"Listening on 127\.0\.0\.1:(\d+)", lines[1])
            assert http is not None
            assert smtp is not None
            yield Process(process, lines, int(smtp[1]), int(http[1]))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_from_the_first_line_to_the_first_message(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "mail.db"), "--webroot", "/mail", "--label", "mine") as inbox:
        assert inbox.lines[0] == f"Inbox on http://127.0.0.1:{inbox.http}/mail/ (messages in {tmp_path}/mail.db)"
        assert inbox.lines[2] == "Send a first message:"
        subprocess.run(inbox.lines[3], shell=True, check=True, timeout=30)
        (row,) = inbox.get("/mail/api/v1/messages")["messages"]
        assert (row["Subject"], row["Snippet"]) == ("Hello", "It works.")
        assert inbox.get("/api/v1/webui")["Label"] == "mine"
        with smtplib.SMTP("127.0.0.1", inbox.smtp, timeout=10) as client:
            client.login("joe", "whatever")
    with Inbox(tmp_path / "mail.db") as kept:
        assert kept.store.totals().total == 1


def test_tls_rules_and_users(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"joe:{CHEAP.hash('secret')}\n")
    options = ("--tls", "--fail", "rcpt to=eve@* fail 451", "--smtp-users", str(users), "--auth", str(users))
    with running(*options) as inbox, smtplib.SMTP("127.0.0.1", inbox.smtp, timeout=10) as client:
        assert inbox.lines[1].endswith("(STARTTLS)")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.starttls(context=context)
        client.ehlo()
        assert client.mail("a@example.com")[0] == 530
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("joe", "wrong")
        client.login("joe", "secret")
        client.mail("a@example.com")
        assert client.rcpt("eve@example.com")[0] == 451
        with pytest.raises(urllib.error.HTTPError, match="401"):
            inbox.get("/api/v1/messages")
        assert inbox.get("/api/v1/rules", authorization="Basic am9lOnNlY3JldA==")[0]["hits"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--smtp", "x"], 2, "'x' is not [HOST:]PORT"),
        (["--smtp", "65536"], 2, "is not [HOST:]PORT"),
        (
            ["--http", "0.0.0.0:8025"],
            2,
            "8025 can be reached from elsewhere: say --auth FILE, or --no-auth",
        ),
        (["--smtp", ":1025"], 2, "--smtp *:1025 can be reached from elsewhere"),
        (["--auth", "x", "--no-auth"], 2, "--auth contradicts --no-auth"),
        (["--auth", "/nowhere"], 1, "/nowhere: No such file or directory"),
        (["--smtp-users", "/nowhere"], 1, "/nowhere: No such file or directory"),
        (["--max-messages", "0"], 2, "max_messages must be at least 1"),
        (["--max-size", "1k"], 2, "max_size must be at least"),
        (["--max-size", "big"], 2, "'big' is not a size such as 512M"),
        (["--max-age", "old"], 2, "'old' is not an age such as 12h"),
        (["--fail", "nonsense"], 2, "--fail: act must be one of fail"),
        (["--relay", "http://x"], 2, "a relay is written"),
        (["--webroot", "mail"], 2, "root_path must look like"),
        (["--database", "/nowhere/mail.db"], 1, "cannot open the database"),
        (["--allow-host", "a b"], 2, "is no host name"),
    ],
)
def test_options_that_are_wrong(
    arguments: Sequence[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit) as _:
        assert main(["inbox", "--smtp", "0", "--http", "0", *arguments]) == status
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--http", "--smtp"):
            other = "--smtp" if option == "--http" else "--http"
            assert main(["inbox", option, str(port), other, "0", "--tls"]) == 1
            assert capsys.readouterr().err == f"trio-smtp: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("trio_smtp.inbox.api.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["inbox", "--smtp", "0", "--http", "0"]) == 1
    assert "pip install 'trio-smtp[inbox]'" in capsys.readouterr().err


def test_sizes_and_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    class Seen(Exception):
        pass

    def see(_: object, database: object, **options: Any) -> None:
        made.update(options)
        raise ValueError("seen")

    monkeypatch.setattr(Inbox, "__init__", see)
    assert main(["inbox", "--max-size", "2gb", "--max-age", "7d", "--no-auth", "--http", "[::]:0"]) == 2
    assert (made["max_size"], made["max_age"]) == (2 << 30, 604_800)


def test_where_a_server_listens_on_every_interface_the_line_names_one_that_works() -> None:
    with running("--http", "0.0.0.0:0", "--no-auth") as inbox:
        assert inbox.get("/api/v1/info")["Messages"] == 0


# The runner


def test_what_is_local() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "192.0.2.1", "mail.example.com")))


def test_all_addresses_of_a_name_have_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    sockets = bind("both", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    assert len(sockets) == 2
    port = sockets[0].getsockname()[1]
    found[:] = [(*each[:4], (each[4][0], port, *each[4][2:])) for each in found]
    with pytest.raises(OSError, match="in use"):
        bind("both", port)
    for sock in sockets:
        sock.close()


async def test_mail_goes_on_when_the_web_server_crashes(
    inbox: Inbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_module, "_FIRST_PAUSE", 0.05)
    app = App().use(inbox.capture())
    sockets = bind("127.0.0.1", 0)
    starts: list[int] = []
    up = trio.Event()

    async def crashing(application: ASGIApp, given: Sequence[socket.socket]) -> None:
        starts.append(len(starts))
        if len(starts) == 1:
            raise ZeroDivisionError
        if len(starts) == 2:
            return
        up.set()
        await web_module._hypercorn(application, given)  # noqa: SLF001 - the real one, after its crashes

    app.lifespan(web(inbox.asgi(), sockets, serve=crashing))
    async with trio.open_nursery() as nursery:
        server: SMTPServer = await nursery.start(serve, app, Config(port=0))

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", server.port or 0, timeout=10) as client:
                client.sendmail("alice@example.com", ["bob@example.com"], mail("Still"))

        await trio.to_thread.run_sync(send)
        with trio.fail_after(20):
            await up.wait()
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/api/v1/messages"

        def look() -> Any:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)

        assert (await trio.to_thread.run_sync(look))["messages"][0]["Subject"] == "Still"
        server.drain()
    assert "the web server has crashed" in caplog.text
    assert "the web server has ended by itself" in caplog.text
    assert sockets[0].fileno() == -1


async def test_a_server_that_lasted_is_started_again_soon(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, inbox: Inbox
) -> None:
    pauses: list[float] = []
    lasts = iter([0, 0, 100, 0])

    async def crashing(*_: object) -> None:
        pauses.append(trio.current_time())
        seconds = next(lasts, None)
        if seconds is None:
            await trio.sleep_forever()
        await trio.sleep(seconds or 0)
        raise ZeroDivisionError

    with trio.move_on_after(200):
        await web_module.serve_web(inbox.asgi(), [], crashing)
    gaps = [round(later - earlier, 3) for earlier, later in pairwise(pauses)]
    assert gaps == [0.5, 1.0, 102.0, 0.5]


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inbox", "--help"])
    shown = capsys.readouterr().out
    for option in ("--smtp", "--http", "--database", "--fail", "--relay", "--tls", "--webroot", "--allow-host"):
        assert option in shown


async def test_a_page_that_is_open_does_not_hold_the_end_up(inbox: Inbox) -> None:
    from .web_support import open_socket, open_web

    await trio.to_thread.run_sync(put, inbox)
    with trio.fail_after(10):
        async with open_web(inbox) as (port, _), open_socket(port) as socket_:
            await socket_.receive_type("stats")
