"""BDAT (RFC 3030): one message over all its chunks, and what is no chunk, or comes at the wrong time."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from tests.bdat_support import CHUNK, HOSTILE, bdat, still_in_step
from tests.support import BODY, closed, mail_app, note_closes, start_data, start_transaction, status
from trio_smtp import (
    App,
    Config,
    DataContext,
    DataStartContext,
    RcptToContext,
    Reply,
)
from trio_smtp.testing import Cut, open_client, play, stuff

# --- What works ---

SESSION = r"""
S: 220 mx.example ESMTP
C: EHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-SIZE 33554432
S: 250-8BITMIME
S: 250-CHUNKING
S: 250-BINARYMIME
S: 250-SMTPUTF8
S: 250-ENHANCEDSTATUSCODES
S: 250-LIMITS RCPTMAX=1000
S: 250 HELP
C: MAIL FROM:<a@example.org> BODY=BINARYMIME
C: RCPT TO:<b@example.com>
C: BDAT 6
C= a\0\xff\r\nb
C: BDAT 0
C: bdat 5  last
C= \r\n.\r\n
C: BDAT 3 LAST
C= 123
C: MAIL FROM:<a@example.org>
C: BDAT 4
C= QUIT
C: RCPT TO:<b@example.com>
C: BDAT 7
C= RSET\r\nx
C: DATA
C: MAIL FROM:<c@example.org>
C: RCPT TO:<c@example.org>
C: STARTTLS
C: AUTH PLAIN
C: NOOP
C: VRFY x
C: HELP
C: BDAT 0 LAST
C: BDAT 0 LAST
C: QUIT
S: 250 2.1.0 Sender OK
S: 250 2.1.5 Recipient OK
S: 250 2.0.0 6 octets received
S: 250 2.0.0 0 octets received
S: 250 2.0.0 Message accepted
S: 503 5.5.1 ...
S: 250 2.1.0 Sender OK
S: 503 5.5.1 ...
S: 250 2.1.5 Recipient OK
S: 250 2.0.0 7 octets received
S: 503 5.5.1 ...
S: 503 5.5.1 ...
S: 503 5.5.1 ...
S: 502 5.5.1 ...
S: 503 5.5.1 ...
S: 250 2.0.0 OK
S: 252 2.5.0 ...
S: 214-2.0.0 ...
S: 214 2.0.0 ...
S: 250 2.0.0 Message accepted
S: 503 5.5.1 ...
S: 221 2.0.0 Bye
S: <close>
"""


@pytest.mark.parametrize("cut", ["whole", "line", "octet", "random"])
async def test_a_session_however_it_is_cut(cut: Cut) -> None:
    app, taken = mail_app()
    await play(app, SESSION, cut=cut, seed=3030, binarymime=True, max_errors=20)
    assert taken == [b"a\0\xff\r\nb\r\n.\r\n", b"RSET\r\nx"]


@pytest.mark.parametrize("sizes", [[], [0], [1], [4096], [1, 1, 1], [0, 5, 0], [70_000], [10, 200_000, 3]])
async def test_one_stream_over_all_chunks(sizes: list[int]) -> None:
    app, taken = mail_app()
    async with open_client(app) as client:
        await start_transaction(client)
        for size in sizes:
            reply = await bdat(client, bytes(size))
            assert reply == Reply(250, f"{size} octets received", "2.0.0")
        assert await bdat(client, b"end", last=True) == Reply(250, "Message accepted", "2.0.0")
        assert client.session.transaction == 1
        assert client.server.stats.messages_accepted == 1
    assert taken == [bytes(sum(sizes)) + b"end"]


@pytest.mark.parametrize("last", [b"", BODY, bytes(200_000)])
async def test_a_single_chunk(last: bytes) -> None:
    app, taken = mail_app()
    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, last, last=True)).code == 250
        assert await still_in_step(client)
    assert taken == [last, BODY]


async def test_octets_are_as_sent() -> None:
    body = b"..a\r\n.\r\nbare\nand\rbare" + b"x" * 3000 + CHUNK
    app, taken = mail_app()
    async with open_client(app, max_data_line=100) as client:
        await start_transaction(client)
        assert (await bdat(client, body)).code == 250
        assert (await bdat(client, body, last=True)).code == 250
    assert taken == [body + body]


async def test_the_handlers_reply_is_the_last_chunks() -> None:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        ctx.reply = Reply(250, "Queued as 4F2A", "2.6.0")
        assert [chunk async for chunk in ctx.stream] == [b"one", b"two"]
        assert (ctx.stream.complete, ctx.stream.byte_length) == (True, 6)

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, b"one")).text == "3 octets received"
        assert (await bdat(client, b"two", last=True)).text == "Queued as 4F2A"


async def test_binarymime_needs_bdat() -> None:
    app, taken = mail_app()
    async with open_client(app, binarymime=True) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org> BODY=BINARYMIME")
        await client.command("RCPT TO:<b@example.com>")
        assert client.session.envelope.body_type == "BINARYMIME"
        assert status(await client.command("DATA")) == (503, "5.5.1")
        assert (await bdat(client, CHUNK, last=True)).code == 250
    assert taken == [CHUNK]


async def test_replies_leave_before_octets_are_waited_for() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await start_transaction(client)
        # The second chunk's octets come later.
        await client.send_bytes(b"BDAT 3\r\noneBDAT 3\r\n")
        assert (await client.read_reply()).text == "3 octets received"
        await client.send_bytes(b"two")
        assert (await client.read_reply()).text == "3 octets received"
        await client.command("RSET")
        # The same where they are swallowed.
        await client.send_bytes(b"NOOP\r\nBDAT 3\r\n")
        assert (await client.read_reply()).code == 250
        await client.send_bytes(b"two")
        assert (await client.read_reply()).code == 503


async def test_a_new_message_begins_anew() -> None:
    app, taken = mail_app()
    async with open_client(app) as client:
        for _ in range(3):
            await client.send_bytes(
                b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nBDAT 3\r\noneBDAT 3 LAST\r\ntwo"
            )
            codes = [(await client.read_reply()).code for _ in range(5)]
            assert codes == [250] * 5
        await start_data(client)
        await client.send_bytes(stuff(BODY))
        assert (await client.read_reply()).code == 250
    assert taken == [b"onetwo"] * 3 + [BODY]


# --- What cannot be located closes ---


@pytest.mark.parametrize(
    ("line", "enhanced"),
    [
        ("BDAT", "5.5.4"),
        ("BDAT ", "5.5.4"),
        ("BDAT x", "5.5.4"),
        ("BDAT -1", "5.5.4"),
        ("BDAT +1", "5.5.4"),
        ("BDAT 1.0", "5.5.4"),
        ("BDAT 0x10", "5.5.4"),
        ("BDAT LAST", "5.5.4"),
        ("BDAT 1 LASTLY", "5.5.4"),
        ("BDAT 1 LAST LAST", "5.5.4"),
        ("BDAT 1LAST", "5.5.4"),
        ("BDAT 1 1", "5.5.4"),
        ("BDAT " + "1" * 21, "5.5.4"),
        ("BDAT\t1", "5.5.4"),
        ("BDAT 1\x00", "5.5.4"),
        ("BDAT \u0661", "5.5.4"),
        (b"BDAT 1 \xff", "5.5.4"),
    ],
)
@pytest.mark.parametrize("in_transaction", [True, False])
async def test_a_bad_count_closes(line: str | bytes, enhanced: str, in_transaction: bool) -> None:
    app, taken = mail_app()
    closes = note_closes(app)
    async with open_client(app) as client:
        if in_transaction:
            await start_transaction(client)
        else:
            await client.ehlo()
        wire = line if isinstance(line, bytes) else line.encode()
        await client.send_bytes(wire + b"\r\nRSET\r\nNOOP\r\n")
        assert status(await client.read_reply()) == (521, enhanced)
        assert await closed(client)
    assert taken == []
    assert closes in (["refused"], ["abuse"])


async def test_a_word_that_begins_like_it_is_another() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await client.command("BDATA 1")) == (500, "5.5.1")
        assert status(await client.command(b"BDATA \xff")) == (500, "5.5.2")


@pytest.mark.parametrize("off", ["chunking", "disabled_commands"])
async def test_where_chunking_is_off_bdat_closes(off: str) -> None:
    app, _ = mail_app()
    config = Config(chunking=False) if off == "chunking" else Config(disabled_commands=frozenset({"BDAT"}))
    async with open_client(app, config) as client:
        assert not any("CHUNKING" in line or "BINARYMIME" in line for line in (await client.ehlo()).lines)
        assert status(await client.command("BDAT 5")) == (521, "5.5.1")
        assert await closed(client)


# --- Wrong states: the octets are swallowed first ---


@pytest.mark.parametrize(
    ("before", "expected", "errors"),
    [
        pytest.param([], (503, None), 1, id="before EHLO"),
        pytest.param(["EHLO x"], (503, "5.5.1"), 1, id="before MAIL"),
        pytest.param(["EHLO x", "MAIL FROM:<a@example.org>"], (503, "5.5.1"), 1, id="before RCPT"),
        pytest.param(
            ["EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<nobody@example.com>"],
            (554, "5.5.1"),
            0,
            id="after recipients that were all refused",
        ),
        pytest.param(
            ["EHLO x", "MAIL FROM:<nobody@example.org> SIZE=99999999999"], (503, "5.5.1"), 0, id="after a refused MAIL"
        ),
    ],
)
@pytest.mark.parametrize("last", [b"", b" LAST"])
async def test_in_a_wrong_state_octets_are_no_commands(
    before: list[str], expected: tuple[int, str | None], errors: int, last: bytes
) -> None:
    app, taken = mail_app()

    @app.on_rcpt_to
    async def known(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject()

    async with open_client(app, max_errors=3) as client:
        for line in before:
            await client.command(line)
        for _ in range(2 if errors else 20):
            await client.send_bytes(b"BDAT %d%s\r\n%sNOOP\r\n" % (len(HOSTILE), last, HOSTILE))
            assert status(await client.read_reply()) == expected
            assert (await client.read_reply()).code == 250
    assert taken == []


@pytest.mark.parametrize("guard", ["auth_required", "starttls_required"])
async def test_what_is_required_comes_before_order(guard: str, server_ssl_context: ssl.SSLContext) -> None:
    app, taken = mail_app()

    @app.on_auth
    async def nobody(ctx: object) -> None:
        return

    required: dict[str, Any] = {guard: True}
    async with open_client(app, ssl_context=server_ssl_context, **required) as client:
        await client.ehlo()
        await client.send_bytes(b"BDAT %d LAST\r\n%sNOOP\r\n" % (len(HOSTILE), HOSTILE))
        assert status(await client.read_reply()) == (530, "5.7.0")
        assert (await client.read_reply()).code == 250
    assert taken == []


# --- Refused messages ---


@pytest.mark.parametrize("code", [554, 450])
async def test_what_on_data_start_refuses_is_swallowed_to_its_end(code: int) -> None:
    app, taken = mail_app()
    asked = 0

    @app.on_data_start
    async def refuse(ctx: DataStartContext) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            ctx.reject("Not today", code)

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, HOSTILE)).code == code
        assert (await bdat(client, HOSTILE)).text == "Not today"
        assert (await client.command("NOOP")).code == 250
        assert (await client.command("RCPT TO:<c@example.com>")).code == 503
        assert (await bdat(client, HOSTILE, last=True)).code == code
        assert client.server.stats.messages_refused == 1
        assert client.session.transaction == 1
        # A new transaction is asked about anew.
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
        assert (await client.command("RCPT TO:<b@example.com>")).code == 250
        assert (await bdat(client, BODY, last=True)).code == 250
    assert (taken, asked) == ([BODY], 2)


async def test_rset_ends_a_refused_message() -> None:
    app, taken = mail_app()
    refusing = True

    @app.on_data_start
    async def refuse(ctx: DataStartContext) -> None:
        if refusing:
            ctx.reject()

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, HOSTILE)).code == 554
        refusing = False
        assert await still_in_step(client)
    assert taken == [BODY]


@pytest.mark.parametrize("code", [421, 521])
@pytest.mark.parametrize("last", [True, False])
async def test_on_data_start_may_close(code: int, last: bool) -> None:
    app, _ = mail_app()
    closes = note_closes(app)

    @app.on_data_start
    async def refuse(ctx: DataStartContext) -> None:
        ctx.disconnect("Enough", code)

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await bdat(client, HOSTILE, last=last)).code == code
        assert await closed(client)
    assert closes == ["refused"]


@pytest.mark.parametrize("last", [True, False])
async def test_without_a_handler_no_message_is_taken(last: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with open_client(App()) as client:
        await start_transaction(client)
        assert status(await bdat(client, HOSTILE, last=last)) == (554, "5.3.5")
        assert (await client.command("NOOP")).code == 250


async def test_on_data_start_may_word_the_reply_that_a_chunk_does_not_show() -> None:
    app, taken = mail_app()

    @app.on_data_start
    async def word(ctx: DataStartContext) -> None:
        ctx.reply = Reply(354, "Go ahead")

    async with open_client(app) as client:
        await start_transaction(client)
        assert status(await bdat(client, BODY, last=True)) == (250, "2.0.0")
        await start_transaction(client)
        assert (await client.command("DATA")).text == "Go ahead"
    assert taken == [BODY]
