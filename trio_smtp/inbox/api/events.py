"""The websocket that tells of changes."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

import trio_smtp
from trio_smtp.inbox.store import Event, StorageError, Subscription, Summary
from trio_smtp.inbox.store.events import TooManySubscribers
from trio_smtp.inbox.waking import Waker

from . import shapes
from .service import Service

__all__ = ["events"]

logger: logging.Logger = logging.getLogger("trio_smtp.inbox")


async def events(service: Service, socket: WebSocket) -> None:
    """``/api/events``: sends ``{"Type": ..., "Data": ...}`` for each change, ``stats`` at once; reads nothing."""
    waker = Waker()
    try:
        subscription = service.inbox.store.events.subscribe(waker.wake)
    except TooManySubscribers:
        await socket.close(1013, "too many clients listen")
        return
    with subscription:
        await socket.accept()
        async with anyio.create_task_group() as group:

            async def tell() -> None:
                try:
                    await _tell(service, socket, subscription, waker)
                except (WebSocketDisconnect, StorageError) as error:
                    logger.debug("a listener goes: %r", error)
                group.cancel_scope.cancel()

            group.start_soon(tell)
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
            group.cancel_scope.cancel()


async def _tell(service: Service, socket: WebSocket, subscription: Subscription, waker: Waker) -> None:
    batch = [Event("stats")]
    while True:
        stats = [event for event in batch if event.type == "stats"]
        for event in batch:
            if event.type != "stats":
                await socket.send_text(json.dumps({"Type": event.type, "Data": _data(event)}))
        if stats:
            totals = await service.run(service.inbox.store.totals)
            data = {
                "Total": totals.total,
                "Unread": totals.unread,
                "Failures": totals.failures,
                "Version": trio_smtp.__version__,
                "Problem": service.inbox.store.problem,
            }
            await socket.send_text(json.dumps({"Type": "stats", "Data": data}))
        await waker.wait()
        batch = subscription.take()


def _data(event: Event) -> Any:
    return shapes.summary(event.data) if isinstance(event.data, Summary) else event.data
