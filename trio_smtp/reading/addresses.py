"""Reads header fields of addresses, in time that grows with their length alone; never raises."""

from __future__ import annotations

import re

from .words import decode_words

__all__ = ["mailboxes_in"]

#: Addresses of one field that are looked at.
_MAX_ADDRESSES = 10_000

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
#: Other pieces of a list of addresses: a comment without others in it, what is in angle brackets, a separator, or
#: anything else up to the next of these: a domain may be a literal, which has colons.
_PIECE = re.compile(
    r'\((?P<comment>[^()]*)\)|<(?P<address>[^<>]*)>|(?P<mark>[,;:])|(?P<other>\[[^\[\]]*\]|[^"(<,;:\[]+|.)', re.DOTALL
)
_ADDRESS = re.compile(r"(?<![^\s<>,;:()\"\[\]\\@])[^\s<>,;:()\"\[\]\\@]{1,256}+@[^\s<>,;()\"\\@]{1,256}+")
_ATOM = re.compile(r"[^\s<>()\"\[\]\\@]+")


def mailboxes_in(text: str) -> list[tuple[str, str]]:
    """Read the mailboxes of a field such as To: pairs of display name and address, at most 10,000.

    Groups are dissolved, and a comment is the name where there is no other. A word alone, as in ``To: root``, is the
    name of a mailbox whose address is empty.

    Args:
        text: The field's text on one line, with encoded words as they were sent.

    RFC: RFC 5322 section 3.4.
    """
    found: list[tuple[str, str]] = []
    reader = _Reader()
    position, quotes = 0, True
    while position < len(text) and len(found) < _MAX_ADDRESSES:
        match = _QUOTED.match(text, position) if quotes and text[position] == '"' else None
        if match is not None:
            reader.add(re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL), match[0])
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
    """The mailbox that is being read."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        # The words outside of brackets: as a name, and as an address, in which quotes stay and blanks do not count.
        self._words: list[str] = []
        self._bare: list[str] = []
        self._address: str | None = None
        self._comment = ""

    def add(self, words: str, bare: str) -> None:
        self._words.append(words)
        self._bare.append(bare)

    def piece(self, match: re.Match[str], found: list[tuple[str, str]]) -> None:
        if match["mark"] == ":":
            self._begin()  # what stood before it is the name of a group
        elif match["mark"] is not None:
            self.end(found)
        elif match["address"] is not None:
            self._address = match["address"].strip()
        elif match["comment"] is not None:
            self._comment = match["comment"]
        else:
            self.add(match["other"], "".join(match["other"].split()))

    def end(self, found: list[tuple[str, str]]) -> None:
        words = "".join(self._words).strip()
        if self._address:
            found.append((decode_words(words or self._comment), _without_route(self._address)))
        elif self._address is None:
            bare = "".join(self._bare)
            if "@" in bare:
                # Blanks divide words that belong together, or a name without brackets from its address.
                addresses = [bare] if bare.startswith('"') else _ADDRESS.findall(words) or [bare]
                found += [(decode_words(self._comment), address) for address in addresses]
            elif _ATOM.fullmatch(bare) and bare == words:
                found.append((decode_words(words), ""))
        self._begin()


def _without_route(address: str) -> str:
    """What stands in angle brackets, without a source route, blanks and comments (RFC 5322 section 4.4)."""
    if address.startswith("@"):
        address = address.partition(":")[2]
    if " " in address and '"' not in address:
        match = _ADDRESS.search(address)
        return "".join(address.split()) if match is None else match[0]
    return address
