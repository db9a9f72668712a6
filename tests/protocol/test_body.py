"""The framer in the body of DATA: where it ends, what it is without its dots, and what does not end it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.protocol.framing import MAX_CHUNK, NEED_DATA, BodyChunk, EndOfBody, Framer, MalformedBody

from .framing_support import cut, lines_of, pull, segmentations


@attrs.define
class Received:
    """What came out of a body and of what followed it."""

    body: bytes = b""
    problem: str | None = None
    ended: bool = False
    lines: list[bytes | str] = attrs.field(factory=list)


def receive(segments: Iterable[bytes], *, normalize: bool = False, max_data_line: int | None = None) -> Received:
    """Drive a framer through a body and the lines behind it, and hold it to what its events promise."""
    framer = Framer(max_data_line=max_data_line, normalize=normalize)
    framer.start_body()
    found = Received()
    for segment in segments:
        framer.feed(segment)
        while (event := pull(framer)) is not None:
            if isinstance(event, BodyChunk):
                assert 1 <= len(event.data) <= MAX_CHUNK
                assert not found.ended
                assert found.problem is None
                found.body += event.data
            elif isinstance(event, MalformedBody):
                assert not found.ended
                assert found.problem is None
                found.problem = event.reason
            elif isinstance(event, EndOfBody):
                assert not found.ended
                found.ended = True
            else:
                assert found.ended
                found.lines.append(event if isinstance(event, str) else event.data)
        assert framer.pending <= (2 if not found.ended else 2048)
    if found.problem is not None:
        found.body = b""  # what was handed on before depends on the cut
    return found


def definition(wire: bytes, *, normalize: bool = False, max_data_line: int | None = None) -> Received:
    """RFC 5321 section 4.5.2, and what is made of other line ends, in ten lines."""
    end = (b"\r\n" + wire).find(b"\r\n.\r\n")
    stuffed = wire[:end] if end >= 0 else wire
    lines = re.split(rb"\r*\n", stuffed) if normalize else stuffed.split(b"\r\n")
    unstuffed = [line if line == b"." else line.removeprefix(b".") for line in lines]
    bare = re.search(rb"\r(?!\n)|(?<!\r)\n", stuffed)
    body = b"\r\n".join(line.replace(b"\r", b" ") if normalize else line for line in unstuffed)
    too_long = max_data_line is not None and any(len(line) + 2 > max_data_line for line in body.split(b"\r\n")[:-1])
    problem = "newline" if bare and not normalize else "length" if too_long else None
    return Received(b"" if problem else body, problem, end >= 0, [])


FOLLOWER = b"NOOP a\r\nQUIT\r\n"
AFTERWARDS: list[bytes | str] = [b"NOOP a", b"QUIT"]


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        pytest.param(b".\r\n", b"", id="RFC 5321 4.1.1.4 an empty body"),
        pytest.param(b"\r\n.\r\n", b"\r\n", id="an empty line"),
        pytest.param(b"a\r\n.\r\n", b"a\r\n", id="RFC 5321 4.1.1.4 a line"),
        pytest.param(b"a\r\nb\r\n\r\nc\r\n.\r\n", b"a\r\nb\r\n\r\nc\r\n", id="several"),
        pytest.param(b"..\r\n.\r\n", b".\r\n", id="RFC 5321 4.5.2 a dot alone"),
        pytest.param(b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", id="RFC 5321 4.5.2 a dot alone, further down"),
        pytest.param(b"..a\r\n...b\r\n.\r\n", b".a\r\n..b\r\n", id="RFC 5321 4.5.2 one dot only"),
        pytest.param(b".a\r\n.b\r\n.\r\n", b"a\r\nb\r\n", id="RFC 5321 4.5.2 a dot that was not added is removed too"),
        pytest.param(b"a.\r\n.\r\n", b"a.\r\n", id="a dot at a line's end"),
        pytest.param(b"a.b\r\n.\r\n", b"a.b\r\n", id="a dot inside"),
        pytest.param(b"\r\n\r\n.\r\n", b"\r\n\r\n", id="empty lines"),
        pytest.param(b"..\r\n..\r\n..\r\n.\r\n", b".\r\n.\r\n.\r\n", id="nothing but dots"),
        pytest.param(b". \r\n.\r\n", b" \r\n", id="a dot and a space"),
        pytest.param(b".\t\r\n.\r\n", b"\t\r\n", id="a dot and a tab"),
        pytest.param(b".\0\r\n.\r\n", b"\0\r\n", id="a dot and NUL"),
        pytest.param(b"\0\xff\x85\x0b\x0c\x1a\r\n.\r\n", b"\0\xff\x85\x0b\x0c\x1a\r\n", id="any octets"),
        pytest.param("\u2028.\u2028\r\n.\r\n".encode(), "\u2028.\u2028\r\n".encode(), id="Unicode's line separators"),
    ],
)
@pytest.mark.parametrize("normalize", [False, True], ids=["reject", "normalize"])
def test_body(wire: bytes, body: bytes, normalize: bool) -> None:
    for follower, lines in ((b"", []), (FOLLOWER, AFTERWARDS)):
        for segments in segmentations(wire + follower):
            assert receive(segments, normalize=normalize) == Received(body, None, True, lines), segments
    unfinished = wire[:-1]
    for segments in segmentations(unfinished):
        assert not receive(segments, normalize=normalize).ended, segments


@pytest.mark.parametrize(
    ("wire", "reason", "body"),
    [
        pytest.param(b"a\nb\r\n.\r\n", "an LF without CR", b"a\r\nb\r\n", id="RFC 5321 2.3.8 LF"),
        pytest.param(b"a\rb\r\n.\r\n", "a CR without LF", b"a b\r\n", id="RFC 5321 2.3.8 CR"),
        pytest.param(b"\n\r\n.\r\n", "an LF without CR", b"\r\n\r\n", id="LF in front"),
        pytest.param(b"\r\r\n.\r\n", "a CR without LF", b"\r\n", id="CR CRLF"),
        pytest.param(b"a\r\n\n.\r\n\r\n.\r\n", "an LF without CR", b"a\r\n\r\n.\r\n\r\n", id="CRLF LF, and a dot"),
        pytest.param(b".\n\r\n.\r\n", "an LF without CR", b".\r\n\r\n", id="a dot and LF at the start: a dot"),
        pytest.param(b".\r.\r\n.\r\n", "a CR without LF", b" .\r\n", id="a dot and CR at the start: unstuffed"),
        pytest.param(b"a\n..b\r\n.\r\n", "an LF without CR", b"a\r\n.b\r\n", id="unstuffing after LF"),
        pytest.param(b"a\r..b\r\n.\r\n", "a CR without LF", b"a ..b\r\n", id="no unstuffing after CR"),
        pytest.param(b"a\r\r\r\nb\r\n.\r\n", "a CR without LF", b"a\r\nb\r\n", id="CR CR CRLF"),
        pytest.param(b"a\n.b\r\n.\r\n", "an LF without CR", b"a\r\nb\r\n", id="one dot after LF"),
        pytest.param(b"a\n.\nb\r\n.\r\n", "an LF without CR", b"a\r\n.\r\nb\r\n", id="LF . LF stays a dot"),
        pytest.param(b"a\n.\r\nb\r\n.\r\n", "an LF without CR", b"a\r\n.\r\nb\r\n", id="LF . CRLF stays a dot"),
        pytest.param(b"a\r\n.\nb\r\n.\r\n", "an LF without CR", b"a\r\n.\r\nb\r\n", id="CRLF . LF stays a dot"),
        pytest.param(b"a\r\n.\r\r\nb\r\n.\r\n", "a CR without LF", b"a\r\n.\r\nb\r\n", id="CRLF . CR CRLF too"),
        pytest.param(b"a\n..\r\n.\r\n", "an LF without CR", b"a\r\n.\r\n", id="LF .. is a stuffed dot"),
        pytest.param(b"text\r\r\n.\r\n", "a CR without LF", b"text\r\n", id="CR CRLF . CRLF ends the data"),
        pytest.param(
            b"Subject: x\n\n..hidden\n...\nend\r\n.\r\n",
            "an LF without CR",
            b"Subject: x\r\n\r\n.hidden\r\n..\r\nend\r\n",
            id="a message out of as_bytes()",
        ),
        pytest.param(b"a\nb\rc\n\rd\r\n.\r\n", None, b"a\r\nb c\r\n d\r\n", id="all kinds"),
    ],
)
def test_bare_newlines(wire: bytes, reason: str | None, body: bytes) -> None:
    for segments in segmentations(wire + FOLLOWER):
        strict = receive(segments)
        assert (strict.ended, strict.lines) == (True, AFTERWARDS), segments
        assert strict.problem is not None
        assert reason in (None, strict.problem), segments
        assert receive(segments, normalize=True) == Received(body, None, True, AFTERWARDS), segments


def test_a_malformed_body_is_told_once_and_read_to_its_end() -> None:
    framer = Framer()
    framer.start_body()
    framer.feed(b"good\r\n")
    assert framer.next_event() == BodyChunk(b"good\r\n")
    framer.feed(b"bad\n")
    assert framer.next_event() == MalformedBody("an LF without CR")
    framer.feed(b"good\r\nbad\r\r\nbad\n.\n")
    assert framer.next_event() is NEED_DATA
    framer.feed(b"\r\n.\r\n")
    assert framer.next_event() == EndOfBody()
    framer.start_body()
    framer.feed(b"good again\r\n.\r\n")
    assert framer.next_event() == BodyChunk(b"good again\r\n")
    assert framer.next_event() == EndOfBody()


# --- what looks like the end and is not ---

NEWLINES = {"CRLF": b"\r\n", "LF": b"\n", "CR": b"\r", "NUL": b"\0", "VT": b"\x0b", "NEL": b"\x85"}
LOOK_ALIKES = {
    **{
        f"{before}.{after}": NEWLINES[before] + b"." + NEWLINES[after]
        for before, after in itertools.product(NEWLINES, NEWLINES)
        if (before, after) != ("CRLF", "CRLF")
    },
    "CRLF.CR X": b"\r\n.\rX",
    "CRLF.CR CRLF": b"\r\n.\r\r\n",
    "CRLF.NUL CRLF": b"\r\n.\0\r\n",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CR NUL LF.CRLF": b"\r\0\n.\r\n",
    "CRLF.CR NUL LF": b"\r\n.\r\0\n",
    "CRLF.SP CRLF": b"\r\n. \r\n",
    "CRLF SP.CRLF": b"\r\n .\r\n",
    "CRLF..CRLF": b"\r\n..\r\n",
    "LF CR.CRLF": b"\n\r.\r\n",
    "CRLF LF.CRLF": b"\r\n\n.\r\n",
    "CRLF.LF CRLF": b"\r\n.\n\r\n",
    "CRLF CR.CRLF": b"\r\n\r.\r\n",
    "LF..CRLF": b"\n..\r\n",
    "U+2028.U+2028": "\u2028.\u2028".encode(),
}


@pytest.mark.parametrize("look_alike", [pytest.param(octets, id=name) for name, octets in LOOK_ALIKES.items()])
@pytest.mark.parametrize("start", [b"", b"a"], ids=["at the start", "further down"])
def test_smuggling(look_alike: bytes, start: bytes) -> None:
    """Only CRLF . CRLF ends a body, whatever the segmentation: what follows a look-alike is never a command."""
    if not start:
        look_alike = look_alike.removeprefix(b"\r\n")
    wire = start + look_alike + b"MAIL FROM:<smuggled@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\n"
    for normalize in (False, True):
        expected = definition(wire, normalize=normalize)
        assert expected.ended
        bare = re.search(rb"\r(?!\n)|(?<!\r)\n", look_alike)
        for segments in segmentations(wire + FOLLOWER):
            found = receive(segments, normalize=normalize)
            assert (found.ended, found.lines) == (True, AFTERWARDS), segments
            assert found.body == expected.body, segments
            assert (found.problem is not None) == (bare is not None and not normalize), segments
        # Nothing behind the look-alike: the message goes on.
        for segments in segmentations(start + look_alike + FOLLOWER):
            found = receive(segments, normalize=normalize)
            assert (found.ended, found.lines) == (False, []), segments


@pytest.mark.parametrize(
    ("octets", "body"),
    [
        pytest.param(b"\r" + b"\r\n.\r\n", b"a\r\n", id="CR CRLF.CRLF"),
        pytest.param(b"\n" + b"\r\n.\r\n", b"a\r\n\r\n", id="LF CRLF.CRLF"),
    ],
)
def test_the_end_is_an_end_whatever_stands_before_it(octets: bytes, body: bytes) -> None:
    for segments in segmentations(b"a" + octets + FOLLOWER):
        found = receive(segments)
        assert (found.ended, found.lines, found.problem is None) == (True, AFTERWARDS, False), segments
        assert receive(segments, normalize=True) == Received(body, None, True, AFTERWARDS), segments


# --- long lines of a body ---


@pytest.mark.parametrize(
    ("wire", "strict", "normalized"),
    [
        pytest.param(b"123456\r\n.\r\n", False, False, id="as long as may be, CRLF included"),
        pytest.param(b"1234567\r\n.\r\n", True, True, id="RFC 5321 4.5.3.1.6 one more"),
        pytest.param(b"a\r\n1234567\r\nb\r\n.\r\n", True, True, id="further down"),
        pytest.param(b".123456\r\n.\r\n", False, False, id="RFC 5321 4.5.3.1.6 an added dot does not count"),
        pytest.param(b"a\r\n..12345\r\n.\r\n", False, False, id="an added dot further down"),
        pytest.param(b"a\r\n..123456\r\n.\r\n", True, True, id="a dot that is kept counts"),
        pytest.param(b"123456\r\n" * 4 + b".\r\n", False, False, id="each line for itself"),
        pytest.param(b"1234\n1234\n1234\r\n.\r\n", True, False, id="an LF ends a line when it is accepted"),
        pytest.param(b"1234567\n\r\n.\r\n", True, True, id="too long before a bare newline"),
        pytest.param(b"123\r45\r\n.\r\n", True, False, id="a CR is an octet"),
        pytest.param(b"123\r\r456\r\n.\r\n", True, True, id="each CR is"),
        pytest.param(b"123456\r\r\r\n.\r\n", True, False, id="CRs before an LF are none"),
        pytest.param(b"\r\n\r\n.\r\n", False, False, id="empty lines"),
    ],
)
def test_max_data_line(wire: bytes, strict: bool, normalized: bool) -> None:
    for segments in segmentations(wire + FOLLOWER):
        for normalize, malformed in ((False, strict), (True, normalized)):
            found = receive(segments, normalize=normalize, max_data_line=8)
            assert (found.ended, found.lines, found.problem is not None) == (True, AFTERWARDS, malformed), segments
            if normalize and malformed:
                assert found.problem == "a line of more than 8 octets"
    for segments in segmentations(wire):
        assert receive(segments, normalize=True) == definition(wire, normalize=True), segments


def test_a_long_line_is_told_before_its_end() -> None:
    framer = Framer(max_data_line=8)
    framer.start_body()
    framer.feed(b"12345")
    assert framer.next_event() == BodyChunk(b"12345")
    framer.feed(b"6789")
    assert framer.next_event() == MalformedBody("a line of more than 8 octets")


# --- large bodies, any body ---


@pytest.mark.parametrize("normalize", [False, True], ids=["reject", "normalize"])
@pytest.mark.parametrize("middle", [b"\r\n..y", b"\r\n.y\r\n", b"\r\n\r\n", b"\r\n", b""], ids=repr)
def test_around_the_longest_chunk(middle: bytes, normalize: bool) -> None:
    """What matters may stand on both sides of where a chunk ends."""
    for size in (MAX_CHUNK, MAX_CHUNK // 2):
        for more in range(-6, 3):
            wire = b"x" * (size + more) + middle + b"z\r\n.\r\n"
            found = receive([wire + FOLLOWER], normalize=normalize)
            expected = definition(wire, normalize=normalize)
            expected.lines = AFTERWARDS
            assert found == expected, more


def test_a_body_is_handed_on_while_it_comes() -> None:
    """No more than what may be the beginning of an end mark, or half of a CRLF, waits for the next segment."""
    framer = Framer()
    framer.start_body()
    framer.feed(b"x" * 1000)
    assert framer.next_event() == BodyChunk(b"x" * 1000)
    framer.feed(b".")  # in the middle of a line it is a dot like any other
    assert framer.next_event() == BodyChunk(b".")
    for segment, handed_on in ((b"y\r\n.\r", b"y\r\n"), (b"z\r", None), (b"\n", None)):
        framer.feed(segment)
        event = framer.next_event()
        assert event == (
            BodyChunk(handed_on) if handed_on else MalformedBody("a CR without LF") if segment == b"z\r" else NEED_DATA
        )
        assert framer.pending == {b"y\r\n.\r": 2, b"z\r": 1, b"\n": 0}[segment]


PIECES = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n..", b"x", b"yy", b"\0", b"\r\n.\r\n"]), max_size=24
).map(b"".join)


@settings(deadline=None, max_examples=400)
@given(
    st.one_of(PIECES, st.binary(max_size=40)),
    st.lists(st.integers(0, 100), max_size=8),
    st.booleans(),
    st.sampled_from([None, 4, 8]),
)
def test_decoder_equals_its_definition(wire: bytes, places: list[int], normalize: bool, limit: int | None) -> None:
    expected = definition(wire, normalize=normalize, max_data_line=limit)
    if not expected.ended:
        expected = definition(wire + b"\r\n.\r\n", normalize=normalize, max_data_line=limit)
        wire += b"\r\n.\r\n"
    end = (b"\r\n" + wire).find(b"\r\n.\r\n") + 3
    found = receive(cut(wire[:end], places), normalize=normalize, max_data_line=limit)
    assert (found.ended, found.body, found.lines) == (True, expected.body, [])
    assert (found.problem is None) == (expected.problem is None)
    assert expected.problem != "length" or found.problem == f"a line of more than {limit} octets"
    # And the rest is lines, wherever it begins.
    lines = lines_of(Framer(normalize=normalize), [wire[end:]])
    assert receive(cut(wire, places), normalize=normalize).lines[: len(lines)] == lines


@pytest.mark.parametrize("start", [b"", b".", b"a"], ids=["", "a dot", "further down"])
def test_every_mix_of_lines_with_and_without_dots(start: bytes) -> None:
    """Lines that all begin with a dot go another way: one odd piece anywhere must lead back to the usual one."""
    for count in range(6):
        for pieces in itertools.product([b"\r\n.", b"\r\n.a", b"\r\n", b"\r", b"\n", b"a"], repeat=count):
            wire = start + b"".join(pieces) + b"\r\n.\r\n"
            expected = definition(wire)
            end = (b"\r\n" + wire).find(b"\r\n.\r\n") + 3
            for segments in ([wire[:end]], [wire[: end // 2], wire[end // 2 : end]]):
                found = receive(segments)
                assert (found.ended, found.body) == (True, expected.body), segments
                assert (found.problem is None) == (expected.problem is None), segments
