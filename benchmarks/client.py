"""How long 1,000 small messages over one connection take: smtplib beside the library's client.

    python benchmarks/client.py [--messages N] [--rounds N] [--delay SECONDS]

The server is the library's own, in a process of its own. Between the two stands a relay, in a third process, that
holds every octet back for a while in each direction, as a network does; with ``--delay 0`` there is none. The best of
several rounds counts, and the load of the machine is printed beside it. Beside the time stands the client's own time on
the processor, for a message, which other work on the machine does not prolong.
"""

from __future__ import annotations

import argparse
import os
import smtplib
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from trio_smtp import App, Config, DataContext, SMTPServer
from trio_smtp.client import Client, Mail, SendResult, connect

SENDER, RECIPIENT = "a@example.org", "b@example.com"
MESSAGE = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"

Way = Callable[[int, int], float]


async def serve() -> None:
    """The server: takes every message, prints its port, and ends when its standard input does."""
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.read()

    server = SMTPServer(app, Config(hostname="mx.example"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0, host="127.0.0.1"))
        print(server.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def relay(port: int, delay: float) -> None:
    """The relay, likewise: what comes goes on after so many seconds, in order, any number of octets under way."""

    async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](100_000)

        async def read() -> None:
            async with send:
                while data := bytes(await source.receive_some(65_536)):
                    await send.send((trio.current_time() + delay, data))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async for due, data in receive:
                await trio.sleep_until(due)
                await target.send_all(data)
            await target.send_eof()

    async def handle(near: trio.SocketStream) -> None:
        async with near, await trio.open_tcp_stream("127.0.0.1", port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(carry, near, far)
            nursery.start_soon(carry, far, near)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        print(listener.socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


@contextmanager
def process(*arguments: str) -> Iterator[int]:
    """Run this file in another process, in one of the roles above; gives the port that it prints."""
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            yield int(other.stdout.readline())
        finally:
            other.stdin.close()


def with_smtplib(port: int, count: int) -> float:
    """Seconds that smtplib takes."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()
        begin = time.perf_counter()
        for _ in range(count):
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)
        return time.perf_counter() - begin


def with_client(use: Callable[[Client, int], Awaitable[None]]) -> Way:
    """Seconds that the library's client takes, used in a certain way."""

    async def measure(port: int, count: int) -> float:
        async with connect(f"smtp://127.0.0.1:{port}", tls="none") as client:
            begin = time.perf_counter()
            await use(client, count)
            return time.perf_counter() - begin

    return lambda port, count: trio.run(measure, port, count)


async def one_by_one(client: Client, count: int) -> None:
    for _ in range(count):
        await client.send(SENDER, RECIPIENT, MESSAGE)


async def by_data(client: Client, count: int) -> None:
    await many(client, count, chunking=False)


async def by_bdat(client: Client, count: int) -> None:
    await many(client, count, chunking=True)


async def many(client: Client, count: int, *, chunking: bool) -> None:
    results = await client.send_many([Mail(SENDER, RECIPIENT, MESSAGE)] * count, chunking=chunking)
    assert sum(isinstance(result, SendResult) for result in results) == count


WAYS: dict[str, Way] = {
    "smtplib": with_smtplib,
    "send": with_client(one_by_one),
    "send_many": with_client(by_data),
    "send_many(chunking=True)": with_client(by_bdat),
}


def measure(port: int, count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """The best of several rounds for each way: seconds, and seconds on the client's processor.

    The ways take turns, so that all see the same machine.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            begin = time.process_time()
            seconds = way(port, count)
            found[name].append((seconds, time.process_time() - begin))
    return {name: (min(each for each, _ in all_), min(each for _, each in all_)) for name, all_ in found.items()}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["serve"]:
        trio.run(serve)
        return
    if arguments[:1] == ["relay"]:
        trio.run(relay, int(arguments[1]), float(arguments[2]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0005, help="seconds in each direction (default: 0.0005)")
    given = parser.parse_args(arguments)
    with process("serve") as port:
        if given.delay:
            with process("relay", str(port), str(given.delay)) as between:
                best = measure(between, given.messages, given.rounds)
        else:
            best = measure(port, given.messages, given.rounds)
    for name, (seconds, busy) in best.items():
        each, times = busy / given.messages * 1e6, best["smtplib"][0] / seconds
        print(f"{name:26} {seconds:7.3f} s  {each:4.0f} us a message  {times:6.1f} times smtplib")
    load = " ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{given.messages} messages, best of {given.rounds}; {os.cpu_count()} cores, load {load}")


if __name__ == "__main__":
    main(sys.argv[1:])
