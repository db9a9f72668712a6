"""What else of a user's own may crash: taps, look-ups, parts of extensions; and crashes in the middle of a pipeline."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.support import BODY, LARGE, mail_app, send, start_data, start_transaction, status
from trio_smtp import (
    App,
    AuthContext,
    Config,
    DataContext,
    Extension,
    MailFromContext,
    Mechanism,
    PlainCredentials,
    ProtocolError,
    SASLContext,
    ScramSecret,
    Session,
    SMTPError,
    SMTPServer,
)
from trio_smtp.protocol.sasl import Exchange
from trio_smtp.testing import Client, MemoryListener, open_client

from .support import by_octet, exchange, replies_in, watched_log
from .test_crashes import CRASHED, CRASHED_AUTH, SECRET

KINDS: list[type[Exception]] = [
    RuntimeError,
    KeyError,
    MemoryError,
    RecursionError,
    StopIteration,
    StopAsyncIteration,
    trio.EndOfChannel,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
    trio.TooSlowError,
    trio.WouldBlock,
]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def only_crash(records: list[logging.LogRecord], message: str) -> None:
    """One line, with its traceback."""
    (record,) = records
    assert record.getMessage() == message
    assert record.exc_info is not None
    assert record.exc_info[1] is not None


# --- taps ---


async def _collect(ctx: DataContext) -> list[bytes]:
    return [chunk async for chunk in ctx.stream]


READERS: dict[str, Callable[[DataContext], Any]] = {
    "async for": _collect,
    "read": lambda ctx: ctx.stream.read(),
    "read_message": lambda ctx: ctx.stream.read_message(),
    "discard": lambda ctx: ctx.stream.discard(),
}


@by_kind
@pytest.mark.parametrize("swallowed", [False, True], ids=["let through", "swallowed"])
@pytest.mark.parametrize("at_end", [False, True], ids=["at a chunk", "at the end"])
@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("reader", READERS)
async def test_a_tap(reader: str, data: bytes, at_end: bool, swallowed: bool, kind: type[Exception]) -> None:
    """The handler that reads learns of it, however it reads: a message that was cut off must not look whole."""
    app = App()
    whole: list[object] = []
    armed = True

    @app.on_data
    async def tap(ctx: DataContext) -> None:
        def crash(chunk: bytes) -> None:
            if armed and (chunk == b"") is at_end:
                raise kind(SECRET)

        ctx.stream.tap(crash)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            whole.append(await READERS[reader](ctx))
        except Exception:
            assert not ctx.stream.complete
            if not swallowed:
                raise

    with watched_log(logging.ERROR, errors=True) as records:
        async with open_client(app) as client:
            await client.ehlo()
            assert await send(client, data) == CRASHED
            assert whole == []
            assert client.session.transaction == 1
            assert status(await client.command("NOOP")) == (250, "2.0.0")
            armed = False
            assert (await send(client, data)).code == 250
    assert len(whole) == 1
    only_crash(records, f"session={client.session.id} on_data handler failed")


# --- extensions ---


@by_kind
@pytest.mark.parametrize("command", ["MAIL FROM:<a@example.org> XCRASH=now", "RCPT TO:<b@example.com> XCRASH"])
async def test_a_parser_of_an_extension(command: str, kind: type[Exception]) -> None:
    """It is the user's code that failed, not the client: the parameter's command is refused, and nothing counted."""

    def parse(value: str | bool) -> object:
        if value != "later":
            raise kind(SECRET)
        return value

    app, taken = mail_app()
    app.extend(Extension(keyword="XCRASH", mail_parameters={"XCRASH": parse}, rcpt_parameters={"XCRASH": parse}))
    with watched_log(logging.ERROR, errors=True) as records:
        async with open_client(app, max_errors=1) as client:
            await client.ehlo()
            if command.startswith("RCPT"):
                await client.command("MAIL FROM:<a@example.org> XCRASH=later")
            assert await client.command(command) == CRASHED
            assert client.session.envelope.rcpt_to == []
            assert (client.session.envelope.mail_from is None) is command.startswith("MAIL")
            assert (await client.command("RSET")).code == 250
            assert status(await send(client)) == (250, "2.0.0")
    assert taken == [BODY]
    only_crash(records, f"session={client.session.id} parameter handler failed")


async def test_a_parser_that_refuses_with_a_reply_of_its_own() -> None:
    def parse(value: str | bool) -> object:
        raise SMTPError("Not on Sundays", 450, "4.7.1")

    app, _ = mail_app()
    app.extend(Extension(keyword="XDAY", mail_parameters={"XDAY": parse}))
    with watched_log():
        async with open_client(app) as client:
            await client.ehlo()
            reply = await client.command("MAIL FROM:<a@example.org> XDAY=1")
            assert (reply.code, reply.enhanced, reply.text) == (450, "4.7.1", "Not on Sundays")
            assert status(await send(client)) == (250, "2.0.0")


@pytest.mark.parametrize("cause", [ValueError(SECRET), RuntimeError(SECRET), SMTPError("Another", 450), None])
async def test_a_breach_of_protocol_has_its_own_reply_whatever_caused_it(cause: Exception | None) -> None:
    def refuse(context: SASLContext) -> Exchange:
        yield b"?"
        raise ProtocolError("Malformed response", 501, "5.5.2") from cause

    app, _ = mail_app()

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept()

    changes: dict[str, Any] = {"auth_mechanisms": (Mechanism("X-REFUSE", refuse),), "allow_insecure_auth": True}
    with watched_log():
        async with open_client(app, max_errors=2, **changes) as client:
            await client.ehlo()
            reply = await client.command("AUTH X-REFUSE eA==")
            assert (status(reply), reply.text) == ((501, "5.5.2"), "Malformed response")
            # It counts as the client's error.
            assert (await client.command("AUTH X-REFUSE eA==")).code == 421


@by_kind
async def test_what_ehlo_says_of_an_extension(kind: type[Exception]) -> None:
    def describe(session: Session) -> str:
        raise kind(SECRET)

    app, taken = mail_app()
    app.extend(Extension(keyword="XCRASH", argument=describe))
    with watched_log(logging.ERROR, errors=True) as records:
        async with open_client(app) as client:
            reply = await client.ehlo()
            assert reply.code == 250
            assert "XCRASH" not in reply.text
            assert "PIPELINING" in reply.lines
            assert status(await send(client)) == (250, "2.0.0")
    assert taken == [BODY]
    only_crash(records, f"session={client.session.id} XCRASH: argument failed")


# --- the look-up of secrets ---


@by_kind
async def test_the_lookup_of_a_secret(kind: type[Exception]) -> None:
    async def look_up(username: str, session: Session) -> ScramSecret | None:
        raise kind(SECRET)

    app, taken = mail_app()

    @app.on_auth
    async def accept(ctx: object) -> None:
        raise AssertionError("nobody was proved to be anybody")

    first = base64.b64encode(b"n,,n=ali,r=rOprNGfwEbeRWgbNEkqO").decode()
    with watched_log(logging.ERROR, errors=True) as records:
        async with open_client(
            app, auth_mechanisms=("SCRAM-SHA-256",), allow_insecure_auth=True, scram_lookup=look_up
        ) as client:
            await client.ehlo()
            assert await client.command(f"AUTH SCRAM-SHA-256 {first}") == CRASHED_AUTH
            assert not client.session.authenticated
            assert status(await send(client)) == (250, "2.0.0")
    assert taken == [BODY]
    only_crash(records, f"session={client.session.id} scram_lookup handler failed")


# --- mechanisms ---


def _ask(context: SASLContext) -> Exchange:
    yield b"?"
    return PlainCredentials("X-CRASH", "ali", "")


@by_kind
async def test_whether_a_mechanism_is_usable(autojump_clock: trio.testing.MockClock, kind: type[Exception]) -> None:
    """It is asked for a connection before that is anybody's: the server must not end with it."""

    def usable(context: SASLContext) -> bool:
        raise kind(SECRET)

    app, taken = mail_app()
    config = Config(
        hostname="mx.example",
        auth_mechanisms=("PLAIN", Mechanism("X-CRASH", _ask, usable=usable)),
        allow_insecure_auth=True,
    )

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept()

    listener = MemoryListener()
    with watched_log(logging.ERROR, errors=True) as records:
        async with trio.open_nursery() as nursery:
            await nursery.start(SMTPServer(app, config).serve_listeners, [listener])
            for _ in range(2):
                client = Client(await listener.connect())
                assert (await client.read_reply()).code == 220
                reply = await client.ehlo()
                assert [line for line in reply.lines if "AUTH" in line] == ["AUTH PLAIN"]
                assert (await client.command("AUTH X-CRASH")).code == 504
                assert (await client.auth_plain("a", "b")).code == 235
                assert (await send(client)).code == 250
                await client.aclose()
            nursery.cancel_scope.cancel()
    assert taken == [BODY, BODY]
    assert {record.getMessage().partition(" ")[2] for record in records} == {"X-CRASH: usable failed"}


@by_kind
@pytest.mark.parametrize("place", ["start", "close"])
async def test_the_ends_of_an_exchange(place: str, kind: type[Exception]) -> None:
    def start(context: SASLContext) -> Exchange:
        if place == "start":
            raise kind(SECRET)
        return end_badly()

    def end_badly() -> Exchange:
        try:
            yield b"?"
        except GeneratorExit:
            raise kind(SECRET) from None
        return PlainCredentials("X-CRASH", "ali", "")

    app, taken = mail_app()

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept(ctx.credentials.username)

    mechanism = Mechanism("X-CRASH", start, takes_initial_response=False)
    with watched_log(logging.ERROR, errors=True) as records:
        async with open_client(app, auth_mechanisms=("PLAIN", mechanism), allow_insecure_auth=True) as client:
            await client.ehlo()
            if place == "close":
                assert (await client.command("AUTH X-CRASH")).code == 334
                assert status(await client.command("*")) == (501, "5.7.0")
            else:
                assert await client.command("AUTH X-CRASH") == CRASHED_AUTH
            assert not client.session.authenticated
            assert (await client.auth_plain("a", "b")).code == 235
            assert status(await send(client)) == (250, "2.0.0")
    assert taken == [BODY]
    only_crash(records, f"session={client.session.id} mechanism handler failed")


# --- LMTP, pipelines, and what is no crash ---


async def test_every_recipient_is_told() -> None:
    app = App()

    @app.on_data
    async def crash(ctx: DataContext) -> None:
        ctx.reject_recipient(ctx.envelope.rcpt_to[1], "Over quota", 452, enhanced="4.2.2")
        raise RuntimeError(SECRET)

    with watched_log(logging.ERROR, errors=True) as records:
        async with open_client(app, lmtp=True) as client:
            assert (await client.command("LHLO x")).code == 250
            await client.command("MAIL FROM:<>")
            for _ in range(3):
                await client.command("RCPT TO:<b@example.com>")
            assert (await client.command("DATA")).code == 354
            await client.send_bytes(b"x\r\n.\r\n")
            replies = [await client.read_reply() for _ in range(3)]
            assert replies[0] == replies[2] == CRASHED
            assert status(replies[1]) == (452, "4.2.2")
            assert (await client.command("NOOP")).code == 250
    only_crash(records, f"session={client.session.id} on_data handler failed")


TRANSACTION = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nBDAT 6 LAST\r\nQUIT\r\n"
PIPELINES: dict[str, tuple[list[int], bytes]] = {
    "on_mail_from": ([451, 503, 554], b""),
    "on_rcpt_to": ([250, 451, 554, 250], b"RSET\r\n"),
    "on_data_start": ([250, 250, 451], b""),
    "on_data": ([250, 250, 451], b""),
}


@pytest.mark.parametrize("segments", [lambda wire: [wire], by_octet], ids=["whole", "by octet"])
@pytest.mark.parametrize("phase", PIPELINES)
async def test_the_next_transaction_is_in_the_pipeline_already(
    autojump_clock: trio.testing.MockClock, phase: str, segments: Callable[[bytes], list[bytes]]
) -> None:
    app, taken = App(), list[bytes]()
    crashed = False

    async def crash_once(ctx: object) -> None:
        nonlocal crashed
        if not crashed:
            crashed = True
            raise RuntimeError(SECRET)

    getattr(app, phase)(crash_once)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())

    codes, between = PIPELINES[phase]
    wire = b"EHLO x\r\n" + TRANSACTION + between + TRANSACTION + b"QUIT\r\n"
    with watched_log(logging.ERROR, errors=True) as records:
        said = await exchange(SMTPServer(app, Config(hostname="mx.example")), segments(wire))
    assert [reply.code for reply in replies_in(said)] == [220, 250, *codes, 250, 250, 250, 221]
    assert taken == [b"QUIT\r\n"]
    assert len(records) == 1


async def test_a_body_that_came_with_the_next_transaction() -> None:
    app = App()
    taken: list[bytes] = []

    @app.on_data
    async def crash_once(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())
        if len(taken) == 1:
            raise RuntimeError(SECRET)

    with watched_log(logging.ERROR, errors=True) as records:
        async with open_client(app) as client:
            await start_data(client)
            await client.send_bytes(
                b"one\r\n.\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\ntwo\r\n.\r\nNOOP\r\n"
            )
            assert [(await client.read_reply()).code for _ in range(6)] == [451, 250, 250, 354, 250, 250]
    assert taken == [b"one\r\n", b"two\r\n"]
    assert len(records) == 1


async def test_a_handler_that_cancels_itself_has_not_crashed(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()

    @app.on_mail_from
    async def give_up(ctx: MailFromContext) -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.cancel_scope.cancel()

    with watched_log():
        async with open_client(app) as client:
            await start_transaction(client)
            assert (await client.command(b"BDAT 3 LAST\r\nx")).code == 250
    assert taken == [b"x\r\n"]
