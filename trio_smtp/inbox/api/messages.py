"""Lists, searches, and what is done to many messages."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.inbox.store import Page, Query, Totals, parse_query

from . import shapes
from .service import (
    MAX_LIMIT,
    MAX_START,
    Problem,
    Service,
    json_of,
    json_response,
    member,
    number,
    ok,
    parsed,
    strings,
)

__all__ = ["delete_found", "delete_messages", "failures", "list_messages", "search", "set_read"]


async def list_messages(service: Service, request: Request) -> Response:
    """GET /api/v1/messages."""
    return await _listed(service, request, None)


async def search(service: Service, request: Request) -> Response:
    """GET /api/v1/search."""
    return await _listed(service, request, service.needed_query(request))


async def failures(service: Service, request: Request) -> Response:
    """GET /api/v1/failures."""
    return await _listed(service, request, parse_query("is:failed"))


async def _listed(service: Service, request: Request, query: Query | None) -> Response:
    store = service.inbox.store
    start = number(request, "start", 0, MAX_START)
    limit = number(request, "limit", 50, MAX_LIMIT)

    def look() -> tuple[Page, Totals, dict[str, int]]:
        return store.page(query, start=start, limit=limit), store.totals(), store.tags()

    page, totals, tags = await service.run(look)
    return json_response(shapes.listing(page, totals, tags, start))


async def set_read(service: Service, request: Request) -> Response:
    """PUT /api/v1/messages."""
    data = await json_of(request)
    read = member(data, "Read", bool, False)
    identifiers = strings(data, "IDs")
    text = member(data, "Search", str, "").strip()
    if identifiers and text:
        raise Problem(400, "You may specify either IDs or a search query, not both")
    query = parsed(text, request.query_params.get("tz", ""))
    if text and not query:
        raise Problem(400, "Error: no search query")
    await service.run(service.inbox.store.mark, identifiers or query or None, read=read)
    return ok()


async def delete_messages(service: Service, request: Request) -> Response:
    """DELETE /api/v1/messages."""
    identifiers = strings(await json_of(request), "IDs")
    await service.run(service.inbox.store.delete, identifiers or None)
    return ok()


async def delete_found(service: Service, request: Request) -> Response:
    """DELETE /api/v1/search."""
    await service.run(service.inbox.store.delete, service.needed_query(request))
    return ok()
