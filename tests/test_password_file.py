"""Files of users and hashed passwords: the plugin that checks them."""

from __future__ import annotations

import base64
import logging
import os
import sys
import threading
from pathlib import Path

import pytest
import trio
from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import VerificationError

from tests.password_support import CHEAP, HASH, PASSWORD, app_with, log_in
from tests.sasl_support import b64, cram_md5
from tests.support import status
from trio_smtp import App, AuthContext, CramMD5Credentials
from trio_smtp.plugins import password_file
from trio_smtp.testing import open_client

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file with ali in it."""
    path = tmp_path / "users"
    path.write_text(f"# who may send\n\nali:{HASH}\n")
    return path


# The plugin


async def test_plain_and_login(users: Path) -> None:
    app = app_with(users)
    assert (await log_in(app, "ali", PASSWORD)).code == 235
    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        await client.command(f"AUTH LOGIN {b64('ali')}")
        assert (await client.command(b64(PASSWORD))).code == 235
        assert client.session.user == "ali"


@pytest.mark.parametrize(
    ("username", "password"),
    [("ali", "Barley-Open"), ("ali", PASSWORD + " "), ("ALI", PASSWORD), ("cassim", PASSWORD), ("# who", PASSWORD)],
)
async def test_anything_else_is_refused(users: Path, username: str, password: str) -> None:
    assert status(await log_in(app_with(users), username, password)) == (535, "5.7.8")


async def test_whom_one_acts_as(users: Path) -> None:
    users.write_text(f"ali:{HASH}\ncassim:{HASH}\n")
    app = app_with(users)
    assert (await log_in(app, "ali", PASSWORD, "ali")).code == 235
    assert (await log_in(app, "ali", PASSWORD, "cassim")).code == 535


@pytest.mark.parametrize("kind", [Type.ID, Type.I, Type.D])
async def test_every_kind_of_argon2(users: Path, kind: Type) -> None:
    users.write_text(f"ali:{PasswordHasher(1, 8, 1, type=kind).hash(PASSWORD)}")
    app = app_with(users)
    assert (await log_in(app, "ali", PASSWORD)).code == 235
    assert (await log_in(app, "ali", "Barley-Open")).code == 535


async def test_what_else_a_file_may_look_like(users: Path) -> None:
    users.write_bytes(f"\r\n  # Windows\r\n \t\r\n  b\xfclent@example.com:{HASH} \r\nali b:{HASH}".encode())
    app = app_with(users)
    assert (await log_in(app, "b\xfclent@example.com", PASSWORD)).code == 235
    assert (await log_in(app, "ali b", PASSWORD)).code == 235


async def test_other_mechanisms_are_for_other_handlers(users: Path) -> None:
    app = app_with(users)

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        if isinstance(ctx.credentials, CramMD5Credentials) and ctx.credentials.validate_password(PASSWORD):
            ctx.accept("by CRAM-MD5")

    async with open_client(app, allow_insecure_auth=True, auth_mechanisms=MECHANISMS) as client:
        await client.ehlo()
        challenge = await client.command("AUTH CRAM-MD5")
        reply = await client.command(cram_md5("nobody", PASSWORD, base64.b64decode(challenge.text)))
        assert reply.code == 235
        assert client.session.user == "by CRAM-MD5"
    assert (await log_in(app, "ali", PASSWORD)).code == 235


async def test_other_mechanisms_alone_are_refused(users: Path) -> None:
    async with open_client(app_with(users), allow_insecure_auth=True, auth_mechanisms=MECHANISMS) as client:
        await client.ehlo()
        challenge = await client.command("AUTH CRAM-MD5")
        reply = await client.command(cram_md5("ali", PASSWORD, base64.b64decode(challenge.text)))
        assert reply.code == 535


async def test_two_files_are_one_after_the_other(users: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.write_text(f"ali:{CHEAP.hash('another')}\nmorgiana:{HASH}\n")
    app = app_with(users, second)
    for username, password in (("ali", PASSWORD), ("ali", "another"), ("morgiana", PASSWORD)):
        assert (await log_in(app, username, password)).code == 235
    assert (await log_in(app, "morgiana", "another")).code == 535


async def test_what_was_accepted_stays_so(users: Path, verified: list[str]) -> None:
    app = App()

    @app.on_auth
    async def everybody(ctx: AuthContext) -> None:
        ctx.accept("a guest")

    app.use(password_file(users))
    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        assert (await client.auth_plain("ali", "Barley-Open")).code == 235
        assert client.session.user == "a guest"
    assert verified == []


# Time


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that were compared with."""
    hashes: list[str] = []
    verify = PasswordHasher.verify

    def note(self: PasswordHasher, hash: str, password: str) -> bool:  # noqa: A002 - argon2's name
        assert threading.current_thread() is not threading.main_thread()
        hashes.append(hash)
        return verify(self, hash, password)

    monkeypatch.setattr(PasswordHasher, "verify", note)
    return hashes


async def test_an_unknown_user_costs_the_same(users: Path, verified: list[str]) -> None:
    dear = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    users.write_text(f"a:{dear.hash('x')}\nali:{HASH}\nc:{CHEAP.hash('y')}\nd:{dear.hash('x')}\ne:{CHEAP.hash('z')}\n")
    app = app_with(users)
    for username, password in (("ali", PASSWORD), ("ali", "Barley-Open"), ("cassim", PASSWORD), ("baba", "x")):
        await log_in(app, username, password)
    assert verified[:2] == [HASH, HASH]
    assert len(verified) == 4
    for pretended in verified[2:]:
        assert pretended not in users.read_text()
        assert extract_parameters(pretended) == extract_parameters(HASH)


async def test_in_an_empty_file_everybody_is_unknown(users: Path, verified: list[str]) -> None:
    users.write_text("# nobody yet\n")
    assert (await log_in(app_with(users), "ali", PASSWORD)).code == 535
    (pretended,) = verified
    assert extract_parameters(pretended) == extract_parameters(PasswordHasher().hash(""))


async def test_so_many_hashes_at_a_time(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hash waits for a second one, and there is never a third."""
    two = threading.Barrier(2, timeout=30)
    lock = threading.Lock()
    running: list[int] = []
    most: list[int] = []

    def wait(self: PasswordHasher, hash: str, password: str) -> bool:  # noqa: A002 - argon2's name
        with lock:
            running.append(1)
            most.append(len(running))
        two.wait()
        with lock:
            running.pop()
        return True

    monkeypatch.setattr(PasswordHasher, "verify", wait)
    app = App().use(password_file(users, max_hashing=2))
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(log_in, app, "ali", PASSWORD)
    assert len(most) == 6
    assert max(most) == 2


async def test_a_hash_that_cannot_be_computed_is_no_verdict(
    users: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: PasswordHasher, hash: str, password: str) -> bool:  # noqa: A002 - argon2's name
        raise VerificationError("Memory allocation error")

    app = app_with(users)
    monkeypatch.setattr(PasswordHasher, "verify", fail)
    assert status(await log_in(app, "ali", PASSWORD)) == (454, "4.7.0")
    assert "Memory allocation error" in caplog.text


# Changes


async def test_a_change_is_seen(users: Path) -> None:
    app = app_with(users)
    assert (await log_in(app, "cassim", PASSWORD)).code == 535
    users.write_text(f"cassim:{HASH}\n# ali has left, and his line with him\n")
    assert (await log_in(app, "cassim", PASSWORD)).code == 235
    assert (await log_in(app, "ali", PASSWORD)).code == 535


async def test_a_file_in_the_place_of_another_is_seen(users: Path, tmp_path: Path) -> None:
    """Same size and same time."""
    app = app_with(users)
    before = users.stat()
    new = tmp_path / "new"
    new.write_text(users.read_text().replace("ali:", "ila:"))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(users)
    assert (users.stat().st_size, users.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert (await log_in(app, "ila", PASSWORD)).code == 235


async def test_an_unchanged_file_is_not_read_again(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_with(users)

    def fail(self: Path) -> bytes:
        raise AssertionError("read again")

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert (await log_in(app, "ali", PASSWORD)).code == 235


@pytest.mark.parametrize("gone", [False, True], ids=["broken", "gone"])
async def test_what_is_broken_or_gone_leaves_the_users(
    users: Path, gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with(users)
    if gone:
        users.unlink()
    else:
        users.write_text("ali: let me in\n")
    for _ in range(2):
        assert (await log_in(app, "ali", PASSWORD)).code == 235
    (record,) = [record for record in caplog.records if record.name == "trio_smtp.plugins.password_file"]
    assert record.levelno == logging.ERROR
    assert "the users read before stay in force: " in record.getMessage()
    assert str(users) in record.getMessage()
    users.write_text(f"cassim:{HASH}\n")
    assert (await log_in(app, "ali", PASSWORD)).code == 535
    assert (await log_in(app, "cassim", PASSWORD)).code == 235


async def test_the_directory_may_change_under_a_relative_path(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(users.parent)
    app = App().use(password_file("users"))
    monkeypatch.chdir("/")
    users.write_text(f"cassim:{HASH}\n")
    assert (await log_in(app, "cassim", PASSWORD)).code == 235


# What is wrong

MALFORMED = [
    pytest.param(b"ali", "not of the form user:hash", id="no colon"),
    pytest.param(f":{HASH}".encode(), "is no user name", id="no user"),
    pytest.param(f"ali :{HASH}".encode(), "is no user name", id="space"),
    pytest.param(f"a\x07li:{HASH}".encode(), "is no user name", id="control"),
    pytest.param(f"a\u2028li:{HASH}".encode(), "is no user name", id="a line separator"),
    pytest.param(b"\xffli:" + HASH.encode(), "not UTF-8", id="UTF-8"),
    pytest.param(b"ali:", "is no argon2 hash", id="no hash"),
    pytest.param(f"ali:{PASSWORD}".encode(), "is no argon2 hash", id="a password"),
    pytest.param(b"ali:$6$salt$cafe", "is no argon2 hash", id="another hash"),
    pytest.param(f"ali:{HASH}:more".encode(), "is no argon2 hash", id="more"),
    pytest.param(f"ali: {HASH}".encode(), "is no argon2 hash", id="a space before it"),
    pytest.param(f"ali:{HASH.replace('argon2id', 'argon2x')}".encode(), "is no argon2 hash", id="another kind"),
    pytest.param(f"ali:{HASH.rpartition('$')[0]}".encode(), "is no argon2 hash", id="cut short"),
    pytest.param(f"ali:{HASH}\nali:{HASH}".encode(), "'ali' has a line already", id="twice"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_a_malformed_line_is_named(users: Path, content: bytes, message: str) -> None:
    users.write_bytes(b"# first\n\n" + content + b"\n")
    line = 4 if "already" in message else 3
    with pytest.raises(ValueError, match=rf"^{users}, line {line}: .*{message}") as caught:
        password_file(users)
    assert PASSWORD not in str(caught.value)
    assert HASH not in str(caught.value)


def test_hashes_nobody_can_compute(users: Path) -> None:
    users.write_text(f"ali:{HASH.replace('t=1', 't=0')}\n")
    with pytest.raises(ValueError, match=rf"{users}: hashes cannot be computed with these parameters: "):
        password_file(users)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "nope")):
        password_file(tmp_path / "nope")


@pytest.mark.parametrize("most", [0, -1])
def test_no_hashing_at_all(users: Path, most: int) -> None:
    with pytest.raises(ValueError, match="max_hashing must be at least 1"):
        password_file(users, max_hashing=most)


def test_without_argon2_the_error_names_the_extra(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)
    with pytest.raises(ImportError, match=r"pip install 'trio-smtp\[argon2\]'"):
        password_file(users)
