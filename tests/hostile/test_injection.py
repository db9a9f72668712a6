"""Injection: into TLS sessions, replies, logs and header fields; and strangers that speak for others."""

from __future__ import annotations

import logging
import ssl
from typing import Any

import pytest
import trio
import trio.testing

from tests.socket_support import port_of
from tests.support import closed
from trio_smtp import (
    App,
    AuthContext,
    Config,
    ConnectContext,
    DataContext,
    DataStartContext,
    HeloContext,
    MailFromContext,
    RcptToContext,
    Reply,
    SMTPError,
    SMTPServer,
    VerifyContext,
)
from trio_smtp.plugins import logger as logger_plugin
from trio_smtp.testing import Client, open_client

from .support import Mailbox, cut_at, exchange, replies_in, run, watched_log

# STARTTLS: what was said in the clear never counts inside.

INJECTED = b"EHLO evil\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nx\r\n.\r\n"


@pytest.mark.parametrize("cut", range(len(b"STARTTLS\r\n") + 5))
async def test_starttls_with_commands_behind_it(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    cut: int,
) -> None:
    """CVE-2011-0411: whatever comes with STARTTLS is thrown away, or breaks the handshake; it is never obeyed."""
    box = Mailbox()
    server = SMTPServer(box.app, Config(hostname="mx.example", ssl_context=server_ssl_context))
    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)
    with watched_log() as records:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, theirs)
            await client.read_reply()
            for segment in cut_at(b"STARTTLS\r\n" + INJECTED, cut):
                await client.send_bytes(segment)
                if cut < len(b"STARTTLS\r\n"):
                    await trio.testing.wait_all_tasks_blocked()
            assert (await client.read_reply()).code == 220
            secure = trio.SSLStream(ours, client_ssl_context, server_hostname="localhost", https_compatible=True)
            try:
                await secure.do_handshake()
                inside = Client(secure)
                assert (await inside.command("MAIL FROM:<a@example.org>")).code == 503
                assert (await inside.ehlo()).code == 250
                await inside.quit()
            except trio.BrokenResourceError:
                assert server.stats.tls_failures == 1
            await trio.aclose_forcefully(ours)
    assert box.taken == []
    assert server.stats.replies[354] == 0
    assert server.stats.tls_handshakes + server.stats.tls_failures == 1
    if server.stats.tls_handshakes:
        assert any("after STARTTLS were thrown away" in record.getMessage() for record in records)


async def test_starttls_forgets_everything_said_before(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    box = Mailbox()

    @box.app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept("somebody")

    async with open_client(box.app, ssl_context=server_ssl_context, allow_insecure_auth=True) as client:
        await client.ehlo("in-the-clear.example")
        assert (await client.auth_plain("user", "password")).code == 235
        assert (await client.starttls(client_ssl_context, "localhost")).code == 220
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 503
        session = client.session
        assert (session.host_name_appears_as, session.user, session.authenticated) == (None, None, False)
        assert (await client.command("RCPT TO:<b@example.com>")).code == 503
        assert any("AUTH" in line for line in (await client.ehlo()).lines)


# Replies

EVIL = "no\r\n250 2.0.0 OK\r\n354 go on\n221 bye\r\x00\x1b[31m\x85\u2028\u202e\u200b" + "y" * 3000


def _evil_app(where: str) -> App:
    box = Mailbox()
    app = box.app

    def refuse(ctx: Any) -> None:
        kind, _, code = where.partition(" ")[2].partition(" ")
        if kind == "reject":
            ctx.reject(EVIL, int(code))
        elif kind == "reject-lines":
            ctx.reject([EVIL, "250 OK", EVIL], int(code))
        elif kind == "disconnect":
            ctx.disconnect(EVIL, int(code))
        elif kind == "raise":
            raise SMTPError(EVIL, int(code))
        elif kind == "crash":
            raise RuntimeError(EVIL)
        else:
            ctx.reply = Reply(ctx.reply.code, EVIL)

    phase = where.partition(" ")[0]

    @app.on_connect
    async def connect(ctx: ConnectContext) -> None:
        if phase == "connect":
            refuse(ctx)

    @app.on_helo
    async def helo(ctx: HeloContext) -> None:
        if phase == "extensions":
            ctx.extensions[:] = [EVIL, "SIZE 1\r\n250 AUTH PLAIN"]
        elif phase == "helo":
            refuse(ctx)

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        if phase == "auth":
            refuse(ctx)
        ctx.accept()

    @app.on_mail_from
    async def mail(ctx: MailFromContext) -> None:
        if phase == "mail":
            refuse(ctx)

    @app.on_rcpt_to
    async def rcpt(ctx: RcptToContext) -> None:
        if phase == "rcpt":
            refuse(ctx)

    @app.on_data_start
    async def start(ctx: DataStartContext) -> None:
        if phase == "start":
            refuse(ctx)

    @app.on_data
    async def data(ctx: DataContext) -> None:
        await ctx.stream.discard()
        if phase == "recipient":
            ctx.reject_recipient(ctx.envelope.rcpt_to[1], EVIL, 550)
        elif phase == "data":
            refuse(ctx)

    @app.on_vrfy
    async def verify(ctx: VerifyContext) -> None:
        if phase == "verify":
            refuse(ctx)

    return app


_WAYS = ("reject 550", "reject-lines 451", "disconnect 421", "disconnect 521", "raise 554", "crash 451", "reply 250")
WHERE = [
    f"{phase} {way}"
    for phase in ("connect", "helo", "auth", "mail", "rcpt", "start", "data", "verify")
    for way in _WAYS
] + ["extensions", "recipient"]


@pytest.mark.parametrize("where", WHERE)
async def test_no_text_of_a_handler_makes_a_reply_of_its_own(
    autojump_clock: trio.testing.MockClock, where: str
) -> None:
    lmtp = where == "recipient"
    config = Config(hostname="mx.example", lmtp=lmtp, allow_insecure_auth=True)
    commands = [
        b"LHLO x" if lmtp else b"EHLO x",
        b"VRFY a",
        b"AUTH PLAIN AGEAYg==",
        b"MAIL FROM:<a@example.org>",
        b"RCPT TO:<b@example.com>",
        b"RCPT TO:<c@example.com>",
        b"DATA",
    ]
    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)
    said: list[Reply] = []
    with watched_log(errors=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(SMTPServer(_evil_app(where), config).serve_stream, theirs)
            # One reply to each command, whatever it says: a reply more and the two are out of step.
            try:
                for command in (b"", *commands):
                    if command:
                        await client.send_bytes(command + b"\r\n")
                    said.append(await client.read_reply())
                if said[-1].code == 354:
                    await client.send_bytes(b"x\r\n.\r\n")
                    said += [await client.read_reply() for _ in range(2 if lmtp else 1)]
                said.append(await client.command(b"NOOP in step"))
                assert (said[-1].code, said[-1].lines) == (250, ("OK",))
                await client.quit()
            except (trio.EndOfChannel, trio.BrokenResourceError):
                assert said[-1].code in (421, 521) or where.startswith("connect")
            assert await closed(client)
            await client.aclose()
    text = "\n".join(reply.text for reply in said)
    assert not any(ord(char) < 0x20 for char in text.replace("\n", ""))
    if "crash" in where:
        assert "354 go on" not in text
    else:
        # The text did come out: folded into lines of the reply it belongs to.
        assert "y" * 400 in text


@pytest.mark.parametrize("field", ["banner", "hostname", "auth_required_message"])
def test_no_text_of_the_config_makes_a_reply_of_its_own(field: str) -> None:
    for evil in ("x\r\n250 OK", "x\ny", "x\0", "x\x85y", "caf\xe9"):
        changes: dict[str, Any] = {field: evil}
        with pytest.raises(ValueError, match=field):
            Config(**changes)


async def test_what_a_client_says_comes_back_clean(autojump_clock: trio.testing.MockClock) -> None:
    app = App()

    @app.on_rcpt_to
    async def echo(ctx: RcptToContext) -> None:
        ctx.reject(f"no such user {ctx.address} {ctx.session.host_name_appears_as} {dict(ctx.address.args)}")

    said = await exchange(
        SMTPServer(app, Config(hostname="mx.example", unknown_parameters="allow")),
        [
            b"EHLO x%0d%0a250\r\nMAIL FROM:<> SMTPUTF8\r\n",
            b'RCPT TO:<"a\\ b\\"c"@example.com> ORCPT=rfc822;a+0D+0A250 X=+0D+0A\r\n',
            "RCPT TO:<ö@example.com> Y=ü\r\n".encode(),
            b"QUIT\r\n",
        ],
    )
    assert [reply.code for reply in replies_in(said)] == [220, 250, 250, 550, 550, 221]


# The log

CONTROLS = [*range(0x20), 0x7F]


def test_no_client_writes_lines_of_the_log() -> None:
    """Every octet in every place a client can put one: the log stays one printable line an event."""
    app = Mailbox().app
    app.use(logger_plugin(level=logging.INFO))
    config = Config(hostname="mx.example", max_errors=10_000, strict_addresses=False, unknown_parameters="allow")
    hostile = [bytes([octet]) for octet in (*CONTROLS, 0x80, 0x85, 0xFF)]
    hostile += [char.encode() for char in "\x85\u2028\u2029\u202e\u200b\ufeff\u009b\U000e0041"] + [b"%s%n%(x)s{0}"]
    places = [
        b"EHLO a%sb",
        b"%s",
        b"NOOP a%sb",
        b"MAIL FROM:<a%sb@example.org> SMTPUTF8",
        b"RCPT TO:<a%sb@example.com>",
        b'RCPT TO:<"a%sb"@example.com>',
        b"RCPT TO:<b@a%sb.example> X=a%sb",
        b"VRFY a%sb",
        b"AUTH a%sb",
        b"XCLIENT NAME=a%sb",
    ]
    wire = b"EHLO x\r\nMAIL FROM:<> SMTPUTF8\r\n"
    for octets in hostile:
        wire += b"".join(place.replace(b"%s", octets) + b"\r\n" for place in places)
        wire += b"RSET\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + octets + b"\r\n.\r\n"

    async def main() -> None:
        replies_in(await exchange(SMTPServer(app, config), [wire]))

    logging.getLogger("trio_smtp").debug("")
    with watched_log(logging.DEBUG) as records:
        run(main)
    assert len(records) > len(hostile) * len(places)
    for record in records:
        assert record.getMessage().isprintable(), record.getMessage()


async def test_a_password_is_not_in_the_log(autojump_clock: trio.testing.MockClock) -> None:
    box = Mailbox()

    @box.app.on_auth
    async def refuse(ctx: AuthContext) -> None:
        assert "tiger" not in repr(ctx)
        ctx.reject()

    with watched_log(logging.DEBUG) as records:
        async with open_client(box.app, allow_insecure_auth=True, max_auth_failures=100) as client:
            await client.ehlo()
            for line in ("AUTH PLAIN AHNjb3R0AHRpZ2Vy", "auth plain AHNjb3R0AHRpZ2Vy", "AUTH AHNjb3R0AHRpZ2Vy"):
                await client.command(line)
            assert (await client.command("AUTH LOGIN")).code == 334
            assert (await client.command("c2NvdHQ=")).code == 334
            assert (await client.command("dGlnZXI=")).code == 535
            # The exchange is over, and the client did not notice.
            assert (await client.command("dGlnZXI=")).code == 500
            assert (await client.command("AHNjb3R0AHRpZ2Vy")).code == 500
    log = "\n".join(record.getMessage() for record in records)
    assert "AUTH PLAIN ***" in log
    for secret in ("tiger", "dGlnZXI", "AHNjb3R0AHRpZ2Vy", "c2NvdHQ"):
        assert secret not in log


# Header fields

NAMES = [
    b"x(y)",
    b"x)\\(",
    b"x;by=evil",
    b"x\tby",
    b"[1.2.3.4]",
    b"x" * 255,
    b'"quoted"',
    b"<x@y>",
    b"x=?utf-8?q?y?=",
]
PATHS = [
    b'"a b"@example.com',
    b'"a\\"; by evil (\\" x"@example.com',
    b'">"@example.com',
    b"a@[IPv6:::1]",
    "grüße@example.com".encode(),
    b"postmaster",
    b'"\\a"@example.com',
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
async def test_no_client_writes_fields_of_a_message(
    autojump_clock: trio.testing.MockClock, name: bytes, path: bytes
) -> None:
    app = App()
    fields: list[bytes] = []

    @app.on_data
    async def note(ctx: DataContext) -> None:
        await ctx.stream.discard()
        fields.append(ctx.received_header())

    wire = b"EHLO %s\r\nEHLO x\r\nEHLO %s\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<%s>\r\nDATA\r\n.\r\nQUIT\r\n"
    with watched_log():
        said = await exchange(SMTPServer(app, Config(hostname="mx.example")), [wire % (name, name, path)])
    codes = [reply.code for reply in replies_in(said)]
    assert codes[4:] == [250, 250, 354, 250, 221]
    (field,) = fields
    lines = field.split(b"\r\n")
    assert lines.pop() == b""
    assert lines[0].startswith(b"Received: from ")
    # One field: what follows its first line is folded, and there is one semicolon that ends its clauses.
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert all(octet >= 0x20 and octet != 0x7F for line in lines for octet in line.replace(b"\t", b""))
    before_for = field.partition(b"\r\n\tfor <")[0]
    assert before_for.count(b"(") == before_for.count(b")") == 1
    assert before_for.count(b";") == 0
    assert before_for.count(b"by ") == 1


async def test_a_hostile_name_in_reverse_dns(mock_clock: trio.testing.MockClock) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
            raise OSError

        async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
            return 'evil.example)\r\nX-Injected: yes\r\n "', "0"

    trio.socket.set_custom_hostname_resolver(Resolver())
    names: list[str] = []
    app = Mailbox().app

    @app.on_connect
    async def note(ctx: ConnectContext) -> None:
        names.append(ctx.session.client_hostname)

    async with trio.open_nursery() as nursery:
        server = SMTPServer(app, Config(hostname="mx.example", reverse_dns=True))
        await nursery.start(lambda task_status: server.serve_tcp(port=0, task_status=task_status))
        client = Client(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
        assert (await client.read_reply()).code == 220
        await client.aclose()
        nursery.cancel_scope.cancel()
    assert names == ["[127.0.0.1]"]


# Strangers

STRANGERS: dict[str, tuple[dict[str, Any], bytes, set[int]]] = {
    "XCLIENT, not switched on": ({}, b"XCLIENT ADDR=1.2.3.4 LOGIN=root\r\n", {500}),
    "XFORWARD, not switched on": ({}, b"XFORWARD ADDR=1.2.3.4\r\n", {500}),
    "XCLIENT": ({"xclient": ["192.0.2.0/24"]}, b"XCLIENT ADDR=192.0.2.1 LOGIN=root\r\n", {550}),
    "XFORWARD": ({"xforward": ["192.0.2.0/24"]}, b"XFORWARD ADDR=192.0.2.1\r\n", {550}),
    "PROXY 1": ({"proxy_protocol": ["192.0.2.0/24"]}, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n", {500}),
    "PROXY 2": (
        {"proxy_protocol": ["192.0.2.0/24"]},
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\0\1\0\x19",
        {500},
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
async def test_strangers_speak_for_nobody(case: str) -> None:
    changes, wire, codes = STRANGERS[case]
    server = SMTPServer(Mailbox().app, Config(hostname="mx.example", **changes))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve_tcp(port=0, task_status=task_status))
        client = Client(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
        assert (await client.read_reply()).code == 220
        ehlo = await client.ehlo()
        assert not any(line.startswith(("XCLIENT", "XFORWARD")) for line in ehlo.lines)
        await client.send_bytes(wire)
        assert (await client.read_reply()).code in codes
        (session,) = server.sessions
        assert (session.remote_address, session.proxy, session.authenticated) == ("127.0.0.1", None, False)
        assert session.xclient == session.xforward == {}
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_xclient_does_not_open_the_door_wider() -> None:
    """A trusted front end that speaks for a stranger is a stranger from then on."""
    server = SMTPServer(Mailbox().app, Config(hostname="mx.example", xclient=["127.0.0.1"], xforward=["127.0.0.1"]))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.serve_tcp(port=0, task_status=task_status))
        client = Client(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
        await client.read_reply()
        await client.ehlo()
        for bad in (
            b"ADDR=IPV6:fe80::1+25x(y)",
            b"ADDR=1.2.3.4+0D+0A",
            b"NAME=a+0D+0A250",
            b"ADDR=1.2.3.4 ADDR=1.2.3.4",
        ):
            assert (await client.command(b"XCLIENT " + bad)).code == 501
        assert server.sessions[0].remote_address == "127.0.0.1"
        assert (await client.command(b"XCLIENT ADDR=1.2.3.4")).code == 220
        await client.ehlo()
        assert (await client.command(b"XCLIENT ADDR=127.0.0.1")).code == 550
        assert (await client.command(b"XFORWARD ADDR=127.0.0.1")).code == 550
        await client.aclose()
        nursery.cancel_scope.cancel()
