"""Reading mail as people see it: what is there is found, and nothing raises or takes long, however odd the mail."""

from __future__ import annotations

import email
import subprocess
import sys
import time
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import SMTP, compat32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trio_smtp
from trio_smtp.reading import (
    Attachment,
    attachments,
    code_in,
    decode_text,
    decode_words,
    field_addresses,
    fields,
    html_body,
    links,
    mailboxes_in,
    message_text,
    read_octets,
    text_body,
    text_of_html,
)

from .test_odd_mail import ODD, read_everything


def full_message() -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["Subject"] = "Grüße aus Köln"
    message["From"] = '"Ann, Head of Mail" <ann@example.com>'
    message["To"] = "bob@example.com, Carol Ⓒ <carol@example.com>"
    message.set_content("Hello Bob\n\nGrüße\n")
    message.add_alternative("<p>Hello <b>Bob</b></p>\n", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="report.pdf")
    message.add_attachment(b"%PDF2", maintype="application", subtype="pdf", filename="report.pdf")
    message.add_attachment("notes\n", filename="notes.txt")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", disposition="inline")
    return message


def test_a_message_with_everything() -> None:
    message = read_octets(full_message().as_bytes())
    assert message_text(message, "SUBJECT") == "Grüße aus Köln"
    assert field_addresses(message, "from") == ["ann@example.com"]
    assert field_addresses(message, "to") == ["bob@example.com", "carol@example.com"]
    assert text_body(message) == "Hello Bob\n\nGrüße\n"
    assert html_body(message) == "<p>Hello <b>Bob</b></p>\n"
    assert attachments(message) == [
        Attachment("report.pdf", "application/pdf", b"%PDF"),
        Attachment("report (2).pdf", "application/pdf", b"%PDF2"),
        Attachment("notes.txt", "text/plain", b"notes\r\n"),
        Attachment("part-6.png", "image/png", b"\x89PNG"),
    ]
    assert [each.content for each in attachments(message, limit=2)] == [b"%P", b"%P", b"no", b"\x89P"]
    assert repr(attachments(message)[0]) == "Attachment(name='report.pdf', content_type='application/pdf')"
    assert ("Subject", "Grüße aus Köln") in fields(message)


def test_what_is_not_there_is_empty() -> None:
    message = read_octets(b"")
    assert message_text(message, "Subject") == ""
    assert field_addresses(message, "To") == []
    assert (text_body(message), html_body(message), attachments(message), fields(message)) == ("", "", [], [])


def test_fields_that_are_not_as_they_should_be() -> None:
    message = read_octets(
        b"Subject: one\r\nSubject: two\r\nX-Raw: Gr\xc3\xbc\xc3\x9fe\r\nX-Latin: Gr\xfc\r\nX-Folded: a\r\n b\r\n"
        b"X-Bad: =?utf-8?q?=ff=fe?=\r\nTo: root\r\nTo: a@example.com\r\nCc: undisclosed-recipients:;\r\n"
        b"Bcc: <<x@example.com> y@example.com,, (((\r\n\r\n"
    )
    assert message_text(message, "Subject") == "one"
    assert message_text(message, "X-Raw") == "Grüße"
    assert message_text(message, "X-Latin") == "Grü"
    assert message_text(message, "X-Folded") == "a b"
    assert message_text(message, "X-Bad").encode()
    assert field_addresses(message, "To") == ["root", "a@example.com"]
    assert field_addresses(message, "Cc") == []
    assert "x@example.com" in field_addresses(message, "Bcc")


def test_a_long_list_of_addresses_is_read_to_its_end() -> None:
    people = [f"person.{number}@example.com" for number in range(1000)]
    message = read_octets(b"To: " + ",\r\n ".join(f"P {each[:9]} <{each}>" for each in people).encode() + b"\r\n\r\n")
    assert field_addresses(message, "to") == people
    odd = read_octets(b"To: " + b"(" * 20_000 + b" <bob@example.com>\r\n\r\n")
    assert field_addresses(odd, "to") == ["bob@example.com"]


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        pytest.param(b"\r\nplain\r\n", "plain\n", id="no field at all"),
        pytest.param(b"Content-Type: text/plain; charset=latin-1\r\n\r\ngr\xfcn\r\n", "grün\n", id="latin-1"),
        pytest.param(b"Content-Type: text/plain; charset=bogus\r\n\r\ngr\xc3\xbcn\r\n", "grün\n", id="unknown charset"),
        pytest.param(b"Content-Type: text/plain; charset=ascii\r\n\r\ngr\xc3\xbcn\r\n", "grün\n", id="more than ASCII"),
        pytest.param(b"Content-Type: text/plain; charset=utf-8\r\n\r\ngr\xfcn\r\n", "grün\n", id="not UTF-8"),
        pytest.param(b"Content-Type: multipart/mixed\r\n\r\nno parts\r\n", "no parts\n", id="no boundary"),
        pytest.param(b"Content-Type: multipart/mixed; boundary=x\r\n\r\nnone\r\n", "none\n", id="no parts"),
        pytest.param(
            b"Content-Transfer-Encoding: base64\r\n\r\n!!!aGk=\r\n", "hi", id="base64 with something in front of it"
        ),
        pytest.param(b"Content-Type: application/pdf\r\n\r\nx\r\n", "", id="no text"),
    ],
)
def test_texts_of_odd_messages(octets: bytes, text: str) -> None:
    message = read_octets(octets)
    assert text_body(message).replace("!!!", "") == text
    assert html_body(message) == ""


def test_parts_that_are_nested_too_deeply_are_the_text() -> None:
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(150))
    message = read_octets(b"Subject: deep\r\n" + nested + b"\r\nhere\r\n")
    assert message_text(message, "Subject") == "deep"
    assert "here" in text_body(message)
    assert attachments(message) == []
    made = EmailMessage()
    inner = made
    for _ in range(300):
        part = EmailMessage()
        inner.set_type("multipart/mixed")
        inner.set_payload([part])
        inner = part
    inner.set_content("too deep")
    assert text_body(made) == ""


def test_more_parts_than_anybody_looks_at() -> None:
    message = EmailMessage()
    message.set_type("multipart/mixed")
    message.set_payload([EmailMessage() for _ in range(12_000)])
    assert len(attachments(message)) < 10_000


def test_an_attached_message_is_one_attachment() -> None:
    message = EmailMessage(policy=SMTP)
    message.set_content("see below\n")
    message.add_attachment(full_message())
    (found,) = attachments(read_octets(message.as_bytes()))
    assert (found.name, found.content_type) == ("part-2.eml", "message/rfc822")
    assert email.message_from_bytes(found.content, policy=SMTP)["From"].addresses[0].username == "ann"
    empty = EmailMessage()
    empty.set_type("message/rfc822")
    empty.set_payload([])
    assert attachments(empty) == [Attachment("part-1.eml", "message/rfc822", b"")]


def test_messages_of_older_policies_are_read_too() -> None:
    message = email.message_from_bytes(full_message().as_bytes(), policy=compat32)
    assert message_text(message, "subject") == "Grüße aus Köln"
    assert text_body(message) == "Hello Bob\n\nGrüße\n"
    assert len(attachments(message)) == 4


def test_surrogates_that_stand_for_no_octets_are_replaced() -> None:
    message = Message()  # of the oldest policy, which checks nothing
    message["X-Odd"] = "a\ud800b"
    assert message_text(message, "X-Odd").encode() == b"a?b"


def test_links_of_text_and_html_in_order_and_once() -> None:
    text = "Go to https://example.com/a?b=c. Or (https://example.com/d(e)), then app://open/7 [http://x.example/]!"
    html = """<a href="https://example.com/a?b=c">x</a><A class=b HREF='https://example.com/f?g=1&amp;h=2'>y</A>
    <a href=mailto:bob@example.com>z</a><a href="#top">t</a><a name="q">q</a><a href="">e</a>"""
    assert links(text, html) == [
        "https://example.com/a?b=c",
        "https://example.com/d(e)",
        "app://open/7",
        "http://x.example/",
        "https://example.com/f?g=1&h=2",
        "mailto:bob@example.com",
    ]


def test_codes() -> None:
    assert code_in("Your code: 123456.") == "123456"
    assert code_in("1234567890") is None
    assert code_in("code=AB-12", r"code=(\S+)") == "AB-12"
    assert code_in("code=", r"code=(\S+)?") == ""
    html = "<head><title>9999</title></head><style>p { color: #123456 }</style><!-- 777777 --><p id=x5555>4711</p><br>"
    assert text_of_html(html).split() == ["4711"]
    assert code_in(text_of_html(html)) == "4711"


def test_the_helper_that_the_package_offers() -> None:
    assert trio_smtp.message_text is message_text
    script = "import sys, trio_smtp; assert 'trio_smtp.reading' not in sys.modules and 'email' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b", [("", "a@b")]),
        ("<a@b>", [("", "a@b")]),
        ("Bob <a@b>, c@d", [("Bob", "a@b"), ("", "c@d")]),
        ('"Doe, Jane" <a@b>', [("Doe, Jane", "a@b")]),
        (r'"a \"b\" c" <a@b>', [('a "b" c', "a@b")]),
        ("a@b (Bob)", [("Bob", "a@b")]),
        ("Team: a@b, C <c@d>;", [("", "a@b"), ("C", "c@d")]),
        ("=?utf-8?q?J=C3=B6rg?= <a@b>", [("Jörg", "a@b")]),
        ("undisclosed-recipients:;", []),
        ("nobody", [("nobody", "")]),
        ("<>", []),
        ('"open <a@b>', [('"open', "a@b")]),
        ("<open", []),
        ("(open", []),
        (", , ;", []),
        ("a @ b", [("", "a@b")]),
        ("Bob Smith", []),
        ("Bob <>", []),
        ("Bob a@b c@d", [("", "a@b"), ("", "c@d")]),
        ('"John Doe"@b, "a b" <"c d"@e>', [("", '"John Doe"@b'), ("a b", '"c d"@e')]),
        ("a@[IPv6:::1], B <b@[IPv6:::1]>", [("", "a@[IPv6:::1]"), ("B", "b@[IPv6:::1]")]),
        ("A <@x,@y:a@b>, <a@b (c)>, <a @ b>", [("A", "a@b"), ("", "a@b"), ("", "a@b")]),
        ("[open", []),
    ],
)
def test_addresses(text: str, found: list[tuple[str, str]]) -> None:
    assert mailboxes_in(text) == found


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("plain", "plain"),
        ("=?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
        ("=?utf-8?B?R3LDvMOfZQ?=", "Grüße"),
        ("=?iso-8859-1?Q?Gr=FC=DFe?= x", "Grüße x"),
        ("=?utf-8?q?a_b?= =?utf-8?q?c?=", "a bc"),
        ("=?utf-8*de?q?a?=", "a"),
        ("=?nothing?q?a?=", "=?nothing?q?a?="),
        ("=?utf-8?b?!!?=", ""),
        ("=?utf-8?b?a?=", "=?utf-8?b?a?="),
        ("=?utf-8?q?=FF?=", "=?utf-8?q?=FF?="),
        ("=?utf-8?q?a=0D=0ABcc:_x?=", "a  Bcc: x"),
        ("=?utf-7?q?+2D0-?=", " "),
    ],
)
def test_encoded_words(text: str, decoded: str) -> None:
    assert decode_words(text) == decoded


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a<b>b</b>c", "abc"),
        ("a<br>b", "a b"),
        ("<!-- <p>no</p> -->yes", "yes"),
        ("<!-- open", ""),
        ("<script>no</script>yes", "yes"),
        ("<SCRIPT>no</Script >yes", "yes"),
        ("yes<script>no", "yes"),
        ("yes <p", "yes"),
        ("1 < 2", "1 < 2"),
        ("a</style>b", "a b"),
        ("<>x", "x"),
        ("a <3 b", "a <3 b"),
        ("\u0130\u0130\u0130<style>no</style>yes", "\u0130\u0130\u0130 yes"),
    ],
)
def test_text_of_html(source: str, text: str) -> None:
    assert " ".join(text_of_html(source).split()) == text


@pytest.mark.parametrize("charset", ["punycode", "idna", "base64", "\0", "", "no such", "unicode_escape"])
def test_what_is_no_character_set(charset: str) -> None:
    assert decode_text("Grüße-\r\n".encode(), charset) == "Grüße-\n"
    assert decode_text(b"gr\xfcn", charset) == "grün"
    assert decode_words(f"=?{charset}?q?x?=") == f"=?{charset}?q?x?="


@pytest.mark.parametrize("piece", ["=?a?q? ", "=?a?q?é", "=?a?q?", "?= ", '"', "<a", "[a", "((a)", "a@b "])
def test_the_time_to_read_a_field_grows_with_its_length_alone(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    decode_words(text)
    mailboxes_in(text)
    # Time that grew with the square of this length would be half a minute and more.
    assert time.process_time() - started < 10


def test_a_message_of_another_policy_whose_file_name_raises() -> None:
    message = message_from_bytes(b"Content-Disposition: attachment; filename*=\x00''x\r\n\r\nx")
    with pytest.raises(ValueError, match="null"):
        message.get_filename()
    assert attachments(message) == [Attachment("part-1.txt", "text/plain", b"x")]


def test_an_encoded_word_that_never_ends_hides_none_behind_it() -> None:
    assert decode_words("=?utf-8?q?a =?utf-8?q?b?=") == "=?utf-8?q?a b"


# Odd mail


def read_all(octets: bytes) -> None:
    message = read_octets(octets)
    shown = [message_text(message, "subject"), text_body(message), html_body(message)]
    shown += [each for pair in fields(message) for each in pair]
    shown += [address for name in ("from", "to", "cc") for address in field_addresses(message, name)]
    for each in attachments(message):
        shown += [each.name, each.content_type]
        assert isinstance(each.content, bytes)
    shown += links(text_body(message), html_body(message))
    shown.append(text_of_html(html_body(message)))
    for text in shown:
        text.encode()
    code_in(text_body(message))


@pytest.mark.parametrize("field", ODD, ids=lambda field: repr(field[:60]))
def test_odd_fields(field: str) -> None:
    octets = field.encode("latin-1")
    read_all(octets + b"\r\n\r\nbody\r\n")
    read_all(
        b"Content-Type: multipart/mixed; boundary=x\r\n"
        + octets
        + b"\r\n\r\n--x\r\n"
        + octets
        + b"\r\n\r\nbody\r\n--x--"
    )


PIECES = st.sampled_from([
    b"\r\n", b"\n", b"\r\n\r\n", b"--x\r\n", b"--x--\r\n", b"--y\r\n", b" ", b"\t", b"\xff", b"\xc3\xbc", b"\x00",
     b"=?utf-8?b?w7w=?=", b"=?x?q?=00?=", b"<a href='", b"<!--", b"<style>", b"http://x/", b"(", b"@", b";", b"text",
     b"Content-Type: multipart/mixed; boundary=x", b"Content-Type: text/html; charset=utf-16", b"Subject: ",
     b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding: x-uuencode", b"Content-Type: message/rfc822",
     b"Content-Disposition: attachment; filename*=utf-8''%ff", b"begin 666 x", b"To: a@b, c <d@e>", b"From: ",
     b"Content-Type: text/plain; charset=\xff", b"Content-Type: multipart/alternative; boundary=y"]
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES | st.binary(max_size=8), max_size=30))
def test_mail_of_odd_pieces(pieces: list[bytes]) -> None:
    read_all(b"".join(pieces))
    read_everything(read_octets(b"".join(pieces)))


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200), st.text(max_size=200))
def test_links_and_codes_of_any_text(text: str, html: str) -> None:
    assert all(link for link in links(text, html))
    assert code_in(text_of_html(html)) is None or html


@pytest.mark.parametrize(
    "unit",
    [b"<a href=\"", b"<a href='x' ", b"<style", b"<style>", b"<!--", b"<", b"</style   ", b"a", b"a@", b"(", b")",
     b"x://", b"x://)", b"1", b"=?utf-8?q?a?= ", b"<a ", b"<a href href ", b",", b"a@b,", b"\"", b"\\", b"&", b"<p>",
     b"--x\r\n", b"--x\r\n\r\n", b" \r\n", b"http://x.y/", b"a.", b"\xc3"],
    ids=repr,
)  # fmt: skip
def test_no_repetition_takes_long(unit: bytes) -> None:
    many = unit * (40_000 // len(unit))
    header = many.replace(b"\r\n", b"\r\n ").strip()
    started = time.process_time()
    read_all(b"Subject: " + header + b"\r\nTo: " + header + b"\r\nContent-Type: text/plain\r\n\r\n" + many)
    read_all(b"Content-Type: text/html\r\n\r\n" + many)
    read_all(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n" + many)
    read_all(b"Content-Type: text/plain; x=" + header + b"\r\nContent-Disposition: " + header + b"\r\n\r\n")
    assert time.process_time() - started < 10
