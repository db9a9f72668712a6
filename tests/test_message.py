"""MessageStream: consumed once, and half a message can never look like a whole one."""

from __future__ import annotations

import email
import logging
import threading
from collections.abc import Awaitable, Callable
from email.message import EmailMessage, Message
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import (
    App,
    CallNext,
    DataContext,
    MessageIncomplete,
    MessageMalformed,
    MessageStream,
    MessageTooLarge,
    SMTPError,
    StreamConsumed,
)
from trio_smtp.message import MessageSink
from trio_smtp.testing import open_client

from .support import BODY, LARGE, closed, logged, send, start_data, status

Read = Callable[[MessageStream], Awaitable[object]]


def whole(*chunks: bytes, max_size: int | None = None) -> MessageStream:
    """The stream of a message that has arrived."""
    sink = MessageSink(max(1, len(chunks)), max_size)
    for chunk in chunks:
        assert sink.put_nowait(chunk)
    sink.end()
    return sink.stream


def broken(error: SMTPError, *chunks: bytes) -> MessageStream:
    """The stream of a message that went wrong after these chunks."""
    sink = MessageSink(max(1, len(chunks)), None)
    for chunk in chunks:
        assert sink.put_nowait(chunk)
    sink.fail(error)
    return sink.stream


async def iterate(stream: MessageStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def read(stream: MessageStream) -> bytes:
    return await stream.read()


async def read_message(stream: MessageStream) -> EmailMessage:
    return await stream.read_message()


async def receive_all(stream: MessageStream) -> bytes:
    chunks = []
    try:
        while True:
            chunks.append(await stream.receive())
    except trio.EndOfChannel:
        return b"".join(chunks)


async def discard(stream: MessageStream) -> None:
    await stream.discard()


each_way_of_reading = pytest.mark.parametrize("way", [iterate, read, read_message, receive_all, discard])


# --- reading ---


def test_it_is_a_receive_channel() -> None:
    assert isinstance(whole(), trio.abc.ReceiveChannel)


@pytest.mark.parametrize("chunks", [(), (b"a",), (b"one\r\n", b"two\r\n", b"three")])
@pytest.mark.parametrize("way", [iterate, read, receive_all])
async def test_a_whole_message_is_the_chunks_in_order(way: Read, chunks: tuple[bytes, ...]) -> None:
    stream = whole(*chunks)
    assert stream.byte_length == len(b"".join(chunks))
    assert stream.complete
    assert not stream.size_exceeded
    assert await way(stream) == b"".join(chunks)
    with pytest.raises(trio.EndOfChannel):
        await stream.receive()
    assert stream.complete


@pytest.mark.parametrize("first", [iterate, read, read_message, discard])
@pytest.mark.parametrize("second", [iterate, read, read_message])
async def test_a_second_reading_raises_stream_consumed(first: Read, second: Read) -> None:
    stream = whole(b"text\r\n")
    await first(stream)
    with pytest.raises(StreamConsumed):
        await second(stream)


async def test_receive_does_not_stand_in_the_way_of_reading_the_rest() -> None:
    stream = whole(b"one", b"two", b"three")
    assert await stream.receive() == b"one"
    assert await stream.read() == b"twothree"


async def test_discard_may_follow_a_partial_read() -> None:
    stream = whole(b"one", b"two", b"three")
    async for chunk in stream:
        assert chunk == b"one"
        break
    await stream.discard()
    with pytest.raises(trio.EndOfChannel):
        await stream.receive()


async def test_read_with_a_limit() -> None:
    assert await whole(b"123", b"45").read(5) == b"12345"
    assert await whole().read(0) == b""
    stream = whole(b"123", b"456")
    with pytest.raises(MessageTooLarge):
        await stream.read(5)
    # Refused for good, also for a handler that looks away.
    assert not stream.complete
    with pytest.raises(MessageTooLarge):
        await stream.discard()


@each_way_of_reading
@pytest.mark.parametrize("chunks", [(), (b"half of ", b"it")])
@pytest.mark.parametrize(
    ("error", "code", "enhanced"),
    [
        (MessageTooLarge(), 552, "5.3.4"),
        (MessageMalformed("a CR without LF"), 550, "5.6.0"),
        (MessageIncomplete("the client is gone"), 451, "4.4.2"),
    ],
)
async def test_what_is_not_whole_raises_whatever_way_it_is_read(
    way: Read, chunks: tuple[bytes, ...], error: SMTPError, code: int, enhanced: str
) -> None:
    stream = broken(error, *chunks)
    assert not stream.complete
    for _ in range(2):
        with pytest.raises(type(error)) as info:
            await (way(stream) if _ == 0 else stream.receive())
        assert info.value is error
        assert (error.code, error.enhanced) == (code, enhanced)


async def test_what_came_before_the_error_is_handed_on() -> None:
    stream = broken(MessageIncomplete("gone"), b"half")
    assert await stream.receive() == b"half"
    with pytest.raises(MessageIncomplete, match="gone"):
        await stream.receive()


def test_the_first_error_stays() -> None:
    sink = MessageSink(1, None)
    sink.fail(MessageTooLarge())
    sink.fail(MessageIncomplete("gone"))
    assert isinstance(sink.error, MessageTooLarge)


async def test_a_message_that_has_ended_cannot_fail_any_more() -> None:
    sink = MessageSink(2, None)
    sink.put_nowait(b"all of it")
    sink.end()
    sink.fail(MessageIncomplete("gone"))
    assert sink.stream.complete
    assert await sink.stream.read() == b"all of it"


def test_an_error_is_not_healed_by_the_end() -> None:
    sink = MessageSink(1, None)
    sink.fail(MessageMalformed("a CR without LF"))
    sink.end()
    assert not sink.stream.complete


async def test_receive_takes_what_is_ready_without_a_pass_of_the_scheduler() -> None:
    stream = whole(b"one", b"two")
    others: list[str] = []

    async def other() -> None:
        others.append("ran")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert await stream.receive() == b"one"
        assert await stream.receive() == b"two"
        assert others == []
        await trio.testing.wait_all_tasks_blocked()
        assert others == ["ran"]


async def test_a_cancelled_receive_loses_no_chunk() -> None:
    stream = whole(b"one")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive()
    assert scope.cancelled_caught
    assert await stream.read() == b"one"


async def test_closing_gives_the_message_up() -> None:
    stream = whole(b"one")
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive()


# --- parsing ---


async def test_read_message_parses_with_the_smtp_policy() -> None:
    message = await whole(b"Subject: =?utf-8?q?caf=C3=A9?=\r\nTo: b@example.com\r\n\r\n", b"text\r\n").read_message()
    assert isinstance(message, EmailMessage)
    assert message["Subject"] == "café"
    assert message["To"].addresses[0].domain == "example.com"
    assert message.get_content() == "text\r\n"
    assert message.policy.linesep == "\r\n"


@pytest.mark.parametrize(("size", "in_thread"), [(65_535, False), (65_536, True)])
async def test_large_messages_are_parsed_off_the_event_loop(
    size: int, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    parse = email.message_from_bytes

    def note(data: bytes, **kwargs: Any) -> Message:
        threads.append(threading.get_ident())
        return parse(data, **kwargs)

    monkeypatch.setattr(email, "message_from_bytes", note)
    body = b"Subject: x\r\n\r\n"
    message = await whole(body, b"y" * (size - len(body))).read_message()
    assert message["Subject"] == "x"
    assert (threads != [threading.get_ident()]) is in_thread


# --- taps ---


@each_way_of_reading
async def test_a_tap_sees_every_chunk_and_then_the_end(way: Read) -> None:
    seen: list[bytes] = []
    stream = whole(b"one", b"two")
    stream.tap(seen.append)
    stream.tap(lambda chunk: seen.append(chunk.upper()))
    await way(stream)
    assert seen == [b"one", b"ONE", b"two", b"TWO", b"", b""]
    with pytest.raises(trio.EndOfChannel):
        await stream.receive()
    assert seen[6:] == []


async def test_a_tap_is_not_told_the_end_of_half_a_message() -> None:
    seen: list[bytes] = []
    stream = broken(MessageIncomplete("gone"), b"half")
    stream.tap(seen.append)
    with pytest.raises(MessageIncomplete):
        await stream.read()
    assert seen == [b"half"]


def refuse(chunk: bytes) -> None:
    raise SMTPError("Infected", 550, "5.7.1")


def refuse_the_end(chunk: bytes) -> None:
    if not chunk:
        refuse(chunk)


def crash(chunk: bytes) -> None:
    raise LookupError("the tap is broken")


async def swallow(ctx: DataContext) -> None:
    try:
        await ctx.stream.read()
    except Exception:  # noqa: BLE001 - what a careless handler does
        return


async def obey(ctx: DataContext) -> None:
    await ctx.stream.read()


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("handler", [swallow, obey])
@pytest.mark.parametrize(
    ("tap", "expected"), [(refuse, (550, "5.7.1")), (refuse_the_end, (550, "5.7.1")), (crash, (451, "4.3.0"))]
)
async def test_what_a_tap_raises_refuses_the_message(
    data: bytes,
    handler: Callable[[DataContext], Awaitable[None]],
    tap: Callable[[bytes], None],
    expected: tuple[int, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()

    @app.on_data
    async def scan(ctx: DataContext, call_next: CallNext) -> None:
        ctx.stream.tap(tap)
        await call_next()

    app.on_data(handler)
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == expected
        assert (await client.command("NOOP")).code == 250
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(crashes) == (tap is crash)
    assert all(record.exc_info for record in crashes)


# --- on the wire ---


async def test_the_octets_arrive_dots_unstuffed_in_chunks_of_1_to_65536() -> None:
    app = App()
    chunks: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        async for chunk in ctx.stream:
            assert ctx.stream.byte_length >= sum(map(len, chunks)) + len(chunk)
            chunks.append(chunk)
        assert ctx.stream.complete

    data = b".\r\n..\r\n.dot\r\n" + LARGE
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, data)).code == 250
    assert b"".join(chunks) == data
    assert len(chunks) > 1
    assert {1 <= len(chunk) <= 65_536 for chunk in chunks} == {True}


@pytest.mark.parametrize("data", [b"", BODY, LARGE], ids=["empty", "inline", "streamed"])
async def test_250_needs_a_message_that_was_read_to_its_end(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def look_at_one_chunk(ctx: DataContext) -> None:
        async for _ in ctx.stream:
            break

    async with open_client(app) as client:
        await client.ehlo()
        if data:
            assert status(await send(client, data)) == (451, "4.3.0")
            assert len(logged(caplog)) == 1
            assert "neither read the message to its end nor discarded it" in logged(caplog)[0]
            assert client.server.stats.messages_refused == 1
        else:
            assert (await send(client, data)).code == 250


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
async def test_discard_says_on_purpose(data: bytes) -> None:
    app = App()

    @app.on_data
    async def not_wanted(ctx: DataContext) -> None:
        await ctx.stream.receive()
        await ctx.stream.discard()

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (250, "2.0.0")


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
async def test_aclose_gives_the_message_up_on_the_wire(data: bytes) -> None:
    app = App()

    @app.on_data
    async def give_up(ctx: DataContext) -> None:
        await ctx.stream.aclose()

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (451, "4.3.0")
        assert (await client.command("NOOP")).code == 250


async def test_aclose_after_the_end_changes_nothing() -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        async with ctx.stream as stream:
            await stream.read()

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250


@pytest.mark.parametrize("data", [BODY * 10, LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("handler", [swallow, obey])
async def test_a_message_over_the_limit_is_refused_and_the_session_goes_on(
    data: bytes, handler: Callable[[DataContext], Awaitable[None]]
) -> None:
    app = App()
    app.on_data(handler)
    async with open_client(app, max_message_size=100) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (552, "5.3.4")
        assert (await send(client, b"short\r\n")).code == 250


async def test_read_with_a_limit_refuses_with_552_also_when_the_handler_looks_away() -> None:
    app = App()

    @app.on_data
    async def first_kilobyte(ctx: DataContext) -> None:
        try:
            await ctx.stream.read(1024)
        except MessageTooLarge:
            return

    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, b"x" * 1022 + b"\r\n")) == (250, "2.0.0")
        assert status(await send(client, b"x" * 1023 + b"\r\n")) == (552, "5.3.4")


@pytest.mark.parametrize("data", [b"one\ntwo\r\n", LARGE + b"one\rtwo\r\n"], ids=["inline", "streamed"])
@pytest.mark.parametrize("handler", [swallow, obey])
async def test_a_malformed_message_is_refused_and_the_session_goes_on(
    data: bytes, handler: Callable[[DataContext], Awaitable[None]]
) -> None:
    app = App()
    app.on_data(handler)
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await send(client, data)) == (550, "5.6.0")
        assert (await send(client)).code == 250


async def test_a_client_that_vanishes_makes_the_stream_raise() -> None:
    app = App()
    errors: list[Exception] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        except SMTPError as exc:
            errors.append(exc)
            assert not ctx.stream.complete

    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(b"half of it\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        server = client.server
    assert [type(error) for error in errors] == [MessageIncomplete]
    assert server.stats.messages_incomplete == 1
    assert server.stats.messages_accepted == 0


async def test_a_handler_that_closes_the_connection_over_a_bad_message_does() -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        except MessageMalformed:
            ctx.disconnect("Learn to speak")

    async with open_client(app) as client:
        await client.ehlo()
        reply = await send(client, b"one\ntwo\r\n")
        assert (reply.code, reply.text) == (421, "Learn to speak")
        assert await closed(client)
