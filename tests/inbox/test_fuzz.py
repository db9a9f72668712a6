"""Whatever is asked of the API, the answer is one that its description names, and never a 500."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.inbox import Inbox
from trio_smtp.inbox.api.operations import OPERATIONS, Operation
from trio_smtp.inbox.api.swagger import description

from .support import mail, put

_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
_WORDS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["latest", "from:a", "-subject:hello", "before:2026-01-01", "after:9999-12-31T23:59:59-23:59", "larger:1e9"]
    ),
    st.sampled_from(["0", "-1", "99999999999999999999", "1.1", "0.001", "UTC", "Europe/Vienna", "is:any", "\ud800"]),
)
#: A wait is cut short, or the test would take as long as it says.
_TIMEOUTS = st.sampled_from(["0", "0.001", "x", "-1", "301", ""])


def bodies(schema: dict[str, Any] | None) -> st.SearchStrategy[Any]:
    """Bodies that the schema describes, more or less."""
    members = list((schema or {}).get("properties", {}))
    if not members:
        return _JSON
    named = st.dictionaries(st.sampled_from(members), st.one_of(_JSON, *map(member, members)))
    return st.one_of(named, named, _JSON)


def member(name: str) -> st.SearchStrategy[Any]:
    emails = st.sampled_from(["a@example.com", "é@example.com", '"a b"@x.y', "x"])
    addresses = st.fixed_dictionaries({"Email": emails})
    return {
        "From": addresses,
        "To": st.lists(st.one_of(addresses, st.just("a@example.com")), max_size=2),
        "IDs": st.lists(st.text(max_size=25), max_size=3),
        "Headers": st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=3),
        "Read": st.booleans(),
        "Search": _WORDS,
        "Attachments": st.lists(
            st.dictionaries(st.sampled_from(["Content", "Filename", "ContentType", "ContentID"]), st.text(max_size=12)),
            max_size=2,
        ),
        "Sender": st.fixed_dictionaries({"ErrorCode": st.integers(390, 610), "Probability": st.integers(-5, 110)}),
    }.get(name, _WORDS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_answer_is_described(operation: Operation, data: st.DataObject) -> None:
    described = {
        int(status) for status in description()["paths"][operation.path][operation.method.lower()]["responses"]
    }
    requests = data.draw(st.lists(parts_of(operation), min_size=1, max_size=3))

    async def main() -> None:
        transport = httpx.ASGITransport(inbox.asgi(max_message_size=100_000), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
            for path, query, body in requests:
                response = await api.request(operation.method, path, params=query, content=body)
                assert response.status_code in described | {404}, response.text
                if response.headers.get("content-type") == "application/json":
                    json.loads(response.content)

    logging.disable(logging.CRITICAL)
    try:
        with Inbox() as inbox:
            put(inbox, mail())
            anyio.run(main, backend="asyncio")
    finally:
        logging.disable(logging.NOTSET)


@st.composite
def parts_of(draw: st.DrawFn, operation: Operation) -> tuple[str, dict[str, str], bytes | None]:
    """A path, a query and a body."""
    path = operation.path
    for name in ("id", "part", "tag", "rule"):
        if f"{{{name}}}" in path:
            word = draw(st.one_of(st.just("latest"), _WORDS))
            path = path.replace(f"{{{name}}}", httpx.QueryParams({"x": encodable(word)}).__str__()[2:] or "x")
    query = {
        name: encodable(draw(_TIMEOUTS if name == "timeout" else _WORDS))
        for name in operation.query
        if draw(st.booleans())
    }
    if operation.path == "/api/v1/wait":
        query["timeout"] = draw(_TIMEOUTS.filter(bool))
    body = None
    if operation.body is not None:
        body = draw(
            st.one_of(bodies(operation.body).map(lambda made: json.dumps(made).encode()), st.binary(max_size=50))
        )
    return path, query, body


def encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
