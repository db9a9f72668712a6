"""Real next servers: Postfix and Exim behind `proxy`, Dovecot's LMTP with Sieve behind `lmtp`."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.client.support import Mailbox
from tests.client.test_real_servers import arrived, needs_postfix
from tests.dovecot_support import Dovecot, dovecot, needs_dovecot
from tests.front_ends_support import LIFETIME, PATIENCE, Postfix, submit
from tests.socket_support import port_of, serving
from tests.test_real_front_ends import postfix as postfix  # noqa: PLC0414 - a fixture
from tests.test_real_senders import exim_directory as exim_directory  # noqa: PLC0414 - a fixture
from tests.test_real_senders import needs_exim
from trio_smtp import App
from trio_smtp.delivery.lmtp import lmtp
from trio_smtp.delivery.proxy import proxy

from .support import LMTP, MAIL, front, relay_to

EIGHT_BIT = "Subject: Hi\r\n\r\nGrüße\r\n".encode()
SIEVE = {
    "alice": 'require ["fileinto", "mailbox"];\nif header :contains "subject" "test" { fileinto :create "Lists"; }\n',
    "bob": 'if header :contains "subject" "spam" { discard; }\n',
}


class TestPostfix:
    pytestmark = needs_postfix

    async def test_behind_a_proxy(self, postfix: Postfix) -> None:
        box = Mailbox()
        async with (
            serving(box.app, dsn=True, xforward=("127.0.0.0/8",)) as server,
            postfix.running(
                relayhost=f"[127.0.0.1]:{port_of(server)}",
                message_size_limit="200000",
                smtpd_recipient_restrictions="check_recipient_access inline:{nobody@example.net=REJECT}, permit",
            ),
        ):
            url = f"smtp+unix://{postfix.directory}/queue/public/submit"
            async with front(proxy(url, announce="xforward")) as found:
                assert await found.begin("nobody@example.net", "b@example.net") == [250, 554, 250]
                (reply,) = await found.data()
                assert reply.startswith("250 2.0.0 Queued as ")
                await found.client.ehlo()
                assert await found.say("MAIL FROM:<a@example.org> SIZE=200001") == [552]
                assert (
                    await found.say("MAIL FROM:<a@example.org> BODY=8BITMIME", "RCPT TO:<b@example.net>") == [250] * 2
                )
                await found.client.send_bytes(b"BDAT %d LAST\r\n%b" % (len(EIGHT_BIT), EIGHT_BIT))
                assert (await found.client.read_reply()).code == 250
                await found.begin("b@example.net")
                assert (await found.data(b"x\r\n" * 100_000))[0].startswith("552 5.3.4")
                assert await found.say("QUIT") == [221]
            async with front(proxy(url, announce="xclient"), peer=("192.0.2.7", 4711)) as found:
                for _ in range(2):
                    assert await found.begin("b@example.net") == [250, 250]
                    assert (await found.data())[0].startswith("250")
                assert await found.say("QUIT") == [221]
            bodies = await arrived(box, 4)
        assert bodies == sorted(each.partition(b"\r\n\r\n")[2] for each in (MAIL, EIGHT_BIT, MAIL, MAIL))


class TestDovecot:
    pytestmark = needs_dovecot

    @pytest.fixture
    async def mailboxes(self) -> AsyncIterator[Dovecot]:
        users = {"alice": "", "bob": "", "full": "10B"}
        async with dovecot(users, scripts=SIEVE, settings="mail_save_crlf = yes") as found:
            yield found

    async def test_an_lmtp_front(self, mailboxes: Dovecot) -> None:
        async with front(lmtp(mailboxes.url), LMTP) as found:
            names = ("alice@example.com", "nobody@example.com", "full@example.com", "bob@example.com")
            assert await found.begin(*names) == [250, 250, 550, 250, 250]
            replies = await found.data(replies=3)
            assert [reply[:9] for reply in replies] == ["250 2.0.0", "552 5.2.2", "250 2.0.0"]
            await found.begin("bob@example.com")
            await found.data(b"Subject: spam\r\n\r\nBuy\r\n")
            assert await found.say("QUIT") == [221]
        (message,) = mailboxes.messages("alice", ".Lists")
        assert message.endswith(MAIL)
        assert message.startswith(b"Return-Path: <a@example.org>")
        assert b"by front.example with LMTP" in message
        (message,) = mailboxes.messages("bob")
        assert message.endswith(MAIL)

    async def test_an_smtp_front(self, mailboxes: Dovecot) -> None:
        async with front(lmtp(mailboxes.url)) as found:
            assert await found.begin("nobody@example.com", "bob@example.com", "alice@example.com") == [
                250,
                550,
                250,
                452,
            ]
            assert (await found.data())[0].startswith("250")
            await found.begin("full@example.com")
            assert (await found.data())[0].startswith("552 5.2.2")
        assert [message.endswith(MAIL) for message in mailboxes.messages("bob")] == [True]

    async def test_one_has_it(self, mailboxes: Dovecot) -> None:
        told: list[str] = []

        async def on_refused(refused: object, ctx: object) -> None:
            told.extend(map(str, refused))  # type: ignore[call-overload]

        async with front(lmtp(mailboxes.url, mixed="accept", on_refused=on_refused)) as found:
            assert await found.begin("full@example.com", "bob@example.com") == [250] * 3
            assert (await found.data())[0].startswith("250")
        assert told == ["full@example.com"]

    async def test_behind_postfix(self, mailboxes: Dovecot, postfix: Postfix) -> None:
        """Postfix takes mail, this server filters it, Dovecot keeps it."""
        app = App()
        app.use(lmtp(mailboxes.url))
        async with (
            serving(app, lmtp=True) as server,
            postfix.running(default_transport=f"lmtp:[127.0.0.1]:{port_of(server)}") as client,
        ):
            await submit(client, "EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<bob@example.com>")
            with trio.fail_after(PATIENCE):
                while not mailboxes.messages("bob"):  # noqa: ASYNC110 - a directory wakes nobody
                    await trio.sleep(0.05)
        (message,) = mailboxes.messages("bob")
        assert b"It works." in message


EXIM_CONF = """\
exim_path = {exim}
primary_hostname = next.example.org
spool_directory = {directory}/spool
log_file_path = {directory}/log-%s
disable_ipv6
keep_environment =
message_size_limit = 100K
acl_smtp_rcpt = judge
begin acl
judge:
  deny local_parts = nobody
       message = Unknown user
  accept
"""


class TestExim:
    pytestmark = needs_exim

    async def test_behind_a_proxy(self, exim_directory: Path) -> None:
        program = shutil.which("exim4") or ""
        conf = exim_directory / "exim.conf"
        conf.write_text(EXIM_CONF.format(exim=program, directory=exim_directory), encoding="utf-8")
        async with trio.open_nursery() as nursery:

            async def open_stream() -> trio.SocketStream:
                """An Exim of its own for each connection, as inetd starts them."""
                ours, theirs = socket.socketpair()
                command = ["timeout", str(LIFETIME), program, "-C", str(conf), "-bs", "-odq"]
                start = partial(trio.run_process, command, stdin=theirs.fileno(), stdout=theirs.fileno(), check=False)
                nursery.start_soon(_and_close, start, theirs)
                return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

            async with front(relay_to(open_stream, received=True)) as found:
                assert await found.begin("nobody@example.net", "b@example.net") == [250, 550, 250]
                (reply,) = await found.data()
                assert reply.startswith("250 2.0.0 Queued as 1")
                assert await found.say("MAIL FROM:<a@example.org> SIZE=200000") == [552]
                assert await found.begin("b@example.net") == [250, 250]
                await found.client.send_bytes(b"BDAT %d LAST\r\n%b" % (len(EIGHT_BIT), EIGHT_BIT))
                assert (await found.client.read_reply()).code == 250
                assert await found.say("QUIT") == [221]
        # The bodies in its queue, each behind a line with its name.
        queued = [path.read_bytes().partition(b"\n")[2] for path in (exim_directory / "spool/input").rglob("*-D")]
        assert sorted(queued) == sorted(body(each) for each in (MAIL, EIGHT_BIT))


def body(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")


async def _and_close(run: Callable[[], Awaitable[object]], end: socket.socket) -> None:
    with end:
        await run()
