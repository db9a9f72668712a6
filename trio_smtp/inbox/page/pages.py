"""The routes of the pages, and errors as pages."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from trio_smtp.inbox.api.rules import shown_rule
from trio_smtp.inbox.api.service import Problem, Service
from trio_smtp.inbox.store import StorageError

from .listing import show_list
from .message import show_message
from .rendering import STATIC, Pages

__all__ = ["routes"]

#: Rules to begin with, and what they do.
_EXAMPLES = (
    ("rcpt to=bob@* fail 451 times=1", "refuses the recipient once; the second try succeeds"),
    ("mail fail 550 probability=0.2", "refuses every fifth sender, by chance"),
    ("end disconnect", "takes the message, and breaks off before its reply"),
    ("connect delay 5", "is slow to greet"),
    ("auth fail 535", "lets nobody log in"),
    ("rcpt greylist 60", "asks every recipient's client to come again after a minute"),
)

#: The path that is left of "/mail" where that is the root.
_BARE = re.compile("^$")
#: What people may mistype: programs that ask the API for what is not there get no page.
_REST = re.compile("^/(?!api/).*$")

#: Shows a page.
Show = Callable[[Pages, Request], Awaitable[Response]]


def routes(service: Service) -> Sequence[BaseRoute]:
    """The routes; see `page_routes`."""
    pages = Pages(service)
    shown: tuple[tuple[str, Show], ...] = (
        ("/", show_list),
        ("/sidebar", _show_sidebar),
        ("/rules", _show_rules),
        ("/view/{id}", show_message),
    )
    made: list[BaseRoute] = [Route(path, _endpoint(pages, show)) for path, show in shown]
    bare = Route("/", _endpoint(pages, show_list))
    bare.path_regex = _BARE
    made.append(bare)
    made.append(Route("/static/{name}", _static))
    rest = Route("/{rest:path}", _endpoint(pages, _nothing))
    rest.path_regex = _REST
    made.append(rest)
    return made


def _endpoint(pages: Pages, show: Show) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        fail = partial(pages.show, request, "problem.html")
        try:
            return await show(pages, request)
        except Problem as problem:
            return await fail(status=problem.status, text=problem.text)
        except StorageError as error:
            return await fail(status=503, text=f"The database cannot be used: {error}")

    return endpoint


async def _show_sidebar(pages: Pages, request: Request) -> Response:
    return await pages.show(request, "sidebar.html")


async def _show_rules(pages: Pages, request: Request) -> Response:
    rules = [shown_rule(rule) for rule in pages.service.inbox.rules]
    return await pages.show(request, "rules.html", rules=rules, examples=_EXAMPLES)


async def _nothing(_: Pages, __: Request) -> Response:
    raise Problem(404, "There is no page here")


async def _static(request: Request) -> Response:
    found = STATIC.get(request.path_params["name"])
    if found is None:
        return PlainTextResponse("There is no such file", 404)
    octets, kind = found
    # The pages ask for each version by another URL.
    headers = {"cache-control": "max-age=31536000, immutable"} if request.query_params.get("v") else {}
    return Response(octets, headers={**headers, "content-type": kind})
