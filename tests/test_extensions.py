"""What EHLO shows under which Config, the envelope's fields, and transmission types."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support import mail_app, start_transaction, status
from trio_smtp import (
    App,
    AuthContext,
    Config,
    DataContext,
    DeliverBy,
    DSNEnvelope,
    DSNRecipient,
    Envelope,
    Extension,
    MailFromContext,
    Session,
)
from trio_smtp.app.application import Phase
from trio_smtp.dialogue.capabilities import Capabilities
from trio_smtp.protocol.networks import trusts
from trio_smtp.testing import Client, open_client

PLAIN = ["PIPELINING", "SIZE 33554432", "8BITMIME", "CHUNKING", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
LIMITS = "LIMITS RCPTMAX=1000"


def lines_of(config: Config, session: Session | None = None, *, auth: bool = False) -> list[str]:
    return Capabilities(config, {Phase.AUTH} if auth else ()).ehlo_lines(session or Session())


def config(**changes: Any) -> Config:
    return Config(hostname="mx.example", **changes)


# --- EHLO's lines ---


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, [*PLAIN, LIMITS, "HELP"]),
        ({"max_message_size": None}, ["PIPELINING", "SIZE", *PLAIN[2:], LIMITS, "HELP"]),
        ({"max_message_size": 1000}, ["PIPELINING", "SIZE 1000", *PLAIN[2:], LIMITS, "HELP"]),
        ({"chunking": False}, [*PLAIN[:3], *PLAIN[4:], LIMITS, "HELP"]),
        ({"disabled_commands": {"BDAT"}}, [*PLAIN[:3], *PLAIN[4:], LIMITS, "HELP"]),
        ({"binarymime": True}, [*PLAIN[:4], "BINARYMIME", *PLAIN[4:], LIMITS, "HELP"]),
        ({"smtputf8": False}, [*PLAIN[:4], "ENHANCEDSTATUSCODES", LIMITS, "HELP"]),
        ({"dsn": True}, [*PLAIN, "DSN", LIMITS, "HELP"]),
        ({"requiretls": True}, [*PLAIN, LIMITS, "HELP"]),
        ({"max_recipients": 5}, [*PLAIN, "LIMITS RCPTMAX=5", "HELP"]),
        ({"max_transactions": 7}, [*PLAIN, "LIMITS RCPTMAX=1000 MAILMAX=7", "HELP"]),
        ({"deliver_by": 0}, [*PLAIN, LIMITS, "DELIVERBY", "HELP"]),
        ({"deliver_by": 240}, [*PLAIN, LIMITS, "DELIVERBY 240", "HELP"]),
        ({"mt_priority": True}, [*PLAIN, LIMITS, "MT-PRIORITY", "HELP"]),
        ({"mt_priority": "MIXER"}, [*PLAIN, LIMITS, "MT-PRIORITY MIXER", "HELP"]),
        ({"disabled_commands": {"HELP"}}, [*PLAIN, LIMITS]),
        ({"hide_extensions": {"size", "LIMITS", "HELP"}}, ["PIPELINING", *PLAIN[2:]]),
        ({"hide_extensions": {line.split()[0] for line in [*PLAIN, LIMITS, "HELP"]}}, []),
        ({"xclient": ["192.0.2.0/24"], "xforward": ["192.0.2.0/24"]}, [*PLAIN, LIMITS, "HELP"]),
        ({"auth_mechanisms": ["PLAIN"], "allow_insecure_auth": True}, [*PLAIN, LIMITS, "HELP"]),
    ],
)
def test_lines_of_a_plain_session(changes: dict[str, Any], lines: list[str]) -> None:
    assert lines_of(config(**changes)) == lines


def test_lines_for_trusted_peers() -> None:
    trusted = config(xclient=["192.0.2.0/24"], xforward=["192.0.2.9", "2001:db8::/32"])
    xclient = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT REVERSE_NAME"
    xforward = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
    for address, expected in (
        ("192.0.2.9", [xclient, xforward]),
        ("192.0.2.8", [xclient]),
        ("2001:db8::1", [xforward]),
        ("198.51.100.1", []),
        (None, []),
    ):
        lines = lines_of(trusted, Session(remote_address=address))
        assert [line for line in lines if line.startswith("X")] == expected


def test_lines_of_tls_and_auth(server_ssl_context: ssl.SSLContext) -> None:
    with_tls = config(ssl_context=server_ssl_context, requiretls=True)

    def shown(config: Config, session: Session, *, auth: bool = True) -> list[str]:
        return [line for line in lines_of(config, session, auth=auth) if re.match("STARTTLS|AUTH|REQUIRETLS", line)]

    assert shown(with_tls, Session()) == ["STARTTLS"]
    assert shown(with_tls, Session(secure=True)) == ["REQUIRETLS", "AUTH PLAIN LOGIN"]
    assert shown(with_tls, Session(secure=True), auth=False) == ["REQUIRETLS"]
    assert shown(with_tls, Session(secure=True, authenticated=True)) == ["REQUIRETLS"]
    assert shown(config(allow_insecure_auth=True), Session()) == ["AUTH PLAIN LOGIN"]
    assert shown(config(ssl_context=server_ssl_context, disabled_commands={"STARTTLS", "AUTH"}), Session()) == []


def test_future_release_says_how_long() -> None:
    (line,) = [line for line in lines_of(config(future_release=3600)) if line.startswith("FUTURERELEASE")]
    keyword, seconds, until = line.split()
    assert (keyword, seconds) == ("FUTURERELEASE", "3600")
    left = datetime.fromisoformat(until) - datetime.now(UTC)
    assert timedelta(seconds=3500) < left <= timedelta(seconds=3600)


@pytest.mark.parametrize(
    ("networks", "address", "trusted"),
    [
        ([], "192.0.2.1", False),
        (["192.0.2.0/24"], "192.0.2.1", True),
        (["192.0.2.0/24"], "192.0.3.1", False),
        (["192.0.2.0/24"], "2001:db8::1", False),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["0.0.0.0/0", "::/0"], None, False),
        (["0.0.0.0/0"], "203.0.113.9", True),
    ],
)
def test_trusts(networks: list[str], address: str | None, trusted: bool) -> None:
    assert trusts(config(xclient=networks).xclient, address) is trusted


# --- The envelope ---

EVERYTHING: dict[str, Any] = {"dsn": True, "deliver_by": 60, "mt_priority": True, "future_release": 3600}


async def envelope_of(parameters: str, **changes: Any) -> Envelope:
    app, _ = mail_app()
    async with open_client(app, **changes) as client:
        await client.ehlo()
        assert (await client.command(f"MAIL FROM:<a@example.org> {parameters}")).code == 250
        return client.session.envelope


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ("", {}),
        ("SIZE=1000", {"size": 1000}),
        ("BODY=7BIT", {"body_type": "7BIT"}),
        ("body=8bitmime", {"body_type": "8BITMIME"}),
        ("SMTPUTF8", {"smtp_utf8": True}),
        ("RET=FULL", {"dsn": DSNEnvelope("FULL")}),
        ("ENVID=x", {"dsn": DSNEnvelope(None, "x")}),
        ("RET=HDRS ENVID=x+20y", {"dsn": DSNEnvelope("HDRS", "x y")}),
        ("BY=120;RT", {"deliver_by": DeliverBy(120, "R", trace=True)}),
        ("MT-PRIORITY=-3", {"mt_priority": -3}),
        ("HOLDFOR=60", {"hold_for": 60}),
        ("HOLDUNTIL=2007-01-01T12:00:00Z", {"hold_until": datetime(2007, 1, 1, 12, tzinfo=UTC)}),
    ],
)
async def test_what_mail_says_is_in_the_envelope(parameters: str, fields: Mapping[str, object]) -> None:
    envelope = await envelope_of(parameters, **EVERYTHING)
    usual = Envelope()
    for name in ("size", "body_type", "smtp_utf8", "auth", "require_tls", "dsn", "deliver_by", "mt_priority"):
        assert getattr(envelope, name) == fields.get(name, getattr(usual, name)), name
    assert (envelope.hold_for, envelope.hold_until) == (fields.get("hold_for"), fields.get("hold_until"))
    assert set(envelope.values) == {word.partition("=")[0].upper() for word in parameters.split()}


async def test_what_rcpt_says_is_in_the_address() -> None:
    app, _ = mail_app()
    async with open_client(app, dsn=True) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@example.com")
        await client.command("RCPT TO:<c@example.com>")
        first, second = client.session.envelope.rcpt_to
        assert first.dsn == DSNRecipient(("SUCCESS", "DELAY"), ("rfc822", "b+x@example.com"))
        assert first.args == {"NOTIFY": "SUCCESS,DELAY", "ORCPT": "rfc822;b+2Bx@example.com"}
        assert second.dsn is None


async def test_hold_for_and_hold_until_exclude_each_other() -> None:
    app, _ = mail_app()
    async with open_client(app, future_release=3600) as client:
        await client.ehlo()
        reply = await client.command("MAIL FROM:<a@b.example> HOLDFOR=60 HOLDUNTIL=2007-01-01T12:00:00Z")
        assert status(reply) == (501, "5.5.4")
        assert (await client.command("MAIL FROM:<a@b.example>")).code == 250


async def test_limits_hold() -> None:
    app, _ = mail_app()
    async with open_client(app, max_recipients=2, max_transactions=2) as client:
        assert "LIMITS RCPTMAX=2 MAILMAX=2" in (await client.ehlo()).lines
        for _ in range(2):
            await start_transaction(client, "b@example.com", "c@example.com")
            assert status(await client.command("RCPT TO:<d@example.com>")) == (452, "4.5.3")
            await client.send_bytes(b"BDAT 0 LAST\r\n")
            assert (await client.read_reply()).code == 250
        assert status(await client.command("MAIL FROM:<a@example.org>")) == (421, "4.7.0")


async def test_requiretls_is_offered_only_inside_tls(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = mail_app()
    async with open_client(app, ssl_context=server_ssl_context, requiretls=True) as client:
        assert "REQUIRETLS" not in (await client.ehlo()).lines
        assert status(await client.command("MAIL FROM:<a@example.org> REQUIRETLS")) == (555, "5.5.4")
        await client.starttls(client_ssl_context, "mx.example.com")
        assert "REQUIRETLS" in (await client.ehlo()).lines
        assert status(await client.command("MAIL FROM:<a@example.org> REQUIRETLS=x")) == (501, "5.5.4")
        assert (await client.command("MAIL FROM:<a@example.org> REQUIRETLS")).code == 250
        assert client.session.envelope.require_tls


@pytest.mark.parametrize(
    "line",
    [
        "RCPT TO:<b\xfc@example.com>",
        "RCPT TO:<b@b\xfccher.example>",
        "RCPT TO:<b@example.com> ORCPT=utf-8;b\xfc@example.com",
    ],
)
async def test_smtputf8_must_be_asked_for(line: str) -> None:
    app, _ = mail_app()
    async with open_client(app, dsn=True) as client:
        await client.ehlo()
        assert status(await client.command("MAIL FROM:<\xfc@example.org>")) == (553, "5.6.7")
        await client.command("MAIL FROM:<a@example.org>")
        assert status(await client.command(line)) == (553, "5.6.7")
        await client.command("RSET")
        assert (await client.command("MAIL FROM:<\xfc@example.org> SMTPUTF8")).code == 250
        assert (await client.command(line)).code == 250
        assert client.session.transmission_type == "UTF8SMTP"


async def test_a_parameter_that_is_not_ascii_needs_smtputf8_too() -> None:
    app, _ = mail_app()
    app.extend(Extension(keyword="XNOTE", mail_parameters={"XNOTE": str}))
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await client.command("MAIL FROM:<a@example.org> XNOTE=\xfc")) == (553, "5.6.7")
        assert (await client.command("MAIL FROM:<a@example.org> XNOTE=\xfc SMTPUTF8")).code == 250
        assert client.session.envelope.values["XNOTE"] == "\xfc"


# --- Transmission types ---

#: IANA, "Mail Parameters", "Mail Transmission Types".
TYPES = [
    ("HELO", "SMTP"),
    ("EHLO", "ESMTP ESMTPA ESMTPS ESMTPSA"),
    ("LHLO", "LMTP LMTPA LMTPS LMTPSA"),
    ("EHLO utf8", "UTF8SMTP UTF8SMTPA UTF8SMTPS UTF8SMTPSA"),
    ("LHLO utf8", "UTF8LMTP UTF8LMTPA UTF8LMTPS UTF8LMTPSA"),
]


@pytest.mark.parametrize(("opening", "types"), TYPES)
def test_the_whole_table_of_transmission_types(opening: str, types: str) -> None:
    command, _, utf8 = opening.partition(" ")
    found = []
    for secure, authenticated in ((False, False), (False, True), (True, False), (True, True)):
        session = Session(
            lmtp=command == "LHLO",
            opening_command=command,  # type: ignore[arg-type]
            secure=secure,
            authenticated=authenticated,
            envelope=Envelope(smtp_utf8=bool(utf8)),
        )
        found.append(session.transmission_type)
    assert found == (types.split() if command != "HELO" else ["SMTP"] * 4)


def test_before_any_greeting_it_is_smtp() -> None:
    assert (Session().transmission_type, Session(lmtp=True).transmission_type) == ("SMTP", "LMTP")


async def test_transmission_types_on_the_wire(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = mail_app()
    seen: list[str] = []

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept()

    @app.on_mail_from
    async def note(ctx: MailFromContext) -> None:
        seen.append(ctx.session.transmission_type)

    async def say(client: Client, *parameters: str) -> None:
        for parameter in parameters:
            assert (await client.command(f"MAIL FROM:<a@example.org>{parameter}")).code == 250
            await client.command("RSET")

    async with open_client(app, ssl_context=server_ssl_context, allow_insecure_auth=True) as client:
        await client.command("HELO x")
        await say(client, "")
        await client.ehlo()
        await say(client, "", " SMTPUTF8")
        await client.auth_plain("u", "p")
        await say(client, "", " SMTPUTF8")
        await client.starttls(client_ssl_context, "mx.example.com")
        await client.ehlo()
        await say(client, "", " SMTPUTF8")
        await client.auth_plain("u", "p")
        await say(client, "", " SMTPUTF8")
    assert seen == ["SMTP", "ESMTP", "UTF8SMTP", "ESMTPA", "UTF8SMTPA", "ESMTPS", "UTF8SMTPS", "ESMTPSA", "UTF8SMTPSA"]


async def test_received_knows_the_transmission_type() -> None:
    app = App()
    headers: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        headers.append(ctx.received_header())

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org> SMTPUTF8")
        await client.command("RCPT TO:<b@example.com>")
        await client.send_bytes(b"BDAT 0 LAST\r\n")
        assert (await client.read_reply()).code == 250
    assert b" with UTF8SMTP id " in headers[0]


def _trusted(session: Session) -> bool:
    return session.remote_address == "192.0.2.1"


@pytest.mark.parametrize(
    ("changes", "extension"),
    [
        ({}, Extension(keyword="XTRUST", available=_trusted)),
        ({}, Extension(keyword="XTRUST", argument=lambda session: str(session.remote_address))),
        ({"xclient": ["192.0.2.1"]}, None),
        ({"xforward": ["192.0.2.1"]}, None),
    ],
)
def test_what_one_session_is_shown_is_not_what_another_is_shown(
    changes: dict[str, Any], extension: Extension | None
) -> None:
    offer = Capabilities(Config(**changes), extensions=[extension] if extension else [])
    trusted, stranger = (Session(remote_address=address) for address in ("192.0.2.1", "192.0.2.2"))
    first = offer.ehlo_lines(trusted)
    assert offer.ehlo_lines(stranger) != first
    assert offer.ehlo_lines(trusted) == first


def test_starttls_is_shown_before_tls_and_not_after_whoever_asked_first(server_ssl_context: ssl.SSLContext) -> None:
    for order in ((False, True, False), (True, False, True)):
        offer = Capabilities(Config(ssl_context=server_ssl_context))
        shown = ["STARTTLS" in offer.ehlo_lines(Session(secure=secure)) for secure in order]
        assert shown == [not secure for secure in order]


def test_what_a_handler_does_to_the_lines_of_one_reply_stays_in_it() -> None:
    offer = Capabilities(Config())
    offer.ehlo_lines(Session()).clear()
    assert "PIPELINING" in offer.ehlo_lines(Session())
