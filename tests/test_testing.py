"""The public test helpers: they must notice what is wrong, and nothing of a server may be left when they end."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing
import trustme

from trio_smtp import (
    App,
    AuthContext,
    Config,
    ConnectContext,
    DataContext,
    DataStartContext,
    MailFromContext,
    RcptToContext,
    SMTPServer,
)
from trio_smtp.testing import Client, Cut, MemoryListener, open_client, play, stuff

from .support import BODY, mail_app, note_closes, send, status

EVERY_CUT: list[Cut] = ["whole", "line", "octet", "random"]


# --- open_client ---


async def test_the_greeting_has_been_read_and_nothing_was_said() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        assert (client.greeting.code, client.greeting.text) == (220, "mx.example ESMTP")
        assert client.session is client.server.sessions[0]
        assert client.session.opening_command is None
        assert (await client.command("NOOP")).code == 250


async def test_a_config_and_changes_of_it() -> None:
    app, _ = mail_app()
    config = Config(hostname="one.example", banner="ready")
    async with open_client(app, config, max_recipients=5) as client:
        assert client.greeting.text == "one.example ready"
        assert client.server.config.max_recipients == 5
    async with open_client(app, config=config, hostname="two.example") as client:
        assert client.greeting.text == "two.example ready"
    async with open_client(app, hostname="three.example") as client:
        assert client.greeting.text == "three.example ESMTP"


async def test_an_error_in_the_block_comes_out_bare_and_ends_the_session() -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    with pytest.raises(LookupError, match="the test's own"):
        async with open_client(app):
            raise LookupError("the test's own")
    assert reasons == ["cancelled"]


async def test_leaving_the_block_closes_and_awaits_the_end_of_the_session() -> None:
    app, _ = mail_app()
    reasons = note_closes(app)
    async with open_client(app) as client:
        assert client.server.sessions
    assert reasons == ["lost"]
    assert client.server.sessions == []


async def test_cancelling_the_block_goes_through() -> None:
    app, _ = mail_app()
    with trio.CancelScope() as scope:
        async with open_client(app):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_with_implicit_tls_the_caller_shakes_hands(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = mail_app()
    async with open_client(app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        assert not hasattr(client, "greeting")
        client.stream = trio.SSLStream(client.stream, client_ssl_context, server_hostname="localhost")
        assert (await client.read_reply()).code == 220
        assert client.session.secure


# --- Client ---


async def test_read_reply_reads_one_reply_of_any_number_of_lines() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)
    await theirs.send_all(b"250-5.0.0 a\r\n250-b\r\n250 c\r\n221 bye\r\n220 half")
    assert (await client.read_reply()).lines == ("5.0.0 a", "b", "c")
    assert (await client.read_reply()).code == 221
    await theirs.aclose()
    with pytest.raises(trio.EndOfChannel, match="220 half"):
        await client.read_reply()


@pytest.mark.parametrize("wire", [b"hello\r\n", b"250-a\r\n251 b\r\n", b"2500 a\r\n", b"\r\n"])
async def test_read_reply_takes_nothing_but_replies(wire: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(wire)
    with pytest.raises(ValueError, match=r"repl"):
        await Client(ours).read_reply()


async def test_commands_are_strings_or_octets() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        assert (await client.command("NOOP")).code == 250
        assert (await client.command(b"NOOP \xff")).code == 500
        await client.send_bytes(b"NO")
        await client.send_bytes(b"OP\r\nNOOP\r\n")
        assert [(await client.read_reply()).code for _ in range(2)] == [250, 250]


async def test_starttls_that_is_refused_leaves_the_stream_as_it_is(client_ssl_context: ssl.SSLContext) -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        stream = client.stream
        assert (await client.starttls(client_ssl_context)).code == 502
        assert client.stream is stream


async def test_starttls_shakes_hands(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    app, _ = mail_app()
    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.ehlo()
        assert (await client.starttls(client_ssl_context, "localhost")).code == 220
        assert (await client.ehlo()).code == 250
        assert client.session.secure


@pytest.mark.parametrize(
    ("names", "expected"), [((), "localhost"), (("mx.example.com",), "mx.example.com"), ((None,), None)]
)
async def test_starttls_names_a_host(
    server_ssl_context: ssl.SSLContext, ca: trustme.CA, names: tuple[str | None, ...], expected: str | None
) -> None:
    """From Python 3.14 on a context that checks names wants one to check; without any it takes none."""
    app, _ = mail_app()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.check_hostname = expected is not None
    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.ehlo()
        assert (await client.starttls(context, *names)).code == 220
        await client.ehlo()
        assert client.session.servername == expected


async def test_auth_plain_sends_all_three() -> None:
    app, _ = mail_app()
    seen: list[object] = []

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        seen.append(ctx.credentials)
        ctx.accept(authzid=ctx.credentials.authzid)

    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        assert (await client.auth_plain("älice", "sécret", "bob")).code == 235
    (credentials,) = seen
    assert "älice" in repr(credentials)
    assert "bob" in repr(credentials)
    assert "sécret" not in repr(credentials)


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        (b"", b".\r\n"),
        (b"x", b"x\r\n.\r\n"),
        (b"x\r\n", b"x\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.b\r\n..\r\n", b"a\r\n..b\r\n...\r\n.\r\n"),
    ],
)
async def test_send_message_stuffs_dots(data: bytes, wire: bytes) -> None:
    assert stuff(data) == wire
    app, taken = mail_app()
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, data)).code == 250
    assert taken == [data if not data or data.endswith(b"\r\n") else data + b"\r\n"]


async def test_send_message_returns_what_refused_it() -> None:
    app, taken = mail_app()

    @app.on_mail_from
    async def mail(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "mail":
            ctx.reject("mail")

    @app.on_rcpt_to
    async def rcpt(ctx: RcptToContext) -> None:
        if ctx.address.local_part.startswith("rcpt"):
            ctx.reject(ctx.address.local_part)

    @app.on_data_start
    async def start(ctx: DataStartContext) -> None:
        if ctx.envelope.rcpt_to[0].local_part == "data":
            ctx.reject("data")

    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.send_message("mail@example.org", ["b@example.com"], BODY)).text == "mail"
        reply = await client.send_message("a@example.org", ["rcpt1@example.com", "rcpt2@example.com"], BODY)
        assert reply.text == "rcpt2"
        await client.command("RSET")
        assert (await client.send_message("a@example.org", ["data@example.com"], BODY)).text == "data"
        await client.command("RSET")
        assert status(await client.send_message("a@example.org", [], BODY)) == (503, "5.5.1")
        await client.command("RSET")
        assert taken == []
        reply = await client.send_message("a@example.org", ["rcpt1@example.com", "ok@example.com"], BODY)
        assert reply.code == 250
        assert taken == [BODY]


# --- play ---

TRANSCRIPT = r"""
# A comment, and an empty line

S: 220 mx.example ...
C: EHLO client.example
S: 250-mx.example
S: 250-PIPELINING
S: 250-...
S: 250-...
S: 250-...
S: 250-...
S: 250-...
S: 250-...
S: 250 HELP
C: MAIL FROM:<a@example.org>
C: RCPT TO:<b@example.com>
C: DATA
S: 250 2.1.0 Sender OK
S: 250 2.1.5 Recipient OK
S: 354 End data ...
C= one\r\n\x2e.two\t\0\\\n
C: three
C: .
C= NO
C: OP
S: 550 5.6.0 ...
S: 250 2.0.0 OK
C: QUIT
S: 221 2.0.0 Bye
S: <close>
"""


@pytest.mark.parametrize("cut", EVERY_CUT)
async def test_a_transcript_plays_in_every_cut(cut: Cut) -> None:
    app, taken = mail_app()
    await play(app, TRANSCRIPT, config=Config(hostname="mx.example", bare_newline="reject"), cut=cut, seed=7)
    assert taken == []


@pytest.mark.parametrize("cut", EVERY_CUT)
async def test_what_is_sent_is_unescaped(cut: Cut) -> None:
    app, taken = mail_app()
    script = TRANSCRIPT.replace(r"\\\n", r"\\\x0D\n").replace("550 5.6.0 ...", "250 2.0.0 Message accepted")
    await play(app, script, cut=cut)
    assert taken == [b"one\r\n.two\t\0\\\r\nthree\r\n"]


async def test_a_transcript_may_be_indented() -> None:
    app, _ = mail_app()
    await play(
        app,
        """
        S: 220 mx.example ESMTP
        # more
        C: NOOP
        S: 250 OK
        """,
    )


async def test_a_transcript_is_played_under_the_config_given() -> None:
    app, _ = mail_app()
    await play(app, "S: 220 one.example two", Config(hostname="one.example"), banner="two")


@pytest.mark.parametrize(
    ("transcript", "complaint"),
    [
        ("S: 220 mx.example\n", "line 1: expected '220 mx.example', the server said '220 mx.example ESMTP'"),
        ("S: 220 ...\nC: NOOP\nS: 250 ... OK\n", "line 3: expected '250 ... OK', the server said '250 OK'"),
        ("S: 220 ...\nC: QUIT\nS: 221 Bye\nS: 221 Bye\n", "line 4: .*the server closed the connection"),
        ("S: 220 ...\nC: QUIT\nS: <close>\n", r"line 3: expected the end of the connection, .*221 Bye"),
        ("S: 220 ...\nC: NOOP\nC: NOOP\nS: 250 OK\n", r"after the last line: the server said b'250 OK\\r\\n'"),
        ("S: 220 ...\nC: NOOP\n", r"after the last line: the server said b'250 OK\\r\\n'"),
        ("", r"after the last line: the server said b'220 mx.example ESMTP\\r\\n'"),
    ],
)
@pytest.mark.parametrize("cut", EVERY_CUT)
async def test_a_server_that_says_something_else_is_noticed(
    transcript: str, complaint: str, cut: Cut, autojump_clock: trio.testing.MockClock
) -> None:
    app, _ = mail_app()
    with pytest.raises(AssertionError, match=complaint):
        await play(app, transcript, cut=cut)


@pytest.mark.parametrize("line", ["NOOP", "c: NOOP", "C NOOP", " S: 250"])
async def test_a_malformed_transcript_is_told_by_its_line(line: str) -> None:
    app, _ = mail_app()
    with pytest.raises(ValueError, match="line 2: "):
        await play(app, f"S: 220 ...\n{line}\n")


@pytest.mark.parametrize("cut", EVERY_CUT)
async def test_the_segments_of_each_cut(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    segments: list[bytes] = []
    send_bytes = Client.send_bytes

    async def note(self: Client, data: bytes) -> None:
        segments.append(data)
        await send_bytes(self, data)

    monkeypatch.setattr(Client, "send_bytes", note)
    app, _ = mail_app()
    lines = ["NOOP one", "NOOP two", "RSET"]
    script = "\n".join(["S: 220 ...", *(f"C: {line}" for line in lines), *["S: 250 OK"] * 3])
    await play(app, script, cut=cut, seed=1)
    wire = "".join(f"{line}\r\n" for line in lines).encode()
    assert b"".join(segments) == wire
    assert cut != "whole" or segments == [wire]
    assert cut != "line" or segments == [f"{line}\r\n".encode() for line in lines]
    assert cut != "octet" or {len(segment) for segment in segments} == {1}
    assert cut != "random" or 3 <= len(segments) < len(wire)
    first = list(segments)
    segments.clear()
    await play(app, script, cut=cut, seed=1)
    assert segments == first


async def test_a_crash_of_a_handler_is_played_like_anything_else() -> None:
    app = App()

    @app.on_data
    async def crash(ctx: DataContext) -> None:
        raise LookupError

    await play(
        app,
        "S: 220 ...\nC: HELO c\nS: 250 ...\nC: MAIL FROM:<>\nS: 250 ...\nC: RCPT TO:<b@c.example>\nS: 250 ...\n"
        "C: DATA\nS: 354 ...\nC: .\nS: 451 ...\n",
    )


# --- MemoryListener ---


async def test_a_memory_listener_serves_a_whole_server() -> None:
    app, taken = mail_app()
    server, listener = SMTPServer(app), MemoryListener()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(server.serve_listeners, [listener])
        assert listeners == server.listeners == [listener]
        one, two = Client(await listener.connect()), Client(await listener.connect())
        for client in (one, two):
            assert (await client.read_reply()).code == 220
        assert len(server.sessions) == 2
        await two.ehlo()
        assert (await send(two)).code == 250
        for client in (one, two):
            assert (await client.quit()).code == 221
            await client.aclose()
        server.drain()
    assert taken == [BODY]
    assert server.listeners == []
    with pytest.raises(trio.BrokenResourceError):
        await listener.connect()


async def test_who_waits_to_connect_learns_that_the_listener_was_closed() -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:

        async def connect() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await listener.connect()

        nursery.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


# --- Addresses ---


async def addresses(peer: tuple[str, int] | None, local: tuple[str, int] | None = None) -> list[object]:
    """What a session knows of a connection from and to these addresses."""
    app, _ = mail_app()
    server, listener = SMTPServer(app), MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        client = Client(await listener.connect(peer, local=local))
        assert (await client.read_reply()).code == 220
        (session,) = server.sessions
        await client.aclose()
        server.drain()
    remote = session.remote_address, session.remote_port
    assert session.original_peer == remote
    assert session.client_hostname == (f"[{remote[0]}]" if remote[0] else "unknown")
    return [remote, (session.local_address, session.local_port)]


@pytest.mark.parametrize(
    ("peer", "local", "expected"),
    [
        (None, None, [(None, None), (None, None)]),
        (("192.0.2.1", 4711), None, [("192.0.2.1", 4711), ("127.0.0.1", 25)]),
        (("192.0.2.1", 4711), ("198.51.100.1", 587), [("192.0.2.1", 4711), ("198.51.100.1", 587)]),
        (("2001:DB8::0:1", 4711), None, [("2001:db8::1", 4711), ("::1", 25)]),
        (("::ffff:192.0.2.1", 4711), None, [("192.0.2.1", 4711), ("127.0.0.1", 25)]),
        (("fe80::1%eth0", 4711), None, [("fe80::1", 4711), ("::1", 25)]),
        (None, ("198.51.100.1", 587), [(None, None), ("198.51.100.1", 587)]),
    ],
)
async def test_addresses_are_those_of_a_socket(
    peer: tuple[str, int] | None, local: tuple[str, int] | None, expected: list[object]
) -> None:
    assert await addresses(peer, local) == expected


@pytest.mark.parametrize("wrong", [("mx.example", 25), ("192.0.2.256", 25), ("", 25), "192.0.2.1"])
async def test_what_is_no_address_is_an_error_that_names_the_argument(wrong: tuple[str, int]) -> None:
    app, _ = mail_app()
    listener = MemoryListener()
    with pytest.raises(ValueError, match="peer must be an IP address and a port, not .*" + wrong[0]):
        await listener.connect(wrong)
    with pytest.raises(ValueError, match="local must be"):
        await listener.connect(("192.0.2.1", 4711), local=wrong)
    with pytest.raises(ValueError, match="peer must be"):
        async with open_client(app, peer=wrong):
            raise AssertionError
    with pytest.raises(ValueError, match="peer must be"):
        await play(app, "S: 220 ...", peer=wrong)


def picky_app() -> App:
    """Turns away whoever comes from 203.0.113.0/24."""
    app, _ = mail_app()

    @app.on_connect
    async def turn_away(ctx: ConnectContext) -> None:
        if (ctx.session.remote_address or "").startswith("203.0.113."):
            ctx.reject("Not from there")

    return app


async def test_a_policy_by_address_with_open_client() -> None:
    async with open_client(picky_app(), peer=("203.0.113.7", 4711)) as client:
        assert client.greeting.code == 550
    async with open_client(picky_app(), peer=("192.0.2.1", 4711)) as client:
        assert client.greeting.code == 220


async def test_a_policy_by_address_with_play(autojump_clock: trio.testing.MockClock) -> None:
    await play(picky_app(), "S: 550 Not from there\nS: <close>", peer=("203.0.113.7", 4711))
    await play(picky_app(), "S: 220 ...", peer=("192.0.2.1", 4711))


async def test_limits_by_host_hold_for_addresses_in_memory() -> None:
    app, _ = mail_app()
    server, listener = SMTPServer(app, Config(max_connections_per_host=1)), MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        codes = []
        for peer in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
            client = Client(await listener.connect((peer, 4711)))
            codes.append((await client.read_reply()).code)
        assert codes == [220, 421, 220]
        nursery.cancel_scope.cancel()
