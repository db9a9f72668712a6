"""Transactions step by step, and what leaving one early does."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import App, Config, DataContext, MailFromContext, Reply
from trio_smtp.client import BareNewline, Client, DeliveryFailed, DeliveryRefused, ExtensionMissing, connect

from .support import Lines, Mailbox, dialogue, scripted, session, usable
from .test_client import EVERYTHING, MAIL, NOTHING, picky
from .test_hostile import OFFERS, QUICK

LMTP = Config(hostname="mx.example", lmtp=True)


@pytest.mark.parametrize("options", [{}, {"chunking": True}, {"body": "BINARYMIME"}, {"size": len(MAIL)}])
async def test_step_by_step(options: dict[str, Any]) -> None:
    box = Mailbox()
    picky(box)
    async with session(box.app, EVERYTHING) as client:
        for _ in range(2):
            async with client.transaction("a@example.org", **options) as t:
                assert t.reply.code == 250
                assert (await t.recipient("b@example.com", notify="NEVER", orcpt="c@example.com")).code == 250
                assert (await t.recipient("nobody@example.com")).code == 550
                assert t.accepted == ["b@example.com"]
                assert (await t.data_start()).code == 354
                for octet in MAIL:
                    await t.write(bytes([octet]))
                assert [reply.code for reply in await t.finish()] == [250]
    assert box.messages == [MAIL] * 2
    assert box.taken[0][0].size == options.get("size")


async def test_a_reply_for_each_recipient() -> None:
    app = App()

    @app.on_data
    async def decide(ctx: DataContext) -> None:
        await ctx.stream.read()
        ctx.reject_recipient(ctx.envelope.rcpt_to[1], "Full", 452)

    async with session(app, LMTP, url="lmtp://mx.example") as client, client.transaction("") as t:
        for name in ("a", "b", "c"):
            await t.recipient(f"{name}@example.com")
        await t.data_start()
        await t.write(MAIL)
        assert [reply.code for reply in await t.finish()] == [250, 452, 250]


async def test_leaving_early_sends_rset() -> None:
    said: list[str] = []
    box = Mailbox()
    async with session(box.app, EVERYTHING, watch=lambda who, line: said.append(f"{who} {line}")) as client:
        async with client.transaction("a@example.org") as t:
            await t.recipient("b@example.com")
        with pytest.raises(LookupError):
            async with client.transaction("a@example.org"):
                raise LookupError
        assert said.count("C RSET") == 2
        assert usable(client)
        await client.send("a@example.org", "b@example.com", MAIL)
        with pytest.raises(trio.ClosedResourceError):
            await t.recipient("c@example.com")
    assert box.messages == [MAIL]


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("wrote", [False, True])
async def test_leaving_in_the_message_closes(chunking: bool, wrote: bool) -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client:
        async with client.transaction("a@example.org", chunking=chunking) as t:
            await t.recipient("b@example.com")
            await t.data_start()
            if wrote:
                await t.write(MAIL)
        assert not usable(client)
    assert box.messages == []


@pytest.mark.parametrize("cancelled_at", range(6))
async def test_cancellation_leaves_nothing_half_used(cancelled_at: int) -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client:
        with trio.CancelScope() as scope:
            step = iter(range(9))

            def reach() -> None:
                if next(step) == cancelled_at:
                    scope.cancel()

            reach()
            async with client.transaction("a@example.org") as t:
                reach()
                await t.recipient("b@example.com")
                reach()
                await t.data_start()
                reach()
                await t.write(MAIL)
                reach()
                await t.finish()
                reach()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert usable(client) is (cancelled_at == 5)
    assert box.messages == [MAIL] * (cancelled_at == 5)


async def test_mail_refused() -> None:
    box = Mailbox()

    @box.app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        if str(ctx.address) == "bad@example.org":
            ctx.reject("Go away", 550)

    async with session(box.app, EVERYTHING) as client:
        with pytest.raises(DeliveryRefused) as caught:
            await client.transaction("bad@example.org").__aenter__()
        assert (caught.value.phase, caught.value.reply.code) == ("mail", 550)
        await client.send("a@example.org", "b@example.com", MAIL)


async def test_the_order_of_steps_is_kept() -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client, client.transaction("a@example.org") as t:
        with pytest.raises(RuntimeError, match="data_start comes first"):
            await t.write(MAIL)
        with pytest.raises(RuntimeError, match="data_start comes first"):
            await t.finish()
        with pytest.raises(RuntimeError, match="no recipient"):
            await t.data_start()
        with pytest.raises(ValueError, match="not an address"):
            await t.recipient("a b")
        await t.recipient("b@example.com")
        await t.data_start()
        with pytest.raises(RuntimeError, match="the message has begun"):
            await t.recipient("c@example.com")
        await t.write(MAIL)
        await t.finish()
        with pytest.raises(trio.ClosedResourceError):
            await t.finish()


async def test_what_the_server_lacks() -> None:
    box = Mailbox()
    async with session(box.app, NOTHING) as client:
        with pytest.raises(ExtensionMissing, match="CHUNKING"):
            client.transaction("a@example.org", chunking=True)
        with pytest.raises(ExtensionMissing, match="DSN"):
            client.transaction("a@example.org", envid="a")
        async with client.transaction("a@example.org") as t:
            with pytest.raises(ExtensionMissing, match="DSN"):
                await t.recipient("b@example.com", notify="NEVER")
            await t.recipient("b@example.com")
            await t.data_start()
            await t.write(b"\xff\r\n")  # a program that passes mail on leaves the octets alone
            await t.finish()
    assert box.messages == [b"\xff\r\n"]


async def test_bare_line_ends_refused_in_the_middle() -> None:
    box = Mailbox()

    async def talk(client: Client) -> None:
        async with client.transaction("a@example.org", newlines="refuse") as t:
            await t.recipient("b@example.com")
            await t.data_start()
            await t.write(b"a\nb")

    async with session(box.app, EVERYTHING) as client:
        with pytest.raises(BareNewline):
            await talk(client)
        assert not usable(client)
    assert box.messages == []


async def test_data_refused() -> None:
    async with (
        scripted(dialogue({"DATA": b"451 later\r\n"})) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream) as client,
    ):
        async with client.transaction("a@example.org") as t:
            await t.recipient("b@example.com")
            assert await t.data_start() == Reply(451, "later")
        assert usable(client)


@pytest.mark.parametrize("verb", ["RCPT", "DATA", "."])
async def test_a_reply_that_makes_no_sense(verb: str) -> None:
    async def talk(t: Any) -> None:
        async with t:
            await t.recipient("b@example.com")
            await t.data_start()
            await t.write(MAIL)
            await t.finish()

    async with (
        scripted(dialogue({verb: b"220 what\r\n" if verb == "DATA" else b"354 go\r\n"})) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream) as client,
    ):
        with pytest.raises(DeliveryFailed) as caught:
            await talk(client.transaction("a@example.org"))
        assert caught.value.uncertain is (verb == ".")
        assert not usable(client)


@pytest.mark.parametrize("reply", [b"421 bye\r\n", b"502 what\r\n", b""])
async def test_rset_that_is_not_answered_as_it_should(reply: bytes) -> None:
    async with (
        scripted(dialogue({"RSET": reply})) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream) as client,
    ):
        async with client.transaction("a@example.org") as t:
            await t.recipient("b@example.com")
        assert not usable(client)


async def test_a_server_that_goes_away_at_mail() -> None:
    async with (
        scripted(dialogue({"MAIL": b""})) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream) as client,
    ):
        with pytest.raises(DeliveryFailed):
            await client.transaction("a@example.org").__aenter__()
        assert not usable(client)


async def test_a_chunk_that_is_refused() -> None:
    box = Mailbox()
    async with session(box.app, Config(hostname="mx.example", max_message_size=1000)) as client:
        async with client.transaction("a@example.org", chunking=True) as t:
            await t.recipient("b@example.com")
            await t.data_start()
            for _ in range(10):
                await t.write(b"x\r\n" * 10_000)
            assert [reply.code for reply in await t.finish()] == [552]
        if client.usable:
            await client.send("a@example.org", "b@example.com", MAIL)


async def test_the_message_is_sent_no_faster_than_the_server_takes_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    wrote = 0

    async def serve() -> None:
        lines = Lines(theirs)
        await theirs.send_all(b"220 mx\r\n")
        for reply in (OFFERS, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await lines.next()
            await theirs.send_all(reply)
        for _ in range(10):
            await trio.sleep(1)
            assert wrote <= _ + 1
            received = 0
            while received < 30_000:
                received += len(await theirs.receive_some(30_000 - received))
        await trio.sleep_forever()

    async def open_stream() -> trio.abc.Stream:
        return ours

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with (
            connect("smtp://mx", tls="none", timeouts=QUICK, open_stream=open_stream) as client,
            client.transaction("a@example.org") as t,
        ):
            await t.recipient("b@example.com")
            await t.data_start()
            for _ in range(10):
                await t.write(b"x" * 29_998 + b"\r\n")
                wrote += 1
        nursery.cancel_scope.cancel()
    assert wrote == 10
