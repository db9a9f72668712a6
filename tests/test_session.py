"""Session and Envelope as handlers see them in the course of a connection; transmission types; the Received field."""

from __future__ import annotations

import itertools
import re
import ssl
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime
from typing import Literal

import pytest
import trio
import trio.testing

from trio_smtp import App, AuthContext, Envelope, MailFromContext, Session, SMTPServer, TLSInfo
from trio_smtp.app.received import received_header
from trio_smtp.protocol.addresses import Address
from trio_smtp.testing import Client, open_client

from .support import LARGE, mail_app, send, start_transaction, status

TLS = TLSInfo("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLSv1.2", 128, b"cert")


# --- transmission types: IANA's registry of mail transmission types ---

TYPES = {
    # opening command, SMTPUTF8 -> the keyword without TLS and AUTH, with TLS, with AUTH, with both
    ("HELO", False): ("SMTP", "SMTP", "SMTP", "SMTP"),
    ("EHLO", False): ("ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"),
    ("LHLO", False): ("LMTP", "LMTPS", "LMTPA", "LMTPSA"),
    ("EHLO", True): ("UTF8SMTP", "UTF8SMTPS", "UTF8SMTPA", "UTF8SMTPSA"),
    ("LHLO", True): ("UTF8LMTP", "UTF8LMTPS", "UTF8LMTPA", "UTF8LMTPSA"),
    (None, False): ("SMTP", "SMTP", "SMTP", "SMTP"),
}


@pytest.mark.parametrize(("opening", "utf8"), TYPES)
def test_the_transmission_type_is_a_keyword_of_the_registry(
    opening: Literal["HELO", "EHLO", "LHLO"] | None, utf8: bool
) -> None:
    for expected, (authenticated, secure) in zip(
        TYPES[opening, utf8], itertools.product((False, True), repeat=2), strict=True
    ):
        session = Session(
            opening_command=opening,
            lmtp=opening == "LHLO",
            secure=secure,
            authenticated=authenticated,
            envelope=Envelope(smtp_utf8=utf8),
        )
        assert session.transmission_type == expected


# --- a session from connect to close ---


def test_ids_are_32_random_characters() -> None:
    ids = {Session().id for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"[0-9a-z]{32}", each) for each in ids)


async def test_a_session_before_anything_was_said() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        session = client.session
        assert client.server.sessions == [session]
        assert (session.remote_address, session.remote_port) == (None, None)
        assert (session.local_address, session.local_port) == (None, None)
        assert session.original_peer == (None, None)
        assert session.client_hostname == "unknown"
        assert not session.client_hostname_verified
        assert (session.opening_command, session.host_name_appears_as) == (None, None)
        assert not session.secure
        assert (session.tls_options, session.tls, session.servername) == (None, None, None)
        assert (session.user, session.authenticated, session.auth_mechanism) == (None, False, None)
        assert session.transaction == 0
        assert session.envelope.mail_from is None
        assert session.envelope.rcpt_to == []
        assert (session.xclient, session.xforward, session.proxy) == ({}, {}, None)
        assert session.error is None
        assert session.data == {}
    assert client.server.sessions == []


@pytest.mark.parametrize("verb", ["HELO", "EHLO"])
async def test_what_hello_said(verb: str) -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.command(f"{verb.lower()} [192.0.2.1]")
        assert client.session.opening_command == verb
        assert client.session.host_name_appears_as == "[192.0.2.1]"


async def test_the_envelope_holds_what_mail_and_rcpt_said() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<José@Example.ORG> SIZE=12 BODY=8BITMIME SMTPUTF8")
        await client.command("RCPT TO:<Bob@xn--mller-kva.example>")
        envelope = client.session.envelope
        assert envelope.mail_from is not None
        assert envelope.mail_from.address == "José@Example.ORG"
        assert (envelope.mail_from.local_part, envelope.mail_from.domain) == ("José", "example.org")
        assert dict(envelope.mail_from.args) == {"SIZE": "12", "BODY": "8BITMIME", "SMTPUTF8": True}
        assert (envelope.size, envelope.body_type, envelope.smtp_utf8) == (12, "8BITMIME", True)
        assert (envelope.require_tls, envelope.dsn, envelope.auth) == (False, None, None)
        assert envelope.rcpt_to[0].address == "Bob@xn--mller-kva.example"
        assert envelope.rcpt_to[0].domain == "müller.example"


@pytest.mark.parametrize("ending", ["RSET", "EHLO again.example", "HELO again.example"])
async def test_the_envelope_is_replaced_never_cleared(ending: str) -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await start_transaction(client, "b@example.com", "c@example.com")
        kept = client.session.envelope
        assert (await client.command(ending)).code == 250
        assert client.session.envelope is not kept
        assert client.session.envelope.mail_from is None
        assert len(kept.rcpt_to) == 2
        assert client.session.transaction == 0


@pytest.mark.parametrize("data", [b"small\r\n", LARGE], ids=["inline", "streamed"])
async def test_transactions_are_counted_when_they_are_finished(data: bytes) -> None:
    app, _ = mail_app()
    async with open_client(app, max_message_size=200_000) as client:
        await client.ehlo()
        for done in (1, 2):
            kept = client.session.envelope
            assert (await send(client, data)).code == 250
            assert client.session.transaction == done
            assert client.session.envelope is not kept
        await send(client, LARGE * 2)
        assert client.session.transaction == 3  # refused, and finished all the same


async def test_the_last_error_is_remembered() -> None:
    app, _ = mail_app()
    async with open_client(app) as client:
        await client.ehlo()
        await client.command("FROB")
        assert client.session.error == "500 5.5.1 Command not recognized"
        await client.command("NOOP")
        assert client.session.error == "500 5.5.1 Command not recognized"
        await client.command("RCPT TO:<b@example.com>")
        assert client.session.error == "503 5.5.1 Need MAIL before RCPT"


async def test_after_tls_the_same_session_object_begins_anew(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, taken = mail_app()

    @app.on_auth
    async def let_in(ctx: AuthContext) -> None:
        ctx.accept("alice")

    async with open_client(app, ssl_context=server_ssl_context, allow_insecure_auth=True) as client:
        session = client.session
        await client.ehlo()
        await client.auth_plain("alice", "secret")
        session.data["kept"] = True
        assert session.authenticated
        assert (await client.starttls(client_ssl_context, "localhost")).code == 220
        await trio.testing.wait_all_tasks_blocked()
        assert client.server.sessions == [session]
        assert (session.opening_command, session.host_name_appears_as) == (None, None)
        assert (session.user, session.authenticated, session.auth_mechanism) == (None, False, None)
        assert session.data == {"kept": True}
        assert session.secure
        assert session.servername == "localhost"
        tls = session.tls_options
        assert tls is not None
        assert session.tls is tls
        assert (tls.version, tls.name, tls.peer_certificate) == ("TLSv1.3", tls.standard_name, None)
        assert tls.bits >= 128
        assert status(await client.command("MAIL FROM:<a@example.org>")) == (503, None)
        await client.ehlo()
        assert (await send(client)).code == 250
    assert len(taken) == 1


async def test_a_stream_that_is_encrypted_already_is_secure_from_the_start(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = mail_app()
    ours, theirs = trio.testing.memory_stream_pair()
    server = SMTPServer(app)
    client = Client(trio.SSLStream(ours, client_ssl_context, server_hostname="localhost", https_compatible=True))
    async with trio.open_nursery() as nursery:
        encrypted = trio.SSLStream(theirs, server_ssl_context, server_side=True, https_compatible=True)
        session = await nursery.start(server.serve_stream, encrypted)
        assert (await client.read_reply()).code == 220
        assert session.secure
        assert (await client.quit()).code == 221
        await client.aclose()


# --- the Received field: RFC 5321 section 4.4 ---


def address(text: str) -> Address:
    local_part, _, domain = text.partition("@")
    return Address(text, local_part, domain)


def field(session: Session, *recipients: str, utf8: bool = False) -> str:
    envelope = session.envelope
    envelope.rcpt_to.extend(map(address, recipients))
    envelope.smtp_utf8 = utf8
    return received_header(session, envelope, "mx.example.com").decode()


def clauses(text: str) -> list[str]:
    assert text.endswith("\r\n")
    return text.removesuffix("\r\n").split("\r\n\t")


def a_session() -> Session:
    return Session(
        id="0123456789abcdef0123456789abcdef",
        remote_address="192.0.2.1",
        client_hostname="[192.0.2.1]",
        host_name_appears_as="client.example",
        opening_command="EHLO",
    )


def test_the_received_field_is_folded_and_parses() -> None:
    text = field(a_session(), "b@example.com")
    lines = clauses(text)
    assert lines[:3] == [
        "Received: from client.example ([192.0.2.1])",
        "by mx.example.com with ESMTP id 0123456789abcdef0123456789abcdef-1",
        "for <b@example.com>;",
    ]
    assert parsedate_to_datetime(lines[3]).tzinfo is not None
    assert len(lines) == 4
    message = message_from_bytes(text.encode() + b"\r\n", policy=policy.SMTP)
    assert message.defects == []
    assert message["Received"].count("\n") == 0


def test_each_transaction_has_an_id_of_its_own() -> None:
    session = a_session()
    session.transaction = 4
    assert "id 0123456789abcdef0123456789abcdef-5" in field(session)


def test_recipients_are_not_told_of_each_other() -> None:
    assert " for " not in field(a_session(), "b@example.com", "c@example.com").replace("\t", " ")
    assert " for " not in field(a_session()).replace("\t", " ")


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ("b@example.com\r\nBcc: c", "b@example.com??Bcc: c"),
        ("b\n\t@example.com", "b??@example.com"),
        ("b\0\x1b\x7f@example.com", "b???@example.com"),
        ("b\x85\u2028\u2029\ud800@example.com", "b????@example.com"),
    ],
)
def test_an_address_that_a_handler_made_ends_no_line(made: str, shown: str) -> None:
    lines = clauses(field(a_session(), made, utf8=True))
    assert lines[2] == f"for <{shown}>;"
    assert len(lines) == 4


def test_a_non_ascii_recipient_is_named_only_where_utf8_was_asked_for() -> None:
    assert "for <" not in field(a_session(), "josé@example.com")
    assert "for <josé@example.com>" in field(a_session(), "josé@example.com", utf8=True)


def test_the_tls_clause() -> None:
    session = a_session()
    session.secure, session.tls_options = True, TLS
    lines = clauses(field(session, "b@example.com"))
    assert lines[1].startswith("by mx.example.com with ESMTPS id ")
    assert lines[2:4] == ["for <b@example.com>", "tls TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;"]


@pytest.mark.parametrize(
    ("address", "name", "shown"),
    [
        ("192.0.2.1", "[192.0.2.1]", "([192.0.2.1])"),
        ("2001:db8::1", "[2001:db8::1]", "([IPv6:2001:db8::1])"),
        ("192.0.2.1", "mail.example.org", "(mail.example.org [192.0.2.1])"),
        ("2001:db8::1", "mail.example.org", "(mail.example.org [IPv6:2001:db8::1])"),
        (None, "unknown", "(unknown)"),
        ("192.0.2.1", "evil)\r\nX: y", "(evil???X:?y [192.0.2.1])"),
    ],
)
def test_the_peer_is_shown_as_the_connection_knows_it(address: str | None, name: str, shown: str) -> None:
    session = a_session()
    session.remote_address, session.client_hostname = address, name
    assert clauses(field(session))[0] == f"Received: from client.example {shown}"


@pytest.mark.parametrize(
    ("helo", "shown"),
    [
        ("client.example", "client.example"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("(comment", "?comment"),
        ("a;b\\c\"d<e>", "a?b?c?d?e?"),
        (None, "unknown"),
    ],
)  # fmt: skip
def test_a_helo_name_can_neither_open_a_comment_nor_end_the_clause(helo: str | None, shown: str) -> None:
    session = a_session()
    session.host_name_appears_as = helo
    assert clauses(field(session))[0] == f"Received: from {shown} ([192.0.2.1])"


def test_certificates_are_not_in_the_repr() -> None:
    assert "cert" not in repr(TLS)
    assert "TLSv1.2" in repr(TLS)


async def test_two_sessions_share_nothing() -> None:
    app = App()
    async with open_client(app) as one, open_client(app) as two:
        await one.ehlo("one.example")
        assert two.session.host_name_appears_as is None
        assert one.session is not two.session
        assert one.session.data is not two.session.data
        assert one.session.id != two.session.id


async def test_the_last_error_is_as_it_was_sent() -> None:
    app, _ = mail_app()

    @app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        ctx.reject("Not you", 550)

    async with open_client(app) as client:
        await client.command("MAIL FROM:<a@example.org>")
        assert client.session.error == "503 Send HELO or EHLO first"
        await client.ehlo()
        reply = await client.command("MAIL FROM:<a@example.org>")
        assert (reply.enhanced, client.session.error) == ("5.7.1", "550 5.7.1 Not you")
        await client.command("HELO x")
        await client.command("MAIL FROM:<a@example.org>")
        assert client.session.error == "550 Not you"
