"""Transcripts: dialogues that are played against a server in memory, and compared with what it answers."""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs
import trio.testing

from trio_smtp.app.application import App
from trio_smtp.app.config import Config
from trio_smtp.server.server import SMTPServer

from .client import Client
from .memory import configured, serving, stream_pair

__all__ = ["Cut", "play"]

#: How a transcript's client lines are cut into segments.
Cut = Literal["whole", "line", "octet", "random"]

_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([rnt0\\]))")
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def _unescape(text: str) -> bytes:
    return _ESCAPE.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else _ESCAPES[m[2]], text.encode())


@attrs.frozen
class _Turn:
    sent: tuple[bytes, ...]
    expected: tuple[tuple[int, str], ...]


def _parse(transcript: str) -> list[_Turn]:
    """Cut a transcript into turns: what the client says, then what the server answers."""
    turns: list[_Turn] = []
    sent: list[bytes] = []
    expected: list[tuple[int, str]] = []
    for number, line in enumerate(textwrap.dedent(transcript).splitlines(), 1):
        mark, text = line[:2], line[2:].removeprefix(" ")
        if not line.strip() or line.startswith("#"):
            continue
        if mark not in ("C:", "C=", "S:"):
            raise ValueError(f"line {number}: a transcript's lines begin with 'C:', 'C=', 'S:' or '#', not {line!r}")
        if mark == "S:":
            expected.append((number, text))
            continue
        if expected:
            turns.append(_Turn(tuple(sent), tuple(expected)))
            sent, expected = [], []
        sent.append(_unescape(text) + (b"\r\n" if mark == "C:" else b""))
    return [*turns, _Turn(tuple(sent), tuple(expected))]


def _segments(lines: Sequence[bytes], cut: Cut, dice: random.Random) -> list[bytes]:
    whole = b"".join(lines)
    if cut == "whole":
        return [whole] if whole else []
    if cut == "line":
        return list(lines)
    segments = []
    while whole:
        n = 1 if cut == "octet" else dice.randint(1, 12)
        segments.append(whole[:n])
        whole = whole[n:]
    return segments


async def play(
    app: App,
    transcript: str,
    config: Config | None = None,
    *,
    cut: Cut = "whole",
    seed: int = 0,
    peer: tuple[str, int] | None = None,
    **config_changes: Any,
) -> None:
    r"""Play a transcript against a server in memory and compare what it answers.

    ``C:`` is a line the client sends, CRLF added; ``C=`` the same without CRLF; both know the escapes ``\r``, ``\n``,
    ``\t``, ``\0``, ``\\`` and ``\xNN``. ``S:`` is a line the server must answer, the greeting included; ``...`` in it
    stands for any text, and ``S: <close>`` for the end of the connection. ``#`` begins a comment. Client lines that
    follow each other are pipelined. What all lines are indented by does not count.

    Args:
        app: The handlers.
        transcript: The text.
        config: None: defaults, and ``mx.example`` as the host name.
        cut: How the client's octets are cut into segments.
        seed: For ``cut="random"``.
        peer: The address and port that the client seems to come from; see `MemoryListener.connect`.
        config_changes: Fields of Config that differ.

    Raises:
        AssertionError: The server said something else, or more; the text names the transcript's line.
        ValueError: The transcript is malformed, or `peer` is no IP address and port.
    """
    ours, theirs = stream_pair(peer)
    async with serving(SMTPServer(app, configured(config, config_changes)), ours, theirs) as client:
        await _take_turns(client, _parse(transcript), cut, seed)
        await ours.send_eof()
        if rest := await client.read_to_end():
            raise AssertionError(f"after the last line: the server said {rest!r}")


async def _take_turns(client: Client, turns: Iterable[_Turn], cut: Cut, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - cuts a transcript
    for turn in turns:
        for segment in _segments(turn.sent, cut, dice):
            await client.send_bytes(segment)
            if cut != "whole":
                await trio.testing.wait_all_tasks_blocked()
        for number, text in turn.expected:
            await _expect(client, number, text)


async def _expect(client: Client, number: int, text: str) -> None:
    if text == "<close>":
        rest = await client.read_to_end()
        if rest:
            raise AssertionError(f"line {number}: expected the end of the connection, the server said {rest!r}")
        return
    try:
        line = (await client.read_line()).decode().removesuffix("\r\n")
    except trio.EndOfChannel:
        raise AssertionError(f"line {number}: expected {text!r}, the server closed the connection") from None
    pattern = ".*".join(re.escape(part) for part in text.split("..."))
    if not re.fullmatch(pattern, line):
        raise AssertionError(f"line {number}: expected {text!r}, the server said {line!r}")
