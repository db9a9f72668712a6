"""The list: all messages, a search, or what failed."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.inbox.api.service import MAX_START, Problem, number, parsed
from trio_smtp.inbox.store import Page, Query

from .rendering import Pages

__all__ = ["LIMIT", "show_list"]

#: Messages on a page.
LIMIT = 50


async def show_list(pages: Pages, request: Request) -> Response:
    """``/?query=...&start=...``: a search that is malformed is shown with what is wrong with it."""
    start = number(request, "start", 0, MAX_START)
    text = request.query_params.get("query", "").strip()
    problem = ""
    query = Query()
    try:
        query = parsed(text, request.query_params.get("tz", ""))
    except Problem as error:
        problem = error.text
    page = Page((), 0, 0) if problem else await pages.service.run(_look, pages, query, start)
    return await pages.show(
        request,
        "list.html",
        status=400 if problem else 200,
        page=page,
        query=text,
        start=min(start, page.count),
        limit=LIMIT,
        problem=problem,
        first=_first(pages.service.inbox.smtp_address),
    )


def _look(pages: Pages, query: Query, start: int) -> Page:
    store = pages.service.inbox.store
    page = store.page(query or None, start=start, limit=LIMIT)
    if start and not page.rows:  # what stood here is deleted
        page = store.page(query or None, start=max(0, (page.count - 1) // LIMIT * LIMIT), limit=LIMIT)
    return page


def _first(place: str) -> str:
    """A command that sends a first message."""
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not listened on
    return (
        "python3 -c 'import smtplib\n"
        f'smtplib.SMTP("{host}", {port}).sendmail(\n'
        """    "me@example.com", "you@example.com", "Subject: Hello\\n\\nIt works.")'"""
    )
