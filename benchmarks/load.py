"""The load client of `run.py`: SMTP messages from one process, over many connections, as fast as Python goes.

    python benchmarks/load.py PORT [--pid PID] [--connections N] [--size OCTETS] [--new] [--pipelined] [...]

Everything that it sends is made beforehand; what is left to do for each reply is a `recv`, one regular expression and a
`send`. It prints one line of JSON: messages, octets and seconds, the CPU time of server and client in between, and the
time from a message's first octet to its 250 that 99 of 100 messages kept below.
An unexpected reply, a lost connection or a server that answers too little ends it with one line and exit code 1.
Only 127.0.0.1 is ever connected to.
"""

from __future__ import annotations

import argparse
import enum
import json
import re
import selectors
import socket
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from processes import cpu_clock, open_files, resident_memory

if TYPE_CHECKING:
    import ssl

HOST = "127.0.0.1"
#: Octets of a line of the body, CRLF included.
LINE = 76
ENVELOPE = b"MAIL FROM:<sender@example.org>\r\nRCPT TO:<recipient@example.com>\r\n"
_CODES = re.compile(rb"^(\d{3})(?: [^\n]*)?\r\n", re.MULTILINE)
_READ, _READ_WRITE = selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE


class Failed(Exception):
    """The server did not do what it should."""


class Unsupported(Exception):
    """The server does not offer the extension that the case is about."""


class Then(enum.Enum):
    """What happens after the replies of a step."""

    NEXT = enum.auto()
    CHECK = enum.auto()
    TLS = enum.auto()
    COUNT = enum.auto()
    CLOSE = enum.auto()


class Step(NamedTuple):
    """What is sent in one go, and the codes that answer it."""

    octets: bytes
    codes: list[bytes]
    then: Then = Then.NEXT


def body(size: int, *, dotted: bool) -> bytes:
    """So many octets of lines, as they are on the wire; with `dotted` each begins with a dot, doubled."""
    line = (b".." if dotted else b"").ljust(LINE - 2, b"x") + b"\r\n"
    whole, rest = divmod(size, LINE)
    return line * whole + (b"y" * (rest - 2) + b"\r\n" if rest > 2 else b"")


def script(arguments: argparse.Namespace) -> tuple[list[Step], int]:
    """The steps of a connection, and where it goes on after a message when it is used again."""
    hello = Step(b"EHLO load.example\r\n", [b"250"], Then.CHECK)
    steps = [Step(b"", [b"220"]), hello]
    if arguments.starttls:
        steps += [Step(b"STARTTLS\r\n", [b"220"], Then.TLS), hello._replace(then=Then.NEXT)]
    text = body(arguments.size, dotted=arguments.dotted)
    if arguments.bdat:
        chunk = b"BDAT %d LAST\r\n" % len(text)
        message = [Step(ENVELOPE, [b"250", b"250"]), Step(chunk + text, [b"250"], Then.COUNT)]
    elif arguments.pipelined:
        # The next message's envelope goes with the end of this one (RFC 2920 section 3.1).
        group = [b"250", b"250", b"354"]
        steps.append(Step(ENVELOPE + b"DATA\r\n", group))
        message = [Step(text + b".\r\n" + ENVELOPE + b"DATA\r\n", [b"250", *group], Then.COUNT)]
    else:
        mail, rcpt = ENVELOPE.splitlines(keepends=True)
        message = [Step(mail, [b"250"]), Step(rcpt, [b"250"]), Step(b"DATA\r\n", [b"354"])]
        message.append(Step(text + b".\r\n", [b"250"], Then.COUNT))
    return [*steps, *message, Step(b"QUIT\r\n", [b"221"], Then.CLOSE)], len(steps)


class Load:
    """All connections, and what is counted."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.port: int = arguments.port
        self.steps, self.again = script(arguments)
        self.new: bool = arguments.new
        # PIPELINING is not among them: a server that reads lines out of a buffer copes without offering it.
        asked = {b"STARTTLS": arguments.starttls, b"CHUNKING": arguments.bdat}
        self.wanted = [keyword for keyword, wanted in asked.items() if wanted]
        self.tls = _client_context(arguments.starttls) if arguments.starttls else None
        self.selector = selectors.DefaultSelector()
        self.finished = False
        self.messages = 0
        self._arguments = arguments
        self._server_cpu = cpu_clock(arguments.pid) if arguments.pid else lambda: 0.0
        self._warm = not arguments.warm_up
        self._begin()

    def _begin(self) -> None:
        self.messages = 0
        self._latencies: list[float] = []
        self._cpu = (self._server_cpu(), time.process_time())
        self._start = time.perf_counter()

    def count(self, begun: float) -> None:
        """A message was accepted, whose first octets were sent at that time."""
        if self.finished:
            return
        now = time.perf_counter()
        if not self._warm:
            if now - self._start >= self._arguments.warm_up:
                self._warm = True
                self._begin()
            return
        self.messages += 1
        self._latencies.append(now - begun)
        if now - self._start >= self._arguments.seconds or self.messages == self._arguments.messages:
            self.seconds = now - self._start
            self.server_cpu = self._server_cpu() - self._cpu[0]
            self.client_cpu = time.process_time() - self._cpu[1]
            self.finished = True

    def run(self) -> dict[str, float]:
        """Send messages for as long as was asked for; returns what was counted.

        Raises:
            Failed: The server did something else than accept them, or nothing at all.
            Unsupported: The server does not offer what the case needs.
        """
        limit = time.monotonic() + self._arguments.warm_up + self._arguments.seconds + self._arguments.patience
        for _ in range(self._arguments.connections):
            Connection(self)
        while not self.finished:
            left = limit - time.monotonic()
            if left <= 0:
                raise Failed(f"the server answers too little: {self.messages} messages until the time was up")
            for key, _ in self.selector.select(left):
                key.data()
        return {
            "messages": self.messages,
            "octets": self.messages * self._arguments.size,
            "seconds": self.seconds,
            "server_cpu": self.server_cpu,
            "client_cpu": self.client_cpu,
            "latency_p99": sorted(self._latencies)[len(self._latencies) * 99 // 100],
        }


def _client_context(ca: str) -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context(cafile=ca)


class Connection:
    """One connection: plays the steps, and a new one takes its place after the last."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex((HOST, load.port))
        self._number = 0
        self._step = load.steps[0]
        self._came = b""
        self._unsent: memoryview | None = None
        self._begun = 0.0
        load.selector.register(self.sock, _READ, self._ready)

    def _ready(self) -> None:
        if self._unsent is not None:
            self._send(self._unsent)
        try:
            data = self.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError as exc:
            if _would_block(exc):
                return
            raise Failed(f"{self._where()}: {exc}") from exc
        if not data:
            raise Failed(f"{self._where()}: the server closed the connection; {self._came!r} came before")
        came = self._came + data if self._came else data
        codes = _CODES.findall(came)
        expected = self._step.codes
        if codes == expected and self._unsent is None and came.endswith(b"\n"):
            self._came = b""
            self._go_on(came)
        elif codes != expected[: len(codes)] or (codes and self._unsent is not None):
            raise Failed(f"{self._where()}: {came!r} is not what answers it")
        else:
            self._came = came

    def _where(self) -> str:
        return f"after {self._step.octets[:40]!r}" if self._step.octets else "connecting"

    def _go_on(self, came: bytes) -> None:
        then, load = self._step.then, self.load
        self._number += 1
        if then is Then.COUNT:
            load.count(self._begun)
            if load.finished:
                return
            if not load.new:
                self._number = load.again
        elif then is Then.CHECK:
            for name in load.wanted:
                if name not in came:
                    raise Unsupported(name.decode())
        elif then is Then.TLS:
            self._start_tls()
            return
        elif then is Then.CLOSE:
            load.selector.unregister(self.sock)
            self.sock.close()
            Connection(load)
            return
        self._next()

    def _next(self) -> None:
        self._step = self.load.steps[self._number]
        if self._number == self.load.again:
            self._begun = time.perf_counter()
        self._send(self._step.octets)

    def _send(self, octets: bytes | memoryview) -> None:
        try:
            sent = self.sock.send(octets)
        except OSError as exc:
            if not _would_block(exc):
                raise Failed(f"{self._where()}: {exc}") from exc
            sent = 0
        if sent < len(octets):
            if self._unsent is None:
                self.load.selector.modify(self.sock, _READ_WRITE, self._ready)
            self._unsent = memoryview(octets)[sent:]
        elif self._unsent is not None:
            self._unsent = None
            self.load.selector.modify(self.sock, _READ, self._ready)

    def _start_tls(self) -> None:
        assert self.load.tls is not None
        self.load.selector.unregister(self.sock)
        tls = self.load.tls.wrap_socket(self.sock, server_hostname="localhost", do_handshake_on_connect=False)
        self.sock = tls

        def shake_hands() -> None:
            try:
                tls.do_handshake()
            except OSError as exc:
                if not _would_block(exc):
                    raise Failed(f"the TLS handshake: {exc}") from exc
                return
            self.load.selector.modify(tls, _READ, self._ready)
            self._next()

        self.load.selector.register(tls, _READ, shake_hands)
        shake_hands()


def _would_block(exc: OSError) -> bool:
    """Whether a socket, or TLS on it, has to wait."""
    return isinstance(exc, BlockingIOError) or type(exc).__name__ in {"SSLWantReadError", "SSLWantWriteError"}


def idle(port: int, pid: int, number: int, patience: float) -> dict[str, float]:
    """Open so many connections that say EHLO and then nothing; returns how many octets of memory each took."""
    open_files(number + 100)
    connections: list[socket.socket] = []

    def reply(sock: socket.socket) -> None:
        came = b""
        while not _CODES.search(came):
            data = sock.recv(4096)
            came += data
            if not data:
                raise Failed(f"idle connection {len(connections)}: closed after {came!r}")
        if not came.startswith((b"220", b"250")):
            raise Failed(f"idle connection {len(connections)}: {came!r}")

    try:
        before = resident_memory(pid)
        while len(connections) < number:  # in groups, since some servers wait before the greeting
            group = [socket.create_connection((HOST, port), timeout=patience) for _ in range(100)]
            connections += group
            for sock in group:
                reply(sock)
                sock.sendall(b"EHLO idle.example\r\n")
            for sock in group:
                reply(sock)
        return {"connections": len(connections), "octets_each": (resident_memory(pid) - before) / len(connections)}
    except TimeoutError as exc:
        raise Failed(f"the server answers too little: {len(connections)} connections until the time was up") from exc
    finally:
        for sock in connections:
            sock.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--pid", type=int, help="the server's process, whose CPU time is taken")
    parser.add_argument("--connections", type=int, default=20, metavar="N")
    parser.add_argument("--size", type=int, default=4096, metavar="OCTETS", help="of the body on the wire")
    parser.add_argument("--dotted", action="store_true", help="every line of the body begins with a dot")
    parser.add_argument("--new", action="store_true", help="a new connection for each message")
    parser.add_argument("--pipelined", action="store_true", help="commands are pipelined")
    parser.add_argument("--bdat", action="store_true", help="BDAT in place of DATA, the whole body one chunk")
    parser.add_argument("--starttls", metavar="CA", help="STARTTLS first; the CA's certificate in PEM")
    parser.add_argument("--seconds", type=float, default=1.0, help="the measured time, and what is under way then")
    parser.add_argument("--warm-up", type=float, default=0.0, metavar="SECONDS", help="before it is measured")
    parser.add_argument("--messages", type=int, metavar="N", help="no more than that")
    parser.add_argument("--patience", type=float, default=20.0, metavar="SECONDS", help="on top of the measured time")
    parser.add_argument("--idle", type=int, metavar="N", help="open so many connections instead, and take the memory")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    try:
        if arguments.idle:
            found = idle(arguments.port, arguments.pid, arguments.idle, arguments.patience)
        else:
            found = Load(arguments).run()
        print(json.dumps(found))
    except Unsupported as exc:
        print(json.dumps({"unsupported": str(exc)}))
    except Failed as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
