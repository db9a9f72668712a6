"""Programs that send mail, as they are: mutt with SCRAM, Exim with BDAT, smtplib with as_bytes()."""

from __future__ import annotations

import base64
import os
import re
import shutil
import smtplib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from trio_smtp import (
    App,
    AuthContext,
    Config,
    DataContext,
    RcptToContext,
    ScramCredentials,
    ScramSecret,
    Session,
    SMTPServer,
)
from trio_smtp.delivery.maildir import maildir
from trio_smtp.tls import create_context

from .conftest import CertificateFiles
from .front_ends_support import PATIENCE, RecordingListener, run
from .maildir_support import body_of, files

PASSWORD = "Sesame-Open"
SECRETS = {name: ScramSecret.from_password(PASSWORD, name) for name in ("SCRAM-SHA-1", "SCRAM-SHA-256")}
SENDER = "ali@example.com"


@attrs.frozen
class Place:
    """A server on a port, the Maildir where it stores, and what it received, unless that was encrypted."""

    port: int
    directory: Path
    received: list[bytes]

    def stored(self) -> list[bytes]:
        """The messages, without the fields in front of them."""
        return [body_of(path) for path in files(self.directory)]


@asynccontextmanager
async def place(directory: Path, app: App | None = None, **fields: Any) -> AsyncIterator[Place]:
    """Serve; drained at the end, so that what a client said last is there."""
    directory /= "mail"
    app = (app or App()).use(maildir(directory))
    received: list[bytes] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = SMTPServer(app, Config(hostname="mx.example.net", **fields))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [RecordingListener(listener, received)])
        with trio.fail_after(2 * PATIENCE):
            yield Place(listener.socket.getsockname()[1], directory, received)
        server.drain()


# mutt


async def lookup(username: str, session: Session) -> ScramSecret | None:
    return SECRETS[str(session.auth_mechanism)] if username == "ali" else None


def submission(users: list[tuple[object, str | None, str]]) -> App:
    """Lets ali in, by SCRAM alone; notes who comes, and how."""
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        if isinstance(ctx.credentials, ScramCredentials):
            ctx.accept(ctx.credentials.username)

    @app.on_data
    async def note(ctx: DataContext) -> None:
        users.append((ctx.session.user, ctx.session.auth_mechanism, ctx.session.transmission_type))

    return app


MUTTRC = """\
set smtp_url="smtp://ali@localhost:{port}/"
set smtp_pass="{password}"
set from="{sender}"
set use_envelope_from=yes
set hostname="laptop.example.com"
set copy=no
"""


async def mutt(directory: Path, port: int, *settings: str, password: str = PASSWORD) -> None:
    """Send a message."""
    file = directory / "muttrc"
    text = MUTTRC.format(port=port, password=password, sender=SENDER)
    file.write_text(text + "".join(f"set {each}\n" for each in settings), encoding="utf-8")
    await run("mutt", "-n", "-F", str(file), "-s", "By mutt", "bob@example.org", stdin=b".\n..\nIt works.\n")


@pytest.mark.program("mutt")
async def test_mutt_takes_scram_first_where_it_is_offered(
    tmp_path: Path, certificate_files: CertificateFiles, ca_file: Path
) -> None:
    users: list[tuple[object, str | None, str]] = []
    context = create_context(certificate_files.cert, certificate_files.key)
    async with place(
        tmp_path,
        submission(users),
        auth_mechanisms=("PLAIN", "LOGIN", *SECRETS),
        auth_required=True,
        ssl_context=context,
        starttls_required=True,
        scram_lookup=lookup,
    ) as server:
        files_of = f'ssl_ca_certificates_file="{ca_file}"', f'certificate_file="{tmp_path / "none"}"'
        await mutt(tmp_path, server.port, "ssl_starttls=yes", "ssl_force_tls=yes", *files_of)
    assert users == [("ali", "SCRAM-SHA-256", "ESMTPSA")]
    (message,) = server.stored()
    assert b"Subject: By mutt\r\n" in message
    assert message.endswith(b"\r\n\r\n.\r\n..\r\nIt works.\r\n")


@pytest.mark.program("mutt")
@pytest.mark.parametrize("mechanism", SECRETS)
async def test_mutt_names_itself_as_the_authorization_identity(tmp_path: Path, mechanism: str) -> None:
    """Without TLS, so that it can be seen that it does: the first SCRAM message is ``n,a=ali,n=ali,...``."""
    users: list[tuple[object, str | None, str]] = []
    async with place(
        tmp_path,
        submission(users),
        auth_mechanisms=(mechanism,),
        auth_required=True,
        allow_insecure_auth=True,
        scram_lookup=lookup,
    ) as server:
        plain = "ssl_starttls=no", "ssl_force_tls=no"
        await mutt(tmp_path, server.port, *plain)
        with pytest.raises(AssertionError, match=r"(?i)sasl|auth"):
            await mutt(tmp_path, server.port, *plain, password="Barley-Open")
    wire = b"".join(server.received)
    firsts = re.findall(rb"AUTH %s[ \r\n]+([A-Za-z0-9+/=]+)\r\n" % mechanism.encode(), wire)
    assert [base64.b64decode(first)[:14] for first in firsts] == [b"n,a=ali,n=ali,"] * 2
    assert users == [("ali", mechanism, "ESMTPA")]
    assert len(server.stored()) == 1


# smtplib


def letter() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, "bob@example.org", "By smtplib"
    message.set_content(".\n..\n.hidden\nGrüße\n")
    return message


@pytest.mark.parametrize("lines", [1, 20_000], ids=["small", "large"])
async def test_as_bytes_with_smtplib_is_stored_with_crlf(tmp_path: Path, lines: int) -> None:
    """``sendmail(..., message.as_bytes())`` ends lines with LF alone; Config's defaults take that.

    The last line ends so too, and smtplib takes it for unfinished: it sends CRLF after it.
    """
    message = letter()
    message.set_content(".\n..\n.hidden\nGrüße\n" * lines)

    def send(port: int) -> object:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            return client.sendmail(SENDER, ["bob@example.org"], message.as_bytes())

    async with place(tmp_path) as server:
        assert await trio.to_thread.run_sync(send, server.port) == {}
    assert b"\n.\n" in message.as_bytes()
    assert server.stored() == [message.as_bytes().replace(b"\n", b"\r\n") + b"\r\n"]


async def test_as_bytes_with_smtplib_is_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    def send(port: int) -> object:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            return client.sendmail(SENDER, ["bob@example.org"], letter().as_bytes())

    async with place(tmp_path, bare_newline="reject") as server:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            await trio.to_thread.run_sync(send, server.port)
    assert refused.value.smtp_code == 550
    assert server.stored() == []


# Exim

needs_exim = [
    pytest.mark.program("exim4"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may run Exim with settings of one's own"),
]

#: It takes mail from its standard input, and gives all of it to one server.
EXIM_CONF = """\
exim_path = {exim}
primary_hostname = relay.example.org
spool_directory = {directory}/spool
log_file_path = {directory}/log-%s
disable_ipv6
keep_environment =
begin routers
everything:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = ours
begin transports
ours:
  driver = smtp
  port = {port}
  allow_localhost
  {settings}
begin retry
* * F,1h,15m
"""


@pytest.fixture
def exim_directory() -> Iterator[Path]:
    # Not in tmp_path: Exim's own user must be able to get there.
    directory = Path(tempfile.mkdtemp(prefix="trio-smtp-"))
    shutil.chown(directory, "Debian-exim", "Debian-exim")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


async def exim(directory: Path, port: int, message: bytes, *recipients: str, settings: str = "") -> str:
    """Relay one message, in the foreground; gives the log of it."""
    program = Path(shutil.which("exim4") or "")
    conf = directory / "exim.conf"
    conf.write_text(EXIM_CONF.format(exim=program, directory=directory, port=port, settings=settings), encoding="utf-8")
    await run(str(program), "-C", str(conf), "-odf", "-oi", "-f", "alice@example.org", *recipients, stdin=message)
    return (directory / "log-main").read_text(encoding="utf-8", errors="replace")


class TestExim:
    pytestmark = needs_exim

    LETTER = b"From: alice@example.org\nSubject: By Exim\n\n.\n..\n.hidden\nGr\xc3\xbc\xc3\x9fe\xff\n\n"

    @pytest.mark.parametrize("verb", ["BDAT", "DATA"])
    async def test_it_relays(self, tmp_path: Path, exim_directory: Path, verb: str) -> None:
        seen: list[tuple[str, list[str]]] = []
        app = App()

        @app.on_data
        async def note(ctx: DataContext) -> None:
            assert ctx.envelope.mail_from is not None
            seen.append((ctx.envelope.mail_from.address, [to.address for to in ctx.envelope.rcpt_to]))

        async with place(tmp_path, app) as server:
            log = await exim(
                exim_directory,
                server.port,
                self.LETTER,
                "bob@example.net",
                "carol@example.net",
                settings="" if verb == "BDAT" else "hosts_try_chunking =",
            )
        assert "Completed" in log
        assert log.count('C="250 2.0.0 Queued as ') == 2
        wire = b"".join(server.received)
        assert (b"\r\nBDAT " in wire, b"\r\nDATA\r\n" in wire) == (verb == "BDAT", verb == "DATA")
        assert seen == [("alice@example.org", ["bob@example.net", "carol@example.net"])]
        (message,) = server.stored()
        head, body = self.LETTER.replace(b"\n", b"\r\n").split(b"\r\n\r\n", 1)
        assert message.startswith(b"Received: from root by relay.example.org")
        assert head in message
        assert message.endswith(b"\r\n\r\n" + body)

    async def test_a_large_message_comes_in_chunks(self, tmp_path: Path, exim_directory: Path) -> None:
        letter = b"Subject: large\n\n" + b"".join(b".%-70d\n" % n for n in range(40_000))
        async with place(tmp_path) as server:
            assert "Completed" in await exim(exim_directory, server.port, letter, "bob@example.net")
        chunks = re.findall(rb"BDAT (\d+)( LAST)?\r\n", b"".join(server.received))
        assert len(chunks) > 1
        assert [last for _, last in chunks] == [b""] * (len(chunks) - 1) + [b" LAST"]
        (message,) = server.stored()
        assert sum(int(size) for size, _ in chunks) == len(message)
        assert message.endswith(letter.partition(b"\n\n")[2].replace(b"\n", b"\r\n"))

    async def test_it_encrypts(self, tmp_path: Path, exim_directory: Path, certificate_files: CertificateFiles) -> None:
        how: list[tuple[str, str]] = []
        app = App()

        @app.on_data
        async def note(ctx: DataContext) -> None:
            assert ctx.session.tls is not None
            how.append((ctx.session.transmission_type, ctx.session.tls.version))

        context = create_context(certificate_files.cert, certificate_files.key)
        async with place(tmp_path, app, ssl_context=context, starttls_required=True) as server:
            log = await exim(
                exim_directory, server.port, self.LETTER, "bob@example.net", settings="hosts_require_tls = *"
            )
        assert "Completed" in log
        assert how == [("ESMTPS", "TLSv1.3")]
        assert len(server.stored()) == 1

    async def test_it_tells_a_refusal_for_good_from_one_for_now(self, tmp_path: Path, exim_directory: Path) -> None:
        app = App()

        @app.on_rcpt_to
        async def known(ctx: RcptToContext) -> None:
            if ctx.address.local_part == "nobody":
                ctx.reject("There is nobody", 550, enhanced="5.1.1")
            if ctx.address.local_part == "later":
                ctx.reject("Come again", 450, enhanced="4.2.0")

        async with place(tmp_path, app) as server:
            log = await exim(
                exim_directory, server.port, self.LETTER, *(f"{who}@example.net" for who in ("bob", "nobody", "later"))
            )
        assert re.search(r"=> bob@example\.net .*250 2\.0\.0 Queued as", log)
        assert re.search(r"\*\* nobody@example\.net .*550 5\.1\.1 There is nobody", log)
        assert re.search(r"== later@example\.net .*450 4\.2\.0 Come again", log)
        # The letter, and Exim's own about the one who is not there.
        assert len(server.stored()) == 2
