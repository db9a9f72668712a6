"""Programs that stand in front of a server, and what its handlers see of them: Postfix, HAProxy, swaks and curl."""

from __future__ import annotations

import os
import shutil
import smtplib
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme

from tests.socket_support import port_of
from trio_smtp import (
    App,
    AuthContext,
    CloseContext,
    Config,
    DataContext,
    Envelope,
    RcptToContext,
    Session,
    SMTPServer,
    XClientCredentials,
)

from .conftest import CertificateFiles
from .front_ends_support import (
    LIFETIME,
    MASTER,
    MESSAGE,
    PATIENCE,
    Postfix,
    RecordingListener,
    haproxy,
    run,
    say,
    submit,
)

LOOPBACK = ("127.0.0.0/8",)
#: Stands for the rest of the world: HAProxy itself connects to us from 127.0.0.1.
ELSEWHERE = ("127.0.0.9", 0)

needs_postfix = [
    pytest.mark.program("postfix", MASTER),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts as root only"),
]


@attrs.frozen
class Seen:
    """What the handler saw: copied, because a session goes on after its message."""

    session: Session
    envelope: Envelope
    xforward: dict[str, str | None]
    transmission_type: str
    body: bytes


@attrs.frozen
class Sink:
    """An App that shows what it takes."""

    app: App
    messages: trio.MemoryReceiveChannel[Seen]

    async def next(self) -> Seen:
        """The next message."""
        with trio.fail_after(PATIENCE):
            return await self.messages.receive()


@pytest.fixture
def sink() -> Iterator[Sink]:
    send_channel, receive_channel = trio.open_memory_channel[Seen](100)
    app = App()

    @app.on_data
    async def show(ctx: DataContext) -> None:
        session = ctx.session
        body = await ctx.stream.read()
        send_channel.send_nowait(Seen(session, ctx.envelope, {**session.xforward}, session.transmission_type, body))

    with send_channel, receive_channel:
        yield Sink(app, receive_channel)


@asynccontextmanager
async def serving(app: App, **fields: Any) -> AsyncIterator[SMTPServer]:
    """A server on a free port of 127.0.0.1; it is drained at the end."""
    server = SMTPServer(app, Config(hostname="mx.example.net", port=0, **fields))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_tcp)
        yield server
        server.drain()


# Postfix


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    # Not in tmp_path: Postfix's own user must be able to get there.
    directory = Path(tempfile.mkdtemp(prefix="trio-smtp-"))
    directory.chmod(0o755)
    for name in ("queue", "data"):
        (directory / name).mkdir()
    shutil.chown(directory / "data", "postfix")
    try:
        yield Postfix(directory)
    finally:
        shutil.rmtree(directory)


class TestPostfix:
    pytestmark = needs_postfix

    async def test_it_relays_with_all_its_extensions(self, sink: Sink, postfix: Postfix) -> None:
        async with (
            serving(sink.app, dsn=True, xforward=LOOPBACK) as server,
            postfix.running(relayhost=f"[127.0.0.1]:{server.port}") as client,
        ):
            # For the rest of the session Postfix takes us for somebody else; that is what its XFORWARD tells.
            await say(
                client,
                "EHLO localhost",
                "XCLIENT NAME=client.example.com ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=laptop.example.com",
                "EHLO laptop.example.com",
            )
            await submit(
                client,
                "MAIL FROM:<älice@example.org> SMTPUTF8 BODY=8BITMIME SIZE=100 RET=HDRS ENVID=id+2B1",
                "RCPT TO:<bob@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;robert@example.com",
                "RCPT TO:<bjørn@example.net> NOTIFY=NEVER",
                message="Subject: Grüße\r\n\r\n..dots\r\nGrüße\r\n".encode(),
            )
            seen = await sink.next()

        session, envelope = seen.session, seen.envelope
        assert (session.remote_address, session.client_hostname) == ("127.0.0.1", "[127.0.0.1]")
        assert (session.opening_command, session.host_name_appears_as) == ("EHLO", "relay.example.org")
        assert seen.transmission_type == "UTF8SMTP"

        assert {name: seen.xforward[name] for name in ("NAME", "ADDR", "PORT", "PROTO", "HELO", "SOURCE")} == {
            "NAME": "client.example.com",
            "ADDR": "192.0.2.7",
            "PORT": "4711",
            "PROTO": "ESMTP",
            "HELO": "laptop.example.com",
            "SOURCE": "REMOTE",
        }
        assert seen.xforward["IDENT"]
        assert session.xforward == {}

        assert envelope.mail_from is not None
        assert (envelope.mail_from.address, envelope.mail_from.domain) == ("älice@example.org", "example.org")
        assert (envelope.smtp_utf8, envelope.body_type) == (True, "8BITMIME")
        assert envelope.size  # of the message as Postfix stores it
        assert envelope.dsn is not None
        assert (envelope.dsn.ret, envelope.dsn.envid) == ("HDRS", "id+1")
        bjorn, bob = envelope.rcpt_to  # Postfix sorts them
        assert (bjorn.address, bob.address) == ("bjørn@example.net", "bob@example.net")
        assert bob.dsn is not None
        assert (bob.dsn.notify, bob.dsn.orcpt) == (("SUCCESS", "DELAY"), ("rfc822", "robert@example.com"))
        assert bjorn.dsn is not None
        assert (bjorn.dsn.notify, bjorn.dsn.orcpt) == (("NEVER",), ("rfc822", "bjørn@example.net"))

        assert seen.body.startswith(b"Received: from laptop.example.com (client.example.com [192.0.2.7])\r\n")
        assert seen.body.endswith("\r\n\r\n.dots\r\nGrüße\r\n".encode())

    async def test_it_pipelines(self, sink: Sink, postfix: Postfix) -> None:
        received: list[bytes] = []
        server = SMTPServer(sink.app, Config(hostname="mx.example.net"))
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, [RecordingListener(listener, received)])
            async with postfix.running(relayhost=f"[127.0.0.1]:{port}") as client:
                await say(client, "EHLO client.example.com")
                await submit(
                    client, "MAIL FROM:<alice@example.org>", *(f"RCPT TO:<user{n}@example.net>" for n in range(3))
                )
                seen = await sink.next()
            server.drain()
        assert len(seen.envelope.rcpt_to) == 3
        commands = [segment for segment in received if segment.startswith(b"MAIL FROM:<alice@example.org>")]
        assert [line.partition(b" ")[0] for line in commands[0].split(b"\r\n")] == [
            b"MAIL", b"RCPT", b"RCPT", b"RCPT", b"DATA", b"",
        ]  # fmt: skip
        # The end of the message and the QUIT after it.
        assert received[-1].endswith(b"\r\n.\r\nQUIT\r\n")

    async def test_it_delivers_by_lmtp_and_some_recipients_are_refused(self, sink: Sink, postfix: Postfix) -> None:
        @sink.app.on_rcpt_to
        async def known_only(ctx: RcptToContext) -> None:
            if ctx.address.local_part == "nobody":
                ctx.reject("There is nobody", 550, enhanced="5.1.1")

        @sink.app.on_data
        async def over_quota(ctx: DataContext) -> None:
            for recipient in ctx.envelope.rcpt_to:
                if recipient.local_part.startswith("full"):
                    ctx.reject_recipient(recipient, f"No room for {recipient}", 552, enhanced="5.2.2")

        path = postfix.directory / "lmtp.sock"
        server = SMTPServer(sink.app, Config(hostname="mx.example.net", lmtp=True, unix_path=str(path), dsn=True))
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: server.serve_unix(mode=0o666, task_status=task_status))
            async with postfix.running(
                default_transport=f"lmtp:unix:{path}", lmtp_destination_recipient_limit="50"
            ) as client:
                await say(client, "EHLO client.example.com")
                names = ("bob", "full1", "nobody", "carol", "full2")
                await submit(
                    client,
                    "MAIL FROM:<alice@example.org>",
                    *(f"RCPT TO:<{name}@example.net>" for name in names),
                )
                seen = await sink.next()
                bounce = await sink.next()
            server.drain()
        assert not path.exists()

        session = seen.session
        assert (session.lmtp, session.opening_command) == (True, "LHLO")
        assert (session.remote_address, session.client_hostname) == (None, "unknown")
        assert seen.transmission_type == "LMTP"
        assert [recipient.local_part for recipient in seen.envelope.rcpt_to] == ["bob", "carol", "full1", "full2"]

        # Postfix tells the sender of the three that were refused, and of nobody else.
        assert bounce.envelope.mail_from is not None
        assert bounce.envelope.mail_from.address == ""
        assert [recipient.address for recipient in bounce.envelope.rcpt_to] == ["alice@example.org"]
        report = bounce.body.replace(b"\r\n    ", b" ")
        assert sorted(line for line in report.split(b"\r\n") if line.startswith(b"Final-Recipient:")) == [
            b"Final-Recipient: rfc822; full1@example.net",
            b"Final-Recipient: rfc822; full2@example.net",
            b"Final-Recipient: rfc822; nobody@example.net",
        ]
        assert sorted(line for line in report.split(b"\r\n") if line.startswith(b"Diagnostic-Code:")) == [
            b"Diagnostic-Code: smtp; 550 5.1.1 There is nobody",
            b"Diagnostic-Code: smtp; 552 5.2.2 No room for full1@example.net",
            b"Diagnostic-Code: smtp; 552 5.2.2 No room for full2@example.net",
        ]

    async def test_it_delivers_by_lmtp_to_a_recipient_without_a_domain(self, sink: Sink, postfix: Postfix) -> None:
        path = postfix.directory / "lmtp.sock"
        server = SMTPServer(sink.app, Config(hostname="mx.example.net", lmtp=True, unix_path=str(path)))
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: server.serve_unix(mode=0o666, task_status=task_status))
            async with postfix.running(
                mydestination="relay.example.org",
                local_transport=f"lmtp:unix:{path}",
                append_at_myorigin="no",
                append_dot_mydomain="no",
                # Its resolver adds a domain all the same; this takes it off.
                lmtp_generic_maps="inline:{ { bob@relay.example.org = bob } }",
            ) as client:
                await say(client, "EHLO client.example.com")
                await submit(client, "MAIL FROM:<alice@example.org>", "RCPT TO:<bob>")
                seen = await sink.next()
            server.drain()
        (recipient,) = seen.envelope.rcpt_to
        assert (recipient.address, recipient.local_part, recipient.domain) == ("bob", "bob", "")
        assert seen.body.endswith(MESSAGE)


# HAProxy


@attrs.frozen
class Way:
    """How a client reaches us through HAProxy, which passes TLS through."""

    implicit_tls: bool = False
    starttls: bool = False

    def send(self, port: int, trust: ssl.SSLContext) -> int:
        """Send a message with smtplib; gives the client's port."""
        if self.implicit_tls:
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                "localhost", port, context=trust, timeout=PATIENCE, source_address=ELSEWHERE
            )
        else:
            client = smtplib.SMTP("localhost", port, timeout=PATIENCE, source_address=ELSEWHERE)
        with client:
            if self.starttls:
                client.starttls(context=trust)
            client.sendmail("alice@example.org", "bob@example.net", MESSAGE)
            assert client.sock is not None
            return int(client.sock.getsockname()[1])


@pytest.mark.program("haproxy")
@pytest.mark.parametrize("way", [Way(), Way(starttls=True), Way(implicit_tls=True)], ids=["plain", "starttls", "tls"])
@pytest.mark.parametrize("version", [1, 2])
async def test_haproxy_tells_who_the_client_is(
    sink: Sink,
    tmp_path: Path,
    *,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    way: Way,
    version: int,
) -> None:
    tls = {"ssl_context": server_ssl_context, "implicit_tls": way.implicit_tls} if way != Way() else {}
    send = "send-proxy" if version == 1 else "send-proxy-v2 proxy-v2-options unique-id,crc32c"
    async with (
        serving(sink.app, proxy_protocol=LOOPBACK, **tls) as server,
        haproxy(tmp_path, port_of(server), send) as front,
    ):
        client_port = await trio.to_thread.run_sync(way.send, front, client_ssl_context)
        seen = await sink.next()

    session = seen.session
    assert (session.remote_address, session.remote_port) == ("127.0.0.9", client_port)
    assert (session.local_address, session.local_port) == ("127.0.0.1", front)
    assert session.client_hostname == "[127.0.0.9]"
    assert session.original_peer[0] == "127.0.0.1"
    assert session.original_peer[1] != client_port
    assert session.proxy is not None
    assert (session.proxy.version, session.proxy.local) == (version, False)
    assert session.proxy.source == ("127.0.0.9", client_port)
    assert session.proxy.destination == ("127.0.0.1", front)
    # TLS is between the client and us: HAProxy knows nothing of it.
    assert not session.proxy.ssl
    assert session.secure == (way != Way())
    assert session.servername == ("localhost" if way != Way() else None)
    assert seen.transmission_type == ("ESMTPS" if way != Way() else "ESMTP")
    if version == 2:
        assert session.proxy.unique_id is not None
        assert session.proxy.unique_id.startswith(b"connection-")
        assert 3 in session.proxy.tlvs  # the CRC32C was checked
    assert seen.body == MESSAGE


@pytest.mark.program("haproxy")
async def test_haproxy_that_ends_tls_tells_of_it(
    sink: Sink, tmp_path: Path, ca: trustme.CA, ca_file: Path, certificate_files: CertificateFiles
) -> None:
    pem = tmp_path / "server.pem"
    pem.write_text(certificate_files.cert.read_text() + certificate_files.key.read_text())
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(trust)
    ca.issue_cert("client.example.com", common_name="alice").configure_cert(trust)
    async with (
        serving(sink.app, proxy_protocol=LOOPBACK) as server,
        haproxy(
            tmp_path,
            port_of(server),
            "send-proxy-v2 proxy-v2-options ssl,cert-cn,authority",
            f"ssl crt {pem} ca-file {ca_file} verify required",
        ) as front,
    ):
        await trio.to_thread.run_sync(Way(implicit_tls=True).send, front, trust)
        seen = await sink.next()

    session = seen.session
    assert session.remote_address == "127.0.0.9"
    assert not session.secure
    assert session.proxy is not None
    assert session.proxy.ssl
    assert session.proxy.ssl_verified
    assert session.proxy.ssl_client_cn == "alice"
    assert session.proxy.ssl_version == "TLSv1.3"
    assert session.proxy.authority == "localhost"


@pytest.mark.program("haproxy")
async def test_its_health_checks_are_no_clients(sink: Sink, tmp_path: Path) -> None:
    reasons, receive_channel = trio.open_memory_channel[str](100)

    @sink.app.on_close
    async def note(ctx: CloseContext) -> None:
        assert ctx.session.proxy is not None
        reasons.send_nowait(f"{ctx.session.proxy.local} {ctx.session.remote_address} {ctx.reason}")

    async with (
        serving(sink.app, proxy_protocol=LOOPBACK) as server,
        haproxy(
            tmp_path,
            port_of(server),
            f"send-proxy-v2 check-send-proxy check inter {LIFETIME}s\n  option smtpchk EHLO us",
        ),
    ):
        with reasons, receive_channel, trio.fail_after(PATIENCE):
            assert await receive_channel.receive() == "True 127.0.0.1 quit"


# swaks and curl


@pytest.mark.program("swaks")
async def test_swaks_xclient(sink: Sink) -> None:
    users: list[object] = []

    @sink.app.on_auth
    async def known(ctx: AuthContext) -> None:
        assert isinstance(ctx.credentials, XClientCredentials)
        ctx.accept(ctx.credentials.username)
        users.append(ctx.session.remote_address)

    async with serving(sink.app, xclient=LOOPBACK) as server:
        done = await run(
            *("swaks", "--server", f"127.0.0.1:{server.port}", "--from", "alice@example.org"),
            *("--to", "bob@example.net", "--helo", "laptop.example.com"),
            *("--xclient-addr", "IPV6:2001:db8::7", "--xclient-name", "client.example.com", "--xclient-port", "4711"),
            *("--xclient-proto", "ESMTP", "--xclient-helo", "before.example.com", "--xclient-login", "alice"),
            *("--xclient-destaddr", "192.0.2.25", "--xclient-destport", "587"),
        )
        seen = await sink.next()

    session = seen.session
    assert done.stdout.count(b" 220 mx.example.net ESMTP") == 2
    assert (session.remote_address, session.remote_port) == ("2001:db8::7", 4711)
    assert (session.local_address, session.local_port) == ("192.0.2.25", 587)
    assert (session.client_hostname, session.client_hostname_verified) == ("client.example.com", False)
    assert session.host_name_appears_as == "laptop.example.com"
    assert (session.user, session.authenticated, session.auth_mechanism) == ("alice", True, "XCLIENT")
    assert users == ["2001:db8::7"]
    assert seen.transmission_type == "ESMTPA"
    assert session.original_peer[0] == "127.0.0.1"
    assert session.xclient == {
        "ADDR": "2001:db8::7",
        "NAME": "client.example.com",
        "PORT": "4711",
        "PROTO": "ESMTP",
        "HELO": "before.example.com",
        "LOGIN": "alice",
        "DESTADDR": "192.0.2.25",
        "DESTPORT": "587",
    }


@pytest.mark.program("swaks")
@pytest.mark.parametrize(
    ("version", "family", "source", "destination"),
    [
        (1, "TCP4", "192.0.2.7", "198.51.100.25"),
        (1, "TCP6", "2001:db8::7", "2001:db8::25"),
        (2, "AF_INET", "192.0.2.7", "198.51.100.25"),
        (2, "AF_INET6", "2001:db8::7", "2001:db8::25"),
    ],
)
async def test_swaks_proxy(sink: Sink, version: int, family: str, source: str, destination: str) -> None:
    async with serving(sink.app, proxy_protocol=LOOPBACK) as server:
        await run(
            *("swaks", "--server", f"127.0.0.1:{server.port}", "--from", "alice@example.org"),
            *("--to", "bob@example.net", "--proxy-version", str(version), "--proxy-family", family),
            *("--proxy-source", source, "--proxy-source-port", "4711"),
            *("--proxy-dest", destination, "--proxy-dest-port", "25"),
        )
        seen = await sink.next()
    session = seen.session
    assert (session.remote_address, session.remote_port) == (source, 4711)
    assert (session.local_address, session.local_port) == (destination, 25)
    assert (session.client_hostname, session.original_peer[0]) == (f"[{source}]", "127.0.0.1")
    assert session.proxy is not None
    assert session.proxy.version == version


@pytest.mark.program("curl")
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_curl_through_haproxy(
    sink: Sink, tmp_path: Path, server_ssl_context: ssl.SSLContext, ca_file: Path, scheme: str
) -> None:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    implicit_tls = scheme == "smtps"
    async with (
        serving(sink.app, proxy_protocol=LOOPBACK, ssl_context=server_ssl_context, implicit_tls=implicit_tls) as server,
        haproxy(tmp_path, port_of(server), "send-proxy-v2") as front,
    ):
        await run(
            *("curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", str(ca_file), "--interface", ELSEWHERE[0]),
            *("--mail-from", "alice@example.org", "--mail-rcpt", "bob@example.net", "--upload-file", "-"),
            f"{scheme}://localhost:{front}/laptop.example.com",
            stdin=MESSAGE,
        )
        seen = await sink.next()
    session = seen.session
    assert (session.remote_address, session.original_peer[0]) == (ELSEWHERE[0], "127.0.0.1")
    assert (session.host_name_appears_as, session.servername) == ("laptop.example.com", "localhost")
    assert seen.transmission_type == "ESMTPS"
    assert session.tls is not None
    assert session.tls.version == "TLSv1.3"
    assert seen.body == MESSAGE
