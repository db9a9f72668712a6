"""LMTP (RFC 2033): LHLO, and a reply for each recipient."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.maildir_support import body_of, messages_below
from tests.support import BODY, LARGE, logged, mail_app, note_closes, start_data, status
from trio_smtp import App, DataContext, DataStartContext, RcptToContext, Reply, SMTPError
from trio_smtp.delivery.maildir import maildir
from trio_smtp.testing import Client, Cut, open_client, play, stuff


def refusing_app(*refused: str) -> tuple[App, list[bytes]]:
    """An App that takes every message, and refuses it for recipients with these local parts."""
    app = App()
    taken: list[bytes] = []

    @app.on_rcpt_to
    async def known(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject("No such user", 550, enhanced="5.1.1")

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())
        for recipient in ctx.envelope.rcpt_to:
            if recipient.local_part in refused:
                ctx.reject_recipient(recipient, "Mailbox full", 452, enhanced="4.2.2")

    return app, taken


async def begin(client: Client, *recipients: str) -> None:
    """LHLO, MAIL, and RCPT for each, all accepted."""
    assert (await client.command("LHLO client.example")).code == 250
    assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
    for recipient in recipients:
        assert (await client.command(f"RCPT TO:<{recipient}@example.com>")).code == 250


async def replies(client: Client, count: int) -> list[tuple[int, str | None]]:
    return [status(await client.read_reply()) for _ in range(count)]


#: RFC 2033 section 4.2's example, in our words.
SESSION = r"""
S: 220 mx.example ESMTP
C: LHLO foo.edu
S: 250-mx.example
S: 250-PIPELINING
S: 250-SIZE 33554432
S: 250-8BITMIME
S: 250-CHUNKING
S: 250-SMTPUTF8
S: 250-ENHANCEDSTATUSCODES
S: 250-LIMITS RCPTMAX=1000
S: 250 HELP
C: MAIL FROM:<chris@bar.com>
S: 250 2.1.0 Sender OK
C: RCPT TO:<pat@foo.edu>
C: RCPT TO:<nobody@foo.edu>
C: RCPT TO:<green@foo.edu>
S: 250 2.1.5 Recipient OK
S: 550 5.1.1 No such user
S: 250 2.1.5 Recipient OK
C: DATA
S: 354 End data with <CR><LF>.<CR><LF>
C: Blah blah blah...
C: .
S: 250 2.0.0 Message accepted
S: 452 4.2.2 Mailbox full
C: MAIL FROM:<chris@bar.com>
C: RCPT TO:<green@foo.edu>
C: RCPT TO:<pat@foo.edu>
C: BDAT 6
C= Blah\r\n
C: BDAT 6 LAST
C= blah\r\n
C: QUIT
S: 250 2.1.0 Sender OK
S: 250 2.1.5 Recipient OK
S: 250 2.1.5 Recipient OK
S: 250 2.0.0 6 octets received
S: 452 4.2.2 Mailbox full
S: 250 2.0.0 Message accepted
S: 221 2.0.0 Bye
S: <close>
"""


@pytest.mark.parametrize("cut", ["whole", "line", "octet", "random"])
async def test_the_rfcs_example(cut: Cut) -> None:
    app, taken = refusing_app("green")
    await play(app, SESSION, cut=cut, lmtp=True, seed=2033)
    assert taken == [b"Blah blah blah...\r\n", b"Blah\r\nblah\r\n"]


@pytest.mark.parametrize("hello", ["HELO x", "EHLO x", "ehlo x", "EHLO", "HELO a b"])
async def test_lmtp_knows_only_lhlo(hello: str) -> None:
    app, _ = mail_app()
    async with open_client(app, lmtp=True) as client:
        reply = await client.command(hello)
        assert (reply.code, reply.text) == (500, "This is LMTP: send LHLO")
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 503
        assert (await client.command("LHLO x")).code == 250
        assert (client.session.opening_command, client.session.transmission_type) == ("LHLO", "LMTP")


async def test_smtp_does_not_know_lhlo() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.ehlo()
        assert await client.command("LHLO x") == Reply(500, "This is SMTP: send EHLO", "5.5.1")


@pytest.mark.parametrize("body", [pytest.param(BODY, id="in one receive"), pytest.param(LARGE, id="streamed")])
@pytest.mark.parametrize("command", ["DATA", "BDAT"])
async def test_each_accepted_recipient_has_its_reply(body: bytes, command: str) -> None:
    app, taken = refusing_app("b")
    async with open_client(app, lmtp=True) as client:
        # Twice the same mailbox is two recipients.
        await begin(client, "a", "b", "a", "b", "c")
        assert (await client.command("RCPT TO:<nobody@example.com>")).code == 550
        if command == "DATA":
            assert (await client.command("DATA")).code == 354
            await client.send_bytes(stuff(body))
        else:
            await client.send_bytes(b"BDAT %d LAST\r\n" % len(body) + body)
        assert await replies(client, 5) == [
            (250, "2.0.0"),
            (452, "4.2.2"),
            (250, "2.0.0"),
            (452, "4.2.2"),
            (250, "2.0.0"),
        ]
        assert (await client.command("NOOP")).code == 250
        stats = client.server.stats
        assert (stats.messages_accepted, stats.messages_refused) == (1, 0)
    assert taken == [body]


@pytest.mark.parametrize("refused", [(), ("b",)])
async def test_a_refused_message_is_refused_for_each(refused: tuple[str, ...]) -> None:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        for recipient in ctx.envelope.rcpt_to:
            if recipient.local_part in refused:
                ctx.reject_recipient(recipient, "Not here", 550, enhanced="5.1.1")
        ctx.reject("Spam", 554, enhanced="5.7.1")

    async with open_client(app, lmtp=True) as client:
        await begin(client, "a", "b", "c")
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        # What was said of a recipient by name stays said.
        own = (550, "5.1.1") if refused else (554, "5.7.1")
        assert await replies(client, 3) == [(554, "5.7.1"), own, (554, "5.7.1")]
        assert client.server.stats.messages_refused == 1


async def test_a_crash_is_told_to_each(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_data
    async def crash(ctx: DataContext) -> None:
        raise RuntimeError("secret")

    async with open_client(app, lmtp=True) as client:
        await begin(client, "a", "b")
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        assert await replies(client, 2) == [(451, "4.3.0")] * 2
        assert (await client.command("NOOP")).code == 250
    assert any("on_data handler failed" in line for line in logged(caplog))


async def test_too_large_is_told_to_each() -> None:
    app, _ = mail_app()
    async with open_client(app, lmtp=True, max_message_size=10) as client:
        await begin(client, "a", "b")
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        assert await replies(client, 2) == [(552, "5.3.4")] * 2


@pytest.mark.parametrize("wire", [b"DATA\r\n", b"BDAT 3 LAST\r\nabc"])
async def test_without_an_accepted_recipient_no_message_is_taken(wire: bytes) -> None:
    app, taken = refusing_app()
    async with open_client(app, lmtp=True) as client:
        await begin(client)
        await client.send_bytes(wire + b"NOOP\r\n")
        assert await replies(client, 2) == [(503, "5.5.1"), (250, "2.0.0")]
        assert (await client.command("RCPT TO:<nobody@example.com>")).code == 550
        await client.send_bytes(wire + b"NOOP\r\n")
        assert await replies(client, 2) == [(503, "5.5.1"), (250, "2.0.0")]
    assert taken == []


async def test_what_is_refused_before_the_354_has_one_reply() -> None:
    app, _ = mail_app()

    @app.on_data_start
    async def refuse(ctx: DataStartContext) -> None:
        ctx.reject("Not now", 450)

    async with open_client(app, lmtp=True) as client:
        await begin(client, "a", "b")
        assert (await client.command("DATA")).code == 450
        assert (await client.command("NOOP")).code == 250
        await client.send_bytes(b"BDAT 2\r\nabBDAT 2 LAST\r\ncdNOOP\r\n")
        # A chunk has one reply; the last one ends the message, and that has one for each.
        assert [code for code, _ in await replies(client, 4)] == [450, 450, 450, 250]


@pytest.mark.parametrize("code", [421, 521])
async def test_a_recipients_421_closes(code: int) -> None:
    app = App()
    closes = note_closes(app)

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        await ctx.stream.discard()
        ctx.reject_recipient(ctx.envelope.rcpt_to[0], "Go away", code)

    async with open_client(app, lmtp=True) as client:
        await begin(client, "a", "b")
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        assert [each for each, _ in await replies(client, 2)] == [code, 250]
        assert await client.read_to_end() == b""
    assert closes == ["refused"]


async def test_the_positive_reply_may_be_changed() -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        ctx.reply = Reply(250, "Queued as 4F2A", "2.6.0")

    async with open_client(app, lmtp=True) as client:
        await begin(client, "a", "b")
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        assert await replies(client, 2) == [(250, "2.6.0")] * 2
        assert client.session.transaction == 1


# --- reject_recipient ---


def erring_app(*calls: tuple[int, int]) -> tuple[App, list[Exception]]:
    app = App()
    errors: list[Exception] = []

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        await ctx.stream.discard()
        for index, code in calls:
            recipient = ctx.envelope.rcpt_to[index] if index >= 0 else ctx.envelope.mail_from
            assert recipient is not None
            try:
                ctx.reject_recipient(recipient, "No", code)
            except (RuntimeError, ValueError) as exc:
                errors.append(exc)

    return app, errors


async def test_reject_recipient_needs_lmtp() -> None:
    app, errors = erring_app((0, 550))
    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(stuff(BODY))
        assert (await client.read_reply()).code == 250
    assert [type(error) for error in errors] == [RuntimeError]
    assert "LMTP" in str(errors[0])


async def test_reject_recipient_takes_recipients_and_refusals_only() -> None:
    app, errors = erring_app((-1, 550), (0, 250))
    async with open_client(app, lmtp=True) as client:
        await begin(client, "a")
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        assert (await client.read_reply()).code == 250
    assert [type(error) for error in errors] == [ValueError, ValueError]
    assert not any(isinstance(error, SMTPError) for error in errors)


# --- The session ---


async def test_received_says_lmtp() -> None:
    app = App()
    headers: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        headers.append(ctx.received_header())

    async with open_client(app, lmtp=True) as client:
        await begin(client, "a")
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        assert (await client.read_reply()).code == 250
    assert b" with LMTP id " in headers[0]


async def test_a_client_that_vanishes_gets_no_replies(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    closes = note_closes(app)
    async with open_client(app, lmtp=True) as client:
        await begin(client, "a", "b")
        await client.command("DATA")
        await client.send_bytes(b"half")
        await client.aclose()
        await trio.sleep(1)
        assert client.server.stats.messages_incomplete == 1
    assert (taken, closes) == ([], ["lost"])


async def test_silence_is_told_once(autojump_clock: trio.testing.MockClock) -> None:
    app, _ = mail_app()
    async with open_client(app, lmtp=True) as client:
        await begin(client, "a", "b")
        await client.command("DATA")
        await client.send_bytes(b"half")
        assert (await client.read_to_end()).count(b"421 4.4.2") == 1


# --- Maildir ---


def picky_app(path: Path, *refused: str, per_recipient: bool) -> App:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        for recipient in ctx.envelope.rcpt_to:
            if recipient.local_part in refused:
                ctx.reject_recipient(recipient, "Over quota", 452, enhanced="4.2.2")

    return app.use(maildir(path, per_recipient=per_recipient))


async def deliver(app: App, *recipients: str) -> list[int]:
    async with open_client(app, lmtp=True) as client:
        await begin(client, *recipients)
        await client.command("DATA")
        await client.send_bytes(stuff(BODY))
        codes = [code for code, _ in await replies(client, len(recipients))]
        assert (await client.quit()).code == 221
    return codes


async def test_who_was_refused_by_name_gets_no_copy(tmp_path: Path) -> None:
    app = picky_app(tmp_path, "b", "d", per_recipient=True)
    assert await deliver(app, "a", "b", "c", "d") == [250, 452, 250, 452]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a@example.com", "c@example.com"]
    assert [body_of(path) for path in messages_below(tmp_path)] == [BODY, BODY]


async def test_of_two_with_one_folder_the_other_is_served(tmp_path: Path) -> None:
    app = App()

    @app.on_data
    async def refuse_first(ctx: DataContext) -> None:
        ctx.reject_recipient(ctx.envelope.rcpt_to[0], "Once is enough")

    app.use(maildir(tmp_path, per_recipient=True))
    assert await deliver(app, "a", "a") == [550, 250]
    assert [body_of(path) for path in messages_below(tmp_path)] == [BODY]


@pytest.mark.parametrize("per_recipient", [True, False])
async def test_a_message_for_nobody_is_not_stored(tmp_path: Path, per_recipient: bool) -> None:
    app = picky_app(tmp_path, "a", "b", per_recipient=per_recipient)
    assert await deliver(app, "a", "b") == [452, 452]
    assert messages_below(tmp_path) == []


async def test_one_maildir_stores_what_anybody_gets(tmp_path: Path) -> None:
    app = picky_app(tmp_path, "a", per_recipient=False)
    assert await deliver(app, "a", "b") == [452, 250]
    assert [body_of(path) for path in messages_below(tmp_path)] == [BODY]


async def test_over_smtp_nobody_is_refused_by_name(tmp_path: Path) -> None:
    app = App().use(maildir(tmp_path, per_recipient=True))
    async with open_client(app) as client:
        await start_data(client, "a@example.com", "b@example.com")
        await client.send_bytes(stuff(BODY))
        assert (await client.read_reply()).code == 250  # one reply for both
        assert (await client.command("NOOP")).text == "OK"
    assert len(messages_below(tmp_path)) == 2
