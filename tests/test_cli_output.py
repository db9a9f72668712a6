"""What the command writes never holds up the mail."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

import pytest

from trio_smtp.cli.output import LossyWriter, say


def test_a_line_is_written_at_once() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert LossyWriter(lambda: stream).write("Zo\u00eb\n") == 4
    assert raw.getvalue() == b"Zo\\xeb\n"


@pytest.mark.skipif(sys.platform == "win32", reason="select() is for sockets there")
def test_what_a_full_pipe_does_not_take_is_dropped() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as end, os.fdopen(writer, "w", encoding="utf-8") as stream:
        output = LossyWriter(lambda: stream)
        for _ in range(300):
            output.write("\u00e9" * 999 + "\n")  # six times what a pipe holds
        output.write("x" * 100_000)
        assert os.read(reader, 4096)
        assert os.read(reader, 4096)
        output.write("a line that does not fit" * 1000 + "\n")
        held = os.read(reader, 1_000_000)
        assert held.count(b"\n") >= 16
        assert len(held) < 300 * 1999
        assert b"a line that does not fit" in held
        assert not held.endswith(b"\n")
        # There is room again, and a line begins a line.
        output.write("back\n")
        output.write("again\n")
        assert end.read(100) == b"\nback\nagain\n"


@pytest.mark.skipif(sys.platform == "win32", reason="select() is for sockets there")
def test_a_closed_pipe_is_nobodys_trouble() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    LossyWriter(lambda: stream).write("line\n")
    with suppress(BrokenPipeError):  # what it could not write is in its buffer
        stream.close()


def test_a_stream_that_is_missing_or_closed_takes_nothing() -> None:
    closed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    closed.close()
    for stream in (None, closed):
        assert LossyWriter(lambda stream=stream: stream).write("line\n") == 5  # type: ignore[misc]
    say(closed, "line")
