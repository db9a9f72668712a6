"""What the tests of failures share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trustme

from trio_smtp import App, AuthContext, DataContext, SMTPServer
from trio_smtp.plugins.faults import AnyRule, Rules, faults
from trio_smtp.testing import Client, open_client

#: The end of the connection, as `said` shows it.
CLOSED = "closed"
#: Longer than anything else takes.
SILENCE = "silent"


class Taken:
    """An App that goes by rules, and the messages that it took, each with its recipients."""

    def __init__(self, *rules: AnyRule, ca: trustme.CA | None = None) -> None:
        self.rules = Rules(rules)
        self.app = App().use(faults(self.rules, ca=ca))
        self.servers: list[SMTPServer] = []
        self.messages: list[tuple[bytes, list[str]]] = []
        self.app.on_auth(self._accept)
        self.app.on_data(self._take)

    async def _accept(self, ctx: AuthContext) -> None:
        ctx.accept(ctx.credentials.username)

    async def _take(self, ctx: DataContext) -> None:
        to = [each.address for each in ctx.envelope.rcpt_to]
        self.messages.append((await ctx.stream.read(), to))

    @asynccontextmanager
    async def client(self, **config: Any) -> AsyncIterator[Client]:
        """A client whose greeting was read."""
        async with open_client(self.app, allow_insecure_auth=True, **config) as client:
            yield client


async def said(client: Client, line: str | bytes | None = None) -> str:
    """Send a line; what the server says: its reply's code, `CLOSED`, `SILENCE`, or octets that are no reply."""
    if line is not None:
        await client.send_bytes((line.encode() if isinstance(line, str) else line) + b"\r\n")
    with trio.move_on_after(10_000):
        try:
            return str((await client.read_reply()).code)
        except (trio.EndOfChannel, trio.BrokenResourceError):
            return CLOSED
        except ValueError as exc:
            return str(exc)
    return SILENCE
