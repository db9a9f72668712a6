"""Rewritten senders and recipients, edited lists of them, and the dicts that live with them."""

from __future__ import annotations

import copy

import pytest

from trio_smtp import Address, App, DataContext, Envelope, MailFromContext, RcptToContext, Reply
from trio_smtp.testing import Client, open_client

from .support import BODY, crashes, mail_app, send, start_data, start_transaction

# --- Address.parse ---


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("bob@example.com", "bob", "example.com"),
        ("Bob+tag@EXAMPLE.com", "Bob+tag", "example.com"),
        ('"a b"@example.com', '"a b"', "example.com"),
        ("bob@[192.0.2.1]", "bob", "[192.0.2.1]"),
        ("bob@xn--bcher-kva.example", "bob", "bücher.example"),
        ("SRS0=Kz9c=4F=example.org=alice@example.com", "SRS0=Kz9c=4F=example.org=alice", "example.com"),
        ("postmaster", "postmaster", ""),
        ("", "", ""),
    ],
)
def test_what_parse_reads(text: str, local_part: str, domain: str) -> None:
    address = Address.parse(text)
    assert (address.address, address.local_part, address.domain) == (text, local_part, domain)
    assert (address.args, address.dsn, address.original) == ({}, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "<bob@example.com>",
        "bob",
        "bob@",
        "@example.com",
        "a b@example.com",
        "bob@example.com\r\n",
        "a@b@c",
        " ",
        "a..b@c.de",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an address: '"):
        Address.parse(text)


def test_parse_is_as_lenient_as_the_server_may_be() -> None:
    assert Address.parse("a..b@foo_bar.example", strict=False).domain == "foo_bar.example"


# --- rewriting ---


async def test_an_alias() -> None:
    app, envelopes = App(), []

    @app.on_rcpt_to
    async def alias(ctx: RcptToContext) -> None:
        sent = ctx.address
        sent.data["list"] = "staff"
        wanted = Address.parse("bob@example.com")
        ctx.address = wanted
        assert ctx.address is not wanted
        assert ctx.address.original is sent
        ctx.address = Address.parse("carol@example.com")
        assert ctx.address.original is sent

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        envelopes.append(ctx.envelope)

    async with open_client(app, dsn=True) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        assert (await client.command("RCPT TO:<staff@example.com> NOTIFY=NEVER")).code == 250
        await client.command("DATA")
        await client.send_bytes(b".\r\n")
        assert (await client.read_reply()).code == 250
    (recipient,) = envelopes[0].rcpt_to
    assert str(recipient) == "carol@example.com"
    assert recipient.args == {"NOTIFY": "NEVER"}
    assert recipient.dsn is not None
    assert recipient.dsn.notify == ("NEVER",)
    assert str(recipient.original) == "staff@example.com"
    assert recipient.data == {"list": "staff"}
    assert recipient.original is not None
    assert recipient.data is recipient.original.data


async def test_a_sender_changes_at_once_and_a_refusal_undoes_it() -> None:
    app, seen, envelopes = mail_app()[0], [], []

    @app.on_mail_from
    async def rewrite(ctx: MailFromContext) -> None:
        ctx.address = Address.parse("srs@example.com")
        seen.append(str(ctx.envelope.mail_from))
        envelopes.append(ctx.envelope)
        assert ctx.envelope.mail_from is ctx.address

    @app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        assert ctx.address.original is not None
        if str(ctx.address.original).startswith("bad"):
            ctx.reject()

    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<bad@example.org>")).code == 550
        assert client.session.envelope.mail_from is None
        assert (await client.command("MAIL FROM:<good@example.org> SIZE=10")).code == 250
        sender = envelopes[-1].mail_from
        assert sender is not None
        assert (str(sender), str(sender.original), sender.args) == (
            "srs@example.com",
            "good@example.org",
            {"SIZE": "10"},
        )
    assert seen == ["srs@example.com"] * 2


async def test_a_refused_recipient_is_in_no_list() -> None:
    app = mail_app()[0]

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        ctx.address = Address.parse("bob@example.com")
        ctx.reject()

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        assert (await client.command("RCPT TO:<b@example.com>")).code == 550
        assert client.session.envelope.rcpt_to == []


async def test_the_null_sender() -> None:
    app = mail_app()[0]

    @app.on_mail_from
    async def bounce(ctx: MailFromContext) -> None:
        ctx.address = Address.parse("")

    async with open_client(app) as client:
        await start_transaction(client)
        assert str(client.session.envelope.mail_from) == ""


@pytest.mark.parametrize("wanted", ["bob@example.com", None, b"bob@example.com", ("bob", "example.com")], ids=repr)
@pytest.mark.parametrize("phase", ["on_mail_from", "on_rcpt_to"])
async def test_anything_else_is_a_type_error(wanted: object, phase: str, caplog: pytest.LogCaptureFixture) -> None:
    app = mail_app()[0]

    @getattr(app, phase)  # type: ignore[untyped-decorator]
    async def rewrite(ctx: MailFromContext | RcptToContext) -> None:
        ctx.address = wanted  # type: ignore[assignment]

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 451
    assert len(crashes(caplog)) == 1
    assert "write Address.parse(...)" in caplog.text


async def test_nobody_sends_to_the_null_sender(caplog: pytest.LogCaptureFixture) -> None:
    app = mail_app()[0]

    @app.on_rcpt_to
    async def rewrite(ctx: RcptToContext) -> None:
        ctx.address = Address.parse("")

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 451
    assert "the null sender cannot be a recipient" in caplog.text


# --- dicts ---


async def test_the_dicts_live_as_long_as_the_transaction() -> None:
    app, seen = App(), []

    @app.on_mail_from
    async def sender(ctx: MailFromContext) -> None:
        assert ctx.envelope.data == {}
        ctx.envelope.data["score"] = 1
        ctx.address.data["spf"] = "pass"

    @app.on_rcpt_to
    async def recipient(ctx: RcptToContext) -> None:
        ctx.address.data["folder"] = f"for {ctx.address}"

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        assert ctx.envelope.mail_from is not None
        seen.append((ctx.envelope.data, ctx.envelope.mail_from.data, [each.data for each in ctx.envelope.rcpt_to]))

    async with open_client(app) as client:
        await client.ehlo()
        for _ in range(2):
            await client.send_message("a@example.org", ["b@example.com", "c@example.com"], BODY)
    folders = [{"folder": "for b@example.com"}, {"folder": "for c@example.com"}]
    assert seen == [({"score": 1}, {"spf": "pass"}, folders)] * 2


def test_the_dicts_are_shown_nowhere_and_copied_with_nothing() -> None:
    envelope = Envelope(Address.parse("a@example.org"))
    envelope.data["secret"] = 1
    assert "secret" not in repr(envelope)
    assert copy.copy(envelope).data == {}


# --- editing the list of recipients ---


async def test_a_filter_adds_and_removes_recipients() -> None:
    app, seen = App(), []

    @app.on_data
    async def edit(ctx: DataContext) -> None:
        del ctx.envelope.rcpt_to[0]
        ctx.envelope.rcpt_to.append(Address.parse("archive@example.com"))

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        seen.append(([str(each) for each in ctx.envelope.rcpt_to], [str(each) for each in ctx.recipients]))

    async with open_client(app) as client:
        await start_data(client, "b@example.com", "c@example.com")
        await client.send_bytes(b".\r\n")
        assert (await client.read_reply()).code == 250
    assert seen == [(["c@example.com", "archive@example.com"], ["b@example.com", "c@example.com"])]


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
async def test_in_lmtp_the_replies_are_those_of_the_recipients_as_accepted(command: str) -> None:
    app = App()

    @app.on_data
    async def edit(ctx: DataContext) -> None:
        added = Address.parse("archive@example.com")
        ctx.envelope.rcpt_to[:] = [added]
        ctx.reject_recipient(ctx.recipients[0], "Full", 452)
        with pytest.raises(ValueError, match=r"one of ctx\.recipients"):
            ctx.reject_recipient(added, "Full", 452)
        await ctx.stream.discard()

    begin = b"DATA\r\n" if command == "DATA" else b"BDAT 2\r\nhi"
    end = b".\r\n" if command == "DATA" else b"BDAT 0 LAST\r\n"
    async with open_client(app, lmtp=True) as client:
        await start_lmtp(client, 2)
        await client.send_bytes(begin)
        assert (await client.read_reply()).code in (250, 354)
        await client.send_bytes(end)
        assert await client.read_reply() == Reply(452, "Full", "4.3.1")
        assert await client.read_reply() == Reply(250, "Message accepted", "2.0.0")
        assert await client.command("NOOP") == Reply(250, "OK", "2.0.0")


async def start_lmtp(client: Client, recipients: int) -> None:
    await client.command("LHLO c.example")
    await client.command("MAIL FROM:<a@example.org>")
    for number in range(recipients):
        await client.command(f"RCPT TO:<r{number}@example.com>")


async def test_chunks_refused_after_an_edit_have_a_reply_for_each_recipient() -> None:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        ctx.envelope.rcpt_to.clear()
        ctx.reject("No", 554, enhanced="5.7.1")

    async with open_client(app, lmtp=True) as client:
        await start_lmtp(client, 3)
        refusal = Reply(554, "No", "5.7.1")
        await client.send_bytes(b"BDAT 2\r\nhi")
        await client.read_reply()  # the handlers have begun
        await client.send_bytes(b"BDAT 2\r\nhi")
        assert await client.read_reply() == refusal
        await client.send_bytes(b"BDAT 2 LAST\r\nhi")
        assert [await client.read_reply() for _ in range(3)] == [refusal] * 3
        assert (await client.command("NOOP")).code == 250


@pytest.mark.parametrize(("discards", "code"), [(True, 250), (False, 451)])
async def test_an_emptied_list_is_a_delivery_to_nobody(discards: bool, code: int) -> None:
    app = App()

    @app.on_data
    async def drop(ctx: DataContext) -> None:
        ctx.envelope.rcpt_to.clear()
        if discards:
            await ctx.stream.discard()

    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == code
