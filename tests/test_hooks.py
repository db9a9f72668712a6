"""`on_command`, `on_reply` and `on_transaction_end`: what sees every command, every reply, every transaction's end."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import (
    App,
    AuthContext,
    CommandContext,
    ConnectContext,
    DataContext,
    DataStartContext,
    Extension,
    MailFromContext,
    Reply,
    ReplyContext,
    TransactionEndContext,
)
from trio_smtp.testing import Client, open_client, play

from .socket_support import connected, serving
from .support import (
    BODY,
    LARGE,
    Stopwatch,
    closed,
    crashes,
    logged,
    mail_app,
    note_closes,
    raw_client,
    send,
    start_data,
    start_transaction,
    status,
)
from .tls_support import NAME


def transcribing(app: App) -> list[str]:
    """Both hooks together are the transcript."""
    lines: list[str] = []

    @app.on_command
    async def command(ctx: CommandContext) -> None:
        lines.append(f"C {ctx.verb}: {ctx.line}")

    @app.on_reply
    async def reply(ctx: ReplyContext) -> None:
        lines.append(f"S {ctx.verb}: {ctx.reply.code}")

    return lines


def note_ends(app: App) -> list[str]:
    ends: list[str] = []

    @app.on_transaction_end
    async def note(ctx: TransactionEndContext) -> None:
        ends.append(f"{ctx.envelope.mail_from} {ctx.reason}")

    return ends


def app_with(**handlers: Callable[[Any], object]) -> App:
    """An App that takes mail, with handlers made of plain functions."""
    app = mail_app()[0]
    for phase, act in handlers.items():

        def make(act: Callable[[Any], object]) -> Callable[[Any], Awaitable[None]]:
            async def handler(ctx: object) -> None:
                act(ctx)

            return handler

        getattr(app, phase)(make(act))
    return app


# --- the transcript ---


async def test_the_transcript_of_a_session() -> None:
    app = mail_app()[0]
    lines = transcribing(app)
    async with open_client(app) as client:
        await client.ehlo("c.example")
        await client.command("nonsense secret")
        await client.command("vrfy bob")
        await client.command("MAIL bob")
        await client.send_message("a@example.org", ["b@example.com"], BODY)
        await client.send_bytes(b"BDAT 1\r\nx")
        await client.read_reply()
        await client.command("RSET")
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com>")
        await client.send_bytes(b"BDAT 1\r\nxBDAT 1 LAST\r\nx")
        await client.read_reply()
        await client.read_reply()
        await client.quit()
    assert lines == [
        "S CONNECT: 220",
        "C EHLO: EHLO c.example",
        "S EHLO: 250",
        "C : (unrecognized, 15 octets)",
        "S : 500",
        "C VRFY: vrfy bob",
        "S VRFY: 252",
        "C MAIL: MAIL bob",
        "S MAIL: 501",
        "C MAIL: MAIL FROM:<a@example.org>",
        "S MAIL: 250",
        "C RCPT: RCPT TO:<b@example.com>",
        "S RCPT: 250",
        "C DATA: DATA",
        "S DATA: 354",
        "S END: 250",
        "C BDAT: BDAT 1",
        "S BDAT: 503",
        "C RSET: RSET",
        "S RSET: 250",
        "C MAIL: MAIL FROM:<a@example.org>",
        "S MAIL: 250",
        "C RCPT: RCPT TO:<b@example.com>",
        "S RCPT: 250",
        "C BDAT: BDAT 1",
        "S BDAT: 250",
        "C BDAT: BDAT 1 LAST",
        "S END: 250",
        "C QUIT: QUIT",
        "S QUIT: 221",
    ]


async def test_secrets_are_masked() -> None:
    app = mail_app()[0]
    lines, arguments = transcribing(app), []

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        ctx.accept()

    @app.on_command
    async def note(ctx: CommandContext) -> None:
        arguments.append(ctx.argument)

    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo("c.example")
        await client.command("AUTH LOGIN")
        await client.command("YWxpY2U=")
        await client.command("c2VjcmV0")
        await client.auth_plain("alice", "secret")
        await client.command("AGFsaWNlAHNlY3JldA==")
    assert lines[3:] == [
        "C AUTH: AUTH LOGIN",
        "S AUTH: 334",
        "S AUTH: 334",
        "S AUTH: 235",
        "C AUTH: AUTH PLAIN ***",
        "S AUTH: 503",
        "C : (unrecognized, 20 octets)",
        "S : 500",
    ]
    assert arguments == ["c.example", "LOGIN", "PLAIN ***", ""]


async def test_lmtp_has_a_reply_for_each_recipient() -> None:
    app = mail_app()[0]
    lines = transcribing(app)
    async with open_client(app, lmtp=True) as client:
        await client.command("LHLO c.example")
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com>")
        await client.command("RCPT TO:<c@example.com>")
        await client.command("DATA")
        await client.send_bytes(b".\r\n")
        await client.read_reply()
        await client.read_reply()
    assert lines[-2:] == ["S END: 250"] * 2


async def test_an_extension_and_what_its_handler_sees() -> None:
    seen = []

    async def ping(ctx: CommandContext) -> None:
        seen.append((ctx.verb, ctx.argument, ctx.line))

    app = mail_app()[0].extend(Extension(keyword="PING", commands={"PING": ping}))
    lines = transcribing(app)
    async with open_client(app) as client:
        await client.ehlo()
        await client.command("ping a b")
        await client.command("PING")
    assert seen == [("PING", "a b", "PING a b"), ("PING", "", "PING")]
    assert lines[3:5] == ["C PING: ping a b", "S PING: 250"]


async def test_a_refusal_in_place_of_the_greeting() -> None:
    app = mail_app()[0]
    lines = transcribing(app)

    @app.on_connect
    async def refuse(ctx: ConnectContext) -> None:
        ctx.reject()

    async with raw_client(app) as client:
        assert (await client.read_reply()).code == 550
        assert await closed(client)
    assert lines == ["S CONNECT: 550"]


async def test_last_words(autojump_clock: trio.testing.MockClock) -> None:
    app = mail_app()[0]
    lines = transcribing(app)
    async with open_client(app, command_timeout=5) as client:
        assert (await client.read_reply()).code == 421
        assert await closed(client)
    assert lines == ["S CONNECT: 220", "S CLOSING: 421"]


async def test_inside_tls(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    app = mail_app()[0]
    lines = transcribing(app)
    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.ehlo("c.example")
        await client.starttls(client_ssl_context, NAME)
        await client.command("NOOP")
    assert lines[3:] == ["C STARTTLS: STARTTLS", "S STARTTLS: 220", "C NOOP: NOOP", "S NOOP: 250"]


async def test_on_sockets_with_pipelined_commands() -> None:
    app = mail_app()[0]
    lines = transcribing(app)
    async with serving(app) as server, connected(server) as client:
        await client.send_bytes(b"NOOP\r\n" * 3000 + b"QUIT\r\n")
        replies = await client.read_to_end()
    assert replies == b"250 OK\r\n" * 3000 + b"221 Bye\r\n"
    assert lines == ["S CONNECT: 220", *["C NOOP: NOOP", "S NOOP: 250"] * 3000, "C QUIT: QUIT", "S QUIT: 221"]


async def test_replies_are_logged_as_they_are_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    app = app_with(on_reply=lambda ctx: ctx.send(b"250 Hi\r\n") if ctx.verb == "NOOP" else None)
    async with open_client(app) as client:
        await client.command("NOOP")
    assert f"session={client.session.id} S: 250 Hi" in logged(caplog, 0)


# --- on_command ---


@pytest.mark.parametrize(
    "line",
    ["EHLO c.example", "HELO c", "NOOP", "RSET", "QUIT", "STARTTLS", "HELP", "VRFY x", "XYZ", "MAIL FROM:<a@b.example>",
     "RCPT TO:<a@b.example>", "DATA", "AUTH PLAIN", "MAIL nonsense", "BDAT", "MAIL FROM:<a@b.example> X-CRASH=1"],
)  # fmt: skip
async def test_each_command_may_be_refused(line: str, server_ssl_context: ssl.SSLContext) -> None:
    def crash(value: object) -> None:
        raise ZeroDivisionError

    app = app_with(on_command=lambda ctx: ctx.reject("Not now", 450))
    app.extend(Extension(keyword="X-CRASH", mail_parameters={"X-CRASH": crash}))
    async with open_client(app, ssl_context=server_ssl_context) as client:
        assert status(await client.command(line)) == (450, None)
        assert status(await client.command("NOOP")) == (450, None)
        assert client.session.opening_command is None
        assert not client.session.secure


@pytest.mark.parametrize("line", ["NOOP", "QUIT", "XYZ"])
async def test_a_command_may_end_the_session(line: str) -> None:
    app = app_with(on_command=lambda ctx: ctx.disconnect("Enough"))
    reasons = note_closes(app)
    async with open_client(app) as client:
        assert (await client.command(line)).code == 421
        assert await closed(client)
    assert reasons == ["refused"]


async def test_a_command_may_abort() -> None:
    app = app_with(on_command=lambda ctx: ctx.abort())
    reasons = note_closes(app)
    async with open_client(app) as client:
        await client.send_bytes(b"NOOP\r\n")
        with pytest.raises((trio.BrokenResourceError, trio.EndOfChannel)):
            await client.read_reply()
    assert reasons == ["aborted"]


async def test_what_follows_a_refused_mail_is_refused_as_usual() -> None:
    app = app_with(on_command=lambda ctx: ctx.reject() if ctx.verb == "MAIL" else None)
    transcript = """
        S: 220 ...
        C: HELO c.example
        S: 250 mx.example
        C: MAIL FROM:<a@example.org>
        C: RCPT TO:<b@example.com>
        C: DATA
        S: 550 Refused
        S: 503 ...
        S: 554 ...
    """
    await play(app, transcript)


def refusing(number: int) -> App:
    """Refuses the BDAT with this number."""
    count = 0

    def act(ctx: CommandContext) -> None:
        nonlocal count
        count += ctx.verb == "BDAT"
        if ctx.verb == "BDAT" and count == number:
            ctx.reject("No chunk", 554, enhanced="5.7.1")

    return app_with(on_command=act)


@pytest.mark.parametrize(("number", "codes"), [(1, [554, 554, 554]), (2, [250, 554, 554]), (3, [250, 250, 554])])
@pytest.mark.parametrize("lmtp", [False, True])
async def test_the_octets_of_a_refused_chunk_are_no_commands(number: int, codes: list[int], lmtp: bool) -> None:
    app = refusing(number)
    ends = note_ends(app)
    async with open_client(app, lmtp=lmtp) as client:
        await client.command("LHLO c.example" if lmtp else "EHLO c.example")
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com>")
        for code, last in zip(codes, ["", "", " LAST"], strict=True):
            await client.send_bytes(b"BDAT 6%b\r\nQUIT\r\n" % last.encode())
            assert (await client.read_reply()).code == code
        assert (await client.command("MAIL FROM:<c@example.org>")).code == 250
        await client.quit()
    assert ends == ["a@example.org refused", "c@example.org reset"]


async def test_a_refused_chunk_out_of_order_is_read_too() -> None:
    async with open_client(refusing(1)) as client:
        await client.send_bytes(b"BDAT 6\r\nQUIT\r\n")
        assert (await client.read_reply()).code == 554
        assert (await client.command("NOOP")).code == 250


async def test_a_refused_chunk_may_end_the_session() -> None:
    app = app_with(on_command=lambda ctx: ctx.disconnect() if ctx.line == "BDAT 2" else None)
    reasons, ends = note_closes(app), note_ends(app)
    async with open_client(app) as client:
        await start_transaction(client)
        await client.send_bytes(b"BDAT 1\r\nx")
        await client.read_reply()
        await client.send_bytes(b"BDAT 2\r\nxx")
        assert (await client.read_reply()).code == 421
        assert await closed(client)
    assert reasons == ["refused"]
    assert ends == ["a@example.org refused"]


# --- on_reply ---


async def test_a_reply_is_shown_with_the_octets_that_are_sent() -> None:
    shown: list[bytes] = []
    app = app_with(
        on_reply=lambda ctx: shown.append(ctx.encoded),
        on_auth=lambda ctx: ctx.accept("ann"),
        on_data_start=lambda ctx: ctx.reject("Nö"),
    )
    async with raw_client(app, allow_insecure_auth=True) as client:
        await client.send_bytes(b"EHLO c.example\r\nAUTH LOGIN\r\n*\r\nMAIL FROM:<a@example.org> SMTPUTF8\r\n")
        await client.send_bytes(b"RCPT TO:<b@example.com>\r\nDATA\r\nRSET\r\nQUIT\r\n")
        assert await client.read_to_end() == b"".join(shown)
    assert [each[:3] for each in shown] == [b"220", b"250", b"334", b"501", b"250", b"250", b"554", b"250", b"221"]
    assert b"2.0.0" not in shown[1]
    assert shown[6].endswith(" Nö\r\n".encode())


@pytest.mark.parametrize(
    ("octets", "sent"), [([b"200 Sure\r\n"], b"200 Sure\r\n"), ([b"2", b"99\r\n"], b"299\r\n"), ([b""], b"")]
)
async def test_raw_octets_in_place_of_a_reply(octets: list[bytes], sent: bytes) -> None:
    def act(ctx: ReplyContext) -> None:
        assert ctx.envelope.mail_from is None
        if ctx.verb == "NOOP":
            for each in octets:
                ctx.send(each)

    async with open_client(app_with(on_reply=act)) as client:
        await client.send_bytes(b"NOOP\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.send_bytes(b"QUIT\r\n")
        assert await client.read_to_end() == sent + b"221 Bye\r\n"


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "QUIT"])
async def test_the_session_ends_after_a_reply(verb: str) -> None:
    app = app_with(on_reply=lambda ctx: ctx.close_after() if ctx.verb == verb else None)
    reasons = note_closes(app)
    codes = {"CONNECT": [220], "EHLO": [220, 250], "MAIL": [220, 250, 250], "QUIT": [220, 250, 250, 250, 221]}
    async with raw_client(app) as client:
        await client.send_bytes(b"EHLO c.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nQUIT\r\n")
        assert [(await client.read_reply()).code for _ in codes[verb]] == codes[verb]
        assert await closed(client)
        await trio.testing.wait_all_tasks_blocked()
    assert reasons == ["quit" if verb == "QUIT" else "refused"]


async def test_replies_behind_the_last_one_are_dropped() -> None:
    """Those of LMTP are held together."""
    app = app_with(on_reply=lambda ctx: ctx.close_after() if ctx.verb == "END" else None)
    async with open_client(app, lmtp=True) as client:
        await client.command("LHLO c.example")
        await client.command("MAIL FROM:<a@example.org>")
        for name in "bcd":
            await client.command(f"RCPT TO:<{name}@example.com>")
        await client.command("DATA")
        await client.send_bytes(b".\r\n")
        assert (await client.read_reply()).code == 250
        assert await closed(client)


def fail(ctx: ReplyContext) -> None:
    ctx.send(b"999\r\n")
    raise ValueError


async def test_a_crash_is_logged_and_the_reply_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with(on_reply=fail)
    async with open_client(app) as client:
        assert await client.command("NOOP") == Reply(250, "OK")
    assert crashes(caplog) == [f"session={client.session.id} on_reply handler failed"] * 2


async def test_a_returned_value_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    app = mail_app()[0]

    @app.on_reply  # type: ignore[type-var]
    async def reply(ctx: ReplyContext) -> str:
        return "250 OK"

    async with open_client(app) as client:
        assert (await client.command("NOOP")).code == 250
    assert "use ctx.reject()" in caplog.text


@pytest.mark.parametrize("verb", ["CONNECT", "NOOP", "CLOSING"])
async def test_a_reply_may_abort(verb: str, autojump_clock: trio.testing.MockClock) -> None:
    app = app_with(on_reply=lambda ctx: ctx.abort() if ctx.verb == verb else None)
    reasons = note_closes(app)
    async with raw_client(app, command_timeout=5) as client:
        if verb != "CONNECT":
            await client.read_reply()
        await client.send_bytes(b"NOOP\r\n")
        if verb == "CLOSING":
            await client.read_reply()
        with pytest.raises((trio.BrokenResourceError, trio.EndOfChannel)):
            await client.read_reply()
        await trio.testing.wait_all_tasks_blocked()
    assert reasons == ["aborted"]


async def test_handlers_that_take_too_long(autojump_clock: trio.testing.MockClock) -> None:
    app = mail_app()[0]
    reasons = note_closes(app)

    @app.on_reply
    async def wait(ctx: ReplyContext) -> None:
        if ctx.verb == "NOOP":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)

    async with open_client(app, handler_timeout=5) as client:
        assert (await client.command("NOOP")).code == 250  # as it is
        assert (await client.read_reply()).code == 421
        assert await closed(client)
    assert reasons == ["timeout"]


async def test_many_replies_leave_in_between() -> None:
    app = app_with(on_reply=lambda ctx: ctx.send(b"250 " + b"x" * 20_000 + b"\r\n"))
    async with open_client(app) as client:
        await client.send_bytes(b"NOOP\r\n" * 10)
        for _ in range(10):
            assert len(await client.read_line()) == 20_006


# --- on_transaction_end ---

Drive = Callable[[Client], Awaitable[object]]


async def answered(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(BODY + b".\r\n")
    await client.read_reply()


async def streamed(client: Client) -> None:
    await start_transaction(client)
    await client.send_bytes(b"BDAT 3\r\nabc")
    await client.read_reply()
    await client.send_bytes(b"BDAT %d LAST\r\n" % len(LARGE) + LARGE)
    await client.read_reply()


def then(*lines: str) -> Drive:
    async def drive(client: Client) -> None:
        await start_transaction(client)
        for line in lines:
            await client.command(line)

    return drive


async def gone(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(b"half a mess")
    await client.aclose()


async def given_up(client: Client) -> None:
    await start_transaction(client)
    await client.send_bytes(b"BDAT 3\r\nabc")
    await client.read_reply()
    await client.command("RSET")


async def drained(client: Client) -> None:
    await start_transaction(client)
    client.server.drain()
    await client.command("RSET")


async def too_many_errors(client: Client) -> None:
    await start_transaction(client)
    for _ in range(10):
        await client.command("XYZ")


ENDS: list[tuple[str, Drive, str]] = [
    ("DATA", answered, "accepted"),
    ("BDAT", streamed, "accepted"),
    ("RSET", then("RSET"), "reset"),
    ("EHLO", then("EHLO c.example"), "reset"),
    ("QUIT", then("QUIT"), "reset"),
    ("RSET between chunks", given_up, "reset"),
    ("a drain", drained, "reset"),
    ("a client that is gone", gone, "lost"),
    ("too many errors", too_many_errors, "lost"),
    ("nothing", start_transaction, "lost"),
]


@pytest.mark.parametrize(("drive", "reason"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
async def test_how_a_transaction_ends(drive: Drive, reason: str) -> None:
    app = mail_app()[0]
    ends = note_ends(app)
    async with open_client(app) as client:
        await drive(client)
    assert ends == [f"a@example.org {reason}"]


@pytest.mark.parametrize("line", ["NOOP", "RSET", "QUIT", "MAIL FROM:<a@example.org> X=1", "RCPT TO:<b@example.com>"])
async def test_without_an_accepted_mail_there_is_none(line: str) -> None:
    app = mail_app()[0]
    ends = note_ends(app)
    async with open_client(app) as client:
        await client.ehlo()
        await client.command(line)
    assert ends == []


async def test_a_refused_mail_and_a_message_that_is_refused() -> None:
    app = App()
    ends = note_ends(app)

    @app.on_mail_from
    async def refuse_some(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "bad":
            ctx.reject()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        ctx.reject()

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<bad@example.org>")
        for _ in range(2):
            await send(client)
        await client.command("MAIL FROM:<last@example.org>")
    assert ends == ["a@example.org refused"] * 2 + ["last@example.org lost"]


@pytest.mark.parametrize(("refused", "reason"), [(1, "accepted"), (2, "refused")])
async def test_in_lmtp_one_recipient_is_enough(refused: int, reason: str) -> None:
    app = App()
    ends = note_ends(app)

    @app.on_data
    async def refuse_some(ctx: DataContext) -> None:
        await ctx.stream.discard()
        for recipient in ctx.recipients[:refused]:
            ctx.reject_recipient(recipient, "No")

    async with open_client(app, lmtp=True) as client:
        await client.command("LHLO c.example")
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com>")
        await client.command("RCPT TO:<c@example.com>")
        await client.command("DATA")
        await client.send_bytes(b".\r\n")
        await client.read_reply()
        await client.read_reply()
    assert ends == [f"a@example.org {reason}"]


async def test_a_client_that_is_refused_inside_a_transaction() -> None:
    app = app_with(on_rcpt_to=lambda ctx: ctx.disconnect())
    ends = note_ends(app)
    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com>")
        assert await closed(client)
    assert ends == ["a@example.org refused"]


async def test_the_end_comes_after_the_reply_and_before_on_close() -> None:
    app = mail_app()[0]
    order: list[str] = []
    go_on = trio.Event()

    @app.on_transaction_end
    async def end(ctx: TransactionEndContext) -> None:
        await go_on.wait()
        order.append(ctx.reason)

    @app.on_close
    async def note_close(ctx: object) -> None:
        order.append("closed")

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
        go_on.set()
        await client.command("MAIL FROM:<a@example.org>")
    assert order == ["accepted", "lost", "closed"]


async def test_a_client_that_is_gone_before_the_reply() -> None:
    app = App()
    ends = note_ends(app)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()

    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(BODY + b".\r\n")
        await trio.testing.wait_all_tasks_blocked()
    assert ends == ["a@example.org accepted"]


async def test_it_is_shielded_and_limited(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = mail_app()[0]

    @app.on_transaction_end
    async def wait(ctx: TransactionEndContext) -> None:
        await trio.sleep_forever()

    async with open_client(app, session_timeout=10) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        watch = Stopwatch()
        await client.send_bytes(b"RSET\r\n")
        await client.read_to_end()
        assert 29 < watch.seconds < 32
    assert any("on_transaction_end did not end in time" in line for line in logged(caplog))


async def test_what_they_raise_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with(on_transaction_end=lambda ctx: 1 / 0)
    ends = note_ends(app)
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
        await client.command("RSET")
    assert ends == ["a@example.org accepted"]
    assert crashes(caplog) == [f"session={client.session.id} on_transaction_end handler failed"]


async def test_a_refused_chunk_whose_end_is_not_known_ends_the_session() -> None:
    app = app_with(on_command=lambda ctx: ctx.reject("No", 450))
    reasons = note_closes(app)
    async with open_client(app) as client:
        assert (await client.command(b"BDAT \xff")).code == 450
        assert await closed(client)
    assert reasons == ["abuse"]


# --- what all of them have ---


async def test_replies_and_ends_know_their_app() -> None:
    app, _ = mail_app()
    seen: list[object] = []

    @app.on_reply
    async def reply(ctx: ReplyContext) -> None:
        seen.append(ctx.app)

    @app.on_transaction_end
    async def end(ctx: TransactionEndContext) -> None:
        seen.append(ctx.app)

    async with open_client(app) as client:
        assert (await send(client)).code == 503
        await client.ehlo()
        assert (await send(client)).code == 250
    assert len(seen) > 5
    assert all(each is app for each in seen)


async def test_a_chunk_of_a_refused_message_may_be_refused_by_its_command_too() -> None:
    app, taken = mail_app()
    commands = 0

    @app.on_data_start
    async def begin(ctx: DataStartContext) -> None:
        ctx.reject("Not now", 450, enhanced="4.2.0")

    @app.on_command
    async def command(ctx: CommandContext) -> None:
        nonlocal commands
        commands += ctx.verb == "BDAT"
        if commands == 2:
            ctx.reject("No chunks", 550, enhanced="5.7.1")

    async with open_client(app) as client:
        await start_transaction(client)
        await client.send_bytes(b"BDAT 3\r\noneBDAT 3\r\ntwoBDAT 5 LAST\r\nthreeNOOP\r\n")
        assert [(await client.read_reply()).code for _ in range(4)] == [450, 550, 450, 250]
    assert taken == []


async def test_a_message_for_nobody_names_nobody_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def filter_out(ctx: DataContext) -> None:
        ctx.envelope.rcpt_to.clear()
        await ctx.stream.discard()

    caplog.set_level("INFO", logger="trio_smtp")
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    (line,) = [line for line in logged(caplog, 20) if " message from=" in line]
    assert " recipients=0 " in line
    assert " to=" not in line
