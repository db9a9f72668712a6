"""Messages of every kind, by DATA and BDAT, whole and in cuts: each is stored octet for octet, and is read."""

from __future__ import annotations

import logging
import os
import random
import smtplib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from trio_smtp import App, DataContext, SMTPServer
from trio_smtp.delivery.maildir import maildir

from .corpus import CRLF, MAILS, SMALL, Mail
from .corpus_support import (
    END,
    Transaction,
    by_bdat,
    by_data,
    config,
    converse,
    handed_on,
    is_strict,
    some_places,
    stuffed,
    stuffed_after_any_newline,
)
from .maildir_support import body_of
from .socket_support import connected, port_of, serving
from .support import crashes
from .test_odd_mail import read_everything
from .test_spool_edits import Definition

#: How many sessions at once: while one waits for the disk, another goes on.
SESSIONS = 8
#: For connections that take many messages.
SAMPLE = [*MAILS[::9], MAILS[-1]]


def in_the_maildir(message: bytes) -> bytes:
    """A message that begins with a blank must not go on with the fields in front of it."""
    return CRLF + message if message.startswith((b" ", b"\t")) else message


async def deliver(
    directory: Path, transactions: Sequence[Transaction], bare_newline: str = "normalize"
) -> list[bytes | str]:
    """Hold sessions with a server that stores in a Maildir; gives what is stored of each, or the reply of a refusal."""
    server = SMTPServer(App().use(maildir(directory)), config(bare_newline=bare_newline))
    replies: dict[int, str] = {}

    async def session(first: int) -> None:
        said = await converse(server, transactions[first::SESSIONS])
        replies.update(zip(range(first, len(transactions), SESSIONS), said, strict=True))

    async with trio.open_nursery() as nursery:
        for first in range(SESSIONS):
            nursery.start_soon(session, first)
    stored = Stored(directory)
    found = [stored.take(replies[number]) for number in range(len(transactions))]
    assert stored.files == {}
    return found


class Stored:
    """What a Maildir holds: what a reply names is taken out."""

    def __init__(self, directory: Path) -> None:
        assert list((directory / "tmp").iterdir()) == list((directory / "cur").iterdir()) == []
        #: By what a reply calls them: the first two parts of their names.
        self.files = {".".join(path.name.split(".")[:2]): path for path in (directory / "new").iterdir()}

    def take(self, reply: str) -> bytes | str:
        """The message without the fields in front of it; the reply itself where it is a refusal."""
        name = reply.rpartition(" ")[2]
        return body_of(self.files.pop(name)) if reply.startswith("250 2.0.0 Queued as ") else reply


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write without syncing, which costs most of the time: the tests of the Maildir show that it syncs."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def compare(mails: Sequence[Mail], found: Sequence[bytes | str], expected: Sequence[bytes | str]) -> None:
    """Name the messages that differ; their octets would be too long to read."""
    wrong = [mail.name for mail, one, other in zip(mails, found, expected, strict=True) if one != other]
    assert wrong == []


def test_the_corpus_is_what_it_should_be() -> None:
    names = [mail.name for mail in MAILS]
    assert len(set(names)) == len(names) > 500
    assert {octet for mail in MAILS for octet in mail.octets} == set(range(256))
    assert sum(is_strict(mail.octets) for mail in MAILS) > 300
    assert sum(not is_strict(mail.octets) for mail in MAILS) > 200
    assert sum(len(mail.octets) for mail in MAILS) < 4_000_000


STUFFINGS = [stuffed, stuffed_after_any_newline]


@pytest.mark.parametrize(("stuff", "in_cuts"), [*zip(STUFFINGS, (False, True), strict=True)])
async def test_data(tmp_path: Path, stuff: Callable[[bytes], bytes], in_cuts: bool) -> None:
    chance = random.Random(11)
    bodies = [stuff(mail.octets) for mail in MAILS]
    found = await deliver(
        tmp_path, [by_data(body, some_places(body + END, chance) if in_cuts else ()) for body in bodies]
    )
    compare(MAILS, found, [in_the_maildir(handed_on(body)) for body in bodies])
    # What needed no mending is stored as it is.
    for mail, stored in zip(MAILS, found, strict=True):
        if is_strict(mail.octets) and mail.octets.endswith(CRLF):
            assert stored == in_the_maildir(mail.octets), mail


async def test_data_where_bare_newlines_are_refused(tmp_path: Path) -> None:
    chance = random.Random(12)
    bodies = [stuffed(mail.octets) for mail in MAILS]
    found = await deliver(tmp_path, [by_data(body, some_places(body + END, chance)) for body in bodies], "reject")
    expected = [in_the_maildir(handed_on(body)) if is_strict(body) else "550 5.6.0" for body in bodies]
    compare(MAILS, [each[:9] if isinstance(each, str) else each for each in found], expected)


@pytest.mark.parametrize(("bare_newline", "mails"), [("normalize", MAILS), ("reject", SMALL)], ids=["all", "small"])
async def test_bdat(tmp_path: Path, bare_newline: str, mails: Sequence[Mail]) -> None:
    """As it was sent: nothing is unstuffed, nothing is mended, nothing is added."""
    chance = random.Random(13)
    transactions = []
    for mail in mails:
        chunks = some_places(mail.octets, chance) if chance.random() < 0.7 else ()
        places = some_places(mail.octets, chance) if chance.random() < 0.7 else ()
        transactions.append(by_bdat(mail.octets, places, chunks=chunks))
    found = await deliver(tmp_path, transactions, bare_newline)
    compare(mails, found, [in_the_maildir(mail.octets) for mail in mails])


# Small messages at every cut


@pytest.mark.parametrize(
    ("stuff", "bare_newline"), [*((stuff, "normalize") for stuff in STUFFINGS), (stuffed, "reject")]
)
async def test_small_messages_by_data_at_every_cut(stuff: Callable[[bytes], bytes], bare_newline: str) -> None:
    """In one piece, octet by octet, and in two at every place; the reply, and what the handler reads."""
    transactions: list[Transaction] = []
    expected: list[bytes] = []
    for mail in SMALL:
        body = stuff(mail.octets)
        length = len(body + END)
        for places in [(), range(length), *([place] for place in range(1, length))]:
            transactions.append(by_data(body, places))
            refused = bare_newline == "reject" and not is_strict(body)
            expected.append(b"refused" if refused else handed_on(body))
    assert len(transactions) > 2000
    assert await read_by_handler(transactions, bare_newline) == expected


async def test_small_messages_by_bdat_at_every_cut() -> None:
    """The chunks end at every place; what is sent is cut there too, or not at all, or everywhere."""
    transactions: list[Transaction] = []
    expected: list[bytes] = []
    for mail in SMALL:
        for place in range(1, max(2, len(mail.octets))):
            whole = by_bdat(mail.octets, chunks=[place])
            wire = b"".join(whole.pieces[1:])
            for places in ((), range(len(wire)), [wire.index(b"\n") + 1 + place]):
                transactions.append(by_bdat(mail.octets, places, chunks=[place] if len(mail.octets) > 1 else ()))
                expected.append(mail.octets)
    assert await read_by_handler(transactions, "normalize") == expected


async def read_by_handler(transactions: Sequence[Transaction], bare_newline: str) -> list[bytes]:
    """What a handler reads of each, in one session."""
    app = App()
    taken: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())

    replies = await converse(SMTPServer(app, config(bare_newline=bare_newline)), transactions)
    messages = iter(taken)
    found = [next(messages) if reply.startswith("250 ") else b"refused" for reply in replies]
    assert next(messages, None) is None
    assert {reply[:9] for reply in replies} <= {"250 2.0.0", "550 5.6.0"}
    return found


# What handlers do with them


async def all_by_bdat(app: App, chance: random.Random, **changes: object) -> list[str]:
    """Send all to an App, in some cuts; gives the replies."""
    transactions = [by_bdat(mail.octets, some_places(mail.octets, chance)) for mail in MAILS]
    return await converse(SMTPServer(app, config(**changes)), transactions)


@pytest.mark.parametrize("memory", [1_048_576, 100], ids=["memory", "file"])
async def test_what_is_spooled_is_read_twice_and_replayed(memory: int) -> None:
    app = App()
    seen: list[list[bytes]] = []

    @app.on_data
    async def look(ctx: DataContext) -> None:
        message = await ctx.spool()
        seen.append([b"".join([chunk async for chunk in message.chunks()]), await message.read()])
        assert message.size == len(seen[-1][0])

    @app.on_data
    async def take(ctx: DataContext) -> None:
        original = b"".join([chunk async for chunk in (await ctx.spool()).original()])
        seen[-1] += [await ctx.stream.read(), original]

    replies = await all_by_bdat(app, random.Random(14), spool_memory=memory)
    assert {reply[:9] for reply in replies} == {"250 2.0.0"}
    for each in zip(*seen, strict=True):
        compare(MAILS, each, [mail.octets for mail in MAILS])


async def test_a_field_in_front_and_fields_in_between() -> None:
    """Each octet that was sent is still there, in its place."""
    app = App()
    seen: list[bytes] = []
    edited: list[bytes] = []
    chance = random.Random(15)
    expected: list[bytes] = []

    @app.on_data
    async def mark(ctx: DataContext) -> None:
        ctx.add_field("X-New", "front")

    @app.on_data
    async def edit(ctx: DataContext) -> None:
        # The stream has the field of the handler before.
        message = await ctx.spool()
        seen.append(await message.read())
        definition = Definition(MAILS[len(edited)].octets)
        definition.add(b"front", 0)
        place = chance.randrange(len(definition.fields) + 1)
        message.add_field("X-New", "between", place)
        definition.add(b"between", place)
        expected.append(definition.whole())

    @app.on_data
    async def take(ctx: DataContext) -> None:
        edited.append(await ctx.stream.read())

    replies = await all_by_bdat(app, random.Random(16))
    assert {reply[:9] for reply in replies} == {"250 2.0.0"}
    compare(MAILS, edited, expected)
    for mail, octets in zip(MAILS, seen, strict=True):
        rest = octets.removeprefix(b"X-New: front")
        assert rest.endswith(mail.octets), mail
        assert rest.removesuffix(mail.octets) in (b"\r\n", b"\n", b"\r\n\r\n", b"\n\n"), mail


async def test_all_are_parsed_and_read_or_refused_for_good(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def parse(ctx: DataContext) -> None:
        read_everything(await ctx.stream.read_message())

    with caplog.at_level(logging.WARNING):
        replies = await all_by_bdat(app, random.Random(17))
    assert crashes(caplog) == []
    refused = {mail.name: reply[:9] for mail, reply in zip(MAILS, replies, strict=True) if reply[:9] != "250 2.0.0"}
    assert refused == {"message 200 deep": "550 5.6.0", "multipart 200 deep": "550 5.6.0"}


async def test_a_spooled_message_is_parsed_as_a_stream_is() -> None:
    app = App()
    parsed: list[list[tuple[str, str]]] = []

    @app.on_data
    async def parse(ctx: DataContext) -> None:
        message = await (await ctx.spool()).parse()
        again = await ctx.stream.read_message()
        parsed.append(message.items())
        assert message.items() == again.items()
        assert [part.get_content_type() for part in message.walk()] == [
            part.get_content_type() for part in again.walk()
        ]

    transactions = [by_bdat(mail.octets) for mail in SAMPLE if "200 deep" not in mail.name]
    replies = await converse(SMTPServer(app, config()), transactions)
    assert {reply[:9] for reply in replies} == {"250 2.0.0"}
    assert len(parsed) == len(transactions)


# Over sockets


async def test_over_a_socket(tmp_path: Path) -> None:
    """A sample, by DATA and by BDAT in turn, in as many segments as the network makes of what is sent."""
    chance = random.Random(18)
    replies: list[str] = []
    async with (
        serving(App().use(maildir(tmp_path)), config()) as server,
        connected(server) as client,
    ):
        await client.ehlo()
        for number, mail in enumerate(SAMPLE):
            body = stuffed(mail.octets)
            places = some_places(mail.octets, chance)
            transaction = by_bdat(mail.octets, places) if number % 2 else by_data(body, places)
            with trio.fail_after(30):
                for piece in transaction.pieces:
                    await client.send_bytes(piece)
                    await trio.lowlevel.checkpoint()
                reply = [await client.read_reply() for _ in range(transaction.replies)][-1]
            replies.append(f"{reply.code} {reply.enhanced} {reply.text}")
    expected = [mail.octets if n % 2 else handed_on(stuffed(mail.octets)) for n, mail in enumerate(SAMPLE)]
    stored = Stored(tmp_path)
    compare(SAMPLE, [stored.take(reply) for reply in replies], [in_the_maildir(each) for each in expected])


async def test_by_smtplib(tmp_path: Path) -> None:
    """It doubles dots after LF of any kind, and ends an empty message with an empty line."""

    def send(port: int) -> list[str]:
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.ehlo()
            said = []
            for mail in SAMPLE:
                client.mail("a@example.org")
                client.rcpt("b@example.com")
                code, text = client.data(mail.octets)
                said.append(f"{code} {text.decode()}")
            return said

    async with serving(App().use(maildir(tmp_path)), config()) as server:
        replies = await trio.to_thread.run_sync(send, port_of(server))
    bodies = [stuffed_after_any_newline(mail.octets) or CRLF for mail in SAMPLE]
    stored = Stored(tmp_path)
    compare(SAMPLE, [stored.take(reply) for reply in replies], [in_the_maildir(handed_on(body)) for body in bodies])
