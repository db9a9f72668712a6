"""Stats: every counter, and when it counts."""

from __future__ import annotations

import ssl

import attrs
import trio
import trio.testing

from trio_smtp import App, AuthContext, DataContext, SMTPServer
from trio_smtp.testing import open_client

from .socket_support import connected, serving
from .support import BODY, LARGE, mail_app, send, start_data
from .tls_support import NAME


async def test_stats_of_connections_and_octets() -> None:
    app, _ = mail_app()
    async with serving(app) as server:
        stats = server.stats
        assert stats.connections_accepted == stats.connections_open == 0
        async with connected(server) as one, connected(server):
            assert (stats.connections_accepted, stats.connections_open, stats.connections_refused) == (2, 2, 0)
            await one.command("NOOP")
            assert stats.octets_received == len(b"NOOP\r\n")
            await one.quit()
            assert await one.read_to_end() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert (stats.connections_accepted, stats.connections_open) == (2, 0)
        assert stats.octets_received == len(b"NOOP\r\nQUIT\r\n")
        assert stats.replies == {220: 2, 250: 1, 221: 1}


async def test_stats_of_messages() -> None:
    app = App()

    @app.on_data
    async def data(ctx: DataContext) -> None:
        if (await ctx.stream.read()).startswith(b"refuse"):
            ctx.reject("No", 550)

    async with open_client(app, max_message_size=100_000) as client:
        stats = client.server.stats
        await client.ehlo()
        for body in (BODY, b"refuse me", BODY, LARGE):
            await send(client, body)
        assert (stats.messages_accepted, stats.messages_refused, stats.messages_incomplete) == (2, 2, 0)
        # Refused before its first octet, and so no message.
        await client.command("MAIL FROM:<a@example.org> SIZE=999999999")
        await start_data(client)
        await client.send_bytes(b"half a message")
        await client.aclose()
    assert (stats.messages_accepted, stats.messages_refused, stats.messages_incomplete) == (2, 2, 1)
    assert stats.replies[354] == 5
    assert stats.replies[552] == 2
    assert stats.replies[550] == 1
    assert len(LARGE) > 100_000


async def test_stats_of_authentication(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    app, _ = mail_app()

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        if ctx.credentials.validate_password("right"):
            ctx.accept()

    async with open_client(app, ssl_context=server_ssl_context) as client:
        stats = client.server.stats
        await client.ehlo()
        assert (await client.auth_plain("somebody", "right")).code == 538
        await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        assert (await client.auth_plain("somebody", "wrong")).code == 535
        assert (await client.command("AUTH PLAIN !")).code == 501  # not even an attempt
        assert (await client.auth_plain("somebody", "right")).code == 235
    assert (stats.auth_successes, stats.auth_failures) == (1, 1)
    assert (stats.tls_handshakes, stats.tls_failures) == (1, 0)
    assert (stats.replies[535], stats.replies[235], stats.replies[538]) == (1, 1, 1)


async def test_stats_name_everything() -> None:
    app, _ = mail_app()
    fields = attrs.asdict(SMTPServer(app).stats)
    assert not any(fields.pop("_answers").values())
    assert fields.pop("measures") is None
    assert set(fields.values()) == {0}
    assert len(fields) == 11
