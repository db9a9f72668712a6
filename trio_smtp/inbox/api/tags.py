"""Tags."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.inbox.reading import clean_tag

from .service import Problem, Service, json_of, json_response, member, ok, strings

__all__ = ["delete_tag", "list_tags", "rename_tag", "set_tags"]

_MAX_TAGS = 100


async def list_tags(service: Service, _: Request) -> Response:
    """GET /api/v1/tags."""
    return json_response(list(await service.run(service.inbox.store.tags)))


async def set_tags(service: Service, request: Request) -> Response:
    """PUT /api/v1/tags."""
    data = await json_of(request)
    identifiers = strings(data, "IDs")
    tags = [tag for tag in map(clean_tag, strings(data, "Tags", _MAX_TAGS)) if tag]
    await service.run(service.inbox.store.set_tags, identifiers, tags)
    return ok()


async def rename_tag(service: Service, request: Request) -> Response:
    """PUT /api/v1/tags/{tag}."""
    name = clean_tag(member(await json_of(request), "Name", str, ""))
    if not name:
        raise Problem(400, "Name must have at least one letter, digit, dot, hyphen, space, underscore or @")
    if not await service.run(service.inbox.store.rename_tag, request.path_params["tag"], name):
        raise Problem(404, "tag not found")
    return ok()


async def delete_tag(service: Service, request: Request) -> Response:
    """DELETE /api/v1/tags/{tag}."""
    if not await service.run(service.inbox.store.delete_tag, request.path_params["tag"]):
        raise Problem(404, "tag not found")
    return ok()
