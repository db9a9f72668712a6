"""Renders templates; what they show is escaped."""

from __future__ import annotations

import hashlib
import time
from importlib import resources
from urllib.parse import quote, urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import trio_smtp
from trio_smtp.inbox.api.safety import PAGE_POLICY
from trio_smtp.inbox.api.service import Service

from . import formats
from .sidebar import Sidebar

__all__ = ["STATIC", "Pages", "address"]

#: Media types of the files that pages load. Other names are not there.
_TYPES = {
    "inbox.css": "text/css; charset=utf-8",
    "inbox.js": "text/javascript; charset=utf-8",
    "keyed.js": "text/javascript; charset=utf-8",
    "actions.js": "text/javascript; charset=utf-8",
    "keys.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "htmx.LICENSE.txt": "text/plain; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def _read_static() -> dict[str, tuple[bytes, str]]:
    folder = resources.files(__package__) / "static"
    return {name: ((folder / name).read_bytes(), kind) for name, kind in _TYPES.items()}


#: The files: octets and media types.
STATIC: dict[str, tuple[bytes, str]] = _read_static()
_VERSION = hashlib.sha256(b"".join(octets for octets, _ in STATIC.values())).hexdigest()[:12]


class Pages:
    """Renders the pages of one application.

    Args:
        service: What answers are made of.

    Attributes:
        service: Likewise.
        sidebar: What stands beside every page.
    """

    def __init__(self, service: Service) -> None:
        self.service: Service = service
        self.sidebar: Sidebar = Sidebar(service.inbox)
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("trio_smtp.inbox.page"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters["size"] = formats.size
        environment.filters["iso"] = formats.iso
        environment.filters["stamp"] = formats.stamp
        environment.globals["files"] = _VERSION
        environment.globals["version"] = trio_smtp.__version__
        environment.globals["address"] = address
        self._environment = environment

    async def show(self, request: Request, template: str, *, status: int = 200, **values: object) -> Response:
        """Render a page.

        Args:
            request: What is answered.
            template: The template's name.
            status: The HTTP status.
            values: What the template shows.
        """
        inbox = self.service.inbox
        now = time.time()

        def render() -> str:
            return self._environment.get_template(template).render(
                root=request.scope["root_path"],
                label=inbox.label,
                smtp=inbox.smtp_address,
                any_user=inbox.accepts_any_user,
                relay=inbox.relay,
                side=self.sidebar.look(),
                age=lambda created: formats.age(created, now),
                **values,
            )

        text = await self.service.run(render)
        # What came as JSON, such as a rule, may have surrogates.
        octets = text.encode("utf-8", "replace")
        return HTMLResponse(octets, status, headers={"content-security-policy": PAGE_POLICY})


def address(path: str, **parameters: object) -> str:
    """A path with parameters; those that are None, 0 or ``""`` are left out."""
    given = {name: value for name, value in parameters.items() if value}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path
