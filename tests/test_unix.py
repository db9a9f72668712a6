"""Unix sockets: stale files, live ones, permissions, removal, and LMTP over one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support import BODY, mail_app
from trio_smtp import App, Config, ConnectContext, DataContext, SMTPServer, serve
from trio_smtp.net.unix import UnixFile, open_unix_listener
from trio_smtp.testing import Client, stuff


@asynccontextmanager
async def serving(app: App, path: Path, **fields: Any) -> AsyncIterator[SMTPServer]:
    server = SMTPServer(app, Config(hostname="mx.example", **fields))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_unix, path)
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    async with await trio.open_unix_socket(path) as stream:
        client = Client(stream)
        client.greeting = await client.read_reply()
        yield client


def stale_file(path: Path) -> None:
    """What a server that was killed leaves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
    assert path.is_socket()


def fill_queue(path: Path, clients: ExitStack) -> int:
    """Connect until no more connections are kept waiting; returns how many are."""
    for waiting in range(1000):
        client = clients.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            return waiting
    raise AssertionError("the queue has no end")


async def test_lmtp_with_several_recipients(tmp_path: Path) -> None:
    app = App()
    taken: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())
        ctx.reject_recipient(ctx.envelope.rcpt_to[1], "Over quota", 452, enhanced="4.2.2")

    path = tmp_path / "lmtp.sock"
    async with serving(app, path, lmtp=True), connected(path) as client:
        assert client.greeting.code == 220
        assert (await client.command("LHLO client.example")).code == 250
        for body in (stuff(BODY), b""):
            await client.send_bytes(
                b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\n"
                + (b"DATA\r\n" + body if body else b"BDAT %d LAST\r\n%s" % (len(BODY), BODY))
            )
            codes = [(await client.read_reply()).code for _ in range(6 if body else 5)]
            assert codes == [250, 250, 250, *([354] if body else []), 250, 452]
        assert (await client.quit()).code == 221
    assert taken == [BODY, BODY]


async def test_who_is_at_the_other_end(tmp_path: Path) -> None:
    app, _ = mail_app()
    hosts: list[object] = []

    @app.on_connect
    async def note(ctx: ConnectContext) -> None:
        session = ctx.session
        hosts.extend([session.remote_address, session.local_address, session.original_peer, session.client_hostname])

    path = tmp_path / "smtp.sock"
    trusting: dict[str, Any] = {each: ["0.0.0.0/0", "::/0"] for each in ("proxy_protocol", "xclient", "xforward")}
    trusting |= {"reverse_dns": True, "max_connections_per_host": 1}
    async with serving(app, path, **trusting), connected(path) as client, connected(path):
        assert not any(line.startswith("X") for line in (await client.ehlo()).lines)
        assert (await client.command("XCLIENT NAME=x")).code == 550
    assert hosts == [None, None, (None, None), "unknown"] * 2


async def test_the_file_goes_with_the_server(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    async with serving(app, path) as server:
        assert path.is_socket()
        assert len(server.listeners) == 1
    assert not path.exists()


async def test_the_file_goes_with_a_drain(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    server = SMTPServer(app, Config(hostname="mx.example"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_unix, path)
        async with connected(path) as client:
            server.drain()
            assert (await client.read_reply()).code == 421
    assert not path.exists()


async def test_serve_listens_where_the_config_says(tmp_path: Path) -> None:
    app, taken = mail_app()
    path = tmp_path / "smtp.sock"
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, Config(unix_path=str(path), unix_mode=0o600))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.port is None
        async with connected(path) as client:
            await client.ehlo()
            assert (await client.send_message("a@example.org", ["b@example.com"], BODY)).code == 250
        nursery.cancel_scope.cancel()
    assert taken == [BODY]
    assert not path.exists()


async def test_serve_unix_takes_the_configs_path(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    server = SMTPServer(app, Config(unix_path=str(path)))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_unix)
        async with connected(path) as client:
            assert client.greeting.code == 220
        nursery.cancel_scope.cancel()
    with pytest.raises(ValueError, match="unix_path"):
        await SMTPServer(app, Config()).serve_unix()


# --- What is there already ---


async def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    stale_file(path)
    async with serving(app, path), connected(path) as client:
        assert client.greeting.code == 220
    assert not path.exists()


async def test_a_live_one_is_not(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    async with serving(app, path):
        with pytest.raises(OSError, match=str(path)) as caught:
            SMTPServer(app, Config()).listen_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        async with connected(path) as client:
            assert client.greeting.code == 220


async def test_one_whose_queue_is_full_lives(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    with socket.socket(socket.AF_UNIX) as sock, ExitStack() as clients:
        sock.bind(str(path))
        sock.listen(0)
        fill_queue(path, clients)
        with pytest.raises(OSError, match="in use") as caught:
            open_unix_listener(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "symlink to a file", "dangling symlink"])
async def test_what_is_no_socket_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    if kind == "directory":
        path.mkdir()
    elif kind == "file":
        path.write_text("precious")
    else:
        if kind == "symlink to a file":
            (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / "precious")
    before = os.lstat(path)
    with pytest.raises(OSError, match="not a socket") as caught:
        open_unix_listener(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, str(path))
    assert os.lstat(path) == before


async def test_a_path_that_cannot_be_had(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "smtp.sock"
    with pytest.raises(FileNotFoundError) as caught:
        open_unix_listener(missing)
    assert caught.value.filename == str(missing)
    long = tmp_path / ("x" * 200)
    with pytest.raises(OSError, match="too long") as too_long:
        open_unix_listener(long)
    assert too_long.value.filename == str(long)
    with pytest.raises(OSError, match="null") as nul:
        open_unix_listener(f"{tmp_path}/a\0b")
    assert nul.value.errno == errno.EINVAL
    assert list(tmp_path.iterdir()) == []


# --- Permissions ---


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o000, 0o777])
async def test_the_mode_can_be_set(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    before = os.umask(0o027)
    try:
        async with trio.open_nursery():
            listener, _ = open_unix_listener(path, mode=mode)
            async with listener:
                assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        assert os.umask(before) == 0o027


async def test_without_a_mode_the_umask_decides(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    before = os.umask(0o027)
    try:
        async with open_unix_listener(path)[0]:
            assert stat.S_IMODE(path.stat().st_mode) == 0o750
    finally:
        os.umask(before)


async def test_serve_unixs_mode_wins(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    server = SMTPServer(app, Config(unix_mode=0o600))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve_unix(path, mode=0o660, task_status=task_status))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        nursery.cancel_scope.cancel()


async def test_nobody_connects_before_the_permissions_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "smtp.sock"
    refused: list[int] = []
    chmod = Path.chmod

    def try_first(self: Path, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            refused.append(client.connect_ex(str(self)))
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", try_first)
    async with open_unix_listener(path, mode=0o600)[0]:
        assert refused == [errno.ECONNREFUSED]


# --- Removal ---


async def test_a_file_that_is_no_longer_ours_stays(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    async with serving(app, path):
        path.rename(tmp_path / "moved.sock")  # keeps the inode from being given to the next
        stale_file(path)
    assert path.is_socket()


async def test_a_file_that_is_gone_is_no_error(tmp_path: Path) -> None:
    app, _ = mail_app()
    path = tmp_path / "smtp.sock"
    async with serving(app, path):
        path.unlink()
    assert not path.exists()


async def test_a_file_that_cannot_be_removed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that gave up its rights after it had begun to listen."""
    path = tmp_path / "smtp.sock"
    stale_file(path)
    found = path.stat()

    def forbidden(self: Path) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "unlink", forbidden)
    UnixFile(str(path), found.st_dev, found.st_ino).remove()
    assert path.is_socket()


async def test_the_file_of_a_listener_is_removed_by_its_caller(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    listener, file = open_unix_listener(path)
    found = path.stat()
    assert file == UnixFile(str(path), found.st_dev, found.st_ino)
    await listener.aclose()
    assert path.is_socket()
    file.remove()
    assert not path.exists()
    stale_file(tmp_path / "other.sock")
    (tmp_path / "other.sock").rename(path)
    UnixFile(file.path, file.device, path.stat().st_ino + 1).remove()
    assert path.is_socket()


async def test_the_backlog(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    async with open_unix_listener(path, backlog=1)[0]:
        with ExitStack() as clients:
            assert 1 <= fill_queue(path, clients) <= 3
