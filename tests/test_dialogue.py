"""The dialogue: what must come first, what EHLO shows, what text goes out, and how replies leave together."""

from __future__ import annotations

import ssl
import time
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import (
    App,
    AuthContext,
    Config,
    DataContext,
    Envelope,
    MailFromContext,
    RcptToContext,
    Reply,
    Session,
    SMTPServer,
)
from trio_smtp.dialogue.converse import converse
from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.service import Service
from trio_smtp.dialogue.steps import NEED_LINE, NEED_MORE, Leave
from trio_smtp.protocol.machine import State
from trio_smtp.testing import Client, open_client

from .support import BODY, LARGE, logged, mail_app, send, start_transaction, status

# --- what must come first ---

VERBS = [
    "HELO c.example", "EHLO c.example", "NOOP", "RSET", "HELP", "QUIT", "STARTTLS",
    "MAIL FROM:<>", "VRFY b", "EXPN b", "AUTH PLAIN AGEAYg==",
]  # fmt: skip


def auth_app() -> App:
    app, _ = mail_app()

    @app.on_auth
    async def anybody(ctx: AuthContext) -> None:
        ctx.accept()

    return app


@pytest.mark.parametrize("line", VERBS)
async def test_before_tls_all_but_a_few_are_530_where_it_is_required(
    line: str, server_ssl_context: ssl.SSLContext
) -> None:
    changes: dict[str, Any] = {"ssl_context": server_ssl_context, "allow_insecure_auth": True}
    async with open_client(auth_app(), starttls_required=True, max_errors=1, **changes) as client:
        await client.ehlo()
        reply = await client.command(line)
        if line.split(maxsplit=1)[0] in {"HELO", "EHLO", "NOOP", "RSET", "HELP", "QUIT", "STARTTLS"}:
            assert reply.code < 300
        else:
            assert status(reply) == (530, "5.7.0")  # and the limit of one error was not reached


async def test_after_tls_everything_is_open(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    async with open_client(auth_app(), ssl_context=server_ssl_context, starttls_required=True) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, "localhost")
        await client.ehlo()
        assert (await client.auth_plain("a", "b")).code == 235
        assert (await send(client)).code == 250


@pytest.mark.parametrize(
    ("allow", "required", "shown"), [(False, False, False), (True, False, True), (True, True, False)]
)
async def test_auth_is_shown_only_where_it_would_be_accepted(
    allow: bool, required: bool, shown: bool, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    changes: dict[str, Any] = {"allow_insecure_auth": allow, "starttls_required": required}
    async with open_client(auth_app(), ssl_context=server_ssl_context, **changes) as client:
        lines = (await client.ehlo()).lines
        assert ("AUTH PLAIN LOGIN" in lines) is shown
        assert "STARTTLS" in lines
        await client.starttls(client_ssl_context, "localhost")
        lines = (await client.ehlo()).lines
        assert "AUTH PLAIN LOGIN" in lines
        assert "STARTTLS" not in lines
        await client.auth_plain("a", "b")
        assert "AUTH PLAIN LOGIN" not in (await client.ehlo()).lines


async def test_without_authentication_mail_is_530_where_it_is_required() -> None:
    changes: dict[str, Any] = {"auth_required": True, "allow_insecure_auth": True}
    async with open_client(auth_app(), max_errors=1, auth_required_message="Who are you?", **changes) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nVRFY b\r\nNOOP\r\n")
        replies = [await client.read_reply() for _ in range(5)]
        assert [reply.code for reply in replies] == [530, 530, 530, 252, 250]
        assert (replies[0].text, replies[0].enhanced) == ("Who are you?", "5.7.0")
        await client.auth_plain("a", "b")
        assert (await send(client)).code == 250


async def test_an_app_that_cannot_take_mail_says_so_at_data_and_when_the_server_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_client(App()) as client:
        assert logged(caplog) == ["the App has no on_data handler: every message will be refused"]
        await start_transaction(client)
        assert status(await client.command("DATA")) == (554, "5.3.5")
        assert (await client.command("NOOP")).code == 250
        assert client.session.transaction == 0


async def test_help_names_what_there_is() -> None:
    app, _ = mail_app()
    async with open_client(app, disabled_commands=frozenset({"VRFY"})) as client:
        reply = await client.command("HELP")
        assert reply.code == 214
        verbs = set(reply.lines[1].split())
        assert {"HELO", "EHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "HELP", "QUIT"} <= verbs
        assert not {"VRFY", "STARTTLS", "LHLO", "XCLIENT"} & verbs


# --- the text of replies ---


async def test_text_that_is_not_ascii_leaves_only_where_utf8_was_asked_for() -> None:
    app, _ = mail_app()

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        ctx.reject("Größe", 550)

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        assert (await client.command("RCPT TO:<b@example.com>")).text == "Gr??e"
        await client.command("RSET")
        await client.command("MAIL FROM:<a@example.org> SMTPUTF8")
        assert (await client.command("RCPT TO:<b@example.com>")).text == "Größe"


async def test_a_long_text_is_folded_to_lines_of_512_octets() -> None:
    app, _ = mail_app()

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        ctx.reject(" ".join(["word"] * 500) + "\nand another line")

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<>")
        await client.send_bytes(b"RCPT TO:<b@example.com>\r\n")
        lines = [await client.read_line()]
        while lines[-1][3:4] == b"-":
            lines.append(await client.read_line())
        assert len(lines) > 4
        assert max(map(len, lines)) <= 512
        assert all(line[4:10] == b"5.7.1 " for line in lines)
        assert lines[-1] == b"550 5.7.1 and another line\r\n"


# --- how replies leave ---


class CountingStream(trio.abc.Stream):
    """Notes what is sent at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.sent: list[bytes] = []

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: Any) -> None:
        self.sent.append(bytes(data))
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def test_the_replies_to_a_pipelined_group_leave_in_one_send() -> None:
    app, taken = mail_app()
    ours, theirs = trio.testing.memory_stream_pair()
    client, stream = Client(ours), CountingStream(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SMTPServer(app).serve_stream, stream)
        assert (await client.read_reply()).code == 220
        stream.sent.clear()
        group = b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\n"
        await client.send_bytes(b"EHLO c.example\r\n" + group + b"NOOP\r\nDATA\r\n")
        codes = [(await client.read_reply()).code for _ in range(6)]
        assert codes == [250, 250, 250, 250, 250, 354]
        assert len(stream.sent) == 1
        # The end of one message and the beginning of the next.
        await client.send_bytes(BODY + b".\r\n" + group + b"DATA\r\n")
        assert [(await client.read_reply()).code for _ in range(5)] == [250, 250, 250, 250, 354]
        assert len(stream.sent) == 2
        # Half a command is not waited for.
        await client.send_bytes(b".\r\nNOOP\r\nNO")
        assert [(await client.read_reply()).code for _ in range(2)] == [250, 250]
        assert len(stream.sent) == 3
        await client.send_bytes(b"OP\r\nQUIT\r\n")
        assert [(await client.read_reply()).code for _ in range(2)] == [250, 221]
        assert len(stream.sent) == 4
        await client.aclose()
    assert taken == [BODY, b""]


# --- how a message reaches its handlers ---


@pytest.mark.parametrize(
    ("data", "split", "inline"), [(BODY, False, True), (b"", False, True), (BODY, True, False), (LARGE, False, False)]
)
async def test_a_message_that_is_at_hand_is_handled_inline(data: bytes, split: bool, inline: bool) -> None:
    """No nursery and no second task, whose cost is that of the rest of a small message."""
    app = App()
    tasks: list[trio.lowlevel.Task] = []

    @app.on_mail_from
    async def note(ctx: MailFromContext) -> None:
        tasks.append(trio.lowlevel.current_task())

    @app.on_data
    async def take(ctx: DataContext) -> None:
        tasks.append(trio.lowlevel.current_task())
        await ctx.stream.discard()

    async with open_client(app) as client:
        await start_transaction(client)
        assert (await client.command("DATA")).code == 354
        await client.send_bytes(data[:1] if split else b"")
        await trio.testing.wait_all_tasks_blocked()
        await client.send_bytes((data[1:] if split else data) + b".\r\n")
        assert (await client.read_reply()).code == 250
    assert (tasks[0] is tasks[1]) is inline


async def test_a_body_behind_data_in_the_buffer_is_handled_inline_too() -> None:
    app = App()
    tasks: list[trio.lowlevel.Task] = []
    heard = trio.Event()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        tasks.append(trio.lowlevel.current_task())
        await heard.wait()  # the 354 does not wait for the handlers
        assert await ctx.stream.read() == BODY

    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            tasks.append(trio.lowlevel.current_task())
            await SMTPServer(app).serve_stream(theirs)

        nursery.start_soon(serve)
        assert (await client.read_reply()).code == 220
        await client.send_bytes(
            b"HELO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + BODY + b".\r\nQUIT\r\n"
        )
        assert [(await client.read_reply()).code for _ in range(4)] == [250, 250, 250, 354]
        heard.set()
        assert [(await client.read_reply()).code for _ in range(2)] == [250, 221]
        await client.aclose()
    assert tasks[0] is tasks[1]


async def test_a_slow_handler_stops_the_reading() -> None:
    """Back-pressure: however large the message is, little more than a chunk or two is held for it."""
    app = App()
    go_on = trio.Event()
    sizes: list[int] = []

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        async for chunk in ctx.stream:
            await go_on.wait()
            sizes.append(len(chunk))

    ours, theirs = trio.testing.lockstep_stream_pair()
    client = Client(ours)
    accepted = 0

    async def pour() -> None:
        nonlocal accepted
        for _ in range(100):
            await client.send_bytes(b"x" * 30_000)
            accepted += 30_000
        await client.send_bytes(b"\r\n.\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(SMTPServer(app).serve_stream, theirs)
        assert (await client.read_reply()).code == 220
        await start_transaction(client)
        assert (await client.command("DATA")).code == 354
        nursery.start_soon(pour)
        await trio.testing.wait_all_tasks_blocked()
        assert sizes == []
        assert 0 < accepted <= 4 * 65_536
        go_on.set()
        assert (await client.read_reply()).code == 250
        await client.aclose()
    assert sum(sizes) == 3_000_002


async def test_an_envelope_kept_by_a_handler_stays_as_it_was() -> None:
    app = App()
    kept: list[Envelope] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        kept.append(ctx.envelope)
        ctx.reply = Reply(250, f"Queued as {len(kept)}", "2.6.0")

    async with open_client(app) as client:
        await client.ehlo()
        reply = await client.send_message("a@example.org", ["b@example.com"], BODY)
        assert (reply.code, reply.enhanced, reply.text) == (250, "2.6.0", "Queued as 1")
        await client.send_message("c@example.org", ["d@example.com", "e@example.com"], BODY)
    senders = [envelope.mail_from.address for envelope in kept if envelope.mail_from is not None]
    assert senders == ["a@example.org", "c@example.org"]
    assert [len(envelope.rcpt_to) for envelope in kept] == [1, 2]


def test_a_dialogue_needs_no_event_loop() -> None:
    """The driver feeds it octets, and sends what it has said when it needs more."""
    app, _ = mail_app()
    dialogue = Dialogue(Service(app, Config(hostname="mx.example")), Session(), time.monotonic)
    pending = [b"EHLO x\r\nRS", b"ET\r\nNOOP\r\n", b"QUIT\r\n"]
    said: list[list[bytes]] = []
    for step in converse(dialogue):
        if step is NEED_LINE or isinstance(step, Leave):
            said.append([line[:4] for line in dialogue.take_output().splitlines() if line[3:4] == b" "])
        if step is NEED_LINE or step is NEED_MORE:
            dialogue.feed(pending.pop(0))
    assert said == [[b"220 "], [b"250 "], [b"250 ", b"250 "], [b"221 "]]
    assert dialogue.machine.state is State.CLOSED
