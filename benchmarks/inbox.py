"""What the inbox bears: messages a second while a page is open, lists and searches of many messages, memory.

    python benchmarks/inbox.py [--messages N] [--seconds S] [--connections N] [--size OCTETS]

It runs `trio-smtp inbox` with a temporary database, sends by `load.py`, and listens at the websocket as an open page
does. Lists and searches are measured twice: as soon as the messages are stored, and when the index is whole. It prints
figures and no judgement, but for messages that were acknowledged and are not there: then its exit code is 1.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from processes import resident_memory

HERE = Path(__file__).parent
_SYLLABLES = [
    f"{first}{second}" for first in "bdfgklmnprstvwz" for second in ("a", "e", "i", "o", "u", "an", "er", "ist")
]
#: Words that messages are made of: as in any language, a few of them stand everywhere, and most in few messages.
_WORDS = [f"{first}{second}" for first in _SYLLABLES for second in _SYLLABLES[::4]]
_WEIGHTS = [1 / rank for rank in range(1, len(_WORDS) + 1)]


class Server:
    """The command, listening.

    Args:
        messages: So many are kept.
    """

    def __init__(self, messages: int) -> None:
        command = [sys.executable, "-m", "trio_smtp", "inbox", "--smtp", "0", "--http", "0"]
        self.process = subprocess.Popen(
            [*command, "--max-messages", str(messages)], stdout=subprocess.PIPE, text=True, cwd=HERE.parent
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(2)]
        self.http, self.smtp = (int(re.findall(r":(\d+)\b(?!.*:\d)", line)[0]) for line in lines)

    def get(self, path: str, **query: str) -> Any:
        """An answer of the API."""
        url = f"http://127.0.0.1:{self.http}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as response:
            return json.load(response)

    def listen(self) -> list[int]:
        """Open a websocket; the list that is returned counts the octets that come."""
        came = [0]
        sock = socket.create_connection(("127.0.0.1", self.http))
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{self.http}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

        def read() -> None:
            with suppress(OSError):
                while octets := sock.recv(65_536):
                    came[0] += len(octets)

        threading.Thread(target=read, daemon=True).start()
        return came


def send(server: Server, arguments: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Have `load.py` send messages; returns what it counted."""
    command = [sys.executable, str(HERE / "load.py"), str(server.smtp), "--pid", str(server.process.pid)]
    command += ["--connections", str(arguments.connections), "--size", str(arguments.size), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def fill(server: Server, number: int, size: int) -> None:
    """Send messages of words, so that searches find some of them and not all."""
    dice = random.Random(5)

    def some() -> None:
        from smtplib import SMTP

        with SMTP("127.0.0.1", server.smtp) as client:
            for _ in range(number // 8):
                words = " ".join(dice.choices(_WORDS, _WEIGHTS, k=size // 5))
                lines = "\r\n".join(words[start : start + 70] for start in range(0, len(words), 70))
                head = f"From: a@example.com\r\nTo: b@example.com\r\nSubject: {words[:40]}\r\n\r\n"
                client.sendmail("a@example.com", ["b@example.com"], head + lines)

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def percentile(measured: Callable[[], object], rounds: int = 60) -> float:
    """The 95th percentile, in milliseconds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        measured()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[int(rounds * 0.95)] * 1000


def look(server: Server, when: str) -> None:
    """Measure lists and searches."""
    dice = random.Random(7)

    def search() -> None:
        server.get("search", query=f"{dice.choice(_WORDS)} {dice.choice(_WORDS)}")

    print(f"{when}: list p95 {percentile(lambda: server.get('messages')):.0f} ms", end="")
    print(f", two words p95 {percentile(search):.0f} ms", end="")
    print(f", a word of all messages p95 {percentile(lambda: server.get('search', query=_WORDS[0])):.0f} ms", end="")
    print(f", from: p95 {percentile(lambda: server.get('search', query='from:nobody')):.0f} ms", end="")
    print(f", two letters p95 {percentile(lambda: server.get('search', query='zz'), 20):.0f} ms")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000, metavar="N", help="stored for lists and searches")
    parser.add_argument("--seconds", type=float, default=5.0, help="of sending as fast as it goes")
    parser.add_argument("--connections", type=int, default=20, metavar="N")
    parser.add_argument("--size", type=int, default=4096, metavar="OCTETS")
    parser.add_argument("--indexing", type=float, default=60.0, metavar="SECONDS", help="waited for the index")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    server = Server(arguments.messages)
    try:
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        came = server.listen()
        before = resident_memory(server.process.pid)
        sent = send(server, arguments, "--seconds", str(arguments.seconds), "--warm-up", "0.5")
        total = server.get("info")["Messages"]
        print(
            f"accepted with a page open: {sent['messages'] / sent['seconds']:.0f} messages/s of {arguments.size} octets"
        )
        print(f"told to the page: {came[0]:,} octets; kept: {total}")
        if total < min(sent["messages"], arguments.messages):
            print("MESSAGES ARE MISSING")
            return 1
        request = urllib.request.Request(f"http://127.0.0.1:{server.http}/api/v1/messages", method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()
        fill(server, arguments.messages, arguments.size)
        stored = server.get("info")
        look(server, f"{stored['Messages']} messages, {stored['DatabaseSize'] >> 20} MiB, just stored")
        time.sleep(arguments.indexing)
        look(server, f"after {arguments.indexing:.0f} s more")
        growth = resident_memory(server.process.pid) - before
        print(f"memory: {before / 2**20:.0f} MiB at first, {growth / 2**20:+.0f} MiB at the end")
    finally:
        server.process.terminate()
        server.process.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
