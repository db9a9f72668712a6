"""The log tells why: a line for each refusal, the last error at the end, who and where; the records' attributes."""

from __future__ import annotations

import base64
import logging
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from trio_smtp import App, AuthContext, Config, ConnectContext, DataContext, RcptToContext, Reply, SMTPServer
from trio_smtp.delivery.maildir import maildir
from trio_smtp.dialogue.log import quoted
from trio_smtp.net.endpoints import Endpoints, PlacedStream
from trio_smtp.testing import Client, open_client

from .support import mail_app
from .tls_support import NAME

ATTRIBUTES = ("session", "peer", "helo", "user", "transaction", "event")
TRANSACTION = ("EHLO client.example", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The INFO lines without their beginnings and times."""
    with caplog.at_level(logging.INFO, "trio_smtp"):
        yield lambda: [
            re.sub(r"^session=\S+ peer=\S+ (helo=\S+ )?| seconds=\d+\.\d{3}$", "", record.getMessage())
            for record in caplog.records
            if record.name == "trio_smtp" and record.levelno == logging.INFO
        ]


def picky_app() -> App:
    app, _ = mail_app()

    @app.on_rcpt_to
    async def known(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject('No such "user"\nhere, \u00e4', 550, enhanced="5.1.1")

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        if ctx.credentials.username == "alice":
            ctx.accept("alice")

    return app


def plain(user: str) -> str:
    return base64.b64encode(f"\0{user}\0secret".encode()).decode()


@pytest.mark.parametrize(
    ("commands", "line"),
    [
        (["FROB"], 'refused reply="500 Command not recognized"'),
        (["HELO"], 'refused HELO reply="501 HELO needs one host name or address literal"'),
        (["MAIL FROM:<>"], 'refused MAIL reply="503 Send HELO or EHLO first"'),
        (["EHLO x", "FROB"], 'refused reply="500 5.5.1 Command not recognized"'),
        (["EHLO x", "NOOP \x01"], 'refused reply="500 5.5.2 Control characters are not allowed"'),
        (["EHLO x", "RCPT TO:<a@b.c>"], 'refused RCPT reply="503 5.5.1 Need MAIL before RCPT"'),
        (
            [*TRANSACTION, "RCPT TO:<nobody@example.com>"],
            r'refused RCPT reply="550 5.1.1 No such \"user\"\nhere, \xe4"',
        ),
        (["EHLO x", "AUTH FROB"], 'refused AUTH reply="504 5.5.4 Unrecognized authentication mechanism"'),
        (["EHLO x", "AUTH PLAIN", "!"], 'refused AUTH reply="501 5.5.2 Not valid base64"'),
        (
            ["EHLO x", f"AUTH PLAIN {plain('mallory')}"],
            'refused AUTH reply="535 5.7.8 Authentication credentials invalid"',
        ),
        (["EHLO x", "DATA"], 'refused DATA reply="503 5.5.1 Need RCPT before DATA"'),
        (["EHLO x", "BDAT 0"], 'refused BDAT reply="503 5.5.1 Need RCPT before BDAT"'),
        (["GET / HTTP/1.1"], 'refused reply="421 This is a mail server"'),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
async def test_a_line_for_each_refusal(commands: list[str], line: str, lines: Callable[[], list[str]]) -> None:
    async with open_client(picky_app(), allow_insecure_auth=True) as client:
        for command in commands:
            await client.command(command)
        session = client.session
    assert lines()[:-1] == [line]
    assert session.error is not None
    assert lines()[-1].endswith(f" error={quoted(session.error)}")


async def test_a_connection_that_is_refused(lines: Callable[[], list[str]]) -> None:
    app = App()

    @app.on_connect
    async def refuse(ctx: ConnectContext) -> None:
        ctx.reject("Not you")

    async with open_client(app):
        pass
    assert lines() == [
        'refused reply="550 Not you"',
        'connection closed reason=refused transactions=0 error="550 Not you"',
    ]


async def begin(client: Client, *recipients: str, lmtp: bool = False) -> None:
    await client.command("LHLO client.example" if lmtp else "EHLO client.example")
    await client.command("MAIL FROM:<a@example.org>")
    for recipient in recipients:
        assert (await client.command(f"RCPT TO:<{recipient}>")).code == 250


@pytest.mark.parametrize("lmtp", [False, True])
async def test_a_message_that_is_refused_has_one_line(lmtp: bool, lines: Callable[[], list[str]]) -> None:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        await ctx.stream.discard()
        if lmtp:
            ctx.reject_recipient(ctx.envelope.rcpt_to[1], "Full", 452, enhanced="4.2.2")
        else:
            ctx.reject("Spam", 550)

    async with open_client(app, lmtp=lmtp) as client:
        await begin(client, "b@example.com", "c@example.com", lmtp=lmtp)
        await client.command("DATA")
        await client.send_bytes(b"x\r\n.\r\n")
        await client.read_reply()
    message, _ = lines()
    result = 'reply=250,452 text="4.2.2 Full"' if lmtp else 'reply=550 text="5.7.1 Spam"'
    assert message == (f"message from=<a@example.org> recipients=2 to=<b@example.com>,<c@example.com> size=3 {result}")


@pytest.mark.parametrize("lmtp", [False, True])
async def test_chunks_of_a_message_that_is_refused(lmtp: bool, lines: Callable[[], list[str]]) -> None:
    """Its first chunk, those that follow, and the last."""
    app = App()  # takes no mail
    async with open_client(app, lmtp=lmtp) as client:
        await begin(client, "b@example.com", lmtp=lmtp)
        for chunk in ("BDAT 1", "BDAT 1", "BDAT 1 LAST"):
            await client.send_bytes(f"{chunk}\r\nx".encode())
            assert (await client.read_reply()).code == 554
    *refused, _ = lines()
    assert refused == ['refused BDAT reply="554 5.3.5 This server takes no mail"'] * 3


async def test_a_message_that_is_refused_before_its_last_chunk(lines: Callable[[], list[str]]) -> None:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        await ctx.stream.receive()
        ctx.reject("Spam")

    async with open_client(app) as client:
        await begin(client, "b@example.com")
        codes = []
        for _ in range(3):
            await client.send_bytes(b"BDAT 1\r\nx")
            codes.append((await client.read_reply()).code)
            await trio.testing.wait_all_tasks_blocked()
    refused = codes.count(552)
    assert refused >= 2
    message, *others, _ = lines()
    assert message.endswith('reply=552 text="5.3.4 Spam"')
    assert others == ['refused BDAT reply="552 5.3.4 Spam"'] * (refused - 1)


@pytest.mark.parametrize(
    ("user", "shown"),
    [("alice", 'user="alice" '), ('a"\n\u00e4', r'user="a\"\n\xe4" '), (None, ""), (7, 'user="int" ')],
)
async def test_the_line_of_a_message(
    user: object,
    shown: str,
    lines: Callable[[], list[str]],
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
) -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        ctx.accept(user)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        ctx.reply = Reply(250, "Queued as 4F2A", "2.0.0")

    recipients = [f"{letter}@example.com" for letter in "abcde"]
    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        await client.auth_plain("alice", "secret")
        for some in (recipients[:3], recipients):
            await client.send_message("a@example.org", some, b"x\r\n")
    beginning = "message from=<a@example.org> recipients"
    end = f'size=3 {shown}tls=TLSv1.3 reply=250 id="4F2A"'
    three = "<a@example.com>,<b@example.com>,<c@example.com>"
    assert lines()[:-1] == [f"{beginning}=3 to={three} {end}", f"{beginning}=5 to={three},+2 {end}"]


async def test_the_maildirs_name_of_a_message(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    async with open_client(App().use(maildir(tmp_path))) as client:
        await client.ehlo()
        reply = await client.send_message("a@example.org", ["b@example.com"], b"x\r\n")
    assert f'id="{reply.text.removeprefix("Queued as ")}"' in lines()[0]


async def test_attributes_of_the_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "trio_smtp"):
        async with open_client(picky_app(), allow_insecure_auth=True) as client:
            await client.ehlo()
            await client.auth_plain("alice", "secret")
            await client.send_message("a@example.org", ["b@example.com"], b"x\r\n")
            await client.command("FROB")
            await client.quit()
            session = client.session
    found: dict[object, Sequence[object]] = {}
    for record in caplog.records:
        if record.name == "trio_smtp":
            values = [record.__dict__[name] for name in ATTRIBUTES]
            found[values[-1]] = values[:-1]
    assert found == {
        "dialogue": [session.id, None, "client.example", "alice", 1],
        "message": [session.id, None, "client.example", "alice", 0],
        "refused": [session.id, None, "client.example", "alice", 1],
        "connection closed": [session.id, None, "client.example", "alice", 1],
    }


async def test_records_of_crashes_have_attributes_too(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @attrs.frozen
    class User:
        password: str = "secret"

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept(User())

    @app.on_data
    async def crash(ctx: DataContext) -> None:
        raise LookupError

    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        await client.auth_plain("alice", "secret")
        await client.send_message("a@example.org", ["b@example.com"], b"x\r\n")
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [record.__dict__[name] for name in ATTRIBUTES[2:]] == ["client.example", "User", 0, "handler failed"]


async def test_nothing_is_made_for_lines_that_are_not_written(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> dict[str, object]:
        raise AssertionError("a line was made")

    caplog.set_level(logging.WARNING, "trio_smtp")
    async with open_client(mail_app()[0]) as client:
        monkeypatch.setattr("trio_smtp.dialogue.log.facts", never)
        monkeypatch.setattr("trio_smtp.dialogue.log.quoted", never)
        await client.command("FROB")
        await client.ehlo()
        await client.send_message("a@example.org", ["b@example.com"], b"x\r\n")
        await client.quit()
    assert caplog.records == []


# PROXY


async def behind_proxy(octets: bytes, *, stay: bool) -> None:
    server = SMTPServer(mail_app()[0], Config(proxy_protocol=["192.0.2.1"]))
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, PlacedStream(theirs, Endpoints(("192.0.2.1", 4711))))
        await ours.send_all(octets)
        if not stay:
            await ours.send_eof()
        assert await Client(ours).read_to_end() == b""


@pytest.mark.parametrize("octets", [b"", b"PROXY TCP4"])
async def test_a_proxy_that_sends_no_header(
    octets: bytes, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    await behind_proxy(octets, stay=True)
    warning, closed = caplog.records
    assert warning.levelno == logging.WARNING
    assert " the trusted proxy sent no PROXY header in time seconds=5." in warning.getMessage()
    assert "connection closed reason=timeout" in closed.getMessage()


@pytest.mark.parametrize("octets", [b"", b"PROXY TCP4"])
async def test_a_proxy_that_closes_before_its_header(octets: bytes, lines: Callable[[], list[str]]) -> None:
    await behind_proxy(octets, stay=False)
    assert lines() == [
        "the trusted proxy closed before its PROXY header",
        "connection closed reason=lost transactions=0",
    ]
