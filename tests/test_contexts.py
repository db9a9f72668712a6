"""What handlers are given: refusals and their defaults, the reply they may change, each context's own fields."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_smtp import (
    App,
    CloseContext,
    Config,
    ConnectContext,
    DataContext,
    DataStartContext,
    Envelope,
    HeloContext,
    MailFromContext,
    RcptToContext,
    Reply,
    Session,
    SMTPError,
    VerifyContext,
)
from trio_smtp.app.contexts import Context
from trio_smtp.connection.sink import MessageSink
from trio_smtp.protocol.addresses import Address
from trio_smtp.testing import Client, open_client

from .support import BODY, closed, mail_app, note_closes, send, start_data, start_transaction, status

# --- refusing ---

Drive = Callable[[Client], Awaitable[Reply]]


async def connect(client: Client) -> Reply:
    return client.greeting


async def helo(client: Client) -> Reply:
    return await client.command("HELO client.example")


async def auth(client: Client) -> Reply:
    await client.ehlo()
    return await client.auth_plain("alice", "secret")


async def mail(client: Client) -> Reply:
    await client.ehlo()
    return await client.command("MAIL FROM:<a@example.org>")


async def rcpt(client: Client) -> Reply:
    await mail(client)
    return await client.command("RCPT TO:<b@example.com>")


async def data_start(client: Client) -> Reply:
    await rcpt(client)
    return await client.command("DATA")


async def data(client: Client) -> Reply:
    await client.ehlo()
    return await send(client)


async def vrfy(client: Client) -> Reply:
    return await client.command("VRFY bob")


async def expn(client: Client) -> Reply:
    return await client.command("EXPN list")


REFUSALS: list[tuple[str, Drive, int]] = [
    ("on_connect", connect, 550),
    ("on_helo", helo, 550),
    ("on_auth", auth, 535),
    ("on_mail_from", mail, 550),
    ("on_rcpt_to", rcpt, 550),
    ("on_data_start", data_start, 554),
    ("on_data", data, 552),
    ("on_vrfy", vrfy, 550),
    ("on_expn", expn, 550),
]
each_phase = pytest.mark.parametrize(("phase", "drive", "code"), REFUSALS, ids=[row[0] for row in REFUSALS])


def app_that(phase: str, act: Callable[[Any], object]) -> App:
    """An App whose handler of a phase does this; it takes mail."""
    app = App() if phase == "on_data" else mail_app()[0]

    async def handler(ctx: object) -> None:
        act(ctx)

    getattr(app, phase)(handler)
    return app


@each_phase
async def test_each_phase_has_a_refusal_of_its_own(phase: str, drive: Drive, code: int) -> None:
    async with open_client(app_that(phase, lambda ctx: ctx.reject()), allow_insecure_auth=True) as client:
        reply = await drive(client)
        assert reply.code == code
        assert reply.text


@each_phase
async def test_each_phase_may_refuse_with_words_and_codes_of_its_own(phase: str, drive: Drive, code: int) -> None:
    def act(ctx: Any) -> None:
        ctx.reject(["Not you,", "not now"], 553, enhanced="5.7.9")

    async with open_client(app_that(phase, act), allow_insecure_auth=True) as client:
        reply = await drive(client)
        assert (reply.code, reply.lines) == (553, ("Not you,", "not now"))
        said_ehlo = phase not in ("on_connect", "on_helo", "on_vrfy", "on_expn")
        assert reply.enhanced == ("5.7.9" if said_ehlo else None)


@each_phase
async def test_raising_an_smtp_error_is_the_same_as_reject(phase: str, drive: Drive, code: int) -> None:
    def act(ctx: Any) -> None:
        raise SMTPError("Go away", 556, "5.1.10")

    async with open_client(app_that(phase, act), allow_insecure_auth=True) as client:
        reply = await drive(client)
        assert (reply.code, reply.text) == (556, "Go away")


@pytest.mark.parametrize("closing", [421, 521])
@each_phase
async def test_421_and_521_close_the_connection_whatever_the_phase(
    phase: str, drive: Drive, code: int, closing: int
) -> None:
    app = app_that(phase, lambda ctx: ctx.disconnect("Enough", closing))
    reasons = note_closes(app)
    async with open_client(app, allow_insecure_auth=True) as client:
        reply = await drive(client)
        assert (reply.code, reply.text) == (closing, "Enough")
        assert await closed(client)
    assert reasons == ["refused"]


async def test_a_refusal_by_on_secure_answers_the_next_command_and_closes(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app = app_that("on_secure", lambda ctx: ctx.reject())
    reasons = note_closes(app)
    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.ehlo()
        assert (await client.starttls(client_ssl_context, "localhost")).code == 220
        assert (await client.ehlo()).code == 550
        assert await closed(client)
    assert reasons == ["refused"]


def a_context() -> ConnectContext:
    return ConnectContext(Session(), Reply(220, "hello"))


@pytest.mark.parametrize("code", [200, 250, 354, 399, 600, 0, -550])
def test_a_refusal_must_be_4xx_or_5xx(code: int) -> None:
    with pytest.raises(ValueError, match="code must be"):
        a_context().reject("no", code)


@pytest.mark.parametrize("enhanced", ["4.7.1", "2.0.0", "5.7", "5.7.1 ", "nonsense"])
def test_an_enhanced_code_of_another_class_is_a_value_error(enhanced: str) -> None:
    with pytest.raises(ValueError, match="enhanced"):
        a_context().reject("no", 550, enhanced=enhanced)


@pytest.mark.parametrize("code", [420, 450, 550, 221, 250])
def test_disconnect_takes_421_and_521_only(code: int) -> None:
    with pytest.raises(ValueError, match="421 or 521"):
        a_context().disconnect("bye", code)


def test_disconnect_has_a_text_and_a_code_of_its_own() -> None:
    with pytest.raises(SMTPError) as info:
        a_context().disconnect()
    assert (info.value.code, info.value.message) == (421, "Closing connection")
    with pytest.raises(SMTPError) as info:
        a_context().disconnect(("one", "two"), 521, enhanced="5.3.2")
    assert (info.value.reply.lines, info.value.enhanced) == (("one", "two"), "5.3.2")


# --- the positive reply ---


@each_phase
async def test_the_positive_reply_may_be_changed(phase: str, drive: Drive, code: int) -> None:
    before: list[Reply] = []

    def act(ctx: Any) -> None:
        before.append(ctx.reply)
        if phase == "on_auth":
            ctx.accept("alice")
        if phase != "on_data_start":
            ctx.reply = Reply(ctx.reply.code, "As you like it", f"{ctx.reply.code // 100}.1.1")
        else:
            ctx.reply = Reply(354, "As you like it")

    app = app_that(phase, act)
    if phase == "on_data":
        app = App()

        @app.on_data
        async def take(ctx: DataContext) -> None:
            await ctx.stream.discard()
            act(ctx)

    async with open_client(app, allow_insecure_auth=True) as client:
        reply = await drive(client)
        assert (reply.code, reply.text) == (before[0].code, "As you like it")
        # Never in a greeting, a reply to HELO, or a 3xx; VRFY and EXPN came before EHLO.
        spared = phase in ("on_connect", "on_helo", "on_data_start", "on_vrfy", "on_expn")
        assert reply.enhanced == (None if spared else "2.1.1")


@pytest.mark.parametrize("code", [354, 421, 550])
def test_the_class_of_the_reply_must_stay(code: int) -> None:
    context = a_context()
    with pytest.raises(ValueError, match="class"):
        context.reply = Reply(code, "no")
    assert context.reply == Reply(220, "hello")
    hello = HeloContext(Session(), Reply(250, "mx"), "client", [])
    with pytest.raises(ValueError, match="class"):
        hello.reply = Reply(code, "no")
    start = DataStartContext(Session(), Reply(354, "go"))
    with pytest.raises(ValueError, match="class"):
        start.reply = Reply(250, "no")


async def test_a_reply_of_another_class_is_a_crash_of_the_handler_and_not_what_it_says() -> None:
    def act(ctx: Any) -> None:
        ctx.reply = Reply(550, "no")

    async with open_client(app_that("on_mail_from", act)) as client:
        assert status(await mail(client)) == (451, "4.3.0")


# --- HELO ---


async def test_the_ehlo_lines_can_be_edited() -> None:
    app, _ = mail_app()
    shown: list[list[str]] = []

    @app.on_helo
    async def edit(ctx: HeloContext) -> None:
        assert ctx.domain == "client.example"
        shown.append(list(ctx.extensions))
        if ctx.extensions:
            ctx.extensions.remove("SMTPUTF8")
            ctx.extensions.append("X-OWN yes")

    async with open_client(app) as client:
        reply = await client.ehlo()
        assert reply.lines[0] == "mx.example"
        assert set(reply.lines[1:]) == set(shown[0]) - {"SMTPUTF8"} | {"X-OWN yes"}
        assert (await client.command("HELO client.example")).lines == ("mx.example",)
        assert shown[1] == []
        # The lists of later sessions and commands are not touched.
        await client.ehlo()
        assert shown[2] == shown[0]


def test_the_reply_to_ehlo_is_its_greeting_line_and_the_extensions() -> None:
    context = HeloContext(Session(), Reply(250, "mx.example"), "client", ["SIZE 1", "HELP"])
    assert context.reply == Reply(250, ["mx.example", "SIZE 1", "HELP"])
    context.reply = Reply(250, ["mx.example at your service", "PIPELINING"])
    assert context.extensions == ["PIPELINING"]
    assert context.reply.lines == ("mx.example at your service", "PIPELINING")


async def test_a_refused_hello_leaves_what_an_earlier_one_said() -> None:
    app, _ = mail_app()

    @app.on_helo
    async def refuse(ctx: HeloContext) -> None:
        assert ctx.session.host_name_appears_as == ctx.domain
        if ctx.domain == "bad.example":
            ctx.reject()

    async with open_client(app) as client:
        session = client.session
        assert (await client.command("HELO bad.example")).code == 550
        assert (session.opening_command, session.host_name_appears_as) == (None, None)
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 503
        assert (await client.command("HELO good.example")).code == 250
        assert (await client.command("EHLO bad.example")).code == 550
        assert (session.opening_command, session.host_name_appears_as) == ("HELO", "good.example")
        reply = await client.command("MAIL FROM:<a@example.org>")
        assert status(reply) == (250, None)  # enhanced codes are for who said EHLO


# --- the envelope ---


async def test_the_sender_is_in_the_envelope_already_and_undone_when_refused() -> None:
    app, _ = mail_app()
    seen: list[Envelope] = []

    @app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        seen.append(ctx.session.envelope)
        assert ctx.session.envelope.mail_from is ctx.address
        if ctx.address.address == "bad@example.org":
            ctx.reject()

    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<bad@example.org> SIZE=10")).code == 550
        envelope = client.session.envelope
        assert envelope.mail_from is None
        assert envelope.size is None
        assert envelope is not seen[0]
        assert (await client.command("MAIL FROM:<good@example.org> SIZE=10")).code == 250
        assert client.session.envelope is seen[1]
        assert client.session.envelope.size == 10


async def test_a_refused_recipient_is_not_in_the_envelope_and_duplicates_are_two() -> None:
    app, _ = mail_app()
    addresses: list[Address] = []

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        addresses.append(ctx.address)
        if ctx.address.local_part == "bad":
            ctx.reject()

    async with open_client(app) as client:
        await mail(client)
        for recipient, code in (("b@example.com", 250), ("bad@example.com", 550), ("b@example.com", 250)):
            assert (await client.command(f"RCPT TO:<{recipient}>")).code == code
        assert client.session.envelope.rcpt_to == [addresses[0], addresses[2]]
        assert addresses[0] != addresses[2]
        assert len({*addresses}) == 3


async def test_the_contexts_of_data_know_the_envelope_and_a_handler_may_keep_it() -> None:
    app = App()
    kept: list[Envelope] = []

    @app.on_data_start
    async def start(ctx: DataStartContext) -> None:
        kept.append(ctx.envelope)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        assert not ctx.size_exceeded
        await ctx.stream.discard()
        kept.append(ctx.envelope)

    async with open_client(app) as client:
        await start_data(client, "b@example.com", "c@example.com")
        await client.send_bytes(BODY + b".\r\n")
        assert (await client.read_reply()).code == 250
        assert kept[0] is kept[1]
        assert [r.address for r in kept[0].rcpt_to] == ["b@example.com", "c@example.com"]
        assert kept[0].mail_from is not None
        assert client.session.envelope is not kept[0]
        assert client.session.envelope.mail_from is None


async def test_size_exceeded_is_seen_by_the_handler() -> None:
    app = App()
    seen: list[bool] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        finally:
            seen.append(ctx.size_exceeded)

    async with open_client(app, max_message_size=10) as client:
        await client.ehlo()
        assert status(await send(client)) == (552, "5.3.4")
    assert seen == [True]


def data_context(session: Session, *recipients: str) -> DataContext:
    envelope = Envelope(rcpt_to=[Address(each, each.partition("@")[0], "example.com") for each in recipients])
    sink = MessageSink(None)
    return DataContext(session, Reply(250, "OK"), sink.stream, envelope, Config(hostname="mx.example"), sink.body)


def test_reject_recipient_is_for_lmtp() -> None:
    context = data_context(Session(), "b@example.com")
    with pytest.raises(RuntimeError, match="LMTP"):
        context.reject_recipient(context.envelope.rcpt_to[0], "no")


def test_reject_recipient_takes_a_recipient_of_this_message_and_a_refusal() -> None:
    context = data_context(Session(lmtp=True), "b@example.com", "b@example.com")
    first, second = context.envelope.rcpt_to
    with pytest.raises(ValueError, match="recipient"):
        context.reject_recipient(Address("b@example.com", "b", "example.com"), "no")
    with pytest.raises(ValueError, match="code"):
        context.reject_recipient(first, "no", 250)
    context.reject_recipient(second, ("Mailbox", "full"), 452, enhanced="4.2.2")
    assert context.recipient_replies == {second: Reply(452, ("Mailbox", "full"), "4.2.2")}


async def test_a_message_brings_its_received_field() -> None:
    app = App()
    fields: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        fields.append(ctx.received_header())

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
        pattern = rf"Received: from client\.example \(unknown\)\r\n\tby mx\.example with ESMTP id {client.session.id}-1"
        assert re.match(pattern, fields[0].decode())


# --- the envelope ---


async def test_every_context_has_the_envelope() -> None:
    app = App()
    seen: dict[str, Envelope] = {}

    def note(name: str) -> Callable[[Context | CloseContext], Awaitable[None]]:
        async def handler(ctx: Context | CloseContext) -> None:
            assert ctx.envelope is ctx.session.envelope
            seen[name] = ctx.envelope
            if isinstance(ctx, DataContext):
                await ctx.stream.discard()

        return handler

    app.on_connect(note("connect"))
    app.on_helo(note("helo"))
    app.on_mail_from(note("mail"))
    app.on_rcpt_to(note("rcpt"))
    app.on_vrfy(note("vrfy"))
    app.on_data_start(note("data start"))
    app.on_data(note("data"))
    app.on_close(note("close"))
    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(BODY + b".\r\n")
        assert (await client.read_reply()).code == 250
        await client.command("VRFY b")
        await client.command("MAIL FROM:<c@example.org>")
        await client.quit()
    assert seen["connect"] is seen["helo"]
    assert seen["connect"].mail_from is None
    assert seen["rcpt"] is seen["data start"] is seen["data"]
    assert [str(recipient) for recipient in seen["data"].rcpt_to] == ["b@example.com"]
    assert seen["vrfy"].mail_from is None
    assert seen["mail"] is seen["close"]  # the transaction that QUIT broke off
    assert str(seen["close"].mail_from) == "c@example.org"


def test_the_envelope_of_a_message_is_its_own_whatever_the_session_has() -> None:
    context = data_context(Session(), "b@example.com")
    assert context.envelope is not context.session.envelope
    assert [str(recipient) for recipient in context.envelope.rcpt_to] == ["b@example.com"]


# --- the others ---


async def test_vrfy_and_expn_are_given_their_argument() -> None:
    app = App()
    asked: list[str] = []

    async def note(ctx: VerifyContext) -> None:
        asked.append(ctx.argument)

    app.on_vrfy(note)
    app.on_expn(note)
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await client.command("VRFY Bob Smith")) == (250, "2.1.5")
        assert status(await client.command("EXPN staff")) == (250, "2.1.5")
    assert asked == ["Bob Smith", "staff"]


async def test_on_close_is_told_the_session_and_the_reason_and_cannot_answer() -> None:
    app, _ = mail_app()
    contexts: list[CloseContext] = []

    @app.on_close
    async def note(ctx: CloseContext) -> None:
        contexts.append(ctx)
        await trio.lowlevel.checkpoint()

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await client.quit()).code == 221
    (context,) = contexts
    assert context.session is client.session
    assert context.reason == "quit"
    assert not hasattr(context, "reject")
    assert not hasattr(context, "disconnect")
    assert not hasattr(context, "reply")


async def test_handlers_share_what_they_keep_in_session_data() -> None:
    app, _ = mail_app()

    @app.on_helo
    async def remember(ctx: HeloContext) -> None:
        ctx.session.data["seen"] = ctx.domain

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("RSET")
        assert (await send(client)).code == 250
        assert client.session.data == {"seen": "client.example"}
