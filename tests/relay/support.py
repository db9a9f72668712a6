"""What the tests of `proxy` and `lmtp` share: a front in memory, before a server in memory, or one with a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from tests.client.support import Script, in_memory, scripted
from trio_smtp import App, Config
from trio_smtp.client import Timeouts
from trio_smtp.delivery.lmtp import lmtp
from trio_smtp.delivery.proxy import Relay, proxy
from trio_smtp.testing import Client, open_client

MAIL = b"Subject: test\r\n\r\n.\r\n..a\r\nHello\r\n"
QUICK = Timeouts(connect=2, greeting=3, command=4, mail=5, rcpt=6, data=7, block=8, end=9, quit=1)
LMTP = Config(hostname="front.example", lmtp=True)


@attrs.frozen
class Front:
    """A client of a front, and what the front counts."""

    client: Client
    relay: Relay

    async def say(self, *lines: str) -> list[int]:
        """Say these; gives the codes."""
        return [(await self.client.command(line)).code for line in lines]

    async def begin(self, *recipients: str) -> list[int]:
        """EHLO, MAIL and RCPT; gives the codes of the two."""
        hello = "LHLO" if self.client.server.config.lmtp else "EHLO"
        assert (await self.client.command(f"{hello} client.example")).code == 250
        return await self.say("MAIL FROM:<a@example.org>", *(f"RCPT TO:<{each}>" for each in recipients))

    async def data(self, octets: bytes = MAIL, replies: int = 1) -> list[str]:
        """DATA and a message; gives so many replies to it."""
        assert (await self.client.command("DATA")).code == 354
        await self.client.send_bytes(b"\r\n".join(b"." + x if x.startswith(b".") else x for x in octets.split(b"\r\n")))
        await self.client.send_bytes(b".\r\n")
        return [shown(await self.client.read_reply()) for _ in range(replies)]


def shown(reply: Any) -> str:
    """A reply in one line."""
    return f"{reply.code} {reply.enhanced} {' / '.join(reply.lines)}"


def relay_to(open_stream: Callable[..., Any], *, to_lmtp: bool = False, **options: Any) -> Relay:
    given: dict[str, Any] = {"open_stream": open_stream, "tls": "none", "received": False, "timeouts": QUICK}
    given |= options
    return lmtp("lmtp://mx", **given) if to_lmtp else proxy("smtp://mx", **given)


@asynccontextmanager
async def front(
    relay: Relay, config: Config | None = None, *, app: App | None = None, **fields: Any
) -> AsyncIterator[Front]:
    """A front that passes mail on; an App has handlers that are registered before."""
    app = app or App()
    app.use(relay)
    async with open_client(app, config or Config(hostname="front.example"), **fields) as client:
        yield Front(client, relay)


@asynccontextmanager
async def before(
    back: App, config: Config | None = None, front_config: Config | None = None, **options: Any
) -> AsyncIterator[Front]:
    """A front before a server of the library's own."""
    app, fields = options.pop("app", None), options.pop("fields", {})
    lmtp_back = bool(config and config.lmtp)
    async with (
        in_memory(back, config) as listener,
        front(relay_to(listener.connect, to_lmtp=lmtp_back, **options), front_config, app=app, **fields) as found,
    ):
        yield found


@asynccontextmanager
async def before_scripts(
    *scripts: Script, front_config: Config | None = None, app: App | None = None, **options: Any
) -> AsyncIterator[Front]:
    """A front before servers that follow scripts, one for each connection; then connections are refused."""
    waiting = len(scripts)
    async with scripted(*scripts) as open_one:

        async def open_stream() -> trio.abc.Stream:
            nonlocal waiting
            if not waiting:
                raise ConnectionRefusedError("nobody listens")
            waiting -= 1
            return await open_one()

        async with front(relay_to(open_stream, **options), front_config, app=app) as found:
            yield found
