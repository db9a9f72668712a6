#!/usr/bin/env python3
"""Load and faults against the command `trio-smtp` and its Maildir, on loopback: what was acknowledged must be there.

    python benchmarks/soak.py [--directory DIR] [--seconds 60] [--idle 2000] [--senders 50] [--kills 200] [--seed N]

1. Load: idle connections stay open while senders send messages of 1 KiB to 50 MiB.
2. Kills: the server is killed (SIGKILL) at a random moment under load, again and again.
3. Drain: SIGTERM in the middle of 100 transactions, half of which go on; then SIGTERM twice.

After each, every message that got its 250 must be in `new`, octet for octet, and every file in `new` must be whole.
The exit code is 0 when nothing was lost, nothing was partial and the drains went as promised. Everything is bounded.
DIR should be on a real disk (default: the system's temporary directory), and what is made in it is removed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

KIB = 1024
#: Sizes of bodies in octets, and how often each comes.
SIZES = {1 * KIB: 40, 8 * KIB: 30, 64 * KIB: 15, 512 * KIB: 8, 4096 * KIB: 4, 50 * 1024 * KIB: 1}
SMALL_SIZES = {1 * KIB: 50, 16 * KIB: 30, 200 * KIB: 15, 2048 * KIB: 5}
LINE = 76
_HEAD = re.compile(rb"^X-Soak: (\d+) (\d+) ([0-9a-f]{64})\r\n\r\n", re.MULTILINE)


def make_body(size: int) -> bytes:
    """Lines of text, some of which begin with dots or look like commands."""
    text = base64.b64encode(random.Random(size).randbytes(size))
    lines = [text[i : i + LINE] for i in range(0, size, LINE)]
    lines[::97] = [b"." for _ in lines[::97]]
    lines[5::89] = [b"QUIT" for _ in lines[5::89]]
    return b"\r\n".join(lines)[: size - 2] + b"\r\n"


@attrs.define
class Tally:
    """What the clients saw, and what the Maildir holds."""

    begun: int = 0
    acknowledged: set[int] = attrs.field(factory=set)
    checked: int = 0
    octets: int = 0
    unacknowledged: int = 0
    lost: int = 0
    partial: int = 0
    left_in_tmp: int = 0
    unexpected: list[str] = attrs.field(factory=list)

    def check(self, maildir: Path) -> None:
        """Compare, and remove what was compared."""
        found: set[int] = set()
        for file in (maildir / "new").iterdir():
            data = file.read_bytes()
            file.unlink()
            head = _HEAD.search(data)
            body = data[head.end() :] if head else b""
            if head is None or len(body) != int(head[2]) or hashlib.sha256(body).hexdigest() != head[3].decode():
                self.partial += 1
                continue
            found.add(int(head[1]))
            self.octets += len(body)
        for file in (maildir / "tmp").iterdir():
            self.left_in_tmp += 1
            file.unlink()
        self.checked += len(found)
        self.lost += len(self.acknowledged - found)
        self.unacknowledged += len(found - self.acknowledged)
        self.acknowledged.clear()

    @property
    def clean(self) -> bool:
        """All went as promised."""
        return not (self.lost or self.partial or self.unexpected)


class Messages:
    """Messages as they go over the wire, the large parts made once."""

    def __init__(self, sizes: dict[int, int], seed: int) -> None:
        self._dice = random.Random(seed)
        self._sizes = sizes
        self._bodies: dict[int, tuple[bytes, str, bytes]] = {}
        self._count = 0
        for size in sizes:
            body = make_body(size)
            stuffed = re.sub(rb"(?m)^\.", b"..", body) + b".\r\n"
            self._bodies[size] = body, hashlib.sha256(body).hexdigest(), stuffed

    def next(self, size: int | None = None) -> tuple[int, bytes, bytes]:
        """A number, the header, and the body as it goes over the wire."""
        self._count += 1
        if size is None:
            (size,) = self._dice.choices(list(self._sizes), list(self._sizes.values()))
        body, digest, stuffed = self._bodies[size]
        return self._count, f"X-Soak: {self._count} {len(body)} {digest}\r\n\r\n".encode(), stuffed


class Server:
    """The command, in a process of its own."""

    def __init__(self, maildir: Path, port: int, *options: str) -> None:
        command = [sys.executable, "-m", "trio_smtp", "--maildir", str(maildir), "--host", "127.0.0.1"]
        command += [
            "--port",
            str(port),
            "--max-message-size",
            str(64 * KIB * KIB),
            "--max-connections",
            "10000",
            *options,
        ]
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).resolve().parent.parent)

    async def wait_until_up(self) -> None:
        """Wait until it accepts connections."""
        with trio.fail_after(30):
            while True:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", self.port)
                except OSError:
                    if self.process.poll() is not None:
                        sys.exit(f"the server ended at once: {self.process.returncode}")
                    await trio.sleep(0.01)
                else:
                    await stream.aclose()
                    return

    def memory(self, field: str) -> int:
        """KiB, out of /proc."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        return int(match[1]) if match else 0

    def kill(self) -> None:
        """SIGKILL; harmless when it has ended."""
        self.process.kill()
        self.process.wait()

    async def ended(self, seconds: float) -> int:
        """Wait for the end; returns the exit code."""
        with trio.move_on_after(seconds):
            return await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)
        self.kill()
        return -9


class Gone(Exception):
    """The server has gone, or said that it goes."""


class Sender:
    """One client's connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    @classmethod
    async def connect(cls, port: int) -> Sender:
        """A connection that has said EHLO."""
        try:
            sender = cls(await trio.open_tcp_stream("127.0.0.1", port))
        except OSError as exc:
            raise Gone from exc
        await sender.reply(220)
        await sender.say(b"EHLO soak.example\r\n", 250)
        return sender

    async def reply(self, expected: int) -> None:
        """Read a reply, which must have this code."""
        try:
            while not re.search(rb"(?m)^\d{3} .*\r\n\Z", self._buffer):
                data = await self.stream.receive_some(65_536)
                if not data:
                    raise Gone
                self._buffer += data
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise Gone from exc
        reply, self._buffer = self._buffer, b""
        if reply.startswith(b"421"):
            raise Gone
        if not reply.startswith(str(expected).encode()):
            raise AssertionError(f"expected {expected}, not {reply!r}")

    async def say(self, wire: bytes, expected: int) -> None:
        """Send this, and read the reply."""
        with contextlib.suppress(trio.BrokenResourceError):  # a last reply may be there to be read
            await self.stream.send_all(wire)
        await self.reply(expected)

    async def begin(self) -> None:
        """Up to the 354."""
        await self.say(b"MAIL FROM:<a@soak.example>\r\n", 250)
        await self.say(b"RCPT TO:<b@soak.example>\r\n", 250)
        await self.say(b"DATA\r\n", 354)

    async def send(self, messages: Messages, tally: Tally) -> None:
        """Send a message and note its 250."""
        number, head, stuffed = messages.next()
        await self.begin()
        tally.begun += 1
        try:
            await self.stream.send_all(head)
        except trio.BrokenResourceError as exc:
            raise Gone from exc
        await self.say(stuffed, 250)
        tally.acknowledged.add(number)

    async def aclose(self) -> None:
        """Close without a word."""
        await trio.aclose_forcefully(self.stream)


async def send_until(port: int, messages: Messages, tally: Tally, going_on: Callable[[], bool]) -> None:
    """Message after message, a new connection for every few of them."""
    try:
        while going_on():
            sender = await Sender.connect(port)
            try:
                for _ in range(5):
                    if going_on():
                        await sender.send(messages, tally)
            finally:
                await sender.aclose()
    except Gone:
        return
    except AssertionError as exc:
        tally.unexpected.append(str(exc))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def load(maildir: Path, arguments: argparse.Namespace) -> Tally:
    tally, messages = Tally(), Messages(SIZES, arguments.seed)
    server = Server(maildir, free_port())
    try:
        await server.wait_until_up()
        (await Sender.connect(server.port)).stream.socket.close()
        before = server.memory("VmRSS")
        idle = [await Sender.connect(server.port) for _ in range(arguments.idle)]
        await trio.sleep(1)
        each = (server.memory("VmRSS") - before) / max(1, len(idle))
        began = time.monotonic()

        def going_on() -> bool:
            return time.monotonic() - began < float(arguments.seconds)

        async with trio.open_nursery() as nursery:
            for _ in range(arguments.senders):
                nursery.start_soon(send_until, server.port, messages, tally, going_on)
        seconds = time.monotonic() - began
        for sender in idle:
            await sender.say(b"NOOP\r\n", 250)
        peak = server.memory("VmHWM")
    finally:
        server.kill()
    acknowledged = len(tally.acknowledged)
    tally.check(maildir)
    print(
        f"load: {len(idle)} idle connections at {each:.1f} KiB each, all of them alive at the end; "
        f"{arguments.senders} senders, {acknowledged} messages, {tally.octets / 2**20:.0f} MiB in {seconds:.0f} s; "
        f"peak memory {peak / 1024:.0f} MiB; lost {tally.lost}, partial {tally.partial}"
    )
    return tally


async def kills(maildir: Path, arguments: argparse.Namespace) -> Tally:
    tally, messages = Tally(), Messages(SMALL_SIZES, arguments.seed)
    dice = random.Random(arguments.seed)
    acknowledged, began = 0, time.monotonic()
    port = free_port()
    for _ in range(arguments.kills):
        server = Server(maildir, port)
        try:
            await server.wait_until_up()
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(send_until, port, messages, tally, lambda: True)
                await trio.sleep(dice.uniform(0, 0.6))
                server.kill()
        finally:
            server.kill()
        acknowledged += len(tally.acknowledged)
        tally.check(maildir)
    print(
        f"kills: {arguments.kills} times SIGKILL in {time.monotonic() - began:.0f} s; {tally.begun} messages begun, "
        f"{acknowledged} acknowledged, {tally.unacknowledged} stored whole whose 250 did not leave any more, "
        f"{tally.left_in_tmp} unfinished files left in tmp; lost {tally.lost}, partial {tally.partial}"
    )
    return tally


async def drain(maildir: Path, seed: int) -> Tally:
    """Half of the transactions go on after the SIGTERM, the others fall silent."""
    tally, messages = Tally(), Messages({200 * KIB: 1}, seed)
    server = Server(maildir, free_port(), "--drain-timeout", "5")
    terminated = trio.Event()
    ready = trio.Event()
    refused = 0

    async def transaction(goes_on: bool) -> None:
        nonlocal refused
        number, head, stuffed = messages.next()
        sender = await Sender.connect(server.port)
        try:
            await sender.begin()
            await sender.stream.send_all(head + stuffed[:100_000])
            tally.begun += 1
            if tally.begun == 100:
                ready.set()
            await terminated.wait()
            if goes_on:
                await sender.say(stuffed[100_000:], 250)
                tally.acknowledged.add(number)
            await sender.reply(421)
        except Gone:
            refused += 1
        finally:
            await sender.aclose()

    try:
        await server.wait_until_up()
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(transaction, number % 2 == 0)
            with trio.fail_after(30):
                await ready.wait()
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            await trio.sleep(0.5)
            terminated.set()
        code = await server.ended(30)
        seconds = time.monotonic() - began
    finally:
        server.kill()
    acknowledged = len(tally.acknowledged)
    tally.check(maildir)
    if (code, acknowledged, tally.checked, refused, tally.left_in_tmp) != (0, 50, 50, 100, 0):
        tally.unexpected.append(
            f"drain: code {code}, {acknowledged} acknowledged, {tally.checked} stored, {refused} told"
        )
    print(
        f"drain: SIGTERM in the middle of 100 transactions: {acknowledged} finished and have their file, "
        f"{100 - acknowledged} have neither; {tally.left_in_tmp} files left in tmp; "
        f"exit code {code} after {seconds:.1f} s"
    )
    return tally


async def second_signal(maildir: Path) -> Tally:
    tally, messages = Tally(), Messages({200 * KIB: 1}, 0)
    server = Server(maildir, free_port())
    try:
        await server.wait_until_up()
        senders = [await Sender.connect(server.port) for _ in range(20)]
        for sender in senders:
            _, head, stuffed = messages.next()
            await sender.begin()
            await sender.stream.send_all(head + stuffed[:50_000])
        server.process.send_signal(signal.SIGTERM)
        await trio.sleep(0.5)
        alive = server.process.poll() is None
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = await server.ended(30)
        seconds = time.monotonic() - began
        for sender in senders:
            await sender.aclose()
    finally:
        server.kill()
    tally.check(maildir)
    if not alive or code != 128 + signal.SIGTERM or seconds > 5 or tally.checked:
        tally.unexpected.append(f"second signal: alive {alive}, code {code}, {seconds:.1f} s, {tally.checked} stored")
    print(f"second SIGTERM: ended after {seconds:.2f} s with exit code {code}; {tally.checked} of 20 halves stored")
    return tally


async def main(arguments: argparse.Namespace, maildir: Path) -> bool:
    tallies = [
        await load(maildir, arguments),
        await kills(maildir, arguments),
        await drain(maildir, arguments.seed),
        await second_signal(maildir),
    ]
    for tally in tallies:
        for text in tally.unexpected:
            print(f"UNEXPECTED: {text}")
    total = sum(tally.checked for tally in tallies)
    lost, partial = (sum(getattr(tally, name) for tally in tallies) for name in ("lost", "partial"))
    print(
        f"all: {total} messages compared octet for octet, {arguments.kills + 3} faults, {lost} lost, {partial} partial"
    )
    return all(tally.clean for tally in tallies)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="where the Maildir is made (default: the temporary directory)")
    parser.add_argument("--seconds", type=float, default=60, help="of load")
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--senders", type=int, default=50)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    given = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory(dir=given.directory, prefix="soak-") as place:
        sys.exit(0 if trio.run(main, given, Path(place) / "mail") else 1)
