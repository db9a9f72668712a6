"""What the plugin catches: messages, what was refused, what broke; and in what order."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

import pytest
import trio

from trio_smtp import App, AuthContext, CallNext, DataContext
from trio_smtp.inbox import Inbox
from trio_smtp.inbox.store import Event, Page, parse_query
from trio_smtp.testing import open_client

from .support import mail, open_smtp


async def eventually(look: Callable[[], bool]) -> None:
    """Wait for what happens after a reply."""
    with trio.fail_after(10):
        while not look():  # noqa: ASYNC110 - the writer is a thread that tells nobody of transcripts
            await trio.sleep(0.01)


def failed(inbox: Inbox) -> Page:
    return inbox.store.page(parse_query("is:failed"))


async def test_a_message_is_there_when_its_250_comes(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        reply = await client.send_message("alice@example.com", ["bob@example.com"], mail("One"))
        page = inbox.store.page()
        assert reply.code == 250
        assert reply.text == f"Stored as {page.rows[0].id}"
        assert page.rows[0].headline.subject == "One"
        assert inbox.store.octets(page.rows[0].id) == mail("One")


async def test_recipients_that_no_field_names_are_bcc(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        await client.send_message("alice@example.com", ["bob@example.com", "eve@example.com"], mail())
    (row,) = inbox.store.page().rows
    assert [box.address for box in row.headline.bcc] == ["eve@example.com"]


async def test_the_user_is_known_and_any_password_is_right(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        assert (await client.auth_plain("joe", "wrong")).code == 235
        await client.send_message("alice@example.com", ["bob+urgent@example.com"], mail())
    (row,) = inbox.store.page().rows
    assert row.username == "joe"
    assert row.tags == ("joe", "urgent")
    assert inbox.store.envelope(row.id)["Auth"] == {"Mechanism": "PLAIN", "Username": "joe"}


async def test_an_embedded_inbox_leaves_authentication_to_the_app(inbox: Inbox) -> None:
    app = App().use(inbox.capture())
    async with open_client(app, allow_insecure_auth=True) as client:
        assert "AUTH" not in (await client.ehlo()).text


async def test_who_is_let_in_by_another_handler_keeps_that_name(inbox: Inbox) -> None:
    app = App()

    @app.on_auth
    async def let_in(ctx: AuthContext) -> None:
        ctx.accept("somebody else")

    app.use(inbox.capture(accept_any_user=True))
    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        await client.auth_plain("joe", "x")
        assert client.session.user == "somebody else"


async def test_transcripts_are_bounded(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        for _ in range(600):
            await client.command("NOOP")
        await client.send_message("alice@example.com", ["bob@example.com"], mail())
        await client.quit()
    (row,) = inbox.store.page().rows
    await eventually(lambda: "Stored as" in str(inbox.store.transcript(row.id)))
    lines = inbox.store.transcript(row.id)
    assert len(lines) == 1001
    assert lines[200]["From"] == "note"
    assert lines[200]["Text"].endswith("lines are left out")


async def test_the_transcript_of_a_later_message_leaves_the_earlier_ones_out(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        for subject in ("One", "Two", "Three"):
            await client.send_message(f"{subject}@example.com", ["bob@example.com"], mail(subject))
        await client.quit()
    row = inbox.store.page().rows[0]
    await eventually(lambda: "Stored as" in str(inbox.store.transcript(row.id)))
    said = [line["Text"] for line in inbox.store.transcript(row.id)]
    assert said[1] == "EHLO client.example"
    assert said[3] == "16 lines are left out"
    assert said[4] == "MAIL FROM:<Three@example.com>"
    assert len(said) == 12


async def test_a_client_that_goes_after_many_lines_is_kept(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        for _ in range(600):
            await client.command("NOOP")
        await client.aclose()
        await eventually(lambda: failed(inbox).count == 1)


async def test_the_transcript_has_both_sides_and_no_secret(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        await client.auth_plain("joe", "secret")
        await client.send_message("alice@example.com", ["bob@example.com"], mail())
        await client.quit()
    (row,) = inbox.store.page().rows
    await eventually(lambda: "Stored as" in str(inbox.store.transcript(row.id)))
    said = [(line["From"], line["Text"]) for line in inbox.store.transcript(row.id)]
    assert said[0] == ("server", "220 mx.example ESMTP")
    assert said[1] == ("client", "EHLO client.example")
    assert said[2][1].startswith("250-mx.example\n250-PIPELINING\n")
    assert said[3:5] == [("client", "AUTH PLAIN ***"), ("server", "235 2.7.0 Authentication successful")]
    assert ("client", f"({len(mail())} octets of a message)") in said
    assert said[-1] == ("server", f"250 2.0.0 Stored as {row.id}")


async def test_what_a_rule_refuses_is_kept_with_its_octets(inbox: Inbox) -> None:
    inbox.rules.fail("end", 554, "No")
    async with open_smtp(inbox) as client:
        reply = await client.send_message("alice@example.com", ["bob@example.com"], mail("Bad"))
        assert (reply.code, reply.text) == (554, "No")
        await eventually(lambda: failed(inbox).count == 1)
    (row,) = failed(inbox).rows
    assert (row.state, row.reply, row.headline.subject) == ("refused", "554 5.0.0 No", "Bad")
    assert inbox.store.octets(row.id) == mail("Bad")
    assert inbox.store.page().count == 0


async def test_a_refused_recipient_is_kept_without_a_message(inbox: Inbox) -> None:
    inbox.rules.fail("rcpt", 451, "Later", to="bob@*")
    async with open_smtp(inbox) as client:
        await client.send_message("alice@example.com", ["bob@example.com"], mail())
        await client.quit()
    await eventually(lambda: failed(inbox).count == 1)
    (row,) = failed(inbox).rows
    assert (row.state, row.reply) == ("refused", "451 4.3.0 Later")
    assert row.headline.sender is not None
    assert row.headline.sender.address == "alice@example.com"
    assert {"From": "client", "Text": "RCPT TO:<bob@example.com>"}.items() <= inbox.store.transcript(row.id)[5].items()


async def test_a_message_that_went_to_some_is_accepted_and_nothing_else(inbox: Inbox) -> None:
    inbox.rules.fail("rcpt", 451, to="eve@*")
    async with open_smtp(inbox) as client:
        await client.send_message("alice@example.com", ["eve@example.com", "bob@example.com"], mail())
        await client.quit()
    assert inbox.store.page().count == 1
    assert failed(inbox).count == 0


async def test_the_client_that_never_learns_of_its_message(inbox: Inbox) -> None:
    inbox.rules.disconnect("end")
    async with open_smtp(inbox) as client:
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
            await client.send_message("alice@example.com", ["bob@example.com"], mail())
    (row,) = inbox.store.page().rows
    await eventually(lambda: "not sent: 250" in str(inbox.store.transcript(row.id)))
    assert failed(inbox).count == 0


async def test_what_is_sent_in_place_of_a_reply_is_seen(inbox: Inbox) -> None:
    inbox.rules.garbage("end")
    async with open_smtp(inbox) as client:
        with pytest.raises(ValueError, match="reply"):
            await client.send_message("alice@example.com", ["bob@example.com"], mail())
    (row,) = inbox.store.page().rows
    await eventually(lambda: "no reply at all" in str(inbox.store.transcript(row.id)))
    assert [line["From"] for line in inbox.store.transcript(row.id)[-2:]] == ["note", "server"]


async def test_a_connection_that_breaks_inside_a_message(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        for line in ("MAIL FROM:<alice@example.com>", "RCPT TO:<bob@example.com>", "DATA"):
            await client.command(line)
        await client.send_bytes(b"Subject: half")
        await client.aclose()
        await eventually(lambda: failed(inbox).count == 1)
    (row,) = failed(inbox).rows
    assert (row.state, row.reply) == ("broken", "the connection broke")
    assert [box.address for box in row.headline.to] == ["bob@example.com"]


async def test_a_connection_that_breaks_before_is_kept_once_it_has_said_something(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        await client.aclose()
        await eventually(lambda: failed(inbox).count == 1)
    assert failed(inbox).rows[0].reply == "the connection ended: lost"


async def test_who_only_looks_whether_somebody_is_there_leaves_no_trace(inbox: Inbox) -> None:
    async with open_client(App().use(inbox.capture())) as client:
        await client.aclose()
    async with open_smtp(inbox) as client:
        await client.quit()
    assert inbox.store.page(parse_query("is:any")).count == 0


async def test_a_client_that_is_refused_at_once(inbox: Inbox) -> None:
    inbox.rules.fail("connect", 554, "Go away")
    async with open_client(App().use(inbox.capture())) as client:
        assert client.greeting.code == 554
    await eventually(lambda: failed(inbox).count == 1)
    assert failed(inbox).rows[0].reply == "554 Go away"


async def test_what_another_handler_takes_is_kept_as_well(inbox: Inbox) -> None:
    app, taken = App().use(inbox.capture()), []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())
        ctx.reply = "Mine"

    async with open_client(app) as client:
        await client.ehlo()
        reply = await client.send_message("alice@example.com", ["bob@example.com"], mail())
    assert reply.text == "Mine"
    assert taken == [mail()]
    assert inbox.store.page().count == 1


async def test_what_another_handler_refuses_is_refused(inbox: Inbox) -> None:
    app = App().use(inbox.capture())

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        ctx.reject("Spam", 550)

    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.send_message("a@example.com", ["b@example.com"], mail("Spam"))).code == 550
        await eventually(lambda: failed(inbox).count == 1)
    assert failed(inbox).rows[0].headline.subject == "Spam"


async def test_a_message_that_is_too_large_is_kept_without_octets(inbox: Inbox) -> None:
    async with open_smtp(inbox, max_message_size=1000) as client:
        reply = await client.send_message("a@example.com", ["b@example.com"], mail(text="x" * 2000))
        assert reply.code == 552
        await eventually(lambda: failed(inbox).count == 1)
    assert failed(inbox).rows[0].size == 0


def fill(inbox: Inbox) -> None:
    """Leave the database no room."""

    def job(connection: sqlite3.Connection, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    inbox.store._writer.run(job)  # noqa: SLF001 - there is no disk that is full on demand


async def test_a_full_disk_is_452_and_after_that_mail_goes_on(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    large = mail(text="x" * 300_000)
    async with open_smtp(inbox) as client:
        await client.send_message("a@example.com", ["b@example.com"], mail())
        fill(inbox)
        told = inbox.store.events.subscribe(lambda: None)
        reply = await client.send_message("a@example.com", ["b@example.com"], large)
        assert (reply.code, reply.enhanced) == (452, "4.3.1")
        assert inbox.store.problem == "the disk is full"
        assert Event("stats") in told.take()
        inbox.store._writer.run(lambda connection, _: connection.execute("PRAGMA max_page_count = 1000000"))  # noqa: SLF001
        assert (await client.send_message("a@example.com", ["b@example.com"], large)).code == 250
    assert inbox.store.problem == ""
    assert inbox.store.page().count == 2
    assert "the inbox cannot be written: the disk is full" in caplog.text


async def test_a_database_that_breaks_is_451(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        inbox.store._writer.run(lambda connection, _: connection.execute("DROP TABLE words"))  # noqa: SLF001
        reply = await client.send_message("a@example.com", ["b@example.com"], mail())
        assert (reply.code, reply.enhanced) == (451, "4.3.0")


async def test_a_message_that_was_delivered_stays_accepted_when_the_inbox_is_full(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    app = App().use(inbox.capture())

    @app.on_data
    async def deliver(ctx: DataContext, call_next: CallNext) -> None:
        await ctx.stream.discard()

    inbox.close()
    with caplog.at_level(logging.ERROR):
        async with open_client(app) as client:
            await client.ehlo()
            assert (await client.send_message("a@example.com", ["b@example.com"], mail())).code == 250
    assert "a message that was delivered is not in the inbox: the store is closed" in caplog.text


async def test_what_failed_while_the_store_is_closed_is_in_the_log(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.close()
    async with open_smtp(inbox) as client:
        assert (await client.send_message("a@example.com", ["b@example.com"], mail())).code == 451
        await client.quit()
    assert "what failed is not in the inbox: the store is closed" in caplog.text
