"""MessageStream: consumed once, and half a message can never look like a whole one."""

from __future__ import annotations

import email
import threading
from collections.abc import Awaitable, Callable, Sequence
from email.message import EmailMessage, Message
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import (
    MessageIncomplete,
    MessageMalformed,
    MessageStream,
    MessageTooLarge,
    SMTPError,
    StreamConsumed,
)
from trio_smtp.connection.sink import ChannelPool, MessageSink

Read = Callable[[MessageStream], Awaitable[object]]


def at_hand(*chunks: bytes) -> MessageStream:
    """The stream of a message that came as a whole."""
    sink = MessageSink(None)
    sink.hand_over(chunks)
    return sink.stream


def on_its_way(*chunks: bytes) -> MessageStream:
    """The stream of a message that came bit by bit."""
    sink = MessageSink(None)
    sink.open(chunks)
    sink.end()
    return sink.stream


Whole = Callable[..., MessageStream]


@pytest.fixture(params=[at_hand, on_its_way])
def whole(request: pytest.FixtureRequest) -> Whole:
    """Makes the stream of a message that has arrived, in both ways."""
    make: Whole = request.param
    return make


def broken(error: SMTPError, *chunks: bytes) -> MessageStream:
    """The stream of a message that went wrong after these chunks."""
    sink = MessageSink(None)
    sink.open(chunks)
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


def test_it_is_a_receive_channel(whole: Whole) -> None:
    assert isinstance(whole(), trio.abc.ReceiveChannel)


@pytest.mark.parametrize("chunks", [(), (b"a",), (b"one\r\n", b"two\r\n", b"three")])
@pytest.mark.parametrize("way", [iterate, read, receive_all])
async def test_a_whole_message_is_the_chunks_in_order(whole: Whole, way: Read, chunks: tuple[bytes, ...]) -> None:
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
async def test_a_second_reading_raises_stream_consumed(whole: Whole, first: Read, second: Read) -> None:
    stream = whole(b"text\r\n")
    await first(stream)
    with pytest.raises(StreamConsumed):
        await second(stream)


async def test_receive_does_not_stand_in_the_way_of_reading_the_rest(whole: Whole) -> None:
    stream = whole(b"one", b"two", b"three")
    assert await stream.receive() == b"one"
    assert await stream.read() == b"twothree"


async def test_discard_may_follow_a_partial_read(whole: Whole) -> None:
    stream = whole(b"one", b"two", b"three")
    async for chunk in stream:
        assert chunk == b"one"
        break
    await stream.discard()
    with pytest.raises(trio.EndOfChannel):
        await stream.receive()


async def test_read_with_a_limit(whole: Whole) -> None:
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
    sink = MessageSink(None)
    sink.fail(MessageTooLarge())
    sink.fail(MessageIncomplete("gone"))
    assert isinstance(sink.error, MessageTooLarge)


async def test_a_message_that_has_ended_cannot_fail_any_more() -> None:
    sink = MessageSink(None)
    sink.open([b"all of it"])
    sink.end()
    sink.fail(MessageIncomplete("gone"))
    assert sink.stream.complete
    assert await sink.stream.read() == b"all of it"


def test_an_error_is_not_healed_by_the_end() -> None:
    sink = MessageSink(None)
    sink.fail(MessageMalformed("a CR without LF"))
    sink.end()
    assert not sink.stream.complete


async def test_receive_takes_what_is_ready_without_a_pass_of_the_scheduler(whole: Whole) -> None:
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


async def test_a_cancelled_receive_loses_no_chunk(whole: Whole) -> None:
    stream = whole(b"one")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive()
    assert scope.cancelled_caught
    assert await stream.read() == b"one"


async def test_a_cancelled_read_is_a_reading_and_the_rest_can_be_discarded() -> None:
    sink = MessageSink(None)
    sink.open([b"one"])
    with trio.CancelScope() as scope:
        scope.cancel()
        await sink.stream.read()
    with pytest.raises(StreamConsumed):
        await sink.stream.read()
    assert not sink.finished
    sink.end()
    await sink.stream.discard()
    assert sink.finished


async def test_a_cancelled_discard_can_be_taken_up_again(whole: Whole) -> None:
    stream = whole(b"one", b"two")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.discard()
    assert scope.cancelled_caught
    await stream.discard()
    with pytest.raises(trio.EndOfChannel):
        await stream.receive()


async def test_closing_gives_the_message_up(whole: Whole) -> None:
    stream = whole(b"one")
    await stream.aclose()
    for reading in (stream.receive, stream.read, stream.discard):
        with pytest.raises(trio.ClosedResourceError):
            await reading()


async def test_closing_takes_effect_when_it_is_cancelled(whole: Whole) -> None:
    stream = whole(b"one")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive()


async def test_a_stream_without_a_sending_end_is_closed() -> None:
    class Text(MessageStream):
        def __init__(self) -> None:
            super().__init__()
            self.text = "of a program's own"

    stream = Text()
    assert (stream.byte_length, stream.complete, stream.size_exceeded) == (0, False, False)
    with pytest.raises(trio.ClosedResourceError):
        await stream.read()


# --- the channel ---


async def test_the_channel_of_a_message_at_hand_serves_the_next_and_brings_nothing_along() -> None:
    first = MessageSink(None)
    first.hand_over([b"one", b"two", b"three"])
    assert await first.stream.receive() == b"one"
    first.close_stream()  # the rest was not wanted
    second = MessageSink(None)
    second.hand_over([b"four"])
    assert await iterate(second.stream) == b"four"
    second.close_stream()


async def test_who_kept_a_stream_cannot_read_the_next_message() -> None:
    first = MessageSink(None)
    first.hand_over([b"one"])
    first.close_stream()
    second = MessageSink(None)
    second.hand_over([b"two"])
    with pytest.raises(trio.ClosedResourceError):
        await first.stream.receive()
    await first.stream.aclose()
    assert await iterate(second.stream) == b"two"
    second.close_stream()


async def test_a_receive_that_fails_leaves_nothing_for_the_next_message(monkeypatch: pytest.MonkeyPatch) -> None:
    first = MessageSink(None)
    first.hand_over([b"one"])

    def fail(channel: object) -> bytes:
        raise RecursionError

    with monkeypatch.context() as patch:
        patch.setattr(trio.MemoryReceiveChannel, "receive_nowait", fail)
        with pytest.raises(RecursionError):
            await first.stream.receive()
    first.close_stream()
    second = MessageSink(None)
    second.hand_over([b"two"])
    assert await iterate(second.stream) == b"two"
    second.close_stream()


async def test_a_message_at_hand_of_many_chunks_has_a_channel_of_its_own() -> None:
    sink = MessageSink(None)
    chunks = [b"%d" % number for number in range(20)]
    sink.hand_over(chunks)
    assert await iterate(sink.stream) == b"".join(chunks)
    sink.close_stream()
    following = MessageSink(None)
    following.hand_over([b"next"])
    assert await iterate(following.stream) == b"next"
    following.close_stream()


def test_a_channel_that_is_given_back_is_empty_and_serves_again() -> None:
    pool = ChannelPool()
    channel = pool.take()
    for chunk in (b"one", b"two"):
        channel[0].send_nowait(chunk)
    pool.give_back(channel, 2)
    assert pool.take() == channel  # a compiled module makes another tuple of the same two ends
    with pytest.raises(trio.WouldBlock):
        channel[1].receive_nowait()
    assert pool.take() != channel


def test_only_so_many_channels_are_kept() -> None:
    pool = ChannelPool()
    channels = [pool.take() for _ in range(40)]
    for channel in channels:
        pool.give_back(channel, 0)
    again = [pool.take() for _ in range(40)]
    assert sum(channel in channels for channel in again) == 16


@pytest.mark.parametrize("begin", [MessageSink.hand_over, MessageSink.open])
async def test_what_was_wrong_before_the_handlers_began_is_all_they_are_told(
    begin: Callable[[MessageSink, Sequence[bytes]], None],
) -> None:
    sink = MessageSink(None)
    sink.fail(MessageMalformed("a CR without LF"))
    begin(sink, [b"one", b"two"])
    assert sink.dropped == sink.stream.byte_length == 6
    with pytest.raises(MessageMalformed):
        await sink.stream.receive()
    sink.close_stream()


async def test_a_message_at_hand_that_is_too_large_says_so() -> None:
    sink = MessageSink(5)
    sink.hand_over([b"123", b"456", b"7"])
    stream = sink.stream
    assert (stream.size_exceeded, stream.complete, stream.byte_length) == (True, False, 7)
    assert await stream.receive() == b"123"
    with pytest.raises(MessageTooLarge):
        await stream.receive()
    sink.close_stream()


# --- parsing ---


async def test_read_message_parses_with_the_smtp_policy(whole: Whole) -> None:
    message = await whole(b"Subject: =?utf-8?q?caf=C3=A9?=\r\nTo: b@example.com\r\n\r\n", b"text\r\n").read_message()
    assert isinstance(message, EmailMessage)
    assert message["Subject"] == "café"
    assert message["To"].addresses[0].domain == "example.com"
    assert message.get_content() == "text\r\n"
    assert message.policy.linesep == "\r\n"


@pytest.mark.parametrize(("size", "in_thread"), [(65_535, False), (65_536, True)])
async def test_large_messages_are_parsed_off_the_event_loop(
    whole: Whole, size: int, in_thread: bool, monkeypatch: pytest.MonkeyPatch
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
async def test_a_tap_sees_every_chunk_and_then_the_end(whole: Whole, way: Read) -> None:
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
