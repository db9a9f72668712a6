"""The limits of Config on what a client may do: errors, commands, recipients, transactions, sizes, lines."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_smtp import App, AuthContext, Config, DataContext, MailFromContext, RcptToContext
from trio_smtp.testing import Client, open_client

from .support import (
    BODY,
    Stopwatch,
    closed,
    logged,
    mail_app,
    note_closes,
    send,
    start_data,
    start_transaction,
    status,
)

# --- max_errors and error_delay ---

COUNTED: list[tuple[int, list[str]]] = [
    (500, ["FROB"]),
    (500, ["NOOP \x01"]),
    (500, ["NOOP ä"]),
    (500, ["x" * 3000]),
    (500, ["LHLO c.example"]),
    (501, ["EHLO"]),
    (501, ["MAIL FROM:a@example.org"]),
    (501, ["RSET now"]),
    (502, ["EXPN staff"]),
    (502, ["STARTTLS"]),
    (503, ["MAIL FROM:<>", "MAIL FROM:<>"]),
    (503, ["RCPT TO:<b@example.com>"]),
    (504, ["AUTH FROB"]),
    (555, ["MAIL FROM:<> FROB=1"]),
]


@pytest.mark.parametrize(("code", "commands"), COUNTED, ids=[f"{code} {lines[-1][:20]}" for code, lines in COUNTED])
async def test_errors_of_the_protocol_are_counted(
    code: int, commands: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()

    @app.on_auth
    async def nobody(ctx: AuthContext) -> None: ...

    reasons = note_closes(app)
    async with open_client(app, max_errors=3, allow_insecure_auth=True) as client:
        await client.ehlo()
        for _ in range(2):
            for command in commands[:-1]:
                await client.command(command)
            assert (await client.command(commands[-1])).code == code
            await client.command("RSET")
        for command in commands[:-1]:
            await client.command(command)
        assert status(await client.command(commands[-1])) == (421, "4.7.0")
        assert await closed(client)
    assert reasons == ["abuse"]
    assert ["too many errors" in line for line in logged(caplog)] == [True]


async def refuse(ctx: Any) -> None:
    ctx.reject("No", 501)


NOT_COUNTED: list[tuple[int, list[str], dict[str, Any]]] = [
    (501, ["MAIL FROM:<refused@example.org>"], {}),
    (503, ["MAIL FROM:<refused@example.org>", "RCPT TO:<b@example.com>"], {}),
    (503, ["MAIL FROM:<refused@example.org>", "DATA"], {}),
    (554, ["MAIL FROM:<>", "RCPT TO:<refused@example.com>", "DATA"], {}),
    (452, ["MAIL FROM:<>", "RCPT TO:<b@example.com>", "RCPT TO:<c@example.com>"], {"max_recipients": 1}),
    (530, ["MAIL FROM:<>"], {"auth_required": True, "allow_insecure_auth": True}),
    (535, ["AUTH PLAIN AGEAYg=="], {"allow_insecure_auth": True, "max_auth_failures": 100}),
    (552, ["MAIL FROM:<> SIZE=101"], {"max_message_size": 100}),
    (553, ["MAIL FROM:<ä@example.org>"], {}),
    (252, ["VRFY bob"], {}),
]


@pytest.mark.parametrize(
    ("code", "commands", "changes"), NOT_COUNTED, ids=[f"{row[0]} {row[1][-1][:20]}" for row in NOT_COUNTED]
)
async def test_refusals_and_what_a_pipelining_client_cannot_know_are_not_counted(
    code: int, commands: list[str], changes: dict[str, Any]
) -> None:
    app, _ = mail_app()

    @app.on_mail_from
    async def mail(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "refused":
            ctx.reject("No", 501)

    @app.on_rcpt_to
    async def rcpt(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "refused":
            ctx.reject("No", 550)

    @app.on_auth
    async def nobody(ctx: AuthContext) -> None: ...

    async with open_client(app, max_errors=2, **changes) as client:
        await client.ehlo()
        for _ in range(5):
            await client.command("RSET")
            replies = [await client.command(command) for command in commands]
            assert replies[-1].code == code


async def test_538_is_not_counted(server_ssl_context: ssl.SSLContext) -> None:
    app, _ = mail_app()
    app.on_auth(refuse)
    async with open_client(app, max_errors=2, ssl_context=server_ssl_context) as client:
        await client.ehlo()
        for _ in range(5):
            assert status(await client.command("AUTH PLAIN AGEAYg==")) == (538, "5.7.11")


async def test_a_delivered_message_resets_the_count() -> None:
    app, _ = mail_app()
    async with open_client(app, max_errors=3) as client:
        await client.ehlo()
        for _ in range(4):
            for _ in range(2):
                assert (await client.command("FROB")).code == 500
            assert (await send(client)).code == 250
        for expected in (500, 500, 421):
            assert (await client.command("FROB")).code == expected


async def test_a_refused_message_does_not_reset_the_count() -> None:
    app = App()
    app.on_data(refuse)
    async with open_client(app, max_errors=3) as client:
        await client.ehlo()
        for expected in (500, 500, 421):
            assert (await client.command("FROB")).code == expected
            if expected == 500:
                assert (await send(client)).code == 501


async def test_the_delay_is_before_each_error_from_the_third_on(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, error_delay=5) as client:
        await client.ehlo()
        for error in range(1, 7):
            watch = Stopwatch()
            assert (await client.command("FROB")).code == 500
            assert watch.seconds == (5 if error >= 3 else 0)
            assert (await client.command("NOOP")).code == 250
            assert watch.seconds == (5 if error >= 3 else 0)


async def test_what_was_answered_before_the_delay_does_not_wait_for_it(autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, error_delay=5) as client:
        watch = Stopwatch()
        await client.send_bytes(b"FROB\r\nFROB\r\nNOOP\r\nFROB\r\nNOOP\r\n")
        assert [(await client.read_reply()).code for _ in range(3)] == [500, 500, 250]
        assert watch.seconds == 0
        assert [(await client.read_reply()).code for _ in range(2)] == [500, 250]
        assert watch.seconds == 5


# --- max_unauthenticated_commands ---

OPEN_AUTH: dict[str, Any] = {"auth_required": True, "allow_insecure_auth": True, "max_unauthenticated_commands": 3}


def auth_app() -> App:
    app, _ = mail_app()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        if ctx.credentials.username == "alice":
            ctx.accept()

    return app


@pytest.mark.parametrize(
    "commands",
    [
        ["NOOP", "NOOP", "NOOP", "NOOP"],
        ["MAIL FROM:<>", "MAIL FROM:<>", "MAIL FROM:<>", "MAIL FROM:<>"],
        ["VRFY b", "RSET", "DATA", "HELP"],
    ],
)
async def test_commands_before_authentication_are_limited(
    commands: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    app = auth_app()
    reasons = note_closes(app)
    async with open_client(app, Config(**OPEN_AUTH), max_unauthenticated_commands=4) as client:
        await client.ehlo()
        for command in commands[:3]:
            assert (await client.command(command)).code != 421
        assert status(await client.command(commands[3])) == (421, "4.7.0")
        assert await closed(client)
    assert reasons == ["abuse"]
    assert ["too many commands without authentication" in line for line in logged(caplog)] == [True]


async def test_auth_is_not_counted_and_afterwards_there_is_no_limit() -> None:
    async with open_client(auth_app(), Config(**OPEN_AUTH), max_auth_failures=100) as client:
        await client.ehlo()
        for _ in range(10):
            assert (await client.auth_plain("mallory", "x")).code == 535
        assert (await client.auth_plain("alice", "x")).code == 235
        for _ in range(10):
            assert (await client.command("NOOP")).code == 250
        assert (await send(client)).code == 250


async def test_where_authentication_is_not_required_there_is_no_limit() -> None:
    async with open_client(auth_app(), max_unauthenticated_commands=2, allow_insecure_auth=True) as client:
        for _ in range(10):
            assert (await client.command("NOOP")).code == 250


# --- recipients and transactions ---


async def test_one_recipient_too_many_is_452_and_the_transaction_goes_on() -> None:
    app, taken = mail_app()

    @app.on_rcpt_to
    async def known(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "unknown":
            ctx.reject()

    async with open_client(app, max_recipients=2) as client:
        await start_transaction(client)
        assert (await client.command("RCPT TO:<unknown@example.com>")).code == 550
        assert (await client.command("RCPT TO:<b@example.com>")).code == 250
        for _ in range(2):
            assert status(await client.command("RCPT TO:<c@example.com>")) == (452, "4.5.3")
        assert len(client.session.envelope.rcpt_to) == 2
        assert (await client.command("DATA")).code == 354
        await client.send_bytes(b".\r\n")
        assert (await client.read_reply()).code == 250
        await start_transaction(client, "b@example.com", "c@example.com")
    assert taken == [b""]


async def test_one_transaction_too_many_is_421() -> None:
    app, taken = mail_app()
    reasons = note_closes(app)
    async with open_client(app, max_transactions=2) as client:
        await client.ehlo()
        for _ in range(2):
            assert (await send(client)).code == 250
        assert status(await client.command("MAIL FROM:<a@example.org>")) == (421, "4.7.0")
        assert await closed(client)
    assert len(taken) == 2
    assert reasons == ["refused"]


async def test_refused_and_broken_off_transactions_count_too() -> None:
    app, _ = mail_app()

    @app.on_mail_from
    async def local_only(ctx: MailFromContext) -> None:
        if not ctx.address.address:
            ctx.reject("Not you", 550)

    async with open_client(app, max_transactions=3) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<>")).code == 550
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 503  # no turn of its own
        assert (await client.command("RSET")).code == 250
        assert (await send(client)).code == 250
        assert status(await client.command("MAIL FROM:<a@example.org>")) == (421, "4.7.0")
        assert await closed(client)


# --- sizes ---


@pytest.mark.parametrize(("size", "expected"), [(100, (250, "2.1.0")), (101, (552, "5.3.4")), (10**19, (552, "5.3.4"))])
async def test_size_at_mail(size: int, expected: tuple[int, str]) -> None:
    app, _ = mail_app()
    async with open_client(app, max_message_size=100) as client:
        await client.ehlo()
        assert status(await client.command(f"MAIL FROM:<> SIZE={size}")) == expected


async def test_without_a_limit_any_size_will_do() -> None:
    app, _ = mail_app()
    async with open_client(app, max_message_size=None) as client:
        assert "SIZE" in (await client.ehlo()).lines
        assert (await client.command(f"MAIL FROM:<> SIZE={10**19}")).code == 250


@pytest.mark.parametrize("split", [False, True], ids=["inline", "streamed"])
@pytest.mark.parametrize(("size", "code"), [(99, 250), (100, 250), (101, 552)])
async def test_the_size_counts_line_ends_and_neither_stuffed_dots_nor_the_end_mark(
    size: int, code: int, split: bool
) -> None:
    app, taken = mail_app()
    data = b"." * (size - 2) + b"\r\n"
    async with open_client(app, max_message_size=100) as client:
        await start_data(client)
        await client.send_bytes(b"." + data[:50])
        if split:
            await trio.testing.wait_all_tasks_blocked()
        await client.send_bytes(data[50:] + b".\r\n")
        assert (await client.read_reply()).code == code
    assert taken == ([data] if code == 250 else [])


async def pour(client: Client, octets: int) -> None:
    """So many octets of a body, as one line."""
    block = b"x" * 65_000
    while octets > 0:
        await client.send_bytes(block[:octets])
        octets -= len(block)
        await trio.testing.wait_all_tasks_blocked()


async def refuse_at_once(ctx: DataContext) -> None:
    ctx.reject("No", 550)


async def read_all(ctx: DataContext) -> None:
    await ctx.stream.read()


async def return_at_once(ctx: DataContext) -> None: ...


MIB = 1024 * 1024


@attrs.frozen
class Thrown:
    """A message nobody wants: how it begins, its reply when it ends in time, and the last words when it does not."""

    handler: Callable[[DataContext], Awaitable[None]]
    expected: tuple[int, str]
    last_words: tuple[int, str]
    first: bytes = b"x"
    limit: int = 1000


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Thrown(read_all, (552, "5.3.4"), (552, "5.3.4")), id="too large"),
        pytest.param(Thrown(refuse_at_once, (550, "5.7.1"), (550, "5.7.1")), id="refused"),
        pytest.param(Thrown(return_at_once, (552, "5.3.4"), (552, "5.3.4")), id="not read"),
        pytest.param(Thrown(read_all, (550, "5.6.0"), (550, "5.6.0"), first=b"bare\nnewline\r\n"), id="malformed"),
        pytest.param(Thrown(refuse_at_once, (550, "5.7.1"), (550, "5.7.1"), limit=9 * MIB), id="large limit"),
    ],
)
@pytest.mark.parametrize("over", [False, True], ids=["under the bound", "over it"])
async def test_what_is_thrown_away_has_a_bound(case: Thrown, over: bool, autojump_clock: MockClock) -> None:
    app = App()
    app.on_data(case.handler)
    reasons = note_closes(app)
    bound = max(16 * MIB, 2 * case.limit)
    async with open_client(app, bare_newline="reject", max_message_size=case.limit) as client:
        await start_data(client)
        await client.send_bytes(case.first)
        await trio.testing.wait_all_tasks_blocked()
        await pour(client, bound - MIB)
        assert client.session.error is None
        if over:
            await pour(client, MIB + 60_000)
            assert status(await client.read_reply()) == case.last_words
            assert await closed(client)
        else:
            await client.send_bytes(b"\r\n.\r\n")
            assert status(await client.read_reply()) == case.expected
            assert (await client.command("NOOP")).code == 250
    assert reasons == ["abuse" if over else "lost"]


async def test_without_a_limit_on_messages_there_is_no_bound() -> None:
    app = App()
    app.on_data(refuse_at_once)
    async with open_client(app, max_message_size=None) as client:
        await start_data(client)
        await pour(client, 18 * MIB)
        await client.send_bytes(b"\r\n.\r\n")
        assert status(await client.read_reply()) == (550, "5.7.1")


# --- lines ---


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize(
    ("start", "limit", "over"),
    [
        (b"NOOP ", 2048, (500, "5.5.2")),
        (b"AUTH FROB ", 12_288, (500, "5.5.6")),
        (b"auth frob ", 12_288, (500, "5.5.6")),
    ],
)
async def test_the_length_of_a_command_line(start: bytes, limit: int, over: tuple[int, str], split: bool) -> None:
    app = auth_app()
    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        for excess in (0, 1, 20_000):
            # The tail looks like a command, and must not be one.
            line = start + b"x" * (limit + excess - len(start) - 6) + b"QUIT\r\n"
            await client.send_bytes(line[: limit // 2])
            if split:
                await trio.testing.wait_all_tasks_blocked()
            await client.send_bytes(line[limit // 2 :])
            reply = await client.read_reply()
            assert status(reply) == over if excess else reply.code in (250, 504)
            assert (await client.command("NOOP")).code == 250


async def test_a_line_without_an_end_closes() -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with open_client(app) as client:
        await client.ehlo()
        await pour(client, 65_537)
        await trio.testing.wait_all_tasks_blocked()
        assert status(await client.read_reply()) == (500, "5.5.2")
        assert await closed(client)
    assert reasons == ["abuse"]


@pytest.mark.parametrize(("length", "expected"), [(100, (250, "2.0.0")), (101, (550, "5.6.0"))])
async def test_the_length_of_a_line_of_a_message(length: int, expected: tuple[int, str]) -> None:
    app, taken = mail_app()
    async with open_client(app, max_data_line=100) as client:
        await client.ehlo()
        assert status(await send(client, BODY + b"x" * (length - 2) + b"\r\n")) == expected
    assert len(taken) == (length == 100)
