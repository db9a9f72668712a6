"""What the tests of peers share: servers in memory whose clients come from addresses."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing

from trio_smtp import App, Config, Session, SMTPServer
from trio_smtp.server import server
from trio_smtp.testing import Client, MemoryListener

PROXY = "192.0.2.10"
STRANGER = "203.0.113.7"


class Front:
    """A server in memory, and connections to it that seem to come from addresses.

    Attributes:
        server: The server.
    """

    def __init__(self, smtp_server: SMTPServer) -> None:
        self.server = smtp_server
        self.listener = MemoryListener()
        self.peers: deque[str | None] = deque()

    def session_of(self, stream: trio.abc.Stream, *, lmtp: bool) -> Session:
        """Stands in for what a socket would say."""
        address = self.peers.popleft()
        if address is None:
            return Session(lmtp=lmtp)
        return Session(
            lmtp=lmtp,
            remote_address=address,
            remote_port=4711,
            local_address="198.51.100.1",
            local_port=25,
            original_peer=(address, 4711),
            client_hostname=f"[{address}]",
        )

    async def connect(self, address: str | None = PROXY, first: bytes = b"") -> Client:
        """Connect from an address and send the first octets; nothing is read."""
        self.peers.append(address)
        client = Client(await self.listener.connect())
        client.server = self.server
        if first:
            await client.send_bytes(first)
        await trio.testing.wait_all_tasks_blocked()
        if self.server.sessions:
            client.session = self.server.sessions[-1]
        return client


@asynccontextmanager
async def front(app: App, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> AsyncIterator[Front]:
    """A server in memory; cancelled at the end."""
    there = Front(SMTPServer(app, Config(**{"hostname": "mx.example"} | fields)))
    monkeypatch.setattr(server, "_session_of", there.session_of)
    async with trio.open_nursery() as nursery:
        await nursery.start(there.server.serve_listeners, [there.listener])
        yield there
        nursery.cancel_scope.cancel()


@contextmanager
def comes_from(address: str | None) -> Iterator[None]:
    """While the block runs, streams in memory come from this address; None: from nowhere, as they do."""
    if address is None:
        yield
        return

    def session_of(_: trio.abc.Stream, *, lmtp: bool) -> Session:
        return Session(lmtp=lmtp, remote_address=address, remote_port=4711, client_hostname=f"[{address}]")

    with mock.patch.object(server, "_session_of", session_of):
        yield
