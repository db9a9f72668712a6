"""The programs in docs/plugins.md do what the page says."""

from __future__ import annotations

import errno
import hashlib
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import BODY, LARGE, logged, send, start_data
from trio_smtp import App, Config
from trio_smtp.testing import Client, open_client

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
OPTIONS, RESOURCES, TAP, DELIVERY, VERDICTS = re.findall(
    r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(program: str) -> Any:
    """What the program defines."""
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, str(PAGE), "exec", dont_inherit=True), namespace)
    return SimpleNamespace(**namespace)


async def test_a_plugin_with_options() -> None:
    program = run(OPTIONS)
    async with open_client(program.app) as client:
        await client.ehlo()
        refused = await client.command("MAIL FROM:<a@example.org>")
        assert (refused.code, refused.enhanced, refused.text) == (530, "5.7.0", "Log in first")
    with pytest.raises(ValueError, match="message"):
        program.users_only("")
    with pytest.raises(TypeError, match=r"app\.use\(users_only\(\.\.\.\)\)"):
        App().use(program.users_only)


async def test_a_plugin_that_owns_resources(directory: Path) -> None:
    program = run(RESOURCES)
    assert not (directory / "journal.db").exists()
    async with open_client(program.app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
        await client.quit()
    with closing(sqlite3.connect(directory / "journal.db")) as database:
        assert database.execute("SELECT reason FROM journal").fetchall() == [("quit",)]


async def test_octets_in_passing() -> None:
    program = run(TAP)
    async with open_client(program.app) as client:
        await client.ehlo()
        for body in (BODY, LARGE):
            reply = await send(client, body)
            assert (reply.code, reply.text) == (250, f"{len(body)} octets, {hashlib.sha256(body).hexdigest()[:12]}")
        refused = await send(client, b"Received: x\r\n" * 31 + BODY)
        assert (refused.code, refused.enhanced) == (554, "5.4.6")
        assert (await send(client, b"Received: x\r\n" * 30 + BODY)).code == 250


def stored(directory: Path) -> list[bytes]:
    """The messages, without the fields of the delivery; there is no half of one."""
    files = sorted((directory / "stored").iterdir(), key=lambda path: int(path.stem.rpartition(".")[2]))
    assert all(path.suffix == ".eml" for path in files)
    start = rb"Return-Path: <a@example\.org>\r\nReceived: (?:.+\r\n[ \t])*.+\r\n(?![ \t])"
    return [re.sub(start, b"", path.read_bytes(), count=1) for path in files]


async def half(client: Client, beginning: bytes) -> None:
    await start_data(client)
    await client.send_bytes(beginning)
    await client.aclose()


async def test_a_delivery(directory: Path) -> None:
    app = run(DELIVERY).app
    async with open_client(app) as client:
        await client.ehlo()
        for number, body in enumerate((BODY, LARGE, b" folded\r\n", b"")):
            reply = await send(client, body)
            assert (reply.code, reply.text) == (250, f"Queued as {client.session.id}.{number}")
    assert stored(directory) == [BODY, LARGE, b"\r\n folded\r\n", b""]
    async with open_client(app) as client:
        await half(client, LARGE)
    assert len(stored(directory)) == 4


@pytest.mark.parametrize(("code", "reply"), [(errno.ENOSPC, (452, "4.3.1")), (errno.EIO, (451, "4.3.0"))])
async def test_a_delivery_whose_disk_fails(
    code: int,
    reply: tuple[int, str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(file: int) -> None:
        raise OSError(code, "failed")

    async with open_client(run(DELIVERY).app) as client:
        await client.ehlo()
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", fail)
            refused = await send(client)
            assert (refused.code, refused.enhanced) == reply
            assert stored(directory) == []
        assert (await send(client)).code == 250
    assert stored(directory) == [BODY]
    assert "cannot store the message" in caplog.text
    assert logged(caplog) == []  # no crash


async def test_verdicts_for_each_recipient(directory: Path) -> None:
    boxes = directory / "boxes"
    (boxes / "dir").mkdir(parents=True)
    (boxes / "bob").write_bytes(b"")
    (directory / "secret").write_bytes(b"")
    people = ["bob@example.com", "nobody@example.com", '"../secret"@example.com', "dir@example.com"]
    async with open_client(run(VERDICTS).app, Config(lmtp=True)) as client:
        await client.command("LHLO client.example")
        await client.command("MAIL FROM:<a@example.org>")
        for each in people:
            assert (await client.command(f"RCPT TO:<{each}>")).code == 250
        assert (await client.command("DATA")).code == 354
        await client.send_bytes(BODY + b".\r\n")
        codes = [(await client.read_reply()).code for _ in people]
    assert codes == [250, 550, 550, 550]
    assert (boxes / "bob").read_bytes() == BODY
    assert (directory / "secret").read_bytes() == b""


async def test_a_mailbox_that_cannot_be_written(directory: Path) -> None:
    program = run(VERDICTS)
    (directory / "boxes").mkdir()
    for name in ("bob", "carol"):
        (directory / "boxes" / name).write_bytes(b"")

    async def append(path: Path, chunks: Any) -> None:
        if path.name == "bob":
            raise OSError(errno.EDQUOT, "full")
        await appended(path, chunks)

    appended = program.append
    program.mailboxes.__globals__["append"] = append
    async with open_client(program.app, Config(lmtp=True)) as client:
        await client.command("LHLO client.example")
        await client.command("MAIL FROM:<a@example.org>")
        for each in ("bob", "carol"):
            await client.command(f"RCPT TO:<{each}@example.com>")
        await client.command("DATA")
        await client.send_bytes(BODY + b".\r\n")
        assert [(await client.read_reply()).code for _ in range(2)] == [451, 250]
    assert (directory / "boxes" / "carol").read_bytes() == BODY
