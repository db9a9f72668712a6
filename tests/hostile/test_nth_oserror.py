"""Errors of the system at every call on a connection's socket: that connection ends, and nothing else does.

The method is SQLite's for I/O errors: the n-th call of one method fails, for every n, until a whole run passes without
an n-th call. The sockets are real ones, and the server's ends of them are objects of a class that counts its calls.
"""

from __future__ import annotations

import errno
import itertools
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from tests.support import LARGE, note_closes
from tests.transport_support import tcp_sockets, unix_sockets
from trio_smtp import (
    App,
    Config,
    ConnectContext,
    DataContext,
    DataStartContext,
    MessageIncomplete,
    SMTPServer,
)
from trio_smtp.net.transport import Outbox, SocketTransport
from trio_smtp.testing import Client, stuff

from .oserror_support import Doorway, Plan, PlannedSocket, descriptors
from .support import watched_log

SMALL = b"Subject: small\r\n\r\n.\r\n"
REFUSED = b"Subject: refused\r\n\r\nbuy\r\n"
CHUNKED = b"Subject: chunked\r\n\r\n" + b"octets"
LAST = b"Subject: last\r\n\r\nin one chunk"
GOOD = [SMALL, LARGE, CHUNKED, LAST]

ERRORS = [errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ENOBUFS, errno.EIO]
#: Octets of one send of the client.
PIECE = 30_000

Sockets = Callable[[], tuple[socket.socket, socket.socket]]
Tls = Literal["", "STARTTLS", "implicit"]


@attrs.frozen
class Step:
    """What the client says, and the code of the reply; `holds`: nothing may follow before that."""

    octets: bytes
    code: int
    message: bytes = b""
    holds: bool = False


def steps(last: Step) -> Iterator[Step]:
    """A dialogue with all ways to send a message, and this at its end."""
    envelope = [
        Step(b"MAIL FROM:<a@example.org>\r\n", 250),
        Step(b"RCPT TO:<b@example.com>\r\n", 250),
        Step(b"RCPT TO:<c@example.com>\r\n", 250),
    ]
    start = Step(b"DATA\r\n", 354, holds=True)
    yield Step(b"EHLO x\r\n", 250, holds=True)
    yield from [*envelope, start, Step(stuff(SMALL), 250, SMALL)]
    yield from [*envelope, start, Step(stuff(LARGE), 250, LARGE)]
    yield from [*envelope, start, Step(stuff(REFUSED), 554)]
    yield from [*envelope, Step(b"BDAT 10\r\n" + CHUNKED[:10], 250), Step(b"BDAT 0\r\n", 250)]
    yield Step(b"BDAT %d LAST\r\n" % (len(CHUNKED) - 10) + CHUNKED[10:], 250, CHUNKED)
    yield from [*envelope, Step(b"BDAT %d LAST\r\n" % len(LAST) + LAST, 250, LAST)]
    # Given up between its chunks.
    yield from [*envelope, Step(b"BDAT 10\r\n" + CHUNKED[:10], 250), Step(b"RSET\r\n", 250)]
    yield last


def turns(last: Step, *, pipelined: bool) -> Iterator[list[Step]]:
    """The same dialogue in turns: the client sends all of one, then it reads the replies."""
    turn: list[Step] = []
    for step in steps(last):
        turn.append(step)
        if step.holds or not pipelined:
            yield turn
            turn = []


@attrs.frozen
class Case:
    """One way to play the dialogue."""

    pipelined: bool = False
    sockets: Sockets = tcp_sockets
    #: Replies are sent at the end of the pass; without it, each by `send_all`.
    outbox: bool = True
    tls: Tls = ""
    narrow: int | None = None
    #: The App has an `on_close` handler: without one, a socket is closed in another way.
    on_close: bool = True
    #: Not the client ends the session but the server, after one error.
    abuse: bool = False

    @property
    def last(self) -> Step:
        return Step(b"FROB\r\n", 421, holds=True) if self.abuse else Step(b"QUIT\r\n", 221, holds=True)

    def __str__(self) -> str:
        words = [
            self.sockets.__name__.partition("_")[0],
            "pipelined" if self.pipelined else "step by step",
            "" if self.outbox else "send_all",
            self.tls,
            "narrow" if self.narrow else "",
            "" if self.on_close else "no on_close",
            "abuse" if self.abuse else "",
        ]
        return ", ".join(filter(None, words))


@attrs.define(eq=False)
class Scene:
    """A server, a client whose socket fails as planned, and another client that must not notice."""

    case: Case
    plan: Plan
    contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    app: App = attrs.field(factory=App)
    connected: int = 0
    begun: int = 0
    running: int = 0
    stored: list[bytes] = attrs.field(factory=list)
    acknowledged: list[bytes] = attrs.field(factory=list)
    #: What `on_close` was given.
    closes: list[str] = attrs.field(factory=list)
    records: list[logging.LogRecord] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        if self.case.on_close:
            self.closes = note_closes(self.app)

        @self.app.on_connect
        async def connect(ctx: ConnectContext) -> None:
            self.connected += 1

        @self.app.on_data_start
        async def begin(ctx: DataStartContext) -> None:
            self.begun += 1

        @self.app.on_data
        async def store(ctx: DataContext) -> None:
            self.running += 1
            try:
                body = b""
                async for chunk in ctx.stream:
                    body += chunk
                    await trio.lowlevel.checkpoint()
            except MessageIncomplete:
                assert not ctx.stream.complete
                raise
            finally:
                self.running -= 1
            if body == REFUSED:
                ctx.reject("no", 554)
            assert body in GOOD
            self.stored.append(body)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def closed(self) -> list[str]:
        """Why connections were closed, the client's first."""
        return [line.partition("reason=")[2].split()[0] for line in self.lines if "connection closed" in line]

    def run(self) -> None:
        before = descriptors()
        clock = None if self.case.narrow is None else trio.testing.MockClock(autojump_threshold=0)
        with watched_log(logging.INFO) as self.records:
            trio.run(self._main, clock=clock)
        assert descriptors() == before
        assert len(self.closed) == 2
        assert self.begun - sum("message from=" in line for line in self.lines) in (0, 1)
        warnings = [record.getMessage() for record in self.records if record.levelno == logging.WARNING]
        assert all("TLS handshake failed" in line or "too many errors" in line for line in warnings)
        checks = sum("closed before the TLS handshake" in line for line in self.lines)
        assert len(warnings) + checks == self.closed.count("tls") + self.closed.count("abuse")

    async def _main(self) -> None:
        config = Config(
            hostname="mx.example",
            ssl_context=self.contexts[0] if self.case.tls else None,
            implicit_tls=self.case.tls == "implicit",
            max_errors=1,
        )
        server = SMTPServer(self.app, config)
        doorway = Doorway()
        outbox = Outbox() if self.case.outbox else None
        with (
            trio.fail_after(60 if self.case.narrow is None else 10_000),
            outbox.at_work() if outbox is not None else nullcontext(),
        ):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve_listeners, [doorway])
                other, other_socket = await self._enter(doorway, outbox, Plan("", 0, 0, lasting=False))
                await self._greet(other)
                client, its_socket = await self._enter(doorway, outbox, self.plan)
                await self._play(client, other)
                while len(server.sessions) > 1:
                    assert (await other.command("NOOP")).code == 250
                self._check(server)
                await other.ehlo()
                assert (await other.send_message("a@example.org", ["b@example.com"], SMALL)).code == 250
                assert self.stored.pop() == SMALL
                assert (await other.quit()).code == 221
                await trio.aclose_forcefully(other.stream)
                server.drain()
            # Every task of the server has ended by itself.
            assert other_socket.fileno() == its_socket.fileno() == -1
            assert self.closed[1:] == ["quit"]
            assert self.closes == (self.closed[2 - self.connected :] if self.case.on_close else [])

    async def _enter(self, doorway: Doorway, outbox: Outbox | None, plan: Plan) -> tuple[Client, socket.socket]:
        ours, theirs = self.case.sockets()
        if ours.family == socket.AF_INET:
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        planned = PlannedSocket(theirs, plan)
        plan.narrow = self.case.narrow
        doorway.enter(SocketTransport(planned, outbox))
        return Client(SocketTransport(ours)), planned

    async def _greet(self, client: Client) -> None:
        if self.case.tls == "implicit":
            client.stream = trio.SSLStream(client.stream, self.contexts[1], server_hostname="localhost")
        assert (await client.read_reply()).code == 220

    async def _play(self, client: Client, other: Client) -> None:
        """The client; it stops where the server does."""
        try:
            await self._greet(client)
            if self.case.tls == "STARTTLS":
                assert (await client.starttls(self.contexts[1], "localhost")).code == 220
            for turn in turns(self.case.last, pipelined=self.case.pipelined):
                await self._take_turn(client, turn)
                assert (await other.command("NOOP")).code == 250
        except (trio.EndOfChannel, trio.BrokenResourceError):
            pass
        finally:
            await trio.aclose_forcefully(client.stream)
        assert (await other.command("NOOP")).code == 250

    async def _take_turn(self, client: Client, turn: Sequence[Step]) -> None:
        octets = b"".join(step.octets for step in turn)
        for start in range(0, len(octets), PIECE):
            await client.send_bytes(octets[start : start + PIECE])
            await trio.testing.wait_all_tasks_blocked()
        for step in turn:
            assert (await client.read_reply()).code == step.code
            if step.message:
                self.acknowledged.append(step.message)

    def _check(self, server: SMTPServer) -> None:
        """What must hold when the client's session is over, and the other client has said nothing yet."""
        # Acknowledged is stored; one more may be stored, whose reply was lost (pipelined: as many as a turn has).
        assert self.acknowledged == self.stored[: len(self.acknowledged)]
        assert self.stored == GOOD[: len(self.stored)]
        if not self.case.pipelined:
            assert len(self.stored) - len(self.acknowledged) in (0, 1)
        assert self.running == 0
        stats = server.stats
        assert stats.messages_accepted == len(self.stored)
        # A message begins when the replies before its first octet have left: the last one may not have begun.
        settled = stats.messages_accepted + stats.messages_refused + stats.messages_incomplete
        assert self.begun - settled in (0, 1)
        assert (stats.connections_accepted, stats.connections_open) == (2, 1)
        (reason,) = self.closed
        assert reason in ("lost", "abuse" if self.case.abuse else "quit", "tls")
        assert stats.tls_failures == (reason == "tls")
        assert self.connected == (1 if reason == "tls" and self.case.tls == "implicit" else 2)


def every_call(
    case: Case, method: str, errors: Sequence[int], contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> list[Scene]:
    """A scene for each call there is, once with one failure and once with all that follow; the errors take turns."""
    scenes: list[Scene] = []
    for lasting in (False, True):
        for n in itertools.count(1):
            scene = Scene(case, Plan(method, n, errors[(n + lasting) % len(errors)], lasting), contexts)
            scene.run()
            scenes.append(scene)
            if not scene.plan.reached:
                assert scene.acknowledged == scene.stored == GOOD
                assert scene.closed == ["abuse" if case.abuse else "quit", "quit"]
                break
            assert n < 2000
    return scenes


CASES = [
    Case(),
    Case(pipelined=True),
    Case(outbox=False),
    Case(pipelined=True, outbox=False),
    Case(sockets=unix_sockets),
    Case(sockets=unix_sockets, pipelined=True),
    Case(sockets=unix_sockets, narrow=50),
    Case(sockets=unix_sockets, narrow=50, outbox=False, pipelined=True),
    Case(on_close=False),
    Case(on_close=False, outbox=False, pipelined=True),
    Case(abuse=True),
    Case(abuse=True, outbox=False, on_close=False),
    Case(abuse=True, tls="STARTTLS"),
    Case(tls="STARTTLS"),
    Case(tls="STARTTLS", pipelined=True),
    Case(tls="implicit"),
]


@pytest.fixture(scope="module")
def contexts(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return server_ssl_context, client_ssl_context


@pytest.mark.parametrize("method", ["send", "recv"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_nth_call_fails(case: Case, method: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    scenes = every_call(case, method, ERRORS, contexts)
    assert len(scenes) > 20
    # The failures came everywhere: before the greeting, and after each of the messages.
    stored = {len(scene.stored) for scene in scenes}
    assert stored <= {0, 1, 2, 3, 4} if case.pipelined else stored == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("method", ["send", "recv"])
def test_every_error(method: str, error: int, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    every_call(Case(), method, [error], contexts)


@pytest.mark.parametrize("method", ["shutdown", "close", "getpeername", "getsockname"])
@pytest.mark.parametrize(
    "case",
    [Case(), Case(outbox=False), Case(on_close=False), Case(tls="STARTTLS"), Case(abuse=True, on_close=False)],
    ids=str,
)
def test_what_only_begins_and_ends_a_connection_fails(
    case: Case, method: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    scenes = every_call(case, method, [errno.ENOTCONN, errno.EINVAL, errno.EIO], contexts)
    assert len(scenes) >= 4
    for scene in scenes:
        assert scene.acknowledged == scene.stored == GOOD
        assert scene.closed == ["abuse" if case.abuse else "quit", "quit"]


# Connections that are refused


async def refuse_one(plan: Plan, *, outbox: bool) -> None:
    """A connection over the limit is refused while its socket fails as planned; another one goes on."""
    server = SMTPServer(App(), Config(hostname="mx.example", max_connections=1))
    doorway = Doorway()
    with Outbox().at_work() as at_work, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, [doorway])
            sockets: list[socket.socket] = []
            clients: list[Client] = []
            for each in (Plan("", 0, 0, lasting=False), plan):
                ours, theirs = tcp_sockets()
                sockets.append(PlannedSocket(theirs, each))
                clients.append(Client(SocketTransport(ours)))
                doorway.enter(SocketTransport(sockets[-1], at_work if outbox else None))
                with suppress(trio.EndOfChannel, trio.BrokenResourceError):
                    assert (await clients[-1].read_reply()).code == (220 if len(clients) == 1 else 421)
            await trio.aclose_forcefully(clients[1].stream)
            while sockets[1].fileno() >= 0:
                assert (await clients[0].command("NOOP")).code == 250
            assert server.stats.connections_refused == 1
            assert (await clients[0].quit()).code == 221
            await trio.aclose_forcefully(clients[0].stream)
            server.drain()


@pytest.mark.parametrize("outbox", [True, False], ids=["outbox", "send_all"])
@pytest.mark.parametrize("method", ["send", "recv", "shutdown", "close", "getpeername", "getsockname"])
def test_a_refusal_fails(method: str, outbox: bool) -> None:
    for error in ERRORS:
        for n in itertools.count(1):
            plan = Plan(method, n, error, lasting=False)
            before = descriptors()
            with watched_log():
                trio.run(partial(refuse_one, plan, outbox=outbox))
            assert descriptors() == before
            if not plan.reached:
                break
        assert n > 1
