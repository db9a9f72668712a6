"""What the tests of the Maildir share."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trio_smtp import Reply
from trio_smtp.testing import Client

MESSAGE = b"Subject: test\r\n\r\n.dot\r\n..dots\r\n\xe4\xf6\xfc\r\n"
#: 1 MiB in lines of 64 octets: streamed in several batches.
LARGE = b"".join(b"%-62d\r\n" % n for n in range(16_384))


_FIELDS = re.compile(
    rb"Return-Path: <[^\r\n]*>\r\n(?:(?:X-Original-To: [^\r\n]*\r\n)*Delivered-To: [^\r\n]*\r\n)+"
    rb"Received: [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*"
)


def files(folder: Path) -> list[Path]:
    """The messages that readers of the Maildir see; nothing may be left in tmp, and cur is theirs."""
    assert sorted(path.name for path in folder.iterdir()) == ["cur", "new", "tmp"]
    assert list((folder / "tmp").iterdir()) == list((folder / "cur").iterdir()) == []
    return sorted((folder / "new").iterdir())


def body_of(path: Path) -> bytes:
    """What was sent: the file without the fields in front of it."""
    fields = _FIELDS.match(path.read_bytes())
    assert fields is not None
    return path.read_bytes()[fields.end() :]


def delivered_to(path: Path) -> list[bytes]:
    """Whom the file was delivered to."""
    fields = _FIELDS.match(path.read_bytes())
    assert fields is not None
    return re.findall(rb"Delivered-To: ([^\r\n]*)\r\n", fields[0])


async def send(client: Client, message: bytes = MESSAGE, *recipients: str) -> Reply:
    return await client.send_message("a@example.com", recipients or ["b@example.com"], message)


def always(*_: object) -> bool:
    return True


class Patch:
    """Replaces a function of `os` for the time of a test: some calls of it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.name = name
        self.real: Callable[..., Any] = getattr(os, name)
        self.error: OSError | None = None
        self.when: Callable[..., bool] = always
        monkeypatch.setattr(os, name, self)

    def fail(self, code: int, when: Callable[..., bool] = always) -> None:
        self.error = OSError(code, os.strerror(code))
        self.when = when

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.error is not None and self.when(*args):
            raise self.error
        return self.real(*args, **kwargs)


def is_directory(file: int, *_: object) -> bool:
    return stat.S_ISDIR(os.fstat(file).st_mode)


def is_file(file: int, *_: object) -> bool:
    return stat.S_ISREG(os.fstat(file).st_mode)


def messages_below(folder: Path) -> list[Path]:
    """Every file, in tmp, new or cur, of any folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def modes_below(folder: Path) -> dict[Path, int]:
    """The permissions of everything in a folder."""
    return {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of 512 KiB. Mounted by the system's own command, where that is allowed."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small file system")
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", directory], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)
