"""Messages, however odd: read in bounded time, and never with an error."""

from __future__ import annotations

import base64
import time
from email.message import Message
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.inbox.reading import _parameter, clean_tag, headline_of, read_mail
from trio_smtp.inbox.store import Mailbox
from trio_smtp.inbox.texts import links_of
from trio_smtp.reading import mailboxes_in

from .support import mail


def test_ten_thousand_recipients_and_no_more() -> None:
    text = ", ".join(f"user{number}@example.com" for number in range(12_000))
    assert len(mailboxes_in(text)) == 10_000
    row = headline_of(read_mail(mail(To=text)))
    assert len(row.to) == 10_000


def test_octets_that_are_not_ascii() -> None:
    assert read_mail("Subject: Grüße\r\n\r\n".encode()).field("subject") == "Grüße"
    assert read_mail(b"Subject: Gr\xfc\xdfe\r\n\r\n").field("subject") == "Grüße"


def test_folding_is_undone() -> None:
    assert read_mail(b"Subject: a\r\n b\r\n\tc\r\n\r\n").field("subject") == "a b c"


@pytest.mark.parametrize(
    ("header", "body", "text"),
    [
        ("Content-Type: text/plain; charset=utf-8", "Grüße".encode(), "Grüße"),
        ("Content-Type: text/plain; charset=latin-1", b"Gr\xfc\xdfe", "Grüße"),
        ("Content-Type: text/plain; charset=nothing", b"Gr\xfc\xdfe", "Grüße"),
        ("Content-Type: text/plain; charset=punycode", b"hello-", "hello-"),
        ("Content-Type: text/plain; charset=base64", b"aGk=", "aGk="),
        ('Content-Type: text/plain; charset="\0"', b"x", "x"),
        ("Content-Type: text/plain; charset=utf-8", b"\xff", "ÿ"),
        ("Content-Type: text/plain", "🎉 \u202eRTL".encode(), "🎉 \u202eRTL"),
        ("Content-Transfer-Encoding: base64", b"aGVs\r\nbG8", "hello"),
        ("Content-Transfer-Encoding: base64", b"!!!", ""),
        ("Content-Transfer-Encoding: nothing", b"a", "a"),
        ("Content-Transfer-Encoding: quoted-printable", b"a=3Db=", "a=b"),
        ("X: y", b"a\0b", "a\0b"),
    ],
)
def test_texts(header: str, body: bytes, text: str) -> None:
    assert read_mail(header.encode("utf-8") + b"\r\n\r\n" + body).text == text


def test_what_is_no_message_is_text() -> None:
    assert read_mail(b"").text == ""
    assert read_mail(b"no header here\r\nat all").text == "no header here\nat all"


def test_nested_too_deeply_is_shown_raw() -> None:
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(900))
    assert read_mail(deep).text.startswith("Content-Type: multipart/mixed; boundary=b0\n")
    flat = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 1500
    assert len(read_mail(flat).parts) == 1000
    many = b"boundary " * 3000
    assert read_mail(many).text == many.decode()
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(50))
    assert max(part.depth for part in read_mail(nested + b"\r\nx").parts) == 50


def test_an_attached_message_is_one_part() -> None:
    octets = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nOuter\r\n"
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: Inner\r\n\r\nInner text\r\n--b--\r\n"
    )
    found = read_mail(octets)
    assert found.text == "Outer"
    (attached,) = found.attachments
    assert attached.content == b"Subject: Inner\n\nInner text"


def test_names_of_parts_are_no_paths() -> None:
    def name(header: str) -> str:
        return read_mail(f"Content-Disposition: attachment; {header}\r\n\r\nx".encode()).parts[0].filename

    assert name('filename="../../etc/passwd"') == "passwd"
    assert name('filename="C:\\\\temp\\\\a.txt"') == "a.txt"
    assert name("filename*=utf-8''%e2%82%ac%2F..%0d%0a.pdf") == "pdf"
    assert name("filename*=nothing''%ff") == "ÿ"
    assert name("filename==?utf-8?q?=C3=A9.txt?=") in ("é.txt", "=?utf-8?q?=C3=A9.txt?=")
    assert name('filename="' + "a" * 300 + '"') == "a" * 255
    assert name('filename=".."') == ""


def test_kinds_of_parts() -> None:
    def kind(*headers: str) -> str:
        return read_mail("\r\n".join(headers).encode() + b"\r\n\r\nx").parts[0].kind

    assert kind("Content-Type: text/plain") == "text"
    assert kind("Content-Type: text/html") == "html"
    assert kind("Content-Type: text/plain", "Content-Disposition: attachment") == "attachment"
    assert kind("Content-Type: text/plain; name=a.txt") == "attachment"
    assert kind("Content-Type: text/plain; name=a.txt", "Content-Disposition: inline") == "inline"
    assert kind("Content-Type: image/png", "Content-ID: <a>") == "inline"
    assert kind("Content-Type: image/png", "Content-ID: <a>", "Content-Disposition: attachment") == "attachment"
    assert kind("Content-Type: image/png", "Content-Disposition: unheard-of") == "attachment"
    assert kind("Content-Type: <script>/x") in ("text", "attachment")


@pytest.mark.parametrize(
    ("date", "shown"),
    [
        ("Sun, 31 May 2026 18:30:00 +0200", "2026-05-31T18:30:00+02:00"),
        ("Sun, 31 May 2026 18:30:00 -0000", "2026-05-31T18:30:00+00:00"),
        ("yesterday", None),
        ("", None),
        ("Sun, 99 May 2026 18:30:00 +0200", None),
        ("Sun, 31 May 2026 18:30:00 +999999999", None),
    ],
)
def test_dates(date: str, shown: str | None) -> None:
    found = read_mail(f"Date: {date}\r\n\r\n".encode()).date
    assert (found.isoformat() if found is not None else None) == shown


def test_senders() -> None:
    assert read_mail(b"From: Bob\r\n\r\n").sender == Mailbox("Bob", "")
    assert read_mail(b"From: Bob <b@c>, d@e\r\n\r\n").sender == Mailbox("Bob", "b@c")
    assert read_mail(b"\r\n").sender is None


def test_tags() -> None:
    row = headline_of(read_mail(mail(To="bob+b+c@x", X_Tags="one, two!, ,<>")), ("eve+d@x",), "joe@x")
    assert row.tags == ("one", "two", "joe@x", "b", "c", "d")
    assert clean_tag("  a   b\n") == "a b"


def test_the_snippet_of_html() -> None:
    octets = b"Content-Type: text/html\r\n\r\n<style>p {}</style><p>One</p><p>T<b>w</b>o &amp; 3" + b" x" * 5000
    assert headline_of(read_mail(octets)).snippet.startswith("One Two & 3 x x")
    assert len(headline_of(read_mail(octets)).snippet) == 250


def test_links() -> None:
    source = '<a href="https://a.example/?x=1&amp;y=2">x</a><img src=\'http://b.example/\'><a href="javascript:x">'
    assert links_of("see https://c.example/x). https://c.example/x", source) == [
        "https://a.example/?x=1&y=2",
        "http://b.example/",
        "https://c.example/x",
    ]


def test_parts_that_the_package_email_cannot_decode() -> None:
    class Broken(Message):
        def get_payload(self, i: Any = None, decode: bool = False) -> Any:
            raise ZeroDivisionError

        def get_param(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

    (part,) = read_mail(b"\r\nx").parts
    assert attrs.evolve(part, message=Broken()).content == b""
    assert _parameter(Broken(), "filename", "content-disposition") == ""


HOSTILE = [
    b"From: " + b"<" * 300_000,
    b"To: " + b"(" * 300_000,
    b"To: " + b'"\\' * 150_000,
    b"To: " + b'"\\"' * 100_000,
    b"Subject: " + b"=?a?q?" * 50_000,
    b"To: " + b"a@b, " * 60_000,
    b"Content-Type: text/html\n\n" + b"<script" * 40_000,
    b"Content-Type: text/html\n\n" + b"<title>" * 40_000,
    b"Content-Type: text/html\n\n" + b"<!--" * 70_000,
    b"Content-Type: text/html\n\n" + b"href = '" * 40_000,
    b"Content-Type: text/plain" + b"; a*1*=x" * 40_000 + b"\n\nx",
    b"Content-Disposition: attachment" + b';"\\"' * 70_000 + b"\n\nx",
    b"X: y\n" * 60_000,
    b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n" * 70_000,
    b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\nContent-Type: multipart/mixed; boundary=a\n\n" * 900,
    b"begin 644 x\n" * 20_000,
    b"Content-Transfer-Encoding: quoted-printable\n\n" + b"=" * 300_000,
]


@pytest.mark.parametrize("octets", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_messages_take_no_longer_than_others(octets: bytes) -> None:
    began = time.process_time()
    found = read_mail(octets)
    headline_of(found)
    links_of(found.text, found.html)
    assert time.process_time() - began < 5


@given(st.binary(max_size=500))
@settings(deadline=None)
def test_any_octets_are_read(octets: bytes) -> None:
    everything(octets)


_LINE = st.sampled_from(
    [
        b"From: a@b",
        b"To: =?utf-8?b?4oKs?= <a@b>, ",
        b"Subject: \xff=?utf-8?q?=?=",
        b"Date: x",
        b'Content-Type: multipart/mixed; boundary="b"',
        b"Content-Type: message/rfc822",
        b"Content-Type: message/delivery-status",
        b"Content-Type: text/html; charset=utf-16",
        b"Content-Transfer-Encoding: base64",
        b"Content-Transfer-Encoding: uuencode",
        b"Content-Disposition: attachment; filename*0*=a; filename*1=b",
        b"Content-ID: <>",
        b"",
        b"--b",
        b"--b--",
        b"aGVsbG8=",
        b"begin 644 x",
        b" folded",
        b"\0",
    ]
)


@given(st.lists(_LINE, max_size=40))
@settings(deadline=None, max_examples=300)
def test_any_lines_are_read(lines: list[bytes]) -> None:
    everything(b"\r\n".join(lines))


def everything(octets: bytes) -> None:
    found = read_mail(octets)
    row = headline_of(found, ("a@b",), "joe")
    for text in (row.subject, row.text, row.snippet, found.text, found.html, *row.tags, *map(str, row.to)):
        text.encode()
    for part in found.parts:
        assert isinstance(part.content, bytes)
        part.filename.encode()
    assert base64.b64encode(b"".join(part.content for part in found.parts)) is not None
