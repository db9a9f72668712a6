"""Maildirs that the application chooses: by a function that is asked at RCPT, or in a handler of its own."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from trio_smtp import Address, App, DataContext, RcptToContext
from trio_smtp.delivery import maildir as maildir_module
from trio_smtp.delivery.maildir import deliver, maildir
from trio_smtp.testing import open_client

from .maildir_support import LARGE, MESSAGE, Patch, body_of, delivered_to, files, messages_below, send

Answer = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None


class Asked:
    """Gives folders by the local part, and notes what it was asked."""

    def __init__(self, **folders: Answer) -> None:
        self.folders = folders
        self.questions: list[tuple[str, str]] = []

    async def __call__(self, recipient: Address, ctx: RcptToContext | DataContext) -> Answer:
        self.questions.append((recipient.address, type(ctx).__name__))
        return self.folders.get(recipient.local_part)


# --- a function that is asked ---


async def test_a_function_says_where_messages_go_and_who_is_no_recipient(tmp_path: Path) -> None:
    folder = Asked(a="one", b=Path("two"), c=["one", "three", "one"], d=[], e=str(tmp_path / "elsewhere"))
    app = App().use(maildir(tmp_path / "mail", folder=folder))
    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        for local_part in "abcdex":
            reply = await client.command(f"RCPT TO:<{local_part}@example.com>")
            refused = local_part in "dx"
            assert (reply.code, reply.enhanced) == ((550, "5.1.1") if refused else (250, "2.1.5"))
            assert not refused or reply.text == "No such user here"
        await client.command("DATA")
        await client.send_bytes(b"x\r\n.\r\n")
        assert (await client.read_reply()).code == 250
    found = {path.parent.parent: [to[:1] for to in delivered_to(path)] for path in messages_below(tmp_path)}
    assert found == {
        tmp_path / "mail" / "one": [b"a", b"c"],
        tmp_path / "mail" / "two": [b"b"],
        tmp_path / "mail" / "three": [b"c"],
        tmp_path / "elsewhere": [b"e"],
    }
    assert all(body_of(path) == b"x\r\n" for path in messages_below(tmp_path))
    assert folder.questions == [(f"{local_part}@example.com", "RcptToContext") for local_part in "abcdex"]


async def test_aliases_of_handlers_before_are_asked_for(tmp_path: Path) -> None:
    app, folder = App(), Asked(b="b")

    @app.on_rcpt_to
    async def alias(ctx: RcptToContext) -> None:
        ctx.address = Address.parse(ctx.address.address.replace("info@", "b@"))

    app.use(maildir(tmp_path, folder=folder))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, MESSAGE, "info@example.com")).code == 250
    (path,) = files(tmp_path / "b")
    assert b"\r\nX-Original-To: info@example.com\r\nDelivered-To: b@example.com\r\n" in path.read_bytes()


async def test_two_plugins_ask_each_for_itself(tmp_path: Path) -> None:
    """The first gives the stream to the second."""
    app = App()

    @app.on_data
    async def spool(ctx: DataContext) -> None:
        await ctx.spool()

    app.use(maildir(tmp_path / "one", folder=Asked(b="b")))

    @app.on_data
    async def again(ctx: DataContext) -> None:
        await ctx.spool()

    app.use(maildir(tmp_path / "two", folder=Asked(b="c")))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    assert len(files(tmp_path / "one" / "b")) == len(files(tmp_path / "two" / "c")) == 1


@pytest.mark.parametrize(("added", "code"), [("c", 250), ("x", 550)])
async def test_recipients_that_a_handler_adds_are_asked_for_as_well(tmp_path: Path, added: str, code: int) -> None:
    app, folder = App(), Asked(b="b", c="c")

    @app.on_data
    async def add(ctx: DataContext) -> None:
        ctx.envelope.rcpt_to.append(Address.parse(f"{added}@example.com"))

    async with open_client(app.use(maildir(tmp_path, folder=folder))) as client:
        await client.ehlo()
        assert (await send(client)).code == code
    assert folder.questions == [("b@example.com", "RcptToContext"), (f"{added}@example.com", "DataContext")]
    # Nobody is left out of a message that was accepted.
    assert len(messages_below(tmp_path)) == (2 if code == 250 else 0)


async def test_a_function_that_fails_is_an_error_of_the_application(tmp_path: Path) -> None:
    async def fail(recipient: Address, ctx: object) -> str:
        raise ZeroDivisionError

    async with open_client(App().use(maildir(tmp_path, folder=fail))) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        assert (await client.command("RCPT TO:<b@example.com>")).code == 451


# --- what is made, and what is not ---


async def test_without_create_a_root_that_is_missing_is_an_error_at_once(tmp_path: Path) -> None:
    for several in (False, True):
        with pytest.raises(FileNotFoundError) as caught:
            App().use(maildir(tmp_path / "mail", per_recipient=several, create=False))
        assert str(caught.value.strerror).startswith(f"cannot use the Maildir '{tmp_path}/mail': No such file")
    assert list(tmp_path.iterdir()) == []


async def test_without_create_a_folder_that_is_missing_is_an_error_of_the_disk(tmp_path: Path) -> None:
    App().use(maildir(tmp_path / "b@example.com"))
    async with open_client(App().use(maildir(tmp_path, per_recipient=True, create=False))) as client:
        await client.ehlo()
        assert (await send(client, MESSAGE, "b@example.com", "c@example.com")).code == 451
        assert (await send(client, MESSAGE, "b@example.com")).code == 250
    assert len(messages_below(tmp_path)) == len(files(tmp_path / "b@example.com")) == 1


async def test_without_create_a_maildir_that_is_there_is_used(tmp_path: Path) -> None:
    App().use(maildir(path=tmp_path))
    async with open_client(App().use(maildir(path=tmp_path, create=False))) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("arguments", [{}, {"root": ""}, {"path": "a\0b"}], ids=str)
def test_a_root_is_needed(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"^root must be the path of a directory"):
        maildir(**arguments)


def test_a_function_and_a_folder_by_name_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="per_recipient cannot stand beside"):
        maildir("mail", per_recipient=True, folder=Asked())


# --- a handler that decides ---


@pytest.mark.parametrize("message", [MESSAGE, LARGE], ids=["small", "large"])
async def test_a_handler_delivers_to_a_folder(tmp_path: Path, message: bytes) -> None:
    app = App()

    @app.on_data
    async def file(ctx: DataContext) -> None:
        await deliver(tmp_path / "inbox", ctx)

    async with open_client(app) as client:
        await client.ehlo()
        replies = [await send(client, message, "b@example.com", "c@example.com") for _ in range(2)]
    paths = files(tmp_path / "inbox")
    assert [body_of(path) for path in paths] == [message] * 2
    assert [delivered_to(path) for path in paths] == [[b"b@example.com", b"c@example.com"]] * 2
    assert {reply.text.removeprefix("Queued as ") for reply in replies} == {
        path.name.rpartition("R")[0] + "R" + path.name.rpartition("R")[2][:8] for path in paths
    }


async def test_a_handler_delivers_to_several(tmp_path: Path) -> None:
    app = App()

    @app.on_data
    async def file(ctx: DataContext) -> None:
        if ctx.session.transaction:
            await deliver([tmp_path / "c", str(tmp_path / "d")], ctx)
        else:
            first, second = ctx.recipients
            await deliver({tmp_path / "a": [first], str(tmp_path / "b"): [second]}, ctx)

    async with open_client(app) as client:
        await client.ehlo()
        for _ in range(2):
            assert (await send(client, MESSAGE, "b@example.com", "c@example.com")).code == 250
    found = {name: [delivered_to(path) for path in files(tmp_path / name)] for name in "abcd"}
    both = [b"b@example.com", b"c@example.com"]
    assert found == {"a": [both[:1]], "b": [both[1:]], "c": [both], "d": [both]}


async def test_a_handler_that_delivers_to_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.on_data
    async def file(ctx: DataContext) -> None:
        await deliver([tmp_path / "a", tmp_path / "b"], ctx)

    async with open_client(app) as client:
        await client.ehlo()
        with monkeypatch.context() as patches:
            Patch(patches, "rename").fail(errno.ENOSPC, lambda source, *_: f"{tmp_path}/b/" in source)
            assert (await send(client)).code == 452
        assert messages_below(tmp_path) == []
        assert (await send(client)).code == 250
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"cannot store the message in the Maildir '{tmp_path}/a'" in record.getMessage()


@pytest.mark.parametrize(("create", "code"), [(True, 250), (False, 451)])
async def test_a_handler_says_whether_folders_are_made(tmp_path: Path, create: bool, code: int) -> None:
    app = App()

    @app.on_data
    async def file(ctx: DataContext) -> None:
        await deliver(tmp_path / "inbox", ctx, create=create)

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == code
    assert (tmp_path / "inbox").exists() == create


@pytest.mark.parametrize(
    ("folders", "match"), [([], "at least one"), ({}, "at least one"), ([""], "path of a directory"), ("", "path of")]
)
async def test_a_handler_needs_a_folder(folders: Any, match: str) -> None:
    app, errors = App(), []

    @app.on_data
    async def file(ctx: DataContext) -> None:
        try:
            await deliver(folders, ctx)
        except ValueError as error:
            errors.append(str(error))
            ctx.reject("Nowhere to go", 451)

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 451
    (error,) = errors
    assert match in error


async def test_file_systems_of_very_many_folders_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir_module, "_MAX_DEVICES", 2)
    devices: dict[str, int] = {}
    monkeypatch.setattr(maildir_module, "_devices", devices)
    app = App()

    @app.on_data
    async def file(ctx: DataContext) -> None:
        await deliver(tmp_path / f"{ctx.session.transaction // 3}", ctx)

    async with open_client(app) as client:
        await client.ehlo()
        for _ in range(9):
            assert (await send(client)).code == 250
    assert [len(files(tmp_path / f"{n}")) for n in range(3)] == [3, 3, 3]
    assert devices == {f"{tmp_path}/2": tmp_path.stat().st_dev}
