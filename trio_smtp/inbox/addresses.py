"""Reads header fields of addresses, and encoded words, in time that grows with their length alone; never raises."""

from __future__ import annotations

import base64
import binascii
import quopri
import re

__all__ = ["addresses_of", "decode_words"]

#: Addresses of one field that are looked at.
_MAX_ADDRESSES = 10_000

_WORD = re.compile(r"=\?([A-Za-z0-9_.:+*-]{1,40})\?([bBqQ])\?([!-~ ]*?)\?=")
#: What stands between two encoded words is left out (RFC 2047 section 6.2).
_BETWEEN = re.compile(r"(\?=)[ \t\r\n]+(?==\?[A-Za-z0-9_.:+*-]{1,40}\?[bBqQ]\?)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
#: Other pieces of a list of addresses: a comment without others in it, what is in angle brackets, a separator, or
#: anything else up to the next of these.
_PIECE = re.compile(r'\((?P<comment>[^()]*)\)|<(?P<address>[^<>]*)>|(?P<mark>[,;:])|(?P<other>[^"(<,;:]+|.)', re.DOTALL)


def decode_words(text: str) -> str:
    """Decode the encoded words in a header field.

    RFC: RFC 2047.
    """
    if "=?" not in text:
        return text
    return _WORD.sub(_decode_word, _BETWEEN.sub(r"\1", text))


def _decode_word(match: re.Match[str]) -> str:
    charset, encoding, encoded = match[1].partition("*")[0], match[2].lower(), match[3]
    try:
        if encoding == "b":
            octets = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
        else:
            octets = quopri.decodestring(encoded.replace("_", "=20").encode("ascii"), header=False)
        decoded = octets.decode(charset)
    except (LookupError, ValueError, binascii.Error):
        return match[0]
    # Line ends and other control characters would make a second field of it, where somebody shows it.
    decoded = "".join(character if character.isprintable() else " " for character in decoded)
    return decoded.encode("utf-8", "replace").decode()


def addresses_of(text: str) -> list[tuple[str, str]]:
    """The addresses of a field: pairs of display name and address.

    Groups are dissolved, comments become names where there is none. What is no address is left out.

    Args:
        text: The field's value, with encoded words as they were sent.

    RFC: RFC 5322 section 3.4.
    """
    found: list[tuple[str, str]] = []
    reader = _Reader()
    position, quotes = 0, True
    while position < len(text) and len(found) < _MAX_ADDRESSES:
        match = _QUOTED.match(text, position) if quotes and text[position] == '"' else None
        if match is not None:
            reader.name.append(re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL))
        else:
            # A quote that nothing ends: looking for its end again from the next one would take for ever.
            quotes = quotes and text[position] != '"'
            match = _PIECE.match(text, position)
            assert match is not None
            reader.piece(match, found)
        position = match.end()
    reader.end(found)
    return found


class _Reader:
    """The address that is being read."""

    def __init__(self) -> None:
        self.name: list[str] = []
        self._address: str | None = None
        self._comment = ""

    def piece(self, match: re.Match[str], found: list[tuple[str, str]]) -> None:
        if match["mark"] == ":":
            self.name.clear()  # what stood before it is the name of a group
        elif match["mark"] is not None:
            self.end(found)
        elif match["address"] is not None:
            self._address = match["address"].strip()
        elif match["comment"] is not None:
            self._comment = match["comment"]
        else:
            self.name.append(match["other"])

    def end(self, found: list[tuple[str, str]]) -> None:
        address, words = self._address, "".join(self.name).strip()
        if address is None and "@" in words:
            address, words = "".join(words.split()), ""
        if address:
            found.append((decode_words(words or self._comment), address))
        self.name.clear()
        self._address, self._comment = None, ""
