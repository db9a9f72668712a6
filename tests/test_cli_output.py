"""What the command writes never holds up the mail."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

import pytest

from trio_smtp.cli_output import Unhurried


def test_a_line_is_written_at_once() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert Unhurried(stream).write("Zo\u00eb\n") == 7
    assert raw.getvalue() == b"Zo\\xeb\n"


@pytest.mark.skipif(sys.platform == "win32", reason="select() is for sockets there")
def test_what_a_full_pipe_does_not_take_is_dropped() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as end, os.fdopen(writer, "w", encoding="utf-8") as stream:
        output = Unhurried(stream)
        for _ in range(300):
            output.write("\u00e9" * 999 + "\n")  # six times what a pipe holds
        output.write("x" * 100_000)
        held = os.read(reader, 1_000_000)
        assert held.count(b"\n") >= 16
        assert len(held) < 300 * 1999
        # There is room again.
        output.write("back\n")
        assert end.read(100) == b"back\n"


@pytest.mark.skipif(sys.platform == "win32", reason="select() is for sockets there")
def test_a_closed_pipe_is_nobodys_trouble() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    Unhurried(stream).write("line\n")
    with suppress(BrokenPipeError):  # what it could not write is in its buffer
        stream.close()
