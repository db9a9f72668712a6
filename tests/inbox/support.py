"""What tests of the inbox share: messages, an inbox, a client of its API without a socket, a client of its App."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx

from trio_smtp import App
from trio_smtp.inbox import Inbox
from trio_smtp.inbox.capture import arrival_of
from trio_smtp.inbox.store import Arrival, State, Summary
from trio_smtp.testing import Client, open_client

BASE = "http://localhost:8025"


def arrival(
    octets: bytes = b"Subject: Hello\r\n\r\nText\r\n",
    *,
    recipients: tuple[str, ...] = ("bob@example.com",),
    username: str = "",
    created: float | None = None,
    state: State = "accepted",
) -> Arrival:
    """A message for the store."""
    facts: dict[str, object] = {
        "Sender": "alice@example.com",
        "Recipients": [{"Address": address, "Parameters": {}} for address in recipients],
    }
    made = arrival_of(octets, facts, recipients, username=username, created=time.time() if created is None else created)
    return attrs.evolve(made, state=state)


def mail(subject: str = "Hello", text: str = "Text", **fields: str) -> bytes:
    """A plain message; underscores in the names of fields are hyphens."""
    given = {"From": "Alice <alice@example.com>", "To": "bob@example.com", "Subject": subject}
    given |= {name.replace("_", "-"): value for name, value in fields.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{head}\r\n{text}\r\n".encode()


def put(inbox: Inbox, octets: bytes | None = None, **options: Any) -> Summary:
    """Put a message into the store."""
    return inbox.store.add(arrival(mail() if octets is None else octets, **options))


@asynccontextmanager
async def open_api(inbox: Inbox, *, base_url: str = BASE, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the inbox's application, in memory; in Trio and in asyncio."""
    transport = httpx.ASGITransport(inbox.asgi(**options), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        yield client


@asynccontextmanager
async def open_smtp(inbox: Inbox, **options: Any) -> AsyncIterator[Client]:
    """A client of an App that the inbox captures, after EHLO."""
    app = App().use(inbox.capture(accept_any_user=True))
    async with open_client(app, peer=("192.0.2.1", 4711), allow_insecure_auth=True, **options) as client:
        await client.ehlo()
        yield client
