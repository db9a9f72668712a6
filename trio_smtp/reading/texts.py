"""Finds links and codes in texts, and makes text of HTML: linear in time, for what strangers wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

__all__ = ["code_in", "links", "text_of_html"]

#: Elements whose content is not shown, and where it ends.
_UNREAD = {
    name: re.compile(f"</{name}", re.IGNORECASE | re.ASCII) for name in ("script", "style", "head", "title", "template")
}
#: How a tag or a comment begins.
_TAG = re.compile(r"<(?:/?([A-Za-z][A-Za-z0-9]*)|[/!?>])")
#: Elements that stand in the middle of a word.
_IN_WORDS = frozenset(re.findall("[a-z]+", "a b i u s em strong span font small big sub sup code mark abbr wbr"))

# An attribute's value ends at its quote, or without quotes at a blank or the tag's end.
_HREF = re.compile(
    r"""<a\s[^<>]{0,4096}?\bhref\s{0,16}=\s{0,16}(?:"([^"]*+)"|'([^']*+)'|([^\s>"']++))""", re.IGNORECASE
)
_URL = re.compile(r"""\b[a-z][a-z0-9+.-]{1,30}://[^\s<>"'`{}|\\^]{1,2048}+""", re.IGNORECASE)
_OPENING = {")": "(", "]": "["}
_CODE = r"\b\d{4,8}\b"


def links(text: str, html: str = "") -> list[str]:
    """Find links: what has ``://`` in a text, then what anchors of HTML lead to; in order, none twice.

    Args:
        text: Plain text.
        html: HTML; links to a place in the page itself are left out.
    """
    found = [match[0].rstrip(".,;:!?") for match in _URL.finditer(text)]
    found = [_without_open_end(link) for link in found]
    for match in _HREF.finditer(html):
        link = unescape(match[1] or match[2] or match[3] or "").strip()
        if link and not link.startswith("#"):
            found.append(link)
    return list(dict.fromkeys(found))


def text_of_html(html: str) -> str:
    """Make text of HTML, as far as a search needs it: without tags, comments, styles and scripts.

    Takes time that grows with the length alone.
    """
    return unescape("".join(_visible(html)))


def _visible(html: str) -> Iterator[str]:
    position = 0
    while (tag := _TAG.search(html, position)) is not None:
        start, name = tag.start(), (tag[1] or "").lower()
        yield html[position:start]
        end = "-->" if html.startswith("<!--", start) else ">"
        found = html.find(end, start)
        if found < 0:
            return
        position = found + len(end)
        unread = None if html[start + 1] == "/" else _UNREAD.get(name)
        if unread is not None:
            closing = unread.search(html, position)
            if closing is None:
                return
            position = closing.start()
        if name not in _IN_WORDS:
            yield "\n"
    yield html[position:]


def code_in(text: str, pattern: str | re.Pattern[str] = _CODE) -> str | None:
    """Find a code, such as the one that confirms an address.

    Args:
        text: Where to look.
        pattern: What a code looks like; what its first group matches is the code, where it has one.

    Returns:
        The first code, None where there is none.

    Raises:
        re.error: The pattern is none.
    """
    match = re.search(pattern, text)
    if match is None:
        return None
    return str(match[1] or "") if match.re.groups else match[0]


def _without_open_end(link: str) -> str:
    """A link without a bracket that closes one which stands before the link."""
    while link[-1:] in _OPENING and link.count(link[-1]) > link.count(_OPENING[link[-1]]):
        link = link[:-1].rstrip(".,;:!?")
    return link
