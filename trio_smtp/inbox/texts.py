"""Text in one line, and the links that Mailpit shows."""

from __future__ import annotations

import re
from html import unescape

from trio_smtp.reading import links

__all__ = ["collapsed", "links_of"]

_HREF = re.compile(r"""\b(?:href|src)\s{0,9}=\s{0,9}(?:"([^"]{1,2000})"|'([^']{1,2000})')""", re.IGNORECASE)
_IN_TEXT = ("http://", "https://")
_IN_HTML = (*_IN_TEXT, "mailto:", "tel:")
_MAX_LINKS = 1_000


def collapsed(text: str) -> str:
    """The text in one line, with single spaces, and without control characters."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in text).split())


def links_of(text: str, source: str) -> list[str]:
    """The links of a message, each once, in order.

    Args:
        text: Its plain text.
        source: Its HTML.
    """
    found = [unescape(match[1] or match[2]).strip() for match in _HREF.finditer(source)]
    found = [link for link in found if link.lower().startswith(_IN_HTML)]
    found += [link for link in links(text) if link.lower().startswith(_IN_TEXT)]
    return list(dict.fromkeys(found))[:_MAX_LINKS]
