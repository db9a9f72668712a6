"""XCLIENT and XFORWARD from trusted peers, by Postfix's XCLIENT_README and XFORWARD_README."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trio.testing

from tests.peer_support import PROXY, STRANGER, front
from tests.support import BODY, closed, logged, mail_app, note_closes, start_transaction, status
from trio_smtp import (
    App,
    AuthContext,
    ConnectContext,
    DataContext,
    Extension,
    MailFromContext,
    SecureContext,
    Session,
    XClientCredentials,
)
from trio_smtp.testing import Client, open_client

TRUST: dict[str, Any] = {"xclient": ["192.0.2.0/24"], "xforward": ["192.0.2.0/24"]}


async def greeted(client: Client) -> Client:
    assert (await client.read_reply()).code == 220
    assert (await client.ehlo()).code == 250
    return client


def taking_app() -> tuple[App, list[object]]:
    """An App that notes what its handlers are called for."""
    app, _ = mail_app()
    events: list[object] = []

    @app.on_connect
    async def connect(ctx: ConnectContext) -> None:
        events.append(("connect", ctx.session.remote_address, ctx.session.client_hostname))
        if ctx.session.client_hostname == "evil.example":
            ctx.reject("Go away", 554, enhanced="5.7.1")

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        assert isinstance(ctx.credentials, XClientCredentials)
        name = ctx.credentials.username
        events.append(("auth", ctx.credentials.method, name, ctx.session.remote_address))
        if name == "later":
            ctx.reject("Not now", 451, enhanced="4.3.0")
        if name == "never":
            ctx.reject("Never", 535, enhanced="5.7.8")
        if name == "close":
            ctx.disconnect("Enough")
        if name == "crash":
            raise RuntimeError("secret")
        if name != "unknown":
            ctx.accept({"name": name})

    return app, events


# --- XCLIENT ---


async def test_every_attribute() -> None:
    app, events = taking_app()
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        reply = await client.command(
            "XCLIENT NAME=spike.example ADDR=203.0.113.9 PORT=2525 PROTO=ESMTP HELO=helo.example LOGIN=user+40example"
            " DESTADDR=IPV6:2001:DB8::2 DESTPORT=587 REVERSE_NAME=reverse.example"
        )
        assert (reply.code, reply.enhanced, reply.text) == (220, None, "mx.example ESMTP")
        session = client.session
        assert (session.remote_address, session.remote_port) == ("203.0.113.9", 2525)
        assert (session.local_address, session.local_port) == ("2001:db8::2", 587)
        assert (session.client_hostname, session.client_hostname_verified) == ("spike.example", False)
        assert (session.host_name_appears_as, session.opening_command) == ("helo.example", None)
        assert (session.user, session.authenticated) == ({"name": "user@example"}, True)
        assert session.auth_mechanism == "XCLIENT"
        assert session.original_peer == (PROXY, 4711)
        assert session.xclient == {
            "NAME": "spike.example",
            "ADDR": "203.0.113.9",
            "PORT": "2525",
            "PROTO": "ESMTP",
            "HELO": "helo.example",
            "LOGIN": "user@example",
            "DESTADDR": "2001:db8::2",
            "DESTPORT": "587",
            "REVERSE_NAME": "reverse.example",
        }
        assert (await client.ehlo("real.example")).code == 250
        assert session.host_name_appears_as == "real.example"
        assert session.transmission_type == "ESMTPA"
    # What was applied is there when on_connect runs, and on_auth comes after it.
    assert events == [
        ("connect", PROXY, f"[{PROXY}]"),
        ("connect", "203.0.113.9", "spike.example"),
        ("auth", "XCLIENT", "user@example", "203.0.113.9"),
    ]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("ADDR=203.0.113.9", ("203.0.113.9", 4711, "[203.0.113.9]")),
        ("ADDR=IPV6:2001:DB8::1", ("2001:db8::1", 4711, "[2001:db8::1]")),
        ("ADDR=IPV6:::ffff:203.0.113.9", ("203.0.113.9", 4711, "[203.0.113.9]")),
        ("NAME=a.example", (PROXY, 4711, "a.example")),
        ("NAME=[UNAVAILABLE]", (PROXY, 4711, f"[{PROXY}]")),
        ("NAME=[TEMPUNAVAIL] ADDR=203.0.113.9", ("203.0.113.9", 4711, "[203.0.113.9]")),
        ("ADDR=[UNAVAILABLE]", (None, 4711, "unknown")),
        ("NAME=a.example ADDR=[UNAVAILABLE]", (None, 4711, "a.example")),
        ("NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]", (None, None, "unknown")),
        ("PORT=1", (PROXY, 1, f"[{PROXY}]")),
        ("HELO=[UNAVAILABLE] DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]", (PROXY, 4711, f"[{PROXY}]")),
    ],
)
async def test_what_is_not_available(attributes: str, expected: tuple[object, ...]) -> None:
    app, _ = taking_app()
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        assert (await client.command(f"XCLIENT {attributes}")).code == 220
        session = client.session
        assert (session.remote_address, session.remote_port, session.client_hostname) == expected
        assert session.host_name_appears_as is None
        if "DESTADDR" in attributes:
            assert (session.local_address, session.local_port) == (None, None)
        assert set(session.xclient) == {word.partition("=")[0] for word in attributes.split()}


async def test_strangers_may_not() -> None:
    app, events = taking_app()
    async with front(app, max_errors=2, **TRUST) as there:
        for client in [await there.connect(STRANGER), await there.connect(None)]:
            client = await greeted(client)  # noqa: PLW2901
            for _ in range(5):  # no error of the protocol
                assert status(await client.command("XCLIENT ADDR=192.0.2.1")) == (550, "5.7.0")
                assert status(await client.command("XFORWARD ADDR=192.0.2.1")) == (550, "5.7.0")
            assert (client.session.xclient, client.session.xforward) == ({}, {})
    assert len(events) == 2


async def test_where_nobody_is_trusted_they_are_unknown() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await client.command("XCLIENT ADDR=192.0.2.1")) == (500, "5.5.1")
        assert status(await client.command("XFORWARD ADDR=192.0.2.1")) == (500, "5.5.1")


async def test_the_address_as_it_is_now_counts() -> None:
    app, _ = taking_app()
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        for address in ("192.0.2.20", "192.0.2.30"):
            assert (await client.command(f"XCLIENT ADDR={address}")).code == 220
            assert any(line.startswith("XCLIENT ") for line in (await client.ehlo()).lines)
        assert (await client.command("XCLIENT ADDR=203.0.113.9")).code == 220
        assert not any(line.startswith("X") for line in (await client.ehlo()).lines)
        assert status(await client.command("XCLIENT ADDR=192.0.2.1")) == (550, "5.7.0")
        assert status(await client.command("XFORWARD ADDR=192.0.2.1")) == (550, "5.7.0")
        assert client.session.remote_address == "203.0.113.9"
        assert client.session.xclient == {"ADDR": "203.0.113.9"}


@pytest.mark.parametrize(
    "attributes", ["", "NAME=good.example ADDR=bad", "ADDR=203.0.113.9 IDENT=x", "ADDR=203.0.113.9 ADDR=203.0.113.9"]
)
async def test_all_or_nothing(attributes: str) -> None:
    app, events = taking_app()
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        assert status(await client.command(f"XCLIENT {attributes}")) == (501, "5.5.4")
        session = client.session
        assert (session.remote_address, session.client_hostname, session.xclient) == (PROXY, f"[{PROXY}]", {})
        assert (session.host_name_appears_as, session.opening_command) == ("client.example", "EHLO")
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
    assert len(events) == 1


async def test_not_in_a_transaction() -> None:
    app, _ = taking_app()
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        for line in ("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>", "BDAT 0"):
            assert (await client.command(line)).code == 250
            assert status(await client.command("XCLIENT ADDR=203.0.113.9")) == (503, "5.5.1")
            assert status(await client.command("XFORWARD ADDR=203.0.113.9")) == (503, "5.5.1")
        assert (await client.command("RSET")).code == 250
        assert (await client.command("XCLIENT ADDR=203.0.113.9")).code == 220


async def test_the_session_is_as_new() -> None:
    app, events = taking_app()
    async with front(app, **TRUST) as there:
        client = await there.connect()
        assert (await client.read_reply()).code == 220
        # Before EHLO it is as good.
        assert (await client.command("XCLIENT LOGIN=one ADDR=192.0.2.20")).code == 220
        session = client.session
        assert session.authenticated
        assert status(await client.command("MAIL FROM:<a@example.org>")) == (503, None)
        await client.ehlo()
        session.data["kept"] = True
        assert (await client.command("XCLIENT NAME=a.example")).code == 220
        assert (session.user, session.authenticated, session.auth_mechanism) == (None, False, None)
        assert (session.opening_command, session.host_name_appears_as) == (None, None)
        # No enhanced codes before EHLO, as in any new session.
        assert status(await client.command("RCPT TO:<a@example.org>")) == (503, None)
        await client.ehlo()
        assert session.data == {"kept": True}
        assert (await client.send_message("a@example.org", ["b@example.com"], BODY)).code == 250
    assert len(events) == 4


async def test_login_unavailable_logs_out() -> None:
    app, events = taking_app()
    async with front(app, auth_required=True, **TRUST) as there:
        client = await greeted(await there.connect())
        await client.command("XCLIENT LOGIN=one")
        await client.ehlo()
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
        await client.command("RSET")
        assert (await client.command("XCLIENT LOGIN=[UNAVAILABLE]")).code == 220
        await client.ehlo()
        assert not client.session.authenticated
        assert client.session.xclient == {"LOGIN": None}
        assert status(await client.command("MAIL FROM:<a@example.org>")) == (530, "5.7.0")
    assert [event for event in events if isinstance(event, tuple) and event[0] == "auth"] == [
        ("auth", "XCLIENT", "one", PROXY)
    ]


@pytest.mark.parametrize(
    ("login", "reply"),
    [
        ("never", b"535 Never\r\n"),
        ("unknown", b"535 Authentication credentials invalid\r\n"),
        ("later", b"454 Not now\r\n"),
        ("close", b"421 Enough\r\n"),
        ("crash", b"454 Requested action aborted: local error in processing\r\n"),
    ],
)
async def test_a_refused_login_closes(
    login: str,
    reply: bytes,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, _ = taking_app()
    closes = note_closes(app)
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        await client.send_bytes(f"XCLIENT LOGIN={login}\r\n".encode())
        assert await client.read_to_end() == reply
        await client.aclose()
        await trio.sleep(2)
        assert not client.session.authenticated
    assert closes == ["refused"]
    assert any("on_auth handler failed" in line for line in logged(caplog)) is (login == "crash")


async def test_a_refused_connection_closes(autojump_clock: trio.testing.MockClock) -> None:
    app, events = taking_app()
    closes = note_closes(app)
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        await client.send_bytes(b"XCLIENT NAME=evil.example LOGIN=one\r\nNOOP\r\n")
        assert await client.read_to_end() == b"554 Go away\r\n"
        await client.aclose()
        await trio.sleep(2)
        # Applied before it was refused; nobody was asked about the login.
        assert client.session.client_hostname == "evil.example"
    assert closes == ["refused"]
    assert [event for event in events if isinstance(event, tuple) and event[0] == "auth"] == []


async def test_without_on_auth_nobody_logs_in(autojump_clock: trio.testing.MockClock) -> None:
    app, _ = mail_app()
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        assert (await client.command("XCLIENT LOGIN=one")).code == 535
        assert await closed(client)


async def test_tls_is_kept(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    app, _ = taking_app()
    secured = 0

    @app.on_secure
    async def count(ctx: SecureContext) -> None:
        nonlocal secured
        secured += 1

    async with front(app, ssl_context=server_ssl_context, **TRUST) as there:
        client = await greeted(await there.connect())
        await client.starttls(client_ssl_context, "mx.example.com")
        await client.ehlo()
        tls = client.session.tls
        assert tls is not None
        assert (await client.command("XCLIENT ADDR=203.0.113.9 LOGIN=one")).code == 220
        assert (client.session.secure, client.session.tls) == (True, tls)
        lines = (await client.ehlo()).lines
        assert "STARTTLS" not in lines
        assert client.session.transmission_type == "ESMTPSA"
    assert secured == 1


async def test_starttls_after_xclient_keeps_the_address(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = taking_app()
    async with front(app, ssl_context=server_ssl_context, **TRUST) as there:
        client = await greeted(await there.connect())
        assert (await client.command("XCLIENT ADDR=203.0.113.9 HELO=x.example LOGIN=one")).code == 220
        await client.ehlo()
        await client.starttls(client_ssl_context, "mx.example.com")
        session = client.session
        assert (session.remote_address, session.xclient["ADDR"]) == ("203.0.113.9", "203.0.113.9")
        assert (session.authenticated, session.host_name_appears_as) == (False, None)


async def test_before_required_tls_it_is_refused_and_not_shown(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = taking_app()
    async with front(app, ssl_context=server_ssl_context, starttls_required=True, **TRUST) as there:
        client = await greeted(await there.connect())
        assert status(await client.command("XCLIENT ADDR=203.0.113.9")) == (530, "5.7.0")
        assert status(await client.command("XFORWARD ADDR=203.0.113.9")) == (530, "5.7.0")
        assert not any(line.startswith("X") for line in (await client.ehlo()).lines)
        await client.starttls(client_ssl_context, "mx.example.com")
        shown = [line.partition(" ")[0] for line in (await client.ehlo()).lines if line.startswith("X")]
        assert shown == ["XCLIENT", "XFORWARD"]
        assert (await client.command("XCLIENT ADDR=203.0.113.9")).code == 220


async def test_pipelined() -> None:
    app, _ = taking_app()
    async with front(app, **TRUST) as there:
        client = await there.connect()
        await client.send_bytes(b"EHLO x\r\nXCLIENT ADDR=203.0.113.9\r\nEHLO y\r\nMAIL FROM:<a@example.org>\r\n")
        assert [(await client.read_reply()).code for _ in range(5)] == [220, 250, 220, 250, 250]


async def test_what_is_offered_depends_on_who_it_is() -> None:
    app, _ = taking_app()

    def inside(session: Session) -> bool:
        return session.remote_address == "203.0.113.9" and session.authenticated

    app.extend(Extension(keyword="XINSIDE", available=inside, mail_parameters={"XINSIDE": str}))
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        assert status(await client.command("MAIL FROM:<a@example.org> XINSIDE=1")) == (555, "5.5.4")
        await client.command("XCLIENT ADDR=203.0.113.9 LOGIN=one")
        assert "XINSIDE" in (await client.ehlo()).lines
        assert (await client.command("MAIL FROM:<a@example.org> XINSIDE=1")).code == 250


async def test_lmtp() -> None:
    app, _ = taking_app()
    async with front(app, lmtp=True, **TRUST) as there:
        client = await there.connect()
        await client.read_reply()
        assert any(line.startswith("XCLIENT ") for line in (await client.command("LHLO x")).lines)
        assert (await client.command("XCLIENT ADDR=203.0.113.9 PROTO=LMTP")).code == 220
        assert client.session.remote_address == "203.0.113.9"


# --- XFORWARD ---


async def test_xforward_is_for_one_transaction() -> None:
    app = App()
    seen: list[dict[str, str | None]] = []

    @app.on_mail_from
    async def at_mail(ctx: MailFromContext) -> None:
        seen.append(dict(ctx.session.xforward))

    @app.on_data
    async def at_data(ctx: DataContext) -> None:
        await ctx.stream.discard()
        seen.append(dict(ctx.session.xforward))

    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        reply = await client.command("XFORWARD NAME=a.example ADDR=203.0.113.9 PORT=[UNAVAILABLE] PROTO=ESMTP")
        assert status(reply) == (250, "2.0.0")
        # A second one adds to the first.
        assert (await client.command("XFORWARD HELO=helo.example IDENT=4F2A SOURCE=LOCAL NAME=b.example")).code == 250
        assert (await client.send_message("a@example.org", ["b@example.com"], BODY)).code == 250
        session = client.session
        assert (session.remote_address, session.remote_port, session.client_hostname) == (PROXY, 4711, f"[{PROXY}]")
        assert session.xforward == {}
        assert (await client.send_message("a@example.org", ["b@example.com"], BODY)).code == 250
    forwarded = {
        "NAME": "b.example",
        "ADDR": "203.0.113.9",
        "PORT": None,
        "PROTO": "ESMTP",
        "HELO": "helo.example",
        "IDENT": "4F2A",
        "SOURCE": "LOCAL",
    }
    assert seen == [forwarded, forwarded, {}, {}]


async def test_xforward_is_all_or_nothing() -> None:
    app, _ = taking_app()
    async with front(app, **TRUST) as there:
        client = await greeted(await there.connect())
        for attributes in ("", "NAME=a.example ADDR=x", "HELO=a+20b", "LOGIN=x"):
            assert status(await client.command(f"XFORWARD {attributes}")) == (501, "5.5.4")
        assert client.session.xforward == {}


@pytest.mark.parametrize("command", ["RSET", "EHLO x"])
async def test_xforward_is_forgotten_with_the_transaction(command: str) -> None:
    app, _ = taking_app()
    async with front(app, **TRUST) as there:
        client = await there.connect()
        await client.read_reply()
        assert (await client.command("XFORWARD NAME=a.example")).code == 250  # before EHLO
        assert client.session.xforward == {"NAME": "a.example"}
        await client.command(command)
        assert client.session.xforward == {}


async def test_a_refused_sender_leaves_it() -> None:
    app, _ = taking_app()
    async with front(app, max_message_size=10, **TRUST) as there:
        client = await greeted(await there.connect())
        await client.command("XFORWARD NAME=a.example")
        assert (await client.command("MAIL FROM:<a@example.org> SIZE=11")).code == 552
        assert client.session.xforward == {"NAME": "a.example"}
        await start_transaction(client)
        assert client.session.xforward == {}  # its EHLO forgot it
