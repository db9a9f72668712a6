"""The log: a line a connection and a message, warnings for abuse, the dialogue for DEBUG; never a secret."""

from __future__ import annotations

import base64
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_smtp import App, AuthContext, DataContext, RcptToContext, SecureContext
from trio_smtp.testing import Client, open_client

from .support import BODY, LARGE, logged, mail_app, raw_client, send, start_data, start_transaction

USER, PASSWORD = "alice", "open sesame, please"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


PLAIN = b64(f"\0{USER}\0{PASSWORD}")
SECRETS = {PASSWORD, b64(PASSWORD), PLAIN, PLAIN[:20], b64(PASSWORD)[:12]}


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Every record of a DEBUG log as it would be written, tracebacks included."""
    formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")
    with caplog.at_level(logging.DEBUG, "trio_smtp"):
        yield lambda: [formatter.format(record) for record in caplog.records if record.name == "trio_smtp"]


def dialogue(lines: list[str]) -> list[str]:
    """Who said what."""
    found = [re.fullmatch(r"DEBUG trio_smtp session=[0-9a-f]{32} ([CS]: .*)", line) for line in lines]
    return [match[1] for match in found if match]


def auth_app(*, crash: bool = False) -> App:
    app, _ = mail_app()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        if crash:
            raise LookupError(f"cannot check {ctx.credentials}")
        if ctx.credentials.validate_password(PASSWORD) and ctx.credentials.username == USER:
            ctx.accept(USER)

    return app


# --- secrets ---

DIALOGUES: list[tuple[str, list[str]]] = [
    ("PLAIN", [f"AUTH PLAIN {PLAIN}"]),
    ("PLAIN in two lines", ["AUTH PLAIN", PLAIN]),
    ("LOGIN", ["AUTH LOGIN", b64(USER), b64(PASSWORD)]),
    ("LOGIN with the user name", [f"AUTH LOGIN {b64(USER)}", b64(PASSWORD)]),
    ("in lower case", [f"auth plain {PLAIN}"]),
    ("with more spaces", [f"AUTH  PLAIN   {PLAIN}  "]),
    ("with a space before it", [f" AUTH PLAIN {PLAIN}"]),
    ("with a tab", [f"AUTH\tPLAIN {PLAIN}"]),
    ("with a tab before the secret", [f"AUTH PLAIN\t{PLAIN}"]),
    ("without the mechanism", [f"AUTH {PLAIN}"]),
    ("twice", [f"AUTH PLAIN {PLAIN}", f"AUTH PLAIN {PLAIN}"]),
    ("with a word too many", [f"AUTH PLAIN {PLAIN} {PLAIN}"]),
    ("an unknown mechanism", [f"AUTH FROB {PLAIN}"]),
    ("LOGIN pipelined after a mechanism nobody knows", ["AUTH NTLM", b64(USER), b64(PASSWORD)]),
    ("the password in clear after LOGIN", ["AUTH LOGIN", USER, PASSWORD]),
    ("not quite base64", [f"AUTH PLAIN {PLAIN}!"]),
    ("not quite base64 in an exchange", ["AUTH PLAIN", f"{PLAIN}!"]),
    ("a typing error in the verb", [f"ATUH PLAIN {PLAIN}"]),
    ("no space after the verb", [f"AUTHPLAIN {PLAIN}"]),
    ("a password that is wrong", [f"AUTH PLAIN {b64(f'{chr(0)}{USER}x{chr(0)}{PASSWORD}')}"]),
    ("cancelled, and then the password", ["AUTH LOGIN", b64(USER), "*", b64(PASSWORD)]),
    ("a control octet behind it", [f"AUTH PLAIN {PLAIN}\x01"]),
    ("not ASCII behind it", [f"AUTH PLAIN {PLAIN}ä"]),
    ("a line too long", [f"AUTH PLAIN {PLAIN * 400}"]),
    ("a line of the exchange too long", ["AUTH PLAIN", PLAIN * 400]),
    ("a bare LF", [f"AUTH PLAIN {PLAIN}\nNOOP"]),
]


@pytest.mark.parametrize("lines", [row[1] for row in DIALOGUES], ids=[row[0] for row in DIALOGUES])
@pytest.mark.parametrize("where", ["usable", "before EHLO", "before TLS", "not offered", "crashing"])
async def test_no_secret_is_ever_logged(
    lines: list[str],
    where: str,
    records: Callable[[], list[str]],
    server_ssl_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    app = mail_app()[0] if where == "not offered" else auth_app(crash=where == "crashing")
    tls = server_ssl_context if where == "before TLS" else None
    async with open_client(app, ssl_context=tls, allow_insecure_auth=where != "before TLS", max_errors=100) as client:
        if where != "before EHLO":
            await client.ehlo()
        await client.send_bytes("".join(f"{line}\r\n" for line in lines).encode())
        await trio.testing.wait_all_tasks_blocked()
        await client.send_bytes(b"*\r\nQUIT\r\n")
        await client.read_to_end()
    said = records()
    assert dialogue(said)[-1] == "S: 221 2.0.0 Bye" or where == "before EHLO"
    leaks = [line for line in said for secret in SECRETS if secret in line]
    assert leaks == []


@pytest.mark.parametrize("half", [f"AUTH PLAIN {PLAIN}", f"AUTH PLAIN\r\n{PLAIN}"])
@pytest.mark.parametrize("ending", ["silence", "gone", "drain"])
async def test_no_secret_of_a_line_that_was_cut(
    half: str, ending: str, records: Callable[[], list[str]], autojump_clock: MockClock
) -> None:
    async with open_client(auth_app(), allow_insecure_auth=True, command_timeout=5) as client:
        await client.ehlo()
        await client.send_bytes(half.encode())
        await trio.testing.wait_all_tasks_blocked()
        if ending == "drain":
            client.server.drain()
        elif ending == "gone":
            await client.aclose()
        if ending != "gone":
            await client.read_to_end()
    assert [line for line in records() for secret in SECRETS if secret in line] == []


async def test_the_dialogue_shows_that_there_was_an_exchange(records: Callable[[], list[str]]) -> None:
    async with open_client(auth_app(), allow_insecure_auth=True) as client:
        await client.ehlo()
        assert (await client.command("AUTH LOGIN")).code == 334
        assert (await client.command(b64(USER))).code == 334
        assert (await client.command(b64(PASSWORD))).code == 235
        await client.command("XYZZY plugh")
        await client.quit()
    said = dialogue(records())
    assert said[said.index("C: AUTH LOGIN") :] == [
        "C: AUTH LOGIN",
        "S: 334 ***",
        "S: 334 ***",
        "S: 235 2.7.0 Authentication successful",
        "C: (unrecognized, 11 octets)",
        "S: 500 5.5.1 Command not recognized",
        "C: QUIT",
        "S: 221 2.0.0 Bye",
    ]


# --- the dialogue ---


async def test_the_dialogue_without_the_message(records: Callable[[], list[str]]) -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.command("HELO client.example")
        assert (await send(client, b"Subject: marker\r\n\r\nmarker\r\n")).code == 250
        await client.quit()
    assert dialogue(records()) == [
        "S: 220 mx.example ESMTP",
        "C: HELO client.example",
        "S: 250 mx.example",
        "C: MAIL FROM:<a@example.org>",
        "S: 250 Sender OK",
        "C: RCPT TO:<b@example.com>",
        "S: 250 Recipient OK",
        "C: DATA",
        "S: 354 End data with <CR><LF>.<CR><LF>",
        "S: 250 Message accepted",
        "C: QUIT",
        "S: 221 Bye",
    ]


@pytest.mark.parametrize("data", [BODY, LARGE], ids=["inline", "streamed"])
@pytest.mark.parametrize("refused", [False, True])
async def test_no_line_of_a_message_is_logged(
    data: bytes, refused: bool, records: Callable[[], list[str]], autojump_clock: MockClock
) -> None:
    app, _ = mail_app()

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        if refused:
            ctx.reject()

    async with open_client(app) as client:
        await client.ehlo()
        body = data.replace(b"Hello", b"marker").replace(b"1000", b"marker")
        assert b"marker" in body
        # A client that pipelines what it may not: refused, the message stands where commands are expected.
        await client.send_bytes(b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n" + body + b".\r\n")
        await trio.testing.wait_all_tasks_blocked()
    assert "S: 354 End data with <CR><LF>.<CR><LF>" in dialogue(records()) or refused
    assert [line for line in records() if "marker" in line] == []


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"NOOP \x1b[2J\x07", r"C: NOOP \x1b[2J\x07"),
        (b"NOOP a\rb", r"C: NOOP a\rb"),
        (b"NOOP \x00\x7f", r"C: NOOP \x00\x7f"),
        (b"NOOP \xc2\x9b2J \xe2\x80\xae", r"C: NOOP \x9b2J \u202e"),
        (b"NOOP \xff", r"C: NOOP \ufffd"),
        (b"NOOP \\x1b", r"C: NOOP \\x1b"),
        (b"NOOP session=0 C: QUIT", "C: NOOP session=0 C: QUIT"),
    ],
)
async def test_control_octets_are_escaped(line: bytes, shown: str, records: Callable[[], list[str]]) -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.command(line)
    assert shown in dialogue(records())
    assert all(record.isprintable() and record.isascii() for record in records())


async def test_what_handlers_say_is_one_record_a_line(records: Callable[[], list[str]]) -> None:
    app, _ = mail_app()

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        ctx.reject(f"No such user {ctx.address}\r\nERROR session=0 forged\n\x1b[31m", 550)

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<>")
        await client.command("RCPT TO:<b@example.com>")
    assert dialogue(records())[-3:] == [
        "S: 550-5.7.1 No such user b@example.com",
        "S: 550-5.7.1 ERROR session=0 forged",
        "S: 550 5.7.1 ?[31m",
    ]


async def test_the_line_that_a_refusal_after_starttls_answers_is_shown(
    records: Callable[[], list[str]], server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    """The handshake has no reply of its own, so the next line is answered with the refusal, whatever the line is."""
    app, _ = mail_app()

    @app.on_secure
    async def refuse(ctx: SecureContext) -> None:
        ctx.reject("Your TLS is too old")

    async with open_client(app, ssl_context=server_ssl_context) as client:
        await client.starttls(client_ssl_context, "localhost")
        assert (await client.command("AUTH PLAIN AGEAc2VjcmV0")).code == 550
    assert dialogue(records())[-2:] == ["C: AUTH PLAIN ***", "S: 550 Your TLS is too old"]


# --- one line a connection, one line a message ---


def info(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "trio_smtp" and r.levelno == logging.INFO]


async def test_a_line_a_connection_and_a_line_a_message(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    app = App()

    @app.on_data
    async def slow(ctx: DataContext) -> None:
        await ctx.stream.discard()
        await trio.sleep(2)
        if ctx.envelope.mail_from is not None and not ctx.envelope.mail_from.address:
            ctx.reject("No bounces", 550)

    caplog.set_level(logging.INFO, "trio_smtp")
    async with open_client(app) as client:
        await client.ehlo()
        await client.send_message("a@example.org", ["b@example.com", "c@example.com"], BODY)
        await client.send_message("", ["b@example.com"], BODY)
        await client.quit()
        session = client.session.id
    start, size = f"session={session} peer=None", f"size={len(BODY)}"
    two, text, error = "<b@example.com>,<c@example.com>", 'text="5.7.1 No bounces"', 'error="550 5.7.1 No bounces"'
    assert info(caplog) == [
        f"{start} message from=<a@example.org> recipients=2 to={two} {size} reply=250 seconds=2.000",
        f"{start} message from=<> recipients=1 to=<b@example.com> {size} reply=550 {text} seconds=2.000",
        f"{start} helo=client.example connection closed reason=quit transactions=2 {error} seconds=4.000",
    ]
    assert logged(caplog) == []


async def test_a_message_that_did_not_arrive_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    caplog.set_level(logging.INFO, "trio_smtp")
    async with open_client(app) as client:
        await start_data(client)
        await client.send_bytes(b"half")
        await trio.testing.wait_all_tasks_blocked()
    message, connection = info(caplog)
    assert " message from=<a@example.org> recipients=1 to=<b@example.com> size=4 incomplete seconds=" in message
    assert " connection closed reason=lost transactions=0 seconds=" in connection


# --- warnings ---


async def http(client: Client) -> None:
    await client.command("GET / HTTP/1.1")


async def client_hello(client: Client) -> None:
    await client.send_bytes(b"\x16\x03\x01\x02\x00")
    await client.read_to_end()


async def endless_line(client: Client) -> None:
    await client.send_bytes(b"x" * 70_000)
    await client.read_reply()


async def too_many_errors(client: Client) -> None:
    for _ in range(10):
        await client.command("FROB")


async def too_many_failures(client: Client) -> None:
    await client.ehlo()
    for _ in range(3):
        await client.auth_plain("mallory", "x")


async def too_slow(client: Client) -> None:
    await start_data(client)
    for _ in range(100):
        await client.send_bytes(b"x")
        await trio.sleep(1)


@pytest.mark.parametrize(
    ("act", "warnings"),
    [
        (http, ["an HTTP request"]),
        (client_hello, ["a TLS ClientHello on a plaintext port"]),
        (endless_line, ["Line without an end"]),
        (too_many_errors, ["too many errors"]),
        (too_many_failures, [f"authentication refused mechanism=PLAIN failures={n}" for n in (1, 2, 3)]),
        (too_slow, ["the message comes too slowly"]),
    ],
)
async def test_abuse_is_a_warning(
    act: Callable[[Client], Awaitable[None]],
    warnings: list[str],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    async with open_client(auth_app(), allow_insecure_auth=True) as client:
        try:
            await act(client)
        except trio.BrokenResourceError:
            assert act is too_slow
        session = client.session.id
    lines = logged(caplog)
    assert [re.sub(r" seconds=\d+\.\d{3}$", "", line) for line in lines] == [
        f"session={session} peer=None helo={client.session.host_name_appears_as} {warning}" for warning in warnings
    ]


async def test_early_talkers_are_a_warning(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    app, _ = mail_app()
    async with raw_client(app, greeting_delay=5) as client:
        await client.send_bytes(b"EHLO c.example\r\n")
        await client.read_to_end()
    assert ["the client talked before the greeting" in line for line in logged(caplog)] == [True]


async def test_a_refusal_by_a_handler_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        ctx.reject()

    async with open_client(app) as client:
        with pytest.raises(AssertionError):
            await start_transaction(client)
    assert logged(caplog) == []


async def test_a_good_client_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = mail_app()
    caplog.set_level(logging.WARNING, "trio_smtp")
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client)).code == 250
    assert [r for r in caplog.records if r.name == "trio_smtp"] == []
