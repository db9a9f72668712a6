"""Plain text out of HTML, links out of text: linear in time, for what strangers wrote."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

__all__ = ["collapsed", "links_of", "text_of_html"]

#: Elements whose content is not shown.
_UNREAD = ("script", "style", "head", "title", "template")
_NAME = re.compile(r"/?([A-Za-z][A-Za-z0-9]*)")
#: Elements that stand in the middle of a word.
_IN_WORDS = frozenset(
    (
        "a",
        "b",
        "i",
        "u",
        "s",
        "em",
        "strong",
        "span",
        "font",
        "small",
        "big",
        "sub",
        "sup",
        "code",
        "mark",
        "abbr",
        "wbr",
    )
)

_HREF = re.compile(r"""\b(?:href|src)\s{0,9}=\s{0,9}(?:"([^"]{1,2000})"|'([^']{1,2000})')""", re.IGNORECASE)
_URL = re.compile(r"\bhttps?://[^\s<>\"']{1,2000}", re.IGNORECASE)
_SCHEMES = ("http://", "https://", "mailto:", "tel:")
_MAX_LINKS = 1_000


def collapsed(text: str) -> str:
    """The text in one line, with single spaces, and without control characters."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in text).split())


def text_of_html(source: str) -> str:
    """What a reader of the HTML sees, roughly."""
    return html.unescape("".join(_visible(source)))


def _visible(source: str) -> Iterator[str]:
    lower = source.lower()
    position = 0
    while (start := source.find("<", position)) >= 0:
        yield source[position:start]
        if source.startswith("<!--", start):
            end, width = source.find("-->", start), 3
        else:
            end, width = source.find(">", start), 1
        if end < 0:
            return
        match = _NAME.match(source, start + 1, end)
        name = "" if match is None else match[1].lower()
        position = end + width
        if name in _UNREAD and source[start + 1] != "/":
            position = lower.find(f"</{name}", position)
            if position < 0:
                return
        if name not in _IN_WORDS:
            yield "\n"
    yield source[position:]


def links_of(text: str, source: str) -> list[str]:
    """The links of a message, each once, in order.

    Args:
        text: Its plain text.
        source: Its HTML.
    """
    found: dict[str, None] = {}
    for match in _HREF.finditer(source):
        link = html.unescape(match[1] or match[2]).strip()
        if link.lower().startswith(_SCHEMES):
            found[link] = None
    for match in _URL.finditer(text):
        found[match[0].rstrip(".,;:!?)]}")] = None
    return list(found)[:_MAX_LINKS]
