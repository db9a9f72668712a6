"""Bare CRs and LFs in a body, where they are accepted: held to a definition, for all short strings at every cut."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterable, Iterator

import pytest

from trio_smtp.protocol.framing import MAX_CHUNK, NEED_DATA, BodyChunk, EndOfBody, Framer, MalformedBody
from trio_smtp.protocol.newlines import Newlines

from .framing_support import cut, lines_of

END = b"\r\n.\r\n"


def definition(wire: bytes, *, legacy: bool = False) -> tuple[bytes, int] | None:
    """The body, and where it ends with its end mark; None: it does not end."""
    mark = rb"(?:\A|\n)(\.\r*\n)" if legacy else rb"(?:\A|\r\n)(\.\r\n)"
    end = re.search(mark, wire)
    if end is None:
        return None
    body = b""
    for line in wire[: end.start(1)].split(b"\n")[:-1]:
        text = line.rstrip(b"\r")
        text = text if text == b"." else text.removeprefix(b".")  # a lone dot that ends nothing is a dot
        body += text.replace(b"\r", b" ") + b"\r\n"
    return body, end.end(1)


def receive(segments: Iterable[bytes], *, legacy: bool = False) -> tuple[bytes, int] | None:
    """The body, and how many octets came before the framer's end of it."""
    framer = Framer(normalize=True)
    if legacy:
        framer.use(Newlines.LEGACY)
    framer.start_body()
    body: list[bytes] = []
    fed = 0
    for segment in segments:
        framer.feed(segment)
        fed += len(segment)
        while True:
            event = framer.next_event()
            if isinstance(event, BodyChunk):
                assert 1 <= len(event.data) <= MAX_CHUNK
                body.append(event.data)
            elif isinstance(event, EndOfBody):
                return b"".join(body), fed - framer.pending
            else:
                assert event is NEED_DATA
                break
        assert framer.pending <= 2
    return None


def cuts(wire: bytes) -> Iterator[list[bytes]]:
    """All of them."""
    for places in itertools.product((False, True), repeat=len(wire) - 1):
        edges = [0, *(place for place, here in enumerate(places, 1) if here), len(wire)]
        yield [wire[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("legacy", [False, True], ids=["normalize", "legacy"])
@pytest.mark.parametrize("length", range(1, 7))
def test_every_short_body_at_every_cut(length: int, legacy: bool) -> None:
    for octets in itertools.product((b"\r", b"\n", b".", b"a"), repeat=length):
        wire = b"".join(octets)
        expected = definition(wire, legacy=legacy)
        for segments in cuts(wire):
            assert receive(segments, legacy=legacy) == expected, segments


@pytest.mark.parametrize("legacy", [False, True], ids=["normalize", "legacy"])
@pytest.mark.parametrize("length", range(8))
def test_every_short_body_with_an_end_in_one_and_two_pieces_and_by_octet(length: int, legacy: bool) -> None:
    for octets in itertools.product((b"\r", b"\n", b".", b"a"), repeat=length):
        wire = b"".join(octets) + END
        expected = definition(wire, legacy=legacy)
        assert expected is not None
        ways = [[wire], [bytes([octet]) for octet in wire]]
        ways += [[wire[:place], wire[place:]] for place in range(1, len(wire))]
        for segments in ways:
            found = receive(segments, legacy=legacy)
            # In one piece the framer leaves what is behind the end.
            assert found == expected, segments


@pytest.mark.parametrize("legacy", [False, True], ids=["normalize", "legacy"])
@pytest.mark.parametrize("seed", range(12))
def test_large_bodies(seed: int, legacy: bool) -> None:
    chance = random.Random(seed)
    words = [b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\n.", b"\n..", b"\r\r\n", b"x" * 70, b"y" * 7000, b"\r" * 5000]
    if not legacy:
        words += [b"\n.\n", b"\r\n.\n", b"\n.\r\n"]
    text = b"".join(chance.choice(words) for _ in range(chance.choice((40, 400, 4000))))
    wire = re.sub(rb"\r\n(?=\.\r\n)", b"\r\nz", text) + b"z" + END
    expected = definition(wire, legacy=legacy)
    assert expected is not None
    for pieces in (0, 3, 100):
        segments = cut(wire, [chance.randrange(len(wire)) for _ in range(pieces)])
        assert receive(segments, legacy=legacy) == expected


@pytest.mark.parametrize("legacy", [False, True], ids=["normalize", "legacy"])
@pytest.mark.parametrize("middle", [b"\n.\n", b"\r\r\n..b", b"\n\r.\r\r\n.c\n", b"\n.\r", b"\n..\n", b"\n."], ids=repr)
def test_around_the_longest_piece(middle: bytes, legacy: bool) -> None:
    for size in (MAX_CHUNK, MAX_CHUNK // 2):
        for start in (b"", b"\n", b"\r"):
            for more in range(-8, 3):
                wire = start + b"x" * (size + more) + middle + b"z" + END
                assert receive([wire], legacy=legacy) == definition(wire, legacy=legacy), (start, more)


@pytest.mark.parametrize(
    ("octets", "body"),
    [
        pytest.param(b"\n" * 100_000 + END, b"\r\n" * 100_001, id="nothing but LF"),
        pytest.param(b"\r" * 100_000 + END, b"\r\n", id="nothing but CR"),
        pytest.param(b"\r" * 100_000 + b"x" + END, b" " * 100_000 + b"x\r\n", id="CRs that are spaces"),
        pytest.param(b"\n.\n" * 50_000 + b"x" + END, b"\r\n" + b".\r\n\r\n" * 49_999 + b".\r\nx\r\n", id="lone dots"),
        pytest.param(b"\n.\r\rx" * 50_000 + END, b"\r\n  x" * 50_000 + b"\r\n", id="dots before CRs"),
    ],
)
def test_chunks_are_never_too_long(octets: bytes, body: bytes) -> None:
    expected = definition(octets)
    assert expected is not None
    assert expected[0] == body
    for segments in ([octets], [octets[i : i + 999] for i in range(0, len(octets), 999)]):
        assert receive(segments) == expected


def test_a_run_of_cr_takes_no_memory_and_no_more_than_its_share_of_time() -> None:
    """Counted, not kept: neither the buffer nor the time for a receive grows with the run."""
    framer = Framer(normalize=True)
    framer.start_body()
    framer.feed(b"a")
    assert framer.next_event() == BodyChunk(b"a")
    began = time.process_time()
    for _ in range(2000):
        framer.feed(b"\r" * 1000)
        assert framer.next_event() is NEED_DATA
        assert framer.pending <= 1
    assert framer.counted + framer.pending == 2_000_000
    for _ in range(20_000):
        framer.feed(b"\r")
        assert framer.next_event() is NEED_DATA
    framer.feed(b"\nb\r\n.\r\n")
    assert framer.next_event() == BodyChunk(b"\r\nb\r\n")
    assert framer.next_event() == EndOfBody()
    assert time.process_time() - began < 5


def test_spaces_come_in_chunks_and_count_as_they_are_handed_on() -> None:
    framer = Framer(normalize=True, max_data_line=100_000)
    framer.start_body()
    framer.feed(b"\r" * 150_001)
    while framer.next_event() is not NEED_DATA:
        pass
    framer.feed(b"x")
    assert framer.next_event() == BodyChunk(b" " * MAX_CHUNK)
    assert framer.next_event() == MalformedBody("a line of more than 100000 octets")
    assert framer.next_event() is NEED_DATA
    framer.feed(b"\n.\n")
    assert framer.next_event() is NEED_DATA
    assert framer.lone_dot
    framer.feed(b"\r\n.\r\n")
    assert framer.next_event() == EndOfBody()


@pytest.mark.parametrize(
    ("octets", "seen"),
    [
        pytest.param(b"a\n.\n", True, id="LF . LF"),
        pytest.param(b"a\n.\r\nb", True, id="LF . CRLF"),
        pytest.param(b"a\r\n.\nb", True, id="CRLF . LF"),
        pytest.param(b"a\n\r\n.\r\r\n", True, id="CRLF . CR CRLF"),
        pytest.param(b".\n", True, id="at the start"),
        pytest.param(b"a\nb\r\n..\r\n", False, id="a stuffed dot"),
        pytest.param(b"a\n.b\n", False, id="a dot before text"),
        pytest.param(b"a\n..\n", False, id="two dots"),
        pytest.param(b"a\r\nb.\r\n", False, id="no bare octet at all"),
    ],
)
@pytest.mark.parametrize("normalize", [False, True], ids=["reject", "normalize"])
def test_a_lone_dot_that_ends_nothing_is_remembered(octets: bytes, seen: bool, normalize: bool) -> None:
    for segments in ([octets], [bytes([octet]) for octet in octets]):
        framer = Framer(normalize=normalize)
        framer.start_body()
        for segment in segments:
            framer.feed(segment)
            while framer.next_event() is not NEED_DATA:
                pass
        assert framer.lone_dot is seen, segments
        framer.start_body()
        assert not framer.lone_dot


# --- who is told ---


@pytest.mark.parametrize(
    ("wire", "lines", "told"),
    [
        pytest.param(b"NOOP\nNOOP\r\n", [b"NOOP", b"NOOP"], ["an LF without CR"], id="LF"),
        pytest.param(b"NOOP\r\n", [b"NOOP"], [], id="CRLF"),
        pytest.param(b"A\rB\r\n", [b"A\rB"], [], id="a CR is refused by others"),
    ],
)
def test_lines_with_lf_are_told(wire: bytes, lines: list[bytes], told: list[str]) -> None:
    said: list[tuple[str, bool]] = []
    framer = Framer(normalize=True, notice=lambda what, refused: said.append((what, refused)))
    assert lines_of(framer, [wire]) == lines
    assert said == [(what, False) for what in told]


@pytest.mark.parametrize("normalize", [False, True], ids=["reject", "normalize"])
@pytest.mark.parametrize(
    ("wire", "told"),
    [
        pytest.param(b"a\nb\nc\n", ["an LF without CR"], id="LF"),
        pytest.param(b"a\rb\n", ["a CR without LF"], id="CR first"),
        pytest.param(b"a\r\n", [], id="CRLF"),
    ],
)
def test_a_body_with_bare_newlines_is_told_once(wire: bytes, told: list[str], normalize: bool) -> None:
    said: list[tuple[str, bool]] = []
    framer = Framer(normalize=normalize, notice=lambda what, refused: said.append((what, refused)))
    framer.start_body()
    framer.feed(wire)
    while framer.next_event() is not NEED_DATA:
        pass
    assert said == [(what, not normalize) for what in told]


# --- legacy clients ---


@pytest.mark.parametrize(
    ("wire", "lines"),
    [
        pytest.param(b"A\nB\r\nC\r\r\nD\r\r\r\n", [b"A", b"B", b"C", b"D"], id="every line end"),
        pytest.param(b"\n\r\r\n", [b"", b""], id="empty lines"),
        pytest.param(b"A\rB\n", [b"A\rB"], id="a CR inside stays"),
        pytest.param(b"12345678901234\nB\n", ["500 5.5.2 Line too long", b"B"], id="too long"),
    ],
)
def test_lines_of_legacy_clients(wire: bytes, lines: list[bytes | str]) -> None:
    said: list[tuple[str, bool]] = []
    for segments in ([wire], [bytes([octet]) for octet in wire]):
        framer = Framer(max_line=10, notice=lambda what, refused: said.append((what, refused)))
        framer.use(Newlines.LEGACY)
        assert lines_of(framer, segments) == lines
        assert said == []
        framer.use(Newlines.REJECT)
        assert lines_of(framer, [b"C\r\n"]) == [b"C"]


def test_a_legacy_body_that_is_malformed_still_ends() -> None:
    for end in (b"\n.\n", b"\r\n.\r\n", b"\r\r\n.\r\r\n"):
        for size in (1, 2, 100):
            framer = Framer(max_data_line=8)
            framer.use(Newlines.LEGACY)
            framer.start_body()
            wire = b"1234567890\r.\r\n\r\r.\nx" + end
            events: list[object] = []
            for i in range(0, len(wire), size):
                framer.feed(wire[i : i + size])
                while (event := framer.next_event()) is not NEED_DATA:
                    events.append(event)
            assert MalformedBody("a line of more than 8 octets") in events
            assert events[-1] == EndOfBody(), (end, size)
            assert events.count(EndOfBody()) == 1
