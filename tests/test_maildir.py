"""Delivery into a Maildir, on the real file system. Threads do the work, so no test here has a clock that jumps."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import Address, App, Config, DataContext
from trio_smtp.delivery import _storing
from trio_smtp.delivery.maildir import BATCH, maildir
from trio_smtp.testing import Client, open_client

from .maildir_support import (
    LARGE,
    MESSAGE,
    Patch,
    always,
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

QUEUED = re.compile(r"Queued as (\d+\.M\d{6}P\d+Q\d+R[0-9a-f]{8})")


async def begin(client: Client, octets: bytes) -> None:
    """The first part of a message whose end does not come."""
    for command in ("EHLO x", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
        await client.command(command)
    await client.send_bytes(octets)


# --- a message that arrives ---


async def test_a_message_is_stored_octet_for_octet(tmp_path: Path) -> None:
    app = App().use(maildir(tmp_path / "mail"))
    async with open_client(app, Config(hostname="mx.example.com")) as client:
        await client.command("EHLO client.example")
        reply = await send(client)
    (path,) = files(tmp_path / "mail")
    match = QUEUED.fullmatch(reply.text)
    assert match is not None
    assert (reply.code, reply.enhanced) == (250, "2.0.0")
    assert path.name == f"{match[1]}.{socket.gethostname()}"
    assert body_of(path) == MESSAGE
    stored = path.read_bytes()
    assert stored.startswith(
        b"Return-Path: <a@example.com>\r\nDelivered-To: b@example.com\r\nReceived: from client.example "
    )
    assert b"by mx.example.com with ESMTP id " in stored
    assert b"for <b@example.com>" in stored


async def test_directories_and_messages_are_private(tmp_path: Path) -> None:
    async with open_client(App().use(maildir(tmp_path / "a" / "mail"))) as client:
        await client.ehlo()
        await send(client)
    (path,) = files(tmp_path / "a" / "mail")
    modes = modes_below(tmp_path)
    assert modes.pop(path) == 0o600
    assert set(modes.values()) == {0o700}
    assert len(modes) == 5


@pytest.mark.parametrize("message", [b"", b"\r\n", LARGE[:BATCH], LARGE, bytes(range(128, 256)) * 4000 + b"\r\n"])
async def test_messages_of_any_size_are_whole(tmp_path: Path, message: bytes) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        assert (await send(client, message)).code == 250
    (path,) = files(tmp_path)
    assert body_of(path) == message


async def test_all_recipients_are_named(tmp_path: Path) -> None:
    """The header section need not: Bcc."""
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        await send(client, MESSAGE, "b@example.com", "C@Example.ORG", "postmaster", "b@example.com")
    (path,) = files(tmp_path)
    assert delivered_to(path) == [b"b@example.com", b"C@Example.ORG", b"postmaster"]
    assert body_of(path) == MESSAGE


async def test_the_null_sender_has_an_empty_return_path(tmp_path: Path) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        await client.send_message("", ["b@example.com"], MESSAGE)
    (path,) = files(tmp_path)
    assert path.read_bytes().startswith(b"Return-Path: <>\r\nDelivered-To: b@example.com\r\nReceived: ")


async def test_an_address_in_utf_8_stays_as_it_was_sent(tmp_path: Path) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<bücher@example.com> SMTPUTF8")
        await client.command("RCPT TO:<b@example.com>")
        await client.command("DATA")
        await client.send_bytes(b"x\r\n.\r\n")
        assert (await client.read_reply()).code == 250
    (path,) = files(tmp_path)
    assert path.read_bytes().startswith("Return-Path: <bücher@example.com>\r\n".encode())


async def test_a_handlers_own_address_writes_no_fields_of_its_own(tmp_path: Path) -> None:
    app = App()

    @app.on_data
    async def rewrite(ctx: DataContext) -> None:
        evil = "a@example.com>\r\nX-Evil: 1\r\n\r\nbody\0\x7f\udc80"
        ctx.envelope.mail_from = Address(address=evil, local_part="a", domain="example.com")
        ctx.envelope.rcpt_to.append(ctx.envelope.mail_from)

    app.use(maildir(tmp_path))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    (path,) = files(tmp_path)
    evil = b"a@example.com>??X-Evil: 1????body???"
    assert path.read_bytes().startswith(b"Return-Path: <%s>\r\n" % evil)
    assert delivered_to(path) == [b"b@example.com", evil]
    assert body_of(path) == MESSAGE


async def test_a_message_without_a_sender_has_an_empty_return_path(tmp_path: Path) -> None:
    app = App()

    @app.on_data
    async def forget(ctx: DataContext) -> None:
        ctx.envelope.mail_from = None

    async with open_client(app.use(maildir(tmp_path))) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    assert files(tmp_path)[0].read_bytes().startswith(b"Return-Path: <>\r\n")


async def test_every_delivery_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the clock stands still, and chance is asked once in each process
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_042_999)
    monkeypatch.setattr("trio_smtp.delivery._storing._chance", "abababab")
    monkeypatch.setattr(socket, "gethostname", lambda: "a/b:c")
    monkeypatch.setattr("trio_smtp.delivery._storing.host_part", _storing.host_part.__wrapped__)  # asked once, else
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        replies = [await send(client) for _ in range(3)]
    names = [reply.text.removeprefix("Queued as ") for reply in replies]
    assert len(set(names)) == 3
    assert sorted(names) == sorted(path.name.removesuffix(r".a\057b\072c") for path in files(tmp_path))
    assert all(re.fullmatch(rf"1700000000\.M000042P{os.getpid()}Q\d+Rabababab", name) for name in names)


async def test_many_deliveries_at_once(tmp_path: Path) -> None:
    app = App().use(maildir(tmp_path))
    replies = []

    async def send_some(number: int) -> None:
        async with open_client(app) as client:
            await client.ehlo()
            replies.extend([await send(client, b"%d %d\r\n" % (number, n)) for n in range(5)])

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(send_some, number)
    assert {reply.code for reply in replies} == {250}
    assert {body_of(path) for path in files(tmp_path)} == {b"%d %d\r\n" % (i, n) for i in range(20) for n in range(5)}
    assert len({reply.text for reply in replies}) == len(files(tmp_path)) == 100


async def test_a_message_is_on_the_disk_before_it_has_a_name_and_the_name_before_the_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        steps: list[str] = []
        synced, renamed = os.fsync, os.rename

        def fsync(file: int) -> None:
            steps.append("sync the directory" if is_directory(file) else f"sync {os.fstat(file).st_size} octets")
            synced(file)

        def rename(source: str, target: str, *, dst_dir_fd: int) -> None:
            new = (tmp_path / "new").stat()
            where = "new" if os.path.samestat(os.fstat(dst_dir_fd), new) else "elsewhere"
            steps.append(f"{Path(source).parent.name} -> {where}")
            renamed(source, target, dst_dir_fd=dst_dir_fd)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", rename)
        assert (await send(client)).code == 250
    (path,) = files(tmp_path)
    assert steps == [f"sync {path.stat().st_size} octets", "tmp -> new", "sync the directory"]


@pytest.mark.parametrize("message", [MESSAGE, LARGE[: BATCH // 2], LARGE], ids=["tiny", "small", "large"])
async def test_a_small_message_costs_one_hop_to_a_thread_and_a_large_one_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: bytes
) -> None:
    counted: list[int] = []
    run_sync = trio.to_thread.run_sync

    async def run(function: Callable[..., object], *args: Any, **kwargs: Any) -> object:
        counted.append(len(args[0]))
        return await run_sync(function, *args, **kwargs)

    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        monkeypatch.setattr(trio.to_thread, "run_sync", run)
        assert (await send(client, message)).code == 250
    assert 1 <= len(counted) <= 1 + len(message) // BATCH
    assert max(counted) < BATCH + 65_536
    assert body_of(files(tmp_path)[0]) == message


async def test_what_the_system_writes_in_part_is_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, writev = os.write, os.writev

    def write_some(file: int, data: memoryview) -> int:
        return write(file, data[:100] if is_file(file) else data)

    monkeypatch.setattr(os, "write", write_some)
    monkeypatch.setattr(os, "writev", lambda file, parts: writev(file, [part[:30] for part in parts[:1]]))
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        assert (await send(client, LARGE[:6400])).code == 250
    assert body_of(files(tmp_path)[0]) == LARGE[:6400]


async def test_a_file_system_that_cannot_sync_directories_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Patch(monkeypatch, "fsync").fail(errno.EINVAL, is_directory)
    async with open_client(App().use(maildir(tmp_path / "mail"))) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    assert body_of(files(tmp_path / "mail")[0]) == MESSAGE


# --- a disk that does not do what it should ---

FULL = (452, "4.3.1", "Insufficient system storage")
BROKEN = (451, "4.3.0", "Local error in processing")


Failure = tuple[str, int, Callable[..., bool], tuple[int, str, str]]
FAILURES: list[Failure] = [
    ("writev", errno.ENOSPC, is_file, FULL),
    ("writev", errno.EDQUOT, is_file, FULL),
    ("writev", errno.EIO, is_file, BROKEN),
    ("fsync", errno.ENOSPC, is_file, FULL),
    ("fsync", errno.EIO, is_file, BROKEN),
    ("fsync", errno.EIO, is_directory, BROKEN),
    ("rename", errno.ENOSPC, always, FULL),
    ("rename", errno.EROFS, always, BROKEN),
    ("open", errno.EMFILE, lambda path, *_: Path(path).parent.name == "tmp", BROKEN),
]


@pytest.mark.parametrize("message", [MESSAGE, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("failure", FAILURES, ids=[f"{call}-{errno.errorcode[code]}" for call, code, *_ in FAILURES])
async def test_a_failing_disk_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Failure,
    message: bytes,
) -> None:
    call, code, when, expected = failure
    async with open_client(App().use(maildir(tmp_path / "mail"))) as client:
        await client.ehlo()
        with monkeypatch.context() as patches:
            Patch(patches, call).fail(code, when)
            reply = await send(client, message)
        assert (reply.code, reply.enhanced, reply.text) == expected
        assert files(tmp_path / "mail") == []
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert record.getMessage().startswith(
            f"session={client.session.id} cannot store the message in the Maildir '{tmp_path}/mail': [Errno {code}] "
        )
        assert record.exc_info is None
        # and the server lives
        assert (await send(client)).code == 250
    assert len(files(tmp_path / "mail")) == 1


async def test_a_disk_that_fills_up_in_the_middle_of_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        Patch(monkeypatch, "writev").fail(errno.ENOSPC, lambda file, data: is_file(file) and os.fstat(file).st_size > 0)
        reply = await send(client, LARGE)
        assert (reply.code, reply.enhanced) == (452, "4.3.1")
        assert files(tmp_path) == []
        assert (await client.command("NOOP")).code == 250


async def test_closing_the_file_may_fail_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = os.close

    def close_badly(file: int) -> None:
        regular = is_file(file)
        close(file)
        if regular:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        monkeypatch.setattr(os, "close", close_badly)
        assert (await send(client)).code == 452
        # once more when it is closed to be removed
        Patch(monkeypatch, "writev").fail(errno.ENOSPC, is_file)
        assert (await send(client)).code == 452
    assert files(tmp_path) == []
    assert sum("Disk quota exceeded" in record.getMessage() for record in caplog.records) == 2


async def test_a_file_that_cannot_be_removed_is_told_to_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        Patch(monkeypatch, "fsync").fail(errno.EIO, is_file)
        Patch(monkeypatch, "unlink").fail(errno.EROFS)
        assert (await send(client)).code == 451
    assert list((tmp_path / "new").iterdir()) == []
    assert any("stays behind" in record.getMessage() for record in caplog.records)


async def test_a_folder_that_vanished_is_not_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mail = tmp_path / "mail"
    async with open_client(App().use(maildir(mail))) as client:
        await client.ehlo()
        mail.rename(tmp_path / "unmounted")
        reply = await send(client)
        assert (reply.code, reply.enhanced) == (451, "4.3.0")
        assert not mail.exists()
        assert sum("cannot store the message" in record.getMessage() for record in caplog.records) == 1
        (tmp_path / "unmounted").rename(mail)
        assert (await send(client)).code == 250
    assert len(files(mail)) == 1
    assert files(mail)[0].parent == mail / "new"


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        async with open_client(App().use(maildir(disk / "mail"))) as client:
            await client.ehlo()
            reply = await send(client, LARGE)
            assert (reply.code, reply.enhanced) == (452, "4.3.1")
            assert files(disk / "mail") == []
            free = os.statvfs(disk)
            (disk / "other").write_bytes(b"x" * (free.f_bavail * free.f_frsize))
            assert (await send(client)).code == 452
            assert files(disk / "mail") == []
            (disk / "other").unlink()
            assert (await send(client)).code == 250
        assert body_of(files(disk / "mail")[0]) == MESSAGE


# --- a message that does not come to its end ---


async def tmp_holds_a_file(folder: Path) -> None:
    """Wait until the delivery has begun; it does so in a thread, so it cannot be told when."""
    with trio.fail_after(30):
        while not messages_below(folder):
            await trio.lowlevel.checkpoint()


async def test_a_client_that_vanishes(tmp_path: Path) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await begin(client, LARGE[: 2 * BATCH])
        await tmp_holds_a_file(tmp_path)
    assert files(tmp_path) == []


async def test_a_message_that_is_too_large(tmp_path: Path) -> None:
    async with open_client(App().use(maildir(tmp_path)), max_message_size=2 * BATCH) as client:
        await begin(client, LARGE[: BATCH + 65_536])
        await tmp_holds_a_file(tmp_path)
        await client.send_bytes(LARGE + b".\r\n")
        assert (await client.read_reply()).code == 552
        assert files(tmp_path) == []
        assert (await send(client)).code == 250


async def test_a_message_with_a_bare_line_feed(tmp_path: Path) -> None:
    async with open_client(App().use(maildir(tmp_path)), bare_newline="reject") as client:
        await begin(client, LARGE)
        await tmp_holds_a_file(tmp_path)
        await client.send_bytes(b"bare\nline feed\r\n.\r\n")
        assert (await client.read_reply()).code == 550
    assert files(tmp_path) == []


async def test_a_message_that_another_handler_refuses_on_the_way(tmp_path: Path) -> None:
    app = App()

    @app.on_data
    async def scan(ctx: DataContext) -> None:
        def look(chunk: bytes) -> None:
            if b"virus" in chunk:
                ctx.reject("No", 554, enhanced="5.7.1")

        ctx.stream.tap(look)

    async with open_client(app.use(maildir(tmp_path))) as client:
        await begin(client, LARGE)
        await tmp_holds_a_file(tmp_path)
        await client.send_bytes(b"virus\r\n.\r\n")
        assert (await client.read_reply()).code == 554
    assert files(tmp_path) == []


async def test_a_message_that_was_read_already_is_not_stored(
    tmp_path: Path,
) -> None:
    app = App()

    @app.on_data
    async def read_it(ctx: DataContext) -> None:
        await ctx.stream.read()

    async with open_client(app.use(maildir(tmp_path))) as client:
        await client.ehlo()
        assert (await send(client)).code == 451
    assert files(tmp_path) == []


async def test_a_server_that_is_cancelled(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_client(App().use(maildir(tmp_path))) as client:
            await begin(client, LARGE)
            await tmp_holds_a_file(tmp_path)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert files(tmp_path) == []


async def test_threads_that_are_all_occupied_leave_no_file_behind(tmp_path: Path) -> None:
    threads = trio.to_thread.current_default_thread_limiter()
    async with open_client(App().use(maildir(tmp_path)), bare_newline="reject") as client:
        # One write: the handler needs no other thread before it is told of the bare line feed.
        await begin(client, LARGE[: BATCH * 3 // 2])
        await tmp_holds_a_file(tmp_path)
        while threads.borrowed_tokens:  # noqa: ASYNC110 - a thread sets no event
            await trio.sleep(0.001)
        occupied = [object() for _ in range(int(threads.total_tokens))]
        for handler in occupied:
            threads.acquire_on_behalf_of_nowait(handler)
        try:
            await client.send_bytes(b"bare\nline feed\r\n.\r\n")
            with trio.fail_after(30):
                assert (await client.read_reply()).code == 550
        finally:
            for handler in occupied:
                threads.release_on_behalf_of(handler)
    assert files(tmp_path) == []


async def test_removing_the_file_has_a_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mock_clock: trio.testing.MockClock,
) -> None:
    unlink, answer, asked, done = os.unlink, threading.Event(), trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(path: Path) -> None:
        token.run_sync_soon(asked.set)
        answer.wait(30)
        unlink(path)
        token.run_sync_soon(done.set)

    async with open_client(App().use(maildir(tmp_path)), bare_newline="reject") as client:
        await begin(client, LARGE)
        await tmp_holds_a_file(tmp_path)
        monkeypatch.setattr(os, "unlink", hang)
        await client.send_bytes(b"bare\nline feed\r\n.\r\n")
        await asked.wait()
        mock_clock.jump(4.9)
        await trio.testing.wait_all_tasks_blocked()
        assert not any("does not answer" in record.getMessage() for record in caplog.records)
        mock_clock.jump(0.2)
        assert (await client.read_reply()).code == 550
        assert any("does not answer" in record.getMessage() for record in caplog.records)
        answer.set()
        await done.wait()
    assert files(tmp_path) == []


@pytest.mark.parametrize("start", [b" ", b"\t"])
async def test_no_message_goes_on_with_our_fields(tmp_path: Path, start: bytes) -> None:
    message = start + b"by trusted.example\r\nSubject: x\r\n\r\n" + LARGE
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        assert (await send(client, message)).code == 250
        # The first octet by itself.
        for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"):
            assert (await client.command(command)).code == 250
        await client.send_bytes(b"BDAT 1\r\n%sBDAT %d LAST\r\n%s" % (start, len(message) - 1, message[1:]))
        assert [(await client.read_reply()).code for _ in range(2)] == [250, 250]
    for path in files(tmp_path):
        fields, _, body = path.read_bytes().partition(b"\r\n\r\n")
        assert body == message
        assert b"trusted" not in fields
