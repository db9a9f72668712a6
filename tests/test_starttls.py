"""STARTTLS (RFC 3207): what came before does not count, what was smuggled in is not read, and on_secure has a say."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress

import pytest
import trio
import trio.testing
import trustme

from trio_smtp import App, CloseContext, Config, ConnectContext, DataContext, HeloContext, SecureContext, SMTPServer
from trio_smtp.testing import Client, open_client

from .tls_support import NAME, Log, connect, presented, server_context, shake_hands

#: A man in the middle puts commands behind STARTTLS, to have them read as if the client had sent them through TLS.
STARTTLS = b"EHLO client.example\r\nSTARTTLS\r\n"
SMUGGLED = b"EHLO evil.example\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"


async def read_ready(client: Client) -> None:
    """Everything up to the 220 of STARTTLS."""
    assert [(await client.read_reply()).code for _ in range(2)] == [250, 220]


# Injection


async def test_what_came_with_starttls_is_thrown_away(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    async with open_client(log.app, ssl_context=server_ssl_context) as client:
        await client.send_bytes(STARTTLS + SMUGGLED)
        await read_ready(client)
        client.stream = stream = trio.SSLStream(client.stream, client_ssl_context, server_hostname=NAME)
        await stream.do_handshake()
        # No reply to the smuggled EHLO is waiting, and there is no transaction.
        assert (await client.command("RCPT TO:<b@example.com>")).code == 503
        assert client.session.host_name_appears_as is None
        assert (await client.ehlo()).code == 250
        assert (await client.command("RCPT TO:<b@example.com>")).code == 503
    assert log.calls == ["connect secure=False", "secure TLSv1.3", "close lost"]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning == f"session={client.session.id} {len(SMUGGLED)} octets after STARTTLS were thrown away"


@pytest.mark.parametrize("split", range(1, len(STARTTLS + SMUGGLED)))
async def test_nothing_smuggled_is_read_wherever_the_segments_end(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext, split: int
) -> None:
    log = Log()
    wire = STARTTLS + SMUGGLED
    async with open_client(log.app, ssl_context=server_ssl_context) as client:
        await client.send_bytes(wire[:split])
        await trio.testing.wait_all_tasks_blocked()
        await client.send_bytes(wire[split:])
        await read_ready(client)
        client.stream = stream = trio.SSLStream(client.stream, client_ssl_context, server_hostname=NAME)
        if split < len(STARTTLS):
            await stream.do_handshake()
            assert (await client.command("RCPT TO:<b@example.com>")).code == 503
        else:
            # What came later than the 220 is part of the handshake, and none of it makes one.
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await trio.testing.wait_all_tasks_blocked()
        stats = client.server.stats
        assert (stats.tls_handshakes, stats.tls_failures) == ((1, 0) if split < len(STARTTLS) else (0, 1))
    assert [call for call in log.calls if "mail" in call] == []
    assert client.session.host_name_appears_as != "evil.example"


async def test_what_was_smuggled_before_the_handshake_of_a_socket_was_read(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    """The octets lie in the system's buffer, not in ours, when the 220 leaves."""
    log = Log()
    server = SMTPServer(log.app, Config(ssl_context=server_ssl_context))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0))
        client = await connect(server)
        await client.read_reply()
        # More than one receive takes.
        await client.send_bytes(STARTTLS + b"NOOP\r\n" * 20_000 + SMUGGLED)
        await read_ready(client)
        with pytest.raises(trio.BrokenResourceError):
            await shake_hands(client, client_ssl_context)
        await client.aclose()
        server.drain()
    assert server.stats.tls_failures == 1
    assert log.calls == ["connect secure=False", "close tls"]


# What is forgotten


async def test_everything_said_before_is_forgotten(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    config = Config(ssl_context=server_ssl_context, allow_insecure_auth=True)
    async with open_client(Log().app, config) as client:
        session = client.session
        await client.ehlo("before.example")
        assert (await client.auth_plain("somebody", "secret")).code == 235
        assert (await client.send_message("a@example.org", ["b@example.com"], b"Hello\r\n")).code == 250
        session.data["kept"] = True
        envelope = session.envelope
        await client.starttls(client_ssl_context, NAME)
        reply = await client.command("NOOP")
        assert (reply.code, reply.enhanced) == (250, None)  # as before a first EHLO
        assert session is client.session
        assert (session.host_name_appears_as, session.opening_command) == (None, None)
        assert (session.user, session.authenticated, session.auth_mechanism) == (None, False, None)
        assert session.envelope is not envelope
        assert (session.transaction, session.data) == (1, {"kept": True})
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 503
        assert (await client.command("AUTH PLAIN")).code == 503
        assert any(line.startswith("AUTH ") for line in (await client.ehlo("after.example")).lines)
        assert session.host_name_appears_as == "after.example"
        assert (await client.auth_plain("somebody", "secret")).code == 235
        assert session.transmission_type == "ESMTPSA"


async def test_the_count_of_errors_is_not_forgotten(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context, max_errors=3) as client:
        await client.command("NONSENSE")
        await client.command("NONSENSE")
        await client.starttls(client_ssl_context, NAME)
        assert (await client.command("NONSENSE")).code == 421


async def test_the_extensions_before_and_after(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context) as client:
        before = (await client.ehlo()).lines
        await client.starttls(client_ssl_context, NAME)
        after = (await client.ehlo()).lines
    assert "STARTTLS" in before
    assert not any(line.startswith("AUTH") for line in before)
    assert "STARTTLS" not in after
    assert any(line.startswith("AUTH PLAIN") for line in after)


# When it is refused


async def test_when_it_may_not_come(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context) as client:
        await client.ehlo()
        assert (await client.command("STARTTLS now")).code == 501
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
        assert (await client.command("STARTTLS")).code == 503
        assert (await client.command("RCPT TO:<b@example.com>")).code == 250
        assert (await client.command("STARTTLS")).code == 503
        assert (await client.command("RSET")).code == 250
        assert (await client.starttls(client_ssl_context, NAME)).code == 220
        await client.ehlo()
        again = await client.command("STARTTLS")
        assert (again.code, again.enhanced) == (503, "5.5.1")


async def test_it_is_not_there_without_a_context() -> None:
    async with open_client(Log().app) as client:
        assert "STARTTLS" not in (await client.ehlo()).lines
        assert (await client.command("STARTTLS")).code == 502


async def test_it_works_before_any_hello(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context) as client:
        await client.starttls(client_ssl_context, NAME)
        assert (await client.ehlo()).code == 250


# on_secure


def refusing(**rejection: object) -> tuple[App, list[str]]:
    """An App whose `on_secure` refuses, or crashes when it is not told how to refuse."""
    app = App()
    reasons: list[str] = []

    @app.on_secure
    async def refuse(ctx: SecureContext) -> None:
        if not rejection:
            raise RuntimeError("a secret of the handler's")
        ctx.reject(**rejection)  # type: ignore[arg-type]

    @app.on_helo
    async def hello(ctx: HeloContext) -> None:
        reasons.append("on_helo ran")

    @app.on_data
    async def data(ctx: DataContext) -> None:
        await ctx.stream.discard()

    @app.on_close
    async def close(ctx: CloseContext) -> None:
        reasons.append(ctx.reason)

    return app, reasons


REFUSALS = [
    pytest.param({"message": "Your TLS is too old"}, b"550 Your TLS is too old\r\n", id="the default code"),
    pytest.param({"message": "Not now", "code": 454}, b"454 Not now\r\n", id="454"),
    pytest.param({"message": "Go away", "code": 421}, b"421 Go away\r\n", id="421"),
    pytest.param({}, b"451 Requested action aborted: local error in processing\r\n", id="a crash"),
]


@pytest.mark.parametrize(("rejection", "said"), REFUSALS)
@pytest.mark.parametrize("command", ["EHLO client.example", "QUIT", "nonsense"])
async def test_a_refusal_after_starttls_answers_the_next_command(
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    rejection: dict[str, object],
    said: bytes,
    command: str,
) -> None:
    app, reasons = refusing(**rejection)
    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.starttls(client_ssl_context, NAME)
        await client.send_bytes(command.encode() + b"\r\nNOOP\r\n")
        assert await client.read_to_end() == said
    assert reasons == ["refused"]


async def test_a_line_that_is_no_command_after_a_refusal_has_its_own_reply(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, reasons = refusing(message="No")
    async with open_client(app, ssl_context=server_ssl_context, error_delay=7) as client:
        await client.starttls(client_ssl_context, NAME)
        began, seconds = trio.current_time(), []
        for _ in range(3):
            assert (await client.command("x" * 3000)).code == 500
            seconds.append(trio.current_time() - began)
        assert seconds == [0, 0, 7]
        await client.send_bytes(b"EHLO client.example\r\n")
        assert await client.read_to_end() == b"550 No\r\n"
    assert reasons == ["refused"]


async def test_lines_that_are_no_commands_after_a_refusal_are_counted(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, reasons = refusing(message="No")
    async with open_client(app, ssl_context=server_ssl_context, max_errors=3) as client:
        await client.starttls(client_ssl_context, NAME)
        await client.send_bytes((b"x" * 3000 + b"\r\n") * 3)
        said = (await client.read_to_end()).splitlines()
        assert [line[:4] for line in said] == [b"500 ", b"500 ", b"421 "]
    assert reasons == ["abuse"]


@pytest.mark.parametrize(("rejection", "said"), REFUSALS)
async def test_a_refusal_with_implicit_tls_is_the_greeting(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext, rejection: dict[str, object], said: bytes
) -> None:
    app, reasons = refusing(**rejection)
    async with open_client(app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        client.stream = stream = trio.SSLStream(client.stream, client_ssl_context, server_hostname=NAME)
        await stream.do_handshake()
        assert await client.read_to_end() == said
    assert reasons == ["refused"]


async def test_a_client_that_says_nothing_after_a_refusal(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, reasons = refusing(message="No")
    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.starttls(client_ssl_context, NAME)
        assert (await client.read_to_end()).startswith(b"421 ")
    assert reasons == ["timeout"]


async def test_on_connect_refuses_before_on_secure_is_asked(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, reasons = refusing(message="on_secure")

    @app.on_connect
    async def connected(ctx: ConnectContext) -> None:
        ctx.reject("on_connect", 554)

    async with open_client(app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        await shake_hands(client, client_ssl_context)
        assert (client.greeting.code, client.greeting.text) == (554, "on_connect")
    assert reasons == ["refused"]


# New certificates


async def test_reload_tls(ca: trustme.CA, client_ssl_context: ssl.SSLContext) -> None:
    old, new = server_context(ca.issue_cert(NAME)), server_context(ca.issue_cert(NAME))
    async with open_client(Log().app, ssl_context=old) as secure:
        await secure.starttls(client_ssl_context, NAME)
        server = secure.server
        async with trio.open_nursery() as nursery:
            ours, theirs = trio.testing.memory_stream_pair()
            await nursery.start(server.serve_stream, theirs)
            waiting = Client(ours)
            await waiting.read_reply()
            server.reload_tls(new)
            # A session that is secure goes on, one that begins TLS now gets the new certificate.
            assert (await secure.ehlo()).code == 250
            await waiting.starttls(client_ssl_context, NAME)
            await waiting.ehlo()
            assert presented(waiting) != presented(secure)
            assert {session.servername for session in server.sessions} == {NAME}
            await waiting.aclose()


async def test_reload_tls_wants_a_context_and_a_server_that_has_one(server_ssl_context: ssl.SSLContext) -> None:
    app = Log().app
    with pytest.raises(ValueError, match="ssl_context"):
        SMTPServer(app).reload_tls(server_ssl_context)
    with pytest.raises(TypeError, match=r"ssl\.SSLContext, not 'cert\.pem'"):
        SMTPServer(app, Config(ssl_context=server_ssl_context)).reload_tls("cert.pem")  # type: ignore[arg-type]


def test_a_context_serves_others_as_well_and_not_in_a_task(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    SMTPServer(App(), Config(ssl_context=server_ssl_context))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_ssl_context.wrap_bio(to_client, to_server, server_hostname=NAME)
    server = server_ssl_context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server, client):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    server.write(b"hello")
    assert client.read() == b"hello"
