"""Messages of every kind through the client: each arrives octet for octet by BDAT, and with its lines ended by DATA."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.corpus import CRLF, MAILS
from tests.corpus_support import cut, is_strict, some_places
from tests.fuzz_configs import FUZZ_CONFIGS
from trio_smtp import AuthContext, Config
from trio_smtp.client import BareNewline, DeliveryRefused, ExtensionMissing, Mail, Password, SendResult, connect

from .support import Mailbox, in_memory, session

#: Nothing of the corpus is refused here, and nothing is mended: bare newlines would be seen.
CONFIG = Config(hostname="mx.example", binarymime=True, max_message_size=None, bare_newline="reject", max_errors=10_000)
TO = "b@example.com"


def with_lines_ended(message: bytes) -> bytes:
    """What must arrive after DATA: CR, LF and CRLF are line ends, and so is the end of the message (the definition)."""
    ended = CRLF.join(re.split(rb"\r\n|\r|\n", message))
    return ended if not ended or ended.endswith(CRLF) else ended + CRLF


async def pieces(message: bytes, chance: random.Random) -> AsyncIterator[bytes]:
    for piece in cut(message, some_places(message, chance)):
        yield piece


def mails(*, body: str | None = None, in_pieces: bool = False) -> Iterator[Mail]:
    chance = random.Random(15)
    for mail in MAILS:
        message = pieces(mail.octets, chance) if in_pieces else mail.octets
        # The header of some has octets that are no UTF-8: nothing is said of them.
        yield Mail("", TO, message, body="BINARYMIME" if body else "8BITMIME", smtputf8=False)


def compare(found: list[bytes], expected: list[bytes]) -> None:
    wrong = [str(mail) for mail, one, other in zip(MAILS, found, expected, strict=True) if one != other]
    assert wrong == []


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
async def test_lines_are_ended(chunking: bool, in_pieces: bool) -> None:
    box = Mailbox()
    async with session(box.app, CONFIG) as client:
        results = await client.send_many(mails(in_pieces=in_pieces), chunking=chunking)
    assert all(isinstance(result, SendResult) for result in results)
    if chunking:  # a chunk has no end mark: the end of the message needs no line end
        compare(box.messages, [CRLF.join(re.split(rb"\r\n|\r|\n", mail.octets)) for mail in MAILS])
    else:
        compare(box.messages, [with_lines_ended(mail.octets) for mail in MAILS])


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_binary_messages_are_octet_for_octet(in_pieces: bool) -> None:
    box = Mailbox()
    async with session(box.app, CONFIG) as client:
        results = await client.send_many(mails(body="BINARYMIME", in_pieces=in_pieces), chunking=True)
    assert all(isinstance(result, SendResult) for result in results)
    compare(box.messages, [mail.octets for mail in MAILS])


async def test_one_by_one_by_any_way() -> None:
    box, chance = Mailbox(), random.Random(16)
    expected = []
    async with session(box.app, CONFIG) as client:
        for mail in MAILS[::3]:
            await client.send("", TO, mail.octets, body="8BITMIME", smtputf8=False)
            async with client.transaction("", body="8BITMIME") as transaction:
                await transaction.recipient(TO)
                await transaction.data_start()
                async for piece in pieces(mail.octets, chance):
                    await transaction.write(piece)
                assert [reply.code for reply in await transaction.finish()] == [250]
            expected += [with_lines_ended(mail.octets)] * 2
            if not is_strict(mail.octets):
                with pytest.raises(BareNewline):
                    await client.send("", TO, mail.octets, body="8BITMIME", smtputf8=False, newlines="refuse")
    assert box.messages == expected


@pytest.mark.parametrize("name", FUZZ_CONFIGS)
@pytest.mark.parametrize("chunking", [False, True])
async def test_under_every_config(name: str, chunking: bool) -> None:
    """What a server takes arrives, and what it refuses is known to be refused: nobody is in doubt, nothing is lost."""
    config, box = FUZZ_CONFIGS[name], Mailbox()

    @box.app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept()

    url = "lmtp://mx.example" if config.lmtp else "smtp://mx.example"
    auth = Password("user", "password", mechanisms=("PLAIN",)) if config.auth_required else None
    letters = [Mail("a@example.org", [TO, "c@example.com"], mail.octets, smtputf8=False) for mail in MAILS[::4]]
    async with (
        in_memory(box.app, config) as listener,
        connect(url, tls="none", auth=auth, insecure_auth=True, open_stream=listener.connect) as client,
    ):
        results = await client.send_many(letters, chunking=chunking)
        for letter in letters[:5]:
            with trio.fail_after(60):
                assert (await client.send(letter.sender, TO, b"x\r\n", chunking=chunking)).reply.code == 250
    assert {type(result) for result in results} <= {SendResult, DeliveryRefused, ExtensionMissing}
    taken = [
        letter.message
        for letter, result in zip(letters, results, strict=True)
        if isinstance(result, SendResult) and isinstance(letter.message, bytes)
    ]
    assert len(taken) > len(letters) / 4
    ended = [CRLF.join(re.split(rb"\r\n|\r|\n", each)) if chunking else with_lines_ended(each) for each in taken]
    assert box.messages == [*ended, *[b"x\r\n"] * 5]
