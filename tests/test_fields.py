"""Header fields as octets: where a header section ends, what is in it, and how a field is written."""

from __future__ import annotations

import re
from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp.app.fields import Head, HeaderField, encode_field, line_end_of, parse_fields


def cut(data: bytes, size: int, most: int = 1_048_576) -> Head:
    head = Head(most)
    for start in range(0, len(data), size):
        head.feed(data[start : start + size])
    if not head.too_long:
        head.finish()
    return head


def section_by_definition(data: bytes) -> bytes:
    """The lines at the start that are fields or continuations of one."""
    section = b""
    for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
        if not (re.match(rb"[\x21-\x39\x3b-\x7e]+[ \t]*:", line) or (section and line[:1] in (b" ", b"\t"))):
            break
        section += line
    return section


SECTIONS = [
    (b"", b""),
    (b"\r\nbody", b""),
    (b"\nbody", b""),
    (b"A: b\r\n\r\nbody", b"A: b\r\n"),
    (b"A: b", b"A: b"),
    (b"A: b\r\n", b"A: b\r\n"),
    (b"A: b\r\nplain text\r\n", b"A: b\r\n"),
    (b"plain\r\nA: b\r\n", b""),
    (b" blank\r\nA: b\r\n", b""),
    (b"A:\r\n b\r\n\tc\r\n\r\n", b"A:\r\n b\r\n\tc\r\n"),
    (b"A : b\r\n\r\n", b"A : b\r\n"),
    (b"A\t \t: b\r\n", b"A\t \t: b\r\n"),
    (b"A B: c\r\n", b""),
    (b": a\r\n", b""),
    (b"From a@b Mon\r\nA: b\r\n", b""),
    (b"A: b\n\nbody", b"A: b\n"),
    (b"A: b\r\r\n\r\n", b"A: b\r\r\n"),
    (b"A: b\r\n\r\r\nx", b"A: b\r\n"),
    (b"A: b\rC: d\r\n\r\n", b"A: b\rC: d\r\n"),
    (b"\xc3\xa4: b\r\n", b""),
    (b"A: \xff\x00\r\n\r\n", b"A: \xff\x00\r\n"),
    (b"A: b\r\n \r\n\r\nx", b"A: b\r\n \r\n"),
    (b"A: b\r\n c", b"A: b\r\n c"),
    (b"A: b\r\npl", b"A: b\r\n"),
    (b"pl", b""),
    (b"a\r: b\r\n", b""),
    (b"\r", b""),
]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(("data", "section"), SECTIONS)
def test_the_header_section(data: bytes, section: bytes, size: int) -> None:
    head = cut(data, size)
    assert head.end is not None
    assert head.octets[: head.end] == section == section_by_definition(data)
    assert b"".join(field.raw for field in parse_fields(section)) == section


LINES = st.lists(
    st.sampled_from(
        [b"A: b\r\n", b"Bc : d\n", b" e\r\n", b"\tf\n", b"\r\n", b"\n", b"text\r\n", b"\r", b"G:", b"h", b" "]
    ),
    max_size=8,
)


@given(LINES, st.integers(1, 20))
def test_the_header_section_is_that_of_the_definition(lines: list[bytes], size: int) -> None:
    data = b"".join(lines)
    head = cut(data, size)
    section = section_by_definition(data)
    assert head.end == len(section)
    assert bytes(head.octets[: head.end]) == section
    fields = parse_fields(section)
    assert b"".join(field.raw for field in fields) == section
    assert all(section_by_definition(field.raw) == field.raw for field in fields)


def test_a_section_that_is_too_long_is_noticed_in_time() -> None:
    for data in (b"A: b\r\n" * 1000, b"A: " + b"b" * 200_000):
        head = cut(data, 100, most=1000)
        assert head.too_long
        assert len(head.octets) <= 1000 + 65_536 + 100
        assert head.end is None
    assert cut(b"A: b\r\n" * 100 + b"\r\n" + b"x" * 10_000, 100, most=1000).end == 600


def test_a_line_that_is_no_field_ends_the_section_before_it_ends() -> None:
    head = Head(1_048_576)
    head.feed(b"A: b\r\n" + b"x" * 65_536)
    assert head.end == 6
    head.feed(b"more")
    head.finish()
    assert head.end == 6


@pytest.mark.parametrize(
    ("raw", "name", "text"),
    [
        (b"Subject: x\r\n", "Subject", "x"),
        (b"A :b", "A", "b"),
        (b"A:\r\n b\r\n\tc \r\n", "A", "b\tc"),
        (b"A:\n", "A", ""),
        (b"A: caf\xc3\xa9\n", "A", "café"),
        (b"A: caf\xe9\n", "A", "café"),
        (b"A: =?utf-8?q?caf=C3=A9_x?=\n", "A", "café x"),
        (b"A: =?UTF-8?B?Y2Fmw6k?= x\n", "A", "café x"),
        (b"A: =?a?q?b?=\n", "A", "=?a?q?b?="),
        (b"A: =?utf-8?q?a?=\r\n =?utf-8?q?b?= c\n", "A", "ab c"),
        (b"A: =?utf-8*de?q?a?=\n", "A", "a"),
        (b"A: =?utf-8?b?*?=\n", "A", ""),
        (b"A: =?\x00?q?b?=\n", "A", "=?\x00?q?b?="),
        (b"A: =?utf-8?q?=FF?=\n", "A", "\ufffd"),
        (b"A: =?idna?q?=FF?=\n", "A", "=?idna?q?=FF?="),
        (b"A: =?utf-8?b?a?=\n", "A", "=?utf-8?b?a?="),
        (b"A: =?utf-8?q?\xc3\xa9?=\n", "A", "é"),
    ],
)
def test_a_field_as_text(raw: bytes, name: str, text: str) -> None:
    (field,) = parse_fields(raw)
    assert (field.name, field.text) == (name, text)


@given(st.binary(max_size=60))
def test_the_text_of_a_field_never_raises(value: bytes) -> None:
    assert isinstance(HeaderField("A", b"A:" + value).text, str)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "ä", "a\r\n", "a\n", "\t", "x" * 201, None, b"A"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\Aname"):
        encode_field(name, "x", utf8=False)


@pytest.mark.parametrize(
    ("value", "utf8", "written"),
    [
        ("x", False, b"X-A: x\r\n"),
        ("", False, b"X-A:\r\n"),
        (" a  b\tc ", False, b"X-A: a b c\r\n"),
        ("a\r\nBcc: evil", False, b"X-A: a Bcc: evil\r\n"),
        ("a\n\n.\r\x00\x85\u2028b", False, b"X-A: a . b\r\n"),
        ("café", False, b"X-A: =?utf-8?b?Y2Fmw6k=?=\r\n"),
        ("café", True, b"X-A: caf\xc3\xa9\r\n"),
        ("\udcff", True, b"X-A: ?\r\n"),
        ("a é ü b", False, b"X-A: a =?utf-8?b?w6kgw7w=?= b\r\n"),
        ("é" * 23, False, b"X-A: =?utf-8?b?%s?=\r\n =?utf-8?b?w6k=?=\r\n" % (b"w6nDqcOp" * 7 + b"w6k=")),
    ],
)
def test_a_field_as_it_is_written(value: str, utf8: bool, written: bytes) -> None:
    assert encode_field("X-A", value, utf8=utf8) == written
    assert encode_field("X-A", value, utf8=utf8, line_end=b"\n") == written.replace(b"\r\n", b"\n")


@given(st.text(max_size=300) | st.lists(st.text(max_size=3000), max_size=3).map(" ".join), st.booleans())
def test_every_field_is_one_field_and_says_what_it_was_given(value: str, utf8: bool) -> None:
    raw = encode_field("X-Report", value, utf8=utf8)
    (field,) = parse_fields(raw)
    assert section_by_definition(raw) == raw
    lines = raw.split(b"\r\n")
    assert all(line.strip() for line in lines[:-1])
    assert all(len(line) <= 998 for line in lines)
    assert utf8 or raw.isascii()
    if "=?" not in value:
        cleaned = re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", value).strip(" ")
        assert field.text == cleaned


def test_long_values_are_folded_and_read_back() -> None:
    value = " ".join(f"word{n} größe{n}" if n % 3 else f"word{n}" for n in range(60))
    raw = encode_field("X-Report", value, utf8=False)
    assert all(len(line) <= 78 for line in raw.splitlines())
    assert message_from_bytes(raw + b"\r\n", policy=policy.SMTP)["X-Report"] == value


@pytest.mark.parametrize(
    ("octets", "end"), [(b"a\r\nb\n", b"\r\n"), (b"a\nb\r\n", b"\n"), (b"\n", b"\n"), (b"a\r", None), (b"", None)]
)
def test_the_line_end_of_a_neighbour(octets: bytes, end: bytes | None) -> None:
    assert line_end_of(octets) == end
