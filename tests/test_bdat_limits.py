"""BDAT (RFC 3030): clocks, sizes and drains."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress

import pytest
import trio
import trio.testing

from tests.bdat_support import CHUNK, HOSTILE, aborted_app, bdat
from tests.support import BODY, closed, mail_app, note_closes, says, start_transaction, status
from trio_smtp import (
    App,
    Config,
    DataContext,
    SMTPServer,
    VerifyContext,
)
from trio_smtp.testing import Client, open_client

# --- Clocks ---


async def test_silence_between_chunks(autojump_clock: trio.testing.MockClock) -> None:
    app, ends = aborted_app()
    closes = note_closes(app)
    async with open_client(app, command_timeout=40, data_timeout=1000) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        before = trio.current_time()
        assert status(await client.read_reply()) == (421, "4.4.2")
        assert 40 <= trio.current_time() - before <= 41
        assert await closed(client)
    assert (ends, closes) == (["incomplete"], ["timeout"])


@pytest.mark.parametrize("first", [b"", b"BDAT 1\r\nx"])
@pytest.mark.parametrize("last", [b"", b" LAST"])
async def test_silence_inside_a_chunk(first: bytes, last: bytes, autojump_clock: trio.testing.MockClock) -> None:
    app, ends = aborted_app()
    async with open_client(app, command_timeout=1000, data_timeout=40) as client:
        await start_transaction(client)
        if first:
            await client.send_bytes(first)
            await client.read_reply()
        await client.send_bytes(b"BDAT 10%s\r\nhalf" % last)
        before = trio.current_time()
        assert status(await client.read_reply()) == (421, "4.4.2")
        assert 40 <= trio.current_time() - before <= 41
        assert await closed(client)
    # A message of which not even one receive came whole is not begun.
    assert ends == ([] if last and not first else ["incomplete"])


async def test_silence_while_octets_are_swallowed(autojump_clock: trio.testing.MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, data_timeout=40) as client:
        await client.ehlo()
        await client.send_bytes(b"BDAT 10\r\nhalf")
        before = trio.current_time()
        assert status(await client.read_reply()) == (421, "4.4.2")
        assert 40 <= trio.current_time() - before <= 41


async def test_a_client_that_vanishes_inside_a_refused_chunk_leaves_nothing_for_the_collector() -> None:
    app, _ = mail_app()
    gc.collect()
    gc.disable()
    try:
        async with open_client(app) as client:
            session = weakref.ref(client.session)
            await client.ehlo()
            await client.send_bytes(b"BDAT 10\r\nhalf")
            await client.aclose()
        del client
        assert session() is None
    finally:
        gc.enable()


async def test_patience_ends_though_a_refused_message_came_fast(autojump_clock: trio.testing.MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, command_timeout=10, max_message_size=100_000) as client:
        await start_transaction(client)
        assert (await bdat(client, bytes(90_000))).code == 250
        assert (await bdat(client, bytes(90_000))).code == 552
        for _ in range(15):
            assert (await client.command("NOOP")).code == 250
            await trio.sleep(8.1)
        assert (await client.command("NOOP")).code == 250
        assert await says(client, 421, "4.4.2", "No message for too long")


async def test_each_wait_has_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app, command_timeout=40, data_timeout=40, min_data_rate=0) as client:
        await start_transaction(client)
        for _ in range(5):
            await trio.sleep(39)
            await client.send_bytes(b"BDAT 2\r\n")
            await trio.sleep(39)
            await client.send_bytes(b"a")
            await trio.sleep(39)
            await client.send_bytes(b"b")
            assert (await client.read_reply()).code == 250
        assert (await bdat(client, b"", last=True)).code == 250
    assert taken == [b"ab" * 5]


async def test_a_slow_handler_is_not_a_slow_client(autojump_clock: trio.testing.MockClock) -> None:
    app = App()
    taken: list[bytes] = []

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        async for chunk in ctx.stream:
            await trio.sleep(100)
            taken.append(chunk)

    async with open_client(app, command_timeout=10, data_timeout=10, handler_timeout=450) as client:
        await start_transaction(client)
        for _ in range(3):
            assert (await bdat(client, b"x")).code == 250
        assert (await bdat(client, b"y", last=True)).code == 250
    assert taken == [b"x", b"x", b"x", b"y"]


async def test_a_verb_between_chunks_has_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    app, ends = aborted_app()

    @app.on_vrfy
    async def hang(ctx: VerifyContext) -> None:
        await trio.sleep_forever()

    async with open_client(app, handler_timeout=50) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        before = trio.current_time()
        assert status(await client.command("VRFY x")) == (421, "4.3.0")
        assert 50 <= trio.current_time() - before <= 51
    assert ends == ["incomplete"]


# --- Sizes ---


@pytest.mark.parametrize("sizes", [[100], [50, 50], [99, 1, 0]])
async def test_the_greatest_size_is_taken(sizes: list[int]) -> None:
    app, taken = mail_app()
    async with open_client(app, max_message_size=100) as client:
        await start_transaction(client)
        for size in sizes:
            assert (await bdat(client, bytes(size))).code == 250
        assert (await bdat(client, b"", last=True)).code == 250
    assert taken == [bytes(100)]


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("first", [0, 100])
async def test_one_octet_more_is_refused(first: int, last: bool) -> None:
    app, taken = mail_app()
    async with open_client(app, max_message_size=100) as client:
        await start_transaction(client)
        if first:
            assert (await bdat(client, bytes(first))).code == 250
        assert status(await bdat(client, HOSTILE + bytes(101 - first), last=last)) == (552, "5.3.4")
        if not last:
            assert status(await bdat(client, HOSTILE)) == (552, "5.3.4")
            assert status(await bdat(client, HOSTILE, last=True)) == (552, "5.3.4")
        assert client.server.stats.messages_refused == 1
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
        assert (await client.command("RCPT TO:<b@example.com>")).code == 250
        assert (await bdat(client, BODY, last=True)).code == 250
    assert taken == [BODY]


async def test_a_handler_that_swallows_it_changes_nothing() -> None:
    app = App()
    exceeded: list[bool] = []

    @app.on_data
    async def swallow(ctx: DataContext) -> None:
        try:
            await ctx.stream.discard()
        except Exception:  # noqa: BLE001
            exceeded.append(ctx.size_exceeded)

    async with open_client(app, max_message_size=10) as client:
        await start_transaction(client)
        assert (await bdat(client, b"x" * 10)).code == 250
        assert status(await bdat(client, b"x")) == (552, "5.3.4")
    assert exceeded == [True]


async def send_forever(client: Client, line: bytes) -> None:
    piece = bytes(1 << 20)
    with suppress(trio.BrokenResourceError):  # the server closes
        while True:
            await client.send_bytes(line + piece)


@pytest.mark.parametrize("line", [b"", b"BDAT 1048576\r\n"], ids=["one endless chunk", "many chunks"])
async def test_too_much_of_a_refused_message_closes(line: bytes) -> None:
    app, taken = mail_app()
    closes = note_closes(app)
    server = SMTPServer(app, Config(hostname="mx.example", max_message_size=100))
    ours, theirs = trio.testing.lockstep_stream_pair()
    client = Client(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, theirs)
        await client.read_reply()
        for command in ("EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>"):
            assert (await client.command(command)).code == 250
        if not line:
            await client.send_bytes(b"BDAT 99999999999\r\n")
        async with trio.open_nursery() as both:
            both.start_soon(send_forever, client, line)
            rest = await client.read_to_end()
    assert rest.endswith(b"552 5.3.4 Message exceeds the maximum size\r\n")
    thrown_away = server.stats.octets_received
    assert 16 << 20 < thrown_away < 34 << 20
    assert (taken, closes) == ([], ["abuse"])


# --- Drain ---


async def test_a_drain_lets_a_message_end(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    closes = note_closes(app)
    async with open_client(app, drain_timeout=60) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        client.server.drain()
        await trio.sleep(50)
        assert (await bdat(client, b"two")).code == 250
        assert (await bdat(client, b"end", last=True)).code == 250
        assert status(await client.read_reply()) == (421, "4.3.2")
        assert await closed(client)
    assert (taken, closes) == ([b"onetwoend"], ["drained"])


async def test_a_drain_ends(autojump_clock: trio.testing.MockClock) -> None:
    app, ends = aborted_app()
    closes = note_closes(app)
    async with open_client(app, drain_timeout=60) as client:
        await start_transaction(client)
        await bdat(client, b"one")
        before = trio.current_time()
        client.server.drain()
        assert status(await client.read_reply()) == (421, "4.3.2")
        assert 60 <= trio.current_time() - before <= 61
        assert await closed(client)
    assert closes == ["drained"]
    assert ends == ["incomplete"]


@pytest.mark.parametrize("chunks", [[(CHUNK, True)], [(b"x", False), (b"y", True)], [(bytes(100_000), True)]])
async def test_a_drain_holds_handlers_to_its_time(
    chunks: list[tuple[bytes, bool]], autojump_clock: trio.testing.MockClock
) -> None:
    app = App()
    closes = note_closes(app)

    @app.on_data
    async def hang(ctx: DataContext) -> None:
        await ctx.stream.discard()
        await trio.sleep_forever()

    async with open_client(app, drain_timeout=60, handler_timeout=600) as client:
        await start_transaction(client)
        for chunk, last in chunks:
            await client.send_bytes(b"BDAT %d%s\r\n%s" % (len(chunk), b" LAST" if last else b"", chunk))
            await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        client.server.drain()
        rest = await client.read_to_end()
        assert 60 <= trio.current_time() - before <= 61
        assert rest.endswith(b"421 4.3.2 Service shutting down\r\n")
    assert closes == ["drained"]
