r"""Header fields as octets: where the header section of a message ends, what fields it has, and how a field is written.

The header section is the run of lines at the start that are fields (printable ASCII but colon, then optional blanks and
a colon) or continuations of one. It ends at the empty line, at the end of the message, or before the first line that is
neither. A line ends at LF, with or without a CR before it; a lone CR ends none. The name of a field is looked for in
the first `MAX_NAME` octets of its line.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import final

import attrs

from trio_smtp.protocol.values import ShowsFields

__all__ = ["MAX_NAME", "Head", "HeaderField", "check_name", "encode_field", "line_end_of", "parse_fields"]

#: Octets of a line in which the name of a field and its colon are looked for.
MAX_NAME = 65_536

_CRLF = b"\r\n"
_LINE = 78
# With "=?utf-8?b?" and "?=" around the base64 of so many octets, an encoded word has at most 75 characters.
_WORD_OCTETS = 45
# A longer word would make a line of more than 998 octets, since a line is broken between words only.
_MAX_WORD = 900
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_NAME = re.compile(r"[!-9;-~]{1,200}")
_RAW_FIELD = re.compile(rb"[^\n]*(?:\n[ \t][^\n]*)*\n?")
_FOLDING = re.compile(rb"\r?\n")
# Not every program reads or writes fields: re compiles these patterns at their first use, and keeps them.
_BLANKS = r"[\x00-\x20\x7f-\x9f\u2028\u2029]+"
_ENCODED_WORD = r"=\?([^?\s*]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?\s]*)\?="
_BETWEEN_WORDS = r"(\?=)\s+(?==\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=)"


@attrs.frozen(repr=False)
class HeaderField(ShowsFields):
    """A header field as it stands in a message.

    Attributes:
        name: What stands before the colon, in the message's own case.
        raw: All of its octets, folding and line ends included.
    """

    name: str
    raw: bytes = attrs.field(repr=False)

    @property
    def text(self) -> str:
        """What stands after the colon, unfolded, encoded words (RFC 2047) decoded; reading it never raises."""
        value = _text(_FOLDING.sub(b"", self.raw.partition(b":")[2])).strip(" \t\r\n")
        return re.sub(_ENCODED_WORD, _decode_word, re.sub(_BETWEEN_WORDS, r"\1", value))


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _decode_word(match: re.Match[str]) -> str:
    charset, encoding, text = match.groups()
    try:
        octets = (
            base64.b64decode(text + "=" * (-len(text) % 4))
            if encoding in "bB"
            else binascii.a2b_qp(text.encode(), header=True)
        )
        return octets.decode(charset, "replace")
    except (LookupError, ValueError, binascii.Error):
        return match[0]


def check_name(name: object) -> None:
    """Check the name of a field that is to be written.

    Raises:
        ValueError: It is not 1 to 200 printable ASCII characters but colon (RFC 5322 section 2.2).
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name must be 1 to 200 printable ASCII characters without a colon, not {name!r}")


def encode_field(name: str, value: str, *, utf8: bool, line_end: bytes = _CRLF) -> bytes:
    """Write a field.

    Control characters, line ends and runs of blanks become one space each. Lines are broken between words, after at
    most 78 octets where that can be (RFC 5322 section 2.2.3); words that are not ASCII, or too long for any line, are
    encoded (RFC 2047).

    Args:
        name: The field's name.
        value: What stands after the colon.
        utf8: Leave what is not ASCII as UTF-8 (RFC 6532).
        line_end: CRLF or LF.

    Returns:
        The field, its line end included.

    Raises:
        ValueError: The name is not that of a field.
    """
    check_name(name)
    line = f"{name}:".encode()
    lines: list[bytes] = []
    for word in _encode_words(re.sub(_BLANKS, " ", value).strip(" "), utf8=utf8):
        # The first word stays beside the name: a first line that holds the name alone confuses some programs.
        if len(line) + 1 + len(word) > _LINE and not (not lines and line.endswith(b":") and len(word) < _MAX_WORD):
            lines.append(line)
            line = b""
        line += b" " + word
    return line_end.join([*lines, line]) + line_end


def _encode_words(value: str, *, utf8: bool) -> list[bytes]:
    words: list[bytes] = []
    encode: list[str] = []

    def flush() -> None:
        if encode:
            # Blanks between encoded words are not shown, so those inside the text are encoded with it.
            words.extend(_encoded(" ".join(encode)))
            encode.clear()

    for word in value.split(" ") if value else []:
        octets = word.encode("utf-8", "replace")
        if (utf8 or octets.isascii()) and len(octets) <= _MAX_WORD:
            flush()
            words.append(octets)
        else:
            encode.append(word)
    flush()
    return words


def _encoded(text: str) -> list[bytes]:
    pieces, piece = [], b""
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(piece) + len(octets) > _WORD_OCTETS:
            pieces.append(piece)
            piece = b""
        piece += octets
    return [b"=?utf-8?b?%s?=" % base64.b64encode(each) for each in [*pieces, piece]]


def line_end_of(octets: bytes | bytearray) -> bytes | None:
    """The first line end in these octets: CRLF or LF; None: there is none."""
    end = octets.find(b"\n")
    if end < 0:
        return None
    return _CRLF if octets[end - 1 : end] == b"\r" else b"\n"


def parse_fields(section: bytes) -> list[HeaderField]:
    """Take a header section apart; its octets are those of its fields in order."""
    fields = []
    for match in _RAW_FIELD.finditer(section):
        if raw := match[0]:
            name = raw[: raw.index(b":")].rstrip(b" \t")
            fields.append(HeaderField(name.decode("ascii"), raw))
    return fields


@final
class Head:
    """Finds the end of the header section of a message that comes in pieces.

    Args:
        most: The most octets that a header section may have.

    Attributes:
        octets: What was looked at: the section, and the line after it.
        end: Where the section ends in them; None: not found yet.
        too_long: The section has more octets than it may have, so its end is not known.
    """

    __slots__ = ("_line", "_most", "_searched", "end", "octets", "too_long")

    def __init__(self, most: int) -> None:
        self._most = most
        self._line = 0
        self._searched = 0
        self.octets: bytearray = bytearray()
        self.end: int | None = None
        self.too_long: bool = False

    def feed(self, chunk: bytes) -> None:
        """Look at the next piece of the message, unless the end was found."""
        if self.end is not None or self.too_long:
            return
        self.octets += chunk
        while (newline := self.octets.find(b"\n", self._searched)) >= 0:
            if not self._belongs(newline + 1):
                self.end = self._line
                # The line after the section is needed, for its line end, and nothing beyond.
                del self.octets[newline + 1 :]
                return
            self._line = self._searched = newline + 1
            if self._line > self._most:
                break
        self._searched = len(self.octets)
        if len(self.octets) - self._line >= MAX_NAME and not self._belongs(len(self.octets)):
            self.end = self._line
        elif len(self.octets) > self._most + MAX_NAME or self._line > self._most:
            self.too_long = True

    def finish(self) -> None:
        """The message has ended."""
        if self.end is None:
            rest = len(self.octets)
            self.end = rest if self._line == rest or self._belongs(rest) else self._line

    def _belongs(self, end: int) -> bool:
        """Whether the line that begins at `_line` belongs to the section: it is a field, or continues one."""
        if self.octets.startswith((b" ", b"\t"), self._line):
            return self._line > 0
        return _FIELD.match(self.octets, self._line, min(end, self._line + MAX_NAME)) is not None
