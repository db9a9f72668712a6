"""The framer among the chunks of BDAT (RFC 3030): octets as they are, and lines again behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp.protocol.framing import MAX_CHUNK, NEED_DATA, BodyChunk, EndOfBody, Framer, Line


def read_chunk(framer: Framer, segments: list[bytes]) -> bytes:
    """Feed the segments as they are asked for, up to the end of the chunk."""
    body = b""
    while not isinstance(event := framer.next_event(), EndOfBody):
        if event is NEED_DATA:
            framer.feed(segments.pop(0))
        else:
            assert isinstance(event, BodyChunk)
            assert 1 <= len(event.data) <= MAX_CHUNK
            body += event.data
    return body


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000], ids="cut by {}".format)
@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"x", id="one octet"),
        pytest.param(b".\r\n", id="an end mark is no end mark"),
        pytest.param(b"a\r\n.\r\nb", id="one in the middle neither"),
        pytest.param(b"..a\r\n..b\r\n", id="no dot is taken off"),
        pytest.param(b"a\nb\rc\0\xff", id="bare line ends and anything else"),
        pytest.param(b"BDAT 5 LAST\r\nRSET\r\n", id="no command is a command"),
    ],
)
def test_a_chunk_is_handed_on_as_it_is(chunk: bytes, cut: int) -> None:
    framer = Framer(max_data_line=3)
    wire = chunk + b"NOOP\r\n"
    framer.start_chunk(len(chunk))
    segments = [wire[i : i + cut] for i in range(0, len(wire), cut)]
    assert read_chunk(framer, segments) == chunk
    while (event := framer.next_event()) is NEED_DATA:
        framer.feed(segments.pop(0))
    assert event == Line(b"NOOP")
    assert framer.pending == 0


def test_an_empty_chunk_ends_without_another_octet() -> None:
    framer = Framer()
    framer.start_chunk(0)
    assert isinstance(framer.next_event(), EndOfBody)
    assert framer.next_event() is NEED_DATA


def test_a_large_chunk_comes_in_pieces() -> None:
    framer = Framer()
    framer.feed(bytes(2 * MAX_CHUNK + 1))
    framer.start_chunk(2 * MAX_CHUNK + 1)
    sizes = [len(event.data) for event in iter(framer.next_event, EndOfBody()) if isinstance(event, BodyChunk)]
    assert sizes == [MAX_CHUNK, MAX_CHUNK, 1]


@given(chunks=st.lists(st.binary(max_size=40), max_size=5), data=st.data())
def test_chunks_and_lines_in_turn_however_they_are_cut(chunks: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"BDAT %d\r\n" % len(chunk) + chunk for chunk in chunks) + b"QUIT\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=len(wire))))
    segments = [part for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True) if (part := wire[a:b])]
    framer = Framer()
    found: list[bytes] = []
    while True:
        while (event := framer.next_event()) is NEED_DATA:
            framer.feed(segments.pop(0))
        assert isinstance(event, Line)
        if event.data == b"QUIT":
            break
        framer.start_chunk(int(event.data.removeprefix(b"BDAT ")))
        found.append(read_chunk(framer, segments))
    assert found == chunks
    assert (framer.pending, segments) == (0, [])
