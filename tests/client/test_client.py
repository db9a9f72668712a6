"""The client against the library's own server, in memory: messages arrive octet for octet, envelopes as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.message import EmailMessage
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp import App, Config, DataContext, RcptToContext
from trio_smtp.client import (
    BareNewline,
    DeliveryError,
    DeliveryFailed,
    DeliveryRefused,
    ExtensionMissing,
    Mail,
    Recipient,
    SendResult,
    connect,
)
from trio_smtp.client.body import to_crlf

from .support import Mailbox, in_memory, session, usable

MAIL = b"Subject: test\r\n\r\n.\r\n..a\r\nHello\r\n"
EVERYTHING = Config(hostname="mx.example", dsn=True, binarymime=True, requiretls=True)
NOTHING = Config(
    hostname="mx.example",
    chunking=False,
    smtputf8=False,
    hide_extensions=frozenset({"PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES"}),
)
CONFIGS = {
    "everything": EVERYTHING,
    "nothing": NOTHING,
    "refuses bare newlines": Config(hostname="mx.example", bare_newline="reject"),
    "lmtp": Config(hostname="mx.example", lmtp=True, dsn=True, binarymime=True),
}


def url_of(config: Config) -> str:
    return "lmtp://mx.example" if config.lmtp else "smtp://mx.example"


@pytest.fixture(params=[*CONFIGS.values()], ids=[*CONFIGS])
def config(request: pytest.FixtureRequest) -> Config:
    found: Config = request.param
    return found


def chunking_of(config: Config) -> list[bool]:
    return [False, True] if config.chunking else [False]


async def pieces(message: bytes, size: int = 3) -> AsyncIterator[bytes]:
    for start in range(0, len(message), size):
        yield message[start : start + size]


async def test_a_message_arrives(config: Config) -> None:
    box = Mailbox()
    async with session(box.app, config, url=url_of(config)) as client:
        assert client.lmtp is config.lmtp
        assert client.tls is None
        for chunking in chunking_of(config):
            result = await client.send("a@example.org", ["b@example.com", "c@example.com"], MAIL, chunking=chunking)
            assert set(result.accepted) == {"b@example.com", "c@example.com"}
            assert result.refused == {}
            assert result.reply.code == 250
            await client.send("", "b@example.com", pieces(MAIL), chunking=chunking)
    assert set(box.messages) == {MAIL}
    envelope, _ = box.taken[0]
    assert str(envelope.mail_from) == "a@example.org"
    assert [str(each) for each in envelope.rcpt_to] == ["b@example.com", "c@example.com"]
    assert envelope.size == (None if config is NOTHING else len(MAIL))


async def test_every_kind_of_message() -> None:
    box = Mailbox()
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message.set_content("é\n.\nüber\n", cte="8bit")
    for config in (EVERYTHING, NOTHING):
        async with session(box.app, config) as client:
            await client.send("a@example.org", "b@example.com", message)
    eight, seven = box.messages
    assert "é\r\n.\r\nüber\r\n".encode() in eight
    assert seven.isascii()
    assert box.taken[0][0].body_type == "8BITMIME"
    assert box.taken[1][0].body_type != "8BITMIME"


async def test_a_spooled_message_goes_on() -> None:
    box, front = Mailbox(), App()
    async with in_memory(box.app) as behind:

        @front.on_data
        async def pass_on(ctx: DataContext) -> None:
            spooled = await ctx.spool()
            spooled.add_field("X-Passed", "on")
            async with connect("smtp://behind.example", tls="none", open_stream=behind.connect) as client:
                await client.send("a@example.org", [str(address) for address in ctx.envelope.rcpt_to], spooled)
            await ctx.stream.discard()

        async with session(front, Config(hostname="front.example")) as client:
            await client.send("a@example.org", "b@example.com", MAIL * 10_000)
    assert box.messages == [b"X-Passed: on\r\n" + MAIL * 10_000]
    assert box.taken[0][0].size == len(box.messages[0])


octets = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.\r\n", b"\0", b"\xff"]), max_size=20)


@settings(max_examples=25, deadline=None)
@given(octets)
def test_generated_messages_arrive(parts: list[bytes]) -> None:
    message = b"".join(parts)

    async def main() -> None:
        box = Mailbox()
        async with session(box.app, EVERYTHING) as client:
            mended = to_crlf(message)
            await client.send("a@example.org", "b@example.com", message)
            await client.send("a@example.org", "b@example.com", pieces(message, 1))
            after_data = mended if not mended or mended.endswith(b"\r\n") else mended + b"\r\n"
            assert box.messages == [after_data] * 2
            await client.send("a@example.org", "b@example.com", message, chunking=True)
            assert box.messages[2] == mended
            await client.send("a@example.org", "b@example.com", message, body="BINARYMIME")
            await client.send("a@example.org", "b@example.com", pieces(message, 1), body="BINARYMIME")
            assert box.messages[3:] == [message] * 2

    trio.run(main)


async def test_what_is_said_of_a_message() -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client:
        await client.send(
            "a@example.org",
            [Recipient("b@example.com", "NEVER"), Recipient("c@example.com", ("SUCCESS", "DELAY"), "d@example.net")],
            MAIL,
            envid="an id+=",
            ret="HDRS",
        )
        await client.send("é@example.org", "ü@example.com", "Subject: é\r\n\r\né\r\n".encode())
        await client.send("a@example.org", "b@example.com", "Subject: é\r\n\r\né\r\n".encode())
        await client.send("a@example.org", "b@example.com", MAIL, body="7BIT", smtputf8=True)
        with pytest.raises(ExtensionMissing, match="REQUIRETLS"):
            await client.send("a@example.org", "b@example.com", MAIL, requiretls=True)
    envelope = box.taken[0][0]
    assert envelope.dsn is not None
    assert (envelope.dsn.envid, envelope.dsn.ret) == ("an id+=", "HDRS")
    first, second = (address.dsn for address in envelope.rcpt_to)
    assert first is not None
    assert first.notify == ("NEVER",)
    assert second is not None
    assert (second.notify, second.orcpt) == (("SUCCESS", "DELAY"), ("rfc822", "d@example.net"))
    assert [each.smtp_utf8 for each, _ in box.taken] == [False, True, True, True]
    assert [each.body_type for each, _ in box.taken[1:]] == ["8BITMIME", "8BITMIME", "7BIT"]


@pytest.mark.parametrize(
    ("sender", "message", "options", "lacking"),
    [
        ("é@example.org", MAIL, {}, "SMTPUTF8"),
        ("a@example.org", "Subject: é\r\n\r\n".encode(), {}, "SMTPUTF8|8BITMIME"),
        ("a@example.org", "\r\né".encode(), {}, "8BITMIME"),
        ("a@example.org", MAIL, {"chunking": True}, "CHUNKING"),
        ("a@example.org", MAIL, {"body": "BINARYMIME"}, "BINARYMIME"),
        ("a@example.org", MAIL, {"envid": "x"}, "DSN"),
    ],
)
async def test_what_the_server_lacks(sender: str, message: bytes, options: dict[str, Any], lacking: str) -> None:
    box = Mailbox()
    async with session(box.app, NOTHING) as client:
        with pytest.raises(ExtensionMissing, match=lacking):
            await client.send(sender, "b@example.com", message, **options)
        assert usable(client)
        await client.send("a@example.org", "b@example.com", MAIL)
    assert box.messages == [MAIL]


async def test_an_iterable_that_is_not_ascii_after_all() -> None:
    box = Mailbox()
    async with session(box.app, NOTHING) as client:
        with pytest.raises(ExtensionMissing, match="8BITMIME"):
            await client.send("a@example.org", "b@example.com", pieces("Hello\r\né\r\n".encode()))
        assert not usable(client)
        with pytest.raises(DeliveryFailed, match="the session has ended"):
            await client.send("a@example.org", "b@example.com", MAIL)
    assert box.messages == []


async def test_bare_line_ends_can_be_refused() -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client:
        with pytest.raises(BareNewline):
            await client.send("a@example.org", "b@example.com", b"a\nb", newlines="refuse")
        assert usable(client)
        with pytest.raises(ValueError, match="needs BDAT"):
            await client.send("a@example.org", "b@example.com", b"a\nb", newlines="keep")
        await client.send("a@example.org", "b@example.com", b"a\nb", newlines="keep", chunking=True)
        with pytest.raises(BareNewline):
            await client.send("a@example.org", "b@example.com", pieces(b"a\nb\r\n"), newlines="refuse")
        assert not usable(client)
    assert box.messages == [b"a\nb"]


async def test_an_iterable_that_fails_leaves_no_part_of_a_message() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield MAIL
        raise LookupError("the disk")

    box = Mailbox()
    for chunking in (False, True):
        async with session(box.app, EVERYTHING) as client:
            with pytest.raises(LookupError):
                await client.send("a@example.org", "b@example.com", failing(), chunking=chunking)
            assert not usable(client)
    assert box.messages == []


def picky(box: Mailbox) -> None:
    @box.app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject("No such user", 550, enhanced="5.1.1")


async def test_who_has_it_and_who_has_not(config: Config) -> None:
    box = Mailbox()
    picky(box)
    async with session(box.app, config, url=url_of(config)) as client:
        for chunking in chunking_of(config):
            result = await client.send("a@example.org", ["b@example.com", "nobody@x.example"], MAIL, chunking=chunking)
            assert set(result.accepted) == {"b@example.com"}
            assert result.refused["nobody@x.example"].code == 550
            with pytest.raises(DeliveryRefused) as caught:
                await client.send("a@example.org", "nobody@x.example", MAIL, chunking=chunking)
            assert caught.value.phase == "rcpt"
            assert set(caught.value.refused) == {"nobody@x.example"}
            await client.send("a@example.org", "b@example.com", MAIL, chunking=chunking)
        assert usable(client)
    assert box.messages == [MAIL] * 2 * len(chunking_of(config))


async def test_a_reply_for_each_recipient() -> None:
    box = Mailbox()

    @box.app.on_data
    async def decide(ctx: DataContext) -> None:
        await ctx.stream.read()
        for address in ctx.envelope.rcpt_to:
            if address.local_part == "full":
                ctx.reject_recipient(address, "Mailbox full", 452, enhanced="4.2.2")

    lmtp = Config(hostname="mx.example", lmtp=True)
    app = App()
    app.on_data(decide)
    async with session(app, lmtp, url="lmtp://mx.example") as client:
        for chunking in (False, True):
            result = await client.send(
                "a@example.org", ["b@example.com", "full@example.com", "c@example.com"], MAIL, chunking=chunking
            )
            assert set(result.accepted) == {"b@example.com", "c@example.com"}
            assert result.refused["full@example.com"].enhanced == "4.2.2"
            with pytest.raises(DeliveryRefused) as caught:
                await client.send("a@example.org", ["full@example.com"], MAIL, chunking=chunking)
            assert caught.value.reply.code == 452


async def test_too_large_a_message_is_refused() -> None:
    box = Mailbox()
    for hidden in (frozenset[str](), NOTHING.hide_extensions):
        config = Config(hostname="mx.example", max_message_size=1000, hide_extensions=hidden)
        async with session(box.app, config) as client:
            for chunking in (False, True):
                with pytest.raises(DeliveryRefused) as caught:
                    await client.send("a@example.org", "b@example.com", b"x\r\n" * 50_000, chunking=chunking)
                assert caught.value.reply.code == 552
                with pytest.raises(DeliveryRefused) as caught:
                    await client.send(
                        "a@example.org", "b@example.com", pieces(b"x\r\n" * 50_000, 999), chunking=chunking
                    )
                assert caught.value.reply.code == 552
            if client.usable:
                await client.send("a@example.org", "b@example.com", MAIL)


@pytest.mark.parametrize("chunking", [False, True])
async def test_many_messages_on_the_heels_of_each_other(config: Config, chunking: bool) -> None:
    if chunking and not config.chunking:
        return
    box = Mailbox()
    picky(box)
    mails: list[Mail] = []
    for n in range(120):
        to = ["nobody@x.example", "b@example.com"] if n % 3 else ["nobody@x.example"]
        mails.append(Mail("a@example.org", to, b"%d\r\n" % n * (20_000 if n % 50 == 1 else 1)))
    mails[7] = Mail("a@example.org", "b@example.com", pieces(b"7\r\n"))
    mails[8] = Mail("a@example.org", "b@example.com", MAIL, parameters={"NOSUCH": "x"})
    async with session(box.app, config, url=url_of(config)) as client:
        results = await client.send_many(mails, chunking=chunking)
        assert usable(client)
        assert await client.send_many([]) == []
        (last,) = await client.send_many([mails[1]])
        assert isinstance(last, SendResult)
    assert len(results) == len(mails)
    for n, result in enumerate(results):
        if n == 8:
            assert isinstance(result, DeliveryRefused)
            assert result.phase == "mail"
        elif n % 3 or n == 7:
            assert isinstance(result, SendResult)
            assert set(result.accepted) == {"b@example.com"}
        else:
            assert isinstance(result, DeliveryRefused)
            assert result.phase == "rcpt"
    taken = [int(message.split(b"\r\n")[0]) for message in box.messages[:-1]]
    assert taken == [n for n, result in enumerate(results) if isinstance(result, SendResult)]


@pytest.mark.parametrize("chunking", [False, True])
async def test_messages_that_come_slowly_do_not_wait_for_each_other(chunking: bool) -> None:
    box = Mailbox()

    async def mails() -> AsyncIterator[Mail]:
        for number in range(300):
            if number in (1, 7, 70, 299):
                await trio.testing.wait_all_tasks_blocked()
                assert len(box.messages) == number
            yield Mail("a@example.org", "b@example.com", MAIL)

    async with session(box.app, EVERYTHING) as client:
        results = await client.send_many(mails(), chunking=chunking)
    assert all(isinstance(result, SendResult) for result in results)
    assert box.messages == [MAIL] * 300


async def test_many_messages_and_what_one_of_them_lacks() -> None:
    box = Mailbox()

    async def mails() -> AsyncIterator[Mail]:
        yield Mail("a@example.org", "b@example.com", MAIL)
        yield Mail("a@example.org", "b@example.com", MAIL, requiretls=True)
        yield Mail("a@example.org", "b@example.com", MAIL)

    for chunking in (False, True):
        async with session(box.app, Config(hostname="mx.example")) as client:
            found = await client.send_many(mails(), chunking=chunking)
            assert [type(result) for result in found] == [SendResult, ExtensionMissing, SendResult]
            assert isinstance(found[1], DeliveryError)
    assert box.messages == [MAIL] * 4


async def test_a_wrong_address_among_many() -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client:
        with pytest.raises(ValueError, match="not an address"):
            await client.send_many([Mail("a@example.org", "b@example.com", MAIL), Mail("a b", "c@d.example", MAIL)])
        assert not usable(client)


async def test_one_task_at_a_time() -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client:
        async with client.transaction("a@example.org"):
            with pytest.raises(trio.BusyResourceError):
                await client.send("a@example.org", "b@example.com", MAIL)
        await client.send("a@example.org", "b@example.com", MAIL)


async def test_reset_and_quit() -> None:
    box = Mailbox()
    async with session(box.app, EVERYTHING) as client:
        assert (await client.reset()).code == 250
        await client.quit()
        assert not usable(client)
        with pytest.raises(DeliveryFailed):
            await client.reset()


async def test_a_block_that_raises_says_no_goodbye() -> None:
    said: list[str] = []
    box = Mailbox()
    with pytest.raises(LookupError):
        async with session(box.app, EVERYTHING, watch=lambda who, line: said.append(f"{who} {line}")):
            raise LookupError
    assert said[1].startswith("C EHLO")
    assert "C QUIT" not in said
