"""Who a client is and as whom it acts: authorization identities, odd passwords, and what the log says of refusals."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest

from tests.sasl_support import ScramClient, b64
from tests.support import logged, status
from trio_smtp import (
    App,
    AuthContext,
    Config,
    Exchange,
    ExternalCredentials,
    Mechanism,
    PlainCredentials,
    Reply,
    SASLContext,
    ScramSecret,
    Session,
    XClientCredentials,
)
from trio_smtp.protocol.credentials import CramMD5Credentials, Credentials, OAuthCredentials, ScramCredentials
from trio_smtp.testing import Client, open_client

SECRET = ScramSecret.from_password("pencil")


async def lookup(username: str, session: Session) -> ScramSecret | None:
    return SECRET


def anybody(context: SASLContext) -> bool:
    return True


def external(context: SASLContext) -> Exchange:
    authzid = yield b""
    return ExternalCredentials(authzid.decode())


def careless(context: SASLContext) -> Exchange:
    """A mechanism whose credentials name the user's own identity."""
    authzid = yield b""
    return PlainCredentials("X-CARELESS", "ali", "", authzid.decode())


SETTINGS: dict[str, Any] = {
    "auth_mechanisms": (
        "PLAIN",
        "LOGIN",
        "OAUTHBEARER",
        "SCRAM-SHA-256",
        Mechanism("EXTERNAL", external),
        Mechanism("X-CARELESS", careless),
    ),
    "scram_lookup": lookup,
    "allow_insecure_auth": True,
}


async def as_identity(client: Client, mechanism: str, authzid: str) -> Reply:
    """Authenticate as ali, to act as somebody."""
    match mechanism:
        case "PLAIN":
            return await client.auth_plain("ali", "pencil", authzid)
        case "OAUTHBEARER":
            return await client.command(
                f"AUTH OAUTHBEARER {b64(f'n,a={authzid},' + chr(1) + 'auth=Bearer t' + 2 * chr(1))}"
            )
        case "SCRAM-SHA-256":
            scram = ScramClient(mechanism, "ali", "pencil", authzid=authzid)
            reply = await client.command(f"AUTH {mechanism} {b64(scram.first())}")
            await client.command(b64(scram.final(base64.b64decode(reply.text))))
            return await client.command("")
        case _:
            return await client.command(f"AUTH {mechanism} {b64(authzid) or '='}")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "EXTERNAL", "X-CARELESS"])
@pytest.mark.parametrize(
    ("authzid", "knows", "expected"),
    [
        ("", False, 235),
        ("ali", False, 235),
        ("bob", False, 535),
        ("Ali", False, 535),
        ("", True, 235),
        ("ali", True, 235),
        ("bob", True, 235),
    ],
)
async def test_another_identity_needs_the_handlers_word(
    mechanism: str, authzid: str, knows: bool, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        if knows:
            ctx.accept("ali", authzid=ctx.credentials.authzid)
        else:
            ctx.accept("ali")

    async with open_client(app, Config(**SETTINGS)) as client:
        await client.ehlo()
        reply = await as_identity(client, mechanism, authzid)
        assert reply.code == expected
        if expected == 535:
            assert status(reply) == (535, "5.7.8")
            assert client.session.user is None
            assert not client.session.authenticated
        else:
            assert client.session.user == "ali"
    hints = [line for line in logged(caplog, logging.WARNING) if "accept(user, authzid=credentials.authzid)" in line]
    assert len(hints) == (expected == 535)


@pytest.mark.parametrize("given", ["carol", "", "Bob"])
async def test_the_handlers_word_is_for_one_identity(given: str) -> None:
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        ctx.accept("bob", authzid=given)  # the user's name does not count with PLAIN: it is what the handler makes it

    async with open_client(app, Config(**SETTINGS)) as client:
        await client.ehlo()
        assert (await client.auth_plain("ali", "pencil", "bob")).code == 535


async def test_the_last_handler_that_accepts_has_the_word() -> None:
    app = App()

    @app.on_auth
    async def first(ctx: AuthContext) -> None:
        ctx.accept("ali", authzid="bob")

    @app.on_auth
    async def second(ctx: AuthContext) -> None:
        assert (ctx.user, ctx.authzid) == ("ali", "bob")
        ctx.accept("ali")

    async with open_client(app, Config(**SETTINGS)) as client:
        await client.ehlo()
        assert (await client.auth_plain("ali", "pencil", "bob")).code == 535


@pytest.mark.parametrize("name", ["ali", "bob", ""])
async def test_the_identity_of_oauthbearer_is_the_user_name(name: str) -> None:
    """RFC 7628 section 3.1: the GS2 header names the user; another name stands nowhere in it."""
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        assert (ctx.credentials.username, ctx.credentials.authzid) == (name, "")
        ctx.accept("ali")

    async with open_client(app, Config(**SETTINGS)) as client:
        await client.ehlo()
        line = f"n,{f'a={name}' if name else ''},\1auth=Bearer t\1\1"
        assert (await client.command(f"AUTH OAUTHBEARER {b64(line)}")).code == 235


@pytest.mark.parametrize(
    "credentials",
    [
        PlainCredentials("LOGIN", "ali", "pencil"),
        CramMD5Credentials("ali", "", ""),
        OAuthCredentials("XOAUTH2", "ali", "t"),
        ExternalCredentials(),
        ScramCredentials("SCRAM-SHA-1", "ali"),
        XClientCredentials("ali"),
    ],
    ids=lambda credentials: str(credentials.method),
)
def test_all_credentials_have_an_identity(credentials: Credentials) -> None:
    assert credentials.authzid == ""


# Passwords


@pytest.mark.parametrize(
    ("octets", "password"),
    [
        pytest.param("p\xe4ss".encode(), "p\xe4ss", id="UTF-8"),
        pytest.param("p\xe4ss".encode("latin-1"), "p\xe4ss", id="Latin-1"),
        pytest.param(b"", "", id="empty"),
        pytest.param(b"\xff\xfe", "\xff\xfe", id="what UTF-8 never has"),
        pytest.param(b"a\xc3", "a\xc3", id="cut off"),
        pytest.param(b"\xc0\x80", "\xc0\x80", id="overlong"),
        pytest.param(b"\xed\xa0\x80", "\xed\xa0\x80", id="a surrogate"),
        pytest.param(b"\xf4\x90\x80\x80", "\xf4\x90\x80\x80", id="beyond Unicode"),
        pytest.param(b"\x80\x81\x9f", "\x80\x81\x9f", id="controls of Latin-1"),
    ],
)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_passwords_reach_the_handler_as_they_were_sent(mechanism: str, octets: bytes, password: str) -> None:
    seen: list[Credentials] = []
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        seen.append(ctx.credentials)
        if ctx.credentials.validate_password(password):
            ctx.accept("ali")

    async with open_client(app, Config(**SETTINGS)) as client:
        await client.ehlo()
        if mechanism == "PLAIN":
            reply = await client.command(f"AUTH PLAIN {b64(bytes(1) + b'ali' + bytes(1) + octets)}")
        else:
            await client.command(f"AUTH LOGIN {b64('ali')}")
            reply = await client.command(b64(octets))
        assert reply.code == 235
    (credentials,) = seen
    assert isinstance(credentials, PlainCredentials)
    assert (credentials.password, credentials.password_octets) == (password, octets)
    assert credentials == PlainCredentials(mechanism, "ali", password, password_octets=octets)
    assert repr(credentials) == f"PlainCredentials(method={mechanism!r}, username='ali', authzid='')"


@pytest.mark.parametrize(("username", "password"), [("", ""), ("ali", ""), ("", "pencil")])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_empty_credentials_reach_the_handler(mechanism: str, username: str, password: str) -> None:
    seen: list[tuple[str, str]] = []
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        assert isinstance(ctx.credentials, PlainCredentials)
        seen.append((ctx.credentials.username, ctx.credentials.password))

    async with open_client(app, Config(**SETTINGS)) as client:
        await client.ehlo()
        if mechanism == "PLAIN":
            reply = await client.auth_plain(username, password)
        else:
            assert (await client.command("AUTH LOGIN")).code == 334
            assert (await client.command(b64(username))).code == 334
            reply = await client.command(b64(password))
        assert status(reply) == (535, "5.7.8")
    assert seen == [(username, password)]


async def test_a_client_may_try_three_mechanisms_twice() -> None:
    """smtplib goes through CRAM-MD5, PLAIN and LOGIN with one password: a wrong one is no abuse."""
    app = App()

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        """Accept nobody."""

    async with open_client(app, Config(allow_insecure_auth=True)) as client:
        await client.ehlo()
        codes = [(await client.auth_plain("ali", "wrong")).code for _ in range(6)]
        assert codes == [535] * 5 + [421]


# XCLIENT LOGIN


async def _knows_passwords(ctx: AuthContext) -> None:
    if isinstance(ctx.credentials, PlainCredentials):
        ctx.accept(ctx.credentials.username)


async def _refuses(ctx: AuthContext) -> None:
    if not isinstance(ctx.credentials, PlainCredentials):
        ctx.reject("Only passwords here")


async def _is_busy(ctx: AuthContext) -> None:
    ctx.reject("Later", 451)


async def _accepts(ctx: AuthContext) -> None:
    ctx.accept(ctx.credentials.username)


@pytest.mark.parametrize(
    ("handler", "code"), [(_knows_passwords, 535), (_refuses, 535), (None, 535), (_is_busy, 454), (_accepts, 220)]
)
async def test_the_log_explains_a_refused_xclient_login(
    handler: Any, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    if handler is not None:
        app.on_auth(handler)
    async with open_client(app, Config(xclient=["192.0.2.1"]), peer=("192.0.2.1", 4711)) as client:
        await client.ehlo()
        assert (await client.command("XCLIENT LOGIN=ali")).code == code
    lines = [line for line in logged(caplog, logging.WARNING) if "XCLIENT" in line]
    if code == 220:
        assert not lines
    else:
        (line,) = lines
        assert f"XCLIENT LOGIN refused reply={code} hint: on_auth did not accept XClientCredentials" in line
