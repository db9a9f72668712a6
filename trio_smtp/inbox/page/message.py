"""The page of one message: who, to whom really, and what was sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.inbox.api.service import Problem
from trio_smtp.inbox.reading import Mail, headline_of, read_mail
from trio_smtp.inbox.store import Query, Summary
from trio_smtp.inbox.texts import links_of
from trio_smtp.reading import decode_words

from .rendering import Pages

__all__ = ["show_message"]

#: What is shown at most; the rest can be downloaded.
_MAX_TEXT = 200_000
_MAX_FIELDS = 300
_MAX_VALUE = 4_000
_MAX_LINKS = 300
_MAX_PARTS = 300
_MAX_ADDRESSES = 50
_REMOTE = re.compile(
    r"""(?:\b(?:src|srcset|background|poster)\s{0,9}=\s{0,9}["']?|url\(\s{0,9}["']?|@import\s{1,9}["']?)\s{0,9}(?:https?:)?//""",
    re.IGNORECASE,
)


async def show_message(pages: Pages, request: Request) -> Response:
    """``/view/{id}?tab=...``; marks the message as read."""
    row = await pages.service.find(request)
    query = pages.service.query(request)
    wanted = request.query_params.get("tab", "")
    values = await pages.service.run(_look, pages, row, query, wanted)
    if values is None:
        raise Problem(404, "message not found")
    return await pages.show(
        request,
        "message.html",
        query=request.query_params.get("query", ""),
        remote=request.query_params.get("remote") == "1",
        narrow=request.query_params.get("width") == "narrow",
        **values,
    )


def _look(pages: Pages, row: Summary, query: Query, wanted: str) -> dict[str, Any] | None:
    """What the page shows; None: the message was deleted meanwhile."""
    store = pages.service.inbox.store
    octets, envelope = store.octets(row.id), store.envelope(row.id)
    if octets is None or envelope is None:
        return None
    if not row.read:
        store.mark([row.id], read=True)
    mail = read_mail(octets)
    recipients = tuple(each["Address"] for each in envelope["Recipients"])
    headline = headline_of(mail, recipients, row.username) if octets else row.headline
    html, text = mail.html, mail.text
    tabs = _tabs(octets, html, text)
    tab = wanted if wanted in tabs else next(iter(tabs))
    newer, older = store.beside(row.id, query or None)
    named = {box.address.casefold() for name in ("to", "cc") for box in mail.addresses(name)}
    return {
        "row": row,
        "mail": mail,
        "whole": bool(octets),
        "date": mail.field("date"),
        "headline": headline,
        "boxes_of": _boxes(mail),
        "envelope": envelope,
        "recipients": [
            (each, bool(octets) and each["Address"].casefold() not in named)
            for each in envelope["Recipients"][:_MAX_ADDRESSES]
        ],
        "most": _MAX_ADDRESSES,
        "tabs": tabs,
        "tab": tab,
        "newer": newer,
        "older": older,
        "asks_for_images": _REMOTE.search(html) is not None,
        "cut": max(0, len(octets if tab == "raw" else text) - _MAX_TEXT) if tab in ("raw", "text") else 0,
        "content": _CONTENTS[tab](pages, row, mail, octets),
    }


def _tabs(octets: bytes, html: str, text: str) -> dict[str, str]:
    """The tabs that have something to show, what people look for first at the front."""
    tabs = {}
    if html:
        tabs["html"] = "HTML"
    if octets:
        if text or not html:
            tabs["text"] = "Text"
        tabs |= {"headers": "Headers", "raw": "Raw", "parts": "Parts", "links": "Links"}
    return tabs | {"transcript": "Transcript"}


def _boxes(mail: Mail) -> list[tuple[str, tuple[str, ...], int]]:
    """Fields with addresses: the name, the first ones, and how many more there are."""
    # From may be no address, but a name alone.
    found = [("From", mail.addresses("from") or tuple(filter(None, (mail.sender,))))]
    found += [(name, mail.addresses(name.lower())) for name in ("Sender", "To", "Cc", "Bcc", "Reply-To")]
    return [
        (name, tuple(map(str, boxes[:_MAX_ADDRESSES])), max(0, len(boxes) - _MAX_ADDRESSES))
        for name, boxes in found
        if boxes
    ]


def _fields(mail: Mail) -> list[tuple[str, str, str]]:
    """Header fields: the name, the value, and the decoded value where that is another one."""
    shown = []
    for name, value in mail.fields[:_MAX_FIELDS]:
        decoded = decode_words(value)
        shown.append((name, value[:_MAX_VALUE], decoded[:_MAX_VALUE] if decoded != value else ""))
    return shown


def _raw(octets: bytes) -> str:
    return octets[:_MAX_TEXT].decode("utf-8", "backslashreplace").replace("\r\n", "\n")


#: What each tab shows.
_CONTENTS: dict[str, Callable[[Pages, Summary, Mail, bytes], Any]] = {
    "html": lambda _pages, _row, _mail, _octets: None,
    "text": lambda _pages, _row, mail, _octets: mail.text[:_MAX_TEXT],
    "headers": lambda _pages, _row, mail, _octets: _fields(mail),
    "raw": lambda _pages, _row, _mail, octets: _raw(octets),
    "parts": lambda _pages, _row, mail, _octets: mail.parts[:_MAX_PARTS],
    "links": lambda _pages, _row, mail, _octets: links_of(mail.text, mail.html)[:_MAX_LINKS],
    "transcript": lambda pages, row, _mail, _octets: pages.service.inbox.store.transcript(row.id) or [],
}
