"""BDAT (RFC 3030): handlers and clients that leave; the wire stays in step."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest
import trio
import trio.testing

from tests.bdat_support import CHUNK, HOSTILE, aborted_app, bdat, still_in_step
from tests.support import closed, logged, mail_app, note_closes, start_transaction, status
from trio_smtp import (
    App,
    Config,
    DataContext,
    DataStartContext,
    MessageIncomplete,
    SMTPServer,
)
from trio_smtp.testing import Client, open_client

# --- Handlers that leave early ---


def leaving_app(how: str) -> App:
    """Its handler reads one chunk, and leaves."""
    app = App()

    @app.on_data
    async def leave(ctx: DataContext) -> None:
        await ctx.stream.receive()
        if how == "reject":
            ctx.reject("Spam", 554, enhanced="5.7.1")
        if how == "crash":
            raise RuntimeError("secret")
        if how == "close":
            await ctx.stream.aclose()

    return app


@pytest.mark.parametrize(
    ("how", "expected", "log"),
    [
        ("reject", (554, "5.7.1"), ""),
        ("crash", (451, "4.3.0"), "on_data handler failed"),
        ("return", (451, "4.3.0"), "neither read the message to its end nor discarded it"),
        ("close", (451, "4.3.0"), "neither read the message to its end nor discarded it"),
    ],
)
async def test_a_handler_that_leaves_decides(
    how: str, expected: tuple[int, str], log: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(leaving_app(how)) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert status(await bdat(client, HOSTILE)) == expected
        assert status(await bdat(client, HOSTILE)) == expected
        assert (await client.command("NOOP")).code == 250
        assert status(await bdat(client, HOSTILE, last=True)) == expected
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
        assert client.server.stats.messages_refused == 1
    assert "secret" not in str(client.session.error)
    lines = logged(caplog)
    assert len([line for line in lines if log and log in line]) == (1 if log else 0)
    assert len(lines) == (1 if log else 0)


@pytest.mark.parametrize("how", ["reject", "crash", "return", "close"])
async def test_a_handler_that_leaves_a_last_chunk_decides(how: str) -> None:
    async with open_client(leaving_app(how)) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert (await bdat(client, HOSTILE, last=True)).code == (554 if how == "reject" else 451)
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250


async def test_rset_after_a_handler_left() -> None:
    async with open_client(leaving_app("reject")) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.command("RSET")).code == 250
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250


async def test_a_handler_may_close_the_connection() -> None:
    app = App()
    closes = note_closes(app)

    @app.on_data
    async def leave(ctx: DataContext) -> None:
        await ctx.stream.receive()
        ctx.disconnect("Enough", 421)

    async with open_client(app) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert (await bdat(client, b"two")).code == 421
        assert await closed(client)
    assert closes == ["refused"]


async def test_a_tap_that_raises_refuses_its_chunk() -> None:
    app = App()

    @app.on_data
    async def scan(ctx: DataContext) -> None:
        def look(chunk: bytes) -> None:
            if b"virus" in chunk:
                ctx.reject("Infected", 554, enhanced="5.7.1")

        ctx.stream.tap(look)
        with suppress(Exception):  # what a tap refused stays refused
            await ctx.stream.read()

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, b"clean")).code == 250
        assert (await bdat(client, b"virus")).code == 250  # not looked at yet
        await trio.testing.wait_all_tasks_blocked()
        assert status(await bdat(client, b"more")) == (554, "5.7.1")
        assert status(await bdat(client, b"end", last=True)) == (554, "5.7.1")
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250


async def test_a_handler_that_hangs_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    app = App()
    closes = note_closes(app)

    @app.on_data
    async def hang(ctx: DataContext) -> None:
        await trio.sleep_forever()

    async with open_client(app, handler_timeout=50, command_timeout=300) as client:
        await start_transaction(client)
        before = trio.current_time()
        assert (await bdat(client, b"one")).code == 250  # the channel holds it
        assert status(await bdat(client, b"two")) == (421, "4.3.0")
        assert 50 <= trio.current_time() - before <= 51
        assert await closed(client)
        assert client.server.stats.messages_incomplete == 1
    assert closes == ["timeout"]


async def test_a_handler_that_hangs_at_the_last_chunk_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    app = App()

    @app.on_data
    async def hang(ctx: DataContext) -> None:
        await ctx.stream.discard()
        await trio.sleep_forever()

    async with open_client(app, handler_timeout=50) as client:
        await start_transaction(client)
        assert (await bdat(client, b"one")).code == 250
        await trio.sleep(100)  # the client's time, not the handler's
        before = trio.current_time()
        assert status(await bdat(client, b"two", last=True)) == (421, "4.3.0")
        assert 50 <= trio.current_time() - before <= 51


# --- Back-pressure ---


async def test_a_handler_that_does_not_read_stops_the_client() -> None:
    app = App()
    go_on = trio.Event()
    taken: list[int] = []

    @app.on_data
    async def wait(ctx: DataContext) -> None:
        await go_on.wait()
        taken.append(len(await ctx.stream.read()))

    server = SMTPServer(app, Config(hostname="mx.example"))
    ours, theirs = trio.testing.lockstep_stream_pair()
    client = Client(ours)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(20):
            await client.send_bytes(b"BDAT 65536%s\r\n" % (b" LAST" if number == 19 else b"") + bytes(65_536))
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, theirs)
        await client.read_reply()
        for line in ("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>"):
            assert (await client.command(line)).code == 250
        replies: list[int] = []

        async def receive() -> None:
            replies.extend([(await client.read_reply()).code for _ in range(20)])

        async with trio.open_nursery() as both:
            both.start_soon(send)
            both.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert sent <= 3
            go_on.set()
        assert replies == [250] * 20
        assert (await client.quit()).code == 221
        await client.aclose()
    assert taken == [20 * 65_536]


# --- Messages that are given up ---


@pytest.mark.parametrize(
    ("command", "code", "usable"), [("RSET", 250, True), ("EHLO again.example", 250, True), ("QUIT", 221, False)]
)
@pytest.mark.parametrize("chunks", [1, 3])
async def test_a_message_may_be_given_up(
    command: str, code: int, usable: bool, chunks: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    app, ends = aborted_app()
    closes = note_closes(app)
    async with open_client(app) as client:
        await start_transaction(client)
        for _ in range(chunks):
            assert (await bdat(client, CHUNK)).code == 250
        assert (await client.command(command)).code == code
        await trio.testing.wait_all_tasks_blocked()
        assert ends == ["incomplete"]
        assert client.server.stats.messages_incomplete == 1
        if usable:
            assert await still_in_step(client)
        else:
            assert await closed(client)
    assert closes == ["lost" if usable else "quit"]
    assert any(
        "message from=<a@example.org> recipients=1" in line and "incomplete" in line for line in logged(caplog, 20)
    )


async def test_a_message_that_is_given_up_counts_once_though_its_handler_goes_on(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    app = App()

    @app.on_data
    async def hang(ctx: DataContext) -> None:
        await trio.sleep_forever()

    closes = note_closes(app)
    async with open_client(app, Config(handler_timeout=5)) as client:
        await start_transaction(client)
        assert (await bdat(client, CHUNK)).code == 250
        assert (await client.command("QUIT")).code == 221
        assert await closed(client)  # and no 421 behind the 221
    assert closes == ["timeout"]
    assert client.server.stats.messages_incomplete == 1
    assert sum("incomplete" in line for line in logged(caplog, 20)) == 1


async def test_a_client_has_quit_though_the_handlers_of_its_message_are_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = App()

    @app.on_data
    async def hang(ctx: DataContext) -> None:
        await trio.sleep_forever()

    closes = note_closes(app)
    with trio.move_on_after(5):
        async with open_client(app) as client:
            await start_transaction(client)
            assert (await bdat(client, CHUNK)).code == 250
            assert (await client.command("QUIT")).code == 221
            await trio.sleep_forever()
    assert closes == ["quit"]


async def test_rset_and_what_follows_may_be_pipelined() -> None:
    app, ends = aborted_app()
    async with open_client(app) as client:
        await start_transaction(client)
        await client.send_bytes(
            b"BDAT 3\r\noneRSET\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nBDAT 5 LAST\r\nwholeQUIT\r\n"
        )
        assert [(await client.read_reply()).code for _ in range(6)] == [250] * 5 + [221]
    assert ends == ["incomplete", "5 octets"]


async def test_a_refused_ehlo_gives_nothing_up() -> None:
    app, taken = mail_app()
    greeted = False

    @app.on_helo
    async def once(ctx: object) -> None:
        nonlocal greeted
        if greeted:
            ctx.reject("Once is enough")  # type: ignore[attr-defined]
        greeted = True

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, b"one")).code == 250
        assert (await client.command("EHLO again")).code == 550
        assert (await client.command("EHLO")).code == 501
        assert (await client.command("RSET x")).code == 501
        assert (await bdat(client, b"two", last=True)).code == 250
    assert taken == [b"onetwo"]


@pytest.mark.parametrize("inside", [True, False])
async def test_a_client_may_vanish(inside: bool, autojump_clock: trio.testing.MockClock) -> None:
    app, ends = aborted_app()
    closes = note_closes(app)
    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, CHUNK)).code == 250
        if inside:
            await client.send_bytes(b"BDAT 100\r\nhalf")
        await client.aclose()
        await trio.sleep(1)
        assert (ends, closes) == (["incomplete"], ["lost"])
        assert client.server.stats.messages_incomplete == 1
        assert client.server.sessions == []


async def test_an_aborts_outcome_is_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def crash(ctx: DataContext) -> None:
        try:
            await ctx.stream.discard()
        finally:
            raise RuntimeError("while cleaning up")

    async with open_client(app) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        assert (await client.command("RSET")).code == 250
        assert (await client.command("NOOP")).code == 250
    assert any("on_data handler failed" in line for line in logged(caplog))


async def test_a_handler_that_ignores_an_abort_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    app = App()

    @app.on_data
    async def cling(ctx: DataContext) -> None:
        try:
            await ctx.stream.discard()
        except MessageIncomplete:
            await trio.sleep(20)

    async with open_client(app, handler_timeout=50) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        assert (await client.command("RSET")).code == 250
        before = trio.current_time()
        assert (await client.command("NOOP")).code == 250
        assert trio.current_time() - before == 20


async def test_a_handler_that_clings_to_an_abort_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    app = App()

    @app.on_data
    async def cling(ctx: DataContext) -> None:
        try:
            await ctx.stream.discard()
        except MessageIncomplete:
            await trio.sleep_forever()

    async with open_client(app, handler_timeout=50) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        assert (await client.command("RSET")).code == 250
        before = trio.current_time()
        assert status(await client.command("NOOP")) == (421, "4.3.0")
        assert 50 <= trio.current_time() - before <= 51


async def test_an_aborted_handler_keeps_its_envelope() -> None:
    app = App()
    senders: list[str] = []

    @app.on_data
    async def note(ctx: DataContext) -> None:
        try:
            await ctx.stream.discard()
        finally:
            senders.append(f"{ctx.envelope.mail_from} {len(ctx.envelope.rcpt_to)}")

    async with open_client(app) as client:
        await start_transaction(client)
        # All in one piece: the handler has not begun when the message is given up.
        await client.send_bytes(b"BDAT 1\r\nxRSET\r\nNOOP\r\n")
        assert [(await client.read_reply()).code for _ in range(3)] == [250] * 3
    assert senders == ["a@example.org 1"]


async def test_a_client_may_vanish_before_its_reply(autojump_clock: trio.testing.MockClock) -> None:
    """The message was whole: it is taken, and not called incomplete."""
    app, ends = aborted_app()
    closes = note_closes(app)
    async with open_client(app) as client:
        await start_transaction(client)
        await client.send_bytes(b"BDAT 3\r\noneBDAT 3 LAST\r\ntwo")
        await client.aclose()
        await trio.sleep(1)
        stats = client.server.stats
        assert (stats.messages_accepted, stats.messages_incomplete) == (1, 0)
    assert (ends, closes) == (["6 octets"], ["lost"])


# --- The counters ---


async def test_a_refused_message_is_counted_once_and_when_it_is_refused() -> None:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        ctx.reject("Not today", 554)

    async with open_client(app) as client:
        stats = client.server.stats
        for count, ending in enumerate(("RSET", "LAST", "QUIT"), start=1):
            await start_transaction(client)
            await client.send_bytes(b"BDAT 3\r\nabcBDAT 3\r\ndef")
            assert {(await client.read_reply()).code, (await client.read_reply()).code} <= {250, 554}
            assert stats.messages_refused == count
            if ending == "LAST":
                assert (await bdat(client, CHUNK, last=True)).code == 554
            else:
                assert (await client.command(ending)).code in (250, 221)
            assert (stats.messages_refused, stats.messages_incomplete, stats.messages_accepted) == (count, 0, 0)


async def test_what_on_data_start_refuses_is_counted_once() -> None:
    app, _ = mail_app()

    @app.on_data_start
    async def refuse(ctx: DataStartContext) -> None:
        ctx.reject("Not today", 554)

    async with open_client(app) as client:
        await start_transaction(client)
        for last in (False, False, True):
            assert (await bdat(client, CHUNK, last=last)).code == 554
            assert client.server.stats.messages_refused == 1
