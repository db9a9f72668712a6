"""The grammar of paths: RFC 5321 section 4.1.2, RFC 6531 section 3.3."""

from __future__ import annotations

import string
import sys
import unicodedata
from types import MappingProxyType

import idna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_smtp.protocol.addresses import Address, common_path, parse_path, split_path
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.parameters import DSNRecipient

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"


def parse(path: str, *, strict: bool = True) -> tuple[str, str, str]:
    address = parse_path(path, code="5.1.3", strict=strict)
    return address.address, address.local_part, address.domain


def maybe_parse(path: str, *, strict: bool = True, postmaster: bool = False) -> Address | None:
    """The address, or None where it was refused as every bad address is."""
    error = None
    try:
        return parse_path(path, code="5.1.7", strict=strict, postmaster=postmaster)
    except ProtocolError as exc:
        error = exc
    assert (error.code, error.enhanced, error.counted, error.close) == (501, "5.1.7", True, False)
    return None


def refused(path: str, *, strict: bool = True, postmaster: bool = False) -> bool:
    return maybe_parse(path, strict=strict, postmaster=postmaster) is None


# --- mailboxes ---


@pytest.mark.parametrize(
    ("path", "local_part", "domain"),
    [
        pytest.param("a@example.com", "a", "example.com", id="RFC 5321 4.1.2 Mailbox"),
        pytest.param("a@localhost", "a", "localhost", id="one label"),
        pytest.param("a@1.2", "a", "1.2", id="labels of digits"),
        pytest.param("A.b@Example.COM", "A.b", "example.com", id="RFC 5321 2.4 only the domain folds case"),
        pytest.param(f"{ATEXT}@x", ATEXT, "x", id="RFC 5322 3.2.3 all of atext"),
        pytest.param("a.b.c.d.e.f.g@x", "a.b.c.d.e.f.g", "x", id="Dot-string"),
        pytest.param("a@a--b.c-d", "a", "a--b.c-d", id="Ldh-str"),
        pytest.param("a" * 300 + "@x", "a" * 300, "x", id="RFC 5321 4.5.3.1 no limit where it can be had"),
        pytest.param(f"a@{'b' * 63}.c", "a", f"{'b' * 63}.c", id="RFC 1035 2.3.4 the longest label"),
        pytest.param(f"a@{'b.' * 127}c", "a", f"{'b.' * 127}c", id="RFC 5321 4.5.3.1.2 the longest domain"),
        pytest.param('""@x', '""', "x", id="RFC 5321 4.1.2 an empty Quoted-string"),
        pytest.param('"a b"@x', '"a b"', "x", id="a space in quotes"),
        pytest.param('"a@b"@x', '"a@b"', "x", id="an at sign in quotes"),
        pytest.param('"<a>"@x', '"<a>"', "x", id="angle brackets in quotes"),
        pytest.param('"a\\"b"@x', '"a\\"b"', "x", id="RFC 5321 4.1.2 a quoted quote"),
        pytest.param('"a\\\\"@x', '"a\\\\"', "x", id="a quoted backslash"),
        pytest.param('"\\a"@x', '"\\a"', "x", id="quotes are kept as sent"),
        pytest.param('"' + string.punctuation.replace('"', "").replace("\\", "") + '"@x', None, "x", id="qtextSMTP"),
        pytest.param("a@[192.0.2.1]", "a", "[192.0.2.1]", id="RFC 5321 4.1.3 IPv4"),
        pytest.param("a@[IPv6:2001:DB8::1]", "a", "[ipv6:2001:db8::1]", id="RFC 5321 4.1.3 IPv6"),
        pytest.param("a@[ipV6:::ffff:192.0.2.1]", "a", "[ipv6:::ffff:192.0.2.1]", id="RFC 5321 4.1.3 IPv6v4"),
        pytest.param("a@[IPv6:::]", "a", "[ipv6:::]", id="IPv6 unspecified"),
        pytest.param("a@[x-400:c=de;a=]", "a", "[x-400:c=de;a=]", id="RFC 5321 4.1.3 General-address-literal"),
        pytest.param("a@[2001:db8::1]", "a", "[2001:db8::1]", id="by the grammar: tag 2001, content db8::1"),
        pytest.param("ü@x", "ü", "x", id="RFC 6531 3.3 atext"),
        pytest.param('"ü ß"@x', '"ü ß"', "x", id="RFC 6531 3.3 qtextSMTP"),
        pytest.param("我@例子.广告", "我", "例子.广告", id="RFC 6531 3.3 sub-domain"),
        pytest.param("😀@x", "😀", "x", id="beyond the BMP"),
        pytest.param("a@BÜCHER.example", "a", "bücher.example", id="U-label, lower case"),
        pytest.param("a@XN--BCHER-KVA.Example", "a", "bücher.example", id="RFC 5890 2.3.2.1 an A-label as U-label"),
        pytest.param("a@bücher.xn--bcher-kva.x", "a", "bücher.bücher.x", id="both kinds"),
        pytest.param("a@faß.de", "a", "faß.de", id="RFC 5894 7.2 no sharp s is folded"),
        pytest.param("a@xn--fa-hia.de", "a", "faß.de", id="nor in an A-label"),
        pytest.param("a@xn--ls8h.x", "a", "xn--ls8h.x", id="RFC 5892 an A-label of no U-label stays"),
        pytest.param("a@xn--99999999999.x", "a", "xn--99999999999.x", id="RFC 3492 no punycode stays"),
        pytest.param("a@ab--c.ü", "a", "ab--c.ü", id="ASCII labels beside others"),
    ],
)
def test_mailbox(path: str, local_part: str | None, domain: str) -> None:
    if local_part is None:
        local_part = path.rpartition("@")[0]
    assert parse(path) == (path, local_part, domain)
    assert parse(path, strict=False) == (path, local_part, domain)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("a", id="RFC 5321 4.1.2 no domain"),
        pytest.param("postmaster", id="RFC 5321 4.1.1.3 postmaster is for RCPT"),
        pytest.param("@x", id="no local part"),
        pytest.param("a@", id="an empty domain"),
        pytest.param("@", id="neither"),
        pytest.param("a@b@c", id="two at signs"),
        pytest.param("a b@x", id="a space"),
        pytest.param(" a@x", id="a space in front"),
        pytest.param("a@x ", id="a space behind"),
        pytest.param("<a@x>", id="brackets in brackets"),
        pytest.param("a@x>", id="a bracket"),
        pytest.param("a(c)@x", id="RFC 5321 4.1.2 a comment"),
        pytest.param("a,b@x", id="a comma"),
        pytest.param("a:b@x", id="a colon"),
        pytest.param("a;b@x", id="a semicolon"),
        pytest.param("a\\b@x", id="a backslash without quotes"),
        pytest.param("a[b]@x", id="square brackets"),
        pytest.param('a"b"@x', id="RFC 5321 4.1.2 quotes begin the local part"),
        pytest.param('"a"b@x', id="and end it"),
        pytest.param('"a"."b"@x', id="RFC 5322 obs-local-part"),
        pytest.param('"a@x', id="an open quote"),
        pytest.param('"a"b"@x', id="a bare quote in quotes"),
        pytest.param('""a""@x', id="nested quotes"),
        pytest.param('"a\\"@x', id="the last quote is quoted"),
        pytest.param('"a\\ü"@x', id="RFC 6531 3.3 a quoted-pair is ASCII"),
        pytest.param("a@x!", id="a domain of atext"),
        pytest.param("a@x..y", id="an empty label"),
        pytest.param("a@.x", id="a dot in front of the domain"),
        pytest.param("a@x:25", id="a port"),
        pytest.param(f"a@{'b' * 64}", id="RFC 1035 2.3.4 a label too long"),
        pytest.param(f"a@{'ü' * 60}.x", id="a U-label too long when encoded"),
        pytest.param(f"a@xn--{'a' * 60}.x", id="an A-label too long"),
        pytest.param(f"a@{'b.' * 128}c", id="RFC 5321 4.5.3.1.2 a domain too long"),
        pytest.param(f"a@{'ü.' * 40}c", id="a domain too long when encoded"),
        pytest.param("a@ü-.x", id="RFC 5891 4.2.3.1 a hyphen at an end"),
        pytest.param("a@xn--ü.x", id="RFC 5891 4.2.3.1 hyphens like an A-label's"),
        pytest.param("a@e\u0301.x", id="RFC 5891 4.1 not in form C"),
        pytest.param("a@\u0301e.x", id="RFC 5891 4.2.3.2 a combining mark in front"),
        pytest.param("a@א1a.x", id="RFC 5893 2 mixed directions"),
        pytest.param("a@♥.x", id="RFC 5892 a symbol"),
        pytest.param("a@\uff41.x", id="a full-width letter"),
        pytest.param("a@b\u3002x", id="RFC 5891 5.2 an ideographic full stop"),
        pytest.param("a@\u212a.x", id="the Kelvin sign is no k"),
        pytest.param("a@ü.\u212a", id="nor beside other labels"),
        pytest.param("a@xn--\u212a.x", id="nor in what looks like an A-label"),
        pytest.param("a@[]", id="RFC 5321 4.1.3 nothing"),
        pytest.param("a@[192.0.2]", id="three numbers"),
        pytest.param("a@[192.0.2.256]", id="RFC 5321 4.1.3 Snum over 255"),
        pytest.param("a@[192.0.2.010]", id="octal or decimal, who knows"),
        pytest.param("a@[IPv6:]", id="the tag alone"),
        pytest.param("a@[IPv6:192.0.2.1]", id="IPv4 with the tag of IPv6"),
        pytest.param("a@[IPv6:1::2::3]", id="RFC 4291 2.2 two gaps"),
        pytest.param("a@[IPv6:fe80::1%eth0]", id="a zone"),
        pytest.param("a@[x400:]", id="General-address-literal without content"),
        pytest.param("a@[:x]", id="without a tag"),
        pytest.param("a@[x-:y]", id="RFC 5321 4.1.3 a tag that ends with a hyphen"),
        pytest.param("a@[x_y:z]", id="a tag with an underscore"),
        pytest.param("a@[x:y z]", id="dcontent has no space"),
        pytest.param("a@[x:[y]]", id="dcontent has no brackets"),
        pytest.param("a@[x:ü]", id="dcontent is ASCII"),
        pytest.param("a@[192.0.2.1", id="an open bracket"),
        pytest.param("a@[192.0.2.1].x", id="more behind the literal"),
        pytest.param("a@x\n", id="a newline at the end"),
    ],
)
def test_no_mailbox(path: str) -> None:
    """Whatever `strict_addresses` says."""
    assert refused(path)
    assert refused(path, strict=False)


@pytest.mark.parametrize(
    ("path", "domain"),
    [
        pytest.param(".a@x", "x", id="a dot in front"),
        pytest.param("a.@x", "x", id="a dot behind"),
        pytest.param("a..b@x", "x", id="two dots"),
        pytest.param("a@x.", "x", id="a dot at the domain's end"),
        pytest.param("a@b_c.x", "b_c.x", id="an underscore"),
        pytest.param("a@_dmarc.x", "_dmarc.x", id="an underscore in front"),
        pytest.param("a@-x", "-x", id="a hyphen in front"),
        pytest.param("a@x-.y", "x-.y", id="a hyphen behind"),
    ],
)
def test_what_is_seen_in_the_wild(path: str, domain: str) -> None:
    assert refused(path)
    assert parse(path, strict=False) == (path, path.partition("@")[0], domain)


@st.composite
def mailboxes(draw: st.DrawFn) -> tuple[str, str]:
    """A local part and a domain, put together as RFC 5321 section 4.1.2 and RFC 6531 section 3.3 say."""
    shown = st.characters(
        min_codepoint=0xA1, categories=("L", "N", "S", "P"), exclude_characters="\u115f\u1160\u3164\uffa0"
    )
    atext = st.one_of(st.sampled_from(ATEXT), shown)
    atom = st.text(atext, min_size=1, max_size=8)
    dot_string = st.lists(atom, min_size=1, max_size=6).map(".".join)
    qtext = st.one_of(st.sampled_from([chr(i) for i in range(32, 127) if chr(i) not in '"\\']), shown)
    pair = st.integers(32, 126).map(lambda octet: "\\" + chr(octet))
    quoted = st.lists(st.one_of(qtext, pair), max_size=8).map(lambda parts: f'"{"".join(parts)}"')
    label = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9]{0,3}-?[A-Za-z0-9])?", fullmatch=True)
    u_label = st.sampled_from(["bücher", "παράδειγμα", "例え", "пример", "도메인", "उदाहरण", "مثال"])
    domain = st.lists(st.one_of(label, u_label), min_size=1, max_size=6).map(".".join)
    ipv4 = st.ip_addresses(v=4).map(lambda ip: f"[{ip}]")
    ipv6 = st.ip_addresses(v=6).map(lambda ip: f"[IPv6:{ip}]")
    return draw(st.one_of(dot_string, quoted)), draw(st.one_of(domain, domain, ipv4, ipv6))


@settings(deadline=None)
@given(mailboxes(), st.sampled_from(["", "@x:", "@a.b,@[192.0.2.1],@ü.c:"]))
def test_what_the_grammar_makes_is_accepted(mailbox: tuple[str, str], route: str) -> None:
    local_part, domain = mailbox
    path = f"{local_part}@{domain}"
    for strict in (True, False):
        assert parse(route + path, strict=strict) == (path, local_part, domain.lower())
        assert split_path(f"<{route}{path}> X=Y", strict=strict) == (route + path, " X=Y")


# --- what may not be shown ---

BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
DANGEROUS = [
    char
    for char in map(chr, range(0x20, sys.maxunicode + 1))
    if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(char) in BIDI
]


def test_characters_that_hide_something_are_refused() -> None:
    zero_width = (
        "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2064\u3164\ufe0f\ufeff\U000e0041\U000e0100"
    )
    others = [*DANGEROUS, *zero_width]
    assert {"\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ud800"} < set(others)
    for char in others:
        for path in (f"a{char}b@x", f'"a{char}b"@x', f"a@x{char}y", f"@r{char}s:a@x"):
            assert refused(path), ascii(path)
    for char in others[:: len(others) // 40]:
        assert refused(f"a{char}@x", strict=False), ascii(char)
        assert refused(f"postmaster{char}", postmaster=True), ascii(char)


@pytest.mark.parametrize(
    "kind",
    ["Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"],
    ids=["control", "format", "unknown", "private use", "surrogate", "line end", "paragraph end", "space"],
)
def test_what_is_not_printable_is_refused(kind: str) -> None:
    found = [char for char in map(chr, range(0x21, sys.maxunicode + 1)) if unicodedata.category(char) == kind]
    for char in [*found[:300], *found[:: len(found) // 300 + 1], *found[-20:]]:
        for path in (f"a{char}b@x", f'"a{char}b"@x', f"a@x{char}y", f"@r{char}s:a@x"):
            assert refused(path), ascii(path)


def test_marks_letters_and_signs_of_every_script_are_accepted() -> None:
    for text in ("josé", "用户", "उपयोगकर्ता", "ผู้ใช้", "пользователь", "χρήστης", "مستخدم", "משתמש", "🙂", "a̐", "№1"):
        assert parse(f"{text}@x") == (f"{text}@x", text, "x")


def test_control_characters_are_refused() -> None:
    for octet in [*range(32), 127]:
        for path in (
            f"a{chr(octet)}b@x",
            f'"a{chr(octet)}b"@x',
            f'"a\\{chr(octet)}b"@x',
            f"a@x{chr(octet)}",
            f"a@[x:{chr(octet)}]",
        ):
            assert refused(path), ascii(path)
            assert refused(path, strict=False), ascii(path)


@pytest.mark.parametrize(
    "label",
    [
        pytest.param("क्\u200dष", id="RFC 5892 A.2 zero width joiner"),
        pytest.param("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc", id="RFC 5892 A.1 zero width non-joiner"),
    ],
)
def test_nothing_hidden_comes_out_of_an_a_label(label: str) -> None:
    """IDNA has a use for them; on a screen nobody sees them."""
    assert idna.ulabel(idna.alabel(label)) == label
    assert refused(f"a@{label}.x")
    assert refused(f"a@{idna.alabel(label).decode()}.x")


# --- source routes, the postmaster ---


@pytest.mark.parametrize(
    ("path", "address"),
    [
        pytest.param("@one:joe@three", "joe@three", id="RFC 5321 appendix C"),
        pytest.param("@one,@two.example:joe@three", "joe@three", id="RFC 5321 4.1.2 A-d-l"),
        pytest.param("@[IPv6:::1],@[192.0.2.1]:joe@three", "joe@three", id="address literals"),
        pytest.param('@one:"@two:"@three', '"@two:"@three', id="another in the local part"),
    ],
)
def test_source_routes_are_dropped(path: str, address: str) -> None:
    """RFC 5321 section 4.1.1.3: ignored where they are not honoured."""
    assert parse(path)[0] == address


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("@one", id="a route alone"),
        pytest.param("@one:", id="nothing behind it"),
        pytest.param("@:a@x", id="an empty one"),
        pytest.param("@one,two:a@x", id="the second without its at sign"),
        pytest.param("@one,:a@x", id="a comma too many"),
        pytest.param("@one, @two:a@x", id="a space"),
        pytest.param("one:a@x", id="no at sign"),
        pytest.param("@one:@two:a@x", id="two routes"),
        pytest.param("@one:postmaster", id="RFC 5321 4.1.1.3 the postmaster has none"),
    ],
)
def test_no_source_routes(path: str) -> None:
    assert refused(path, postmaster=True)
    assert refused(path, postmaster=True, strict=False)


@pytest.mark.parametrize("path", ["postmaster", "Postmaster", "POSTMASTER"])
def test_the_postmaster(path: str) -> None:
    """RFC 5321 sections 4.1.1.3 and 4.5.1."""
    address = parse_path(path, code="5.1.3", postmaster=True)
    assert (address.address, address.local_part, address.domain) == (path, path, "")
    assert refused(path)


@pytest.mark.parametrize("path", ["webmaster", "postmaster@", '"postmaster"', "po\u017ftmaster", " postmaster"])
def test_nobody_else_is_the_postmaster(path: str) -> None:
    assert refused(path, postmaster=True)


# --- cutting the path out of the argument ---


@pytest.mark.parametrize(
    ("text", "inside", "rest"),
    [
        pytest.param("<a@x>", "a@x", "", id="RFC 5321 4.1.1.2"),
        pytest.param("<>", "", "", id="RFC 5321 4.5.5 the null path"),
        pytest.param("<a@x> SIZE=1 B", "a@x", " SIZE=1 B", id="RFC 5321 4.1.1.11 parameters"),
        pytest.param("  <a@x>", "a@x", "", id="spaces after the colon"),
        pytest.param("<a@x>SIZE=1", "a@x", "SIZE=1", id="no space: for others to refuse"),
        pytest.param("<a@x>>", "a@x", ">", id="a second bracket"),
        pytest.param('<"a>b"@x> Y', '"a>b"@x', " Y", id="RFC 5321 4.1.2 a bracket in quotes"),
        pytest.param('<"a\\">b"@x>', '"a\\">b"@x', "", id="behind a quoted quote"),
        pytest.param('<"a\\\\">b', '"a\\\\"', "b", id="behind a quoted backslash"),
        pytest.param("<a\\>b", "a\\", "b", id="a backslash quotes only in quotes"),
        pytest.param("<<a@x>", "<a@x", "", id="for others to refuse"),
    ],
)
def test_split_path(text: str, inside: str, rest: str) -> None:
    assert split_path(text) == (inside, rest)
    assert split_path(text, strict=False) == (inside, rest)


@pytest.mark.parametrize("text", ["", "   ", "<", "<a@x", '<"a>', '<"a\\', '<"a\\">'])
def test_no_path(text: str) -> None:
    assert split_path(text) is None
    assert split_path(text, strict=False) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@x", ("a@x", "")),
        (" a@x SIZE=1 B", ("a@x", " SIZE=1 B")),
        ("a@x>", ("a@x>", "")),
    ],
)
def test_without_brackets(text: str, found: tuple[str, str]) -> None:
    assert split_path(text) is None
    assert split_path(text, strict=False) == found


# --- Address ---


def test_an_address_is_equal_to_itself_alone() -> None:
    one, other = parse_path("a@x", code="5.1.3"), parse_path("a@x", code="5.1.3")
    assert one == one  # noqa: PLR0124
    assert one != other
    assert len({one, other, one}) == 2
    assert str(one) == "a@x"


@pytest.mark.parametrize("path", ["a@x", "postmaster", "a@[192.0.2.1]", "a@ü"])
def test_what_came_with_it_is_kept(path: str) -> None:
    args, values, dsn = MappingProxyType({"X": True}), {"X": 1}, DSNRecipient(("NEVER",))
    address = parse_path(path, code="5.1.3", postmaster=True, args=args, values=values, dsn=dsn)
    assert (address.args, address.values, address.dsn) == (args, values, dsn)
    bare = parse_path(path, code="5.1.3", postmaster=True)
    assert (dict(bare.args), dict(bare.values), bare.dsn) == ({}, {}, None)


def test_the_null_path_as_an_address() -> None:
    null = Address("", "", "")
    assert (null.address, null.local_part, null.domain, str(null)) == ("", "", "", "")


# --- anything at all ---

PIECES = st.one_of(
    st.sampled_from('a@."\\<>[]:,-1 ü'),
    st.sampled_from(["xn--", "IPv6:", "::", "\u0130", "\u212a", "e\u0301", "א", "\u200d"]),
)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(PIECES, max_size=20).map("".join),
        st.text(max_size=12).map("a@{}".format),
        st.from_regex(r"[a-z0-9-]{0,58}", fullmatch=True).map("a@xn--{}.x".format),
    ),
    st.booleans(),
    st.booleans(),
)
@example("a@xn--", True, False)
@example("a@xn--a", True, False)
@example("a@xn--0.x", True, False)
@example("a@xn--aa---o47jg78q", True, False)
@example("a@\u0130", True, False)
@example("a@\U000e0001", True, False)
@example("a@" + "\u4e00" * 2000, True, False)
def test_any_text_is_an_address_or_refused(path: str, strict: bool, postmaster: bool) -> None:
    address = maybe_parse(path, strict=strict, postmaster=postmaster)
    if address is None:
        return
    assert path.endswith(address.address)
    assert address.address.startswith(address.local_part)
    assert "@" not in address.domain
    for text in (address.address, address.domain):
        assert not any(char in text for char in "\0\r\n\x7f\x85\u200b\u2028\u202e\u2066\ufeff")


@settings(deadline=None)
@given(st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=20).map("".join)), st.booleans())
def test_split_path_loses_nothing(text: str, strict: bool) -> None:
    found = split_path(text, strict=strict)
    if found is not None:
        inside, rest = found
        assert text.lstrip(" ") in (f"<{inside}>{rest}", inside + rest)


@pytest.mark.parametrize("strict", [True, False])
@given(
    text=st.from_regex(r" ?<[A-Za-z0-9._=+-]{0,70}@[A-Za-z0-9.-]{0,70}>[ .]?", fullmatch=True)
    | st.from_regex(r"<[a-z]{1,3}(\.[a-z]{1,2}){0,6}@[a-z]{1,3}(-[a-z]){0,2}(\.[a-z]{1,2}){0,5}>", fullmatch=True)
)
def test_what_is_read_at_once_is_what_is_read_step_by_step(text: str, strict: bool) -> None:
    common = common_path(text)
    if common is None:
        return
    found = split_path(text, strict=strict)
    assert found is not None
    path, rest = found
    assert rest == ""
    address = parse_path(path, code="5.1.7", strict=strict)
    fields = ("address", "local_part", "domain", "args", "dsn", "values")
    assert [getattr(common, name) for name in fields] == [getattr(address, name) for name in fields]


@pytest.mark.parametrize("text", ["<a@example.com>", "<first.last+tag@sub.example.org>", "<a_b=c-d@x-y.example>"])
def test_nearly_every_path_is_read_at_once(text: str) -> None:
    assert common_path(text) is not None


@pytest.mark.parametrize(
    "text", ["", "<>", " <a@b>", "<a@b> ", "<a@B>", "<a@b", "a@b", "<a..b@c>", '<"a"@b>', "<é@b>", "<a@b>\n"]
)
def test_the_rest_is_not(text: str) -> None:
    assert common_path(text) is None
