"""The clocks of Config that are the handlers': each phase's time, and whose clock runs while a body is streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_smtp import App, CloseContext, DataContext, MailFromContext, MessageIncomplete
from trio_smtp.testing import Client, open_client

from .support import (
    BODY,
    LARGE,
    Stopwatch,
    in_time,
    logged,
    mail_app,
    note_closes,
    raw_client,
    says,
    send,
    slack,
    start_data,
    start_transaction,
)

# --- handler_timeout ---


async def hang(ctx: object) -> None:
    await trio.sleep_forever()


async def to_connect(client: Client) -> None: ...


async def to_helo(client: Client) -> None:
    await client.send_bytes(b"EHLO client.example\r\n")


async def to_auth(client: Client) -> None:
    await client.ehlo()
    await client.send_bytes(b"AUTH PLAIN AGEAYg==\r\n")


async def to_mail(client: Client) -> None:
    await client.ehlo()
    await client.send_bytes(b"MAIL FROM:<>\r\n")


async def to_rcpt(client: Client) -> None:
    await to_mail(client)
    await client.read_reply()
    await client.send_bytes(b"RCPT TO:<b@example.com>\r\n")


async def to_data_start(client: Client) -> None:
    await start_transaction(client)
    await client.send_bytes(b"DATA\r\n")


async def to_data(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(b"small\r\n.\r\n")


async def to_streamed_data(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(LARGE + b".\r\n")


async def to_split_data(client: Client) -> None:
    await start_data(client)
    await client.send_bytes(b"in two ")
    await trio.testing.wait_all_tasks_blocked()
    await client.send_bytes(b"segments\r\n.\r\n")


async def to_vrfy(client: Client) -> None:
    await client.send_bytes(b"VRFY x\r\n")


async def to_expn(client: Client) -> None:
    await client.send_bytes(b"EXPN x\r\n")


HANDLERS: list[tuple[str, Callable[[Client], Awaitable[None]]]] = [
    ("on_connect", to_connect),
    ("on_helo", to_helo),
    ("on_auth", to_auth),
    ("on_mail_from", to_mail),
    ("on_rcpt_to", to_rcpt),
    ("on_data_start", to_data_start),
    ("on_data", to_data),
    ("on_data", to_streamed_data),
    ("on_data", to_split_data),
    ("on_vrfy", to_vrfy),
    ("on_expn", to_expn),
]


@pytest.mark.parametrize("timeout", [0.2, 600])
@pytest.mark.parametrize(("phase", "reach"), HANDLERS)
async def test_a_handler_that_hangs_is_cancelled_and_the_client_told(
    timeout: float, phase: str, reach: Callable[[Client], Awaitable[None]], autojump_clock: MockClock
) -> None:
    app = App() if phase == "on_data" else mail_app()[0]
    getattr(app, phase)(hang)
    reasons = note_closes(app)
    async with raw_client(app, handler_timeout=timeout, allow_insecure_auth=True) as client:
        watch = Stopwatch()
        if phase != "on_connect":
            assert (await client.read_reply()).code == 220
        await reach(client)
        assert await says(client, 421, "4.3.0")
        assert in_time(watch, timeout)
    assert reasons == ["timeout"]


async def test_a_slow_handler_is_not_a_slow_client(autojump_clock: MockClock) -> None:
    app = App()
    sizes: list[int] = []

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        async for chunk in ctx.stream:
            await trio.sleep(100)
            sizes.append(len(chunk))

    async with open_client(app, data_timeout=1, command_timeout=1, handler_timeout=100 * len(LARGE)) as client:
        await client.ehlo()
        assert (await send(client, LARGE)).code == 250
    assert sum(sizes) == len(LARGE)


async def test_a_slow_client_is_not_a_slow_handler(autojump_clock: MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app, handler_timeout=10, min_data_rate=0) as client:
        await start_data(client)
        for line in BODY.splitlines(keepends=True):
            await client.send_bytes(line)
            await trio.sleep(100)
        await client.send_bytes(b".\r\n")
        assert (await client.read_reply()).code == 250
    assert taken == [BODY]


async def test_a_streaming_handler_has_its_time_in_all(autojump_clock: MockClock) -> None:
    """While it holds up the reader its clock runs; while the client is waited for it does not."""
    app = App()
    watches: list[Stopwatch] = []

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        async for _ in ctx.stream:
            await trio.sleep(4)
        watches.append(Stopwatch())
        await trio.sleep_forever()

    async with open_client(app, handler_timeout=20, min_data_rate=0) as client:
        await start_data(client)
        await client.send_bytes(LARGE)  # three chunks: one at the handler, one in the channel, one that waits for 4 s
        await trio.sleep(100)
        await client.send_bytes(b".\r\n")
        assert await says(client, 421, "4.3.0")
        assert watches[0].seconds == 20 - 4


async def test_the_handler_keeps_what_is_left_of_its_time_when_the_client_fell_silent(
    autojump_clock: MockClock,
) -> None:
    app = App()
    done: list[str] = []

    @app.on_data
    async def tidy_up(ctx: DataContext) -> None:
        try:
            await ctx.stream.read()
        except MessageIncomplete:
            await trio.sleep(9)
            done.append("tidied up")
            raise

    async with open_client(app, data_timeout=5, handler_timeout=10) as client:
        await start_data(client)
        await client.send_bytes(b"half")
        watch = Stopwatch()
        assert await says(client, 421, "4.4.2")
        assert 5 + 9 <= watch.seconds <= 5 + 9 + slack(5)
    assert done == ["tidied up"]


async def test_a_session_that_ends_before_its_cancelled_handlers_is_over(autojump_clock: MockClock) -> None:
    app = App()

    @app.on_mail_from
    async def tidy_up(ctx: MailFromContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(50)

    async with open_client(app, handler_timeout=10, session_timeout=30) as client:
        await client.ehlo()
        await client.send_bytes(b"MAIL FROM:<>\r\n")
        assert await says(client, 421, "4.4.2", "Timeout waiting for the client")


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
async def test_session_timeout_caps_the_handlers_time(data: bytes, autojump_clock: MockClock) -> None:
    app = App()
    app.on_data(hang)
    reasons = note_closes(app)
    async with open_client(app, session_timeout=50) as client:
        watch = Stopwatch()
        await start_data(client)
        await client.send_bytes(data + b".\r\n")
        assert await says(client, 421, "4.4.2")
        assert watch.seconds == 50
    assert reasons == ["timeout"]


# --- on_close ---


async def test_on_close_has_half_a_minute(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    ended: list[float] = []

    @app.on_close
    async def slow(ctx: CloseContext) -> None:
        watch = Stopwatch()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(watch.seconds)

    async with open_client(app) as client:
        assert (await client.quit()).code == 221
    assert ended == [30]
    assert [r.getMessage() for r in caplog.records if "on_close did not end in time" in r.getMessage()]


async def test_a_task_of_on_close_that_fails_when_it_is_cancelled_ends_nothing_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("secret")

    @app.on_close
    async def wait(ctx: CloseContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)

    async with open_client(app) as client:
        await client.quit()
    failed, late = logged(caplog)
    assert failed.endswith(" on_close handler failed")
    assert "on_close did not end in time" in late
