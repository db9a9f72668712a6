"""What a server counts in detail after `App.measure`, and what sees deliveries."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from trio_smtp import App, AuthContext, DataContext, Histogram, Measures, SMTPError, Stats
from trio_smtp.app.stats import total
from trio_smtp.testing import open_client

from .support import BODY, mail_app, send
from .tls_support import NAME


def test_a_histogram_counts_durations() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.005, 0.006, 599.0, 601.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1, *[0] * 12, 1, 1]
    assert histogram.sum == pytest.approx(1200.011)
    histogram.add(histogram)
    assert sum(histogram.counts) == 10


async def test_nobody_asked() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        assert client.server.stats.measures is None


async def test_messages_handlers_and_commands() -> None:
    app = App()
    app.measure()

    @app.on_data
    async def data(ctx: DataContext) -> None:
        if (await ctx.stream.read()).startswith(b"refuse"):
            ctx.reject("No", 550)

    async with open_client(app) as client:
        await client.ehlo()
        await send(client, BODY)
        await send(client, b"refuse me")
        await client.command("WHAT")
        stats, measures = client.server.stats, client.server.stats.measures
        assert measures is not None
        assert measures.message_octets == len(BODY)
        assert sum(measures.message_seconds.counts) == 2
        assert {phase: sum(found.counts) for phase, found in measures.handler_seconds.items()} == {"on_data": 2}
        expected = {"connect": (220, 1), "EHLO": (250, 1), "MAIL": (250, 2), "RCPT": (250, 2), "DATA": (354, 2)}
        assert {verb: stats.commands[verb, code] for verb, (code, _) in expected.items()} == {
            verb: count for verb, (_, count) in expected.items()
        }
        assert (stats.commands["end", 250], stats.commands["end", 550], stats.commands["other", 500]) == (1, 1, 1)
        assert sum(stats.replies.values()) == sum(stats.commands.values())
        both = total([stats, stats, Stats()])
        assert both.measures is not None
        assert both.measures.message_octets == 2 * len(BODY)
        assert sum(both.measures.handler_seconds["on_data"].counts) == 4
        assert both.commands["RCPT", 250] == 4
        assert both.replies[354] == 4


async def test_tls_and_auth(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    app, _ = mail_app()
    app.measure()

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        if ctx.credentials.username == "bob":
            ctx.accept("bob")

    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, server_hostname=NAME)
        await client.ehlo()
        await client.command("AUTH PLAIN AGV2ZQB4")
        await client.command("AUTH PLAIN AGJvYgB4")
        measures = client.server.stats.measures
        assert isinstance(measures, Measures)
        assert measures.tls_versions == {"TLSv1.3": 1}
        assert measures.auth == {("PLAIN", "refused"): 1, ("PLAIN", "accepted"): 1}
        assert client.server.stats.commands["AUTH", 235] == 1


async def test_challenges_are_replies_to_auth() -> None:
    app, _ = mail_app()

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        ctx.accept()

    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        await client.command("AUTH PLAIN")
        await client.command("AGJvYgB4")
        assert {key: n for key, n in client.server.stats.commands.items() if key[0] == "AUTH"} == {
            ("AUTH", 334): 1,
            ("AUTH", 235): 1,
        }


async def test_watchers_see_deliveries() -> None:
    seen: list[object] = []

    def app_with(watchers: int) -> App:
        app = App()

        @contextmanager
        def watch(session: object, target: str) -> Iterator[None]:
            seen.append(target)
            try:
                yield
            except SMTPError as refusal:
                seen.append(refusal.reply.code)
                raise
            seen.append("done")

        for _ in range(watchers):
            app.watch_deliveries(watch)

        @app.on_data
        async def data(ctx: DataContext) -> None:
            with ctx.delivering("memory"):
                if (await ctx.stream.read()).startswith(b"refuse"):
                    ctx.reject("No", 452)

        return app

    for watchers in (0, 2):
        async with open_client(app_with(watchers)) as client:
            await client.ehlo()
            assert (await send(client, BODY)).code == 250
            assert (await send(client, b"refuse me")).code == 452
    assert seen == ["memory", "memory", "done", "done", "memory", "memory", 452, 452]


async def test_a_target_is_a_name() -> None:
    app, errors = App(), []

    @app.on_data
    async def data(ctx: DataContext) -> None:
        await ctx.stream.discard()
        for target in ("", "a@b", "A", "x" * 33):
            with pytest.raises(ValueError, match="target must be a name"):
                ctx.delivering(target)
            errors.append(target)

    async with open_client(app) as client:
        await client.ehlo()
        await send(client, BODY)
    assert len(errors) == 4


@pytest.mark.parametrize("call", ["measure", "watch_deliveries", "accompany"])
async def test_too_late(call: str) -> None:
    app, _ = mail_app()
    async with open_client(app):
        with pytest.raises(RuntimeError, match=f"{call}: .* before serving begins"):
            getattr(app, call)(*([] if call == "measure" else [None]))


async def test_a_server_says_that_it_drains() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        seen = [client.server.draining]
        client.server.drain()
        assert [*seen, client.server.draining] == [False, True]
        await trio.lowlevel.checkpoint()
