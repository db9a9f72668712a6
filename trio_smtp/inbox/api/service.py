"""Service: what every answer is made of, and the helpers that all handlers use."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from trio_smtp.inbox.store import Query, StorageError, StorageFull, Summary, parse_query

from .types import InboxLike

__all__ = ["Endpoint", "Problem", "Service", "json_response", "ok"]

P = ParamSpec("P")
T = TypeVar("T")

#: Octets of a request's body, where it is no message.
MAX_BODY = 1_048_576
MAX_LIMIT = 1_000
MAX_START = 10_000_000
MAX_IDS = 10_000
#: What `Service.run_alone` waits for, in each event loop.
_alone: anyio.lowlevel.RunVar[anyio.CapacityLimiter | None] = anyio.lowlevel.RunVar("trio_smtp.inbox.alone", None)
_ID = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


class Problem(Exception):
    """A request cannot be answered as asked.

    Args:
        status: The HTTP status.
        text: For people.
        as_json: The answer is ``{"Error": text}``; otherwise it is the text.
    """

    def __init__(self, status: int, text: str, *, as_json: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.as_json = as_json

    def response(self) -> Response:
        """The answer."""
        if self.as_json:
            return json_response({"Error": self.text}, self.status)
        # JSON may have surrogates, and the text may show what was sent.
        return PlainTextResponse(self.text.encode("utf-8", "replace"), self.status)


class Service:
    """The inbox, as handlers of requests see it.

    Args:
        inbox: The inbox: its `store`, `rules` and `relay`.
        max_message_size: Octets of a message that is sent or imported.

    Attributes:
        inbox: The inbox.
        max_message_size: Likewise.
    """

    def __init__(self, inbox: InboxLike, *, max_message_size: int) -> None:
        self.inbox: InboxLike = inbox
        self.max_message_size: int = max_message_size

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread: whatever asks the store, or reads a message."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))

    async def run_alone(self, function: Callable[[], T], /) -> T:
        """Call a function in a thread, one such function at a time: what takes much memory, such as decoding images.

        A message may have a thousand small files that become 160 MB each in memory, and a page asks for all of them.
        """
        limiter = _alone.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(1)
            _alone.set(limiter)
        return await anyio.to_thread.run_sync(function, limiter=limiter)

    async def find(self, request: Request) -> Summary:
        """The message that the path names by ``{id}``; ``latest``, and a path without it, may have a ``?query=``.

        Raises:
            Problem: It is not there, or the query is malformed.
        """
        identifier = request.path_params.get("id", "latest")
        if identifier == "latest":
            found = await self.run(self.inbox.store.latest, self.query(request) or None)
        elif _ID.fullmatch(identifier):
            found = await self.run(self.inbox.store.find, identifier)
        else:
            found = None
        if found is None:
            raise Problem(404, "message not found")
        return found

    async def octets(self, summary: Summary) -> bytes:
        """The message as it was sent.

        Raises:
            Problem: It was deleted meanwhile.
        """
        octets = await self.run(self.inbox.store.octets, summary.id)
        if octets is None:
            raise Problem(404, "message not found")
        return octets

    def query(self, request: Request, name: str = "query") -> Query:
        """The search in the URL; without terms where there is none.

        Raises:
            Problem: It is malformed.
        """
        return parsed(request.query_params.get(name, ""), request.query_params.get("tz", ""))

    def needed_query(self, request: Request) -> Query:
        """The search in the URL.

        Raises:
            Problem: There is none, or it is malformed.
        """
        query = self.query(request)
        if not query:
            raise Problem(400, "Error: no search query")
        return query

    def endpoint(self, handler: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """Make an endpoint of a handler; what it raises on purpose becomes an answer."""

        async def endpoint(request: Request) -> Response:
            try:
                return await handler(self, request)
            except Problem as problem:
                return problem.response()
            except StorageFull as error:
                return PlainTextResponse(f"Nothing was changed: {error}", 507)
            except StorageError as error:
                return PlainTextResponse(f"The database cannot be used: {error}", 503)

        return endpoint


#: Answers a request.
Endpoint = Callable[[Service, Request], Awaitable[Response]]


def parsed(text: str, timezone: str) -> Query:
    """Read a search.

    Raises:
        Problem: It is malformed.
    """
    try:
        return parse_query(text, timezone)
    except ValueError as error:
        raise Problem(400, str(error)) from None


def number(request: Request, name: str, default: int, most: int) -> int:
    """A whole number in the URL; the default where it is none, as in Mailpit, and at most so large."""
    text = request.query_params.get(name, "")
    return min(int(text), most) if _NUMBER.fullmatch(text) else default


async def body_of(request: Request, most: int = MAX_BODY) -> bytes:
    """The request's body.

    Raises:
        Problem: It has more octets, or the client is gone.
    """
    declared = request.headers.get("content-length", "")
    if _NUMBER.fullmatch(declared) and int(declared) > most:
        raise Problem(413, f"the body has more than {most:,} octets")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "the body is not whole")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise Problem(413, f"the body has more than {most:,} octets")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def json_of(request: Request, most: int = MAX_BODY) -> Any:
    """The JSON in the request's body; None where there is no body.

    Raises:
        Problem: It is none, or too large.
    """
    body = await body_of(request, most)
    if not body.strip():
        return None
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):
        raise Problem(400, "the body is no JSON") from None


def member(data: Any, name: str, kind: type[T], default: T) -> T:
    """A member of a JSON object, by its name in whatever case, as Go reads it; ``null`` is the default.

    Raises:
        Problem: It is of another kind, or `data` is no object.
    """
    if data is None:
        return default
    if not isinstance(data, dict):
        raise Problem(400, "the body must be a JSON object")
    value = data.get(name)
    if value is None:
        value = next((each for key, each in data.items() if key.lower() == name.lower()), None)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Problem(400, f"{name} must be {_KINDS[kind]}")
    return value


_KINDS: dict[type, str] = {
    bool: "true or false",
    dict: "an object",
    int: "a whole number",
    list: "a list",
    str: "a string",
}


def strings(data: Any, name: str, most: int = MAX_IDS) -> list[str]:
    """A member that is a list of strings.

    Raises:
        Problem: It is none, or has too many.
    """
    found: list[Any] = member(data, name, list, [])
    if len(found) > most or not all(isinstance(each, str) for each in found):
        raise Problem(400, f"{name} must be a list of at most {most:,} strings")
    return found


def json_response(data: object, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(json.dumps(data), status, media_type="application/json")


def ok() -> Response:
    """The answer to changes: clients compare it."""
    return PlainTextResponse("ok")
