"""What the tests with recordings share: a player that says all it can of a server in memory, and the recordings.

``RECORD_GOLDEN=1 python -m pytest tests/test_golden.py tests/test_public_face.py`` writes tests/golden anew; the diff
of these files is then what a user would see of a change.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import io
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from tests.hostile.support import by_octet, run, watched_log
from trio_smtp import App, Config, SMTPServer
from trio_smtp.net.endpoints import Endpoints, PlacedStream

__all__ = [
    "CUTS",
    "HANDSHAKE",
    "RECORDING",
    "Case",
    "compare",
    "exchange",
    "observed",
    "recorded",
    "wire_lines",
    "write",
]

GOLDEN = Path(__file__).parent / "golden"
#: The recordings are written, not compared.
RECORDING = bool(os.environ.get("RECORD_GOLDEN"))

#: Among the octets of a client: it shakes hands, and what follows is encrypted.
HANDSHAKE = b"<handshake>"
CUTS: Mapping[str, Callable[[tuple[bytes, ...]], Iterable[bytes]]] = {
    "whole": lambda turns: [b"".join(turns)],
    "turn by turn": lambda turns: turns,
    "octet by octet": lambda turns: by_octet(b"".join(turns)),
}


@attrs.frozen
class Case:
    """One client, and the server that it meets.

    Attributes:
        app: Makes the handlers; each play has its own.
        config: The server's.
        turns: What the client says; before each turn it lets the server do all that it can.
        peer: The address that the client comes from.
        silent: At the end the client stays, and says nothing more.
    """

    app: Callable[[], App]
    config: Config
    turns: tuple[bytes, ...]
    peer: str | None = None
    silent: bool = False


# Playing


async def _shake_hands(stream: trio.abc.Stream, said: bytearray) -> trio.SSLStream[trio.abc.Stream]:
    said += await stream.receive_some(65_536)  # the 220, which is all in the memory stream
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    encrypted = trio.SSLStream(stream, context, https_compatible=True)
    await encrypted.do_handshake()
    return encrypted


Streams = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]


async def exchange(case: Case, cut: str, streams: Callable[[], Streams] = trio.testing.memory_stream_pair) -> bytes:
    """All that the server said to the client of a case; virtual time passes where the server waits for something.

    Args:
        case: The client and the server.
        cut: How the client's octets are cut.
        streams: Makes the two ends of the connection, the client's first.
    """
    server = SMTPServer(case.app(), case.config)
    ours, theirs = streams()
    there: trio.abc.Stream = theirs
    if case.peer is not None:
        there = PlacedStream(theirs, Endpoints((case.peer, 4711)))
    stream: trio.abc.Stream = ours
    said = bytearray()
    sections: list[list[bytes]] = [[]]
    for turn in case.turns:
        if turn is HANDSHAKE:
            sections.append([])
        else:
            sections[-1].append(turn)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, there)
        await trio.testing.wait_all_tasks_blocked()
        try:
            for number, turns in enumerate(sections):
                if number:
                    stream = await _shake_hands(stream, said)
                for segment in CUTS[cut](tuple(turns)):
                    await stream.send_all(segment)
                    await trio.testing.wait_all_tasks_blocked()
            if not case.silent and stream is ours:
                await ours.send_eof()
        except trio.BrokenResourceError:
            pass  # the server has heard enough
        while data := await stream.receive_some(65_536):
            said += data
        await trio.aclose_forcefully(stream)
    return bytes(said)


def observed(case: Case) -> str:
    """All that can be seen of a case, in each cut: the server's octets, the log, what handlers print.

    A cut of which nothing else is seen than of the first is named only.
    """
    seen: dict[str, str] = {}
    for cut in CUTS:
        said = b""

        async def main(cut: str = cut) -> None:
            nonlocal said
            said = await exchange(case, cut)

        with watched_log(logging.DEBUG, errors=True) as records, contextlib.redirect_stdout(io.StringIO()) as printed:
            run(main)
        lines = [
            *wire_lines(said),
            *(_log_line(record) for record in records),
            *(_constant(f"printed: {line}") for line in printed.getvalue().splitlines()),
        ]
        seen[cut] = "".join(f"{line}\n" for line in lines)
    first = seen["whole"]
    return "".join(
        f"--- {cut}: the same\n" if cut != "whole" and text == first else f"--- {cut}\n{text}"
        for cut, text in seen.items()
    )


# What differs from one run to the next


def _challenge(match: re.Match[str]) -> str:
    """A SASL challenge in the clear, what is random in it named."""
    if match[1] in ("", "***"):
        return match[0]
    text = base64.b64decode(match[1], validate=True).decode("latin-1")
    text = re.sub(r"^<[0-9a-f]{32}\.\d+@", "<(random).(time)@", text)
    text = re.sub(r"^r=.*,s=[A-Za-z0-9+/=]+,i=", "r=(random),s=(random),i=", text)
    return f"334 (base64) {text}"


def _constant(line: str) -> str:
    line = re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", "(id)", line)
    line = re.sub(r"(FUTURERELEASE [0-9]+) [0-9TZ:-]{20}", r"\1 (date)", line)
    line = re.sub(r"TLSv1\.[23], TLS_\w+", "(version), (cipher)", line)
    return re.sub(r"(?<=: )334 (\S*)$", _challenge, line)


def wire_lines(said: bytes) -> list[str]:
    """In the notation of transcripts; ``S=`` is a line without CRLF."""
    lines = []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", said):
        mark = "S:" if line.endswith(b"\r\n") else "S="
        text = line.removesuffix(b"\r\n").decode("latin-1").encode("unicode_escape").decode()
        lines.append(_constant(f"{mark} {text}"))
    return lines


def _log_line(record: logging.LogRecord) -> str:
    name = "" if record.name == "trio_smtp" else f" {record.name}:"
    return _constant(f"{record.levelname}{name} {record.getMessage()}")


# The recordings

_HEAD = re.compile(r"^=== (.+)\n", re.MULTILINE)


def recorded(name: str) -> dict[str, str]:
    """The sections of a file of recordings, by their names."""
    path = GOLDEN / f"{name}.txt"
    if not path.exists():
        return {}
    _, *parts = _HEAD.split(path.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], (part.rstrip("\n") + "\n" for part in parts[1::2]), strict=True))


def write(name: str, sections: Mapping[str, str]) -> None:
    """Write a file of recordings."""
    GOLDEN.mkdir(exist_ok=True)
    head = "# Recorded; tests/golden_support.py says how to record anew.\n"
    text = head + "".join(f"\n=== {section}\n{body}" for section, body in sections.items())
    (GOLDEN / f"{name}.txt").write_text(text, encoding="utf-8")


def compare(title: str, before: str | None, now: str) -> None:
    """Fail with a diff where something else is seen than was recorded."""
    if before is None:
        pytest.fail(f"{title} was never recorded", pytrace=False)
    if before != now:
        diff = difflib.unified_diff(before.splitlines(), now.splitlines(), "recorded", "now", lineterm="", n=2)
        pytest.fail("\n".join([f"{title} is not what was recorded:", *diff]), pytrace=False)
