"""The code of docs/client.md sends what it says, and so does examples/smarthost.py."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.test_examples import load
from trio_smtp import App, AuthContext, Config, Reply
from trio_smtp.testing import open_client

from .support import Mailbox, in_memory
from .test_client import picky

PAGE = Path(__file__).parent.parent.parent / "docs" / "client.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SENT = [1, 1, 1, 101, 1]


@pytest.mark.parametrize("number", range(len(SENT)))
async def test_the_code_of_the_page_sends_mail(
    number: int,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = Mailbox()

    @box.app.on_auth
    async def check(ctx: AuthContext) -> None:
        ctx.accept("user")

    config = Config(
        hostname="mx.example.com",
        ssl_context=server_ssl_context,
        auth_required=True,
        auth_mechanisms=("PLAIN",),
        dsn=True,
    )
    assert len(BLOCKS) == len(SENT)
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(compile(BLOCKS[number], "client.md", "exec"), namespace)
    async with in_memory(box.app, config) as listener:

        async def open_tcp_stream(host: str, port: int) -> trio.abc.Stream:
            assert (host, port) == ("mx.example.com", 587)
            return await listener.connect()

        monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
        monkeypatch.setattr(ssl, "create_default_context", lambda: client_ssl_context)
        await namespace["main"]()
    assert len(box.messages) == SENT[number]
    assert all(b"Subject: " in message for message in box.messages)


async def test_the_example_passes_mail_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    box = Mailbox()
    picky(box)
    app: App = load("smarthost").app
    async with in_memory(box.app, lmtp=True) as listener:

        async def open_tcp_stream(host: str, port: int) -> trio.abc.Stream:
            assert (host, port) == ("next.example", 24)
            return await listener.connect()

        monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
        monkeypatch.setenv("SMARTHOST", "lmtp://next.example")
        async with open_client(app, Config(hostname="relay.example")) as client:
            await client.ehlo()
            assert (await client.send_message("a@example.org", ["b@example.com"], b"Hi\r\n")).code == 250
            refused = await client.send_message("a@example.org", ["nobody@example.com"], b"Hi\r\n")
            assert refused == Reply(550, "No such user", "5.1.1")
            await client.send_message("a@example.org", ["b@example.com", "nobody@example.com"], b"Hi\r\n")
    assert len(box.messages) == 2
    assert "nobody@example.com was refused: 550" in capsys.readouterr().out
