"""What a `proxy` adds: milliseconds to a message and to each command, and memory for a large message.

    python benchmarks/proxy.py [--messages N] [--memory MEBIBYTES]

The next server, the front and the client are processes of their own, on loopback. The client says one command after
the other and waits for each reply, once to the next server and once to the front, in turns. With ``--memory`` a message
of so many mebibytes goes through instead, and the front's peak of memory is printed before and after.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from trio_smtp import App, Config, DataContext, SMTPServer
from trio_smtp.client import Client, connect
from trio_smtp.delivery.proxy import proxy

MESSAGE = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"
STEPS = ("MAIL", "RCPT", "DATA", "end")


def make_app(port: int) -> App:
    """The next server's App, or that of the front before a port."""
    app = App()
    if port:
        return app.use(proxy(f"smtp://127.0.0.1:{port}", tls="none"))

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()

    return app


async def serve(port: int) -> None:
    """Serve; prints the port, and ends when its standard input does."""
    server = SMTPServer(make_app(port), Config(hostname="mx.example", max_message_size=None))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0, host="127.0.0.1"))
        print(server.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


@contextmanager
def process(port: int = 0) -> Iterator[tuple[int, int]]:
    """The next server, or the front before one; gives its port and its process."""
    command = [sys.executable, __file__, "--serve", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            yield int(other.stdout.readline()), other.pid
        finally:
            other.stdin.close()


async def message(client: Client) -> list[float]:
    """One message; gives the seconds of each step."""
    times = [time.perf_counter()]
    async with client.transaction("a@example.org") as transaction:
        times.append(time.perf_counter())
        await transaction.recipient("b@example.com")
        times.append(time.perf_counter())
        await transaction.data_start()
        times.append(time.perf_counter())
        await transaction.write(MESSAGE)
        await transaction.finish()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


async def latency(back: int, front: int, count: int) -> None:
    """Measure both ways in turns."""
    direct: list[list[float]] = []
    through: list[list[float]] = []
    async with (
        connect(f"smtp://127.0.0.1:{back}", tls="none") as near,
        connect(f"smtp://127.0.0.1:{front}", tls="none") as far,
    ):
        for number in range(count + 50):
            one, other = await message(near), await message(far)
            if number >= 50:  # the first ones open connections
                direct.append(one)
                through.append(other)
    print("p50 in ms   direct  through  added")
    for index, step in enumerate((*STEPS, "message")):
        before, after = (
            1000 * statistics.median(sum(each) if step == "message" else each[index] for each in way)
            for way in (direct, through)
        )
        print(f"{step:10} {before:7.3f}  {after:7.3f}  {after - before:5.3f}")
    print(f"{count} messages; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def peak(pid: int) -> float:
    """The most memory that a process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


async def send(client: Client, mebibytes: float) -> None:
    """Send a message of so many mebibytes."""
    block = (b"x" * 1022 + b"\r\n") * 64
    async with client.transaction("a@example.org") as transaction:
        await transaction.recipient("b@example.com")
        await transaction.data_start()
        for _ in range(int(mebibytes * 16)):
            await transaction.write(block)
        (reply,) = await transaction.finish()
        assert reply.code == 250


async def memory(front: int, pid: int, mebibytes: int) -> None:
    """Send a small message, then a large one."""
    async with connect(f"smtp://127.0.0.1:{front}", tls="none") as client:
        await send(client, 0.25)
        before, began = peak(pid), time.perf_counter()
        await send(client, mebibytes)
        seconds, grown = time.perf_counter() - began, peak(pid) - before
    print(f"{mebibytes} MiB in {seconds:.1f} s: the front's peak grew by {grown:.2f} MiB to {before + grown:.1f}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--memory", type=int, metavar="MEBIBYTES")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve is not None:
        trio.run(serve, given.serve)
        return
    with process() as (back, _), process(back) as (front, pid):
        if given.memory:
            trio.run(memory, front, pid, given.memory)
        else:
            trio.run(latency, back, front, given.messages)


if __name__ == "__main__":
    main(sys.argv[1:])
