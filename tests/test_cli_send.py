"""`trio-smtp send`: it sends a message, shows the dialogue, and keeps secrets to itself."""

from __future__ import annotations

import io
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client.support import Mailbox
from tests.client.test_client import picky
from tests.socket_support import port_of, serving
from trio_smtp import AuthContext, Config, PlainCredentials
from trio_smtp.cli import main


@contextmanager
def served(box: Mailbox, **fields: Any) -> Iterator[int]:
    """A server in a thread of its own: the command runs trio itself. Gives the port."""
    ready, port = threading.Event(), [0]
    ends: list[Callable[[], None]] = []

    async def serve() -> None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            ends.append(lambda: token.run_sync_soon(scope.cancel))
            async with serving(box.app, Config(hostname="mx.example", **fields)) as server:
                port[0] = port_of(server)
                ready.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(20)
        yield port[0]
    finally:
        ends[0]()
        thread.join(20)
    assert not thread.is_alive()


def test_a_message_is_made_and_the_dialogue_shown(capsys: pytest.CaptureFixture[str]) -> None:
    box = Mailbox()
    with served(box) as port:
        url = f"smtp://127.0.0.1:{port}"
        arguments = ["send", url, "--tls", "none", "--from", "a@example.org", "--ehlo", "me.example"]
        assert main([*arguments, "--to", "b@example.com", "--to", "c@example.com"]) == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        assert "<- 220 mx.example ESMTP" in shown.out
        assert "-> EHLO me.example" in shown.out
        assert "-> RCPT TO:<c@example.com>" in shown.out
        assert shown.out.endswith("-> QUIT\n<- 221 2.0.0 Bye\n")
        assert main([*arguments, "--to", "b@example.com", "--subject", "Grüße", "--body", "é", "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")
    first, second = box.messages
    assert b"Subject: A test\r\n" in first
    assert b"To: b@example.com, c@example.com\r\n" in first
    assert b"Sent by trio-smtp send.\r\n" in first
    assert b"=?utf-8?" in second


def test_a_message_from_a_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox()
    path = tmp_path / "message"
    path.write_bytes(b"Subject: file\n\n.\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Subject: stdin\n\n..\n")))
    with served(box) as port:
        arguments = ["send", f"smtp://127.0.0.1:{port}", "--tls", "none", "--to", "b@example.com"]
        assert main([*arguments, "--file", str(path), "--chunking"]) == 0
        assert main([*arguments, "--file", "-"]) == 0
    assert box.messages == [b"Subject: file\r\n\r\n.\r\n", b"Subject: stdin\r\n\r\n..\r\n"]
    assert str(box.taken[0][0].mail_from) == ""


def test_tls_and_a_password(
    server_ssl_context: ssl.SSLContext,
    ca_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = Mailbox()

    @box.app.on_auth
    async def check(ctx: AuthContext) -> None:
        assert isinstance(ctx.credentials, PlainCredentials)
        if not ctx.credentials.validate_password("secret"):
            ctx.reject()
        ctx.accept(ctx.credentials.username)

    password = tmp_path / "password"
    password.write_text("secret\nnot this\n")
    with served(box, ssl_context=server_ssl_context, auth_required=True, auth_mechanisms=("PLAIN", "LOGIN")) as port:
        arguments = ["send", f"smtp://localhost:{port}", "--to", "b@example.com", "--user", "alice"]
        trusting = [*arguments, "--ca", str(ca_file)]
        assert main([*trusting, "--password-file", str(password)]) == 0
        shown = capsys.readouterr().out
        assert "-> AUTH PLAIN (secret)\n<- 235" in shown
        assert "AGFsaWNl" not in shown
        monkeypatch.setattr("getpass.getpass", lambda _: "secret")
        assert main([*arguments, "--no-verify", "--auth", "LOGIN"]) == 0
        assert "-> AUTH LOGIN\n" in capsys.readouterr().out
        assert main(arguments) == 1
        assert "the certificate is not accepted" in capsys.readouterr().err
        monkeypatch.setattr("getpass.getpass", lambda _: "guess")
        assert main(trusting) == 1
        assert capsys.readouterr().err == "trio-smtp: auth: the server said 535 5.7.8\n"
        password.write_text("")
        assert main([*trusting, "--password-file", str(password)]) == 1
    assert len(box.messages) == 2


def test_a_recipient_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    box = Mailbox()
    picky(box)
    with served(box) as port:
        arguments = ["send", f"smtp://127.0.0.1:{port}", "--tls", "none", "--quiet", "--to", "nobody@example.com"]
        assert main([*arguments, "--to", "b@example.com"]) == 1
        assert capsys.readouterr().err == "trio-smtp: nobody@example.com was refused: 550 No such user\n"
        assert main(arguments) == 1
        assert capsys.readouterr().err == "trio-smtp: rcpt: the server said 550 5.1.1 No such user\n"
    assert len(box.messages) == 1


def test_a_server_without_starttls(capsys: pytest.CaptureFixture[str]) -> None:
    box = Mailbox()
    with served(box) as port:
        assert main(["send", f"smtp://127.0.0.1:{port}", "--quiet", "--to", "b@example.com"]) == 1
    error = "the server does not offer STARTTLS: --tls none sends without it, for everybody on the way to read"
    assert capsys.readouterr().err == f"trio-smtp: {error}\n"
    assert box.messages == []


URL = "smtp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        ([], 2, "required"),
        ([URL], 2, "--to"),
        (["nowhere", "--to", "b@example.com"], 2, "the URL of a server is"),
        ([URL, "--to", "b@example.com"], 1, "connect: "),
        ([URL, "--to", "b@example.com", "--auth", "PLAIN"], 2, "need --user"),
        ([URL, "--to", "b@example.com", "--file", "x", "--body", "y"], 2, "cannot stand beside --file"),
        ([URL, "--to", "b@example.com", "--file", "/nonexistent"], 1, "cannot read /nonexistent: No such file"),
        ([URL, "--to", "b@example.com", "--ca", "/nonexistent"], 1, "cannot use /nonexistent: No such file"),
        ([URL, "--to", "b@example.com", "--subject", "a\r\nb"], 2, "linefeed|line"),
        ([URL, "--to", "b@example.com", "--user", "a", "--password-file", "/nonexistent"], 1, "cannot read"),
        ([URL, "--to", "b@example.com", "--ehlo", "a b"], 2, "local_hostname"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], status: int, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["send", *arguments])
    except SystemExit as stopped:  # argparse's own
        code = stopped.code
    error = capsys.readouterr().err
    assert code == status
    assert [part for part in why.split("|") if part in error]
    assert "Traceback" not in error


@pytest.mark.parametrize("ending", [EOFError, KeyboardInterrupt])
def test_no_password_is_given(
    ending: type[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_: str) -> str:
        raise ending

    monkeypatch.setattr("getpass.getpass", ask)
    assert main(["send", URL, "--to", "b@example.com", "--user", "a"]) == 1
    assert capsys.readouterr().err == "trio-smtp: no password was given\n"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (ImportError("pip install"), 1)])
def test_what_ends_it_early(error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr("trio_smtp.cli.delivering.trio.run", run)
    assert main(["send", URL, "--to", "b@example.com"]) == status
