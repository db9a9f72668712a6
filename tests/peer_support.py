"""What the tests of peers share: servers in memory whose clients come from addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from trio_smtp import App, Config, SMTPServer
from trio_smtp.testing import Client, MemoryListener

PROXY = "192.0.2.10"
STRANGER = "203.0.113.7"


class Front:
    """A server in memory, and connections to it that come from addresses.

    Attributes:
        server: The server.
    """

    def __init__(self, smtp_server: SMTPServer) -> None:
        self.server = smtp_server
        self.listener = MemoryListener()

    async def connect(self, address: str | None = PROXY, first: bytes = b"") -> Client:
        """Connect from an address and send the first octets; nothing is read."""
        peer = None if address is None else (address, 4711)
        client = Client(await self.listener.connect(peer, local=None if peer is None else ("198.51.100.1", 25)))
        client.server = self.server
        if first:
            await client.send_bytes(first)
        await trio.testing.wait_all_tasks_blocked()
        if self.server.sessions:
            client.session = self.server.sessions[-1]
        return client


@asynccontextmanager
async def front(app: App, **fields: Any) -> AsyncIterator[Front]:
    """A server in memory; cancelled at the end."""
    there = Front(SMTPServer(app, Config(**{"hostname": "mx.example"} | fields)))
    async with trio.open_nursery() as nursery:
        await nursery.start(there.server.serve_listeners, [there.listener])
        yield there
        nursery.cancel_scope.cancel()
