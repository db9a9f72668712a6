"""How much memory a large message takes: next to none, whatever its size, however slow the handler.

    python benchmarks/memory.py [--size MIB] [--most MIB]

A server in a process of its own takes a small message and then a large one (200 MiB), through a handler that hashes
each chunk and sleeps a millisecond. In between nothing but the large message happens: by how much it moves the peak of
the process's resident memory is the figure. Exit code 1 when that is not less than 4 MiB, or the hash is wrong.
"""

import argparse
import hashlib
import platform
import re
import resource
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
#: A mebibyte of lines, some of which begin with a dot.
BLOCK = (b"".join(b"%s%-70d\r\n" % (b"." if n % 10 == 0 else b"", n) for n in range(15_000))[: MIB - 2]) + b"\r\n"


def peak_memory() -> int:
    """The most resident memory this process ever had, in octets."""
    try:
        # getrusage's figure begins with what the parent had.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve() -> None:
    """The server: says its port, and for each message how much came, its hash, and the peak."""
    sys.path.insert(0, str(ROOT))
    import trio

    from trio_smtp import App, Config, DataContext, SMTPServer

    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        digest = hashlib.sha256()
        async for chunk in ctx.stream:
            await trio.sleep(0.001)
            digest.update(chunk)
        print(ctx.stream.byte_length, digest.hexdigest(), peak_memory(), flush=True)

    async def main() -> None:
        server = SMTPServer(app, Config(max_message_size=None))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, await server.listen_tcp(port=0))
            print(server.port, flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)  # until the client is done with us
            server.drain()

    trio.run(main)


@contextmanager
def running_server() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def send(client: smtplib.SMTP, block: bytes, times: int) -> str:
    """Send a message of so many blocks, a block at a time; returns its hash."""
    digest = hashlib.sha256()
    client.ehlo_or_helo_if_needed()
    client.mail("benchmark@example.org")
    client.rcpt("benchmark@example.com")
    client.docmd("DATA")
    stuffed = re.sub(rb"(?m)^\.", b"..", block)
    for _ in range(times):
        digest.update(block)
        client.send(stuffed)
    client.send(b".\r\n")
    code, reply = client.getreply()
    if code != 250:
        raise SystemExit(f"the server refused the message: {code} {reply!r}")
    return digest.hexdigest()


def measure(size: int, most: float) -> int:
    """Print the figures; returns the exit code."""
    with running_server() as process:
        assert process.stdout is not None
        client = smtplib.SMTP("127.0.0.1", int(process.stdout.readline()))
        send(client, BLOCK[:1024] + b"\r\n", 1)
        _, _, before = process.stdout.readline().split()
        start = time.perf_counter()
        expected = send(client, BLOCK, size)
        seconds = time.perf_counter() - start
        octets, digest, after = process.stdout.readline().split()
        client.quit()
    growth = (int(after) - int(before)) / MIB
    whole = int(octets) == size * len(BLOCK) and digest == expected
    holds = whole and growth < most
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"message            {int(octets) / MIB:8.1f} MiB in {seconds:.1f} s, hash {'right' if whole else 'WRONG'}")
    print(f"peak before        {int(before) / MIB:8.1f} MiB")
    print(f"peak after         {int(after) / MIB:8.1f} MiB")
    print(f"growth             {growth:8.1f} MiB, must be less than {most:g}: {'holds' if holds else 'DOES NOT HOLD'}")
    return 0 if holds else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Peak memory of a server that takes a large message.")
    parser.add_argument("--size", type=int, default=200, metavar="MIB", help="the message (default: %(default)s)")
    parser.add_argument(
        "--most", type=float, default=4, metavar="MIB", help="growth must be less (default: %(default)s)"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    return measure(arguments.size, arguments.most)


if __name__ == "__main__":
    sys.exit(main())
