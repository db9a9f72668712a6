"""The types of ASGI, and what the API needs of an `Inbox`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from trio_smtp.inbox.relay import Relay
from trio_smtp.inbox.store import Store
from trio_smtp.plugins.faults import Rules

__all__ = ["ASGIApp", "InboxLike", "Message", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
#: An ASGI application.
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class InboxLike(Protocol):
    """An `Inbox`, as the API and the pages see it."""

    store: Store
    rules: Rules
    relay: Relay | None
    label: str
    smtp_address: str
    accepts_any_user: bool
