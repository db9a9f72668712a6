#!/usr/bin/env python3
"""Several machines on one: HAProxy, two front ends, a Redis and a consumer, killed again and again under load.

    python benchmarks/soak_redis.py [--directory DIR] [--kills 200] [--senders 8] [--seed N]
    python benchmarks/soak_redis.py --throughput [--seconds 10] [--senders 16]

It runs examples/haproxy_redis/ as it is, but for the ports, with redis-server and haproxy of the system. At random
moments Redis, a front end or the consumer is killed (SIGKILL), or a front end is drained (SIGTERM) and replaced. Then
every message that got its 250 must be in the consumer's index. The exit code is 0 when none is missing.

With --throughput nothing is killed: messages per second of one front end and of two are measured, through HAProxy.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import attrs
import trio

from trio_smtp.client import DeliveryError, connect

EXAMPLE = Path(__file__).parent.parent / "examples" / "haproxy_redis"
#: Seconds for anything that must come to its end.
PATIENCE = 60
BODY = b"line of text\r\n" * 40
#: Now and then a message that has a key of its own.
LARGE_BODY = b"line of text\r\n" * 8_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@attrs.define
class Programs:
    """The programs by name, as they are started and as they run."""

    directory: Path
    commands: dict[str, list[str]] = attrs.field(factory=dict)
    environment: dict[str, str] = attrs.field(factory=dict)
    ports: dict[str, int] = attrs.field(factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    def prepare(self) -> None:
        """Write HAProxy's configuration and all commands."""
        directory = self.directory
        self.ports = {name: free_port() for name in ("haproxy", "one", "two")}
        text = (EXAMPLE / "haproxy.cfg").read_text(encoding="utf-8")
        for old, name in ((":2525", "haproxy"), ("127.0.0.1:8025", "one"), ("127.0.0.1:8026", "two")):
            assert old in text
            text = text.replace(old, f"127.0.0.1:{self.ports[name]}")
        (directory / "haproxy.cfg").write_text(text, encoding="utf-8")
        (directory / "data").mkdir()
        self.environment = {
            **os.environ,
            "REDIS": f"unix://{directory}/redis.sock",
            "INDEX": str(directory / "index.db"),
            "PYTHONPATH": str(EXAMPLE.parent.parent),
        }
        redis = ["redis-server", "--port", "0", "--unixsocket", f"{directory}/redis.sock", "--save", ""]
        self.commands = {
            "redis": [*redis, "--dir", f"{directory}/data", "--appendonly", "yes", "--appendfsync", "always"],
            "one": [sys.executable, str(EXAMPLE / "front_end.py")],
            "two": [sys.executable, str(EXAMPLE / "front_end.py")],
            "consumer": [sys.executable, str(EXAMPLE / "index.py")],
            "haproxy": ["haproxy", "-q", "-db", "-f", str(directory / "haproxy.cfg")],
        }

    def start(self, name: str) -> None:
        """Start one; its output goes to a file."""
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**self.environment, "PORT": str(self.ports.get(name, 0))},
            )

    async def end(self, name: str, number: int) -> None:
        """Send one a signal, and wait for its end."""
        process = self.running.pop(name)
        process.send_signal(number)
        await trio.to_thread.run_sync(partial(process.wait, PATIENCE))

    async def wait_for(self, port: int) -> None:
        """Wait until a server is there."""
        with trio.fail_after(PATIENCE):
            while True:
                with suppress(OSError):
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    return
                await trio.sleep(0.05)

    def kill_all(self) -> None:
        """Kill whatever runs."""
        for process in self.running.values():
            process.kill()
            process.wait()


@attrs.define
class Tally:
    """What the senders saw."""

    begun: int = 0
    acknowledged: set[int] = attrs.field(factory=set)
    refused: int = 0
    lost: int = 0


async def send(port: int, tally: Tally, rng: random.Random) -> None:
    """Send messages over one connection after the other, for ever."""
    while True:
        try:
            async with connect(f"smtp://127.0.0.1:{port}", tls="none") as client:
                for _ in range(20):
                    tally.begun += 1
                    number = tally.begun
                    body = LARGE_BODY if rng.random() < 0.02 else BODY
                    message = b"Subject: %d\r\n\r\n%s" % (number, body)
                    await client.send("a@example.org", ["b@example.com"], message)
                    tally.acknowledged.add(number)
        except DeliveryError:
            tally.refused += 1
        except (OSError, trio.BrokenResourceError):
            tally.lost += 1
        await trio.sleep(0.01)


def indexed(directory: Path) -> Counter[int]:
    """How often each message is in the index."""
    with closing(sqlite3.connect(directory / "index.db")) as database:
        return Counter(int(subject) for (subject,) in database.execute("SELECT subject FROM mail"))


async def disturb(programs: Programs, kills: int, rng: random.Random) -> Counter[str]:
    """Kill and replace, at random moments."""
    done: Counter[str] = Counter()
    for _ in range(kills):
        await trio.sleep(rng.uniform(0.05, 0.4))
        name = rng.choice(["redis", "redis", "one", "two", "consumer"])
        drained = name in programs.ports and rng.random() < 0.3
        await programs.end(name, signal.SIGTERM if drained else signal.SIGKILL)
        programs.start(name)
        if name in programs.ports:
            await programs.wait_for(programs.ports[name])
        done[f"{name} {'drained' if drained else 'killed'}"] += 1
    return done


async def soak(directory: Path, kills: int, senders: int, seed: int) -> bool:
    """Run everything; returns whether nothing is missing."""
    programs, tally, rng = Programs(directory), Tally(), random.Random(seed)
    programs.prepare()
    try:
        for name in programs.commands:
            programs.start(name)
        await programs.wait_for(programs.ports["haproxy"])
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(senders):
                nursery.start_soon(send, programs.ports["haproxy"], tally, random.Random(seed + number))
            done = await disturb(programs, kills, rng)
            print(f"{trio.current_time() - begun:.1f} s for these", flush=True)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(PATIENCE) as scope:
            left = -1
            while len(missing := tally.acknowledged - indexed(directory).keys()):
                if len(missing) != left:
                    left, scope.deadline = len(missing), trio.current_time() + PATIENCE
                await trio.sleep(0.2)
        found = indexed(directory)
        missing = tally.acknowledged - found.keys()
    finally:
        programs.kill_all()
    doubled = sum(count - 1 for count in found.values())
    print(", ".join(f"{name} {count}" for name, count in sorted(done.items())))
    print(f"{tally.begun} begun, {len(tally.acknowledged)} got 250, {len(missing)} of them missing, {doubled} doubled,")
    print(f"{len(found.keys() - tally.acknowledged)} stored without a 250; {tally.refused + tally.lost} failures seen")
    return not missing and len(tally.acknowledged) > kills


async def throughput(directory: Path, seconds: float, senders: int) -> None:
    """Measure one front end, then two, three times each."""
    programs, rng = Programs(directory), random.Random(1)
    programs.prepare()
    try:
        for name in ("redis", "one", "haproxy"):
            programs.start(name)
        for round_number in range(6):
            count = 1 + round_number % 2
            if count == 2:
                programs.start("two")
                await programs.wait_for(programs.ports["two"])
            await programs.wait_for(programs.ports["one"])
            await trio.sleep(3)  # HAProxy's checks find it
            tally, begun = Tally(), time.monotonic()
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    for _ in range(senders):
                        nursery.start_soon(send, programs.ports["haproxy"], tally, rng)
            rate = len(tally.acknowledged) / (time.monotonic() - begun)
            print(f"{count} front end{'s' * (count - 1)}: {rate:.0f} messages/s", flush=True)
            if count == 2:
                await programs.end("two", signal.SIGTERM)
    finally:
        programs.kill_all()


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill the parts of several machines, and look for what is missing.")
    parser.add_argument("--directory", type=Path, help="where data goes; on a real disk")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--throughput", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.directory) as directory:
        if options.throughput:
            trio.run(throughput, Path(directory), options.seconds, options.senders)
            return 0
        return 0 if trio.run(soak, Path(directory), options.kills, options.senders, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
