"""A string that is assigned to ``ctx.reply`` is the text of the reply that stands."""

from __future__ import annotations

import pytest

from trio_smtp import (
    App,
    AuthContext,
    ConnectContext,
    DataContext,
    DataStartContext,
    HeloContext,
    MailFromContext,
    RcptToContext,
    Reply,
    Session,
)
from trio_smtp.testing import open_client, play

from .support import BODY, mail_app, send, start_data


async def test_the_text_changes_and_the_codes_stay() -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.read()
        ctx.reply = "Queued as 4F2A"

    async with open_client(app) as client:
        await client.ehlo()
        assert await send(client) == Reply(250, "Queued as 4F2A", "2.0.0")


async def test_each_phase_takes_a_string() -> None:
    app = mail_app()[0]

    @app.on_connect
    async def connect(ctx: ConnectContext) -> None:
        ctx.reply = "mx.example at your service"

    @app.on_helo
    async def helo(ctx: HeloContext) -> None:
        ctx.extensions[:] = ctx.extensions[1:2]  # none for HELO
        ctx.reply = f"Hello {ctx.domain}"

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        ctx.reply = "Welcome"
        ctx.accept()

    @app.on_mail_from
    async def mail(ctx: MailFromContext) -> None:
        ctx.reply = f"From {ctx.address}"

    @app.on_rcpt_to
    async def rcpt(ctx: RcptToContext) -> None:
        ctx.reply = f"To {ctx.address}"

    @app.on_data_start
    async def start(ctx: DataStartContext) -> None:
        ctx.reply = "Go on"

    transcript = """
        S: 220 mx.example at your service
        C: HELO c.example
        S: 250 Hello c.example
        C: EHLO c.example
        S: 250-Hello c.example
        S: 250 SIZE ...
        C: AUTH PLAIN AGEAYg==
        S: 235 2.7.0 Welcome
        C: MAIL FROM:<a@example.org>
        S: 250 2.1.0 From a@example.org
        C: RCPT TO:<b@example.com>
        S: 250 2.1.5 To b@example.com
        C: DATA
        S: 354 Go on
    """
    await play(app, transcript, allow_insecure_auth=True)


def test_a_reply_of_a_handler_keeps_its_own_codes_under_another_text() -> None:
    ctx = ConnectContext(Session(), Reply(250, "OK", "2.0.0"))
    ctx.reply = Reply(251, "Elsewhere", "2.1.5")
    ctx.reply = "Forwarded"
    assert ctx.reply == Reply(251, "Forwarded", "2.1.5")


@pytest.mark.parametrize("text", ["", "two\r\n550 lines", "ümlaut", "x" * 3000])
async def test_any_text_is_cleaned_as_that_of_a_reply(text: str) -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.read()
        ctx.reply = text

    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(BODY + b".\r\n")
        reply = await client.read_reply()
        assert (reply.code, reply.enhanced) == (250, "2.0.0")
        assert (await client.command("NOOP")).code == 250
