"""Real clients on real sockets: what they send lies in the Maildir, octet for octet."""

from __future__ import annotations

import os
import re
import smtplib
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path

import attrs
import pytest
import trio

from tests.socket_support import port_of
from trio_smtp import App, AuthContext, Config, MailFromContext, Session, SMTPServer
from trio_smtp.delivery.maildir import maildir

from .maildir_support import body_of, files

#: Seconds that a program may take: far more than a loaded machine needs.
PATIENCE = 30
SENDER = "alice@example.org"
RECIPIENT = "bob@example.com"
HEADER = (
    b"From: alice@example.org\r\nTo: bob@example.com\r\nDate: Fri, 21 Nov 2025 04:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n"
)
#: Dots at the start of lines, also alone and doubled, an empty line at the end, and long lines.
NASTY = HEADER + (
    b"Subject: dots\r\n\r\n.\r\n..\r\n...\r\n. .\r\n.hidden\r\n\r\nthe end. \r\n.\r\n" + b"x" * 990 + b"\r\n\r\n"
)
EIGHT_BIT = HEADER + "Subject: 8 bit\r\n\r\nGrüße, käse, \u65e5\u672c\u8a9e\r\n".encode()
#: Some megabytes, streamed to the disk in many batches.
LARGE = HEADER + b"Subject: large\r\n\r\n" + b"".join(b".%-70d\r\n" % n for n in range(40_000))
MESSAGES = [
    pytest.param(NASTY, id="dots"),
    pytest.param(EIGHT_BIT, id="8 bit"),
    pytest.param(LARGE, id="large"),
]


class MailServer:
    """A server that stores what it gets in a Maildir, and lets alice in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "mail"
        self.app = App()
        self.sessions: list[Session] = []
        self.server: SMTPServer

        @self.app.on_auth
        async def auth(ctx: AuthContext) -> None:
            if ctx.credentials.username == "alice" and ctx.credentials.validate_password("secret"):
                ctx.accept("alice")

        @self.app.on_mail_from
        async def note(ctx: MailFromContext) -> None:
            self.sessions.append(ctx.session)

        self.app.use(maildir(self.directory))

    @asynccontextmanager
    async def serving(self, **fields: object) -> AsyncIterator[int]:
        """Serve while the block runs; gives the port."""
        config = Config(hostname="mx.example", **fields)  # type: ignore[arg-type]
        self.server = SMTPServer(self.app, config)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.serve_listeners, await self.server.listen_tcp(port=0))
            with trio.fail_after(2 * PATIENCE):
                yield port_of(self.server)
            self.server.drain()

    def delivered(self) -> list[bytes]:
        """The messages as they were sent."""
        return [body_of(path) for path in files(self.directory)]

    def received_with(self) -> list[str]:
        """The ``with`` keyword of each message's Received field."""
        found = []
        for path in files(self.directory):
            found += re.findall(rb"\nReceived: [^;]*? with ([A-Z0-9]+) id ", path.read_bytes())
        return [keyword.decode() for keyword in found]

    def file(self, message: bytes) -> Path:
        """A file with this message, for a program to send."""
        path = self.directory.parent / "message"
        path.write_bytes(message)
        return path


@pytest.fixture
def mail_server(tmp_path: Path) -> MailServer:
    return MailServer(tmp_path)


# smtplib

Talk = Callable[[smtplib.SMTP], object]


async def talk(port: int, conversation: Talk, *, implicit_tls: ssl.SSLContext | None = None) -> None:
    """Hold a conversation in a thread of its own."""

    def run() -> None:
        if implicit_tls is not None:
            client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", port, timeout=PATIENCE, context=implicit_tls)
        else:
            client = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
        with client:
            conversation(client)

    await trio.to_thread.run_sync(run)


@pytest.mark.parametrize("message", MESSAGES)
async def test_smtplib(mail_server: MailServer, message: bytes) -> None:
    async with mail_server.serving() as port:
        await talk(port, lambda smtp: smtp.sendmail(SENDER, [RECIPIENT], message))
    assert mail_server.delivered() == [message]
    assert mail_server.received_with() == ["ESMTP"]
    assert mail_server.server.stats.connections_open == 0


async def test_smtplib_says_8bitmime_and_size(mail_server: MailServer) -> None:
    async with mail_server.serving() as port:
        await talk(port, lambda smtp: smtp.sendmail(SENDER, [RECIPIENT], EIGHT_BIT, mail_options=["BODY=8BITMIME"]))
    assert mail_server.delivered() == [EIGHT_BIT]


async def test_smtplib_with_helo_only(mail_server: MailServer) -> None:
    def conversation(smtp: smtplib.SMTP) -> None:
        smtp.helo("client.example")
        smtp.sendmail(SENDER, [RECIPIENT], NASTY)

    async with mail_server.serving() as port:
        await talk(port, conversation)
    assert mail_server.delivered() == [NASTY]
    assert mail_server.received_with() == ["SMTP"]


async def test_smtplib_sends_several_messages_in_one_connection(mail_server: MailServer) -> None:
    messages = [HEADER + b"Subject: %d\r\n\r\n.%d\r\n" % (n, n) for n in range(10)]

    def conversation(smtp: smtplib.SMTP) -> None:
        for message in messages:
            assert smtp.sendmail(SENDER, [RECIPIENT, "carol@example.com"], message) == {}
        smtp.noop()
        smtp.rset()
        smtp.verify(RECIPIENT)

    async with mail_server.serving() as port:
        await talk(port, conversation)
    assert sorted(mail_server.delivered()) == sorted(messages)
    assert mail_server.server.stats.connections_accepted == 1


async def test_smtplib_starttls(
    mail_server: MailServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    def conversation(smtp: smtplib.SMTP) -> None:
        smtp.starttls(context=client_ssl_context)
        smtp.sendmail(SENDER, [RECIPIENT], NASTY)

    async with mail_server.serving(ssl_context=server_ssl_context, starttls_required=True) as port:
        with pytest.raises(smtplib.SMTPSenderRefused, match="STARTTLS"):
            await talk(port, lambda smtp: smtp.sendmail(SENDER, [RECIPIENT], NASTY))
        await talk(port, conversation)
    assert mail_server.delivered() == [NASTY]
    assert mail_server.received_with() == ["ESMTPS"]


@pytest.mark.parametrize("message", MESSAGES)
async def test_smtplib_implicit_tls(
    mail_server: MailServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext, message: bytes
) -> None:
    async with mail_server.serving(ssl_context=server_ssl_context, implicit_tls=True) as port:
        await talk(port, lambda smtp: smtp.sendmail(SENDER, [RECIPIENT], message), implicit_tls=client_ssl_context)
    assert mail_server.delivered() == [message]
    assert mail_server.received_with() == ["ESMTPS"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("initial_response", [True, False])
async def test_smtplib_auth(
    mail_server: MailServer,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    mechanism: str,
    initial_response: bool,
) -> None:
    def conversation(smtp: smtplib.SMTP) -> None:
        smtp.starttls(context=client_ssl_context)
        with pytest.raises(smtplib.SMTPSenderRefused, match="Authentication required"):
            smtp.sendmail(SENDER, [RECIPIENT], NASTY)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login("alice", "wrong", initial_response_ok=initial_response)
        assert smtp.login("alice", "secret", initial_response_ok=initial_response)[0] == 235
        smtp.sendmail(SENDER, [RECIPIENT], NASTY)

    async with mail_server.serving(
        ssl_context=server_ssl_context, auth_required=True, auth_mechanisms=(mechanism,)
    ) as port:
        await talk(port, conversation)
    assert mail_server.delivered() == [NASTY]
    assert mail_server.received_with() == ["ESMTPSA"]
    assert mail_server.sessions[-1].auth_mechanism == mechanism


async def test_smtplib_smtputf8(mail_server: MailServer) -> None:
    message = EmailMessage()
    message["From"] = "jürgen@bücher.example"
    message["To"] = "\u7528\u6237@example.com"
    message["Subject"] = "Grüße"
    message.set_content("Schöne Grüße\n.\n", cte="8bit")

    async with mail_server.serving() as port:
        await talk(port, lambda smtp: smtp.send_message(message))
    (sent,) = mail_server.delivered()
    assert "To: \u7528\u6237@example.com\r\n".encode() in sent
    assert sent.endswith("Schöne Grüße\r\n.\r\n".encode())
    assert mail_server.received_with() == ["UTF8SMTP"]
    (path,) = files(mail_server.directory)
    assert path.read_bytes().startswith("Return-Path: <jürgen@bücher.example>\r\n".encode())


async def test_smtplib_learns_what_is_too_large(mail_server: MailServer) -> None:
    async with mail_server.serving(max_message_size=100_000) as port:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:  # smtplib says SIZE=
            await talk(port, lambda smtp: smtp.sendmail(SENDER, [RECIPIENT], LARGE))
        assert refused.value.smtp_code == 552

        def conversation(smtp: smtplib.SMTP) -> None:
            smtp.helo("client.example")
            with pytest.raises(smtplib.SMTPDataError) as refused:
                smtp.sendmail(SENDER, [RECIPIENT], LARGE)
            assert refused.value.smtp_code == 552
            smtp.sendmail(SENDER, [RECIPIENT], NASTY)

        await talk(port, conversation)
    assert mail_server.delivered() == [NASTY]


# Programs


async def run(*command: str | Path, stdin: bytes = b"", fails: bool = False) -> str:
    """Run a program to its end; gives what it said."""
    finished = await trio.run_process(
        command,
        stdin=stdin,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
    )
    said: str = finished.stdout.decode("utf-8", "replace")
    assert (finished.returncode != 0) == fails, said
    return said


@attrs.frozen
class Way:
    """How a client begins TLS, whether it authenticates, and what the Received field says of that."""

    tls: str
    auth: str | None
    kind: str

    def config(self, context: ssl.SSLContext) -> dict[str, object]:
        """Fields of the server's Config."""
        fields: dict[str, object] = {"implicit_tls": self.tls == "implicit", "auth_required": self.auth is not None}
        if self.tls:
            fields["ssl_context"] = context
        if self.auth:
            fields["auth_mechanisms"] = (self.auth,)
        return fields


every_way = pytest.mark.parametrize(
    "way",
    [
        pytest.param(Way("", None, "ESMTP"), id="plain"),
        pytest.param(Way("starttls", None, "ESMTPS"), id="STARTTLS"),
        pytest.param(Way("implicit", None, "ESMTPS"), id="implicit TLS"),
        pytest.param(Way("starttls", "PLAIN", "ESMTPSA"), id="AUTH PLAIN"),
        pytest.param(Way("implicit", "LOGIN", "ESMTPSA"), id="AUTH LOGIN"),
        pytest.param(Way("starttls", "CRAM-MD5", "ESMTPSA"), id="AUTH CRAM-MD5"),
    ],
)


async def swaks(port: int, message: Path, *arguments: str) -> str:
    return await run(
        *("swaks", "--server", "127.0.0.1", "--port", str(port), "--timeout", str(PATIENCE)),
        *("--from", SENDER, "--ehlo", "client.example", "--data", f"@{message}", *arguments),
    )


@pytest.mark.program("swaks")
@every_way
async def test_swaks(mail_server: MailServer, server_ssl_context: ssl.SSLContext, way: Way) -> None:
    arguments = {"": [], "starttls": ["--tls"], "implicit": ["--tls-on-connect"]}[way.tls]
    if way.auth:
        arguments += ["--auth", way.auth, "--auth-user", "alice", "--auth-password", "secret"]
    # It puts a line's end behind whatever it is given.
    message = mail_server.file(NASTY.removesuffix(b"\r\n"))
    async with mail_server.serving(**way.config(server_ssl_context)) as port:
        await swaks(port, message, "--to", RECIPIENT, *arguments)
    assert mail_server.delivered() == [NASTY]
    assert mail_server.received_with() == [way.kind]


@pytest.mark.program("swaks")
async def test_swaks_that_pipelines(mail_server: MailServer) -> None:
    message = mail_server.file(EIGHT_BIT.removesuffix(b"\r\n"))
    async with mail_server.serving() as port:
        said = await swaks(port, message, "--to", f"{RECIPIENT},carol@example.com", "--pipeline")
    assert mail_server.delivered() == [EIGHT_BIT]
    sent = [line for line in said.splitlines() if re.match(r" [-~>]>|<", line)]
    mail = next(number for number, line in enumerate(sent) if "MAIL FROM" in line)
    # All of it before the first reply.
    assert [line.split()[1] for line in sent[mail : mail + 4]] == ["MAIL", "RCPT", "RCPT", "DATA"]


async def curl(url: str, message: Path, *arguments: str | Path, fails: bool = False) -> str:
    return await run(
        *("curl", "--disable", "--silent", "--show-error", "--max-time", str(PATIENCE), url),
        *("--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file", message, *arguments),
        fails=fails,
    )


@pytest.mark.program("curl")
@every_way
@pytest.mark.parametrize("message", MESSAGES)
async def test_curl(
    mail_server: MailServer, server_ssl_context: ssl.SSLContext, ca_file: Path, way: Way, message: bytes
) -> None:
    arguments: list[str | Path] = ["--cacert", ca_file, "--ssl-reqd"] if way.tls else []
    if way.auth:
        arguments += ["--user", "alice:secret", "--login-options", f"AUTH={way.auth}"]
    scheme = "smtps" if way.tls == "implicit" else "smtp"
    async with mail_server.serving(**way.config(server_ssl_context)) as port:
        await curl(f"{scheme}://127.0.0.1:{port}/client.example", mail_server.file(message), *arguments)
    assert mail_server.delivered() == [message]
    assert mail_server.received_with() == [way.kind]


@pytest.mark.program("curl")
async def test_curl_with_a_wrong_password(mail_server: MailServer) -> None:
    async with mail_server.serving(auth_required=True, allow_insecure_auth=True) as port:
        said = await curl(f"smtp://127.0.0.1:{port}", mail_server.file(NASTY), "--user", "alice:wrong", fails=True)
    assert "(67)" in said  # denied
    assert mail_server.delivered() == []
    assert mail_server.server.stats.auth_failures >= 1


@pytest.mark.program("msmtp")
@every_way
async def test_msmtp(mail_server: MailServer, server_ssl_context: ssl.SSLContext, ca_file: Path, way: Way) -> None:
    arguments = []
    if way.tls:
        begin = "on" if way.tls == "starttls" else "off"
        arguments += ["--tls=on", f"--tls-starttls={begin}", f"--tls-trust-file={ca_file}"]
    if way.auth:
        arguments += [f"--auth={way.auth.lower()}", "--user=alice", "--passwordeval=echo secret"]
    async with mail_server.serving(**way.config(server_ssl_context)) as port:
        await run(
            *("msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={port}", f"--timeout={PATIENCE}"),
            *(f"--from={SENDER}", "--domain=client.example", *arguments, "--", RECIPIENT),
            stdin=NASTY.replace(b"\r\n", b"\n"),
        )
    assert mail_server.delivered() == [NASTY]
    assert mail_server.received_with() == [way.kind]
