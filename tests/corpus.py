r"""Messages of every kind that mail parsers meet: some hundred, always the same, each with a name.

They are octets, as they lie in a file: what is wrong with them is meant to be. `MAILS` are all of them; `SMALL` are
those of a few octets, which can be cut at every place.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator

import attrs

CRLF = b"\r\n"
HEAD = b"From: a@example.org\r\nTo: b@example.com\r\nSubject: corpus\r\n"


@attrs.frozen
class Mail:
    """One message."""

    name: str
    octets: bytes

    def __str__(self) -> str:
        return self.name


def mime(kind: bytes, body: bytes, *more: bytes) -> bytes:
    """A message of this Content-Type."""
    fields = b"".join(field + CRLF for field in (b"MIME-Version: 1.0", b"Content-Type: " + kind, *more))
    return HEAD + fields + CRLF + body


# Multipart

#: How a boundary is named in Content-Type, and how it reads.
BOUNDARIES = [
    (b"boundary=b", b"b"),
    (b'boundary="b"', b"b"),
    (b"boundary='b'", b"'b'"),
    (b"BOUNDARY = b", b"b"),
    (b"boundary=----=_NextPart_000", b"----=_NextPart_000"),
    (b'boundary="----=_NextPart_000"', b"----=_NextPart_000"),
    (b'boundary="a b"', b"a b"),
    (b"boundary=a b", b"a b"),
    (b'boundary="b "', b"b "),
    (b'boundary=" b"', b" b"),
    (b'boundary="b\\"c"', b'b"c'),
    (b'boundary="\'()+_,-./:=?"', b"'()+_,-./:=?"),
    (b"boundary=(comment)b", b"b"),
    (b"boundary=b (comment)", b"b"),
    (b'boundary="b', b"b"),
    (b"boundary=", b""),
    (b'boundary=""', b""),
    (b"boundary", b"b"),
    (b"boundary*=us-ascii''b", b"b"),
    (b"boundary*0=b; boundary*1=c", b"bc"),
    (b"boundary=b; boundary=c", b"b"),
    (b"boundary=c; boundary=b", b"b"),
    (b"boundary=b;;; x", b"b"),
    (b"charset=utf-8\r\n\t;\r\n boundary=b", b"b"),
    (b'boundary="' + b"x" * 70 + b'"', b"x" * 70),
    (b'boundary="' + b"x" * 2000 + b'"', b"x" * 2000),
    (b'boundary="\xe4"', b"\xe4"),
    (b'boundary="=?utf-8?q?b?="', b"b"),
    (b"x=y", b"b"),
]
PART = b"Content-Type: text/plain\r\n\r\ntext\r\n"
#: Bodies of a multipart whose boundary is b.
MULTIPARTS = {
    "two parts": b"--b\r\n" + PART + b"--b\r\n" + PART + b"--b--\r\n",
    "nothing": b"",
    "no delimiter": b"text\r\n",
    "not closed": b"--b\r\n" + PART,
    "not closed and no line end": b"--b\r\n\r\ntext",
    "closed only": b"--b--\r\n",
    "closed twice": b"--b\r\n" + PART + b"--b--\r\n--b--\r\n",
    "goes on when closed": b"--b\r\n" + PART + b"--b--\r\n--b\r\n" + PART,
    "preamble and epilogue": b"before\r\n--b\r\n" + PART + b"--b--\r\nafter",
    "no line end after the close": b"--b\r\n" + PART + b"--b--",
    "empty parts": b"--b\r\n--b\r\n--b\r\n--b--\r\n",
    "parts of an empty line": b"--b\r\n\r\n--b\r\n\r\n\r\n--b--\r\n",
    "part without a header section": b"--b\r\ntext\r\n--b--\r\n",
    "part without a body": b"--b\r\nContent-Type: text/plain\r\n--b--\r\n",
    "part with a field that is none": b"--b\r\nno field\r\nX: y\r\n\r\ntext\r\n--b--\r\n",
    "part that begins with a blank": b"--b\r\n X: y\r\n\r\ntext\r\n--b--\r\n",
    "blanks after the delimiter": b"--b \t\r\n" + PART + b"--b-- \r\n",
    "words after the delimiter": b"--b c\r\n" + PART + b"--b--c\r\n",
    "a longer delimiter": b"--bb\r\n" + PART + b"--b\r\n" + PART + b"--bb--\r\n--b--\r\n",
    "one dash": b"-b\r\n" + PART + b"-b--\r\n",
    "three dashes": b"---b\r\n" + PART + b"---b--\r\n",
    "a blank in front": b" --b\r\n" + PART + b" --b--\r\n",
    "delimiter inside a line": b"--b\r\n\r\ntext--b\r\n--b--\r\n",
    "delimiters with LF": b"--b\n" + PART.replace(CRLF, b"\n") + b"--b--\n",
    "delimiters with CR": b"--b\r" + PART.replace(CRLF, b"\r") + b"--b--\r",
    "delimiters with CRCRLF": b"--b\r\r\n" + PART.replace(CRLF, b"\r\r\n") + b"--b--\r\r\n",
    "delimiters with all of them": b"--b\n\r\nx\r--b\r\n\ny\r\n--b\r\r\n\rz\n--b--",
    "a dot before the delimiter": b"--b\r\n\r\n.\r\n.--b\r\n..\r\n--b--\r\n",
    "a thousand parts": b"--b\r\n\r\nx\r\n" * 1000 + b"--b--\r\n",
    "the same boundary inside": (
        b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n--b--\r\n"
    ),
    "a boundary inside that begins alike": (
        b"--b\r\nContent-Type: multipart/mixed; boundary=bb\r\n\r\n--bb\r\n\r\nx\r\n--bb--\r\n--b--\r\n"
    ),
    "not closed inside": b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--b--\r\n",
    "NUL": b"--b\r\n\r\n\0\r\n--b\0\r\n--b--\r\n",
}
#: Types that hold other messages or parts, and some that only say so.
CONTAINERS = [
    b"multipart/alternative; boundary=b", b"multipart/related; boundary=b; start=\"<x>\"; type=text/html",
    b"multipart/digest; boundary=b", b"multipart/parallel; boundary=b", b"multipart/form-data; boundary=b",
    b"multipart/report; boundary=b; report-type=delivery-status", b"multipart/appledouble; boundary=b",
    b"multipart/signed; boundary=b; micalg=pgp-sha1; protocol=\"application/pgp-signature\"",
    b"multipart/encrypted; boundary=b", b"multipart/x-unknown; boundary=b", b"multipart/; boundary=b",
    b"multipart; boundary=b", b"text/plain; boundary=b", b"message/rfc822", b"message/global",
    b"message/partial; id=x; number=1; total=0", b"message/external-body; access-type=URL",
    b"message/delivery-status", b"message/http",
    b"message/x-unknown", b"message/rfc822; boundary=b", b"application/ms-tnef", b"/", b"", b"text", b"a/b/c",
    b"text/plain text/html", b"text\\/plain", b"text/plain, multipart/mixed; boundary=b", b"multipart/mixed boundary=b",
]  # fmt: skip


def multiparts() -> Iterator[tuple[str, bytes]]:
    for number, (parameter, boundary) in enumerate(BOUNDARIES):
        body = b"--%s\r\n%s--%s--\r\n" % (boundary, PART, boundary)
        yield f"boundary {number}", mime(b"multipart/mixed; " + parameter, body)
    for name, body in MULTIPARTS.items():
        yield f"multipart: {name}", mime(b"multipart/mixed; boundary=b", body)
        inner = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + body
        yield f"inside: {name}", mime(b"multipart/mixed; boundary=o", b"--o\r\n" + inner + b"\r\n--o--\r\n")
    for number, kind in enumerate(CONTAINERS):
        yield f"container {number}", mime(kind, b"--b\r\nSubject: in\r\n\r\ntext\r\n--b--\r\n")
    for depth in (2, 20, 200):
        heads = [b"Content-Type: multipart/mixed; boundary=d%d\r\n\r\n--d%d\r\n" % (n, n) for n in range(depth)]
        ends = [b"\r\n--d%d--\r\n" % n for n in reversed(range(depth))]
        yield f"multipart {depth} deep", HEAD + b"".join(heads) + b"\r\ntext" + b"".join(ends)
        yield f"message {depth} deep", b"Content-Type: message/rfc822\r\n\r\n" * depth + b"Subject: x\r\n\r\ntext\r\n"


# Contents

ENCODINGS = [b"7bit", b"8bit", b"binary", b"base64", b"BASE64 (c)", b"quoted-printable", b"x-uuencode", b"bogus", b""]
CONTENTS = {
    "base64": base64.encodebytes(bytes(range(256))).replace(b"\n", CRLF),
    "base64 without padding": b"YWJj\r\nZGU\r\n",
    "base64 with too much": b"YWJj====\r\nYWJj\r\n",
    "base64 with other octets": b"YW-Jj_\xff\0\r\n\r\n!YQ==\r\n-- \r\nlist\r\n",
    "quoted-printable": b"a=3D=E4=\r\nb =20\r\n=\r\n",
    "broken quoted-printable": b"=\r=\n=3=ZZ=3d=FF== \r\nend=",
    "uuencode": b"begin 644 a\r\n#86)C\r\n`\r\nend\r\n",
    "broken uuencode": b"begin 999 \r\n~~~\r\n\xff\r\n",
    "8-bit": bytes(range(128, 256)) + CRLF,
    "control octets": bytes(octet for octet in range(32) if octet not in b"\r\n") + b"\x7f\r\n",
    "UTF-8 in halves": b"caf\xc3\r\n\xa9 \xed\xa0\x80 \xf8\x88\x80\x80\x80 \xc0\x80\r\n",
}  # fmt: skip
CHARSETS = [
    b"utf-8", b"UTF8", b"us-ascii", b"iso-8859-1", b"windows-1252", b"cp-850", b"shift_jis", b"iso-2022-jp", b"gb2312",
    b"big5", b"koi8-r", b"utf-16", b"utf-16le", b"utf-32", b"utf-7", b"hz", b"unknown-8bit", b"x-unknown", b"none", b"",
    b'"', b'"utf-8', b"utf-8\xff", b"utf\0", b"idna", b"punycode", b"rot13", b"base64", b"zip", b"undefined",
    b"unicode_escape", b"mbcs", b"../../etc", b"=?utf-8?q?utf-8?=", b"utf-8; charset=latin-1", b"utf-8''x",
]  # fmt: skip
PARAMETERS = [
    b"name*", b"name*=", b"name*=x", b"name*=''", b"name*='''", b"name*=utf-8''%", b"name*=utf-8''%e4%f", b"name*0",
    b"name*=utf-8'en'%c3%a4; name=a", b"name*0*=utf-8''a; name*1=b; name*2*=%c3", b"name*1=b; name*0=a", b"name*2=b",
    b"name*0=a; name*0=b", b"name*00=a", b"name*-1=a", b"name*99999999999999=a", b"name*x=a", b"name*0*x=a", b"name**=",
    b"name*=bogus''x", b"name*=\0''x", b"name*=utf-8''\xff", b'name*="utf-8\'\'a"', b'name="a\\"; b"', b'name="a', b"=",
    b"name=a b", b"name=a/b:c", b"name=(", b"name=()()(", b"name=\xe4", b"name==?utf-8?b?4A==?=", b'name="../../\0"',
    b";;;;", b"name", b"\"name\"=x", b"n\xe4me=x", b"name=" + b"x" * 900, b"; ".join(b"p%d=v" % n for n in range(300)),
    b"\r\n name=a;\r\n\tname=b", b"name=a\r\n\r\n", b"name=a\n b", b"name=a\r b",
]  # fmt: skip


def contents() -> Iterator[tuple[str, bytes]]:
    for encoding, (name, body) in itertools.product(ENCODINGS, CONTENTS.items()):
        field = b"Content-Transfer-Encoding: " + encoding
        yield f"{name} said to be {encoding.decode()!r}", mime(b"text/plain; charset=utf-8", body, field)
    for encoding in (b"base64", b"quoted-printable", b"bogus"):
        field = b"Content-Transfer-Encoding: " + encoding
        for kind in (b"multipart/mixed; boundary=b", b"message/rfc822"):
            yield f"{kind.decode()} in {encoding.decode()}", mime(kind, b"--b\r\n\r\nx\r\n--b--\r\n", field, field)
    for number, charset in enumerate(CHARSETS):
        yield f"charset {number}", mime(b"text/plain; charset=" + charset, b"caf\xe9 \xc3\xa9 \x1b$B%F\r\n")
    for number, parameter in enumerate(PARAMETERS):
        other = b"Content-Disposition: attachment; file" + parameter
        yield f"parameter {number}", mime(b"application/octet-stream; " + parameter, b"x\r\n", other)


# Header sections

WORDS = [
    b"=?utf-8?q?caf=C3=A9?=", b"=?UTF-8?B?Y2Fmw6k=?=", b"=?utf-8*en?q?a?=", b"=?utf-8?q?a_b?= =?utf-8?q?c?=",
    b"=?utf-8?q?=C3?= =?utf-8?q?=A9?=", b"=?utf-8?q??=", b"=??q?a?=", b"=?utf-8??a?=", b"=?utf-8?x?a?=", b"=?utf-8?q?a",
    b"=?utf-8?q?a b?=", b"=?utf-8?b?!!!?=", b"=?utf-8?b?Y?=", b"=?utf-8?q?=ZZ=?=", b"=?bogus?q?=E9?=",
    b"=?utf-8?q?=E9?=", b"=?utf-8?q?=00=0D=0Ax:_y?=", b"=?utf-8?q?a?=b", b"a=?utf-8?q?a?=",
    b"=?utf-8?q?" + b"a" * 500 + b"?=",
    b"=?=?=", b"=?iso-2022-jp?b?GyRC?=", b"=?utf-8?q?\xc3\xa9?=", b"(=?utf-8?q?a?=)", b"\"=?utf-8?q?a?=\"",
    b"=?utf-8?Q?a\r\n ?=",
]  # fmt: skip
FIELDS = [
    b"", b":", b": x", b"X", b"X x", b"X :y", b"X\t: y", b"X:", b"X:\ty", b"X: \r\n y", b"X:\r\n \r\n y", b"X: y\r\n ",
    b" begins with a blank: x", b"\tbegins with a tab", b"X\xe4: y", b"X\0: y", b"X\x7f: y", b"X: \xe4\xff", b"X: \0",
    b"X: \x0b\x0c\x1a\x1b", b"\xef\xbb\xbfX: BOM", b"\xff\xfeX\0:\0", b"From a@example.org Mon Jan  1 00:00:00 2024",
    b">From a", b"From: a\r\nFrom: b", b"Subject: a\r\nsubject: b\r\nSUBJECT: c", b"X(comment): y", b"X@y: z", b"--b",
    b"Date: Mon, 99 Foo 99999 99:99:99 +9999", b"Date: ", b"Date: 1 Jan 24 0:0", b"Date: " + b"9" * 3000,
    b"Message-ID: <", b"Message-ID: <a@b><c@d>", b"Message-ID: a", b"Message-ID: " + b"<" * 500, b"MIME-Version: 1",
    b"MIME-Version: 1.0 (c)\r\nMIME-Version: 2.0", b"Received: from", b"Received: " * 50, b"Return-Path: <>",
    b"To: undisclosed-recipients:;", b"To: a@b, <c@d>, \"e\" <f@g>, h:i@j;", b"To: <@a,@b:c@d>", b"To: " + b"(" * 1000,
    b'To: "', b"To: <a@[", b"To: <a@[IPv6:::1]>", b"To: a@b" + b", a@b" * 300, b"To: \xe4 <a@\xe4>", b"To: @",
    b"To: ,,", b"X: " + b"y" * 996, b"X: " + b"y" * 70_000, b"X:" + b"\r\n y" * 400, b"x" * 3000 + b": y",
    b"A: b\r\n" * 800 + b"A:", b"X: y\rZ: folded by CR", b"X: y\nZ: LF", b"X: y\r\r\nZ: CR CRLF",
    b"X: y\n\rZ: LF CR", b"X: .\r\n.\r\n..",
    b".X: y",
]  # fmt: skip


def sections() -> Iterator[tuple[str, bytes]]:
    for number, word in enumerate(WORDS):
        fields = [b"Subject: %s", b"From: %s <a@example.org>", b"Content-Disposition: attachment; filename=%s"]
        yield f"encoded word {number}", CRLF.join(field % word for field in fields) + b"\r\n\r\ntext\r\n"
    for number, field in enumerate(FIELDS):
        yield f"field {number}", field + b"\r\nA: b\r\n\r\ntext\r\n"
        yield f"field {number} last", b"A: b\r\n" + field + b"\r\n\r\ntext\r\n"
        yield f"field {number} alone", field


# Octets and lines


def octets() -> Iterator[tuple[str, bytes]]:
    for octet in (*range(10), *range(11, 13), *range(14, 32), 46, 127, 128, 133, 160, 255):
        # LF and CR have messages of their own.
        each = bytes([octet])
        yield f"octet {octet}", each.join((b"", b"A: ", b"\r\n", b" b\r\n\r\n", b"\r\n", b"\r\n"))
    yield "all octets", HEAD + CRLF + bytes(range(256)) * 3
    yield "UTF-8", HEAD + "\r\nGrüße, 日本語, \u2028\u2029\x85, 😀\r\n".encode()
    yield "UTF-16", "\ufeffSubject: x\r\n\r\ntext\r\n.\r\n".encode("utf-16")
    yield "EBCDIC", "Subject: x\r\n\r\ntext\r\n".encode("cp500")
    for length in (76, 77, 997, 998, 999, 1000, 1023, 1024, 4095, 8191, 65_534, 65_535, 65_536, 300_000):
        yield f"a line of {length}", HEAD + CRLF + b"x" * length + CRLF
        yield f"a line of {length} dots", HEAD + CRLF + b"." * length
    yield "300,000 empty lines", HEAD + CRLF * 300_000
    yield "100,000 lines of a dot", HEAD + CRLF + b".\r\n" * 100_000
    for end in (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0"):
        yield f"all lines end with {end!r}", mime(b"text/plain", b".\r\n..\r\n\r\n.text\r\nend\r\n").replace(CRLF, end)
        yield f"the last line ends with {end!r}", HEAD + b"\r\n.text" + end


def small() -> Iterator[tuple[str, bytes]]:
    """Line ends and dots in all mixtures: strings of up to four of these, and words around some."""
    alphabet = (b"\r", b"\n", b".", b"\r\n")
    seen: set[bytes] = set()
    for length in range(5):
        for pieces in itertools.product(alphabet, repeat=length):
            text = b"".join(pieces)
            for whole in (text, b"A: b" + text + b"c") if length < 4 else (text,):
                if whole not in seen:
                    seen.add(whole)
                    yield f"small {whole!r}", whole


SMALL = [Mail(*each) for each in small()]
MAILS = [
    *(Mail(*each) for family in (multiparts, contents, sections, octets) for each in family()),
    *SMALL,
]
