"""A Maildir for each recipient, the names of their folders, and what is found out before mail comes in."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp import Address, App
from trio_smtp.delivery.maildir import folder_name, maildir, prepare
from trio_smtp.testing import open_client

from .maildir_support import (
    LARGE,
    MESSAGE,
    Patch,
    body_of,
    delivered_to,
    files,
    is_directory,
    is_file,
    messages_below,
    modes_below,
    send,
    small_disk,
)

# --- a Maildir for each recipient ---


def new_below(root: Path) -> dict[str, list[Path]]:
    """The messages of each recipient who has a folder."""
    return {folder.name: files(folder) for folder in root.iterdir()}


@pytest.mark.parametrize("message", [MESSAGE, LARGE], ids=["small", "large"])
async def test_each_recipient_has_a_file_that_names_no_other(tmp_path: Path, message: bytes) -> None:
    app = App().use(maildir(tmp_path / "mail", per_recipient=True))
    async with open_client(app) as client:
        await client.ehlo()
        reply = await send(client, message, "b@example.com", "c@example.org", "postmaster")
        assert reply.code == 250
    found = new_below(tmp_path / "mail")
    assert sorted(found) == ["b@example.com", "c@example.org", "postmaster"]
    paths = [path for (path,) in found.values()]
    assert {path.name.startswith(reply.text.removeprefix("Queued as ")) for path in paths} == {True}
    assert [body_of(path) for path in paths] == [message] * 3
    assert {name: delivered_to(path) for name, (path,) in found.items()} == {name: [name.encode()] for name in found}
    assert b"b@example.com" not in found["postmaster"][0].read_bytes()
    modes = modes_below(tmp_path)
    assert {mode for path, mode in modes.items() if path in paths} == {0o600}
    assert {mode for path, mode in modes.items() if path not in paths} == {0o700}


async def test_recipients_with_one_folder_get_one_copy(tmp_path: Path) -> None:
    app = App().use(maildir(tmp_path, per_recipient=True))
    async with open_client(app) as client:
        await client.ehlo()
        for _ in range(2):
            await send(client, MESSAGE, "b@example.com", "B@EXAMPLE.com", '"b"@example.com', "b@example.com")
    (both,) = new_below(tmp_path).values()
    assert [delivered_to(path) for path in both] == [[b"b@example.com", b"B@EXAMPLE.com", b'"b"@example.com']] * 2


async def test_a_hostile_recipient_stays_inside(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b" / "mail"
    app = App().use(maildir(root, per_recipient=True))
    recipients = ['"../../../x"@example.com', '".."@example.com', '"/etc/passwd"@example.com', '""@example.com']
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, MESSAGE, *recipients)).code == 250
    assert all(path.is_relative_to(root) for path in messages_below(tmp_path))
    assert {name: len(paths) for name, paths in new_below(root).items()} == {
        "%2e.%2f..%2f..%2fx@example.com": 1,
        "%2e.@example.com": 1,
        "%2fetc%2fpasswd@example.com": 1,
        "%@example.com": 1,
    }


async def test_every_copy_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    fsync = os.fsync

    def sync_and_note(file: int) -> None:
        sizes.append(os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr(os, "fsync", sync_and_note)
    app = App().use(maildir(tmp_path, per_recipient=True))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, LARGE, "b@example.com", "c@example.com")).code == 250
    one, other = (path for (path,) in new_below(tmp_path).values())
    assert body_of(one) == LARGE
    assert body_of(other) == LARGE
    assert sizes.count(one.stat().st_size) == 2
    assert stat.S_IMODE(other.stat().st_mode) == stat.S_IMODE(one.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("call", "code", "expected"),
    [
        ("open", errno.EACCES, (451, "4.3.0")),
        ("open", errno.ENOSPC, (452, "4.3.1")),
        ("rename", errno.EIO, (451, "4.3.0")),
        ("mkdir", errno.EDQUOT, (452, "4.3.1")),
    ],
)
async def test_all_recipients_get_the_message_or_none_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, expected: tuple[int, str]
) -> None:
    app = App().use(maildir(tmp_path, per_recipient=True))
    async with open_client(app) as client:
        await client.ehlo()
        Patch(monkeypatch, call).fail(code, lambda *args: "third@" in str(args[0]) + str(args[-1]))
        reply = await send(client, MESSAGE, "first@example.com", "second@example.com", "third@example.com")
        assert (reply.code, reply.enhanced) == expected
        assert messages_below(tmp_path) == []
        assert (await send(client, MESSAGE, "first@example.com", "second@example.com")).code == 250


async def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App().use(maildir(tmp_path, per_recipient=True))
    async with open_client(app) as client:
        await client.ehlo()
        # the first file is whole by then
        Patch(monkeypatch, "fsync").fail(errno.EIO, lambda file: is_file(file) and len(messages_below(tmp_path)) == 2)
        assert (await send(client, MESSAGE, "b@example.com", "c@example.com")).code == 451
    assert messages_below(tmp_path) == []


async def test_a_reader_that_is_quicker_than_a_failure_keeps_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = App().use(maildir(tmp_path, per_recipient=True))
    rename = os.rename

    def rename_and_read(source: str, target: str, *, dst_dir_fd: int) -> None:
        if "c@example.com" in source:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target, dst_dir_fd=dst_dir_fd)
        rename(f"../new/{target}", f"../cur/{target}:2,S", src_dir_fd=dst_dir_fd, dst_dir_fd=dst_dir_fd)

    async with open_client(app) as client:
        await client.ehlo()
        monkeypatch.setattr(os, "rename", rename_and_read)
        assert (await send(client, MESSAGE, "b@example.com", "c@example.com")).code == 451
    assert [path.parent.name for path in messages_below(tmp_path)] == ["cur"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "cannot store the message" in record.getMessage()


async def test_a_recipient_on_another_disk(tmp_path: Path) -> None:
    root = tmp_path / "mail"
    app = App().use(maildir(root, per_recipient=True))
    with small_disk(root / "c@example.com"):
        async with open_client(app) as client:
            await client.ehlo()
            assert (await send(client, MESSAGE, "b@example.com", "c@example.com")).code == 250
            reply = await send(client, LARGE, "b@example.com", "c@example.com")
            assert (reply.code, reply.enhanced) == (452, "4.3.1")
        found = new_below(root)
        (one,), (other,) = found["b@example.com"], found["c@example.com"]
        assert body_of(one) == body_of(other) == MESSAGE
        assert one.stat().st_dev != other.stat().st_dev


async def test_the_directory_of_folders_is_not_made_anew_either(tmp_path: Path) -> None:
    root = tmp_path / "mail"
    app = App().use(maildir(root, per_recipient=True))
    async with open_client(app) as client:
        await client.ehlo()
        root.rename(tmp_path / "unmounted")
        assert (await send(client)).code == 451
        assert not root.exists()


async def test_two_deliveries_may_make_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App().use(maildir(tmp_path, per_recipient=True))
    mkdir = os.mkdir

    def too_late(path: Path, mode: int) -> None:
        mkdir(path, mode)
        raise FileExistsError(errno.EEXIST, "File exists", str(path))

    async with open_client(app) as client:
        await client.ehlo()
        monkeypatch.setattr(os, "mkdir", too_late)
        assert (await send(client)).code == 250
    assert body_of(files(tmp_path / "b@example.com")[0]) == MESSAGE


async def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "b@example.com").touch()
    app = App().use(maildir(tmp_path, per_recipient=True))
    async with open_client(app) as client:
        await client.ehlo()
        reply = await send(client, MESSAGE, "a@example.com", "b@example.com")
        assert (reply.code, reply.enhanced) == (451, "4.3.0")
        assert files(tmp_path / "a@example.com") == []


# --- the names of folders ---


def address(local_part: str, domain: str = "example.com") -> Address:
    return Address(address=f"{local_part}@{domain}", local_part=local_part, domain=domain)


@pytest.mark.parametrize(
    ("local_part", "domain", "name"),
    [
        ("alice", "example.com", "alice@example.com"),
        ("Alice.B+tag-x_y", "example.com", "alice.b+tag-x_y@example.com"),
        ("postmaster", "", "postmaster"),
        ("PostMaster", "", "postmaster"),
        ('"alice"', "example.com", "alice@example.com"),
        (r'"a\lice"', "example.com", "alice@example.com"),
        (r'"a\"\\b"', "example.com", "a%22%5cb@example.com"),
        ('"a b"', "example.com", "a%20b@example.com"),
        ('"a@b"', "example.com", "a%40b@example.com"),
        ('"', "example.com", "%22@example.com"),
        ("", "", "%"),
        ('""', "example.com", "%@example.com"),
        ("%", "example.com", "%25@example.com"),
        (".", "", "%2e"),
        ("..", "", "%2e."),
        (".ssh", "example.com", "%2essh@example.com"),
        ("-rf", "example.com", "%2drf@example.com"),
        ("a/../b", "example.com", "a%2f..%2fb@example.com"),
        ("a\0b\n", "example.com", "a%00b%0a@example.com"),
        ("a\\b:c*~", "example.com", "a%5cb%3ac%2a%7e@example.com"),
        ("bücher", "bücher.example", "b%c3%bccher@b%c3%bccher.example"),
        ("BÜCHER", "example.com", "b%c3%9ccher@example.com"),
        ("\u212a", "example.com", "%e2%84%aa@example.com"),  # the sign for kelvin, not the letter
        ("\udc80", "example.com", "%ed%b2%80@example.com"),
        ("alice", "[IPv6:::1]", "alice@%5bipv6%3a%3a%3a1%5d"),
    ],
)
def test_the_name_of_a_folder(local_part: str, domain: str, name: str) -> None:
    assert folder_name(address(local_part, domain)) == name


def test_long_names_are_cut_and_still_differ() -> None:
    names = {folder_name(address("a" * length)) for length in range(180, 400)}
    assert len(names) == 220
    assert {len(name) for name in names} <= {*range(192, 201)}
    assert all(re.fullmatch(r"a+(@example\.com|~[0-9a-f]{64})", name) for name in names)


texts = st.text(st.one_of(st.characters(), st.sampled_from('./\\"@%~-\0aA')), max_size=300)


@given(texts, texts)
def test_a_folder_has_one_harmless_name(local_part: str, domain: str) -> None:
    name = folder_name(address(local_part, domain))
    assert re.fullmatch(r"[a-z0-9+_%][a-z0-9+_.%@~-]{0,199}", name) or re.fullmatch(r"@[a-z0-9+_.%-]{0,199}", name)


def mailbox(local_part: str, domain: str) -> tuple[bytes, bytes]:
    """What makes two mailboxes different, for local parts without quotes."""
    return tuple(part.encode("utf-8", "surrogatepass").lower() for part in (local_part, domain))  # type: ignore[return-value]


short = st.text(st.sampled_from("./%~-aA2eEé@"), max_size=5)


@given(short, short, short, short)
def test_two_mailboxes_share_no_folder(one: str, there: str, other: str, elsewhere: str) -> None:
    same_name = folder_name(address(one, there)) == folder_name(address(other, elsewhere))
    assert same_name == (mailbox(one, there) == mailbox(other, elsewhere))


# --- before mail comes in ---


@pytest.mark.parametrize("per_recipient", [False, True])
def test_preparing_makes_what_is_missing_and_leaves_nothing_else(tmp_path: Path, per_recipient: bool) -> None:
    root = tmp_path / "not" / "there" / "yet"
    for _ in range(2):
        prepare(str(root), per_recipient=per_recipient)
        below = [] if per_recipient else ["cur", "new", "tmp"]
        assert sorted(path.name for path in root.rglob("*")) == below
    assert set(modes_below(tmp_path).values()) == {0o700}


def test_preparing_completes_a_maildir(tmp_path: Path) -> None:
    for name in ("tmp", "new", "cur"):
        (tmp_path / "mail" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "mail" / name / "kept").touch()
        prepare(tmp_path / "mail")
    assert len(list((tmp_path / "mail").rglob("kept"))) == 3


def test_a_relative_path_is_bound_when_the_plugin_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    plugin = maildir("mail")
    monkeypatch.chdir(tmp_path / "elsewhere")
    App().use(plugin)
    assert files(tmp_path / "mail") == []


def test_the_plugin_finds_out_when_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / "mail").touch()
    plugin = maildir(tmp_path / "mail")
    with pytest.raises(OSError, match="cannot use the Maildir") as caught:
        App().use(plugin)
    assert caught.value.strerror == f"cannot use the Maildir '{tmp_path}/mail': Not a directory: {tmp_path}/mail"
    assert isinstance(caught.value, NotADirectoryError)


@pytest.mark.parametrize("per_recipient", [False, True])
def test_a_file_on_the_way(tmp_path: Path, per_recipient: bool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        prepare(tmp_path / "file" / "mail", per_recipient=per_recipient)
    assert caught.value.strerror == (f"cannot use the Maildir '{tmp_path}/file/mail': Not a directory: {tmp_path}/file")


@pytest.mark.parametrize("per_recipient", [False, True])
def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_recipient: bool
) -> None:
    prepare(tmp_path, per_recipient=per_recipient)
    Patch(monkeypatch, "open").fail(errno.EACCES, lambda path, flags, *_: flags & os.O_CREAT)
    with pytest.raises(PermissionError) as caught:
        prepare(tmp_path, per_recipient=per_recipient)
    assert caught.value.strerror == f"cannot use the Maildir '{tmp_path}': Permission denied"


def test_a_disk_that_cannot_sync_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Patch(monkeypatch, "fsync").fail(errno.EIO, is_directory)
    with pytest.raises(OSError, match="cannot use the Maildir"):
        prepare(tmp_path / "mail")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        prepare(tmp_path / "mail")


@pytest.mark.parametrize("path", ["", "a\0b"])
@pytest.mark.parametrize(("function", "name"), [(maildir, "root"), (prepare, "path")])
def test_a_path_that_is_none(function: Any, name: str, path: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be the path of a directory, not "):
        function(path)
