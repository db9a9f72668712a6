"""`trio-smtp passwd`: it makes and edits files of users and hashed passwords."""

from __future__ import annotations

import io
import os
import pty
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from tests.password_support import CHEAP, HASH, PASSWORD, app_with, log_in
from trio_smtp.cli import main
from trio_smtp.cli.errors import reported
from trio_smtp.cli.passwd import passwd as edit


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file with ali in it."""
    path = tmp_path / "users"
    path.write_text(f"# who may send\n\nali:{HASH}\n")
    return path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Passwd = Callable[..., int]


@pytest.fixture
def passwd(monkeypatch: pytest.MonkeyPatch) -> Passwd:
    """Run `trio-smtp passwd` with a standard input; gives the exit code."""

    def run(*arguments: object, stdin: str | bytes = f"{PASSWORD}\n") -> int:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        return reported(lambda: edit([*map(str, arguments)], hasher=lambda: CHEAP))

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_command_makes_a_file(passwd: Passwd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = tmp_path / "users"
    old = os.umask(0)
    try:
        assert passwd(users, "ali@example.com") == 0
    finally:
        os.umask(old)
    assert capsys.readouterr().out == "ali@example.com: added\n"
    assert mode(users) == 0o600
    assert users.read_text().startswith("ali@example.com:$argon2id$v=19$")
    assert users.read_text().count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["users"]
    assert (await log_in(app_with(users), "ali@example.com", PASSWORD)).code == 235


async def test_the_command_sets_a_new_password(passwd: Passwd, users: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = app_with(users)
    assert passwd(users, "ali", stdin="another\r\nnext line\n") == 0
    assert capsys.readouterr().out == "ali: changed\n"
    assert (await log_in(app, "ali", PASSWORD)).code == 535
    assert (await log_in(app, "ali", "another")).code == 235


def test_other_lines_stay_as_they_are(passwd: Passwd, users: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = f"# ali:\r\n\n  al:{HASH}\r\n ali:{HASH}\n\nalibaba:{HASH}".encode()
    users.write_bytes(before)
    assert passwd(users, "ali") == 0
    lines = users.read_bytes().split(b"\n")
    old = before.split(b"\n")
    assert lines[3].startswith(b"ali:$argon2id$")
    assert (lines[:3], lines[4:]) == (old[:3], [*old[4:], b""])
    assert passwd(users, "cassim") == 0
    assert users.read_bytes().split(b"\n")[6].startswith(b"cassim:$argon2id$")
    assert passwd(users, "ali", "--delete", stdin="") == 0
    assert passwd("--delete", users, "cassim", stdin="") == 0
    assert users.read_bytes().split(b"\n") == [*old[:3], *old[4:], b""]
    assert capsys.readouterr().out == "ali: changed\ncassim: added\nali: deleted\ncassim: deleted\n"


def test_the_last_user_may_leave(passwd: Passwd, users: Path) -> None:
    users.write_text(f"ali:{HASH}\n")
    assert passwd(users, "ali", "--delete") == 0
    assert users.read_bytes() == b""
    assert passwd(users, "ali") == 0
    assert users.read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o644, 0o640), (0o666, 0o640), (0o400, 0o600)]
)
def test_nobody_gets_to_read_it_who_could_not(passwd: Passwd, users: Path, before: int, after: int) -> None:
    users.chmod(before)
    assert passwd(users, "ali") == 0
    assert mode(users) == after


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_whose_it_was_it_stays(passwd: Passwd, users: Path) -> None:
    os.chown(users, 12345, 54321)
    assert passwd(users, "ali") == 0
    assert (users.stat().st_uid, users.stat().st_gid) == (12345, 54321)


def test_a_link_stays_a_link(passwd: Passwd, users: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(users)
    assert passwd(link, "cassim") == 0
    assert link.is_symlink()
    assert "cassim:" in users.read_text()
    assert [path.name for path in link.parent.iterdir()] == ["link"]


def test_edits_at_the_same_time_wait_for_each_other(passwd: Passwd, users: Path) -> None:
    codes: list[int] = []

    def edit(name: str) -> None:
        codes.append(main(["passwd", str(users), name]))

    passwd(users, "first")
    names = [f"user{number}" for number in range(8)]
    # One line of standard input each.
    sys.stdin = io.StringIO(f"{PASSWORD}\n" * len(names))
    threads = [threading.Thread(target=edit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert codes == [0] * len(names)
    found = [line.partition(":")[0] for line in users.read_text().splitlines()[2:]]
    assert sorted(found) == sorted(["ali", "first", *names])


def test_a_write_that_fails_changes_nothing(
    passwd: Passwd, users: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = users.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert passwd(users, "ali") == 1
    assert capsys.readouterr().err == f"trio-smtp: cannot change {users}: No space left on device\n"
    assert users.read_bytes() == before
    assert [path.name for path in users.parent.iterdir()] == ["users"]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "a password is neither empty nor has it a NUL in it"),
        ("\n", "a password is neither empty nor has it a NUL in it"),
        ("\r\n", "a password is neither empty nor has it a NUL in it"),
        ("a\0b\n", "a password is neither empty nor has it a NUL in it"),
        (b"\xff\n", "the password is not in the terminal's encoding"),
    ],
)
def test_passwords_that_are_none(
    passwd: Passwd, tmp_path: Path, stdin: str | bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert passwd(tmp_path / "users", "ali", stdin=stdin) == 2
    assert capsys.readouterr().err == f"trio-smtp: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_password_that_was_no_text_to_begin_with(
    passwd: Passwd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In some locales what cannot be decoded is smuggled through."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("p\udcffw\n"))
    assert main(["passwd", str(tmp_path / "users"), "ali"]) == 2
    assert capsys.readouterr().err == "trio-smtp: the password is not in the terminal's encoding\n"


@pytest.mark.parametrize("name", ["", "a:b", "#ali", " ali", "ali ", "a\nb", "a\tb", "a\u200bb", "a\x7fb"])
def test_names_that_are_none(passwd: Passwd, users: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert passwd(users, name) == 2
    assert passwd(users, name, "--delete") == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith(f"trio-smtp: {name!a} is no user name: ")


def test_a_malformed_file_is_left_alone(passwd: Passwd, users: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users.write_text(f"ali:{HASH}\nnonsense\n")
    assert passwd(users, "ali") == 2
    assert capsys.readouterr().err == f"trio-smtp: {users}, line 2: not of the form user:hash\n"
    assert users.read_text().endswith("nonsense\n")


def test_files_that_cannot_be_changed(passwd: Passwd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert passwd(tmp_path / "no" / "users", "ali") == 1
    assert passwd(tmp_path, "ali") == 1
    assert passwd(tmp_path / "users", "ali", "--delete") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"trio-smtp: cannot change {tmp_path}/no/users: No such file or directory",
        f"trio-smtp: cannot change {tmp_path}: Is a directory",
        f"trio-smtp: {tmp_path}/users: there is no user ali",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["users"], ["users", "ali", "more"], ["users", "ali", "--remove"]])
def test_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["passwd", *arguments])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trio-smtp passwd: ")


def test_the_command_without_argon2(
    users: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n"))
    assert main(["passwd", str(users), "ali"]) == 1
    assert "pip install 'trio-smtp[argon2]'" in capsys.readouterr().err


# On a terminal


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        pytest.param([PASSWORD, PASSWORD], (0, ""), id="the same"),
        pytest.param([PASSWORD, "Barley-Open"], (2, "trio-smtp: the two passwords differ\n"), id="another"),
        pytest.param([EOFError()], (1, "trio-smtp: no password was given\n"), id="end of file"),
        pytest.param([PASSWORD, KeyboardInterrupt()], (1, "trio-smtp: no password was given\n"), id="interrupt"),
    ],
)
def test_it_asks_twice(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[Any],
    outcome: tuple[int, str],
) -> None:
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        answer = answers[len(prompts) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", ask)
    assert (main(["passwd", str(tmp_path / "users"), "ali"]), capsys.readouterr().err) == outcome
    assert prompts == ["New password for ali: ", "The same again: "][: len(answers)]
    assert (tmp_path / "users").exists() is (outcome[0] == 0)


def test_on_a_real_terminal_nothing_is_shown(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_smtp", "passwd", str(tmp_path / "users"), "ali"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        for question in (b"New password for ali: ", b"The same again: "):
            while not shown.endswith(question):
                shown += os.read(ours, 1000)
            os.write(ours, f"{PASSWORD}\n".encode())
        while b"ali: added" not in shown:
            shown += os.read(ours, 1000)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert PASSWORD.encode() not in shown
    (line,) = (tmp_path / "users").read_text().splitlines()
    assert PasswordHasher().verify(line.partition(":")[2], PASSWORD)
