"""The framer: lines, and all of its modes in turn: the same events however the octets are cut."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.framing import (
    MAX_CHUNK,
    MAX_ENDLESS_LINE,
    NEED_DATA,
    BodyChunk,
    Framer,
    Line,
    MalformedBody,
)

from .framing_support import ENDLESS, LF_ALONE, cut, lines_of, pull, segmentations

TOO_LONG = "500 5.5.2 Line too long"
AUTH_TOO_LONG = "500 5.5.6 Line too long"


# --- lines ---


@pytest.mark.parametrize(
    ("wire", "strict", "normalized"),
    [
        pytest.param(b"NOOP\r\n", [b"NOOP"], [b"NOOP"], id="RFC 5321 2.3.8"),
        pytest.param(b"\r\n", [b""], [b""], id="an empty line"),
        pytest.param(b"A\r\nB\r\n\r\nC\r\n", [b"A", b"B", b"", b"C"], [b"A", b"B", b"", b"C"], id="RFC 2920 several"),
        pytest.param(b"NOOP", [], [], id="no end yet"),
        pytest.param(b"NOOP\r", [], [], id="half an end"),
        pytest.param(b"A\r\nB", [b"A"], [b"A"], id="one and a half"),
        pytest.param(b"A\rB\r\n", [b"A\rB"], [b"A\rB"], id="a bare CR is for others to refuse"),
        pytest.param(b"A\r\r\n", [b"A\r"], [b"A\r"], id="CR CRLF"),
        pytest.param(b"A\0\xff\r\n", [b"A\0\xff"], [b"A\0\xff"], id="any octets"),
        pytest.param(b"A\n", [LF_ALONE], [b"A"], id="RFC 5321 2.3.8 LF alone is told at once"),
        pytest.param(b"\n", [LF_ALONE], [b""], id="nothing but LF"),
        pytest.param(b"A\nB\r\nC\r\n", [LF_ALONE], [b"A", b"B", b"C"], id="what is behind it is no command"),
        pytest.param(b"A\nB\nC\r\nD\r\n", [LF_ALONE], [b"A", b"B", b"C", b"D"], id="two LFs"),
        pytest.param(b"A\n\r\nB\r\n", [LF_ALONE], [b"A", b"", b"B"], id="LF CRLF"),
        pytest.param(b"A\n\n\r\r\nB\r\n", [LF_ALONE], [b"A", b"", b"\r", b"B"], id="LF LF CR CRLF"),
        pytest.param(b"A\n\r", [LF_ALONE], [b"A"], id="LF CR and no more"),
        pytest.param(b"A\nB\r\nC\nD\r\nE\r\n", [LF_ALONE], [b"A", b"B", b"C", b"D", b"E"], id="twice"),
        pytest.param(b"12345678\r\n", [b"12345678"], [b"12345678"], id="as long as may be, end included"),
        pytest.param(b"123456789\r\nB\r\n", [TOO_LONG, b"B"], [TOO_LONG, b"B"], id="RFC 5321 4.5.3.1.4 one more"),
        pytest.param(b"1234567890", [], [], id="longer, and no end yet: the error waits for it"),
        pytest.param(b"1234567890QUIT\r\nB\r\n", [TOO_LONG, b"B"], [TOO_LONG, b"B"], id="its tail is no command"),
        pytest.param(b"1234567890\r1\r\r\nB\r\n", [TOO_LONG, b"B"], [TOO_LONG, b"B"], id="CRs in the tail"),
        pytest.param(b"1234567890\nB\r\nC\r\n", [LF_ALONE], [TOO_LONG, b"B", b"C"], id="an LF in the tail"),
        pytest.param(b"12345\n7890123\r\nB\r\n", [LF_ALONE], [b"12345", b"7890123", b"B"], id="LF before the limit"),
        pytest.param(b"auTH 0123456\r\n", [b"auTH 0123456"], [b"auTH 0123456"], id="RFC 4954 4 AUTH may be longer"),
        pytest.param(
            b"AUTH 01234567890\r\nB\r\n", [AUTH_TOO_LONG, b"B"], [AUTH_TOO_LONG, b"B"], id="RFC 4954 4 12288 octets"
        ),
        pytest.param(b"AUT 0123456\r\nB\r\n", [TOO_LONG, b"B"], [TOO_LONG, b"B"], id="AUT is not AUTH"),
        pytest.param(
            b"A\r\nAUTH 0123456\r\n", [b"A", b"AUTH 0123456"], [b"A", b"AUTH 0123456"], id="AUTH as the second"
        ),
    ],
)
@pytest.mark.parametrize("normalize", [False, True], ids=["reject", "normalize"])
def test_lines(wire: bytes, strict: list[bytes | str], normalized: list[bytes | str], normalize: bool) -> None:
    for segments in segmentations(wire):
        framer = Framer(max_line=10, max_auth_line=16, normalize=normalize)
        assert lines_of(framer, segments) == (normalized if normalize else strict), segments


@pytest.mark.parametrize(
    ("wire", "strict", "normalized"),
    [
        pytest.param(b"AGEAYg==\r\n", [b"AGEAYg=="], [b"AGEAYg=="], id="RFC 4954 4 a response"),
        pytest.param(b"*\r\n", [b"*"], [b"*"], id="RFC 4954 4 a cancelled exchange"),
        pytest.param(b"A\nB\r\nC\r\n", [LF_ALONE], [b"A", b"B", b"C"], id="an LF inside"),
        pytest.param(b"\r\n", [b""], [b""], id="an empty response"),
        pytest.param(b"A\n", [LF_ALONE], [b"A"], id="LF alone"),
        pytest.param(b"A\0\r\n", [b"A\0"], [b"A\0"], id="only the length rule holds"),
        pytest.param(b"01234567890123\r\n", [b"01234567890123"], [b"01234567890123"], id="as long as AUTH's may be"),
        pytest.param(
            b"012345678901234\r\nB\r\n", [AUTH_TOO_LONG, b"B"], [AUTH_TOO_LONG, b"B"], id="RFC 4954 4 too long"
        ),
    ],
)
@pytest.mark.parametrize("normalize", [False, True], ids=["reject", "normalize"])
def test_lines_of_a_sasl_exchange(
    wire: bytes, strict: list[bytes | str], normalized: list[bytes | str], normalize: bool
) -> None:
    for segments in segmentations(wire):
        framer = Framer(max_line=10, max_auth_line=16, normalize=normalize)
        framer.sasl = True
        assert lines_of(framer, segments) == (normalized if normalize else strict), segments


def test_the_larger_of_the_two_limits_holds_for_auth() -> None:
    for sasl, line in ((False, b"AUTH 0123"), (True, b"012345678")):
        framer = Framer(max_line=11, max_auth_line=5)
        framer.sasl = sasl
        assert lines_of(framer, [line + b"\r\n"]) == [line]


@pytest.mark.parametrize(("more", "cut_off"), [(0, False), (1, True)], ids=["as long as may be", "one more"])
@pytest.mark.parametrize("size", [MAX_ENDLESS_LINE * 2, 50_000, 999], ids="in pieces of {}".format)
@pytest.mark.parametrize("end", [b"\r\nB\r\n", b"\r", b"\n"], ids=["with an end", "without", "with LF"])
def test_a_line_without_an_end(more: int, cut_off: bool, size: int, end: bytes) -> None:
    """Longer than this, it costs the connection, whether or not an end has come by then."""
    wire = b"x" * (MAX_ENDLESS_LINE + more) + end
    found = lines_of(Framer(), [wire[i : i + size] for i in range(0, len(wire), size)])
    expected: dict[bytes, list[bytes | str]] = {b"\r": [], b"\n": [LF_ALONE], b"\r\nB\r\n": [TOO_LONG, b"B"]}
    assert found == ([ENDLESS] if cut_off else expected[end])


def test_after_a_line_without_an_end_there_is_nothing() -> None:
    framer = Framer()
    framer.feed(b"x" * (MAX_ENDLESS_LINE + 1))
    for _ in range(2):
        with pytest.raises(ProtocolError, match="Line without an end") as caught:
            framer.next_event()
        assert caught.value.close


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n", b"x", b"AUTH ", b"123456789", b"\0"]), max_size=30).map(
        b"".join
    ),
    st.lists(st.integers(0, 200), max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_lines_do_not_depend_on_the_cut(wire: bytes, places: list[int], normalize: bool, sasl: bool) -> None:
    whole, parts = (Framer(max_line=12, max_auth_line=20, normalize=normalize) for _ in range(2))
    whole.sasl = parts.sasl = sasl
    found = lines_of(whole, [wire])
    assert lines_of(parts, cut(wire, places)) == found
    assert parts.pending <= 20 or LF_ALONE in found


# --- the buffer ---


def test_what_is_pending() -> None:
    framer = Framer()
    assert (framer.pending, framer.peek(5), framer.discard_pending()) == (0, b"", 0)
    framer.feed(b"EHLO x\r\nNOOP\r\nQU")
    assert (framer.pending, framer.peek(4), framer.peek(100)) == (16, b"EHLO", b"EHLO x\r\nNOOP\r\nQU")
    assert framer.next_event() == Line(b"EHLO x")
    assert (framer.pending, framer.peek(4)) == (8, b"NOOP")
    framer.feed(b"IT")
    assert (framer.pending, framer.peek(100)) == (10, b"NOOP\r\nQUIT")
    assert framer.discard_pending() == 10
    assert (framer.pending, framer.peek(1)) == (0, b"")
    assert framer.next_event() is NEED_DATA
    framer.feed(b"RSET\r\n")
    assert framer.next_event() == Line(b"RSET")


# --- anything at all, in any order of modes ---


def converse(wire: bytes, places: Iterable[int], *, normalize: bool) -> tuple[list[object], int]:
    """Drive a framer as a connection does: a line may begin a body (D), a chunk (B), or an exchange (A).

    Returns:
        The events, the pieces of a body put together, and the most octets that were ever pending.
    """
    framer = Framer(max_line=64, max_auth_line=96, max_data_line=1000, normalize=normalize)
    found: list[object] = []
    most = 0
    for segment in cut(wire, places):
        framer.feed(segment)
        most = max(most, framer.pending)
        while (event := pull(framer)) is not None:
            if isinstance(event, BodyChunk) and found and isinstance(found[-1], bytearray):
                found[-1] += event.data
                continue
            if isinstance(event, MalformedBody) and found and isinstance(found[-1], bytearray):
                found.pop()  # what was handed on before depends on the cut
            found.append(bytearray(event.data) if isinstance(event, BodyChunk) else event)
            if event == ENDLESS:
                return found, most
            if isinstance(event, MalformedBody):
                found[-1] = "malformed"
            if isinstance(event, Line):
                framer.sasl = event.data == b"A"
                if event.data == b"D":
                    framer.start_body()
                elif event.data[:1] == b"B":
                    framer.start_chunk(len(event.data))
    return found, most


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.lists(
            st.sampled_from(
                [
                    b"\r\n",
                    b"\n",
                    b"\r",
                    b".\r\n",
                    b"\r\n.\r\n",
                    b"D\r\n",
                    b"B12\r\n",
                    b"A\r\n",
                    b"x",
                    b"x" * 70,
                    b"AUTH ",
                ]
            ),
            max_size=30,
        ).map(b"".join),
        st.binary(max_size=60),
    ),
    st.lists(st.integers(0, 500), max_size=8),
    st.booleans(),
)
def test_any_octets_give_the_same_events_however_they_are_cut(wire: bytes, places: list[int], normalize: bool) -> None:
    events, _ = converse(wire, places, normalize=normalize)
    assert events == converse(wire, [], normalize=normalize)[0]
    assert events == converse(wire, range(len(wire)), normalize=normalize)[0]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"\r\n", b"\n", b"\r", b".\r\n", b"D\r\n", b"B" * 60 + b"\r\n", b"A\r\n", b"x", b"\r\n..", b"\0"]
            ),
            st.sampled_from([1, 2, 1000, 30_000]),
        ),
        max_size=6,
    ).map(lambda pairs: b"".join(octets * count for octets, count in pairs)),
    st.booleans(),
)
def test_the_buffer_is_bounded(wire: bytes, normalize: bool) -> None:
    """Whatever comes, a receive of 64 KiB finds the buffer all but empty."""
    receive_size = MAX_CHUNK - 4
    _, most = converse(wire, range(0, len(wire), receive_size), normalize=normalize)
    assert most <= receive_size + 96


@pytest.mark.parametrize("line", [b"BDAT 5\n", b"bdat 5 LAST\n", b"BDAT 5" + b" " * 2100 + b"\r\n"])
def test_a_refused_bdat_line_closes(line: bytes) -> None:
    # What follows it are octets of a message: they must not be read as commands.
    framer = Framer()
    framer.feed(line + b"RSET\n\r\nNOOP\r\n")
    with pytest.raises(ProtocolError) as refused:
        framer.next_event()
    assert refused.value.code == 500
    assert refused.value.close
