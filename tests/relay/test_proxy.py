"""`proxy` before the library's own server: what goes on, what comes back, and what the next server lacks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from tests.client.support import Mailbox, in_memory
from trio_smtp import (
    Address,
    App,
    CallNext,
    Config,
    DataContext,
    DataStartContext,
    Envelope,
    MailFromContext,
    RcptToContext,
    Reply,
    SMTPError,
)
from trio_smtp.delivery._passing import options_for
from trio_smtp.delivery.proxy import proxy

from .support import LMTP, MAIL, before, relay_to, shown

EVERYTHING = Config(
    hostname="mx.example",
    dsn=True,
    binarymime=True,
    deliver_by=0,
    mt_priority=True,
    future_release=1000,
    max_message_size=1_000_000,
)
NOTHING = Config(
    hostname="mx.example",
    chunking=False,
    smtputf8=False,
    max_message_size=None,
    hide_extensions=frozenset({"PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES"}),
)
OFFERS_ALL = Config(
    hostname="front.example",
    dsn=True,
    binarymime=True,
    deliver_by=0,
    mt_priority=True,
    future_release=1000,
    max_message_size=None,
)


def picky(box: Mailbox) -> App:
    """Refuses here and there."""

    @box.app.on_mail_from
    async def mail(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "spammer":
            ctx.reject("Not you", 553, enhanced="5.1.8")
        ctx.reply = "Go on"

    @box.app.on_rcpt_to
    async def rcpt(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject(["No such user", "here"], 550, enhanced="5.1.1")
        ctx.reply = Reply(251, "Elsewhere")

    @box.app.on_data_start
    async def start(ctx: DataStartContext) -> None:
        if str(ctx.envelope.mail_from).startswith("slow"):
            ctx.reject("Not now", 450, enhanced="4.7.1")

    @box.app.on_data
    async def data(ctx: DataContext) -> None:
        if box.taken and box.taken[-1][1].startswith(b"Subject: spam"):
            ctx.reject("Spam", 554, enhanced="5.7.1")
        ctx.reply = "Ok: queued as 4F2A-x"

    return box.app


@pytest.mark.parametrize("config", [EVERYTHING, NOTHING, Config(hostname="mx.example", bare_newline="reject")])
async def test_mail_goes_on_and_replies_come_back(config: Config) -> None:
    box = Mailbox()
    async with before(picky(box), config) as front:
        client = front.client
        for _ in range(2):
            assert (await client.ehlo()).code == 250
            reply = await client.command("MAIL FROM:<a@example.org> SIZE=40 BODY=8BITMIME")
            assert shown(reply).endswith("Go on")
            assert (await client.command("RCPT TO:<b@example.com>")).code == 251
            reply = await client.command("RCPT TO:<nobody@example.com>")
            assert (reply.code, reply.lines) == (550, ("No such user", "here"))
            assert (await client.command("RCPT TO:<c@example.com>")).code == 251
            assert (await front.data()) == ["250 2.0.0 Queued as 4F2A-x"]
        assert await front.say("MAIL FROM:<spammer@example.org>", "RCPT TO:<b@example.com>") == [553, 503]
        assert await front.say("MAIL FROM:<slow@example.org>", "RCPT TO:<b@example.com>", "DATA") == [250, 251, 450]
        assert await front.say("DATA", "RSET", "QUIT") == [450, 250, 221]
    assert box.messages == [MAIL] * 2
    envelope, _ = box.taken[0]
    assert [str(each) for each in envelope.rcpt_to] == ["b@example.com", "c@example.com"]
    assert (envelope.size, envelope.body_type) == ((40, "8BITMIME") if config is not NOTHING else (None, "7BIT"))
    assert (front.relay.stats.accepted, front.relay.stats.failed) == (2, 0)


async def test_a_message_that_is_refused() -> None:
    box = Mailbox()
    async with before(picky(box)) as front:
        await front.begin("b@example.com")
        assert (await front.data(b"Subject: spam\r\n\r\n")) == ["554 5.7.1 Spam"]
        assert await front.begin("b@example.com") == [250, 251]
        assert (await front.data()) == ["250 2.0.0 Queued as 4F2A-x"]
    assert (front.relay.stats.accepted, front.relay.stats.refused) == (1, 1)


async def test_parameters_go_on_where_they_are_offered() -> None:
    box = Mailbox()
    mail = (
        "MAIL FROM:<ä@example.org> SMTPUTF8 RET=HDRS ENVID=a+2Bb BY=100;R MT-PRIORITY=3 HOLDFOR=5 AUTH=<> BODY=8BITMIME"
    )
    async with before(box.app, EVERYTHING, OFFERS_ALL) as front:
        await front.client.ehlo()
        assert await front.say(
            mail.replace(" AUTH=<>", ""), "RCPT TO:<b@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;x@example.net"
        ) == [250, 250]
        await front.data()
    ((envelope, _),) = box.taken
    assert (str(envelope.mail_from), envelope.smtp_utf8, envelope.mt_priority) == ("ä@example.org", True, 3)
    assert envelope.dsn is not None
    assert (envelope.dsn.ret, envelope.dsn.envid) == ("HDRS", "a+b")
    assert envelope.deliver_by is not None
    assert (envelope.deliver_by.seconds, envelope.hold_for) == (100, 5)
    dsn = envelope.rcpt_to[0].dsn
    assert dsn is not None
    assert (dsn.notify, dsn.orcpt) == (("FAILURE", "DELAY"), ("rfc822", "x@example.net"))


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ("BODY=BINARYMIME", "554 5.6.1"),
        ("SMTPUTF8", "550 5.6.7"),
        ("BY=100;N", "555 5.5.4"),
        ("HOLDFOR=5", "555 5.5.4"),
        ("MT-PRIORITY=3 RET=FULL ENVID=x BODY=8BITMIME SIZE=10", "250 2.1.0"),
    ],
)
async def test_what_the_next_server_lacks(parameters: str, answer: str) -> None:
    box = Mailbox()
    async with before(box.app, NOTHING, OFFERS_ALL) as front:
        await front.client.ehlo()
        reply = await front.client.command(f"MAIL FROM:<a@example.org> {parameters}")
        assert shown(reply).startswith(answer)
        if reply.code == 250:
            assert await front.say("RCPT TO:<b@example.com> NOTIFY=NEVER") == [250]
            await front.data("Subject: Grüße\r\n\r\nGrüße\r\n".encode())
    if answer.startswith("250"):
        assert box.messages == ["Subject: Grüße\r\n\r\nGrüße\r\n".encode()]
        assert box.taken[0][0].dsn is None


async def test_their_size() -> None:
    box = Mailbox()
    async with before(box.app, Config(hostname="mx.example", max_message_size=1000)) as front:
        await front.client.ehlo()
        assert shown(await front.client.command("MAIL FROM:<a@example.org> SIZE=1001")).startswith("552 5.3.4")
        assert await front.say("MAIL FROM:<a@example.org> SIZE=1000", "RCPT TO:<b@example.com>") == [250, 250]
        # It lies about its size.
        assert (await front.data(b"x\r\n" * 1000))[0].startswith("552 5.3.4")
        assert await front.begin("b@example.com") == [250, 250]
        assert (await front.data())[0].startswith("250")


def test_requiretls_needs_it() -> None:
    with pytest.raises(SMTPError) as caught:
        options_for(Envelope(Address.parse("a@example.org"), require_tls=True), {})
    assert (caught.value.code, caught.value.enhanced) == (550, "5.7.30")
    offered = options_for(Envelope(Address.parse("a@example.org"), require_tls=True), {"REQUIRETLS": ""})
    assert offered["requiretls"] is True


@pytest.mark.parametrize("chunks", [1, 7])
async def test_bdat_becomes_data(chunks: int) -> None:
    box = Mailbox()
    async with before(box.app, NOTHING) as front:
        await front.begin("b@example.com")
        for start in range(0, len(MAIL), chunks):
            piece = MAIL[start : start + chunks]
            last = " LAST" if start + chunks >= len(MAIL) else ""
            await front.client.send_bytes(f"BDAT {len(piece)}{last}\r\n".encode() + piece)
            assert (await front.client.read_reply()).code == 250
    assert box.messages == [MAIL]


@pytest.mark.parametrize("octets", [b"a\r\n.\n.\r\n", b"a\n.\nMAIL FROM:<x@y>\r\n", b"a\rb\r\n", b"a\r", b"\n.\r\n"])
async def test_what_would_be_smuggled_is_refused(octets: bytes) -> None:
    box = Mailbox()
    async with before(box.app, NOTHING) as front:
        await front.begin("b@example.com")
        await front.client.send_bytes(b"BDAT %d LAST\r\n%b" % (len(octets), octets))
        assert shown(await front.client.read_reply()).startswith("550 5.6.0")
        assert await front.begin("b@example.com") == [250, 250]
        await front.data()
    assert box.messages == [MAIL]


async def test_binary_messages_go_on_by_bdat() -> None:
    box = Mailbox()
    octets = bytes(range(256)) * 300
    async with before(box.app, EVERYTHING, OFFERS_ALL) as front:
        await front.client.ehlo()
        assert await front.say("MAIL FROM:<a@example.org> BODY=BINARYMIME", "RCPT TO:<b@example.com>") == [250, 250]
        await front.client.send_bytes(b"BDAT %d LAST\r\n%b" % (len(octets), octets))
        assert (await front.client.read_reply()).code == 250
    assert box.messages == [octets]


@pytest.mark.parametrize("first", [b"Subject: x\r\n\r\n", b" folded\r\n", b""])
async def test_a_received_field(first: bytes) -> None:
    box = Mailbox()
    async with before(box.app, received=True) as front:
        await front.begin("b@example.com")
        await front.data(first)
    (message,) = box.messages
    assert message.startswith(b"Received: from client.example")
    assert b"by front.example with ESMTP" in message
    assert message.endswith(first)
    assert (b"\r\n\r\n folded" in message) is (first == b" folded\r\n")


async def test_an_lmtp_front() -> None:
    """Each recipient has its own reply to RCPT; the message has one for all."""
    box = Mailbox()
    async with before(picky(box), front_config=LMTP) as front:
        assert await front.begin("b@example.com", "nobody@example.com", "c@example.com") == [250, 251, 550, 251]
        assert await front.data(replies=2) == ["250 2.0.0 Queued as 4F2A-x"] * 2
        await front.begin("b@example.com", "c@example.com")
        assert await front.data(b"Subject: spam\r\n\r\n", replies=2) == ["554 5.7.1 Spam"] * 2


class TestOtherHandlers:
    """The next server is told what other handlers have made of a transaction, and never more than that."""

    async def test_they_refuse(self) -> None:
        box, app = Mailbox(), App()

        @app.on_mail_from
        async def mail(ctx: MailFromContext, call_next: CallNext) -> None:
            await call_next()
            if ctx.address.local_part == "late":
                ctx.reject("Changed my mind")

        @app.on_rcpt_to
        async def rcpt(ctx: RcptToContext, call_next: CallNext) -> None:
            await call_next()
            if ctx.address.local_part == "late":
                ctx.reject("Changed my mind")

        @app.on_data_start
        async def start(ctx: DataStartContext, call_next: CallNext) -> None:
            await call_next()
            if len(ctx.envelope.rcpt_to) == 1:
                ctx.reject("One more", 450)

        async with before(box.app, app=app, size=1) as front:
            await front.client.ehlo()
            assert await front.say("MAIL FROM:<late@example.org>") == [550]
            assert await front.begin("b@example.com", "late@example.com") == [250, 250, 550]
            assert await front.say("DATA", "RCPT TO:<c@example.com>") == [450, 250]
            await front.data()
            assert await front.say("MAIL FROM:<late@example.org>") == [550]
        ((envelope, _),) = box.taken
        assert [str(each) for each in envelope.rcpt_to] == ["b@example.com", "c@example.com"]

    async def test_they_rewrite(self) -> None:
        box, app = Mailbox(), App()

        @app.on_mail_from
        async def mail(ctx: MailFromContext) -> None:
            ctx.address = Address.parse("srs@example.org")

        @app.on_rcpt_to
        async def rcpt(ctx: RcptToContext) -> None:
            if ctx.address.local_part == "ü":
                ctx.address = Address.parse("ü@example.com")
            else:
                ctx.address = Address.parse("alias@example.com")

        async with before(box.app, EVERYTHING, app=app) as front:
            assert await front.begin("b@example.com") == [250, 250]
            await front.data()
        ((envelope, _),) = box.taken
        assert str(envelope.mail_from) == "srs@example.org"
        (recipient,) = envelope.rcpt_to
        assert recipient.dsn is not None
        assert (str(recipient), recipient.dsn.orcpt) == ("alias@example.com", ("rfc822", "b@example.com"))

    @pytest.mark.parametrize("phase", ["mail", "rcpt"])
    async def test_they_rewrite_to_what_needs_smtputf8(self, phase: str) -> None:
        box, app = Mailbox(), App()

        async def rewrite(ctx: Any) -> None:
            ctx.address = Address.parse("ü@example.com")

        (app.on_mail_from if phase == "mail" else app.on_rcpt_to)(rewrite)
        async with before(box.app, NOTHING, app=app) as front:
            codes = await front.begin("b@example.com")
            assert codes == ([550, 503] if phase == "mail" else [250, 550])

    async def test_they_change_the_recipients_of_a_message(self) -> None:
        box, app = Mailbox(), App()

        @app.on_data
        async def change(ctx: DataContext) -> None:
            if ctx.envelope.rcpt_to[0].local_part == "empty":
                ctx.envelope.rcpt_to.clear()
            else:
                ctx.envelope.rcpt_to.append(Address.parse("added@example.com"))

        async with before(box.app, app=app) as front:
            await front.begin("b@example.com")
            assert (await front.data())[0].startswith("250")
            await front.begin("empty@example.com")
            assert (await front.data())[0].startswith("250")
        ((envelope, message),) = box.taken
        assert [str(each) for each in envelope.rcpt_to] == ["b@example.com", "added@example.com"]
        assert message == MAIL

    async def test_they_add_a_recipient_that_is_refused(self) -> None:
        """The client is told: nobody has the message."""
        box, app = Mailbox(), App()

        @app.on_data
        async def add(ctx: DataContext) -> None:
            ctx.envelope.rcpt_to.append(Address.parse("nobody@example.com"))

        async with before(picky(box), app=app) as front:
            await front.begin("b@example.com")
            assert await front.data() == ["550 5.1.1 No such user / here"]
        assert box.messages == []

    async def test_they_take_mail_for_themselves(self) -> None:
        """A middleware that goes on with RCPT alone: the next server gets the MAIL all the same."""
        box, app = Mailbox(), App()

        @app.on_mail_from
        async def mail(ctx: MailFromContext, call_next: CallNext) -> None:
            """Ends the chain."""

        async with before(box.app, app=app) as front:
            assert await front.begin("b@example.com", "c@example.com") == [250, 250, 250]
            await front.data()
        ((envelope, _),) = box.taken
        assert len(envelope.rcpt_to) == 2

    async def test_several_relays(self) -> None:
        """Each is a delivery of its own; what one has is not the other's."""
        one, other = Mailbox(), Mailbox()
        app = App()

        @app.on_data
        async def spool(ctx: DataContext) -> None:
            await ctx.spool()

        async with in_memory(one.app) as listener:
            app.use(relay_to(listener.connect))

            @app.on_data
            async def again(ctx: DataContext) -> None:
                await ctx.spool()

            async with before(other.app, app=app) as front:
                await front.begin("b@example.com")
                assert (await front.data())[0].startswith("250")
        assert one.messages == other.messages == [MAIL]


async def test_connections_are_used_again_and_given_back() -> None:
    box = Mailbox()
    opened = 0

    @box.app.on_connect
    async def connected(ctx: Any) -> None:
        nonlocal opened
        opened += 1

    async with before(box.app, size=1) as front:
        for end in ("RSET", "EHLO again", "RSET"):
            assert await front.begin("b@example.com") == [250, 250]
            assert await front.say(end) == [250]
        await front.begin("b@example.com")
        await front.data()
        await front.begin("b@example.com")
        assert await front.say("QUIT") == [221]
    assert opened == 1
    assert box.messages == [MAIL]


async def test_a_client_that_leaves_in_the_message() -> None:
    """The next server never gets the end of it."""
    seen: list[str] = []
    box = Mailbox()
    gone = trio.Event()

    @box.app.on_close
    async def closed(ctx: Any) -> None:
        seen.append(ctx.reason)
        gone.set()

    async with before(box.app) as front:
        await front.begin("b@example.com")
        assert await front.say("DATA") == [354]
        await front.client.send_bytes(b"half a message\r\n" * 10_000)
        await front.client.aclose()
        with trio.fail_after(10):
            await gone.wait()
    assert seen == ["lost"]
    assert box.messages == []


@pytest.mark.parametrize(
    ("url", "options", "names"),
    [
        ("lmtp://mx", {}, "url"),
        ("mx", {}, "url"),
        ("smtp://", {}, "URL"),
        ("smtp://mx", {"announce": "loud"}, "announce"),
        ("smtp://u:p@mx", {"announce": "xclient"}, "announce"),
        ("smtp://mx", {"patience": 0}, "patience"),
        ("smtp://mx", {"size": 0}, "size"),
        ("smtp://mx", {"idle": 0}, "idle"),
        ("smtp://mx", {"tls": "maybe"}, "tls"),
        ("smtp://mx", {"preface": b"x"}, "preface"),
    ],
)
def test_arguments_that_are_not_allowed(url: str, options: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names) as caught:
        proxy(url, **options)
    assert "u:p" not in str(caught.value)


def test_an_option_that_there_is_not() -> None:
    options: dict[str, Any] = {"recieved": False}
    with pytest.raises(TypeError, match="proxy takes no 'recieved'; it takes announce, auth, "):
        proxy("smtp://mx", **options)


async def test_the_log_names_the_next_server_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    box = Mailbox()
    relay = proxy("smtp://user:secret@mx:99", tls="none")
    assert "secret" not in repr(relay)
    async with before(picky(box)) as front:
        await front.begin("b@example.com")
        await front.data()
    assert "smtp://mx: 250 2.0.0 Ok: queued as 4F2A-x" in caplog.text
    assert "id=4F2A-x" in caplog.text or 'id="4F2A-x"' in caplog.text
