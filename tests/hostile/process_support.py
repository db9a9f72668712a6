"""The command in a process of its own, with less of the system than it would like, and clients of it on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import attrs
import trio

from tests.maildir_support import body_of, files
from trio_smtp import Reply
from trio_smtp.testing import Client, stuff

ROOT = Path(__file__).resolve().parents[2]
#: Seconds for anything that waits: far more than a loaded machine needs.
PATIENCE = 60


@attrs.define
class Command:
    """The running command.

    Attributes:
        process: Its process.
        port: Where it listens.
        maildir: Its Maildir, as this process sees it.
        errors: The file that its stderr goes to.
    """

    process: subprocess.Popen[bytes]
    port: int
    maildir: Path
    errors: Path

    @asynccontextmanager
    async def client(self, hello: str = "EHLO client.example") -> AsyncIterator[Client]:
        """A client that was greeted and has said this."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            client = Client(stream)
            assert (await client.read_reply()).code == 220
            assert (await client.command(hello)).code == 250
            yield client

    def logged(self, text: str) -> int:
        """How many lines of its log have this."""
        return self.errors.read_text("utf-8").count(text)

    def bodies(self) -> list[bytes]:
        """The messages in new, as they were sent; there is nothing in tmp."""
        return [body_of(path) for path in files(self.maildir)]

    def remove_messages(self) -> None:
        for path in files(self.maildir):
            path.unlink()


@asynccontextmanager
async def command(prefix: Sequence[str], maildir: Path, errors: Path, *options: str) -> AsyncIterator[Command]:
    """Run it, behind a prefix that becomes it; it must still be there at the end, and drain on SIGTERM."""
    process = _start([*prefix, sys.executable, "-m", "trio_smtp", "--maildir", str(maildir), *options], errors)
    assert process.stdout is not None
    with process, process.stdout as output:
        try:
            with trio.fail_after(PATIENCE):
                port = await trio.to_thread.run_sync(_port, output, abandon_on_cancel=True)
                yield Command(process, port, maildir, errors)
                assert process.poll() is None
                process.terminate()
                await trio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
            assert process.returncode == 0
        finally:
            process.kill()


def _start(arguments: list[str], errors: Path) -> subprocess.Popen[bytes]:
    arguments += ["--host", "127.0.0.1", "--port", "0"]
    with errors.open("wb") as file:
        return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=file)


def _port(output: IO[bytes]) -> int:
    for line in output:
        if found := re.match(rb"Listening on 127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("it ended without listening")


# --- one message, in every way there is ---


async def by_data(client: Client, body: bytes) -> Reply:
    return await client.send_message("a@example.org", ["b@example.com"], body)


async def _envelope(client: Client) -> None:
    assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
    assert (await client.command("RCPT TO:<b@example.com>")).code == 250


async def by_bdat(client: Client, body: bytes) -> Reply:
    await _envelope(client)
    await client.send_bytes(b"BDAT %d LAST\r\n%s" % (len(body), body))
    return await client.read_reply()


async def by_chunks(client: Client, body: bytes) -> Reply:
    """In three; the one that fails is the message's reply."""
    await _envelope(client)
    third = len(body) // 3
    chunks = [body[:third], body[third : 2 * third], body[2 * third :]]
    for chunk in chunks[:-1]:
        await client.send_bytes(b"BDAT %d\r\n%s" % (len(chunk), chunk))
        reply = await client.read_reply()
        if reply.code >= 400:
            assert (await client.command("RSET")).code == 250
            return reply
    await client.send_bytes(b"BDAT %d LAST\r\n%s" % (len(chunks[-1]), chunks[-1]))
    return await client.read_reply()


async def by_pipeline(client: Client, body: bytes) -> Reply:
    """Everything at once, and two commands behind the message."""
    await client.send_bytes(
        b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + stuff(body) + b"NOOP\r\nRSET\r\n"
    )
    codes = [(await client.read_reply()).code for _ in range(3)]
    assert codes == [250, 250, 354]
    reply = await client.read_reply()
    assert [(await client.read_reply()).code for _ in range(2)] == [250, 250]
    return reply


WAYS = [by_data, by_bdat, by_chunks, by_pipeline]
