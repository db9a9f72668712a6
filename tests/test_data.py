"""A message on its way from the wire to the handlers: 250 is a promise, and the wire stays in step whatever they do."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_smtp import (
    App,
    CallNext,
    Config,
    DataContext,
    DataStartContext,
    MessageIncomplete,
    Reply,
    SMTPError,
    SMTPServer,
)
from trio_smtp.testing import open_client, stuff

from .hostile.support import cut_at, exchange, replies_in, run, watched_log
from .support import BODY, LARGE, mail_app, send, start_data, start_transaction, status

both_ways = pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])


@both_ways
async def test_250_leaves_only_when_the_handlers_have_returned(data: bytes, autojump_clock: MockClock) -> None:
    app = App()
    steps: list[str] = []

    @app.on_data
    async def outer(ctx: DataContext, call_next: CallNext) -> None:
        await call_next()
        await trio.sleep(5)
        steps.append("outer is done")

    @app.on_data
    async def inner(ctx: DataContext) -> None:
        await ctx.stream.discard()
        assert ctx.stream.complete
        await trio.sleep(5)
        steps.append("inner is done")

    async with open_client(app) as client:
        await client.ehlo()
        reply = await send(client, data)
        steps.append(str(reply.code))
        assert client.server.stats.messages_accepted == 1
    assert steps == ["inner is done", "outer is done", "250"]


async def test_the_task_of_a_streamed_message_has_a_name() -> None:
    app, names = App(), []

    @app.on_data
    async def note(ctx: DataContext) -> None:
        names.append(trio.lowlevel.current_task().name)
        await ctx.stream.discard()

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, LARGE)).code == 250
    assert names == ["trio_smtp.handlers"]


@both_ways
async def test_a_middleware_that_does_not_go_on_has_not_taken_the_message(data: bytes) -> None:
    app, taken = App(), []

    @app.on_data
    async def end_of_the_chain(ctx: DataContext, call_next: CallNext) -> None: ...

    @app.on_data
    async def never(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (451, "4.3.0")
    assert taken == []


@both_ways
async def test_two_handlers_may_share_a_message_by_reading_and_tapping(data: bytes) -> None:
    app = App()
    digests: list[str] = []

    @app.on_data
    async def hash_it(ctx: DataContext, call_next: CallNext) -> None:
        digest = hashlib.sha256()
        ctx.stream.tap(digest.update)
        await call_next()
        digests.append(digest.hexdigest())

    @app.on_data
    async def take(ctx: DataContext) -> None:
        digests.append(hashlib.sha256(await ctx.stream.read()).hexdigest())

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, data)).code == 250
    assert digests == [hashlib.sha256(data).hexdigest()] * 2


async def test_on_data_start_may_refuse_before_the_354() -> None:
    app, taken = mail_app()

    @app.on_data_start
    async def once(ctx: DataStartContext) -> None:
        if "refused" not in ctx.session.data:
            ctx.session.data["refused"] = True
            ctx.reject("Greylisted", 451, enhanced="4.7.1")

    async with open_client(app) as client:
        await start_transaction(client)
        assert status(await client.command("DATA")) == (451, "4.7.1")
        # The transaction goes on, and no message was refused.
        assert client.server.stats.messages_refused == 0
        assert (await client.command("DATA")).code == 354
        await client.send_bytes(BODY + b".\r\n")
        assert (await client.read_reply()).code == 250
    assert taken == [BODY]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([b".\r\n"], b""),
        ([b".", b"\r", b"\n"], b""),
        ([b"..", b"\r\n", b".\r\n"], b".\r\n"),
        ([b"a\r\n.", b".b\r\n.\r\n"], b"a\r\n.b\r\n"),
        ([b"a\r\n", b".", b"\r", b"\n"], b"a\r\n"),
        ([b"a\r", b"\n.\r\n"], b"a\r\n"),
        ([b"x" * 70_000, b"\r\n.", b"\r\n"], b"x" * 70_000 + b"\r\n"),
    ],
)
async def test_the_end_mark_in_any_segments(segments: list[bytes], message: bytes) -> None:
    app, taken = mail_app()
    async with open_client(app) as client:
        await start_data(client)
        for segment in segments:
            await client.send_bytes(segment)
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.read_reply()).code == 250
        assert (await client.command("NOOP")).code == 250
    assert taken == [message]


async def test_a_handler_sees_that_the_client_is_gone_while_it_works(autojump_clock: MockClock) -> None:
    app = App()
    seen: list[str] = []

    @app.on_data
    async def work(ctx: DataContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await ctx.stream.discard()
            except MessageIncomplete as exc:
                seen.append(exc.message)
            nursery.cancel_scope.cancel()

    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(b"half")
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        server = client.server
    assert len(seen) == 1
    assert server.stats.messages_incomplete == 1


async def test_the_whole_way_in_and_out_for_every_kind_of_octet() -> None:
    app, taken = mail_app()
    dice = random.Random(5321)
    body = bytes(octet for octet in dice.randbytes(300_000) if octet not in b"\r\n")
    data = b"".join(b"." * (n % 3) + body[n : n + 97] + b"\r\n" for n in range(0, len(body), 97))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, data)).code == 250
    assert taken == [data]


# --- whatever the octets, whatever the handlers ---

Handler = Callable[[DataContext], Awaitable[None]]


async def take(ctx: DataContext) -> None:
    await ctx.stream.read()


async def take_slowly(ctx: DataContext) -> None:
    async for _ in ctx.stream:
        await trio.sleep(0.1)


async def leave(ctx: DataContext) -> None: ...


async def leave_early(ctx: DataContext) -> None:
    try:
        await ctx.stream.receive()
    except trio.EndOfChannel:
        return


async def leave_after_a_while(ctx: DataContext) -> None:
    await trio.sleep(0.1)


async def refuse(ctx: DataContext) -> None:
    ctx.reject()


async def refuse_at_the_end(ctx: DataContext) -> None:
    await ctx.stream.discard()
    ctx.reject()


async def swallow(ctx: DataContext) -> None:
    try:
        await ctx.stream.discard()
    except SMTPError:
        return


async def give_up(ctx: DataContext) -> None:
    await ctx.stream.aclose()


async def read_little(ctx: DataContext) -> None:
    await ctx.stream.read(10)


HANDLERS: list[Handler] = [
    take, take_slowly, leave, leave_early, leave_after_a_while,
    refuse, refuse_at_the_end, swallow, give_up, read_little,
]  # fmt: skip

PIECES = [b"\r\n", b".", b"\r\n.\r\n", b"\r", b"\n", b"text", b"QUIT\r\n", b"x" * 1000, b"\x00\xff"]
BODIES = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 20_000), max_size=8),
    handler=st.sampled_from(HANDLERS),
)
def test_every_message_has_one_reply_and_what_follows_it_is_understood(
    bodies: list[bytes], cuts: list[int], handler: Handler
) -> None:
    """The body is stuffed, so nothing in it ends it; whatever the handler does, the next command is the next one."""
    app = App()
    ended: list[bool] = []

    @app.on_data
    async def note(ctx: DataContext, call_next: CallNext) -> None:
        seen: list[bytes] = []
        ctx.stream.tap(seen.append)
        try:
            await call_next()
        finally:
            ended.append(seen[-1:] == [b""])

    app.on_data(handler)
    wire = b"HELO c.example\r\n"
    for body in bodies:
        wire += b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + stuff(body) + b"NOOP\r\n"
    replies: list[Reply] = []

    async def main() -> None:
        server = SMTPServer(app, Config(bare_newline="reject"))
        replies.extend(replies_in(await exchange(server, cut_at(wire, *cuts))))

    with watched_log(logging.ERROR, errors=True) as errors:
        run(main)
    assert all("neither read the message" in record.getMessage() for record in errors)
    codes = [reply.code for reply in replies]
    assert codes[:2] == [220, 250]
    assert len(codes) == 2 + 5 * len(bodies)
    for number, body in enumerate(bodies):
        mail, rcpt, start, end, noop = codes[2 + 5 * number : 7 + 5 * number]
        assert (mail, rcpt, start, noop) == (250, 250, 354, 250)
        assert end in expected_of(body, handler)
        assert end >= 400 or ended[number]


def expected_of(body: bytes, handler: Handler) -> set[int]:
    """What a message may be answered with."""
    bare = body.replace(b"\r\n", b"")
    if b"\r" in bare or b"\n" in bare:
        return {550} if handler in (take, take_slowly, swallow) else {451, 550, 552}
    if handler in (take, take_slowly, swallow):
        return {250}
    if handler in (refuse, refuse_at_the_end):
        return {552}
    if handler is read_little:
        size = len(body) if body.endswith(b"\r\n") or not body else len(body) + 2
        return {250} if size <= 10 else {552}
    # Whoever has seen the end of an empty message has read it.
    return {451, 250} if handler is leave_early and not body else {451}
