"""A message on its way out: line ends, dots, the end mark."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp.client.body import BodyWriter, to_crlf
from trio_smtp.client.errors import BareNewline
from trio_smtp.protocol.stuffing import DotStuffer, stuff


def written(pieces: Sequence[bytes], writer: BodyWriter) -> bytes:
    return b"".join(writer.feed(piece) for piece in pieces) + writer.end()


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r", b"a\r\n.\r\n"),
        (b"a\n", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..\r\na", b"...\r\na\r\n.\r\n"),
        (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\r\nb", b"a\r\n\r\nb\r\n.\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\n.\nMAIL FROM:<x@y>\n", b"a\r\n..\r\nMAIL FROM:<x@y>\r\n.\r\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_line_ends_are_made_crlf_and_dots_doubled(message: bytes, sent: bytes, size: int) -> None:
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    assert written(pieces, BodyWriter()) == sent


@pytest.mark.parametrize("message", [b"a\nb", b"a\rb", b"a\r", b"a\r\r\nb", b"\n.\n"])
def test_a_bare_line_end_is_refused_where_that_is_asked_for(message: bytes) -> None:
    with pytest.raises(BareNewline):
        written([bytes([octet]) for octet in message], BodyWriter("refuse"))


def test_lines_that_end_with_crlf_pass_where_others_are_refused() -> None:
    assert written([b"a\r", b"\nb\r\n"], BodyWriter("refuse")) == b"a\r\nb\r\n.\r\n"


def test_a_message_by_chunks_is_what_it_is() -> None:
    assert written([b".\r", b"\n\n.a"], BodyWriter("keep", dots=False)) == b".\r\n\n.a"
    assert written([b".\r", b"a"], BodyWriter("crlf", dots=False)) == b".\r\na"


def test_bare_line_ends_never_go_out_after_data() -> None:
    with pytest.raises(ValueError, match="needs BDAT"):
        BodyWriter("keep")


octets = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b".\r\n"]), max_size=12)


@given(octets)
def test_pieces_make_no_difference_and_nothing_is_smuggled(pieces: list[bytes]) -> None:
    sent = written(pieces, BodyWriter())
    assert sent == stuff(to_crlf(b"".join(pieces)))
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", sent)
    assert sent.find(b"\r\n.\r\n", 0) in (-1, len(sent) - 5)


@given(octets)
def test_chunks_are_octet_for_octet_where_they_are_kept(pieces: list[bytes]) -> None:
    assert written(pieces, BodyWriter("keep", dots=False)) == b"".join(pieces)


@given(octets)
def test_dots_are_doubled_the_same_in_any_pieces(pieces: list[bytes]) -> None:
    """`stuff` of the tests' client leaves line ends as they are, and doubles a dot behind LF alone too."""
    stuffer, message = DotStuffer(), b"".join(pieces)
    sent = b"".join(map(stuffer.feed, pieces)) + stuffer.end()
    ended = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
    assert sent == stuff(message) == re.sub(rb"(?m)^\.", b"..", ended) + b".\r\n"
