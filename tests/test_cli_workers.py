"""The command's --workers, as far as this process can tell: the processes are in test_workers_real.py."""

from __future__ import annotations

import io
import logging
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from trio_smtp.cli import main
from trio_smtp.cli.errors import CommandError

from . import test_cli
from .supervisor_support import ENDS, FakeSystem
from .test_cli import assert_one_line

in_a_directory_of_its_own = test_cli.in_a_directory_of_its_own


class Ending(FakeSystem):
    """Workers that are numbers, and a signal that ends them as soon as they have begun."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.at(1, ENDS)
        for pid in range(1, workers + 1):
            self.dies(2, pid, 0)


def test_what_is_printed_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mail.toml").write_text(
        "workers = 3\nport = 0\n[[listen]]\nhostname = 'mx.example'\n[[listen]]\nlmtp = true\n"
    )
    system = Ending(3)
    assert main(["--config", "mail.toml"], system=system) == 0
    assert system.forks == [0, 0, 0]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"Storing messages in the Maildir {tmp_path / 'mail'} (3 workers)"
    ports = [re.fullmatch(r"Listening on 127\.0\.0\.1:(\d+)", line) for line in out[1:3]]
    assert all(port is not None and int(port[1]) > 0 for port in ports)
    assert out[3] == "Send a first message:"
    assert out[5:] == ["Finishing what is under way; a second signal stops at once."]


class Pieces(io.RawIOBase):
    """What is written, as the system sees it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.pieces.append(bytes(piece))
        return len(piece)


def test_lines_of_several_workers_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python writes what it is given at once where PYTHONUNBUFFERED is set."""
    raw = Pieces()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "utf-8", write_through=True))  # type: ignore[type-var]
    assert main(["--port", "0", "--workers", "2"], system=Ending(2)) == 0
    assert len(raw.pieces) == 4
    assert all(piece.endswith(b"\n") for piece in raw.pieces)


def test_lines_of_the_log_say_which_process(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    assert main(["--port", "0", "--workers", "2"], system=Ending(2)) == 0
    (handler,) = root.handlers
    record = logging.LogRecord("trio_smtp", logging.INFO, "", 0, "hello", None, None)
    assert f" {record.process} INFO trio_smtp: hello" in handler.format(record)


@pytest.mark.parametrize(
    ("given", "file", "number"),
    [
        pytest.param(None, None, 1, id="neither"),
        pytest.param(3, None, 3, id="the option"),
        pytest.param(None, "", 1, id="a file without"),
        pytest.param(None, "workers = 3", 3, id="a file"),
        pytest.param(2, "workers = 3", 2, id="the option counts for more"),
    ],
)
def test_how_many(
    given: int | None,
    file: str | None,
    number: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def serve(*_: object, **__: object) -> int:
        raise CommandError("one process")

    monkeypatch.setattr("trio_smtp.cli.command.serve_all", serve)
    arguments = [] if given is None else ["--workers", str(given)]
    if file is None:
        arguments += ["--port", "0"]
    else:
        Path("mail.toml").write_text(f"{file}\nport = 0\n[[listen]]\n")
        arguments += ["--config", "mail.toml"]
    system = Ending(number)
    assert main(arguments, system=system) == (2 if number == 1 else 0)
    assert len(system.forks) == (0 if number == 1 else number)
    assert ("one process" in capsys.readouterr().err) is (number == 1)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "", "none"])
def test_a_number_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    text_of_it = rf"argument --workers: {re.escape(repr(text))} is not a whole number of at least 1 "
    assert_one_line([f"--workers={text}"], 2, text_of_it, capsys)


@pytest.mark.parametrize("value", ["0", "'2'", "true", "1.5"])
def test_a_number_in_a_file_that_is_none(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mail.toml").write_text(f"workers = {value}\n[[listen]]\n")
    assert_one_line(["--config", "mail.toml"], 2, r"mail\.toml: workers must be a whole number of at least 1", capsys)


def test_workers_are_the_commands_and_not_a_listeners(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mail.toml").write_text("[[listen]]\nworkers = 2\n")
    assert_one_line(
        ["--config", "mail.toml"], 2, r"listener 1: workers is for all listeners: move it to the top", capsys
    )


def test_all_listeners_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        Path("mail.toml").write_text(f"workers = 2\n[[listen]]\nunix_path = 'first'\n[[listen]]\nport = {port}\n")
        assert_one_line(["--config", "mail.toml"], 1, f"cannot listen on 127.0.0.1:{port}: Address already in", capsys)
    assert not (tmp_path / "first").exists()


def test_a_host_that_is_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_line(["--workers", "2", "--host", "a" * 70], 1, r"cannot listen on a+:8025: ", capsys)
