"""Dovecot takes what the client sends by LMTP: octet for octet, with a reply for each recipient."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.dovecot_support import dovecot, needs_dovecot
from trio_smtp.client import DeliveryRefused, Mail, Pool, SendResult, connect

pytestmark = needs_dovecot

MESSAGE = b"From: a@example.org\r\nSubject: Hi\r\n\r\n.\r\n..\r\n.a\r\nGr\xc3\xbc\xc3\x9fe\r\n\r\n"
STORED = MESSAGE.replace(b"\r\n", b"\n")
SIEVE = 'require ["fileinto", "mailbox"]; if header :contains "subject" "list" { fileinto :create "Lists"; }\n'


def body_of(stored: bytes) -> bytes:
    """Without the fields that Dovecot puts in front."""
    return stored[stored.index(b"From: a@example.org") :]


async def pieces() -> AsyncIterator[bytes]:
    for start in range(0, len(MESSAGE), 5):
        yield MESSAGE[start : start + 5]


async def test_it_takes_what_the_client_sends() -> None:
    async with dovecot({"alice": "", "bob": ""}) as server:
        async with connect(server.url) as client:
            assert client.lmtp
            assert {"PIPELINING", "CHUNKING", "8BITMIME"} <= client.extensions.keys()
            both = ["alice@example.com", "bob@example.com"]
            for chunking in (False, True):
                result = await client.send("a@example.org", [*both, "nobody@example.com"], MESSAGE, chunking=chunking)
                assert list(result.accepted) == both
                assert {name: reply.code for name, reply in result.refused.items()} == {"nobody@example.com": 550}
                await client.send("", both[0], pieces(), chunking=chunking)
                with pytest.raises(DeliveryRefused):
                    await client.send("a@example.org", "nobody@example.com", MESSAGE, chunking=chunking)
                mails = [Mail("a@example.org", both[number % 2], MESSAGE) for number in range(20)]
                mails[3] = Mail("a@example.org", "nobody@example.com", MESSAGE)
                results = await client.send_many(mails, chunking=chunking)
                assert [type(each) for each in results].count(SendResult) == 19
                assert isinstance(results[3], DeliveryRefused)
            async with client.transaction("a@example.org") as transaction:
                for address in both:
                    assert (await transaction.recipient(address)).code == 250
                assert (await transaction.data_start()).code == 354
                await transaction.write(MESSAGE)
                assert [reply.code for reply in await transaction.finish()] == [250, 250]
        assert [body_of(each) for each in server.messages("alice")] == [STORED] * (2 + 2 + 20 + 1)
        assert [body_of(each) for each in server.messages("bob")] == [STORED] * (2 + 18 + 1)


async def test_a_full_mailbox_is_told_from_one_that_is_not_and_sieve_files() -> None:
    large = MESSAGE + b"x" * 70 + b"\r\n" * 20_000
    async with (
        dovecot({"alice": "", "full": "5k"}, scripts={"alice": SIEVE}) as server,
        Pool(server.url, size=2) as pool,
    ):
        for _ in range(2):
            result = await pool.send("a@example.org", ["full@example.com", "alice@example.com"], large)
            assert list(result.accepted) == ["alice@example.com"]
            reply = result.refused["full@example.com"]
            assert (reply.code, reply.enhanced) == (552, "5.2.2")
        with pytest.raises(DeliveryRefused) as caught:
            await pool.send("a@example.org", "full@example.com", large)
        assert caught.value.phase == "end"
        await pool.send("a@example.org", "alice@example.com", MESSAGE.replace(b"Hi", b"list"))
        assert len(server.messages("alice")) == 2
        assert len(server.messages("alice", ".Lists")) == 1
