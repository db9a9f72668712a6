"""The routes of the API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from .events import events
from .operations import OPERATIONS
from .service import Service, json_response
from .swagger import description

__all__ = ["api_routes"]


def api_routes(service: Service) -> Sequence[BaseRoute]:
    """A route for each operation, the description of them, and the websocket."""
    routes: list[BaseRoute] = [
        Route(operation.path, service.endpoint(operation.handler), methods=[operation.method])
        for operation in OPERATIONS
    ]
    routes.append(Route("/api/v1/swagger.json", service.endpoint(_describe)))
    routes.append(WebSocketRoute("/api/events", partial(events, service)))
    return routes


async def _describe(_: Service, __: Request) -> Response:
    """GET /api/v1/swagger.json."""
    return json_response(description())
