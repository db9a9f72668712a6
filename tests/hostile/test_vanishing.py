"""Clients that vanish at every octet, and TLS that breaks at every step: nothing half is ever taken for whole."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.support import note_closes, start_transaction
from trio_smtp import App, AuthContext, Config, DataContext, MessageIncomplete, SMTPServer
from trio_smtp.testing import Client, open_client

from .support import cut_at, half_by_chunks, half_by_data, say_hello, watched_log

BODY = b"Subject: x\r\n\r\n.. half\r\n" + b"y" * 40 + b"\r\n"
PRELUDE = b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n"
DIALOGUES = {
    "DATA": (PRELUDE + b"DATA\r\n" + BODY.replace(b"\r\n..", b"\r\n...") + b".\r\n", b"QUIT\r\n"),
    "BDAT LAST": (PRELUDE + b"BDAT %d LAST\r\n" % len(BODY) + BODY, b"QUIT\r\n"),
    "BDAT in chunks": (
        PRELUDE + b"BDAT 10\r\n%sBDAT %d\r\n%sBDAT 0 LAST\r\n" % (BODY[:10], len(BODY) - 10, BODY[10:]),
        b"QUIT\r\n",
    ),
}


class Recorder:
    """An App that notes whole messages and halves apart."""

    def __init__(self) -> None:
        self.app = App()
        self.whole: list[bytes] = []
        self.halves: list[bytes] = []
        self.reasons = note_closes(self.app)

        @self.app.on_auth
        async def accept(ctx: AuthContext) -> None:
            ctx.accept()

        @self.app.on_data
        async def take(ctx: DataContext) -> None:
            seen = b""
            try:
                async for chunk in ctx.stream:
                    seen += chunk
            except MessageIncomplete:
                assert not ctx.stream.complete
                self.halves.append(seen)
                raise
            assert ctx.stream.complete
            self.whole.append(seen)


@pytest.mark.parametrize("abrupt", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "in two"])
@pytest.mark.parametrize("name", DIALOGUES)
async def test_a_client_that_vanishes_at_every_octet(
    autojump_clock: trio.testing.MockClock, name: str, streamed: bool, abrupt: bool
) -> None:
    dialogue, bye = DIALOGUES[name]
    wire = dialogue + bye
    for length in range(len(wire) + 1):
        recorder = Recorder()
        server = SMTPServer(recorder.app, Config(hostname="mx.example"))
        ours, theirs = trio.testing.memory_stream_pair()
        with watched_log():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve_stream, theirs)
                # In two: the second of them is what a streamed message's reader waits for.
                for segment in cut_at(wire[:length], *([length - 8] if streamed and length > 8 else [])):
                    await ours.send_all(segment)
                    await trio.testing.wait_all_tasks_blocked()
                if abrupt:
                    await ours.aclose()
                else:
                    await ours.send_eof()
        whole = length >= len(dialogue)
        assert recorder.whole == ([BODY] if whole else []), length
        assert all(BODY.startswith(half) for half in recorder.halves)
        assert len(recorder.halves) <= (0 if whole else 1)
        assert recorder.reasons == ["quit" if length == len(wire) else "lost"]
        assert server.stats.messages_accepted == len(recorder.whole)
        assert (server.sessions, server.stats.connections_open) == ([], 0)
        await ours.aclose()


# TLS

ALERT = b"\x15\x03\x03\x00\x02\x02\x28"
BROKEN = {
    "alert": ALERT,
    "garbage": b"EHLO x\r\nQUIT\r\n" * 3,
    "empty record": b"\x17\x03\x03\x00\x00" * 40,
    "forged record": b"\x17\x03\x03\x00\x20" + bytes(32),
    "endless record": b"\x17\x03\x03\xff\xff" + bytes(70_000),
    "end": b"",
}


async def _auth(client: Client) -> None:
    await client.ehlo()
    assert (await client.command("AUTH LOGIN")).code == 334


async def _mail(client: Client) -> None:
    await start_transaction(client)


async def _chunk(client: Client) -> None:
    await start_transaction(client)
    await client.send_bytes(b"BDAT 1000 LAST\r\nhalf of it")


async def _nothing(client: Client) -> None:
    pass


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(
    "step",
    [_nothing, say_hello, _auth, _mail, half_by_data, _chunk, half_by_chunks],
    ids=lambda step: step.__name__.strip("_"),
)
async def test_tls_that_breaks_inside_a_session(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    step: Callable[[Client], Awaitable[None]],
    broken: str,
) -> None:
    recorder = Recorder()
    with watched_log():
        async with open_client(recorder.app, ssl_context=server_ssl_context) as client:
            raw = client.stream
            await client.starttls(client_ssl_context, "localhost")
            await step(client)
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(raw, trio.StapledStream)
            await raw.send_all(BROKEN[broken])
            await raw.send_eof()
            with trio.fail_after(400):
                while await raw.receive_some(65_536):
                    pass
            server = client.server
    assert recorder.whole == []
    assert recorder.reasons in (["lost"], ["timeout"])
    assert (server.sessions, server.stats.messages_accepted) == ([], 0)


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
@pytest.mark.parametrize("broken", BROKEN)
async def test_tls_that_breaks_in_the_handshake(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    implicit: bool,
    broken: str,
) -> None:
    """At every octet of the client's hello, and behind it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client_ssl_context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    for length in (*range(8), *range(8, len(hello), 40), len(hello)):
        recorder = Recorder()
        server = SMTPServer(
            recorder.app, Config(hostname="mx.example", ssl_context=server_ssl_context, implicit_tls=implicit)
        )
        ours, theirs = trio.testing.memory_stream_pair()
        said = b""
        with watched_log():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve_stream, theirs)
                if not implicit:
                    await ours.send_all(b"STARTTLS\r\n")
                    await trio.testing.wait_all_tasks_blocked()
                await ours.send_all(hello[:length])
                await trio.testing.wait_all_tasks_blocked()
                await ours.send_all(BROKEN[broken])
                await ours.send_eof()
                while data := await ours.receive_some(65_536):
                    said += data
        assert server.stats.tls_failures == 1, length
        assert recorder.reasons == ([] if implicit else ["tls"])
        # No word in the clear after the 220 that began it; alerts and the server's hello are all there may be.
        clear = b"" if implicit else b"220 mx.example ESMTP\r\n220 Ready to start TLS\r\n"
        assert said.startswith(clear)
        assert said[len(clear) : len(clear) + 1] in (b"", b"\x15", b"\x16")
