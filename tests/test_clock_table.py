"""Whatever is awaited, and however it is cut short: the reason that `on_close` is given, and the last words.

The table is written by hand; each cell is tried on a `Clock` alone, and some of them on whole servers.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from trio_smtp import App, CloseReason, Config, DataContext
from trio_smtp.connection.clock import (
    BODY,
    COMMAND,
    EARLY_TALK,
    FIRST_HANDSHAKE,
    HANDLERS,
    HANDSHAKE,
    LINGER,
    PAUSE,
    PROXY_HEADER,
    SEND,
    Activity,
    Cause,
    Clock,
)
from trio_smtp.connection.ending import last_words
from trio_smtp.protocol.replies import Reply
from trio_smtp.testing import Client, open_client, stuff

from .support import BODY as SMALL_BODY
from .support import LARGE, note_closes, start_data

#: In seconds: the time of what is awaited, and of the session.
OWN, SESSION = 20.0, 100.0
#: How long a drain may take, in seconds.
DRAIN = 30.0

Way = Literal["its own time", "session_timeout", "both at once", "a stuck sender", "a drain at once", "a drain's end"]
End = tuple[CloseReason, str]

SILENCE: End = ("timeout", "421 4.4.2 Timeout waiting for the client")
PROCESSING: End = ("timeout", "421 4.3.0 Timeout in processing")
STUCK: End = ("timeout", "")
TLS: End = ("tls", "")
DRAINED: End = ("drained", "421 4.3.2 Service shutting down")
DRAINED_IN_SILENCE: End = ("drained", "")
#: The session had ended, and the client had its last words.
OVER: End = ("quit", "")

NAMES = {
    "COMMAND": COMMAND,
    "BODY": BODY,
    "PAUSE": PAUSE,
    "EARLY_TALK": EARLY_TALK,
    "HANDLERS": HANDLERS,
    "HANDLERS beside a reader": HANDLERS,
    "SEND": SEND,
    "PROXY_HEADER": PROXY_HEADER,
    "HANDSHAKE": HANDSHAKE,
    "FIRST_HANDSHAKE": FIRST_HANDSHAKE,
    "LINGER": LINGER,
}
WAYS: tuple[Way, ...] = ("its own time", "session_timeout", "both at once", "a stuck sender")

# Nobody drains: by its own time, by session_timeout, by both at the same moment, because the client does not read.
QUIET: dict[str, tuple[End, End, End, End]] = {
    "COMMAND": (SILENCE, SILENCE, SILENCE, STUCK),
    "BODY": (SILENCE, SILENCE, SILENCE, STUCK),
    "PAUSE": (SILENCE, SILENCE, SILENCE, STUCK),
    "EARLY_TALK": (SILENCE, SILENCE, SILENCE, STUCK),
    "HANDLERS": (PROCESSING, SILENCE, SILENCE, STUCK),
    "HANDLERS beside a reader": (PROCESSING, SILENCE, SILENCE, STUCK),
    "SEND": (STUCK, STUCK, STUCK, STUCK),
    "PROXY_HEADER": (STUCK, STUCK, STUCK, STUCK),
    "HANDSHAKE": (TLS, TLS, TLS, STUCK),
    "FIRST_HANDSHAKE": (TLS, TLS, TLS, STUCK),
    "LINGER": (OVER, OVER, OVER, STUCK),
}

# A server that drains says so, whatever came first: by the four ways above, at once, and when the drain's time is over.
# In the middle of a reply, of a handshake or of a PROXY header there is no place for words. Only what is idle is ended
# at once.
WORDS, NONE = DRAINED, DRAINED_IN_SILENCE
DRAINING: dict[str, tuple[End, End, End, End, End | None, End]] = {
    "COMMAND": (WORDS, WORDS, WORDS, NONE, WORDS, WORDS),
    "BODY": (WORDS, WORDS, WORDS, NONE, None, WORDS),
    "PAUSE": (WORDS, WORDS, WORDS, NONE, None, WORDS),
    "EARLY_TALK": (WORDS, WORDS, WORDS, NONE, WORDS, WORDS),
    "HANDLERS": (WORDS, WORDS, WORDS, NONE, None, WORDS),
    "HANDLERS beside a reader": (WORDS, WORDS, WORDS, NONE, None, WORDS),
    "SEND": (NONE, NONE, NONE, NONE, None, NONE),
    "PROXY_HEADER": (NONE, NONE, NONE, NONE, None, NONE),
    "HANDSHAKE": (NONE, NONE, NONE, NONE, None, NONE),
    "FIRST_HANDSHAKE": (NONE, NONE, NONE, NONE, NONE, NONE),
    "LINGER": (OVER, OVER, OVER, NONE, None, OVER),
}


def begin(clock: Clock, name: str, seconds: float) -> None:
    """Await this, as a connection does."""
    activity = NAMES[name]
    if name == "HANDLERS beside a reader":
        clock.await_handlers(seconds)
    elif name in ("HANDSHAKE", "FIRST_HANDSHAKE", "LINGER"):
        clock.arm_end(activity, seconds)
    else:
        clock.arm(activity, seconds)


def act(clock: Clock, way: Way, mock: MockClock, *, watch_first: bool) -> None:
    """Cut short what is awaited.

    Args:
        clock: Of the connection.
        way: How.
        mock: Trio's clock.
        watch_first: The watch looks before trio finds that the scope's deadline is over.
    """
    if way == "a stuck sender":
        clock.give_up_sending()
    elif way == "a drain at once":
        clock.drain(DRAIN, at_once=clock.activity.idle)
    else:
        if way == "a drain's end":
            clock.drain(DRAIN, at_once=False)
        mock.jump({"its own time": OWN, "a drain's end": DRAIN}.get(way, SESSION))
        if watch_first:
            clock.expire(trio.current_time())


def end_of(clock: Clock) -> End:
    """What the connection ends with."""
    return end(clock.cause, clock.activity.silent)


def end(cause: Cause, silent: bool) -> End:
    if cause is Cause.LINGERED:
        return OVER
    reason, reply = last_words(cause, silent=silent)
    return reason, said(reply)


def said(reply: Reply | None) -> str:
    return "" if reply is None else f"{reply.code} {reply.enhanced} {reply.text}"


CELLS = [
    *[
        pytest.param(name, way, "no", cell, id=f"{name}, {way}")
        for name, row in QUIET.items()
        for way, cell in zip(WAYS, row, strict=True)
    ],
    *[
        pytest.param(name, way, drain, cell, id=f"{name}, {way}, drain {drain}")
        for name, row in DRAINING.items()
        for way, cell in zip((*WAYS, "a drain at once", "a drain's end"), row, strict=True)
        for drain in (("first", "meanwhile") if way in WAYS else ("no",))
    ],
]


@pytest.mark.parametrize("watch_first", [True, False], ids=["the watch first", "the deadline first"])
@pytest.mark.parametrize(("name", "way", "drain", "expected"), CELLS)
async def test_each_cell(
    name: str, way: Way, drain: str, *, expected: End | None, watch_first: bool, mock_clock: MockClock
) -> None:
    if way == "its own time" and name != "HANDLERS beside a reader":
        watch_first = True  # no deadline of the scope
    clock = Clock(trio.current_time, SESSION)
    with clock.scope:
        if drain == "first":
            clock.drain(1000, at_once=False)
        begin(clock, name, {"its own time": OWN, "both at once": SESSION}.get(way, math.inf))
        if drain == "meanwhile":
            clock.drain(1000, at_once=False)
        act(clock, way, mock_clock, watch_first=watch_first)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
    assert clock.scope.cancelled_caught == (expected is not None)
    if expected is not None:
        assert end_of(clock) == expected


# A reader beside handlers


def name_of(activity: Activity) -> str:
    return next(name for name, each in NAMES.items() if each is activity)


READER: list[tuple[Activity, Way, bool, End | None]] = [
    # None: everything ends, and not the reader alone.
    (BODY, "its own time", False, SILENCE),
    (BODY, "its own time", True, DRAINED),
    (BODY, "session_timeout", False, None),
    (BODY, "a stuck sender", False, STUCK),
    (BODY, "a stuck sender", True, DRAINED_IN_SILENCE),
    (BODY, "a drain's end", True, DRAINED),
    (COMMAND, "its own time", False, SILENCE),
    (COMMAND, "its own time", True, DRAINED),
    (COMMAND, "session_timeout", False, None),
    (COMMAND, "a stuck sender", False, STUCK),
    (COMMAND, "a drain's end", True, DRAINED),
    (SEND, "its own time", False, STUCK),
    (SEND, "its own time", True, DRAINED_IN_SILENCE),
    (SEND, "session_timeout", False, None),
    (SEND, "a drain's end", True, DRAINED_IN_SILENCE),
]


@pytest.mark.parametrize(
    ("activity", "way", "draining", "expected"),
    [pytest.param(*row, id=f"{name_of(row[0])}, {row[1]}{', draining' * row[2]}") for row in READER],
)
async def test_a_reader_beside_handlers(
    activity: Activity, way: Way, draining: bool, expected: End | None, mock_clock: MockClock
) -> None:
    clock = Clock(trio.current_time, SESSION)
    with clock.scope:
        with clock.reader() as reader:
            if draining:
                clock.drain(1000, at_once=False)
            clock.arm(activity, OWN if way == "its own time" else math.inf)
            act(clock, way, mock_clock, watch_first=True)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            pytest.fail("nothing was cancelled")
        assert expected is not None
        assert reader.cause is not None
        assert end(reader.cause, reader.silent) == expected
        # The handlers have their own time, and what the reader ended with is not held against them.
        clock.await_handlers(OWN)
        if way != "a drain's end":
            await trio.lowlevel.checkpoint()
            mock_clock.jump(OWN)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
    assert clock.scope.cancelled_caught
    if expected is None:
        assert reader.cause is None
        assert end_of(clock) == (STUCK if activity is SEND else SILENCE)
    else:
        over = trio.current_time() >= SESSION
        assert end_of(clock) == (DRAINED if draining else SILENCE if over else PROCESSING)


# Whole servers


async def hang(ctx: object) -> None:
    await trio.sleep_forever()


async def hang_with_message(ctx: DataContext) -> None:
    await ctx.stream.read()
    await trio.sleep_forever()


async def idle(client: Client) -> None:
    await client.ehlo()


async def body(client: Client) -> None:
    await start_data(client)


async def handlers(client: Client) -> None:
    await client.ehlo()
    await client.send_bytes(b"VRFY a\r\n")


async def handlers_of_a_message(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(stuff(SMALL_BODY))


async def handlers_of_a_large_message(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(stuff(LARGE))


async def handshake(client: Client) -> None:
    assert (await client.command("STARTTLS")).code == 220


REACHED: dict[Callable[[Client], Awaitable[None]], str] = {
    idle: "COMMAND",
    body: "BODY",
    handlers: "HANDLERS",
    handlers_of_a_message: "HANDLERS",
    handlers_of_a_large_message: "HANDLERS beside a reader",
    handshake: "HANDSHAKE",
}


@pytest.mark.parametrize("way", ["its own time", "session_timeout", "both at once", "a drain's end"])
@pytest.mark.parametrize("reach", REACHED, ids=lambda reach: reach.__name__)
async def test_a_server_ends_a_connection_as_the_table_says(
    reach: Callable[[Client], Awaitable[None]],
    way: Way,
    server_ssl_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    app = App()
    app.on_vrfy(hang)
    app.on_data(hang_with_message)
    reasons = note_closes(app)
    own = OWN if way == "its own time" else SESSION if way == "both at once" else 10 * SESSION
    config = Config(
        hostname="mx.example",
        ssl_context=server_ssl_context,
        command_timeout=own,
        data_timeout=own,
        handler_timeout=own,
        tls_handshake_timeout=own,
        session_timeout=None if way == "its own time" else SESSION,
        drain_timeout=DRAIN,
    )
    async with open_client(app, config) as client:
        await reach(client)
        if way == "a drain's end":
            client.server.drain()
        words = await client.read_to_end()
    name = REACHED[reach]
    reason, text = DRAINING[name][5] if way == "a drain's end" else QUIET[name][WAYS.index(way)]
    assert reasons == [reason]
    assert words == (text.encode() + b"\r\n" if text else b"")
