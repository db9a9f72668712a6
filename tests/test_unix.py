"""Unix socket listeners: what is at the path already, permissions, and what is left there at the end."""

from __future__ import annotations

import errno
import socket
import stat
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_smtp import Config, SMTPServer
from trio_smtp.testing import Client
from trio_smtp.unix import open_unix_listener

from .support import mail_app


def inode(path: Path) -> int:
    return path.lstat().st_ino


async def greeting(path: Path) -> int:
    async with await trio.open_unix_socket(path) as stream:
        return (await Client(stream).read_reply()).code


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
async def test_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "smtp"
    async with open_unix_listener(path, mode=mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode


async def test_a_socket_file_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with open_unix_listener(str(path)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("busy", [False, True])
async def test_one_that_somebody_listens_on_is_not(tmp_path: Path, busy: bool) -> None:
    path = tmp_path / "smtp"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(0)
        clients = []
        if busy:  # so many wait to be accepted that no more may
            while True:
                clients.append(socket.socket(socket.AF_UNIX))
                clients[-1].setblocking(False)
                if clients[-1].connect_ex(str(path)) == errno.EAGAIN:
                    break
        before = inode(path)
        with pytest.raises(OSError, match="in use") as caught:
            open_unix_listener(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.filename == str(path)
        assert inode(path) == before
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("file", errno.EEXIST, "exists and is not a socket"),
        (".", errno.EEXIST, "exists and is not a socket"),
        ("missing/smtp", errno.ENOENT, "No such file or directory"),
        ("x" * 200, errno.EINVAL, "too long"),
        ("a\0b", errno.EINVAL, "null"),
    ],
)
async def test_a_path_that_cannot_be_had(tmp_path: Path, name: str, code: int, text: str) -> None:
    (tmp_path / "file").write_text("precious")
    path = f"{tmp_path}/{name}"
    with pytest.raises(OSError, match=text) as caught:
        open_unix_listener(path)
    assert (caught.value.errno, caught.value.filename) == (code, path)
    assert (tmp_path / "file").read_text() == "precious"


async def test_backlog(tmp_path: Path) -> None:
    async with open_unix_listener(tmp_path / "smtp", backlog=1) as listener:
        address = listener.socket.getsockname()
        clients = []
        while True:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            if clients[-1].connect_ex(address):
                break
        assert len(clients) <= 4
        for client in clients:
            client.close()


# In a server


async def test_the_file_of_another_server_is_left_alone(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp"
    old, new = SMTPServer(app), SMTPServer(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(old.serve_unix, path))
        path.rename(tmp_path / "moved")
        await nursery.start(partial(new.serve_unix, path))
        old.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert await greeting(path) == 220
        new.drain()
    assert [found.name for found in tmp_path.iterdir()] == ["moved"]


async def test_a_file_that_was_removed_by_somebody_else_is_nothing(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp"
    server = SMTPServer(app, Config(unix_path=str(path), unix_mode=0o640))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_unix)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.unlink()
        nursery.cancel_scope.cancel()
    assert list(tmp_path.iterdir()) == []
