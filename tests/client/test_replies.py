"""Replies out of octets in any pieces, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp import Reply
from trio_smtp.client.errors import BadReply
from trio_smtp.client.extensions import auth_mechanisms, parse_extensions
from trio_smtp.client.replies import MAX_LINE, MAX_LINES, MAX_OCTETS, ReplyParser


def replies(wire: bytes, size: int) -> list[Reply]:
    parser = ReplyParser()
    found = []
    for start in range(0, len(wire), size):
        parser.feed(wire[start : start + size])
        while (reply := parser.next_reply()) is not None:
            found.append(reply)
    assert not parser.pending
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_replies_are_the_same_in_any_pieces(size: int) -> None:
    wire = (
        b"220 mx ESMTP\r\n250-mx\r\n250-SIZE 1000\r\n250 HELP\r\n250\r\n550 5.1.1 No\r\n550-5.7.1 a\r\n550 5.7.1 b\r\n"
    )
    assert replies(wire, size) == [
        Reply(220, "mx ESMTP"),
        Reply(250, ["mx", "SIZE 1000", "HELP"]),
        Reply(250, ""),
        Reply(550, "No", "5.1.1"),
        Reply(550, ["a", "b"], "5.7.1"),
    ]


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"250 a\n",
        b"250-a\r\n251 b\r\n",
        b"\r\n",
        b"199 early\r\n",
        b"600 late\r\n",
        b"250\ra\r\n",
        b"25\r\n",
        b"250x\r\n",
        b"334-a\r\n334 b\r\n",
        b"\xff\xfe250 a\r\n",
        "\u0662\u0665\u0660 a\r\n".encode(),
    ],
)
def test_what_is_no_reply_is_refused(wire: bytes) -> None:
    parser = ReplyParser()
    parser.feed(wire)
    with pytest.raises(BadReply) as caught:
        parser.next_reply()
    assert wire.strip().decode("latin-1") not in str(caught.value) or not wire.strip()


@pytest.mark.parametrize(
    ("wire", "bound"),
    [
        (b"250 " + b"x" * MAX_LINE, "line"),
        (b"250 " + b"x" * MAX_LINE + b"\r\n", "line"),
        (b"250-x\r\n" * (MAX_LINES + 1), "lines"),
        ((b"250-" + b"x" * 8000 + b"\r\n") * 9, "longer than 65536"),
        ((b"250-" + b"x" * 8000 + b"\r\n") * 8 + b"250-" + b"x" * 8000, "longer than 65536"),
    ],
    ids=["endless line", "long line", "endless lines", "many octets", "many octets without an end"],
)
def test_a_reply_has_bounds(wire: bytes, bound: str) -> None:
    with pytest.raises(BadReply, match=bound):
        replies(wire, 4096)


def test_a_reply_may_be_as_long_as_the_bounds() -> None:
    line = b"250-" + b"x" * (MAX_OCTETS // 8 - 6) + b"\r\n"
    parser = ReplyParser(max_line=len(line), max_lines=8)
    parser.feed(line * 7 + b"250 " + line[4:])
    reply = parser.next_reply()
    assert reply is not None
    assert reply.code == 250


def test_what_was_thrown_away_is_no_part_of_a_reply() -> None:
    parser = ReplyParser()
    parser.feed(b"250-injected\r\n250-more")
    assert parser.next_reply() is None
    assert parser.pending
    parser.take()
    parser.feed(b"220 mx\r\n")
    assert parser.next_reply() == Reply(220, "mx")


@given(st.binary(max_size=200), st.integers(1, 9))
def test_any_octets_are_replies_or_refused(wire: bytes, size: int) -> None:
    parser = ReplyParser()
    try:
        for start in range(0, len(wire), size):
            parser.feed(wire[start : start + size])
            while (reply := parser.next_reply()) is not None:
                assert 200 <= reply.code <= 599
                assert not any(char in reply.text for char in "\r\x00\x1b")
    except BadReply:
        pass


def test_extensions_are_read() -> None:
    lines = ["mx.example Hello", "PIPELINING", "size 1000", "AUTH PLAIN", "AUTH=LOGIN", "X-ODD", "?!", "", "8BITMIME"]
    found = parse_extensions(Reply(250, lines))
    assert found == {"PIPELINING": "", "SIZE": "1000", "AUTH": "PLAIN LOGIN", "X-ODD": "", "8BITMIME": ""}
    assert auth_mechanisms(found) == {"PLAIN", "LOGIN"}
    assert auth_mechanisms({}) == frozenset()
