"""MAIL and RCPT as they are sent, URLs, time limits, and what a message needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.message import EmailMessage, Message
from email.policy import SMTPUTF8
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp import Address
from trio_smtp.client import BareNewline, ExtensionMissing, Recipient, Timeouts
from trio_smtp.client.commands import Parameters, mail_command, path_of, rcpt_command, recipients_of, xtext
from trio_smtp.client.content import prepare
from trio_smtp.client.target import Target, parse_url
from trio_smtp.protocol.addresses import split_path
from trio_smtp.protocol.xtext import decode_xtext

ALL = dict.fromkeys(["SIZE", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS", "BINARYMIME", "CHUNKING"], "")


@pytest.mark.parametrize(
    ("sender", "fields", "offered", "line"),
    [
        ("", {}, {}, "MAIL FROM:<>"),
        ("a@example.org", {"size": 7}, {}, "MAIL FROM:<a@example.org>"),
        ("a@example.org", {"size": 7}, ALL, "MAIL FROM:<a@example.org> SIZE=7"),
        ("a@example.org", {"body": "7BIT"}, {}, "MAIL FROM:<a@example.org>"),
        ("a@example.org", {"body": "7BIT"}, ALL, "MAIL FROM:<a@example.org> BODY=7BIT"),
        ("a@example.org", {"body": "8BITMIME"}, ALL, "MAIL FROM:<a@example.org> BODY=8BITMIME"),
        ("a@example.org", {"body": "BINARYMIME"}, ALL, "MAIL FROM:<a@example.org> BODY=BINARYMIME"),
        ("é@example.org", {}, ALL, "MAIL FROM:<é@example.org> SMTPUTF8"),
        ("a@bücher.example", {}, {}, "MAIL FROM:<a@xn--bcher-kva.example>"),
        ("a@example.org", {"smtputf8": True}, ALL, "MAIL FROM:<a@example.org> SMTPUTF8"),
        ("a@example.org", {"ret": "HDRS", "envid": "a+b c"}, ALL, "MAIL FROM:<a@example.org> RET=HDRS ENVID=a+2Bb+20c"),
        ("a@example.org", {"requiretls": True}, ALL, "MAIL FROM:<a@example.org> REQUIRETLS"),
        (
            Address.parse("a@example.org"),
            {"others": {"BY": "5;R", "X": True, "Y": False}},
            {},
            "MAIL FROM:<a@example.org> BY=5;R X",
        ),
    ],
)
def test_mail(sender: str | Address, fields: dict[str, Any], offered: dict[str, str], line: str) -> None:
    assert mail_command(sender, Parameters(**fields), offered) == f"{line}\r\n".encode()


@pytest.mark.parametrize(
    ("sender", "fields", "lacking"),
    [
        ("a@example.org", {"body": "8BITMIME"}, "8BITMIME"),
        ("a@example.org", {"body": "BINARYMIME"}, "BINARYMIME"),
        ("a@example.org", {"body": "BINARYMIME"}, "CHUNKING"),
        ("é@example.org", {}, "SMTPUTF8"),
        ("a@example.org", {"smtputf8": True}, "SMTPUTF8"),
        ("a@example.org", {"envid": "a"}, "DSN"),
        ("a@example.org", {"ret": "FULL"}, "DSN"),
        ("a@example.org", {"requiretls": True}, "REQUIRETLS"),
    ],
)
def test_what_the_server_lacks_is_an_error(sender: str, fields: dict[str, Any], lacking: str) -> None:
    offered = {name: "" for name in ALL if name != lacking}
    with pytest.raises(ExtensionMissing, match=lacking) as caught:
        mail_command(sender, Parameters(**fields), offered)
    assert caught.value.extension == lacking


INJECTED = ["a@example.org\r\nRSET", "a@example.org> SIZE=1", "a@example.org\0", "<a@example.org>", "a b@c", "a@b\n"]


@pytest.mark.parametrize("address", [*INJECTED, "@", "a@", "a@[", "\ud800@example.org", "a@" + "ü" * 200])
def test_no_address_becomes_a_second_command(address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        path_of(address)
    with pytest.raises(ValueError, match="not an address"):
        rcpt_command(Recipient(address), ALL, smtputf8=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"envid": "a\r\nb"},
        {"envid": "x" * 101},
        {"ret": "ALL"},
        {"others": {"A\r\nB": True}},
        {"others": {"A": "b\r\nc"}},
        {"others": {"A": "b c"}},
    ],
)
def test_no_parameter_becomes_a_second_command(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        mail_command("a@example.org", Parameters(**fields), ALL)


@given(st.text(max_size=30))
def test_any_text_is_one_path_or_refused(text: str) -> None:
    try:
        line = rcpt_command(Recipient(text), ALL, smtputf8=True)
    except ValueError:
        return
    assert line.endswith(b"\r\n")
    assert not any(octet < 32 or octet == 127 for octet in line[:-2])
    found = split_path(line[8:-2].decode())
    assert found is not None
    assert found[1] == ""


@pytest.mark.parametrize(
    ("recipient", "line"),
    [
        (Recipient("b@example.com"), "RCPT TO:<b@example.com>"),
        (Recipient("bob"), "RCPT TO:<bob>"),
        (Recipient('"a b"@example.com'), 'RCPT TO:<"a b"@example.com>'),
        (Recipient("b@example.com", "NEVER"), "RCPT TO:<b@example.com> NOTIFY=NEVER"),
        (
            Recipient("b@example.com", ("success", "DELAY"), "x=y@example.com"),
            "RCPT TO:<b@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+3Dy@example.com",
        ),
        (
            Recipient("b@example.com", orcpt="é+\\@example.com"),
            "RCPT TO:<b@example.com> ORCPT=utf-8;\\x{E9}\\x{2B}\\x{5C}@example.com",
        ),
        (Recipient("b@example.com", orcpt=("x400", "C=de")), "RCPT TO:<b@example.com> ORCPT=x400;C+3Dde"),
    ],
)
def test_rcpt(recipient: Recipient, line: str) -> None:
    assert rcpt_command(recipient, ALL, smtputf8=False) == f"{line}\r\n".encode()


@pytest.mark.parametrize(
    "recipient",
    [
        Recipient(""),
        Recipient("b@example.com", ("NEVER", "DELAY")),
        Recipient("b@example.com", orcpt=("a b", "c")),
        Recipient("b@example.com", orcpt=("rfc822", "")),
        Recipient("b@example.com", orcpt=("rfc822", "a\r\nb")),
    ],
)
def test_what_rcpt_does_not_take(recipient: Recipient) -> None:
    with pytest.raises(ValueError, match=r".+"):
        rcpt_command(recipient, ALL, smtputf8=True)


def test_what_rcpt_needs() -> None:
    with pytest.raises(ExtensionMissing, match="SMTPUTF8"):
        rcpt_command(Recipient("é@example.com"), ALL, smtputf8=False)
    with pytest.raises(ExtensionMissing, match="DSN"):
        rcpt_command(Recipient("b@example.com", "NEVER"), {}, smtputf8=False)


def test_recipients() -> None:
    assert recipients_of("a@b") == (Recipient("a@b"),)
    assert recipients_of(Recipient("a@b", "NEVER")) == (Recipient("a@b", ("NEVER",)),)
    address = Address.parse("c@d.example")
    assert recipients_of([address, "a@b", "a@b"]) == (Recipient(address), Recipient("a@b"))
    with pytest.raises(ValueError, match="none"):
        recipients_of([])


@given(st.text())
def test_xtext_is_what_it_was(text: str) -> None:
    try:
        encoded = xtext(text)
    except UnicodeEncodeError:  # a surrogate has no UTF-8
        return
    assert decode_xtext(encoded) == text


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("smtp://mx.example", Target("smtp", "mx.example", 25)),
        ("smtp://mx.example:587/", Target("smtp", "mx.example", 587)),
        ("smtps://mx.example", Target("smtp", "mx.example", 465, implicit_tls=True)),
        ("lmtp://[::1]:2424", Target("lmtp", "::1", 2424)),
        ("lmtp://127.0.0.1", Target("lmtp", "127.0.0.1", 24)),
        ("lmtp+unix:///run/lm%20tp", Target("lmtp", "", 0, "/run/lm tp")),
        ("smtp+unix:///run/smtp", Target("smtp", "", 0, "/run/smtp")),
        ("smtp://a%40b:p%3Aw@mx", Target("smtp", "mx", 25, username="a@b", password="p:w")),
        ("smtp://a@mx:0", Target("smtp", "mx", 0, username="a")),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse_url(url) == target


def test_no_password_is_shown() -> None:
    assert "secret" not in repr(parse_url("smtp://a:secret@mx"))


@pytest.mark.parametrize(
    "url",
    [
        "mx.example",
        "http://mx.example",
        "smtp://",
        "smtp://u:secret@mx:port",
        "smtp://u:secret@mx/path",
        "smtp://u:secret@mx?q",
        "smtp://u:secret@mx#f",
        "smtp+unix://u:secret@mx/path",
        "lmtp+unix://",
        "smtps+unix:///path",
        "smtp+tcp://u:secret@mx",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="the URL of a server is") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, True, "5", float("inf")])
def test_time_limits_are_checked(value: Any) -> None:
    with pytest.raises(ValueError, match="mail must be a number of seconds above 0"):
        Timeouts(mail=value)


def test_octets_are_made_ready() -> None:
    found = prepare(b"Subject: a\n\nb\n", {}, newlines="crlf")
    assert (found.octets, found.size, found.eight_bit, found.utf8) == (b"Subject: a\r\n\r\nb\r\n", 17, False, False)
    assert prepare(bytearray(b"a\nb"), {}, newlines="keep").octets == b"a\nb"
    assert prepare(b"a\r\nb", {}, newlines="refuse").octets == b"a\r\nb"
    with pytest.raises(BareNewline):
        prepare(b"a\nb", {}, newlines="refuse")
    with pytest.raises(TypeError, match="not str"):
        prepare("a", {}, newlines="crlf")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "utf8"),
    [
        ("Subject: é\r\n\r\na".encode(), True),
        ("Subject: é\r\n\r\na".encode("latin-1"), False),
        ("Subject: a\r\n\r\né".encode(), False),
    ],
)
def test_octets_that_are_not_ascii(message: bytes, utf8: bool) -> None:
    found = prepare(message, {}, newlines="crlf")
    assert (found.eight_bit, found.utf8) == (True, utf8)


def mail(policy: Any = None) -> EmailMessage:
    message = EmailMessage(policy) if policy is not None else EmailMessage()
    message["Subject"] = "Grüße"
    message["Bcc"] = "hidden@example.com"
    message.set_content("é\n.\n", cte="8bit")
    return message


def test_a_message_of_the_package_email() -> None:
    message = mail()
    found = prepare(message, ALL, newlines="crlf")
    assert found.octets is not None
    assert b"hidden" not in found.octets
    assert message["Bcc"] == "hidden@example.com"
    assert "é\r\n.\r\n".encode() in found.octets
    assert (found.eight_bit, found.utf8) == (True, False)
    seven = prepare(message, {}, newlines="crlf")
    assert seven.eight_bit is False
    utf8 = prepare(message, ALL, newlines="crlf", utf8=True)
    assert utf8.utf8
    assert prepare(mail(SMTPUTF8), ALL, newlines="crlf").utf8
    assert not prepare(mail(SMTPUTF8), {}, newlines="crlf").utf8
    old = Message()
    old["Subject"] = "a"
    old.set_payload("b\n")
    assert prepare(old, {}, newlines="crlf").octets == b"Subject: a\r\n\r\nb\r\n"


def test_pieces_are_read_later() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"

    message = pieces()
    found = prepare(message, {}, newlines="crlf")
    assert (found.octets, found.chunks, found.size, found.eight_bit) == (None, message, None, None)
