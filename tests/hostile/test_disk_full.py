"""A full disk under the command in a process of its own: refused for now, nothing half, and mail flows again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support import status
from trio_smtp import Reply
from trio_smtp.testing import Client, stuff

from .process_support import WAYS, Command, by_data, command

FULL = (452, "4.3.1")
#: Streamed to the disk in several batches.
LARGE = b"".join(b"%-62d\r\n" % n for n in range(5000))
SMALL = b"Subject: small\r\n\r\n" + b"x" * 70 + b"\r\n"

_MOUNT = 'mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@"'


def _small_disk(disk: Path, limits: str) -> list[str]:
    """What becomes a process with a file system of its own, that goes when the process does."""
    if not sys.platform.startswith("linux"):
        pytest.skip("small file systems are mounted in a way of Linux's")
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNT, limits, str(disk)]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if tried.returncode:
        pytest.skip(f"no small file system can be mounted: {tried.stderr.strip()}")
    return prefix


@asynccontextmanager
async def on_a_small_disk(tmp_path: Path, limits: str, *options: str) -> AsyncIterator[Command]:
    """The command, and a disk for its mail."""
    disk = tmp_path / "disk"
    disk.mkdir()
    async with command(_small_disk(disk, limits), disk / "mail", tmp_path / "errors", *options) as running:
        # Nobody else has that file system, but it can be seen through the process.
        running.maildir = Path(f"/proc/{running.process.pid}/root{running.maildir}")
        yield running


Way = Callable[[Client, bytes], Awaitable[Reply]]


async def fill(client: Client, way: Way, body: bytes) -> int:
    """Send messages until one does not fit; returns how many did."""
    for count in range(1000):
        reply = await way(client, body)
        if reply.code != 250:
            assert status(reply) == FULL
            return count
    raise AssertionError("there is no end to this disk")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_no_space(tmp_path: Path, way: Way) -> None:
    async with on_a_small_disk(tmp_path, "size=1m") as running, running.client() as client:
        large = await fill(client, way, LARGE)
        assert large >= 2
        assert running.bodies() == [LARGE] * large
        # Less than a large one needs is left, and it is not lost to those that fit.
        small = await fill(client, way, SMALL)
        assert small >= 1
        assert sorted(running.bodies()) == sorted([LARGE] * large + [SMALL] * small)
        for other in WAYS:
            for body in (LARGE, SMALL):
                assert status(await other(client, body)) == FULL
        assert sorted(running.bodies()) == sorted([LARGE] * large + [SMALL] * small)
        running.remove_messages()
        for body in (LARGE, SMALL):
            assert (await way(client, body)).code == 250
        async with running.client() as another:
            assert (await way(another, SMALL)).code == 250
        assert sorted(running.bodies()) == sorted([LARGE, SMALL, SMALL])
        assert running.logged("ERROR") == running.logged("cannot store the message") == 2 + 2 * len(WAYS)
        assert running.logged("No space left on device") == 2 + 2 * len(WAYS)


async def test_no_inodes(tmp_path: Path) -> None:
    async with on_a_small_disk(tmp_path, "size=8m,nr_inodes=20") as running, running.client() as client:
        count = await fill(client, by_data, SMALL)
        assert 5 <= count <= 20
        for way in WAYS:
            for body in (LARGE, SMALL):
                assert status(await way(client, body)) == FULL
        assert running.bodies() == [SMALL] * count
        running.remove_messages()
        assert await fill(client, by_data, SMALL) == count
        assert running.bodies() == [SMALL] * count


async def test_many_fill_it_at_once(tmp_path: Path) -> None:
    """Each learns of its own messages, whoever took the last of the space."""
    accepted: list[int] = []

    async def one() -> None:
        async with running.client() as client:
            accepted.append(await fill(client, by_data, LARGE))
            accepted.append(await fill(client, by_data, SMALL))
            assert (await client.quit()).code == 221

    async with on_a_small_disk(tmp_path, "size=2m") as running:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        bodies = running.bodies()
        assert len(bodies) == sum(accepted)
        assert set(bodies) <= {LARGE, SMALL}
        running.remove_messages()
        async with running.client() as client:
            assert (await by_data(client, LARGE)).code == 250
        assert running.bodies() == [LARGE]


async def test_lmtp(tmp_path: Path) -> None:
    """Every recipient is told."""

    async def send(body: bytes) -> list[tuple[int, str | None]]:
        for line in ("MAIL FROM:<>", "RCPT TO:<a@example.com>", "RCPT TO:<b@example.com>"):
            assert (await client.command(line)).code == 250
        assert (await client.command("DATA")).code == 354
        await client.send_bytes(stuff(body))
        return [status(await client.read_reply()) for _ in range(2)]

    async with on_a_small_disk(tmp_path, "size=512k", "--lmtp") as running, running.client("LHLO x") as client:
        assert await send(LARGE) == [(250, "2.0.0")] * 2
        assert await send(LARGE) == [FULL] * 2
        assert await send(SMALL) == [(250, "2.0.0")] * 2
        running.remove_messages()
        assert await send(LARGE) == [(250, "2.0.0")] * 2
        assert running.bodies() == [LARGE]
