"""Messages that come by the API: made of JSON, or imported as they are."""

from __future__ import annotations

import time
from typing import Any

import attrs
from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.inbox.capture import arrival_of
from trio_smtp.inbox.composing import ComposeError, Draft, compose
from trio_smtp.inbox.store import Summary

from .service import Problem, Service, body_of, json_of, json_response

__all__ = ["import_message", "send"]


async def send(service: Service, request: Request) -> Response:
    """POST /api/v1/send."""
    try:
        # What is attached is in base64, and one octet in four more.
        data = await json_of(request, service.max_message_size * 4 // 3 + 65_536)
        draft = Draft.from_json(data)
        octets = await service.run(compose, draft)
    except ComposeError as error:
        raise Problem(400, str(error), as_json=True) from None
    except Problem as problem:
        raise Problem(problem.status, problem.text, as_json=True) from None
    if len(octets) > service.max_message_size:
        raise Problem(413, f"the message has more than {service.max_message_size:,} octets", as_json=True)
    row = await _store(service, request, octets, draft.sender.address, draft.recipients)
    return json_response({"ID": row.id})


async def import_message(service: Service, request: Request) -> Response:
    """POST /api/v1/import."""
    octets = await body_of(request, service.max_message_size)
    if not octets.strip():
        raise Problem(400, "the body must be a message, as in an .eml file")
    row = await _store(service, request, octets, "", ())
    return json_response({"ID": row.id})


async def _store(
    service: Service, request: Request, octets: bytes, sender: str, recipients: tuple[str, ...]
) -> Summary:
    user = request.scope.get("user")
    username = user if isinstance(user, str) else ""
    client = request.client
    facts: dict[str, Any] = {
        "Sender": sender,
        "SenderParameters": {},
        "Recipients": [{"Address": address, "Parameters": {}} for address in recipients],
        "Session": "",
        "Client": {
            "Address": client.host if client is not None else "",
            "Port": client.port if client is not None else 0,
            "Name": "",
            "Helo": "",
        },
        "Protocol": "HTTP",
        "TLS": None,
        "Auth": {"Mechanism": "HTTP", "Username": username} if username else None,
    }

    def store() -> Summary:
        arrival = arrival_of(octets, facts, recipients, username=username, created=time.time())
        return service.inbox.store.add(attrs.evolve(arrival, transcript=[]))

    return await service.run(store)
