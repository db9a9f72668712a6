"""Edits of a spooled message, compared with a short definition: every octet that no edit touches stays as sent."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp import App, Config, DataContext, SpooledMessage
from trio_smtp.app.body import Body
from trio_smtp.app.spooling import Spooling
from trio_smtp.connection.sink import MessageSink
from trio_smtp.testing import open_client

from .support import BODY, LARGE, send, start_transaction

CRLF = b"\r\n"


class Definition:
    """A message as three parts that are joined: fields, what separates them from the body, the body."""

    def __init__(self, data: bytes) -> None:
        lines = re.findall(rb"[^\n]*\n|[^\n]+", data)
        self.fields: list[bytes] = []
        while lines:
            if re.match(rb"[\x21-\x39\x3b-\x7e]+[ \t]*:", lines[0]):
                self.fields.append(lines.pop(0))
            elif self.fields and lines[0][:1] in (b" ", b"\t"):
                self.fields[-1] += lines.pop(0)
            else:
                break
        self.after = lines[0] if lines else b""
        self.separator = lines.pop(0) if self.after in (CRLF, b"\n") else b""
        self.body = b"".join(lines)
        self.was_empty = not self.fields
        self.replaced = False

    def line_end(self, *neighbours: bytes) -> bytes:
        for each in (*neighbours, self.after):
            if found := re.search(rb"\r?\n", each):
                return found[0]
        return CRLF

    def add(self, value: bytes, index: int) -> None:
        end = self.line_end(*self.fields[index : index + 1], *self.fields[max(0, index - 1) : index])
        self.fields.insert(index, b"X-New: " + value + end)

    def whole(self) -> bytes:
        fields, separator = list(self.fields), self.separator
        if not separator and ((fields and self.was_empty) or self.replaced):
            separator = self.line_end(b"".join(fields))
        end = self.line_end(b"".join(fields))
        rest = separator + self.body
        last = len(fields) - 1
        for index, field in enumerate(fields):
            if not field.endswith(b"\n") and (index < last or rest):
                fields[index] = field + end
        return b"".join(fields) + rest


PIECES = st.sampled_from([
    b"A: b\r\n", b"A: \xff\n", b"B : c\r\n d\r\n", b"\tmore\n", b"\r\n", b"\n", b"text\r\n", b" blank\r\n", b"\r",
    b"From x\r\n",    b"A: no end", b"end",
])  # fmt: skip
MESSAGE = st.lists(PIECES, max_size=7).map(b"".join)
EDIT = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 5)),
    st.tuples(st.just("remove"), st.sampled_from(["a", "B"]), st.sampled_from([0, 1, -1])),
    st.tuples(st.just("body"), st.sampled_from([b"", b"new\r\n", b" new: x\n"])),
)


def spooling(data: bytes, size: int, memory: int = 1_048_576) -> Spooling:
    """What handlers would use, with a message that came in pieces of this size."""
    sink = MessageSink(None)
    sink.hand_over([data[start : start + size] for start in range(0, len(data), size)])
    body: Body = sink.body
    return Spooling(sink.stream, body, Config(spool_memory=memory), "test", utf8=False)


async def apply(message: SpooledMessage, expected: Definition, edit: tuple[object, ...]) -> None:
    match edit:
        case ("add", int(index)):
            index = min(index, len(expected.fields))
            message.add_field("X-New", "v", index)
            expected.add(b"v", index)
        case ("remove", str(name), int(occurrence)):
            found = [
                at
                for at, field in enumerate(expected.fields)
                if field.lower().split(b":")[0].strip() == name.lower().encode()
            ]
            try:
                del expected.fields[found[occurrence]]
            except IndexError:
                with pytest.raises(KeyError):
                    message.remove_field(name, occurrence)
            else:
                message.remove_field(name, occurrence)
        case ("body", bytes(body)):
            await message.replace_body(body)
            expected.body, expected.replaced = body, True


@settings(deadline=None)
@given(MESSAGE, st.lists(EDIT, max_size=5), st.integers(1, 30))
def test_edits_are_those_of_the_definition(data: bytes, edits: list[tuple[object, ...]], size: int) -> None:
    async def run() -> None:
        spool = spooling(data, size)
        message = await spool.spool()
        expected = Definition(data)
        assert [field.raw for field in message.fields] == expected.fields
        for edit in edits:
            await apply(message, expected, edit)
        if not edits:
            assert expected.whole() == data
        assert await message.read() == expected.whole()
        assert message.size == len(expected.whole())
        assert b"".join([chunk async for chunk in message.original()]) == data
        assert await spool.stream.read() == expected.whole()

    trio.run(run)


@settings(deadline=None)
@given(MESSAGE, st.integers(1, 30), st.integers(1, 3))
def test_fields_in_front_are_the_same_with_and_without_a_spool(data: bytes, size: int, number: int) -> None:
    async def run() -> None:
        front, spooled = spooling(data, size), spooling(data, size)
        expected = Definition(data)
        for index in range(number):
            front.add_field("X-New", str(index))
            spooled.add_field("X-New", str(index))
            expected.add(b"%d" % index, 0)
        await spooled.spool()
        assert await front.stream.read() == expected.whole() == await spooled.stream.read()

    trio.run(run)


@pytest.mark.parametrize(
    ("data", "edited"),
    [
        (b"A: b\r\n\r\nx", b"N: v\r\nA: b\r\n\r\nx"), (b"A: b\n\nx", b"N: v\nA: b\n\nx"), (b"\r\nx", b"N: v\r\n\r\nx"),
        (b"\nx", b"N: v\n\nx"), (b" x\r\n", b"N: v\r\n\r\n x\r\n"),
        (b"From a\r\nA: b\r\n", b"N: v\r\n\r\nFrom a\r\nA: b\r\n"),
        (b"plain\n", b"N: v\n\nplain\n"), (b"plain", b"N: v\r\n\r\nplain"), (b"", b"N: v\r\n\r\n"),
        (b"A: b", b"N: v\r\nA: b"),
        (b"x" * 70_000 + b"\n", b"N: v\r\n\r\n" + b"x" * 70_000 + b"\n"),
    ],
)  # fmt: skip
async def test_a_field_in_front(data: bytes, edited: bytes) -> None:
    front, spooled = spooling(data, 65_536), spooling(data, 65_536)
    front.add_field("N", "v")
    assert await front.stream.read() == edited
    message = await spooled.spool()
    message.add_field("N", "v")
    assert await message.read() == edited


@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_stream_with_fields_in_front_is_read_like_any_other(size: int) -> None:
    spool = spooling(b"x" * 150_000, size)
    stream = spool.add_field("N", "v")
    seen: list[bytes] = []
    stream.tap(seen.append)
    for _ in range(2):
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        assert scope.cancelled_caught
    chunks = [chunk async for chunk in stream]
    assert b"".join(chunks) == b"N: v\r\n\r\n" + b"x" * 150_000
    assert all(1 <= len(chunk) <= 65_536 for chunk in chunks)
    assert seen == [*chunks, b""]
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()


async def test_a_stream_with_fields_in_front_that_is_closed() -> None:
    spool = spooling(BODY, 5)
    stream = spool.add_field("N", "v")
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive()


@pytest.mark.parametrize("data", [b"plain", BODY, BODY + LARGE])
async def test_a_message_with_fields_in_front_is_taken_only_when_all_of_it_was_read(data: bytes) -> None:
    app = App()
    took: list[bytes] = []

    @app.on_data
    async def front(ctx: DataContext) -> None:
        ctx.add_field("X-A", "1")
        ctx.add_field("X-B", "2")

    @app.on_data
    async def take(ctx: DataContext) -> None:
        took.append(await ctx.stream.receive())
        if len(took) > 1:
            await ctx.stream.discard()

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, data)).code == 451
        assert (await send(client, data)).code == 250
    assert took[0].startswith(b"X-B: 2\r\nX-A: 1\r\n")


async def test_fields_of_a_session_that_speaks_utf8() -> None:
    app = App()
    took: list[bytes] = []

    @app.on_data
    async def front(ctx: DataContext) -> None:
        ctx.add_field("X-A", "é")
        message = await ctx.spool()
        message.add_field("X-B", "ü")
        took.append(await ctx.stream.read())

    async with open_client(app) as client:
        await start_transaction(client)
        await client.command("RSET")
        await client.command("MAIL FROM:<a@example.org> SMTPUTF8")
        await client.command("RCPT TO:<b@example.com>")
        await client.command("DATA")
        assert (await client.command(b"Subject: x\r\n\r\n.")).code == 250
    assert took == ["X-B: ü\r\nX-A: é\r\nSubject: x\r\n\r\n".encode()]


async def test_an_edit_that_cannot_be() -> None:
    spool = spooling(b"A: b\r\nA: c\r\n\r\nx", 100)
    for name in ("", "a b", "a:"):
        with pytest.raises(ValueError, match=r"\Aname"):
            spool.add_field(name, "x")
    message = await spool.spool()
    for index in (-1, 3):
        with pytest.raises(ValueError, match=r"\Aindex must be from 0 to 2"):
            message.add_field("N", "v", index)
    for edit in (message.replace_field, message.add_field):
        with pytest.raises(ValueError, match=r"\Aname"):
            edit("a b", "x")
    with pytest.raises(KeyError, match="Subject"):
        message.replace_field("Subject", "x")
    with pytest.raises(KeyError):
        message.remove_field("A", 2)
    message.remove_field("a", -1)
    assert await message.read() == b"A: b\r\n\r\nx"


@pytest.mark.parametrize(
    ("data", "occurrence", "edited"),
    [
        (b"A: b\r\nB: x\r\na: c\r\n\r\nx", 0, b"A: v\r\nB: x\r\na: c\r\n\r\nx"),
        (b"A: b\r\nB: x\r\na: c\r\n\r\nx", 1, b"A: b\r\nB: x\r\nA: v\r\n\r\nx"),
        (b"A: b\nB: x\r\na: c\n\nx", -1, b"A: b\nB: x\r\nA: v\n\nx"),
        (b"A: b\n\r\n", 0, b"A: v\n\r\n"),
        (b"B: x\nA: b", 0, b"B: x\nA: v\n"),
        (b"A: b", 0, b"A: v\r\n"),
    ],
)
async def test_a_field_is_replaced_where_it_stands(data: bytes, occurrence: int, edited: bytes) -> None:
    message = await spooling(data, 3).spool()
    message.replace_field("A", "v", occurrence)
    assert await message.read() == edited


async def new_pieces() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"new" * 10


@pytest.mark.parametrize("memory", [0, 1_048_576])
async def test_a_body_is_replaced_by_what_comes_in_pieces(memory: int) -> None:
    spool = spooling(b"A: b\r\n\r\nold\r\n", 5, memory)
    message = await spool.spool()
    await message.replace_body(new_pieces())
    assert await message.read() == b"A: b\r\n\r\n" + b"new" * 30

    async def doubled() -> AsyncIterator[bytes]:
        async for chunk in message.chunks():
            yield chunk * 2

    await message.replace_body(doubled())
    assert await message.read() == b"A: b\r\n\r\n" + b"A: b\r\n\r\n" * 2 + b"new" * 60
    spool.release()


async def test_a_body_whose_pieces_fail_changes_nothing() -> None:
    message = await spooling(BODY, 5).spool()

    async def fail() -> AsyncIterator[bytes]:
        yield b"new"
        raise LookupError

    with pytest.raises(LookupError):
        await message.replace_body(fail())
    assert await message.read() == BODY


async def test_a_body_that_comes_after_the_transaction_is_refused() -> None:
    spool = spooling(BODY, 5)
    message = await spool.spool()

    async def late() -> AsyncIterator[bytes]:
        yield b"new"
        spool.release()

    with pytest.raises(trio.ClosedResourceError):
        await message.replace_body(late())
