"""TrioMailServer: a server for tests in the same Trio program, without sockets and threads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from trio_smtp import SMTPServer

from .capture import Auth, capture_app
from .client import Client
from .frameworks import TLS
from .mailbox import Mailbox
from .mailserver import config_for
from .memory import MemoryListener

__all__ = ["TrioMailServer"]


class TrioMailServer(Mailbox):
    """A server in memory that captures what comes, for tests with Trio: virtual time works.

    Args:
        tls: As in `MailServer`.
        auth: As in `MailServer`.
        lmtp: As in `MailServer`.
        config: Fields of `trio_smtp.Config` that differ.

    Attributes:
        server: The server.

    Example:
        >>> async with trio.open_nursery() as nursery:
        ...     mailserver = TrioMailServer()
        ...     nursery.start_soon(mailserver.serve)
        ...     await send(await mailserver.connect(), message)
        ...     mail = await mailserver.wait_for_async(to="bob@example.com")
        ...     nursery.cancel_scope.cancel()
    """

    def __init__(self, *, tls: TLS = None, auth: Auth = "any", lmtp: bool = False, **config: Any) -> None:
        super().__init__()
        made, ca = config_for(tls, auth, lmtp=lmtp, **config)
        self.server: SMTPServer = SMTPServer(capture_app(self._begin, self._store, self.rules, auth, ca), made)
        self._listener = MemoryListener()

    async def serve(self) -> None:
        """Serve until cancelled."""
        await self.server.serve_listeners([self._listener])

    async def connect(self) -> trio.abc.Stream:
        """Connect; returns the client's end, for a client that takes a stream."""
        return await self._listener.connect(("127.0.0.1", 50_000))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect a `Client`, whose greeting has been read; with implicit TLS the caller shakes hands first.

        Yields:
            The client; its stream is closed at the end of the block.
        """
        client = Client(await self.connect())
        try:
            if not self.server.config.implicit_tls:
                await client.read_reply()
            yield client
        finally:
            await client.aclose()
