"""What happens to the body of a message, and to its end: DATA and BDAT, in memory and in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_smtp import App, DataContext
from trio_smtp.plugins.faults import Rules, faults
from trio_smtp.testing import Client, open_client

from .support import CLOSED, Taken, said

SMALL = b"Subject: x\r\n\r\nHello\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 20_000
both = pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])


async def begin(client: Client) -> None:
    assert await said(client, "EHLO client.example") == "250"
    assert await said(client, "MAIL FROM:<a@example.org>") == "250"
    assert await said(client, "RCPT TO:<b@example.com>") == "250"
    assert await said(client, "RCPT TO:<c@example.com>") == "250"


async def send(client: Client, body: bytes, chunking: bool) -> str:
    """Send a message; what the client hears at its end. A client whose connection ends hears that."""
    await begin(client)
    try:
        if chunking:
            half = len(body) // 2
            await client.send_bytes(b"BDAT %d\r\n" % half + body[:half])
            heard = await said(client)
            if heard != "250":
                return heard
            await client.send_bytes(b"BDAT %d LAST\r\n" % (len(body) - half) + body[half:])
        else:
            assert await said(client, "DATA") == "354"
            await client.send_bytes(body + b".\r\n")
        return await said(client)
    except trio.BrokenResourceError:
        return CLOSED


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@both
class TestBothWays:
    @pytest.mark.parametrize(
        ("rule", "heard", "taken"),
        [
            ("end fail 452", "452", 0),
            ("end to=c@* fail 452", "452", 0),
            ("end to=d@* fail 452", "250", 1),
            ("end sender=a@* rate_limit 0 60", "450", 0),
            ("end disconnect", CLOSED, 1),
            ("end reset", CLOSED, 1),
            ("end disconnect before_reply=false", "250", 1),
            ("body disconnect", CLOSED, 0),
            ("body reset", CLOSED, 0),
            ("body to=d@* reset", "250", 1),
            ("body close_after 5", CLOSED, 0),
            ("body close_after 100", None, None),
            ("body close_after 1000000", "250", 1),
        ],
    )
    async def test_what_the_client_hears_and_what_was_taken(
        self, rule: str, heard: str | None, taken: int | None, *, body: bytes, chunking: bool, autojump_clock: MockClock
    ) -> None:
        if heard is None:
            heard, taken = ("250", 1) if body is SMALL else (CLOSED, 0)
        app = Taken(rule)
        async with app.client() as client:
            assert await send(client, body, chunking) == heard
        assert app.messages == [(body, ["b@example.com", "c@example.com"])] * (taken or 0)

    async def test_a_delay_at_the_end_comes_after_the_message_was_taken(
        self, body: bytes, chunking: bool, autojump_clock: MockClock
    ) -> None:
        app = Taken("end delay 60")
        async with app.client() as client:
            with trio.move_on_after(30) as gives_up:
                await send(client, body, chunking)
            assert gives_up.cancelled_caught
        assert len(app.messages) == 1

    @pytest.mark.parametrize("handler", ["reads", "discards"])
    async def test_throttle_reads_slowly(
        self, handler: str, body: bytes, chunking: bool, autojump_clock: MockClock
    ) -> None:
        app = App().use(faults(["body throttle 1000000", f"body throttle {len(body) / 100}"]))

        @app.on_data
        async def take(ctx: DataContext) -> None:
            if handler == "reads":
                assert await ctx.stream.read() == body
            else:
                await ctx.stream.discard()

        async with open_client(app) as client:
            began = trio.current_time()
            assert await send(client, body, chunking) == "250"
            assert 99 < trio.current_time() - began < 102

    async def test_a_delay_comes_before_the_body_is_read(
        self, body: bytes, chunking: bool, autojump_clock: MockClock
    ) -> None:
        app = Taken("body delay 60", "end fail 451 times=1")
        async with app.client() as client:
            began = trio.current_time()
            assert await send(client, body, chunking) == "451"
            assert trio.current_time() - began == 60
            assert await send(client, body, chunking) == "250"
            assert trio.current_time() - began == 120

    async def test_a_delay_and_a_refusal_at_the_end(
        self, body: bytes, chunking: bool, autojump_clock: MockClock
    ) -> None:
        app = Taken("end delay 60", "end fail 451")
        async with app.client() as client:
            began = trio.current_time()
            assert await send(client, body, chunking) == "451"
            assert trio.current_time() - began == 60
        assert app.messages == []


async def test_the_client_cannot_know_and_sends_again(autojump_clock: MockClock) -> None:
    app = Taken("end disconnect times=1")
    async with app.client() as client:
        assert await send(client, SMALL, chunking=False) == CLOSED
    async with app.client() as client:
        assert await send(client, SMALL, chunking=False) == "250"
    assert [body for body, _ in app.messages] == [SMALL, SMALL]


async def test_a_message_that_breaks_off_is_no_event_of_the_end(autojump_clock: MockClock) -> None:
    app = Taken("body close_after 5 times=1", "end fail 451 times=1")
    for heard in (CLOSED, "451", "250"):
        async with app.client() as client:
            assert await send(client, SMALL, chunking=False) == heard
    async with app.client() as client:
        app.rules.fail("end", 452)
        await begin(client)
        assert await said(client, "DATA") == "354"
        await client.send_bytes(b"half of it")
    assert [rule.hits for rule in app.rules] == [1, 1, 0]


@pytest.mark.parametrize("rule", ["data fail 452", "data delay 9", "data garbage", "data disconnect"])
async def test_bdat_begins_a_message_as_data_does(rule: str, autojump_clock: MockClock) -> None:
    app = Taken(rule)
    async with app.client() as client:
        heard = await send(client, SMALL, chunking=True)
    expected = {"data fail 452": "452", "data delay 9": "250", "data disconnect": CLOSED}
    assert heard == expected.get(rule, heard)
    if rule not in expected:
        assert "not a reply" in heard
    assert [each.hits for each in app.rules] == [1]


async def test_a_bdat_that_is_the_whole_message(autojump_clock: MockClock) -> None:
    app = Taken("data garbage")
    async with app.client() as client:
        await begin(client)
        assert "not a reply" in await said(client, b"BDAT 7 LAST\r\nHello")
        assert await said(client, "NOOP") == "250"
    assert len(app.messages) == 1


async def test_a_rule_that_comes_in_the_middle_of_a_body(autojump_clock: MockClock) -> None:
    rules = Rules(["body throttle 1000"])
    app = App().use(faults(rules))

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()

    async with open_client(app) as client:
        await begin(client)
        assert await said(client, "DATA") == "354"
        rules.clear()
        await client.send_bytes(SMALL + b".\r\n")
        assert await said(client) == "250"


async def test_too_large_is_what_it_was(autojump_clock: MockClock) -> None:
    app = Taken("end fail 451", "body throttle 1000000")
    async with app.client(max_message_size=100) as client:
        assert await send(client, LARGE, chunking=False) == "552"
    assert [rule.hits for rule in app.rules] == [0, 1]
