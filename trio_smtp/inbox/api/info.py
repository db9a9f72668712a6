"""The server: what it is, how it is set up, whether it lives."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import trio_smtp

from .service import Service, json_response

__all__ = ["info", "live", "ready", "web_ui"]

_BEGAN = time.monotonic()


async def info(service: Service, _: Request) -> Response:
    """GET /api/v1/info."""
    store = service.inbox.store

    def look() -> dict[str, Any]:
        totals = store.totals()
        return {
            "Version": trio_smtp.__version__,
            "LatestVersion": trio_smtp.__version__,  # the server fetches nothing, and knows of no other
            "Database": str(store.path),
            "DatabaseSize": store.disk_usage(),
            "Messages": totals.total,
            "Unread": totals.unread,
            "Failures": totals.failures,
            "Tags": store.tags(),
            "Problem": store.problem,
            "RuntimeStats": {"Uptime": int(time.monotonic() - _BEGAN), "Memory": _peak_memory()},
        }

    return json_response(await service.run(look))


def _peak_memory() -> int:
    """The most octets that the process has had in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def web_ui(service: Service, _: Request) -> Response:
    """GET /api/v1/webui."""
    relay = service.inbox.relay
    return json_response(
        {
            "Label": service.inbox.label,
            "MessageRelay": {
                "Enabled": relay is not None,
                "SMTPServer": "" if relay is None else f"{relay.host}:{relay.port}",
                "ReturnPath": "",
                "AllowedRecipients": "" if relay is None else ",".join(relay.allowed),
                "BlockedRecipients": "",
                "OverrideFrom": "",
                "PreserveMessageIDs": True,
            },
            "SpamAssassin": False,
            "ChaosEnabled": True,
            "DuplicatesIgnored": False,
            "HideDeleteAllButton": False,
        }
    )


async def live(_: Service, __: Request) -> Response:
    """GET /livez."""
    return PlainTextResponse("ok")


async def ready(service: Service, _: Request) -> Response:
    """GET /readyz."""
    await service.run(service.inbox.store.totals)
    return PlainTextResponse("ok")
