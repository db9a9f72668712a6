"""ctx.spool(): a message is read more than once and changed, and 250 still needs a handler that takes it."""

from __future__ import annotations

import errno
import gc
import os
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import (
    App,
    Config,
    DataContext,
    MessageStream,
    SMTPError,
    SMTPServer,
    SpooledMessage,
    StreamConsumed,
    serve,
)
from trio_smtp.app.layers import Prefixed, Replay
from trio_smtp.app.spool import Chunks
from trio_smtp.app.store import Store
from trio_smtp.delivery.maildir import maildir
from trio_smtp.testing import Client, open_client

from .support import BODY, LARGE, crashes, logged, send, start_data, start_transaction, status

Handler = Callable[[DataContext], Awaitable[None]]
#: A message that comes in the buffer after one receive, and one that is streamed; both with a header section.
MESSAGES = pytest.mark.parametrize("data", [BODY, BODY + LARGE], ids=["inline", "streamed"])
#: In memory, in a file from the first octet on, in a file after some.
MEMORY = pytest.mark.parametrize("memory", [1_048_576, 0, 10_000])


async def deliver(data: bytes, *handlers: Handler, **config: Any) -> tuple[int, str | None]:
    """Send a message to these handlers."""
    app = App()
    for handler in handlers:
        app.on_data(handler)
    async with open_client(app, **config) as client:
        await client.ehlo()
        return status(await send(client, data))


def keep(kept: list[bytes]) -> Handler:
    """A delivery that knows of no spool."""

    async def take(ctx: DataContext) -> None:
        kept.append(await ctx.stream.read())

    return take


async def just_spool(ctx: DataContext) -> None:
    await ctx.spool()


@MESSAGES
@MEMORY
async def test_a_message_can_be_read_as_often_as_one_likes(data: bytes, memory: int) -> None:
    kept: list[bytes] = []

    async def scan(ctx: DataContext) -> None:
        sent = ctx.stream
        message = await ctx.spool()
        assert isinstance(message, SpooledMessage)
        assert message.size == ctx.stream.byte_length == len(data)
        assert await message.read() == data
        chunks = [chunk async for chunk in message.chunks()]
        assert b"".join(chunks) == data
        assert all(1 <= len(chunk) <= 65_536 for chunk in chunks)
        assert b"".join([chunk async for chunk in message.original()]) == data
        assert (await message.parse())["subject"] == "test"
        assert await ctx.spool() is message
        assert ctx.stream is not sent
        assert ctx.stream.complete
        with pytest.raises(trio.ClosedResourceError):
            await sent.receive()

    assert await deliver(data, scan, keep(kept), spool_memory=memory) == (250, "2.0.0")
    assert kept == [data]


@MESSAGES
@MEMORY
async def test_spooling_is_not_taking(data: bytes, memory: int, caplog: pytest.LogCaptureFixture) -> None:
    async def read_all(ctx: DataContext) -> None:
        message = await ctx.spool()
        await message.read()
        await message.parse()

    assert await deliver(data, read_all, spool_memory=memory) == (451, "4.3.0")
    assert "neither read the message to its end nor discarded it" in logged(caplog)[0]


async def half(ctx: DataContext) -> None:
    await ctx.stream.receive()


async def discard(ctx: DataContext) -> None:
    await ctx.stream.discard()


async def to_the_end(ctx: DataContext) -> None:
    try:
        while True:
            await ctx.stream.receive()
    except trio.EndOfChannel:
        return


async def close(ctx: DataContext) -> None:
    await ctx.stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ctx.stream.receive()


@pytest.mark.parametrize(
    ("handlers", "code"),
    [
        ([just_spool, half], 451),
        ([just_spool, discard], 250),
        ([just_spool, to_the_end], 250),
        ([just_spool, close], 451),
        ([just_spool, half, just_spool, to_the_end], 250),
        ([just_spool, to_the_end, just_spool, half], 250),
        ([just_spool, close, just_spool, discard], 250),
        ([half, discard], 250),
    ],
)
@pytest.mark.parametrize("data", [BODY + LARGE, b""])
async def test_the_promise_is_kept_when_any_stream_was_read_to_its_end(
    handlers: list[Handler], code: int, data: bytes
) -> None:
    if data or half not in handlers:
        assert (await deliver(data, *handlers))[0] == code


async def test_several_deliveries_each_call_it() -> None:
    kept: list[bytes] = []
    streams: list[MessageStream] = []

    async def edit(ctx: DataContext) -> None:
        (await ctx.spool()).add_field("X-A", "b")

    async def take(ctx: DataContext) -> None:
        await ctx.spool()
        streams.append(ctx.stream)
        await ctx.spool()
        assert ctx.stream is streams[-1]
        kept.append(await ctx.stream.read())

    assert (await deliver(BODY, edit, take, take, take))[0] == 250
    assert kept == [b"X-A: b\r\n" + BODY] * 3
    assert len(set(map(id, streams))) == 3


@pytest.mark.parametrize("begin", ["receive", "read", "discard", "read_message", "__anext__"])
async def test_spooling_after_reading_began_is_an_error(begin: str) -> None:
    async def late(ctx: DataContext) -> None:
        await getattr(ctx.stream, begin)()
        with pytest.raises(StreamConsumed):
            await ctx.spool()
        with pytest.raises(RuntimeError, match="being read"):
            ctx.add_field("X", "y")
        await ctx.stream.discard()

    assert (await deliver(BODY, late))[0] == 250


async def test_two_tasks_that_spool_get_the_same_message() -> None:
    got: list[SpooledMessage] = []

    async def both(ctx: DataContext) -> None:
        async def one() -> None:
            got.append(await ctx.spool())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
        await ctx.stream.discard()

    assert (await deliver(BODY + LARGE, both))[0] == 250
    assert got[0] is got[1]


async def test_taps_see_what_was_sent_before_and_what_was_edited_after() -> None:
    before: list[bytes] = []
    after: list[bytes] = []

    async def tap(ctx: DataContext) -> None:
        ctx.stream.tap(before.append)

    async def edit(ctx: DataContext) -> None:
        message = await ctx.spool()
        message.add_field("X-A", "b")
        ctx.stream.tap(after.append)

    assert (await deliver(BODY, tap, edit, discard))[0] == 250
    assert (b"".join(before), b"".join(after)) == (BODY, b"X-A: b\r\n" + BODY)
    assert before[-1] == after[-1] == b""
    assert before.count(b"") == after.count(b"") == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_a_tap_raises_refuses_the_message(when: str) -> None:
    def refuse(chunk: bytes) -> None:
        raise SMTPError("Infected", 550, "5.7.1")

    async def careless(ctx: DataContext) -> None:
        if when == "before":
            ctx.stream.tap(refuse)
        for _ in range(2):
            try:
                await ctx.spool()
                ctx.stream.tap(refuse)
                await ctx.stream.read()
            except SMTPError:
                continue

    assert await deliver(BODY, careless) == (550, "5.7.1")


async def test_read_with_a_limit_counts_what_was_added() -> None:
    async def limited(ctx: DataContext) -> None:
        message = await ctx.spool()
        assert await message.read(len(BODY)) == BODY
        message.add_field("X-A", "b")
        with pytest.raises(SMTPError, match="maximum size"):
            await message.read(len(BODY))
        await ctx.stream.read(len(BODY))

    assert await deliver(BODY, limited) == (552, "5.3.4")


async def test_what_is_added_counts_against_no_limit_of_the_server() -> None:
    kept: list[bytes] = []

    async def edit(ctx: DataContext) -> None:
        (await ctx.spool()).add_field("X-A", "b" * 500)
        assert ctx.stream.byte_length == len(BODY)
        assert not ctx.size_exceeded

    assert (await deliver(BODY, edit, keep(kept), max_message_size=len(BODY)))[0] == 250
    assert kept[0].endswith(BODY)


# --- errors of the wire ---


async def test_a_message_that_is_too_large() -> None:
    async def swallow(ctx: DataContext) -> None:
        for _ in range(2):
            with pytest.raises(SMTPError):
                await ctx.spool()

    assert await deliver(LARGE, swallow, max_message_size=1000) == (552, "5.3.4")


async def test_a_client_that_vanishes_leaves_nothing(tmp_path: Path) -> None:
    errors: list[SMTPError] = []
    app = App()

    @app.on_data
    async def spool(ctx: DataContext) -> None:
        try:
            await ctx.spool()
        except SMTPError as exc:
            errors.append(exc)
            raise

    before = descriptors()
    async with open_client(app, spool_memory=0, spool_directory=str(tmp_path)) as client:
        await start_data(client)
        await client.send_bytes(LARGE)
        await trio.sleep(0.1)
        await client.stream.aclose()
        await trio.sleep(0.1)
    assert [exc.enhanced for exc in errors] == ["4.4.2"]
    assert list(tmp_path.iterdir()) == []
    await same_descriptors(before)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def same_descriptors(before: int) -> None:
    with trio.fail_after(10):
        while descriptors() > before:  # noqa: ASYNC110 - the thread that closes them tells nobody
            await trio.sleep(0.01)


async def test_a_header_section_without_end_is_refused() -> None:
    async def swallow(ctx: DataContext) -> None:
        for _ in range(2):
            with pytest.raises(SMTPError, match="header section"):
                await ctx.spool()

    assert await deliver(b"A: b\r\n" * 200_000, swallow) == (550, "5.6.0")


# --- the disk ---


@pytest.mark.parametrize(
    ("error", "answer"),
    [(errno.ENOSPC, (452, "4.3.1")), (errno.EDQUOT, (452, "4.3.1")), (errno.EIO, (451, "4.3.0"))],
)
@pytest.mark.parametrize("call", ["pwrite", "pread"])
async def test_a_disk_that_fails(
    call: str, error: int, answer: tuple[int, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, call, fail)
    before = descriptors()
    assert await deliver(BODY + LARGE, just_spool, discard, spool_memory=1000) == answer
    (line,) = logged(caplog)
    assert "cannot spool the message in" in line
    assert os.strerror(error) in line
    await same_descriptors(before)


async def test_a_handler_that_swallows_a_full_disk_does_not_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    async def swallow(ctx: DataContext) -> None:
        with pytest.raises(SMTPError):
            await ctx.spool()
        with pytest.raises(StreamConsumed):
            await ctx.spool()

    monkeypatch.setattr(os, "pwrite", fail)
    assert (await deliver(BODY + LARGE, swallow, spool_memory=1000))[0] == 451


async def test_a_directory_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = str(tmp_path / "missing")
    assert await deliver(BODY, just_spool, spool_memory=0, spool_directory=missing) == (451, "4.3.0")
    assert missing in logged(caplog)[0]


async def test_a_file_that_lost_octets_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(0, None)
    await store.append(b"text")
    monkeypatch.setattr(os, "pread", lambda *args: b"")
    with pytest.raises(OSError, match="lost octets"):
        await store.read(0, 4)
    store.close()


async def test_short_reads_and_writes_are_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, 3), at))
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:2], at))
    store = Store(3, None)
    for chunk in (b"abc", b"defgh", b"i"):
        await store.append(chunk)
    await store.finish()
    assert await store.read(0, store.size) == b"abcdefghi"
    assert await store.read(4, 8) == b"efgh"
    store.close()


async def test_a_store_that_was_closed_in_a_call_is_closed_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    store = Store(0, None)
    await store.append(b"text")
    pread = os.pread

    def slow(file: int, size: int, at: int) -> bytes:
        trio.from_thread.run_sync(store.close)
        return pread(file, size, at)

    monkeypatch.setattr(os, "pread", slow)
    assert await store.read(0, 4) == b"text"
    for call in (store.read(0, 4), store.append(b"x"), store.finish()):
        with pytest.raises(trio.ClosedResourceError):
            await call
    store.close()
    await same_descriptors(before)


# --- the end of the transaction ---


@MEMORY
async def test_after_the_transaction_it_is_gone(memory: int) -> None:
    kept: list[Any] = []

    async def leak(ctx: DataContext) -> None:
        message = await ctx.spool()
        await message.replace_body(b"new\r\n" * 10)
        kept.extend([message, message.chunks(), message.original()])
        await ctx.stream.discard()
        await ctx.spool()
        kept.append(ctx.stream)

    before = descriptors()
    assert (await deliver(BODY + LARGE, leak, spool_memory=memory))[0] == 250
    message, chunks, original, stream = kept
    for reading in (
        message.read(),
        message.replace_body(b"x"),
        chunks.__anext__(),
        original.__anext__(),
        stream.receive(),
    ):
        with pytest.raises(trio.ClosedResourceError):
            await reading
    await same_descriptors(before)


@pytest.mark.parametrize("data", [BODY, BODY + LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("how", ["crash", "cancel", "spooling"])
async def test_it_is_gone_however_the_handlers_end(data: bytes, how: str, tmp_path: Path) -> None:
    before = descriptors()
    app = App()
    reached = trio.Event()

    @app.on_data
    async def spool(ctx: DataContext) -> None:
        if how == "spooling":
            ctx.stream.tap(lambda chunk: reached.set())
        await ctx.spool()
        reached.set()
        if how == "crash":
            raise LookupError
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        server = SMTPServer(app, Config(spool_memory=0, spool_directory=str(tmp_path)))
        ours, theirs = trio.testing.memory_stream_pair()
        await nursery.start(server.serve_stream, theirs)
        client = Client(ours)
        await client.read_reply()
        await start_data(client)
        await client.send_bytes(data + b".\r\n")
        with trio.fail_after(10):
            await reached.wait()
        if how == "crash":
            assert (await client.read_reply()).code == 451
        nursery.cancel_scope.cancel()
    assert list(tmp_path.iterdir()) == []
    await same_descriptors(before)


async def test_a_replay_that_is_cancelled_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = BODY + LARGE

    async def cancelled(ctx: DataContext) -> None:
        message = await ctx.spool()
        chunks, got = message.chunks(), [b"", b""]
        while b"".join(got[:1]) != data or got[1] != data:
            reader: MessageStream | Chunks
            for index, reader in enumerate((ctx.stream, chunks)):  # type: ignore[assignment]
                if got[index] == data:
                    continue
                with trio.CancelScope() as scope:
                    scope.cancel()
                    got[index] += await reader.__anext__()
                assert scope.cancelled_caught
                with trio.CancelScope() as scope:
                    pread = os.pread

                    def stop(*args: Any, pread: Any = pread, scope: trio.CancelScope = scope) -> bytes:
                        trio.from_thread.run_sync(scope.cancel)
                        read: bytes = pread(*args)
                        return read

                    with monkeypatch.context() as patch:
                        patch.setattr(os, "pread", stop)
                        got[index] += await reader.__anext__()
        with pytest.raises(trio.EndOfChannel):
            await ctx.stream.receive()

    assert (await deliver(data, cancelled, spool_memory=1000))[0] == 250


async def test_readers_run_beside_each_other() -> None:
    data = BODY + LARGE
    read: list[bytes] = []

    async def several(ctx: DataContext) -> None:
        message = await ctx.spool()

        async def one() -> None:
            read.append(b"".join([chunk async for chunk in message.chunks()]))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        await ctx.stream.discard()

    assert (await deliver(data, several, spool_memory=0))[0] == 250
    assert read == [data] * 5


# --- memory ---


@MESSAGES
@pytest.mark.parametrize("how", ["spool", "add_field"])
async def test_a_message_leaves_no_reference_cycle(data: bytes, how: str) -> None:
    kept: list[weakref.ref[object]] = []

    async def take(ctx: DataContext) -> None:
        if how == "spool":
            message = await ctx.spool()
            await message.replace_body(b"new")
            kept.append(weakref.ref(message.chunks()))
            message.add_field("X", "y")
        ctx.add_field("X", "y")
        await ctx.stream.read()
        kept.append(weakref.ref(ctx))

    gc.collect()
    gc.disable()
    try:
        assert (await deliver(data, take))[0] == 250
        assert [ref() for ref in kept] == [None] * len(kept)
        # By type: some objects of Django answer `isinstance` by importing settings.
        found = [each for each in gc.get_objects() if issubclass(type(each), SpooledMessage | Prefixed | Replay)]
        assert found == []
    finally:
        gc.enable()


async def send_large(client: Client, mebibytes: int) -> int:
    """Send so many MiB, block by block; returns the reply's code."""
    await start_transaction(client)
    assert (await client.command("DATA")).code == 354
    await client.send_bytes(BODY)
    block = (b"x" * 1022 + b"\r\n") * 64
    for _ in range(mebibytes * 16):
        await client.send_bytes(block)
    return (await client.command(b".")).code


async def test_a_large_message_leaves_memory_flat(tmp_path: Path) -> None:
    app = App()
    sizes: list[int] = []

    @app.on_data
    async def spool(ctx: DataContext) -> None:
        message = await ctx.spool()
        message.add_field("X-A", "b")
        async for _ in message.chunks():
            pass
        sizes.append(message.size)
        await ctx.stream.discard()

    config = Config(port=0, max_message_size=None, spool_directory=str(tmp_path))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, config)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        client = Client(stream)
        await client.read_reply()
        tracemalloc.start()
        try:
            assert await send_large(client, 64) == 250
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await stream.aclose()
        nursery.cancel_scope.cancel()
    assert sizes == [64 * 1_048_576 + len(BODY) + 8]
    assert peak < 4 * 1_048_576


# --- a chain ---


async def test_two_filters_and_a_delivery_in_a_chain(tmp_path: Path) -> None:
    async def first(ctx: DataContext) -> None:
        ctx.add_field("X-First", "1")

    async def second(ctx: DataContext) -> None:
        message = await ctx.spool()
        assert message.fields[0].name == "X-First"
        assert b"".join([chunk async for chunk in message.original()]) == BODY
        message.add_field("X-Second", "é")
        ctx.add_field("X-Third", "3")
        message.replace_field("subject", "[spam] test")

    app = App()
    app.on_data(first)
    app.on_data(second)
    app.use(maildir(tmp_path))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    (file,) = (tmp_path / "new").iterdir()
    assert file.read_bytes().endswith(
        b"X-Third: 3\r\nX-Second: =?utf-8?b?w6k=?=\r\nX-First: 1\r\nsubject: [spam] test\r\n\r\nHello\r\n"
    )


async def pieces() -> AsyncIterator[bytes]:
    yield b"new "
    yield b"body\r\n"


async def test_a_filter_behind_a_delivery_may_read_and_not_edit(caplog: pytest.LogCaptureFixture) -> None:
    async def late(ctx: DataContext) -> None:
        message = await ctx.spool()
        assert await message.read() == BODY
        edits: list[Callable[[], None]] = [
            lambda: message.add_field("X", "y"),
            lambda: message.remove_field("Subject"),
            lambda: message.replace_field("Subject", "y"),
            lambda: ctx.add_field("X", "y"),
        ]
        for edit in edits:
            with pytest.raises(RuntimeError, match="cannot be changed"):
                edit()
        for body in (b"new", pieces()):
            with pytest.raises(RuntimeError, match="cannot be changed"):
                await message.replace_body(body)

    assert (await deliver(BODY, just_spool, discard, late))[0] == 250
    assert crashes(caplog) == []


async def test_who_reads_holds_off_who_edits() -> None:
    async def filters(ctx: DataContext) -> None:
        message = await ctx.spool()
        chunks = message.chunks()
        message.add_field("X-A", "1")
        await chunks.__anext__()
        with pytest.raises(RuntimeError, match="being read"):
            message.add_field("X-B", "2")
        await chunks.aclose()
        message.add_field("X-B", "2")
        async for _ in message.chunks():
            break
        message.add_field("X-C", "3")
        stream = ctx.stream
        await stream.receive()
        with pytest.raises(RuntimeError, match="being read"):
            message.add_field("X-D", "4")
        await stream.aclose()
        message.add_field("X-D", "4")
        original = message.original()
        await original.__anext__()
        message.add_field("X-E", "5")
        assert [field.text for field in message.fields] == ["5", "4", "3", "2", "1", "test"]
        await ctx.spool()
        await ctx.stream.discard()

    assert (await deliver(BODY, filters))[0] == 250
