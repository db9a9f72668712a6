"""Errors of the system at every call of the Maildir delivery: a message is there as a whole and was answered 250, or
it is refused for now and nothing of it is left.

As in test_nth_oserror.py: the n-th call fails, for every n, until a message passes without an n-th call.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.maildir_support import MESSAGE, body_of
from tests.support import note_closes
from trio_smtp import App, Reply
from trio_smtp.delivery.maildir import maildir, prepare
from trio_smtp.testing import Client, open_client, stuff

from .support import watched_log

ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE]
FULL = {errno.ENOSPC, errno.EDQUOT}
#: Written in two batches, each by several writes.
LARGE = b"".join(b"%-62d\r\n" % n for n in range(5000))
#: Octets that one write takes at most.
SHORT = 100_000
RECIPIENTS = ["b@example.com", "c@example.com"]


@attrs.define(eq=False)
class Disk:
    """Counts the calls on files below a directory; the n-th fails, and with `lasting` every later one as well."""

    root: Path
    n: int = 0
    error: int = 0
    lasting: bool = False
    calls: int = 0
    names: Counter[str] = attrs.field(factory=Counter)
    failed: str = ""
    files: set[int] = attrs.field(factory=set)

    #: By whether the first argument is a path or a descriptor.
    PATHS = ("open", "mkdir", "rename", "unlink", "stat")
    FILES = ("fsync", "write", "writev", "read", "lseek", "close")

    def is_ours(self, path_or_file: object) -> bool:
        if isinstance(path_or_file, int):
            return path_or_file in self.files
        return isinstance(path_or_file, str | Path) and Path(path_or_file).is_relative_to(self.root)

    def count(self, name: str, *path: str) -> None:
        self.calls += 1
        self.names[name] += 1
        if self.calls == self.n or (self.lasting and 0 < self.n <= self.calls):
            self.failed = self.failed or name
            raise OSError(self.error, os.strerror(self.error), *path)

    def call(self, name: str, real: Callable[..., Any], first: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.is_ours(first):
            return real(first, *args, **kwargs)
        if name == "close":  # as Linux does it: whatever the error, the descriptor is closed
            real(first)
            self.files.discard(first)
        self.count(name, *([] if isinstance(first, int) else [os.fspath(first)]))
        match name:
            case "close" | "fsync":  # nobody here needs what the disk has to survive a power cut
                return None
            case "write":
                return real(first, args[0][:SHORT])
            case "writev":
                parts, room = [], SHORT
                for part in args[0]:
                    parts.append(bytes(part[:room]))
                    room -= len(parts[-1])
                return real(first, parts)
            case "open":
                self.files.add(file := real(first, *args, **kwargs))
                return file
        return real(first, *args, **kwargs)

    @contextmanager
    def at_work(self) -> Iterator[Disk]:
        """Count, and fail, while the block runs."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (*self.PATHS, *self.FILES):
                patch.setattr(os, name, partial(self.call, name, getattr(os, name)))
            yield self
        assert self.files == set()


@attrs.frozen
class Case:
    """What is delivered, and where."""

    per_recipient: bool
    large: bool
    #: The folders of the recipients are there already.
    made: bool = True
    chunks: bool = False

    def __str__(self) -> str:
        words = [
            "for each recipient" if self.per_recipient else "one folder",
            "" if self.made else "new",
            "large" if self.large else "small",
            "BDAT" if self.chunks else "DATA",
        ]
        return ", ".join(filter(None, words))

    @property
    def body(self) -> bytes:
        return LARGE if self.large else MESSAGE

    def folders(self, root: Path) -> list[Path]:
        if not self.per_recipient:
            return [root]
        return [root / recipient for recipient in RECIPIENTS]

    async def deliver(self, client: Client) -> Reply:
        for line in ("MAIL FROM:<a@example.org>", *(f"RCPT TO:<{recipient}>" for recipient in RECIPIENTS)):
            assert (await client.command(line)).code == 250
        if self.chunks:
            half = len(self.body) // 2
            await client.send_bytes(b"BDAT %d\r\n" % half + self.body[:half])
            reply = await client.read_reply()
            last = b"BDAT %d LAST\r\n" % (len(self.body) - half) + self.body[half:]
            if reply.code != 250:
                await client.send_bytes(last)
                assert (await client.read_reply()).code == reply.code
                return reply
            await client.send_bytes(last)
        else:
            assert (await client.command("DATA")).code == 354
            await client.send_bytes(stuff(self.body))
        return await client.read_reply()


def check(case: Case, disk: Disk, reply: Reply) -> None:
    """What must hold when a message was answered."""
    everything = [path for path in disk.root.rglob("*") if path.is_file()]
    visible = [path for folder in case.folders(disk.root) for path in sorted((folder / "new").glob("*"))]
    # Nothing half where a reader looks, whatever happened.
    assert all(body_of(path) == case.body for path in visible)
    if reply.code == 250:
        assert set(everything) == set(visible)
        assert len(visible) == len(case.folders(disk.root))
        assert disk.calls < disk.n
        return
    assert (reply.code, reply.enhanced) == ((452, "4.3.1") if disk.error in FULL else (451, "4.3.0"))
    assert disk.calls >= disk.n
    if not disk.lasting:
        assert everything == []


async def one(case: Case, disk: Disk) -> None:
    """Deliver a message to a disk that fails, then another when it works again, by the same client."""
    app = App()
    closes = note_closes(app)
    disk.root.mkdir()
    with Disk(disk.root).at_work():
        app.use(maildir(disk.root, per_recipient=case.per_recipient))
        if case.made and case.per_recipient:
            for folder in case.folders(disk.root):
                prepare(folder)
    with watched_log(logging.WARNING, errors=True) as records:
        async with open_client(app) as client:
            await client.ehlo()
            with disk.at_work():
                reply = await case.deliver(client)
            check(case, disk, reply)
            left = {path for path in disk.root.rglob("*") if path.is_file()}
            stats = client.server.stats
            assert (stats.messages_accepted, stats.messages_refused) == ((1, 0) if reply.code == 250 else (0, 1))
            with Disk(disk.root).at_work():
                assert (await case.deliver(client)).code == 250
            new = {path for path in disk.root.rglob("*") if path.is_file()} - left
            assert {path.parent for path in new} == {folder / "new" for folder in case.folders(disk.root)}
            assert all(body_of(path) == case.body for path in new)
            assert (await client.quit()).code == 221
    assert closes == ["quit"]
    # One line says why, without a traceback; and lines about what could not be removed.
    assert [record.exc_info for record in records if record.exc_info] == []
    errors = [record.getMessage() for record in records if record.levelno == logging.ERROR]
    assert len(errors) == (reply.code != 250)
    assert all("cannot store the message in the Maildir" in line for line in errors)
    assert len(records) == len(errors) or disk.lasting


CASES = [
    Case(per_recipient=False, large=False),
    Case(per_recipient=False, large=True),
    Case(per_recipient=False, large=True, chunks=True),
    Case(per_recipient=True, large=False, made=False),
    Case(per_recipient=True, large=True),
]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_nth_call_fails(case: Case, lasting: bool, tmp_path: Path) -> None:
    failed: Counter[str] = Counter()
    for n in itertools.count(1):
        # In the simplest case each call fails with each of the errors; in the others the errors take turns.
        errors = ERRORS if case == CASES[0] else [ERRORS[n % len(ERRORS)]]
        disks = [Disk(tmp_path / f"{n}-{error}", n, error, lasting) for error in errors]
        for disk in disks:
            await one(case, disk)
            failed[disk.failed] += 1
            shutil.rmtree(disk.root)
        if failed[""]:
            break
        assert n < 500
    wanted = {"", "open", "writev", "fsync", "close", "rename"}
    if case.large:
        wanted |= {"write"}  # the rest of what was written in part
    if case.per_recipient and case.large:
        wanted |= {"lseek", "read"}
    if not case.made:
        wanted |= {"stat", "mkdir"}
    assert set(failed) == wanted


@pytest.mark.parametrize("per_recipient", [False, True])
def test_the_nth_call_fails_when_it_is_prepared(per_recipient: bool, tmp_path: Path) -> None:
    """One line says why, no descriptor is left, and it can be prepared afterwards."""
    failed: set[str] = set()
    for n in itertools.count(1):
        for error in ERRORS:
            root = tmp_path / f"{n}-{error}" / "mail"
            disk = Disk(root, n, error)
            with disk.at_work():
                raised: OSError | None = None
                try:
                    prepare(root, per_recipient=per_recipient)
                except OSError as exc:
                    raised = exc
            assert (raised is not None) == bool(disk.failed)
            if raised is not None:
                assert raised.errno == error
                assert re.fullmatch(f"cannot use the Maildir {str(root)!r}: .+", str(raised.strerror))
            left = [path for path in root.rglob("*") if path.is_file()]
            assert left == [] or disk.failed == "unlink"
            with Disk(root).at_work():
                prepare(root, per_recipient=per_recipient)
            failed.add(disk.failed)
        if "" in failed:
            break
    assert failed == {"", "stat", "mkdir", "open", "close", "unlink"} | (set() if per_recipient else {"fsync"})
