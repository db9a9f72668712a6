"""Texts of messages as they are looked at. What is HTML may do nothing: see `safety.MAIL_POLICY`."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from trio_smtp.inbox.reading import Mail, read_mail

from .safety import mail_policy
from .service import Problem, Service

__all__ = ["latest", "rendered", "view_html", "view_text"]

#: Octets of images that are put into the HTML of one message.
_MAX_IMAGES = 4 * 1024 * 1024
_RASTER = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/x-icon", "image/avif"})
_DOCTYPE = re.compile(r"\s{0,1000}<!doctype[^>]{0,1000}>", re.IGNORECASE)
_CID = re.compile(r"cid:([^\s\"'<>()&;]{1,500})", re.IGNORECASE)
#: Places whose images were too much that get `_NOTHING`.
_MAX_BLANKS = 1_000
#: What stands in the other ones: it is no longer than what was there before, or a little.
_TOO_MUCH = "data:,"
#: What stands where there is no image: 1x1, transparent.
_NOTHING = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
_BASE = '<base target="_blank">'


async def view_html(service: Service, request: Request) -> Response:
    """GET /view/{id}.html; with ``?remote=1`` images from elsewhere are shown."""
    octets = await service.octets(await service.find(request))
    html = await service.run(lambda: rendered(read_mail(octets)))
    if html is None:
        raise Problem(404, "this message has no HTML part")
    policy = mail_policy(remote_images=request.query_params.get("remote") == "1")
    return HTMLResponse(html, headers={"content-security-policy": policy})


async def view_text(service: Service, request: Request) -> Response:
    """GET /view/{id}.txt."""
    octets = await service.octets(await service.find(request))
    return PlainTextResponse(await service.run(lambda: read_mail(octets).text))


async def latest(service: Service, request: Request) -> Response:
    """GET /view/latest."""
    row = await service.find(request)
    return RedirectResponse(f"{request.scope['root_path']}/view/{row.id}", 302)


def rendered(mail: Mail) -> str | None:
    """The HTML of a message, its images put in; None: it has none. Links in it open in a new tab."""
    html = mail.html
    if not html:
        return None
    left, blanks = _MAX_IMAGES, _MAX_BLANKS
    images = {part.content_id: part for part in mail.parts if part.content_id and part.content_type in _RASTER}
    made: dict[str, str] = {}

    def image(match: re.Match[str]) -> str:
        nonlocal left, blanks
        name = unquote(match[1])
        if name not in made:
            part = images.get(name)
            content = b"" if part is None else part.content
            if part is None or len(content) > left:
                made[name] = _NOTHING
            else:
                made[name] = f"data:{part.content_type};base64,{base64.b64encode(content).decode()}"
        left -= len(made[name])
        if left >= 0:
            return made[name]
        blanks -= 1
        return _NOTHING if blanks >= 0 else _TOO_MUCH

    shown = _CID.sub(image, html)
    # Before anything that could take effect, but not before the doctype: without it the page is laid out differently.
    doctype = _DOCTYPE.match(shown)
    place = doctype.end() if doctype is not None else 0
    return shown[:place] + _BASE + shown[place:]
