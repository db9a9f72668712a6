"""Waits for a message that a search finds."""

from __future__ import annotations

import logging
import math
import re

import anyio
from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.inbox.store import Query, StorageError, Summary
from trio_smtp.inbox.store.events import TooManySubscribers
from trio_smtp.inbox.waking import Waker

from .message import whole
from .service import Problem, Service, json_response

__all__ = ["wait"]

logger: logging.Logger = logging.getLogger("trio_smtp.inbox")

_LONGEST = 300.0
_USUAL = 30.0
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)


async def wait(service: Service, request: Request) -> Response:
    """GET /api/v1/wait."""
    query = service.query(request)
    seconds = _seconds(request.query_params.get("timeout", ""))
    waker = Waker()
    try:
        subscription = service.inbox.store.events.subscribe(waker.wake)
    except TooManySubscribers:
        raise Problem(503, "too many clients wait", as_json=True) from None
    found: Summary | None = None
    with subscription, anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, request, group.cancel_scope)
            while True:
                subscription.take()
                found = await _look(service, query)
                if found is not None:
                    break
                await waker.wait()
            group.cancel_scope.cancel()
    if found is None:
        raise Problem(408, f"no such message came within {seconds:g} s", as_json=True)
    return json_response(await whole(service, found))


async def _look(service: Service, query: Query) -> Summary | None:
    try:
        return await service.run(service.inbox.store.latest, query or None)
    except StorageError as error:
        # Inside a group it would come out as a group of errors. The next change has it looked at again.
        logger.error("a client waits, and the database cannot be read: %s", error)
        return None


async def _watch(request: Request, scope: anyio.CancelScope) -> None:
    """End the wait when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _seconds(text: str) -> float:
    if not text:
        return _USUAL
    seconds = float(text) if _SECONDS.fullmatch(text) else math.inf
    if not seconds <= _LONGEST:
        raise Problem(400, f"timeout must be a number of seconds, at most {_LONGEST:g}", as_json=True)
    return seconds
