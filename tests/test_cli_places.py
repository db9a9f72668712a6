"""Where the command's listeners listen: one place for each, and no place twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trio_smtp.cli import main
from trio_smtp.cli.configuration import load
from trio_smtp.cli.errors import CommandError
from trio_smtp.cli.options import make_single_config

TWICE = ": listeners 1 and 2 both listen on port 25: "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unix-path", "s", "--port", "25"], "port contradicts unix_path: one listener has one of them"),
        (["--host", "::1", "--unix-path", "s"], "host contradicts unix_path: one listener has one of them"),
        (["--unix-mode", "0999"], "argument --unix-mode: '0999' is not an octal number, as in 0660"),
        (["--unix-mode", "rw"], "argument --unix-mode: 'rw' is not an octal number, as in 0660"),
        (["--unix-mode", "1777"], "unix_mode must be "),
    ],
)
def test_options_that_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        code: object = main([*arguments, "--maildir", str(tmp_path)])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[[listen]]\nport = 25\nunix_path = 's'", ", listener 1: port contradicts unix_path"),
        ("unix_path = 's'\n[[listen]]\nhost = '::'", ", listener 1: host contradicts unix_path"),
        ("[[listen]]\nunix_mode = '0999'", ", listener 1: unix_mode must be an octal number, as in 0660, not '0999'"),
        ("[[listen]]\nport = 25\n[[listen]]\nport = 26\n[[listen]]\nport = 25", TWICE.replace("2", "3", 1)),
        ("host = 'none'\nport = 25\n[[listen]]\n[[listen]]\nhost = '::1'", TWICE),
        ("port = 25\n[[listen]]\nhost = '0.0.0.0'\n[[listen]]", TWICE),
        ("port = 25\n[[listen]]\nhost = '::1'\n[[listen]]\nhost = '::'", TWICE),
        (
            "[[listen]]\nunix_path = 's'\n[[listen]]\nunix_path = 's'",
            ": listeners 1 and 2 both listen on the Unix socket ",
        ),
    ],
)
def test_files_that_are_refused(toml: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "smtp.toml"
    file.write_text(toml)
    with pytest.raises(CommandError, match=re.escape(f"{file}{message}")):
        load(file)


@pytest.mark.parametrize(
    "toml",
    [
        "host = '::'\nport = 25\n[[listen]]\n[[listen]]\nunix_path = 's'",
        "[[listen]]\nport = 0\n[[listen]]\nport = 0",
        "port = 25\n[[listen]]\nhost = '0.0.0.0'\n[[listen]]\nhost = '::'",
        "port = 25\n[[listen]]\nhost = '192.0.2.1'\n[[listen]]\nhost = '192.0.2.2'",
        "[[listen]]\nport = 25\n[[listen]]\nport = 465",
        "[[listen]]\nunix_path = 's'\n[[listen]]\nunix_path = 't'",
        "[[listen]]\nport = 25\nunix_path = 'none'",
    ],
)
def test_files_whose_listeners_have_places_of_their_own(toml: str, tmp_path: Path) -> None:
    file = tmp_path / "smtp.toml"
    file.write_text(toml)
    assert len(load(file).listeners) == toml.count("[[listen]]")


def test_a_port_beside_no_unix_socket() -> None:
    config = make_single_config({"unix_path": None, "port": 25})
    assert config.port == 25
