"""A real Redis for tests, and one that answers what a test wants."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

#: Seconds for anything that waits.
PATIENCE = 30
#: Seconds after which a Redis ends itself.
LIFETIME = 300


@attrs.define(eq=False)
class Redis:
    """A redis-server on a Unix socket, whose data is synced before it answers."""

    directory: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    name: str = "redis"

    @property
    def socket(self) -> str:
        return str(self.directory / f"{self.name}.sock")

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    async def start(self) -> None:
        """Start it, on the data that is there."""
        data = self.directory / f"{self.name}-data"
        data.mkdir(exist_ok=True)
        Path(self.socket).unlink(missing_ok=True)
        command = ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", str(data), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always", *self.options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - returns at once
        with trio.fail_after(PATIENCE):
            while (await self.cli("PING"))[:4] not in {"PONG", "NOAU"}:  # noqa: ASYNC110 - a program
                await trio.sleep(0.01)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; SIGKILL, and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            await trio.to_thread.run_sync(self.process.wait)
            self.process = None

    async def cli(self, *command: str) -> str:
        """What redis-cli says to a command."""
        done = await trio.run_process(
            ["redis-cli", "-s", self.socket, *command], capture_stdout=True, capture_stderr=True, check=False
        )
        return done.stdout.decode().strip()


@asynccontextmanager
async def running_redis(directory: Path, *options: str, name: str = "redis") -> AsyncIterator[Redis]:
    """Run a Redis; at the end it is killed."""
    redis = Redis(directory, options, name=name)
    try:
        await redis.start()
        yield redis
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            if redis.process is not None:
                await redis.kill()


Answer = bytes | Callable[[list[bytes]], bytes]
HELLO = b"%3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n"
NIL = b"_\r\n"


def bulk(*values: bytes) -> bytes:
    """Strings, as Redis sends them."""
    return b"".join(b"$%d\r\n%s\r\n" % (len(value), value) for value in values)


@attrs.define
class Fake:
    """A Redis that answers from a table, by the command's name; `heard` is what it was told."""

    url: str
    answers: Mapping[bytes, Answer]
    heard: list[list[bytes]] = attrs.field(factory=list)

    async def serve(self, stream: trio.abc.Stream) -> None:
        data = bytearray()
        async for chunk in stream:
            data += chunk
            while (command := _take(data)) is not None:
                self.heard.append(command)
                answer = self.answers.get(command[0], HELLO if command[0] == b"HELLO" else b"+OK\r\n")
                answer = answer(command) if callable(answer) else answer
                try:
                    await stream.send_all(answer.removesuffix(b"close"))
                except trio.BrokenResourceError:
                    return
                if answer.endswith(b"close"):
                    await stream.aclose()
                    return


def _take(data: bytearray) -> list[bytes] | None:
    """Take a command out of what was received, when it is whole."""
    lines = bytes(data).split(b"\r\n", 1)
    if len(lines) < 2:
        return None
    rest, words = lines[1], []
    for _ in range(int(lines[0][1:])):
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size[1:]) + 2:
            return None
        words.append(rest[: int(size[1:])])
        rest = rest[int(size[1:]) + 2 :]
    data[:] = rest
    return words


@asynccontextmanager
async def fake_redis(directory: Path, answers: Mapping[bytes, Answer]) -> AsyncIterator[Fake]:
    """Run a `Fake`."""
    path = str(directory / "fake.sock")
    fake = Fake(f"unix://{path}", answers)
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(path)
    listening.listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, fake.serve, [trio.SocketListener(listening)]))
        yield fake
        nursery.cancel_scope.cancel()
