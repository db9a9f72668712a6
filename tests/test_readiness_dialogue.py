"""Commands that are answered without waking the connection's task: the client hears what it hears in memory."""

from __future__ import annotations

import logging
import select
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.golden_support import CUTS, HANDSHAKE, Streams, exchange, wire_lines
from tests.hostile.support import run
from tests.support import COMPILED
from tests.test_golden import GROUPS
from tests.transport_support import tcp_sockets
from trio_smtp import App, CommandContext, Config, DataContext, SMTPServer
from trio_smtp.net import readiness as module
from trio_smtp.net.readiness import Readiness
from trio_smtp.net.transport import Outbox, SocketTransport

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll is Linux's")

CASES = [
    pytest.param(case, id=f"{group}: {name}")
    for group, cases in GROUPS.items()
    for name, case in cases.items()
    # The example "auth" works in threads: between real sockets, virtual time runs away from them.
    if case.peer is None and not case.silent and HANDSHAKE not in case.turns and (group, name) != ("examples", "auth")
]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often connections had octets, and how often their tasks were woken for them; none are few."""
    monkeypatch.setattr(module, "_FEW", 0)
    counted: Counter[str] = Counter()
    if COMPILED:  # a compiled class cannot be patched
        return counted
    wake, reschedule = module.Readable.wake, module.Readable._reschedule  # noqa: SLF001

    def count_wake(self: module.Readable, events: int) -> None:
        counted["events"] += 1
        wake(self, events)

    def count_reschedule(self: module.Readable, result: object) -> None:
        counted["woken"] += 1
        reschedule(self, result)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Readable, "wake", count_wake)
    monkeypatch.setattr(module.Readable, "_reschedule", count_reschedule)
    return counted


@asynccontextmanager
async def many() -> AsyncIterator[tuple[Outbox, Readiness]]:
    """What a server of many connections gives their transports."""
    readiness = Readiness()
    with Outbox().at_work() as outbox:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            await wait_all_tasks_blocked()
            yield outbox, readiness
            nursery.cancel_scope.cancel()


def said_over_sockets(case: object, cut: str) -> bytes:
    said = b""

    async def main() -> None:
        nonlocal said
        async with many() as (outbox, readiness):

            def streams() -> Streams:
                ours, theirs = tcp_sockets()
                return SocketTransport(ours), SocketTransport(theirs, outbox, readiness)

            said = await exchange(case, cut, streams)  # type: ignore[arg-type]

    run(main)
    return said


@pytest.mark.parametrize("case", CASES)
def test_the_client_hears_the_same(case: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")  # with DEBUG the task is woken for each line
    for cut in CUTS:
        in_memory = b""

        async def main(cut: str = cut) -> None:
            nonlocal in_memory
            in_memory = await exchange(case, cut)  # type: ignore[arg-type]

        run(main)
        assert list(wire_lines(said_over_sockets(case, cut))) == list(wire_lines(in_memory))


def mail_app(taken: list[bytes]) -> App:
    app = App()

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())

    return app


@contextmanager
def connected(server: SMTPServer, nursery: trio.Nursery, made: tuple[Outbox, Readiness]) -> Iterator[socket.socket]:
    ours, theirs = tcp_sockets()
    ours.setblocking(False)
    nursery.start_soon(server.serve_stream, SocketTransport(theirs, *made))
    with ours:
        yield ours


async def say(client: socket.socket, octets: bytes, *codes: bytes) -> None:
    client.send(octets)
    heard = b""
    while heard.count(b"\n") < len(codes):
        await trio.lowlevel.wait_readable(client)
        heard += client.recv(65_536)
    assert [line[:3] for line in heard.splitlines()] == list(codes)


TO_DATA = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"


@pytest.mark.skipif(COMPILED, reason="nothing is counted then")
async def test_a_message_wakes_its_task_once(calls: Counter[str]) -> None:
    taken: list[bytes] = []
    server = SMTPServer(mail_app(taken), Config(hostname="mx.example"))
    async with many() as made, trio.open_nursery() as nursery:
        with connected(server, nursery, made) as client, trio.fail_after(5):
            await say(client, b"", b"220")
            await say(client, b"HELO me\r\n", b"250")
            await say(client, b"NOOP\r\n", b"250")
            calls.clear()
            for _ in range(3):
                await say(client, b"MAIL FROM:<a@example.org>\r\n", b"250")
                await say(client, b"RCPT TO:<b@example.com>\r\n", b"250")
                await say(client, b"DATA\r\n", b"354")
                await say(client, b"x\r\n.\r\n", b"250")
            assert calls == {"events": 12, "woken": 3}
            await say(client, b"QUIT\r\n", b"221")
    assert taken == [b"x\r\n"] * 3


@pytest.mark.skipif(COMPILED, reason="nothing is counted then")
@pytest.mark.parametrize("why", ["on_command", "debug"])
async def test_what_a_program_may_see_runs_in_the_task(
    why: str, calls: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    app = mail_app([])
    if why == "debug":
        caplog.set_level(logging.DEBUG, "trio_smtp")
    else:

        @app.on_command
        async def see(ctx: CommandContext) -> None:
            trio.lowlevel.current_task()

    server = SMTPServer(app, Config(hostname="mx.example"))
    async with many() as made, trio.open_nursery() as nursery:
        with connected(server, nursery, made) as client, trio.fail_after(5):
            await say(client, b"", b"220")
            calls.clear()
            for _ in range(3):
                await say(client, b"NOOP\r\n", b"250")
            assert calls == {"events": 3, "woken": 3}


Ending = str
ENDINGS = {
    "the client leaves": ("lost", []),
    "the client resets": ("lost", []),
    "the client is silent": ("timeout", [b"421"]),
    "the client is slow": ("timeout", [b"421"]),
    "the server is cancelled": ("cancelled", []),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_message_of_which_nothing_has_come_is_counted(
    ending: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    taken: list[bytes] = []
    config = Config(hostname="mx.example", data_timeout=100, min_data_rate=10)
    server = SMTPServer(mail_app(taken), config)
    reason, codes = ENDINGS[ending]
    async with many() as made, trio.open_nursery() as nursery:
        with connected(server, nursery, made) as client:
            await say(client, b"", b"220")
            await say(client, b"HELO me\r\n", b"250")
            await say(client, TO_DATA, b"250", b"250", b"354")
            await wait_all_tasks_blocked()
            if ending == "the client leaves":
                client.close()
            elif ending == "the client resets":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
            elif ending == "the client is slow":
                await trio.sleep(90)
                await say(client, b"x", *codes)
            elif ending == "the server is cancelled":
                nursery.cancel_scope.cancel()
            else:
                await say(client, b"", *codes)
    assert server.stats.messages_incomplete == 1
    assert taken == []
    messages = [record.getMessage() for record in caplog.records]
    assert any("size=0 incomplete" in message for message in messages), messages
    assert any(f"reason={reason} " in message for message in messages), messages


async def test_octets_before_the_354_are_no_reason_to_wait() -> None:
    taken: list[bytes] = []
    server = SMTPServer(mail_app(taken), Config(hostname="mx.example"))
    async with many() as made, trio.open_nursery() as nursery:
        with connected(server, nursery, made) as client, trio.fail_after(5):
            await say(client, b"", b"220")
            await say(client, b"EHLO me\r\n", *[b"250"] * 9)
            await say(client, TO_DATA + b"early\r\n.\r\n", b"250", b"250", b"354", b"250")
            await say(client, TO_DATA[:-6] + b"BDAT 0 LAST\r\n", b"250", b"250", b"250")
            await say(client, TO_DATA[:-6] + b"BDAT 3 LAST\r\n", b"250", b"250")
            await say(client, b"abc", b"250")
    assert taken == [b"early\r\n", b"", b"abc"]
