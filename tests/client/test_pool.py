"""Pools: sessions are used again, replaced where the server has ended them, and never used when half used."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.socket_support import port_of, serving
from trio_smtp import ConnectContext, DataContext
from trio_smtp.client import DeliveryError, DeliveryFailed, DeliveryRefused, Pool
from trio_smtp.testing import MemoryListener

from .support import Lines, Mailbox, Script, in_memory, scripted
from .test_client import EVERYTHING, MAIL, picky

TO: Any = ("a@example.org", "b@example.com", MAIL)


def counting(box: Mailbox) -> list[int]:
    """Counts connections."""
    count = [0]

    @box.app.on_connect
    async def connected(ctx: ConnectContext) -> None:
        count[0] += 1

    return count


async def test_sessions_are_used_again() -> None:
    box = Mailbox()
    picky(box)
    count = counting(box)
    async with in_memory(box.app) as listener, Pool("smtp://mx", tls="none", open_stream=listener.connect) as pool:
        for _ in range(3):
            await pool.send(*TO)
        with pytest.raises(DeliveryRefused):
            await pool.send("a@example.org", "nobody@example.com", MAIL)
        async with pool.transaction("a@example.org") as t:
            await t.recipient("b@example.com")
            await t.data_start()
            await t.write(MAIL)
            await t.finish()
        async with pool.client() as client:
            await client.send(*TO)
        with pytest.raises(LookupError):
            async with pool.client() as client:
                raise LookupError
        await pool.send(*TO)
    assert count == [1]
    assert box.messages == [MAIL] * 6
    with pytest.raises(trio.ClosedResourceError):
        await pool.send(*TO)


async def test_no_more_than_so_many_at_once() -> None:
    box = Mailbox()
    count = counting(box)
    most, now = 0, 0

    @box.app.on_data
    async def slow(ctx: DataContext) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await trio.testing.wait_all_tasks_blocked()
        now -= 1

    async with (
        in_memory(box.app) as listener,
        Pool("smtp://mx", size=3, tls="none", open_stream=listener.connect) as pool,
        trio.open_nursery() as nursery,
    ):
        for _ in range(20):
            nursery.start_soon(lambda: pool.send(*TO))
    assert count[0] <= 3
    assert 1 < most <= 3
    assert len(box.messages) == 20


async def test_a_session_ends_after_so_many_transactions() -> None:
    box = Mailbox()
    count = counting(box)
    async with (
        in_memory(box.app) as listener,
        Pool("smtp://mx", max_messages=2, tls="none", open_stream=listener.connect) as pool,
    ):
        for _ in range(5):
            await pool.send(*TO)
    assert count == [3]


async def test_a_session_that_was_idle_for_too_long(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()
    count = counting(box)
    async with (
        in_memory(box.app) as listener,
        Pool("smtp://mx", idle=10, tls="none", open_stream=listener.connect) as pool,
    ):
        await pool.send(*TO)
        await trio.sleep(9)
        await pool.send(*TO)
        await trio.sleep(11)
        await pool.send(*TO)
    assert count == [2]


def ends_after_one(ending: bytes, *, at_once: bool) -> Script:
    """Takes one message, and ends the session: at once, or when the next MAIL comes."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        for reply in (b"250 mx\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await lines.next()
            await stream.send_all(reply)
        while await lines.next() != b".":
            pass
        await stream.send_all(b"250 taken\r\n" + (ending if at_once else b""))
        if not at_once:
            await lines.next()
            await stream.send_all(ending)

    return serve


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("ending", [b"", b"421 idle\r\n"])
@pytest.mark.parametrize("transaction", [False, True])
async def test_a_session_that_the_server_has_ended(ending: bytes, at_once: bool, transaction: bool) -> None:
    script = ends_after_one(ending, at_once=at_once)
    async with (
        scripted(script, script) as open_stream,
        Pool("smtp://mx", tls="none", open_stream=open_stream) as pool,
    ):
        await pool.send(*TO)
        if transaction:
            async with pool.transaction("a@example.org") as t:
                assert t.reply.code == 250
        else:
            assert (await pool.send(*TO)).reply.code == 250


async def test_a_fresh_session_is_not_tried_again() -> None:
    async def closes(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        await lines.next()
        await stream.send_all(b"250 mx\r\n")
        await lines.next()

    async with (
        scripted(closes, closes, ends_after_one(b"", at_once=False), closes) as open_stream,
        Pool("smtp://mx", tls="none", open_stream=open_stream) as pool,
    ):
        with pytest.raises(DeliveryFailed, match="mail"):
            await pool.send(*TO)
        with pytest.raises(DeliveryFailed, match="mail"):
            await pool.transaction("a@example.org").__aenter__()
        await pool.send(*TO)
        with pytest.raises(DeliveryFailed, match="mail"):
            await pool.send(*TO)


async def test_a_message_that_may_have_been_taken_is_not_sent_again() -> None:
    async def takes_and_closes(stream: trio.abc.Stream) -> None:
        script = ends_after_one(b"250 ok\r\n", at_once=False)
        await script(stream)
        lines = Lines(stream)
        for reply in (b"250 ok\r\n", b"354 go\r\n"):
            await lines.next()
            await stream.send_all(reply)
        while await lines.next() != b".":
            pass

    async with (
        scripted(takes_and_closes) as open_stream,
        Pool("smtp://mx", tls="none", open_stream=open_stream) as pool,
    ):
        await pool.send(*TO)
        with pytest.raises(DeliveryFailed) as caught:
            await pool.send(*TO)
        assert caught.value.uncertain


async def test_what_is_read_from_a_quiet_server_is_its_end(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    """On sockets a session that the server has ended is noticed before it is used."""
    box = Mailbox()
    count = counting(box)
    for context in (None, server_ssl_context):
        async with serving(box.app, command_timeout=0.5, ssl_context=context) as server:
            url = f"smtp://localhost:{port_of(server)}"
            options: Any = {"tls": "none"} if context is None else {"ssl_context": client_ssl_context}
            async with Pool(url, **options) as pool:
                await pool.send(*TO)
                await pool.send(*TO)
                await trio.sleep(1)
                await pool.send(*TO)
    assert count == [4]
    assert len(box.messages) == 6


async def test_a_session_given_back_to_a_closed_pool_ends() -> None:
    box = Mailbox()
    async with in_memory(box.app) as listener:
        pool = Pool("smtp://mx", tls="none", open_stream=listener.connect)
        async with pool.client() as client:
            await pool.aclose()
            await client.send(*TO)
        assert not client.usable


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before a task takes a certain step."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self.left = step
        self._task = task
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.left -= 1
            if self.left == 0:
                self._scope.cancel()


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("used", [False, True])
async def test_cancellation_at_every_checkpoint(used: bool, chunking: bool) -> None:
    """Nothing half used goes back to the pool: the message behind a cancelled one arrives as it is."""
    step, finished = 1, False
    while not finished:
        box = Mailbox()
        async with (
            in_memory(box.app, EVERYTHING) as listener,
            Pool("smtp://mx", size=1, tls="none", open_stream=listener.connect) as pool,
        ):
            if used:
                await pool.send(*TO)
            before = len(box.messages)
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await pool.send("a@example.org", "b@example.com", b"cancelled\r\n", chunking=chunking)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            finished = instrument.left > 0
            assert scope.cancelled_caught or finished or box.messages[before:] == [b"cancelled\r\n"]
            with trio.fail_after(5):
                await pool.send("a@example.org", "b@example.com", b"next\r\n")
            assert box.messages[before:] in ([b"next\r\n"], [b"cancelled\r\n", b"next\r\n"])
        step += 1
    assert step > 5


async def test_a_block_that_is_cancelled_between_two_steps_leaves_a_session_that_is_all_right() -> None:
    box = Mailbox()
    count = counting(box)
    async with in_memory(box.app) as listener, Pool("smtp://mx", tls="none", open_stream=listener.connect) as pool:
        with trio.CancelScope() as scope:
            async with pool.client():
                scope.cancel()
                await trio.sleep_forever()
        await pool.send(*TO)
    assert count == [1]


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"size": True}, {"max_messages": 0}, {"idle": 0}, {"idle": -1}, {"tls": "no"}]
)
def test_options_that_are_not_allowed(options: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        Pool("smtp://mx", **options)


async def test_servers_that_are_killed_again_and_again() -> None:
    """What was accepted has arrived, what failed for certain has not; nothing waits for ever, and no slot is lost."""
    box = Mailbox()
    listening: list[MemoryListener] = []
    opened, stays = 0, trio.Event()

    async def open_stream() -> trio.abc.Stream:
        nonlocal opened
        opened += 1
        if not listening:
            raise ConnectionRefusedError
        return await listening[-1].connect()

    async def lives(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Servers, one after the other; each is killed in the middle of whatever it does."""
        for life in range(25):
            with trio.move_on_after(0.02):
                async with in_memory(box.app) as listener:
                    listening.append(listener)
                    task_status.started() if not life else None
                    await trio.sleep_forever()
            listening.clear()
            await trio.sleep(0.001)
        async with in_memory(box.app) as listener:
            listening.append(listener)
            stays.set()
            await trio.sleep_forever()

    became: dict[bytes, list[str]] = {}

    async def sender(pool: Pool, first: int) -> None:
        for number in range(first, first + 60):
            message = b"Subject: %d\r\n\r\n" % number
            for _ in range(100):
                try:
                    await pool.send("a@example.org", "b@example.com", message, chunking=bool(number % 2))
                    became.setdefault(message, []).append("accepted")
                    break
                except DeliveryFailed as error:
                    became.setdefault(message, []).append("uncertain" if error.uncertain else "failed")
                except DeliveryRefused:  # the server said so before it went
                    became.setdefault(message, []).append("failed")
                with suppress(DeliveryError), trio.move_on_after(0.0005):  # a cancellation now and then
                    await pool.send("a@example.org", "b@example.com", b"Subject: cancelled\r\n\r\n")
                await trio.sleep(0.002)

    with trio.fail_after(60):
        async with (
            Pool("smtp://mx", size=3, tls="none", open_stream=open_stream) as pool,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(lives)
            async with trio.open_nursery() as senders:
                for first in range(0, 480, 60):
                    senders.start_soon(sender, pool, first)
            await stays.wait()
            async with trio.open_nursery() as all_slots:  # each of them can be had still
                for _ in range(3):
                    all_slots.start_soon(partial(pool.send, *TO))
            nursery.cancel_scope.cancel()
    assert len(became) == 480
    assert opened > 5
    for message, attempts in became.items():
        arrived, uncertain = box.messages.count(message), attempts.count("uncertain")
        assert attempts[-1] == "accepted"
        assert 1 <= arrived <= 1 + uncertain
