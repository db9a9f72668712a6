"""What a test reads of a captured message, and the criteria that messages are chosen by."""

from __future__ import annotations

import re
from email.message import EmailMessage
from typing import Any

import pytest

from trio_smtp.testing import Attachment, CapturedEnvelope, CapturedMessage, CapturedSession
from trio_smtp.testing.captured import Headers
from trio_smtp.testing.matching import Criteria, check, matching, missed, nothing_came, shown, unwanted


def captured(
    raw: bytes | EmailMessage = b"", sender: str = "ann@example.com", recipients: list[str] | None = None
) -> CapturedMessage:
    octets = raw if isinstance(raw, bytes) else raw.as_bytes()
    envelope = CapturedEnvelope(sender=sender, recipients=["bob@example.com"] if recipients is None else recipients)
    return CapturedMessage(octets, envelope, CapturedSession("1", ("127.0.0.1", 4711)))


def full() -> CapturedMessage:
    message = EmailMessage()
    message["Subject"] = "Welcome to Köln"
    message["From"] = "Ann <ann@example.com>"
    message["To"] = "Bob <bob@example.com>"
    message["Cc"] = "carol@example.com"
    message["X-Tag"] = "one"
    message["X-Tag"] = "two"
    message.set_content("Hello Bob, https://example.com/confirm?c=1.\n")
    message.add_alternative("<p>Your code is <b>4711</b></p><a href='https://example.com/x'>x</a>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="report.pdf")
    return captured(message, recipients=["bob@example.com", "CAROL@example.com", "dave@example.com"])


def test_everything_of_a_message() -> None:
    mail = full()
    assert mail.subject == "Welcome to Köln"
    assert mail.from_ == "ann@example.com"
    assert (mail.to, mail.cc, mail.bcc) == (["bob@example.com"], ["carol@example.com"], ["dave@example.com"])
    assert mail.text.startswith("Hello Bob")
    assert "<b>4711</b>" in mail.html
    assert mail.attachments == {"report.pdf": Attachment("report.pdf", "application/pdf", b"%PDF")}
    assert mail.links() == ["https://example.com/confirm?c=1", "https://example.com/x"]
    assert mail.code() == "4711"
    assert mail.code(r"c=(\d)") == "1"
    assert mail.code(re.compile("K.ln")) == "Köln"
    assert mail.message["X-Tag"] == "one"
    assert mail.message is mail.message
    assert mail.transcript == ""
    assert repr(mail) == (
        "<CapturedMessage 'Welcome to Köln' from 'ann@example.com' to "
        "['bob@example.com', 'CAROL@example.com', 'dave@example.com']>"
    )


def test_an_empty_message_has_nothing() -> None:
    mail = captured(b"")
    assert (mail.subject, mail.from_, mail.to, mail.cc, mail.text, mail.html) == ("", "", [], [], "", "")
    assert (mail.attachments, mail.links(), dict(mail.headers), mail.bcc) == ({}, [], {}, ["bob@example.com"])


def test_no_code_is_an_error_that_shows_the_text() -> None:
    with pytest.raises(AssertionError, match=r"no code like .* in the message: Hello \| Hi$"):
        captured(b"Subject: Hi\r\n\r\nHello\r\n").code()
    with pytest.raises(AssertionError, match=r"no code like .x. in the message: \(it has no text\)"):
        captured(b"").code(re.compile("x"))


def test_headers_by_name_in_any_case() -> None:
    headers = full().headers
    assert headers["SUBJECT"] == "Welcome to Köln"
    assert headers["x-tag"] == "one"
    assert headers.get_all("X-TAG") == ["one", "two"]
    assert "x-tag" in headers
    assert "x-nothing" not in headers
    assert 1 not in headers  # type: ignore[comparison-overlap]
    assert [*headers][:2] == ["Subject", "From"]
    assert len(headers) == len(list(headers))
    assert repr(Headers([("A", "b")])) == "Headers([('A', 'b')])"
    with pytest.raises(KeyError):
        headers["x-nothing"]


def test_a_session_says_what_it_is() -> None:
    session = CapturedSession("1", None)
    session.note(["C: EHLO x"], helo="x", user="bob")
    assert repr(session) == "<CapturedSession peer=None helo='x' user='bob' ended=None>"
    assert session.transcript == "C: EHLO x\n"


@pytest.mark.parametrize(
    ("criteria", "names"),
    [
        pytest.param({}, [], id="none"),
        pytest.param({"to": "bob@example.com"}, [], id="to"),
        pytest.param({"to": "D*@EXAMPLE.???"}, [], id="to, a glob"),
        pytest.param({"to": "bob"}, ["to"], id="to, not whole"),
        pytest.param({"to": re.compile("^dave")}, [], id="to, a pattern"),
        pytest.param({"to": lambda address: address == "nobody"}, ["to"], id="to, a function"),
        pytest.param({"sender": "ann@*"}, [], id="sender"),
        pytest.param({"sender": ""}, ["sender"], id="the null sender"),
        pytest.param({"subject": "Welcome to Köln"}, [], id="subject"),
        pytest.param({"subject": "Welcome"}, ["subject"], id="subject, not whole"),
        pytest.param({"subject": re.compile("Welcome")}, [], id="subject, a pattern"),
        pytest.param({"text": "Bob"}, [], id="text"),
        pytest.param({"text": "Carol", "sender": "x"}, ["text", "sender"], id="two that are missed"),
        pytest.param({"header": {"x-tag": "two", "Subject": re.compile("ö")}}, [], id="header"),
        pytest.param({"header": {"X-Tag": "three"}}, ["header"], id="header, another text"),
        pytest.param({"header": {"X-Nothing": re.compile("")}}, ["header"], id="header, not there"),
        pytest.param({"attachment": "*.PDF"}, [], id="attachment"),
        pytest.param({"attachment": re.compile("txt")}, ["attachment"], id="attachment, a pattern"),
        pytest.param({"attachment": lambda each: each.content == b"%PDF"}, [], id="attachment, a function"),
    ],
)
def test_criteria(criteria: Criteria, names: list[str]) -> None:
    mail = full()
    check(criteria)
    assert missed(mail, criteria) == names
    assert matching([mail], criteria) is (None if names else mail)


def test_the_text_of_html_counts_where_there_is_no_other() -> None:
    mail = captured(b"Content-Type: text/html\r\n\r\n<p>Hello <b>Bob</b></p>\r\n")
    assert missed(mail, {"text": "Bob"}) == []
    assert missed(mail, {"text": "<b>"}) == ["text"]


@pytest.mark.parametrize(
    "criteria",
    [{"subjekt": "x"}, {"subject": 5}, {"to": None}, {"header": "X-Tag"}, {"header": {"X-Tag": 5}}, {"attachment": 5}],
)
def test_what_is_no_criterion(criteria: Any) -> None:
    with pytest.raises(TypeError):
        check(criteria)


def test_the_error_lists_what_came_and_what_each_missed() -> None:
    messages = [
        captured(b"Subject: Hi\r\n\r\n"),
        captured(b"Subject: Welcome\r\n\r\n", sender="", recipients=[f"{n}@example.com" for n in range(5)]),
        full(),
    ]
    criteria: Criteria = {"to": "bob@*", "subject": "Welcome"}
    assert nothing_came(criteria, 5, messages, []).splitlines() == [
        "no message (to='bob@*', subject='Welcome') came within 5 s; 3 came:",
        "  1. 'Hi' from <ann@example.com> to bob@example.com: not the subject",
        "  2. 'Welcome' from <> to 0@example.com, 1@example.com, 2@example.com and 2 more: not the to",
        (
            "  3. 'Welcome to Köln' from <ann@example.com> to bob@example.com, CAROL@example.com, dave@example.com,"
            " with report.pdf: not the subject"
        ),
    ]
    assert nothing_came(criteria, 0.5, messages[:1] * 25, []).splitlines()[-1] == "  and 5 more"
    assert "one came:" in nothing_came(criteria, 0.5, messages[:1], [])
    assert unwanted({}, messages[0]) == ("a message came: 'Hi' from <ann@example.com> to bob@example.com")
    assert shown({}) == ""


def test_the_error_says_how_far_clients_got() -> None:
    assert nothing_came({}, 1, [], []).splitlines()[1:] == ["  and no client has connected"]
    first, second = CapturedSession("1", ("127.0.0.1", 4711)), CapturedSession("2", None)
    first.note([], ended="quit", last_error="550 No such user")
    assert nothing_came({}, 1, [], [first, second]).splitlines() == [
        "no message came within 1 s; none came",
        "  a client from 127.0.0.1:4711: the connection has ended (quit), the last refusal was '550 No such user'",
        "  a client from memory: the connection is open",
    ]
