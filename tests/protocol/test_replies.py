"""Reply, its octets, and reading them back."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.protocol.replies import MAX_REPLY_LINE, Reply, default_enhanced, parse_reply

#: Text with more of what is dangerous in it than chance would bring.
NASTY = st.one_of(
    st.text(max_size=40),
    st.text("ab \t\r\n\v\f\0\x1b\x1c\x7f\x85\u2028\u2029\u202e\u200b\ufeff\ud800ü😀", max_size=80),
    st.text("ab ü😀", min_size=400, max_size=1200),
    st.sampled_from(["5.1.1 x", "2.0.0", "4.1.1", "2.0.0 ", "250 ok", "250-ok"]),
)
CODES = st.integers(200, 599)


# --- what a Reply is made of ---


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        pytest.param("OK", ("OK",), id="RFC 5321 4.2.1 one line"),
        pytest.param("", ("",), id="RFC 5321 4.2 no text"),
        pytest.param([], ("",), id="no strings at all"),
        pytest.param("a\nb", ("a", "b"), id="RFC 5321 4.2.1 a line end makes a line"),
        pytest.param("a\r\nb\rc", ("a", "b", "c"), id="CRLF and CR"),
        pytest.param("a\vb\fc\x1cd\x1de\x1ef\x85g\u2028h\u2029i", tuple("abcdefghi"), id="what str.splitlines cuts at"),
        pytest.param("a\n\nb", ("a", "", "b"), id="an empty line stays"),
        pytest.param("Queued\n", ("Queued",), id="a line end at the end is none"),
        pytest.param("\n\n", ("",), id="line ends alone"),
        pytest.param(["a", "b\nc"], ("a", "b", "c"), id="several strings"),
        pytest.param(("a", "b"), ("a", "b"), id="a tuple"),
        pytest.param(iter(["a", "b"]), ("a", "b"), id="an iterator"),
        pytest.param("a\tb", ("a b",), id="a tab is a space"),
        pytest.param("a\0b\x1b[2Jc\x7f", ("a?b?[2Jc?",), id="control characters"),
        pytest.param("\x80\x9f", ("??",), id="C1"),
        pytest.param("\u202eb\u2066c\u200bd\ufeff\u061c", ("?b?c?d??",), id="bidi and zero width"),
        pytest.param("\ud800x", ("?x",), id="a lone surrogate"),
        pytest.param("  a  ", ("  a  ",), id="spaces as they are"),
        pytest.param("Grüße 😀", ("Grüße 😀",), id="RFC 6531 3.7.4 not ASCII"),
    ],
)
def test_lines(message: str | Iterable[str], lines: tuple[str, ...]) -> None:
    reply = Reply(250, message)
    assert reply.lines == lines
    assert reply.text == "\n".join(lines)


@pytest.mark.parametrize("code", [200, 211, 250, 354, 421, 550, 599])
def test_codes(code: int) -> None:
    assert Reply(code, "x").code == code


@pytest.mark.parametrize("code", [0, 99, 199, 600, -250, True, "250", 250.0, None])
def test_bad_codes(code: int) -> None:
    with pytest.raises(ValueError, match="code must be a reply code from 200 to 599"):
        Reply(code, "x")


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [
        pytest.param(250, "2.0.0", id="RFC 3463 2"),
        pytest.param(250, "2.999.999", id="RFC 2034 4 three digits"),
        pytest.param(451, "4.3.0", id="class 4"),
        pytest.param(550, "5.7.1", id="class 5"),
    ],
)
def test_enhanced(code: int, enhanced: str) -> None:
    reply = Reply(code, "x", enhanced)
    assert reply.enhanced == enhanced
    assert reply.encode(enhanced=True) == f"{code} {enhanced} x\r\n".encode()


@pytest.mark.parametrize(
    ("code", "enhanced", "match"),
    [
        pytest.param(250, "5.0.0", "must equal the class of code 250", id="RFC 2034 4 another class"),
        pytest.param(550, "4.0.0", "must equal the class of code 550", id="4 for 550"),
        pytest.param(354, "3.0.0", "enhanced must look like", id="RFC 3463 2 no class 3"),
        pytest.param(354, "2.0.0", "must equal the class of code 354", id="RFC 2034 4 none for 3xx"),
        *(
            pytest.param(550, text, "enhanced must look like", id=f"malformed {text!r}")
            for text in (
                "",
                "5",
                "5.1",
                "5.1.1.1",
                "5.1000.1",
                "5.1.1000",
                "5.01.1",
                "5.1.1 ",
                "5.1.1\n",
                "5.\uff11.1",
                "5..1",
            )
        ),
    ],
)
def test_bad_enhanced(code: int, enhanced: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Reply(code, "x", enhanced)


@pytest.mark.parametrize("message", [b"x", [b"x"], [1], ["x", None]])
def test_a_message_is_text(message: Iterable[str]) -> None:
    with pytest.raises(TypeError, match="message must be a string or several strings"):
        Reply(250, message)


def test_a_reply_is_a_value() -> None:
    reply = Reply(550, "No", "5.1.1")
    reply.encode()
    assert reply == Reply(550, ["No"], "5.1.1")
    assert hash(reply) == hash(Reply(550, "No", "5.1.1"))
    assert len({reply, Reply(550, "No"), Reply(551, "No", "5.1.1"), Reply(550, "no", "5.1.1")}) == 4
    assert repr(reply) == "Reply(code=550, lines=('No',), enhanced='5.1.1')"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        reply.code = 250  # type: ignore[misc]


# --- its octets ---


@pytest.mark.parametrize(
    ("reply", "enhanced", "utf8", "wire"),
    [
        pytest.param(Reply(250, "OK"), False, False, b"250 OK\r\n", id="RFC 5321 4.2.1"),
        pytest.param(Reply(250, ["a", "b", "c"]), False, False, b"250-a\r\n250-b\r\n250 c\r\n", id="multi-line"),
        pytest.param(Reply(250, ""), False, False, b"250 \r\n", id="RFC 5321 4.2 the space stays"),
        pytest.param(Reply(334, ""), True, False, b"334 \r\n", id="RFC 4954 4 an empty challenge"),
        pytest.param(Reply(354, "Go"), True, False, b"354 Go\r\n", id="RFC 2034 4 none on 3xx"),
        pytest.param(
            Reply(550, ["a", "b"], "5.1.1"), True, False, b"550-5.1.1 a\r\n550 5.1.1 b\r\n", id="RFC 2034 4 every line"
        ),
        pytest.param(Reply(550, "a", "5.1.1"), False, False, b"550 a\r\n", id="after HELO"),
        pytest.param(Reply(250, "a"), True, False, b"250 2.0.0 a\r\n", id="the usual one"),
        pytest.param(Reply(250, "ü😀"), False, False, b"250 ??\r\n", id="RFC 6531 3.7.4 without SMTPUTF8"),
        pytest.param(Reply(250, "ü"), False, True, b"250 \xc3\xbc\r\n", id="RFC 6531 3.7.4 with SMTPUTF8"),
    ],
)
def test_encode(reply: Reply, enhanced: bool, utf8: bool, wire: bytes) -> None:
    for _ in range(2):  # the second time from memory
        assert reply.encode(enhanced=enhanced, utf8=utf8) == wire


def test_each_form_of_the_octets_is_kept_apart() -> None:
    reply = Reply(250, "ü", "2.1.5")
    forms = [(enhanced, utf8) for enhanced in (False, True) for utf8 in (False, True)]
    expected = [b"250 ?\r\n", b"250 \xc3\xbc\r\n", b"250 2.1.5 ?\r\n", b"250 2.1.5 \xc3\xbc\r\n"]
    for _ in range(2):
        assert [reply.encode(enhanced=enhanced, utf8=utf8) for enhanced, utf8 in forms] == expected


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("x" * 496, ("x" * 496,), id="the longest line"),
        pytest.param("x" * 497, ("x" * 496, "x"), id="one more"),
        pytest.param("x" * 400 + " " + "y" * 400, ("x" * 400, "y" * 400), id="cut at a space"),
        pytest.param("x" * 496 + " y", ("x" * 496, "y"), id="the space just behind"),
        pytest.param(" " + "x" * 496, (" " + "x" * 495, "x"), id="a space in front is no place to cut"),
        pytest.param("ü" * 249, ("ü" * 248, "ü"), id="octets, not characters"),
        pytest.param("x" + "😀" * 124, ("x" + "😀" * 123, "😀"), id="never inside a character"),
    ],
)
def test_long_lines_are_folded(text: str, lines: tuple[str, ...]) -> None:
    """RFC 5321 section 4.5.3.1.5."""
    reply = Reply(550, text, "5.999.999")
    assert reply.lines == lines
    wire = reply.encode(enhanced=True, utf8=True)
    assert max(map(len, wire.splitlines(keepends=True))) <= MAX_REPLY_LINE


def test_a_challenge_is_one_line() -> None:
    """RFC 4954 section 4: a SASL client would not put two together."""
    assert Reply(334, "A" * 12_000).encode() == b"334 " + b"A" * 12_000 + b"\r\n"
    with pytest.raises(ValueError, match="a 334 challenge is a single line"):
        Reply(334, ["a", "b"])
    with pytest.raises(ValueError, match="a 334 challenge is a single line"):
        Reply(334, "a\r\n250 b")


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [
        (250, "2.0.0"),
        (220, "2.0.0"),
        (235, "2.7.0"),
        (334, None),
        (354, None),
        (421, "4.3.0"),
        (450, "4.2.0"),
        (459, "4.0.0"),
        (500, "5.5.2"),
        (503, "5.5.1"),
        (550, "5.7.1"),
        (554, "5.0.0"),
        (599, "5.0.0"),
    ],
)
def test_default_enhanced(code: int, enhanced: str | None) -> None:
    assert default_enhanced(code) == enhanced


def test_every_usual_enhanced_code_fits_its_code() -> None:
    for code in range(200, 600):
        usual = default_enhanced(code)
        if usual is not None:
            assert Reply(code, "x", usual).enhanced == usual
        assert (usual is None) == (300 <= code < 400)


@settings(deadline=None)
@given(CODES, st.one_of(NASTY, st.lists(NASTY, max_size=4)), st.booleans(), st.booleans())
def test_any_text_gives_well_formed_octets(code: int, message: str | list[str], enhanced: bool, utf8: bool) -> None:
    try:
        reply = Reply(code, message)
    except ValueError:
        assert code == 334
        return
    wire = reply.encode(enhanced=enhanced, utf8=utf8)
    assert wire.endswith(b"\r\n")
    lines = wire[:-2].split(b"\r\n")
    assert len(lines) == len(reply.lines)
    assert [line[:4] for line in lines] == [b"%d-" % code] * (len(lines) - 1) + [b"%d " % code]
    assert code == 334 or all(len(line) + 2 <= MAX_REPLY_LINE for line in lines)
    text = "".join(line.decode("utf-8" if utf8 else "ascii") for line in lines)
    assert not [char for char in text if unicodedata.category(char) == "Cc"]
    assert not re.search("[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]", text)


# --- reading it back ---


@pytest.mark.parametrize(
    ("wire", "reply"),
    [
        pytest.param(b"250 OK\r\n", Reply(250, "OK"), id="RFC 5321 4.2.1"),
        pytest.param(b"250\r\n", Reply(250, ""), id="RFC 5321 4.2 the code alone"),
        pytest.param(b"250-\r\n250\r\n", Reply(250, ["", ""]), id="empty lines"),
        pytest.param(b"250-a\r\n250 b\r\n", Reply(250, ["a", "b"]), id="multi-line"),
        pytest.param(b"550 5.1.1 x\r\n", Reply(550, "x", "5.1.1"), id="RFC 2034 4"),
        pytest.param(b"550 5.999.999 x\r\n", Reply(550, "x", "5.999.999"), id="RFC 3463 2 three digits"),
        pytest.param(b"550 5.1.1\r\n", Reply(550, "", "5.1.1"), id="an enhanced code and no text"),
        pytest.param(b"550-5.1.1 a\r\n550 5.1.1 b\r\n", Reply(550, ["a", "b"], "5.1.1"), id="on every line"),
        pytest.param(b"550-5.1.1 a\r\n550 b\r\n", Reply(550, ["5.1.1 a", "b"]), id="not on every line: text"),
        pytest.param(b"550-5.1.1 a\r\n550 5.1.2 b\r\n", Reply(550, ["5.1.1 a", "5.1.2 b"]), id="two of them: text"),
        pytest.param(b"550 2.1.1 x\r\n", Reply(550, "2.1.1 x"), id="of another class: text"),
        pytest.param(b"550 5.01.1 x\r\n", Reply(550, "5.01.1 x"), id="RFC 3463 2 a leading zero: text"),
        pytest.param(b"550 5.1.1000 x\r\n", Reply(550, "5.1.1000 x"), id="four digits: text"),
        pytest.param(b"550 5.1.1x\r\n", Reply(550, "5.1.1x"), id="no space: text"),
        pytest.param(b"354 3.0.0 x\r\n", Reply(354, "3.0.0 x"), id="RFC 3463 2 no class 3: text"),
        pytest.param("250 ü\r\n".encode(), Reply(250, "ü"), id="UTF-8"),
        pytest.param(b"250 \xff\0\r\n", Reply(250, "??"), id="neither text nor UTF-8"),
    ],
)
def test_parse_reply(wire: bytes, reply: Reply) -> None:
    assert parse_reply(wire) == reply


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\r\n", id="an empty line"),
        pytest.param(b"250 OK", id="no end"),
        pytest.param(b"250 OK\n", id="LF alone"),
        pytest.param(b"250 O\nK\r\n", id="LF inside"),
        pytest.param(b"250 O\rK\r\n", id="CR inside"),
        pytest.param(b"25 OK\r\n", id="two digits"),
        pytest.param(b"2500 OK\r\n", id="four digits"),
        pytest.param(b"150 OK\r\n", id="RFC 5321 4.2.1 no 1yz"),
        pytest.param(b"650 OK\r\n", id="6yz"),
        pytest.param(b"250_OK\r\n", id="another separator"),
        pytest.param(b"250-a\r\n", id="no last line"),
        pytest.param(b"250 a\r\n250 b\r\n", id="two replies"),
        pytest.param(b"250-a\r\n251 b\r\n", id="RFC 5321 4.2.1 two codes"),
        pytest.param(b"334-a\r\n334 b\r\n", id="a challenge of two lines"),
    ],
)
def test_parse_reply_refuses(wire: bytes) -> None:
    with pytest.raises(ValueError, match=r"reply|code|334"):
        parse_reply(wire)


@settings(deadline=None)
@given(CODES, st.one_of(NASTY, st.lists(NASTY, max_size=4)))
def test_round_trip(code: int, message: str | list[str]) -> None:
    try:
        reply = Reply(code, message)
    except ValueError:
        assert code == 334
        return
    with_status = Reply(code, reply.lines, default_enhanced(code))
    assert parse_reply(reply.encode(enhanced=True, utf8=True)) == with_status
    if not all(re.match(r"[245]\.\d+\.\d+", line) for line in reply.lines):
        assert parse_reply(reply.encode(utf8=True)) == reply


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([b"250", b"-", b" ", b"\r\n", b"5.1.1 ", b"550", b"\xff", b"\n"])).map(b"".join),
    )
)
def test_any_octets_are_a_reply_or_a_value_error(wire: bytes) -> None:
    try:
        reply = parse_reply(wire)
    except ValueError:
        return
    assert parse_reply(reply.encode(enhanced=reply.enhanced is not None, utf8=True)) == reply
