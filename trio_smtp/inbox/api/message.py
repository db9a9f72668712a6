"""One message: read, header, octets, parts, dialogue, release."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.inbox.reading import Part, read_mail
from trio_smtp.inbox.relay import RelayError
from trio_smtp.inbox.store import Summary

from . import shapes
from .service import Problem, Service, json_of, json_response, ok, strings
from .thumbnails import BLANK, thumbnail

__all__ = [
    "envelope",
    "get_message",
    "headers",
    "not_offered",
    "part",
    "parts",
    "raw",
    "release",
    "thumb",
    "transcript",
    "whole",
]

_PART_ID = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,200}", re.ASCII)


async def get_message(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}."""
    return json_response(await whole(service, await service.find(request)))


async def whole(service: Service, row: Summary) -> dict[str, Any]:
    """A message as ``/message/{id}`` gives it; marks it as read."""
    store = service.inbox.store

    def read() -> dict[str, Any] | None:
        octets, facts = store.octets(row.id), store.envelope(row.id)
        if octets is None or facts is None:
            return None
        if not row.read:
            store.mark([row.id], read=True)
        return shapes.message(row, octets, facts)

    found = await service.run(read)
    if found is None:
        raise Problem(404, "message not found")
    return found


async def headers(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/headers."""
    octets = await service.octets(await service.find(request))
    mail = await service.run(read_mail, octets)
    found: dict[str, list[str]] = {}
    for name, value in mail.fields:
        found.setdefault("-".join(word.capitalize() for word in name.split("-")), []).append(value)
    return json_response(dict(sorted(found.items())))


async def raw(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/raw."""
    row = await service.find(request)
    octets = await service.octets(row)
    if request.query_params.get("dl") == "1":
        return Response(octets, media_type="message/rfc822", headers=_download(f"{row.id}.eml"))
    return Response(octets, media_type="text/plain; charset=utf-8")


async def parts(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/parts."""
    octets = await service.octets(await service.find(request))
    return json_response(await service.run(lambda: shapes.parts(read_mail(octets))))


async def part(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/part/{part}."""
    found = await _part(service, request)
    content = await service.run(lambda: found.content)
    name = found.filename or f"part-{found.id}"
    # As it was declared, without a charset: it is never shown, but always a download.
    return Response(content, headers={"content-type": found.content_type, **_download(name)})


async def thumb(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/part/{part}/thumb."""
    found = await _part(service, request)
    image = BLANK
    if found.content_type.startswith("image/"):
        image = await service.run_alone(lambda: thumbnail(found.content))
    return Response(image, media_type="image/jpeg")


async def _part(service: Service, request: Request) -> Part:
    identifier = request.path_params["part"]
    octets = await service.octets(await service.find(request))
    found = None
    if _PART_ID.fullmatch(identifier):
        found = (await service.run(read_mail, octets)).part(identifier)
    if found is None:
        raise Problem(404, "part not found")
    return found


async def envelope(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/envelope."""
    row = await service.find(request)
    return json_response(await _present(service, service.inbox.store.envelope, row))


async def transcript(service: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/transcript."""
    row = await service.find(request)
    lines = await _present(service, service.inbox.store.transcript, row)
    return json_response({"ID": row.id, "State": row.state, "Reply": row.reply, "Lines": lines})


async def _present(service: Service, look: Any, row: Summary) -> Any:
    found = await service.run(look, row.id)
    if found is None:
        raise Problem(404, "message not found")
    return found


async def release(service: Service, request: Request) -> Response:
    """POST /api/v1/message/{id}/release."""
    relay, store = service.inbox.relay, service.inbox.store
    if relay is None:
        raise Problem(400, "Release needs a relay: --relay smtp://HOST, or Inbox(relay=...)")
    row = await service.find(request)
    data = await json_of(request)
    # npm's mailpit-api sends the list alone, when it is given one.
    recipients = strings({"To": data} if isinstance(data, list) else data, "To")
    octets = await service.octets(row)
    facts = await _present(service, store.envelope, row)
    try:
        await service.run(relay.send, facts["Sender"], recipients, _without_bcc(octets))
    except RelayError as error:
        raise Problem(400, str(error)) from None
    return ok()


async def not_offered(_: Service, request: Request) -> Response:
    """GET /api/v1/message/{id}/html-check, link-check, sa-check."""
    name = request.url.path.rpartition("/")[2]
    raise Problem(501, f"{name} is not offered: what filters and mail clients say is not for this inbox", as_json=True)


def _without_bcc(octets: bytes) -> bytes:
    """The message without its Bcc fields, which name recipients that the others must not see."""
    end = re.search(rb"\r?\n\r?\n", octets)
    head = octets[: end.end()] if end is not None else octets
    cleaned = re.sub(rb"^bcc[ \t]*:.*(?:\r?\n[ \t].*)*(?:\r?\n|\Z)", b"", head, flags=re.IGNORECASE | re.MULTILINE)
    return cleaned + octets[len(head) :]


def _download(name: str) -> dict[str, str]:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return {"content-disposition": f"attachment; filename=\"{plain}\"; filename*=utf-8''{quote(name, safe='')}"}
