"""Each delivery says when it hands a message to its target, and how that ended: metrics and traces are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.redis_support import bulk, fake_redis
from tests.relay.support import LMTP, before
from tests.webhook_support import answering, read_request
from trio_smtp import App, Config, DataContext, SMTPError
from trio_smtp.delivery.maildir import maildir
from trio_smtp.delivery.redis_stream import redis_stream
from trio_smtp.delivery.webhook import webhook
from trio_smtp.testing import open_client

MESSAGE = b"Subject: test\r\n\r\ntext\r\n"


def watched() -> tuple[App, list[object]]:
    """An App that notes how each hand-over ended: the target, and "done" or a code."""
    app, seen = App(), list[object]()

    @contextmanager
    def watch(session: object, target: str) -> Iterator[None]:
        try:
            yield
        except SMTPError as refusal:
            seen.append((target, refusal.code))
            raise
        seen.append((target, "done"))

    app.watch_deliveries(watch)
    return app, seen


@pytest.mark.parametrize("to_lmtp", [False, True])
async def test_a_relay(to_lmtp: bool) -> None:
    app, seen = watched()
    back = App()

    @back.on_data
    async def pick(ctx: DataContext) -> None:
        if b"refuse" in await ctx.stream.read():
            ctx.reject("No", 554)

    async with before(back, LMTP if to_lmtp else Config(hostname="mx.example"), app=app) as front:
        for message in (MESSAGE, b"refuse\r\n"):
            await front.begin("b@example.com")
            await front.data(message)
    target = "lmtp" if to_lmtp else "proxy"
    assert seen == [(target, "done"), (target, 554)]


@pytest.mark.parametrize(("answer", "end"), [(bulk(b"1-0"), "done"), (b"-OOM no memory\r\n", 452)])
async def test_a_redis(answer: bytes, end: object, tmp_path: Path) -> None:
    pytest.importorskip("coredis")
    app, seen = watched()
    async with fake_redis(tmp_path, {b"XADD": answer}) as fake:
        app.use(redis_stream(fake.url, "mail"))
        async with open_client(app) as client:
            await client.ehlo()
            await client.send_message("a@example.org", ["b@example.com"], MESSAGE)
    assert seen == [("redis_stream", end)]


@pytest.mark.parametrize(("status", "end"), [(204, "done"), (422, 550), (503, 451)])
async def test_a_web_application(status: int, end: object) -> None:
    app, seen = watched()

    async def serve(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)

    async with answering(serve) as port:
        app.use(webhook(f"http://127.0.0.1:{port}/", secret="whsec_" + "c2VjcmV0" * 4))
        async with open_client(app) as client:
            await client.ehlo()
            await client.send_message("a@example.org", ["b@example.com"], MESSAGE)
    assert seen == [("webhook", end)]


async def test_a_maildir(tmp_path: Path) -> None:
    app, seen = watched()
    app.use(maildir(tmp_path / "mail"))
    async with open_client(app) as client:
        await client.ehlo()
        await client.send_message("a@example.org", ["b@example.com"], MESSAGE)
    assert seen == [("maildir", "done")]
