"""`trio-smtp sendmail`: what programs that know sendmail's command line send, comes to the inbox."""

from __future__ import annotations

import getpass
import io
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.client.support import Mailbox
from tests.client.test_client import picky
from tests.test_cli_send import served
from trio_smtp.cli import main
from trio_smtp.cli.places import place

MESSAGE = (
    b"From: app@example.org\nTo: Bob <b@example.com>, c@example.com\nBcc: d@example.com,\n e@example.com\nSubject: Hi\n"
    b"\nBcc: text\n.\nend\n"
)


def send(monkeypatch: pytest.MonkeyPatch, port: int, *arguments: str, message: bytes = MESSAGE) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(message)))
    return main(["sendmail", "--smtp", str(port), *arguments])


def envelope(box: Mailbox) -> tuple[str, list[str]]:
    """The sender and the recipients of the one message."""
    ((taken, _),) = box.taken
    return str(taken.mail_from), [str(recipient) for recipient in taken.rcpt_to]


def test_fields_name_the_recipients_and_bcc_is_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box = Mailbox()
    with served(box) as port:
        assert send(monkeypatch, port, "-t", "-i", "-f", "bounces@example.org") == 0
    assert envelope(box) == (
        "bounces@example.org",
        ["b@example.com", "c@example.com", "d@example.com", "e@example.com"],
    )
    header = b"From: app@example.org\r\nTo: Bob <b@example.com>, c@example.com\r\nSubject: Hi\r\n"
    assert box.messages == [header + b"\r\nBcc: text\r\n.\r\nend\r\n"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "recipients"),
    [
        (["b@example.com"], ["b@example.com"]),
        (["-oi", "-F", "A name", "-bm", "--", "b@example.com", "c@example.com"], ["b@example.com", "c@example.com"]),
        (
            ["-t", "c@example.com", "x@example.com"],
            ["c@example.com", "x@example.com", "b@example.com", "d@example.com", "e@example.com"],
        ),
    ],
)
def test_arguments_are_those_of_sendmail(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], recipients: list[str]
) -> None:
    box = Mailbox()
    monkeypatch.setattr(getpass, "getuser", lambda: "app")
    monkeypatch.setattr(socket, "gethostname", lambda: "web.example")
    with served(box) as port:
        assert send(monkeypatch, port, *arguments) == 0
    assert envelope(box) == ("app@web.example", recipients)


def test_a_user_without_a_name_and_the_dialogue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown() -> str:
        raise KeyError

    box = Mailbox()
    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(socket, "gethostname", lambda: "web.example")
    with served(box) as port:
        assert send(monkeypatch, port, "-v", "b@example.com", message=b"no header section\n") == 0
    assert "MAIL FROM:<nobody@web.example>" in capsys.readouterr().err
    assert box.messages == [b"no header section\r\n"]


def test_names_of_users_are_addresses_on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox()
    monkeypatch.setattr(socket, "gethostname", lambda: "web.example")
    with served(box) as port:  # as cron calls it
        arguments = ["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "-f", "root", "-t", "alice"]
        assert send(monkeypatch, port, *arguments, message=b"To: root, b@example.com\nSubject: x\n\n") == 0
    assert envelope(box) == ("root@web.example", ["alice@web.example", "root@web.example", "b@example.com"])


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (b"Bcc: a@example.com\nSubject: x\n", b"Subject: x\r\n"),  # no body
        (b"To: b@example.com\nBCC : a@example.com\n\tand more\n\n", b"To: b@example.com\r\n\r\n"),
        (b"To: b@example.com\n folded\nBcc: a@example.com\n", b"To: b@example.com\r\n folded\r\n"),
        (
            b"To: b@example.com\nnot a field\nBcc: a@example.com\n",
            b"To: b@example.com\r\nnot a field\r\nBcc: a@example.com\r\n",
        ),
    ],
)
def test_only_bcc_fields_are_removed(monkeypatch: pytest.MonkeyPatch, message: bytes, kept: bytes) -> None:
    box = Mailbox()
    with served(box) as port:
        assert send(monkeypatch, port, "-t", "b@example.com", "-f", "<>", message=message) == 0
    assert box.messages == [kept]
    assert envelope(box)[0] == ""


def test_a_recipient_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    box = Mailbox()
    picky(box)
    with served(box) as port:
        assert send(monkeypatch, port, "b@example.com", "nobody@example.com") == 1
    assert "nobody@example.com was refused: 550" in capsys.readouterr().err


def broken(*_: object) -> Any:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ([], 2, "no recipient: name some, or have -t take them from the fields To, Cc and Bcc"),
        (["-t"], 2, "no recipient"),
        (["--smtp", "0", "b@example.com"], 1, "127.0.0.1"),
        (["--smtp", "[::1]:0", "b@example.com"], 1, "::1"),
        (["not an address"], 2, "not an address"),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    line: str,
) -> None:
    with served(Mailbox()) as port:
        assert send(monkeypatch, port, *arguments, message=b"Subject: x\n\n") == status
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("\n") == 1


def test_standard_input_cannot_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(closed=False, buffer=SimpleNamespace(read=broken)))
    assert main(["sendmail", "b@example.com"]) == 1
    assert capsys.readouterr().err == "trio-smtp: cannot read standard input: Input/output error\n"


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("trio.run", interrupt)
    assert send(monkeypatch, 1025, "b@example.com") == 130


def test_places() -> None:
    assert place("25") == ("127.0.0.1", 25)
    assert place("[::1]:25") == ("::1", 25)
    assert place("mx.example:25") == ("mx.example", 25)
