"""The parameters of DSN, DELIVERBY, MT-PRIORITY and FUTURERELEASE, by the examples and the rules of their RFCs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp import Address, Config, DeliverBy, DSNRecipient, Session
from trio_smtp.dialogue.capabilities import Capabilities
from trio_smtp.protocol import parameters as p
from trio_smtp.protocol.commands import Syntax, parse_command
from trio_smtp.protocol.errors import ProtocolError


def xtext(text: str) -> str:
    """Encode as RFC 3461 section 4 says."""
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}" for octet in text.encode()
    )


def syntax_of(**changes: Any) -> Syntax:
    """What a line may say under this Config, before TLS and AUTH."""
    return Capabilities(Config(hostname="mx.example", **changes)).syntax(Session())


EVERYTHING = syntax_of(dsn=True, deliver_by=60, mt_priority="MIXER", future_release=3600)


def values_of(line: str, syntax: Syntax = EVERYTHING) -> dict[str, object]:
    return dict(parse_command(line.encode(), syntax).values)


def address_of(line: str, syntax: Syntax = EVERYTHING) -> Address:
    address = parse_command(line.encode(), syntax).address
    assert address is not None
    return address


def refusal_of(line: str, syntax: Syntax = EVERYTHING) -> tuple[int, str | None]:
    with pytest.raises(ProtocolError) as caught:
        parse_command(line.encode(), syntax)
    return caught.value.code, caught.value.enhanced


# --- xtext ---


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [
        pytest.param("abc", "abc", id="RFC 3461 4: xchar"),
        pytest.param("!~*,<>", "!~*,<>", id="RFC 3461 4: ends of the ranges of xchar"),
        pytest.param("a+2Bb", "a+b", id="RFC 3461 4: hexchar"),
        pytest.param("+3D+2B", "=+", id="RFC 3461 4: the two that must be encoded"),
        pytest.param("+20", " ", id="RFC 3461 4: a space"),
        pytest.param("+C3+BC", "\xfc", id="RFC 6533: octets are UTF-8"),
        pytest.param("+2b+3d", "+=", id="lower case, as some write it"),
        pytest.param("+c3+bC", "\xfc", id="either case"),
        pytest.param("x+E2+82+ACy", "x\u20acy", id="three octets, one character"),
        pytest.param("", "", id="RFC 3461 4: *( xchar / hexchar )"),
    ],
)
def test_xtext_is_decoded(encoded: str, decoded: str) -> None:
    assert p.decode_xtext(encoded) == decoded


@pytest.mark.parametrize(
    "encoded",
    ["a=b", "a+b", "a+2", "+ZZ", "+", "a b", "\x7f", "caf\xe9", "+C3", "+FF", "+ED+A0+80", "+C3g+BC", "a\n"],
)
def test_what_is_no_xtext_is_refused(encoded: str) -> None:
    with pytest.raises(ValueError, match="not valid xtext"):
        p.decode_xtext(encoded)


@given(st.text())
def test_xtext_goes_both_ways(text: str) -> None:
    assert p.decode_xtext(xtext(text)) == text


@given(st.text(alphabet=st.characters(max_codepoint=0x10FFFF)))
def test_xtext_of_anything_is_text_or_a_value_error(text: str) -> None:
    try:
        decoded = p.decode_xtext(text)
    except ValueError:
        return
    assert p.decode_xtext(xtext(decoded)) == decoded


# --- DSN ---


@pytest.mark.parametrize(
    ("line", "values"),
    [
        pytest.param(
            "MAIL FROM:<Alice@Example.ORG> RET=HDRS ENVID=QQ314159",
            {"RET": "HDRS", "ENVID": "QQ314159"},
            id="RFC 3461 10.1",
        ),
        pytest.param("MAIL FROM:<a@b.example> RET=FULL", {"RET": "FULL"}, id="RFC 3461 4.3: FULL"),
        pytest.param("MAIL FROM:<a@b.example> ret=full", {"RET": "FULL"}, id="RFC 3461 4.3: case does not count"),
        pytest.param("MAIL FROM:<a@b.example> ENVID=a+20b", {"ENVID": "a b"}, id="RFC 3461 4.4: xtext"),
        pytest.param(f"MAIL FROM:<> ENVID={'x' * 100}", {"ENVID": "x" * 100}, id="RFC 3461 4.4: 100 characters"),
        pytest.param("MAIL FROM:<>", {}, id="neither"),
    ],
)
def test_what_mail_asks_of_dsn(line: str, values: dict[str, object]) -> None:
    assert values_of(line) == values


@pytest.mark.parametrize(
    ("line", "dsn"),
    [
        pytest.param(
            "RCPT TO:<Bob@Example.COM> NOTIFY=SUCCESS ORCPT=rfc822;Bob@Example.COM",
            DSNRecipient(("SUCCESS",), ("rfc822", "Bob@Example.COM")),
            id="RFC 3461 10.1: Bob",
        ),
        pytest.param(
            "RCPT TO:<Carol@Ivory.EDU> NOTIFY=FAILURE ORCPT=rfc822;Carol@Ivory.EDU",
            DSNRecipient(("FAILURE",), ("rfc822", "Carol@Ivory.EDU")),
            id="RFC 3461 10.1: Carol",
        ),
        pytest.param(
            "RCPT TO:<Dana@Ivory.EDU> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Dana@Ivory.EDU",
            DSNRecipient(("SUCCESS", "FAILURE"), ("rfc822", "Dana@Ivory.EDU")),
            id="RFC 3461 10.1: Dana",
        ),
        pytest.param("RCPT TO:<Eric@Bombs.AF.MIL> NOTIFY=NEVER", DSNRecipient(("NEVER",)), id="RFC 3461 10.1: Eric"),
        pytest.param(
            "RCPT TO:<George@Tax-ME.GOV> NOTIFY=FAILURE,DELAY,SUCCESS",
            DSNRecipient(("FAILURE", "DELAY", "SUCCESS")),
            id="RFC 3461 4.1: all three, the order kept",
        ),
        pytest.param("RCPT TO:<a@b.example> notify=delay", DSNRecipient(("DELAY",)), id="RFC 3461 4.1: any case"),
        pytest.param(
            "RCPT TO:<a@b.example> ORCPT=RFC822;a+2Bb@c.example",
            DSNRecipient((), ("rfc822", "a+b@c.example")),
            id="RFC 3461 4.2: xtext, the type in any case",
        ),
        pytest.param(
            "RCPT TO:<a@b.example> ORCPT=rfc822;+C3+BC@b.example",
            DSNRecipient((), ("rfc822", "\xfc@b.example")),
            id="RFC 3461 4.2: UTF-8 as xtext, as Postfix sends it",
        ),
        pytest.param(
            "RCPT TO:<a@b.example> ORCPT=x400;/C+3Dus/",
            DSNRecipient((), ("x400", "/C=us/")),
            id="RFC 3461 4.2: another type",
        ),
        pytest.param(
            r"RCPT TO:<a@b.example> ORCPT=utf-8;\x{5C}\x{E9}a@b.example",
            DSNRecipient((), ("utf-8", "\\\xe9a@b.example")),
            id="RFC 6533 3: utf-8-addr-xtext",
        ),
        pytest.param(
            r"RCPT TO:<a@b.example> ORCPT=UTF-8;\x{1F600}\x{2B}",
            DSNRecipient((), ("utf-8", "\U0001f600+")),
            id="RFC 6533 3: the plus sign and a character beyond the BMP",
        ),
        pytest.param(
            "RCPT TO:<a@b.example> ORCPT=utf-8;caf\xe9@b.example",
            DSNRecipient((), ("utf-8", "caf\xe9@b.example")),
            id="RFC 6533 3: utf-8-addr-unitext",
        ),
        pytest.param(
            f"RCPT TO:<a@b.example> ORCPT=rfc822;{'x' * 493}",
            DSNRecipient((), ("rfc822", "x" * 493)),
            id="RFC 3461 4.2: 500 characters",
        ),
        pytest.param("RCPT TO:<a@b.example>", None, id="neither"),
    ],
)
def test_what_rcpt_asks_of_dsn(line: str, dsn: DSNRecipient | None) -> None:
    assert address_of(line).dsn == dsn


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param("RET", id="RFC 3461 4.3: no value"),
        pytest.param("RET=ALL", id="RFC 3461 4.3: another word"),
        pytest.param("RET=FULL,HDRS", id="RFC 3461 4.3: both"),
        pytest.param("RET=FULL RET=FULL", id="RFC 3461 4.3: twice"),
        pytest.param("ENVID", id="RFC 3461 4.4: no value"),
        pytest.param("ENVID=", id="RFC 5321 4.1.2: an empty value"),
        pytest.param("ENVID=a ENVID=b", id="RFC 3461 4.4: twice"),
        pytest.param("ENVID=a+2", id="RFC 3461 4: half a hexchar"),
        pytest.param("ENVID=+0D+0A", id="RFC 3461 4.4: not printable"),
        pytest.param("ENVID=+C3+BC", id="RFC 3461 4.4: not ASCII"),
        pytest.param(f"ENVID={'x' * 101}", id="RFC 3461 4.4: 101 characters"),
    ],
)
def test_what_mail_may_not_ask_of_dsn(parameters: str) -> None:
    assert refusal_of(f"MAIL FROM:<a@b.example> {parameters}") == (501, "5.5.4")


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param("NOTIFY", id="RFC 3461 4.1: no value"),
        pytest.param("NOTIFY=NEVER,DELAY", id="RFC 3461 4.1: NEVER stands alone"),
        pytest.param("NOTIFY=DELAY,NEVER", id="RFC 3461 4.1: NEVER stands alone, also behind"),
        pytest.param("NOTIFY=NEVER,NEVER", id="RFC 3461 4.1: NEVER twice"),
        pytest.param("NOTIFY=DELAY,DELAY", id="RFC 3461 4.1: a word twice"),
        pytest.param("NOTIFY=SUCCESS,", id="RFC 3461 4.1: an empty word"),
        pytest.param("NOTIFY=ALWAYS", id="RFC 3461 4.1: another word"),
        pytest.param("NOTIFY=DELAY NOTIFY=DELAY", id="RFC 3461 4.1: twice"),
        pytest.param("ORCPT", id="RFC 3461 4.2: no value"),
        pytest.param("ORCPT=rfc822", id="RFC 3461 4.2: no address"),
        pytest.param("ORCPT=rfc822;", id="RFC 3461 4.2: an empty address"),
        pytest.param("ORCPT=;a@b.example", id="RFC 3461 4.2: no type"),
        pytest.param("ORCPT=r@c;a@b.example", id="RFC 3461 4.2: the type is an atom"),
        pytest.param("ORCPT=rfc822;a+b@c.example", id="RFC 3461 4.2: no xtext"),
        pytest.param("ORCPT=rfc822;a+0Ab", id="RFC 3461 4.2: not printable"),
        pytest.param("ORCPT=rfc822;+C3@b.example", id="RFC 3461 4.2: neither ASCII nor UTF-8"),
        pytest.param("ORCPT=rfc822;a ORCPT=rfc822;a", id="RFC 3461 4.2: twice"),
        pytest.param(f"ORCPT=rfc822;{'x' * 494}", id="RFC 3461 4.2: 501 characters"),
        pytest.param("ORCPT=utf-8;a+b@c.example", id="RFC 6533 3: a bare plus sign"),
        pytest.param(r"ORCPT=utf-8;a\b@c.example", id="RFC 6533 3: a bare backslash"),
        pytest.param(r"ORCPT=utf-8;\x{e9}@c.example", id="RFC 6533 3: lower case digits"),
        pytest.param(r"ORCPT=utf-8;\x{9}@c.example", id="RFC 6533 3: one digit"),
        pytest.param(r"ORCPT=utf-8;\x{0A}@c.example", id="RFC 6533 3: a control character"),
        pytest.param(r"ORCPT=utf-8;\x{D800}@c.example", id="RFC 6533 3: a surrogate"),
        pytest.param(r"ORCPT=utf-8;\x{110000}@c.example", id="RFC 6533 3: beyond Unicode"),
    ],
)
def test_what_rcpt_may_not_ask_of_dsn(parameters: str) -> None:
    assert refusal_of(f"RCPT TO:<a@b.example> {parameters}") == (501, "5.5.4")


@pytest.mark.parametrize(
    "line",
    [
        "MAIL FROM:<a@b.example> RET=FULL",
        "MAIL FROM:<a@b.example> ENVID=x",
        "RCPT TO:<a@b.example> NOTIFY=NEVER",
        "RCPT TO:<a@b.example> ORCPT=rfc822;a@b.example",
        "MAIL FROM:<a@b.example> BY=60;N",
        "MAIL FROM:<a@b.example> MT-PRIORITY=1",
        "MAIL FROM:<a@b.example> HOLDFOR=60",
        "MAIL FROM:<a@b.example> HOLDUNTIL=2030-01-31T12:00:00Z",
        "MAIL FROM:<a@b.example> REQUIRETLS",
    ],
)
def test_what_is_switched_off_is_not_recognized(line: str) -> None:
    assert refusal_of(line, syntax_of()) == (555, "5.5.4")


@given(st.text())
def test_an_orcpt_goes_both_ways(address: str) -> None:
    if not address or not address.isprintable() or not address.isascii():
        return
    encoded = f"rfc822;{xtext(address)}"
    if len(encoded) <= 500:
        assert p.parse_orcpt(encoded) == ("rfc822", address)


@given(st.one_of(st.booleans(), st.text(), st.from_regex(r"\A[A-Za-z0-9-]+;.*", fullmatch=True)))
def test_no_orcpt_is_more_than_a_value_error(value: str | bool) -> None:
    try:
        kind, address = p.parse_orcpt(value)
    except ValueError:
        return
    assert kind == kind.lower()
    assert address.isprintable()


# --- DELIVERBY ---


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        pytest.param("120;R", DeliverBy(120, "R"), id="RFC 2852 4: return"),
        pytest.param("600;N", DeliverBy(600, "N"), id="RFC 2852 4: notify"),
        pytest.param("98;NT", DeliverBy(98, "N", trace=True), id="RFC 2852 4: trace"),
        pytest.param("+120;rt", DeliverBy(120, "R", trace=True), id="RFC 2852 4: a sign, any case"),
        pytest.param("-3600;N", DeliverBy(-3600, "N"), id="RFC 2852 4: negative with N"),
        pytest.param("0;N", DeliverBy(0, "N"), id="RFC 2852 4: zero with N"),
        pytest.param("999999999;R", DeliverBy(999_999_999, "R"), id="RFC 2852 4: nine digits"),
        pytest.param("60;R", DeliverBy(60, "R"), id="RFC 2852 3: the least by-time itself"),
        pytest.param("59;N", DeliverBy(59, "N"), id="RFC 2852 4.1: the least by-time is for R"),
    ],
)
def test_by(value: str, parsed: DeliverBy) -> None:
    assert values_of(f"MAIL FROM:<a@b.example> BY={value}") == {"BY": parsed}


@pytest.mark.parametrize(
    "parameter",
    [
        pytest.param("BY", id="RFC 2852 4: no value"),
        pytest.param("BY=120", id="RFC 2852 4: no mode"),
        pytest.param("BY=;R", id="RFC 2852 4: no time"),
        pytest.param("BY=120;X", id="RFC 2852 4: another mode"),
        pytest.param("BY=120;T", id="RFC 2852 4: trace without a mode"),
        pytest.param("BY=120;TR", id="RFC 2852 4: the wrong order"),
        pytest.param("BY=1000000000;N", id="RFC 2852 4: ten digits"),
        pytest.param("BY=--1;N", id="RFC 2852 4: two signs"),
        pytest.param("BY=0;R", id="RFC 2852 4: zero with R"),
        pytest.param("BY=-1;R", id="RFC 2852 4: negative with R"),
        pytest.param("BY=59;R", id="RFC 2852 4.1: less than the least by-time"),
        pytest.param("BY=120;N BY=120;N", id="RFC 2852 4: twice"),
    ],
)
def test_what_is_no_by(parameter: str) -> None:
    assert refusal_of(f"MAIL FROM:<a@b.example> {parameter}") == (501, "5.5.4")


def test_without_a_least_by_time_one_second_is_enough() -> None:
    assert p.parse_by("1;R") == DeliverBy(1, "R")
    with pytest.raises(ValueError, match="at least 1 seconds"):
        p.parse_by("0;R")


# --- MT-PRIORITY ---


@pytest.mark.parametrize("priority", range(-9, 10))
def test_mt_priority(priority: int) -> None:
    assert values_of(f"MAIL FROM:<a@b.example> MT-PRIORITY={priority}") == {"MT-PRIORITY": priority}


@pytest.mark.parametrize(
    "parameter",
    [
        pytest.param("MT-PRIORITY", id="RFC 6710 4.1: no value"),
        pytest.param("MT-PRIORITY=10", id="RFC 6710 4.1: over 9"),
        pytest.param("MT-PRIORITY=-10", id="RFC 6710 4.1: under -9"),
        pytest.param("MT-PRIORITY=+1", id="RFC 6710 7: a plus sign"),
        pytest.param("MT-PRIORITY=-0", id="RFC 6710 7: minus zero"),
        pytest.param("MT-PRIORITY=03", id="RFC 6710 7: a leading zero"),
        pytest.param("MT-PRIORITY=x", id="RFC 6710 7: no number"),
        pytest.param("MT-PRIORITY=\u0663", id="RFC 6710 7: another script's digit"),
        pytest.param("MT-PRIORITY=3 MT-PRIORITY=3", id="RFC 6710 4.1: twice"),
    ],
)
def test_what_is_no_mt_priority(parameter: str) -> None:
    assert refusal_of(f"MAIL FROM:<a@b.example> {parameter}") == (501, "5.5.4")


# --- FUTURERELEASE ---


@pytest.mark.parametrize(
    ("value", "seconds"),
    [pytest.param("1", 1, id="the least"), pytest.param("3600", 3600, id="RFC 4865 4: max-future-release-interval")],
)
def test_hold_for(value: str, seconds: int) -> None:
    assert values_of(f"MAIL FROM:<a@b.example> HOLDFOR={value}") == {"HOLDFOR": seconds}


@pytest.mark.parametrize(
    "parameter",
    [
        pytest.param("HOLDFOR", id="RFC 4865 4: no value"),
        pytest.param("HOLDFOR=0", id="RFC 4865 4: zero"),
        pytest.param("HOLDFOR=-1", id="RFC 4865 4: negative"),
        pytest.param("HOLDFOR=060", id="RFC 4865 4: a leading zero"),
        pytest.param("HOLDFOR=3601", id="RFC 4865 4: over the limit"),
        pytest.param("HOLDFOR=1000000000", id="RFC 4865 4: ten digits"),
        pytest.param("HOLDFOR=60 HOLDFOR=60", id="twice"),
        pytest.param("HOLDUNTIL", id="RFC 4865 4: no date"),
        pytest.param("HOLDUNTIL=tomorrow", id="RFC 3339 5.6: no date"),
        pytest.param("HOLDUNTIL=2007-01-01", id="RFC 3339 5.6: no time"),
        pytest.param("HOLDUNTIL=2007-01-01T12:00:00", id="RFC 3339 5.6: no offset"),
        pytest.param("HOLDUNTIL=2007-13-01T12:00:00Z", id="RFC 3339 5.7: month 13"),
        pytest.param("HOLDUNTIL=2007-02-30T12:00:00Z", id="RFC 3339 5.7: 30 February"),
        pytest.param("HOLDUNTIL=2007-01-01T25:00:00Z", id="RFC 3339 5.7: hour 25"),
        pytest.param("HOLDUNTIL=2007-01-01T12:00:00+2A:00", id="RFC 3339 5.6: no offset either"),
        pytest.param("HOLDUNTIL=9999-12-31T23:59:59-23:59", id="RFC 4865 4: over the limit"),
    ],
)
def test_what_is_no_hold(parameter: str) -> None:
    assert refusal_of(f"MAIL FROM:<a@b.example> {parameter}") == (501, "5.5.4")


@pytest.mark.parametrize(
    ("text", "until"),
    [
        pytest.param("2007-01-01T12:00:00Z", datetime(2007, 1, 1, 12, tzinfo=UTC), id="the past is now"),
        pytest.param(
            "1996-12-19T16:39:57-08:00",
            datetime(1996, 12, 19, 16, 39, 57, tzinfo=timezone(timedelta(hours=-8))),
            id="RFC 3339 5.8: an offset",
        ),
        pytest.param(
            "1985-04-12t23:20:50.52z",
            datetime(1985, 4, 12, 23, 20, 50, 520_000, tzinfo=UTC),
            id="RFC 3339 5.8: a fraction; 5.6: lower case",
        ),
    ],
)
def test_hold_until(text: str, until: datetime) -> None:
    assert values_of(f"MAIL FROM:<a@b.example> HOLDUNTIL={text}") == {"HOLDUNTIL": until}


def test_hold_until_is_held_to_the_longest_hold() -> None:
    parse = partial(p.parse_hold_until, longest=3600)
    soon, late = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (3000, 4000))
    assert parse(soon.isoformat()) == soon
    with pytest.raises(ValueError, match="more than 3600 seconds away"):
        parse(late.isoformat())


@given(st.one_of(st.booleans(), st.text(), st.from_regex(r"\A[0-9-]{10}T[0-9:]{8}Z\Z")))
def test_no_date_is_more_than_a_value_error(value: str | bool) -> None:
    try:
        until = p.parse_hold_until(value, longest=3600)
    except ValueError:
        return
    assert until.tzinfo is not None
