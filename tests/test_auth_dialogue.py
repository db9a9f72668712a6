"""AUTH as a dialogue under virtual time: every mechanism, what refusals cost, what is offered, what is logged."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import logging
import ssl
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.conftest import SERVER_NAMES, CertificateFiles
from tests.sasl_support import ScramClient, b64, cram_md5, oauthbearer, plain, xoauth2
from tests.support import Stopwatch, closed, logged, note_closes, status
from trio_smtp import (
    App,
    AuthContext,
    Config,
    CramMD5Credentials,
    ExternalCredentials,
    Mechanism,
    OAuthCredentials,
    PlainCredentials,
    Reply,
    SASLContext,
    ScramCredentials,
    ScramSecret,
    Session,
    SMTPError,
)
from trio_smtp.protocol.sasl import Exchange
from trio_smtp.testing import Client, open_client
from trio_smtp.tls import create_context

PASSWORD = "Sesame-Open"
TOKEN = "ya29.Token-of-Ali"
WRONG = "Barley-Open"
SCRAM = ("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", *SCRAM)
SECRETS = {name: ScramSecret.from_password(PASSWORD, name) for name in SCRAM}


async def lookup(username: str, session: Session) -> ScramSecret | None:
    assert session.auth_mechanism is not None
    return SECRETS[session.auth_mechanism.removesuffix("-PLUS")] if username == "ali" else None


def auth_app(scope: str | None = None) -> App:
    """An App that knows ali."""
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        match ctx.credentials:
            case PlainCredentials() | CramMD5Credentials() as credentials:
                right = credentials.username == "ali" and credentials.validate_password(PASSWORD)
            case OAuthCredentials() as credentials:
                right = credentials.access_token == TOKEN
            case ScramCredentials() | ExternalCredentials():
                right = True
            case _:
                raise AssertionError(ctx.credentials)
        if right:
            ctx.accept(ctx.credentials.username)
        elif scope is not None:
            ctx.challenge({"status": "invalid_token", "scope": scope})

    return app


@asynccontextmanager
async def connected(app: App | None = None, **changes: Any) -> AsyncIterator[Client]:
    """A client that said EHLO to a server with every mechanism that needs no TLS."""
    settings: dict[str, Any] = {
        "auth_mechanisms": MECHANISMS,
        "scram_lookup": lookup,
        "allow_insecure_auth": True,
        "hostname": "mx.example",
        **changes,
    }
    async with open_client(app or auth_app(), Config(**settings)) as client:
        await client.ehlo()
        yield client


Answer = str | Callable[[bytes], str]


async def converse(client: Client, command: str, *answers: Answer) -> Reply:
    """AUTH, each challenge answered in turn."""
    reply = await client.command(command)
    for answer in answers:
        assert reply.code == 334, reply
        assert reply.enhanced is None
        challenge = base64.b64decode(reply.text, validate=True)
        reply = await client.command(answer if isinstance(answer, str) else answer(challenge))
    return reply


def way_in(name: str, *, password: str = PASSWORD, token: str = TOKEN, user: str = "ali") -> tuple[str, list[Answer]]:
    """The initial response that a mechanism takes, and what its challenges are answered with after that."""
    match name:
        case "PLAIN":
            return plain(user, password), []
        case "LOGIN":
            return b64(user), [b64(password)]
        case "CRAM-MD5":
            return "", [lambda challenge: cram_md5(user, password, challenge)]
        case "XOAUTH2":
            return xoauth2(user, token), []
        case "OAUTHBEARER":
            return oauthbearer(user, token), []
        case _:
            client = ScramClient(name, user, password)
            return b64(client.first()), [lambda challenge: b64(client.final(challenge)), ""]


def offered(reply: Reply) -> list[str]:
    """The mechanisms in a reply to EHLO."""
    return [word for line in reply.lines if line.startswith("AUTH ") for word in line.split()[1:]]


# Every mechanism


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("at_once", [True, False], ids=["initial response", "first challenge"])
async def test_every_mechanism_lets_ali_in(name: str, at_once: bool) -> None:
    async with connected() as client:
        assert offered(await client.ehlo()) == list(MECHANISMS)
        initial, answers = way_in(name)
        if initial and at_once:
            reply = await converse(client, f"AUTH {name.lower()} {initial}", *answers)
        else:
            reply = await converse(client, f"AUTH {name}", *([initial] if initial else []), *answers)
        assert status(reply) == (235, "2.7.0")
        session = client.session
        assert (session.user, session.authenticated, session.auth_mechanism) == ("ali", True, name)
        assert session.transmission_type == "ESMTPA"
        assert client.server.stats.auth_successes == 1
        assert client.server.stats.auth_failures == 0
        assert offered(await client.ehlo()) == []
        assert status(await client.command(f"AUTH {name}")) == (503, "5.5.1")
        assert session.user == "ali"


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("user", ["ali", "cassim"])
async def test_every_mechanism_refuses_who_is_not_ali(name: str, user: str) -> None:
    async with connected() as client:
        initial, answers = way_in(name, password=WRONG, token=WRONG, user=user)
        if name in SCRAM:
            answers = answers[:1]  # the proof is refused: there is no last challenge
        if "OAUTH" in name:
            answers = ["AQ=="]
        reply = await converse(client, f"AUTH {name} {initial}" if initial else f"AUTH {name}", *answers)
        assert status(reply) == (535, "5.7.8")
        session = client.session
        assert (session.user, session.authenticated, session.auth_mechanism) == (None, False, None)
        assert client.server.stats.auth_failures == 1
        initial, answers = way_in("LOGIN")
        assert (await converse(client, f"AUTH LOGIN {initial}", *answers)).code == 235


async def test_the_server_of_a_scram_exchange_proves_itself_too() -> None:
    async with connected() as client:
        scram = ScramClient("SCRAM-SHA-256", "ali", PASSWORD)

        def check(challenge: bytes) -> str:
            assert scram.verify(challenge)
            return ""

        await converse(client, f"AUTH SCRAM-SHA-256 {b64(scram.first())}", lambda c: b64(scram.final(c)), check)
        assert client.session.authenticated


async def test_handlers_see_the_credentials_and_nothing_of_them_in_a_repr() -> None:
    app = App()
    seen: list[AuthContext] = []

    @app.on_auth
    async def note(ctx: AuthContext) -> None:
        seen.append(ctx)
        assert ctx.session.auth_mechanism == ctx.credentials.method

    async with connected(app, max_auth_failures=100) as client:
        for name in MECHANISMS:
            initial, answers = way_in(name)
            refusal = ["AQ=="] if "OAUTH" in name else []
            await converse(client, f"AUTH {name} {initial}".strip(), *answers, *refusal)
        assert [ctx.credentials.method for ctx in seen] == list(MECHANISMS)
        assert {ctx.credentials.username for ctx in seen} == {"ali"}
        shown = repr([seen, client.session, client.server.config, client.server.stats])
        assert "ali" in shown
        for secret in secrets_of_the_dialogue():
            assert secret not in shown


# Exchanges that come to nothing


@pytest.mark.parametrize("name", MECHANISMS)
async def test_a_client_may_cancel(name: str) -> None:
    async with connected() as client:
        for step in range(3 if name in SCRAM else 2 if name == "LOGIN" else 1):
            initial, answers = way_in(name)
            responses = [initial, *answers] if initial else answers
            assert status(await converse(client, f"AUTH {name}", *responses[:step], "*")) == (501, "5.7.0")
        assert client.server.stats.auth_failures == 0
        assert (await client.command("NOOP")).code == 250


@pytest.mark.parametrize("line", ["AUTH PLAIN ?", "AUTH PLAIN AHU", "AUTH PLAIN ====", "AUTH LOGIN \\"])
async def test_an_initial_response_that_is_no_base64(line: str) -> None:
    async with connected() as client:
        assert status(await client.command(line)) == (501, "5.5.2")
        assert (await client.auth_plain("ali", PASSWORD)).code == 235


@pytest.mark.parametrize("answer", ["?", "QQ", "Q Q=", "Q\tQ=", "=", "QQ==QQ==", "* *", "\0QQ==", "\xa0QQ=="])
async def test_an_answer_that_is_no_base64(answer: str) -> None:
    async with connected() as client:
        assert status(await converse(client, "AUTH LOGIN", answer)) == (501, "5.5.2")
        assert (await client.auth_plain("ali", PASSWORD)).code == 235


#: White space at the ends of a line, which does not count: a space, a tab, the CR of CR CR LF, all of them.
PADDINGS = [("", " "), (" ", ""), ("\t", "\t "), ("", "\r"), (" \t\v\f", "\f\v\t \r")]


@pytest.mark.parametrize(("before", "after"), PADDINGS)
async def test_white_space_around_base64_does_not_count(before: str, after: str) -> None:
    async with connected() as client:
        user, word = (before + b64(text) + after for text in ("ali", PASSWORD))
        assert (await converse(client, "AUTH LOGIN", user, word)).code == 235


@pytest.mark.parametrize(("before", "after"), PADDINGS)
async def test_white_space_around_an_asterisk_does_not_count(before: str, after: str) -> None:
    async with connected() as client:
        assert status(await converse(client, "AUTH LOGIN", f"{before}*{after}")) == (501, "5.7.0")


@pytest.mark.parametrize("line", ["AUTH PLAIN  {}", "AUTH PLAIN {} ", "AUTH PLAIN {} \t "])
async def test_white_space_around_an_initial_response_does_not_count(line: str) -> None:
    async with connected() as client:
        assert (await client.command(line.format(plain("ali", PASSWORD)))).code == 235


async def test_an_empty_initial_response_is_an_equals_sign() -> None:
    async with connected() as client:
        assert status(await client.command("AUTH PLAIN =")) == (501, "5.5.2")
        assert status(await converse(client, "AUTH LOGIN =", b64(PASSWORD))) == (535, "5.7.8")


async def test_a_server_that_speaks_first_takes_no_initial_response() -> None:
    async with connected() as client:
        for initial in ("=", "QQ=="):
            assert status(await client.command(f"AUTH CRAM-MD5 {initial}")) == (501, "5.5.2")


async def test_a_mechanism_nobody_knows() -> None:
    async with connected() as client:
        for name in ("GSSAPI", "PLAIN-", "SCRAM-SHA-256-PLUS", "EXTERNAL"):
            assert status(await client.command(f"AUTH {name}")) == (504, "5.5.4")


@pytest.mark.parametrize("name", MECHANISMS)
async def test_printers_authenticate_after_helo(name: str) -> None:
    async with open_client(
        auth_app(), Config(auth_mechanisms=MECHANISMS, scram_lookup=lookup, allow_insecure_auth=True)
    ) as client:
        initial, answers = way_in(name)
        assert (await client.command(f"AUTH {name} {initial}".strip())).code == 503
        assert (await client.command("HELO printer")).code == 250
        assert (await converse(client, f"AUTH {name} {initial}".strip(), *answers)).code == 235
        assert client.session.user == "ali"
        assert (await client.auth_plain("ali", PASSWORD)).code == 503


async def test_a_line_of_the_exchange_that_is_too_long() -> None:
    async with connected(max_auth_line=4000) as client:
        assert status(await converse(client, "AUTH PLAIN", "A" * 4000)) == (500, "5.5.6")
        assert (await client.auth_plain("ali", PASSWORD)).code == 235


async def test_errors_of_the_exchange_count_as_errors() -> None:
    async with connected(max_errors=3) as client:
        for _ in range(2):
            assert (await client.command("AUTH PLAIN ?")).code == 501
        assert status(await client.command("AUTH PLAIN ?")) == (421, "4.7.0")
        assert await closed(client)


async def test_a_client_that_falls_silent_in_the_exchange(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(command_timeout=60) as client:
        assert (await client.command("AUTH LOGIN")).code == 334
        watch = Stopwatch()
        assert status(await client.read_reply()) == (421, "4.4.2")
        assert 60 <= watch.seconds <= 61


async def test_a_client_that_leaves_in_the_exchange() -> None:
    app = auth_app()
    reasons = note_closes(app)
    async with connected(app) as client:
        assert (await client.command("AUTH SCRAM-SHA-1")).code == 334
    assert reasons == ["lost"]


# OAuth


@pytest.mark.parametrize("name", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("answer", ["AQ==", "", "*", "not base64"])
async def test_an_oauth_refusal_tells_why_before_it(name: str, answer: str) -> None:
    async with connected() as client:
        reply = await client.command(f"AUTH {name} {way_in(name, token=WRONG)[0]}")
        assert reply.code == 334
        assert json.loads(base64.b64decode(reply.text)) == {"status": "401", "schemes": "bearer"}
        assert status(await client.command(answer)) == (535, "5.7.8")


async def test_a_client_that_leaves_when_it_is_told_why_was_refused_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(auth_failure_delay=4) as client:
        watch = Stopwatch()
        assert (await client.command(f"AUTH XOAUTH2 {way_in('XOAUTH2', token=WRONG)[0]}")).code == 334
        assert watch.seconds == 4
    assert client.server.stats.auth_failures == 1


async def test_a_handler_sets_the_oauth_challenge() -> None:
    async with connected(auth_app("mail")) as client:
        # RFC 7628 section 4.3: no token at all asks what one would have to be for.
        reply = await client.command(f"AUTH OAUTHBEARER {b64('n,,' + chr(1) + 'auth=' + chr(1) * 2)}")
        assert json.loads(base64.b64decode(reply.text)) == {"status": "invalid_token", "scope": "mail"}
        assert status(await client.command("AQ==")) == (535, "5.7.8")
        # Other mechanisms have no use for it.
        assert status(await client.auth_plain("ali", WRONG)) == (535, "5.7.8")


async def test_a_handlers_rejection_of_a_token_keeps_its_text() -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        ctx.challenge({"status": "400"})
        ctx.reject("Expired", enhanced="5.7.8")

    async with connected(app) as client:
        assert (await client.command(f"AUTH XOAUTH2 {way_in('XOAUTH2')[0]}")).code == 334
        assert await client.command("AQ==") == Reply(535, "Expired", "5.7.8")


async def test_a_temporary_refusal_of_a_token_is_no_verdict_on_it() -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        ctx.reject("No answer from the token server", 451)

    async with connected(app) as client:
        reply = await client.command(f"AUTH XOAUTH2 {way_in('XOAUTH2')[0]}")
        assert reply == Reply(454, "No answer from the token server", "4.7.0")


@pytest.mark.parametrize("error", [{"status": 401}, {401: "status"}])
async def test_an_oauth_challenge_is_made_of_strings(error: dict[Any, Any]) -> None:
    context = AuthContext(Session(), Reply(235, "OK"), OAuthCredentials("XOAUTH2", "ali", TOKEN))
    with pytest.raises(TypeError, match="error must map strings to strings"):
        context.challenge(error)


# What refusals cost


async def test_the_delay_doubles_and_holds_up_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        connected(auth_failure_delay=2, max_auth_failures=4) as slow,
        open_client(slow.server.app, slow.server.config) as other,
    ):
        await other.ehlo()
        for delay in (2, 4, 8):
            watch = Stopwatch()
            await slow.send_bytes(f"AUTH PLAIN {plain('ali', WRONG)}\r\n".encode())
            await trio.sleep(delay / 2)
            assert (await other.command("NOOP")).code == 250
            assert watch.seconds == delay / 2
            assert status(await slow.read_reply()) == (535, "5.7.8")
            assert watch.seconds == delay
        watch = Stopwatch()
        assert status(await slow.auth_plain("ali", WRONG)) == (421, "4.7.0")
        assert watch.seconds == 16
        assert await closed(slow)
        # The count is the connection's own.
        watch = Stopwatch()
        assert (await other.auth_plain("ali", PASSWORD)).code == 235
        assert watch.seconds == 0


async def test_without_a_delay_there_is_none(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as client:
        watch = Stopwatch()
        assert (await client.auth_plain("ali", WRONG)).code == 535
        assert watch.seconds == 0


async def test_what_is_no_verdict_is_not_delayed_and_not_counted(autojump_clock: trio.testing.MockClock) -> None:
    app = App()

    @app.on_auth
    async def never(ctx: AuthContext) -> None:
        ctx.reject("Try again later", 450)

    async with connected(app, auth_failure_delay=10, max_auth_failures=1) as client:
        watch = Stopwatch()
        for _ in range(3):
            assert await client.auth_plain("ali", PASSWORD) == Reply(454, "Try again later", "4.7.0")
        assert watch.seconds == 0


@pytest.mark.parametrize("name", MECHANISMS)
async def test_too_many_failures_end_the_session(name: str, caplog: pytest.LogCaptureFixture) -> None:
    app = auth_app()
    reasons = note_closes(app)
    async with connected(app, max_auth_failures=2) as client:
        for expected in (535, 421):
            initial, answers = way_in(name, password=WRONG, token=WRONG)
            answers = ["AQ=="] if "OAUTH" in name else answers[:1]
            assert (await converse(client, f"AUTH {name} {initial}".strip(), *answers)).code == expected
        assert await closed(client)
    assert reasons == ["abuse"]
    assert [line.partition("authentication refused ")[2].split(" seconds")[0] for line in logged(caplog)][1:] == [
        f"mechanism={name} failures=1",
        f"mechanism={name} failures=2",
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (450, (454, "4.7.0")),
        (451, (454, "4.7.0")),
        (454, (454, "4.7.0")),
        (421, (421, "4.7.0")),
        (521, (521, "5.7.8")),
        (535, (535, "5.7.8")),
        (550, (550, "5.7.8")),
    ],
)
async def test_the_codes_of_handlers(code: int, expected: tuple[int, str]) -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        ctx.reject("No", code, enhanced=f"{code // 100}.7.{0 if code < 500 else 8}")

    async with connected(app) as client:
        assert status(await client.auth_plain("ali", PASSWORD)) == expected
        if code in (421, 521):
            assert await closed(client)
        else:
            assert (await client.command("NOOP")).code == 250


async def test_a_handler_that_crashes(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        raise ConnectionError("the database's address is 192.0.2.7")

    async with connected(app) as client:
        reply = await client.auth_plain("ali", PASSWORD)
        assert status(reply) == (454, "4.7.0")
        assert "192.0.2.7" not in reply.text
    assert any("on_auth handler failed" in line for line in logged(caplog))


# The look-up of secrets


async def test_a_lookup_that_crashes(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(username: str, session: Session) -> ScramSecret | None:
        raise ConnectionError("no database")

    async with connected(scram_lookup=crash) as client:
        reply = await client.command(f"AUTH SCRAM-SHA-256 {way_in('SCRAM-SHA-256')[0]}")
        assert status(reply) == (454, "4.7.0")
        assert (await client.auth_plain("ali", PASSWORD)).code == 235
    (record,) = [r for r in caplog.records if "scram_lookup handler failed" in r.getMessage()]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ConnectionError)


@pytest.mark.parametrize(("code", "expected"), [(535, 535), (450, 454), (421, 421)])
async def test_a_lookup_that_refuses(code: int, expected: int) -> None:
    async def refuse(username: str, session: Session) -> ScramSecret | None:
        raise SMTPError("Not you", code)

    async with connected(scram_lookup=refuse) as client:
        reply = await client.command(f"AUTH SCRAM-SHA-256 {way_in('SCRAM-SHA-256')[0]}")
        assert (reply.code, reply.text) == (expected, "Not you")


async def test_a_refused_lookup_leaves_nothing_for_the_collector() -> None:
    sessions: list[weakref.ref[Session]] = []

    async def refuse(username: str, session: Session) -> ScramSecret | None:
        sessions.append(weakref.ref(session))
        raise SMTPError("Not you", 535)

    gc.collect()
    gc.disable()
    try:
        async with connected(scram_lookup=refuse) as client:
            assert (await client.command(f"AUTH SCRAM-SHA-256 {way_in('SCRAM-SHA-256')[0]}")).code == 535
        del client
        assert [session() for session in sessions] == [None]
    finally:
        gc.enable()


async def test_a_lookup_that_returns_something_else(caplog: pytest.LogCaptureFixture) -> None:
    async def confuse(username: str, session: Session) -> Any:
        return "hunter2"

    async with connected(scram_lookup=confuse) as client:
        reply = await client.command(f"AUTH SCRAM-SHA-256 {way_in('SCRAM-SHA-256')[0]}")
        assert status(reply) == (454, "4.7.0")
        assert (await client.command("NOOP")).code == 250
    assert any("mechanism handler failed" in line for line in logged(caplog))


async def test_a_lookup_that_hangs(autojump_clock: trio.testing.MockClock) -> None:
    async def hang(username: str, session: Session) -> ScramSecret | None:
        await trio.sleep_forever()

    async with connected(scram_lookup=hang, handler_timeout=20) as client:
        watch = Stopwatch()
        reply = await client.command(f"AUTH SCRAM-SHA-256 {way_in('SCRAM-SHA-256')[0]}")
        assert status(reply) == (421, "4.3.0")
        assert 20 <= watch.seconds <= 21


async def test_a_lookup_that_crashes_when_its_time_is_over(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash_late(username: str, session: Session) -> ScramSecret | None:
        async def lookup() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("the directory is gone")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lookup)
            nursery.start_soon(trio.sleep_forever)
        return None

    async with connected(scram_lookup=crash_late, handler_timeout=20) as client:
        reply = await client.command(f"AUTH SCRAM-SHA-256 {way_in('SCRAM-SHA-256')[0]}")
        assert (status(reply), reply.text) == ((421, "4.3.0"), "Timeout in processing")
    assert any("scram_lookup handler failed" in line for line in logged(caplog))


# Mechanisms of the user's own


def riddle(context: SASLContext) -> Exchange:
    """Asks twice, and knows where it is."""
    answer = yield f"What has {context.hostname} got in its pocket?".encode()
    if answer != b"string":
        raise SMTPError("That is not it", 535)
    name = yield b"And who are you?"
    return PlainCredentials("X-RIDDLE", name.decode(), "string")


async def test_a_mechanism_of_ones_own() -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        assert ctx.credentials.method == "X-RIDDLE"
        ctx.accept(ctx.credentials.username)

    mechanism = Mechanism("X-RIDDLE", riddle, takes_initial_response=False)
    async with connected(app, auth_mechanisms=("PLAIN", mechanism)) as client:
        assert offered(await client.ehlo()) == ["PLAIN", "X-RIDDLE"]
        assert await converse(client, "AUTH X-RIDDLE", b64("a ring")) == Reply(535, "That is not it", "5.7.8")
        challenges: list[bytes] = []

        def answer(text: str) -> Callable[[bytes], str]:
            def note(challenge: bytes) -> str:
                challenges.append(challenge)
                return b64(text)

            return note

        assert (await converse(client, "AUTH x-riddle", answer("string"), answer("bilbo"))).code == 235
        assert challenges == [b"What has mx.example got in its pocket?", b"And who are you?"]
        assert (client.session.user, client.session.auth_mechanism) == ("bilbo", "X-RIDDLE")


@pytest.mark.parametrize("answers", [0, 1])
async def test_a_mechanism_that_crashes(answers: int, caplog: pytest.LogCaptureFixture) -> None:
    def crash(context: SASLContext) -> Exchange:
        for _ in range(answers):
            yield b"?"
        raise KeyError("hunter2")

    async with connected(auth_mechanisms=("PLAIN", Mechanism("X-CRASH", crash))) as client:
        reply = await converse(client, "AUTH X-CRASH", *["QQ=="] * answers)
        assert status(reply) == (454, "4.7.0")
        assert "hunter2" not in reply.text
        assert (await client.auth_plain("ali", PASSWORD)).code == 235
    assert any("mechanism handler failed" in line for line in logged(caplog))


async def test_a_mechanism_that_is_usable_sometimes() -> None:
    usable = False
    mechanism = Mechanism("X-RIDDLE", riddle, usable=lambda context: usable)
    async with connected(auth_mechanisms=(mechanism,)) as client:
        assert offered(await client.ehlo()) == []
        assert status(await client.command("AUTH X-RIDDLE")) == (502, "5.5.1")
        usable = True
        assert offered(await client.ehlo()) == ["X-RIDDLE"]
        assert (await client.command("AUTH X-RIDDLE")).code == 334


# What is offered now, and TLS


@attrs.frozen
class Pair:
    """A server's context that asks for client certificates, and two clients."""

    server: ssl.SSLContext
    anonymous: ssl.SSLContext
    certified: ssl.SSLContext
    certificate: bytes


@pytest.fixture(scope="module")
def pair(ca: trustme.CA, ca_file: Path, certificate_files: CertificateFiles) -> Pair:
    server = create_context(certificate_files.cert, certificate_files.key, ca=ca_file, client_certificates="optional")
    clients = [ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2)]
    for context in clients:
        ca.configure_trust(context)
    certificate = ca.issue_cert("ali@example.com")
    certificate.configure_cert(clients[1])
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    return Pair(server, clients[0], clients[1], der)


async def secure(client: Client, context: ssl.SSLContext) -> list[str]:
    """STARTTLS and EHLO; the mechanisms offered then."""
    assert (await client.starttls(context, SERVER_NAMES[0])).code == 220
    return offered(await client.ehlo())


async def test_external_is_for_clients_with_a_certificate(pair: Pair) -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        assert ctx.session.tls is not None
        assert ctx.session.tls.peer_certificate == pair.certificate
        if isinstance(ctx.credentials, ExternalCredentials):
            ctx.accept(ctx.credentials.authzid or "who the certificate names")

    settings: dict[str, Any] = {"auth_mechanisms": ("EXTERNAL", "PLAIN"), "ssl_context": pair.server}
    for command, answers, user in (
        ("AUTH EXTERNAL =", [], "who the certificate names"),
        ("AUTH EXTERNAL", [""], "who the certificate names"),
        (f"AUTH EXTERNAL {b64('ali')}", [], "ali"),
        ("AUTH EXTERNAL", [b64("ali")], "ali"),
    ):
        async with connected(app, **settings) as client:
            assert await secure(client, pair.certified) == ["EXTERNAL", "PLAIN"]
            assert (await converse(client, command, *answers)).code == 235
            assert client.session.user == user
    async with connected(app, **settings) as client:
        assert await secure(client, pair.anonymous) == ["PLAIN"]
        assert status(await client.command("AUTH EXTERNAL =")) == (504, "5.5.4")
    async with connected(app, **settings) as client:
        assert offered(await client.ehlo()) == ["PLAIN"]
        assert status(await client.command("AUTH EXTERNAL =")) == (504, "5.5.4")


async def test_nothing_is_offered_before_tls(pair: Pair) -> None:
    async with connected(ssl_context=pair.server, allow_insecure_auth=False) as client:
        assert offered(await client.ehlo()) == []
        for command in ("AUTH PLAIN", f"AUTH PLAIN {plain('ali', PASSWORD)}", "AUTH NONSENSE"):
            assert status(await client.command(command)) == (538, "5.7.11")
        assert await secure(client, pair.anonymous) == list(MECHANISMS)
        assert (await client.auth_plain("ali", PASSWORD)).code == 235
        assert client.session.transmission_type == "ESMTPSA"


async def test_where_tls_would_not_help_it_is_not_asked_for() -> None:
    async with connected(allow_insecure_auth=False) as client:
        assert offered(await client.ehlo()) == []
        assert status(await client.command("AUTH PLAIN")) == (502, "5.5.1")


async def test_external_alone_is_nothing_for_the_anonymous(pair: Pair) -> None:
    async with connected(ssl_context=pair.server, auth_mechanisms=("EXTERNAL",)) as client:
        assert status(await client.command("AUTH EXTERNAL")) == (538, "5.7.11")
        assert await secure(client, pair.anonymous) == []
        assert status(await client.command("AUTH EXTERNAL")) == (502, "5.5.1")


@pytest.mark.parametrize("changes", [{"app": App()}, {"disabled_commands": {"AUTH"}}], ids=["no handler", "disabled"])
async def test_without_anybody_to_ask_there_is_no_auth(changes: dict[str, Any]) -> None:
    async with connected(**changes) as client:
        assert offered(await client.ehlo()) == []
        assert status(await client.command("AUTH PLAIN")) == (502, "5.5.1")


async def test_hidden_auth_works() -> None:
    async with connected(hide_extensions={"AUTH"}) as client:
        assert offered(await client.ehlo()) == []
        assert (await client.auth_plain("ali", PASSWORD)).code == 235


async def test_scram_plus_is_offered_where_our_certificate_is_known(
    pair: Pair, server_ssl_context: ssl.SSLContext, certificate_files: CertificateFiles
) -> None:
    names = tuple(f"{name}{plus}" for name in SCRAM for plus in ("", "-PLUS"))
    der = ssl.PEM_cert_to_DER_cert(
        certificate_files.cert.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----"
    )
    for name in SCRAM:
        async with connected(ssl_context=pair.server, auth_mechanisms=names) as client:
            assert offered(await client.ehlo()) == list(SCRAM)
            assert await secure(client, pair.anonymous) == list(names)
            told_of_none = ScramClient(name, "ali", PASSWORD, flag="y")
            command = f"AUTH {name} {b64(told_of_none.first())}"
            assert status(await client.command(command)) == (535, "5.7.8")
            scram = ScramClient(
                name, "ali", PASSWORD, flag="p=tls-server-end-point", binding=hashlib.sha256(der).digest()
            )
            command = f"AUTH {name}-PLUS {b64(scram.first())}"
            assert (await converse(client, command, lambda c, s=scram: b64(s.final(c)), "")).code == 235  # type: ignore[misc]
            assert client.session.auth_mechanism == f"{name}-PLUS"
    # A context made elsewhere does not tell its certificate.
    async with connected(ssl_context=server_ssl_context, auth_mechanisms=names) as client:
        assert await secure(client, pair.anonymous) == list(SCRAM)


async def test_tls_forgets_who_was_authenticated(pair: Pair) -> None:
    async with connected(ssl_context=pair.server) as client:
        assert (await client.auth_plain("ali", PASSWORD)).code == 235
        assert await secure(client, pair.anonymous) == list(MECHANISMS)
        session = client.session
        assert (session.user, session.authenticated, session.auth_mechanism) == (None, False, None)


# The log


def secrets_of_the_dialogue() -> Iterator[str]:
    """Everything a client sends here that nobody else may see, in the clear and encoded."""
    for text in (PASSWORD, WRONG, TOKEN):
        yield text
        # Wherever it starts in what is encoded, some of its encoding is always the same.
        for offset in range(3):
            encoded = b64(b"\0" * offset + text.encode())
            yield encoded[4:-4]


async def test_no_secret_is_in_the_log(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Dialogues with everything that may hold one: right, wrong, malformed, refused, out of place."""
    caplog.set_level(logging.DEBUG)
    names = (*MECHANISMS, "EXTERNAL", "SCRAM-SHA-256-PLUS")
    changes: dict[str, Any] = {
        "ssl_context": pair.server,
        "auth_mechanisms": names,
        "max_auth_failures": 100,
        "max_errors": 100,
    }
    for password, token in ((PASSWORD, TOKEN), (WRONG, WRONG)):
        for name in MECHANISMS:
            async with connected(**changes) as client:
                await secure(client, pair.certified)
                initial, answers = way_in(name, password=password, token=token)
                for command in (
                    f"AUTH {name} {initial}".strip(),
                    f"AUTH  {name}  {initial}",
                    f"auth\t{name}\t{initial}",
                ):
                    reply = await client.command(command)
                    for answer in answers:
                        if reply.code == 334:
                            challenge = base64.b64decode(reply.text)
                            reply = await client.command(answer if isinstance(answer, str) else answer(challenge))
                    if reply.code == 334:
                        await client.command("AQ==")
                # What a confused client may say, and one that was refused and goes on.
                for line in (
                    f"AUTH {plain('ali', password)}",
                    f"AUTH={name} {initial}",
                    f"AUTHENTICATE PLAIN {plain('ali', password)}",
                    f"AUTH NONSENSE {plain('ali', password)}",
                    plain("ali", password),
                    f" AUTH PLAIN {plain('ali', password)}",
                    f"PASS {password}",
                    password,
                    f"AUTH PLAIN {plain('ali', password)}?",
                ):
                    assert (await client.command(line)).code >= 400
                await client.quit()
    async with connected(allow_insecure_auth=False, **changes) as client:
        assert (await client.auth_plain("ali", PASSWORD)).code == 538
    lines = [caplog.handler.format(record) for record in caplog.records]
    assert any("C: AUTH PLAIN ***" in line for line in lines)
    assert any("S: 334 ***" in line for line in lines)
    assert any("S: 235" in line for line in lines)
    for secret in secrets_of_the_dialogue():
        for record in caplog.records:
            assert secret not in caplog.handler.format(record)
            assert secret not in repr(record.args)
