"""Handlers that crash: every phase, by every kind of exception, before and after the other handlers.

Each row is one session of a server that has others: the client hears 451 and nothing of the exception, the log has one
line with its traceback, the session goes on where the contract says so, and nobody else notices.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import attrs
import pytest
import trio
import trio.testing

from tests.support import BODY, LARGE, closed, start_data, start_transaction, status
from trio_smtp import (
    App,
    AuthContext,
    CallNext,
    CloseContext,
    Config,
    DataContext,
    Extension,
    Reply,
    SMTPServer,
    VerifyContext,
)
from trio_smtp.testing import Client, stuff

from .support import watched_log

SECRET = "the words of the exception\r\n250 2.0.0 OK"
CRASHED = Reply(451, "Requested action aborted: local error in processing", "4.3.0")
CRASHED_AUTH = Reply(454, "Requested action aborted: local error in processing", "4.7.0")
#: After HELO, or before EHLO, codes stand alone.
CRASHED_PLAIN = Reply(451, CRASHED.lines)

# --- what they crash by ---


async def _fail() -> NoReturn:
    raise RuntimeError(SECRET)


async def _in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fail)
        nursery.start_soon(trio.sleep_forever)


async def _too_slow() -> None:
    with trio.fail_after(5):
        await trio.sleep_forever()


async def _endlessly() -> int:
    return await _endlessly() + 1


async def _on_closed_stream() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    await ours.send_all(b"x")


async def _on_closed_channel() -> None:
    send, receive = trio.open_memory_channel[bytes](0)
    await send.aclose()
    await receive.receive()


def _raising(error: type[Exception]) -> Callable[[], Awaitable[object]]:
    async def crash() -> NoReturn:
        raise error(SECRET)

    return crash


Crash = Callable[[], Awaitable[object]]
CRASHES: dict[str, Crash] = {
    "RuntimeError": _fail,
    "its own nursery": _in_a_nursery,
    "TooSlowError": _too_slow,
    "RecursionError": _endlessly,
    "BrokenResourceError": _on_closed_stream,
    "EndOfChannel": _on_closed_channel,
    "ClosedResourceError": _raising(trio.ClosedResourceError),
    "MemoryError": _raising(MemoryError),
    "StopIteration": _raising(StopIteration),
    "StopAsyncIteration": _raising(StopAsyncIteration),
    "UnicodeError": _raising(UnicodeError),
    "OSError": _raising(OSError),
}


# --- where they crash ---


@attrs.define(eq=False)
class Scene:
    """A server whose handlers all accept, but for one that crashes once when it is armed."""

    phase: str
    late: bool
    crash: Crash
    app: App = attrs.field(init=False)
    taken: list[bytes] = attrs.field(init=False)
    armed: bool = False
    closes: list[tuple[str, str]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.app, self.taken = app, taken = App(), []
        app.on_close(self._note)
        if self.phase != "XVERB":
            getattr(app, self.phase)(self._crash_after if self.late else self._crash_before)
        app.extend(Extension(keyword="XVERB", commands={"XVERB": self._crash_before}))

        @app.on_auth
        async def accept(ctx: AuthContext) -> None:
            ctx.accept("somebody")

        @app.on_vrfy
        @app.on_expn
        async def verify(ctx: VerifyContext) -> None:
            pass

        @app.on_data
        async def take(ctx: DataContext) -> None:
            taken.append(await ctx.stream.read())

    async def _note(self, ctx: CloseContext) -> None:
        self.closes.append((ctx.session.id, ctx.reason))

    async def _crash_before(self, ctx: object) -> None:
        if self.armed:
            self.armed = False
            await self.crash()

    async def _crash_after(self, ctx: object, call_next: CallNext) -> None:
        await call_next()
        await self._crash_before(ctx)


async def _at_connect(client: Client) -> Reply:
    return await client.read_reply()


async def _at_helo(client: Client) -> Reply:
    await client.read_reply()
    reply = await client.ehlo()
    assert client.session.host_name_appears_as is None
    assert (await client.command("MAIL FROM:<a@example.org>")).code == 503
    return reply


async def _at_auth(client: Client) -> Reply:
    await client.read_reply()
    await client.ehlo()
    reply = await client.auth_plain("a", "b")
    session = client.session
    assert (session.authenticated, session.user, session.auth_mechanism) == (False, None, None)
    assert (await client.auth_plain("a", "b")).code == 235
    return reply


async def _at_mail(client: Client) -> Reply:
    await client.read_reply()
    await client.ehlo()
    reply = await client.command("MAIL FROM:<crash@example.org>")
    assert client.session.envelope.mail_from is None
    assert (await client.command("RCPT TO:<b@example.com>")).code == 503
    return reply


async def _at_rcpt(client: Client) -> Reply:
    await client.read_reply()
    await client.ehlo()
    await client.command("MAIL FROM:<a@example.org>")
    reply = await client.command("RCPT TO:<crash@example.com>")
    assert client.session.envelope.rcpt_to == []
    assert status(await client.command("DATA")) == (554, "5.5.1")
    assert (await client.command("RCPT TO:<b@example.com>")).code == 250
    assert [each.local_part for each in client.session.envelope.rcpt_to] == ["b"]
    return reply


async def _at_data_start(client: Client) -> Reply:
    await client.read_reply()
    await start_transaction(client)
    reply = await client.command("DATA")
    # A refused command moves nothing: it may be tried again.
    assert (await client.command("DATA")).code == 354
    assert (await client.command(b"Hello\r\n.")).code == 250
    return reply


async def _at_first_chunk(client: Client) -> Reply:
    await client.read_reply()
    await start_transaction(client)
    reply = await client.command(b"BDAT 6\r\nRSET")
    assert await client.command(b"BDAT 6 LAST\r\nQUIT") == reply
    return await _ended(client, reply)


async def _ended(client: Client, reply: Reply) -> Reply:
    """The transaction is over."""
    assert (client.session.transaction, client.session.envelope.rcpt_to) == (1, [])
    assert (await client.command("RCPT TO:<b@example.com>")).code == 503
    return reply


async def _at_data(client: Client) -> Reply:
    await client.read_reply()
    await start_data(client)
    await client.send_bytes(stuff(BODY))
    return await _ended(client, await client.read_reply())


async def _at_large_data(client: Client) -> Reply:
    await client.read_reply()
    await start_data(client)
    await client.send_bytes(LARGE)
    await trio.testing.wait_all_tasks_blocked()
    await client.send_bytes(b".\r\n")
    return await _ended(client, await client.read_reply())


async def _at_only_chunk(client: Client) -> Reply:
    await client.read_reply()
    await start_transaction(client)
    return await _ended(client, await client.command(b"BDAT 6 LAST\r\nQUIT"))


async def _at_chunks(client: Client) -> Reply:
    await client.read_reply()
    await start_transaction(client)
    await client.send_bytes(b"BDAT 4\r\nRSETBDAT 4\r\nQUIT")
    replies = [await client.read_reply(), await client.read_reply()]
    await trio.testing.wait_all_tasks_blocked()
    replies.append(await client.command(b"BDAT 6 LAST\r\nQUIT"))
    # What was refused stays refused.
    refused = [reply for reply in replies if reply.code >= 400]
    assert refused == [replies[-1]] * len(refused)
    return await _ended(client, replies[-1])


async def _at_vrfy(client: Client) -> Reply:
    await client.read_reply()
    await client.ehlo()
    return await client.command("VRFY a")


async def _at_expn(client: Client) -> Reply:
    await client.read_reply()
    await client.ehlo()
    return await client.command("EXPN a")


async def _at_verb(client: Client) -> Reply:
    await client.read_reply()
    await client.ehlo()
    return await client.command("XVERB a")


#: What brings the handler to crash, and the reply to that; with what has to hold of the session's state behind it.
ROWS: dict[str, tuple[str, Callable[[Client], Awaitable[Reply]], Reply]] = {
    "on_helo": ("on_helo", _at_helo, CRASHED_PLAIN),
    "on_auth": ("on_auth", _at_auth, CRASHED_AUTH),
    "on_mail_from": ("on_mail_from", _at_mail, CRASHED),
    "on_rcpt_to": ("on_rcpt_to", _at_rcpt, CRASHED),
    "on_data_start": ("on_data_start", _at_data_start, CRASHED),
    "on_data_start at a chunk": ("on_data_start", _at_first_chunk, CRASHED),
    "on_data": ("on_data", _at_data, CRASHED),
    "on_data, streamed": ("on_data", _at_large_data, CRASHED),
    "on_data, one chunk": ("on_data", _at_only_chunk, CRASHED),
    "on_data, chunks": ("on_data", _at_chunks, CRASHED),
    "on_vrfy": ("on_vrfy", _at_vrfy, CRASHED),
    "on_expn": ("on_expn", _at_expn, CRASHED),
    "a verb": ("XVERB", _at_verb, CRASHED),
}


@asynccontextmanager
async def among_others(scene: Scene, **fields: Any) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Connects to a server of which another session is in the middle of a message; looks after everybody else."""
    server = SMTPServer(scene.app, Config(hostname="mx.example", allow_insecure_auth=True, **fields))

    async def connect() -> Client:
        ours, theirs = trio.testing.memory_stream_pair()
        client = Client(ours)
        client.session = await nursery.start(server.serve_stream, theirs)
        return client

    with watched_log(logging.ERROR, errors=True) as records:
        async with trio.open_nursery() as nursery:
            bystander, victim = await connect(), None

            async def connect_victim() -> Client:
                nonlocal victim
                scene.armed = True
                victim = await connect()
                return victim

            if not fields.get("implicit_tls"):
                await bystander.read_reply()
                await start_data(bystander)
                await bystander.send_bytes(b"Subject: half\r\n")
                await trio.testing.wait_all_tasks_blocked()
            yield connect_victim
            assert victim is not None
            assert not scene.armed
            newcomer = await connect()
            if not fields.get("implicit_tls"):
                assert (await bystander.command(b"\r\nand half\r\n.")).code == 250
                assert scene.taken[-1] == b"Subject: half\r\n\r\nand half\r\n"
                assert (await newcomer.read_reply()).code == 220
                await newcomer.ehlo()
                await deliver(newcomer, scene)
            for client in (bystander, newcomer, victim):
                await client.aclose()
    (record,) = records
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert record.getMessage() == f"session={victim.session.id} {scene.phase} handler failed"
    assert [session for session, _ in scene.closes].count(victim.session.id) == 1
    assert server.sessions == []


async def deliver(client: Client, scene: Scene) -> None:
    """A whole message goes through."""
    assert status(await client.send_message("a@example.org", ["b@example.com"], BODY)) == (250, "2.0.0")
    assert scene.taken[-1] == BODY


async def ends(client: Client, scene: Scene, reason: str) -> None:
    """The server has closed, and on_close ran once, by now."""
    assert await closed(client)
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert scene.closes == [(client.session.id, reason)]


late = pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
crash = pytest.mark.parametrize("crash", CRASHES.values(), ids=CRASHES)


@crash
@late
@pytest.mark.parametrize(("phase", "act", "expected"), ROWS.values(), ids=ROWS)
async def test_the_session_goes_on(  # noqa: PLR0917 - one row
    autojump_clock: trio.testing.MockClock,
    phase: str,
    act: Callable[[Client], Awaitable[Reply]],
    expected: Reply,
    late: bool,
    crash: Crash,
) -> None:
    scene = Scene(phase, late, crash)
    async with among_others(scene) as connect:
        client = await connect()
        assert await act(client) == expected
        assert status(await client.command("NOOP")) == (250, None if phase == "on_helo" else "2.0.0")
        assert (await client.command("RSET")).code == 250
        assert (await client.ehlo()).code == 250
        await deliver(client, scene)
        assert (await client.quit()).code == 221
        await ends(client, scene, "quit")


@crash
@late
async def test_on_connect(autojump_clock: trio.testing.MockClock, late: bool, crash: Crash) -> None:
    """Nobody was greeted, so there is nothing to go on with."""
    scene = Scene("on_connect", late, crash)
    async with among_others(scene) as connect:
        client = await connect()
        assert await client.read_reply() == CRASHED_PLAIN
        await ends(client, scene, "refused")


@crash
@late
@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
async def test_on_secure(  # noqa: PLR0917 - fixtures
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    late: bool,
    crash: Crash,
    implicit: bool,
) -> None:
    scene = Scene("on_secure", late, crash)
    async with among_others(scene, ssl_context=server_ssl_context, implicit_tls=implicit) as connect:
        client = await connect()
        if implicit:
            client.stream = trio.SSLStream(
                client.stream, client_ssl_context, server_hostname="localhost", https_compatible=True
            )
            assert await client.read_reply() == CRASHED_PLAIN
        else:
            assert (await client.read_reply()).code == 220
            await client.starttls(client_ssl_context, "localhost")
            assert await client.ehlo() == CRASHED_PLAIN
        await ends(client, scene, "refused")


@crash
@late
async def test_on_close(autojump_clock: trio.testing.MockClock, late: bool, crash: Crash) -> None:
    scene = Scene("on_close", late, crash)
    async with among_others(scene) as connect:
        client = await connect()
        await client.read_reply()
        await client.ehlo()
        await deliver(client, scene)
        assert (await client.quit()).code == 221
        await ends(client, scene, "quit")
