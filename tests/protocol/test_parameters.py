"""ESMTP parameters of MAIL and RCPT, and xtext."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.protocol.errors import ParserCrashed, ProtocolError, SMTPError
from trio_smtp.protocol.parameters import (
    DeliverBy,
    ParameterParser,
    decode_xtext,
    parse_auth,
    parse_body,
    parse_by,
    parse_envid,
    parse_flag,
    parse_hold_for,
    parse_hold_until,
    parse_mt_priority,
    parse_notify,
    parse_orcpt,
    parse_parameters,
    parse_ret,
    parse_size,
    upper_ascii,
)

YEAR = 366 * 24 * 3600
binary_body = partial(parse_body, binary=True)
by_at_least_60 = partial(parse_by, least=60)
hold_for_an_hour = partial(parse_hold_for, longest=3600)
hold_until = partial(parse_hold_until, longest=YEAR)
SOON = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
LATER = SOON + timedelta(days=2000)

PARSERS: dict[str, ParameterParser] = {
    "SIZE": parse_size,
    "BODY": binary_body,
    "SMTPUTF8": parse_flag,
    "AUTH": parse_auth,
    "RET": parse_ret,
    "ENVID": parse_envid,
    "NOTIFY": parse_notify,
    "ORCPT": parse_orcpt,
    "BY": parse_by,
    "MT-PRIORITY": parse_mt_priority,
    "HOLDFOR": hold_for_an_hour,
    "HOLDUNTIL": hold_until,
}


# --- the list ---


@pytest.mark.parametrize(
    ("text", "args", "values"),
    [
        pytest.param("", {}, {}, id="none"),
        pytest.param(" ", {}, {}, id="a space alone"),
        pytest.param(" SIZE=5", {"SIZE": "5"}, {"SIZE": 5}, id="RFC 5321 4.1.1.11"),
        pytest.param(" size=5", {"SIZE": "5"}, {"SIZE": 5}, id="RFC 5321 2.4 any case"),
        pytest.param(" SMTPUTF8", {"SMTPUTF8": True}, {"SMTPUTF8": True}, id="RFC 5321 4.1.2 no value"),
        pytest.param("  SIZE=5   BODY=7bit  ", {"SIZE": "5", "BODY": "7bit"}, {"SIZE": 5, "BODY": "7BIT"}, id="spaces"),
        pytest.param(" AUTH=<>", {"AUTH": "<>"}, {"AUTH": "<>"}, id="RFC 5321 4.1.2 esmtp-value"),
        pytest.param(" ORCPT=utf-8;ü", {"ORCPT": "utf-8;ü"}, {"ORCPT": ("utf-8", "ü")}, id="RFC 6531 3.3 esmtp-value"),
    ],
)
def test_list(text: str, args: dict[str, str | bool], values: dict[str, object]) -> None:
    found = parse_parameters(text, PARSERS)
    assert (dict(found[0]), dict(found[1])) == (args, values)


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        pytest.param("SIZE=5", 501, "Parameters follow the path after a space", id="RFC 5321 4.1.1.2 no space"),
        pytest.param(">", 501, "Parameters follow the path after a space", id="a bracket"),
        pytest.param(" =5", 501, "Malformed parameter", id="RFC 5321 4.1.2 no keyword"),
        pytest.param(" SIZE=", 501, "Malformed parameter", id="RFC 5321 4.1.2 an empty value"),
        pytest.param(" SIZE=5=6", 501, "Malformed parameter", id="RFC 5321 4.1.2 an equals sign in a value"),
        pytest.param(" -X=5", 501, "Malformed parameter", id="RFC 5321 4.1.2 a hyphen in front"),
        pytest.param(" X_Y=5", 501, "Malformed parameter", id="RFC 5321 4.1.2 an underscore"),
        pytest.param(" \u017fIZE=5", 501, "Malformed parameter", id="a long s is no S"),
        pytest.param(" SIZE=\x7f", 501, "Malformed parameter", id="a control character"),
        pytest.param(" SIZE=5\tBODY=7BIT", 501, "Malformed parameter", id="a tab"),
        pytest.param(" SIZE=5 SIZE=5", 501, "SIZE given twice", id="twice"),
        pytest.param(" SIZE=5 size=6", 501, "SIZE given twice", id="twice in two cases"),
        pytest.param(" SIZE=x", 501, "SIZE: needs a number of octets", id="a bad value"),
        pytest.param(" SIZE", 501, "SIZE: needs a number of octets", id="no value"),
        pytest.param(" SMTPUTF8=1", 501, "SMTPUTF8: takes no value", id="RFC 6531 3.4 a value"),
        pytest.param(" FOO=1", 555, "FOO: parameter not recognized", id="RFC 5321 4.1.1.11 unknown"),
        pytest.param(" SIZE=5 FOO", 555, "FOO: parameter not recognized", id="unknown behind a known one"),
    ],
)
def test_bad_list(text: str, code: int, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_parameters(text, PARSERS)
    error = caught.value
    assert (error.code, error.enhanced, error.message, error.counted) == (code, "5.5.4", says, True)


def test_unknown_ones_may_be_allowed() -> None:
    args, values = parse_parameters(" foo=1 BAR SIZE=5", PARSERS, allow_unknown=True)
    assert dict(args) == {"FOO": "1", "BAR": True, "SIZE": "5"}
    assert dict(values) == {"SIZE": 5}
    with pytest.raises(ProtocolError, match="FOO given twice"):
        parse_parameters(" FOO=1 foo", PARSERS, allow_unknown=True)


def test_the_arguments_are_read_only() -> None:
    for text in ("", " SIZE=5"):
        args, _ = parse_parameters(text, PARSERS)
        with pytest.raises(TypeError):
            args["X"] = True  # type: ignore[index]


# --- each parameter ---


def rows(name: str, parser: Callable[..., Any], *pairs: tuple[str | bool, object, str]) -> list[Any]:
    return [pytest.param(parser, value, parsed, id=f"{name}: {why}") for value, parsed, why in pairs]


@pytest.mark.parametrize(
    ("parser", "value", "parsed"),
    [
        *rows(
            "xtext",
            decode_xtext,
            ("", "", "RFC 3461 4 nothing"),
            ("abc!~", "abc!~", "RFC 3461 4 xchar"),
            ("a+3Db+2Bc", "a=b+c", "RFC 3461 4 hexchar"),
            ("a+3db+2bc", "a=b+c", "in lower case"),
            ("+20", " ", "a space"),
            ("+C3+BC", "ü", "UTF-8"),
            ("x+F0+9F+98+80y", "x😀y", "four octets"),
        ),
        *rows(
            "SIZE",
            parse_size,
            ("0", 0, "RFC 1870 5 zero"),
            ("1234", 1234, "RFC 1870 5"),
            ("9" * 20, 10**20 - 1, "RFC 1870 5 twenty digits"),
            ("007", 7, "leading zeros"),
        ),
        *rows(
            "BODY",
            parse_body,
            ("7BIT", "7BIT", "RFC 6152 3"),
            ("8bitMime", "8BITMIME", "RFC 6152 3 any case"),
        ),
        *rows("BODY", binary_body, ("BinaryMIME", "BINARYMIME", "RFC 3030 3"), ("7BIT", "7BIT", "with BINARYMIME on")),
        *rows("flag", parse_flag, (True, True, "RFC 6531 3.4")),
        *rows(
            "AUTH",
            parse_auth,
            ("<>", "<>", "RFC 4954 5 not known"),
            ("e+3Dmc2@example.com", "e=mc2@example.com", "RFC 4954 5 the example"),
            ("+C3+BC@x", "ü@x", "UTF-8 in xtext"),
        ),
        *rows("RET", parse_ret, ("FULL", "FULL", "RFC 3461 4.3"), ("hdrs", "HDRS", "RFC 3461 4.3 any case")),
        *rows(
            "ENVID",
            parse_envid,
            ("QQ314159", "QQ314159", "RFC 3461 4.4"),
            ("a+20b", "a b", "a space"),
            ("x" * 100, "x" * 100, "RFC 3461 4.4 the longest"),
        ),
        *rows(
            "NOTIFY",
            parse_notify,
            ("NEVER", ("NEVER",), "RFC 3461 4.1 NEVER"),
            ("success,FAILURE", ("SUCCESS", "FAILURE"), "RFC 3461 4.1 a list, any case"),
            ("DELAY,FAILURE,SUCCESS", ("DELAY", "FAILURE", "SUCCESS"), "RFC 3461 4.1 all"),
        ),
        *rows(
            "ORCPT",
            parse_orcpt,
            ("rfc822;Bob@example.com", ("rfc822", "Bob@example.com"), "RFC 3461 4.2"),
            ("RFC822;a+2Bb@x", ("rfc822", "a+b@x"), "xtext"),
            ("rfc822;" + "a" * 493, ("rfc822", "a" * 493), "RFC 3461 4.2 the longest"),
            ("rfc822;+C3+BC@x", ("rfc822", "ü@x"), "xtext of UTF-8, as Postfix sends it"),
            ("utf-8;ü@x", ("utf-8", "ü@x"), "RFC 6533 3 as UTF-8"),
            (r"UTF-8;\x{FC}@x", ("utf-8", "ü@x"), "RFC 6533 3 embedded"),
            (r"utf-8;\x{1F600}\x{2B}", ("utf-8", "😀+"), "RFC 6533 3 several"),
        ),
        *rows(
            "BY",
            parse_by,
            ("120;R", DeliverBy(120, "R"), "RFC 2852 4 return"),
            ("120;nt", DeliverBy(120, "N", trace=True), "RFC 2852 4 notify, trace"),
            ("-5;N", DeliverBy(-5, "N"), "RFC 2852 4 late already"),
            ("+0;N", DeliverBy(0, "N"), "RFC 2852 4 now"),
            ("999999999;RT", DeliverBy(999_999_999, "R", trace=True), "RFC 2852 4 nine digits"),
        ),
        *rows(
            "BY",
            by_at_least_60,
            ("60;R", DeliverBy(60, "R"), "RFC 2852 3 the least"),
            ("1;N", DeliverBy(1, "N"), "RFC 2852 3 there is no least for N"),
        ),
        *rows(
            "MT-PRIORITY",
            parse_mt_priority,
            ("0", 0, "RFC 6710 4.1"),
            ("9", 9, "RFC 6710 4.1 high"),
            ("-9", -9, "RFC 6710 4.1 low"),
        ),
        *rows("HOLDFOR", hold_for_an_hour, ("1", 1, "RFC 4865 4"), ("3600", 3600, "the longest")),
        *rows(
            "HOLDUNTIL",
            hold_until,
            (f"{SOON:%Y-%m-%dT%H:%M:%S}Z", SOON, "RFC 4865 4"),
            (f"{SOON:%Y-%m-%dt%H:%M:%S}z", SOON, "RFC 3339 5.6 any case"),
            (f"{SOON:%Y-%m-%dT%H:%M:%S}.25Z", SOON.replace(microsecond=250_000), "RFC 3339 5.6 a fraction"),
            (f"{SOON + timedelta(minutes=90):%Y-%m-%dT%H:%M:%S}+01:30", SOON, "RFC 3339 5.6 an offset"),
        ),
    ],
)
def test_values(parser: ParameterParser, value: str | bool, parsed: object) -> None:
    assert parser(value) == parsed


def bad_rows(name: str, parser: Callable[..., Any], *pairs: tuple[str | bool, str]) -> list[Any]:
    return [pytest.param(parser, value, id=f"{name}: {why}") for value, why in pairs]


@pytest.mark.parametrize(
    ("parser", "value"),
    [
        *bad_rows(
            "xtext",
            decode_xtext,
            ("+", "RFC 3461 4 a plus sign alone"),
            ("+2", "one digit"),
            ("+ZZ", "no digits"),
            ("a=b", "an equals sign"),
            ("a b", "a space"),
            ("ü", "not ASCII"),
            ("\n", "a newline"),
            ("+C3", "half of a character"),
            ("+FF", "no UTF-8"),
            ("+C0+AF", "RFC 3629 3 an overlong form"),
            ("+ED+A0+80", "RFC 3629 3 a surrogate"),
            ("+C3a+BC", "a character with an octet between"),
        ),
        *bad_rows(
            "SIZE",
            parse_size,
            (True, "no value"),
            ("-1", "RFC 1870 5 a sign"),
            ("+1", "a plus sign"),
            ("1.5", "a fraction"),
            ("1_000", "Python's underscores"),
            ("0x10", "hexadecimal"),
            ("\u0661", "digits of another script"),
            ("\u00b2", "a superscript"),
            ("1" * 21, "RFC 1870 5 twenty-one digits"),
        ),
        *bad_rows(
            "BODY",
            parse_body,
            (True, "no value"),
            ("BINARYMIME", "RFC 3030 3 when it is off"),
            ("9BIT", "another"),
            ("8B\u0131TMIME", "a dotless i"),
        ),
        *bad_rows("BODY", binary_body, ("BINARY", "no such type")),
        *bad_rows("flag", parse_flag, ("1", "RFC 6531 3.4 a value"), ("", "an empty one"), (False, "false")),
        *bad_rows(
            "AUTH", parse_auth, (True, "no value"), ("+0A", "a newline"), ("a+b", "no xtext"), ("+E2+80+AE", "bidi")
        ),
        *bad_rows("RET", parse_ret, (True, "no value"), ("HALF", "another"), ("HDR\u017f", "a long s")),
        *bad_rows(
            "ENVID",
            parse_envid,
            (True, "no value"),
            ("x" * 101, "RFC 3461 4.4 too long"),
            ("+0A", "RFC 3461 4.4 a newline"),
            ("+C3+BC", "RFC 3461 4.4 not ASCII"),
            ("a+b", "no xtext"),
        ),
        *bad_rows(
            "NOTIFY",
            parse_notify,
            (True, "no value"),
            ("NEVER,FAILURE", "RFC 3461 4.1 NEVER with others"),
            ("NEVER,NEVER", "NEVER twice"),
            ("FAILURE,FAILURE", "RFC 3461 4.1 twice"),
            ("FAILURE,", "an empty word"),
            ("SOMETIMES", "another"),
            ("\u017fUCCESS", "a long s"),
        ),
        *bad_rows(
            "ORCPT",
            parse_orcpt,
            (True, "no value"),
            ("a@x", "RFC 3461 4.2 no type"),
            (";a@x", "an empty type"),
            ("rfc822;", "RFC 3461 4.2 no address"),
            ("rfc 822;a", "a space in the type"),
            ("rfc822;" + "a" * 494, "RFC 3461 4.2 too long"),
            ("rfc822;a+b", "no xtext"),
            ("rfc822;+00", "NUL"),
            ("rfc822;ü", "RFC 6533 3 not ASCII"),
            ("rfc822;+C3", "neither ASCII nor UTF-8, in xtext"),
            ("utf-8;a+b", "RFC 6533 3 a plus sign"),
            ("utf-8;a\\b", "RFC 6533 3 a backslash"),
            (r"utf-8;\x{}", "RFC 6533 3 nothing embedded"),
            (r"utf-8;\x{fc}", "RFC 6533 3 lower case"),
            (r"utf-8;\x{0A}", "a newline"),
            (r"utf-8;\x{202E}", "bidi"),
            (r"utf-8;\x{D800}", "RFC 6533 3 a surrogate"),
            (r"utf-8;\x{110000}", "RFC 6533 3 beyond Unicode"),
        ),
        *bad_rows(
            "BY",
            parse_by,
            (True, "no value"),
            ("120", "RFC 2852 4 no mode"),
            ("120;X", "another mode"),
            ("120;TR", "RFC 2852 4 the trace in front"),
            ("0;R", "RFC 2852 4 R needs time"),
            ("-1;R", "RFC 2852 4 R and late"),
            ("1234567890;N", "RFC 2852 4 ten digits"),
            ("\u0661;N", "digits of another script"),
        ),
        *bad_rows("BY", by_at_least_60, ("59;R", "RFC 2852 3 under the least")),
        *bad_rows(
            "MT-PRIORITY",
            parse_mt_priority,
            (True, "no value"),
            ("10", "RFC 6710 4.1 too high"),
            ("+1", "RFC 6710 5 a plus sign"),
            ("-0", "RFC 6710 5 minus zero"),
            ("", "nothing"),
        ),
        *bad_rows(
            "HOLDFOR",
            hold_for_an_hour,
            (True, "no value"),
            ("0", "RFC 4865 4 zero"),
            ("-1", "RFC 4865 4 a sign"),
            ("3601", "too long"),
            ("1234567890", "RFC 4865 4 ten digits"),
        ),
        *bad_rows(
            "HOLDUNTIL",
            hold_until,
            (True, "no value"),
            ("tomorrow", "no date"),
            (f"{SOON:%Y-%m-%d}", "RFC 4865 4 a date alone"),
            (f"{SOON:%Y-%m-%dT%H:%M:%S}", "RFC 3339 4.4 no zone"),
            (f"{SOON:%Y-%m-%d %H:%M:%S}Z", "a space"),
            (f"{SOON:%Y}-13-01T00:00:00Z", "no such month"),
            (f"{SOON:%Y}-01-01T25:00:00Z", "no such hour"),
            (f"{SOON:%Y-%m-%dT%H:%M:%S}+99:00", "no such offset"),
            (f"{LATER:%Y-%m-%dT%H:%M:%S}Z", "too far away"),
            ("9999-12-31T23:59:59-23:59", "the end of time"),
        ),
    ],
)
def test_bad_values(parser: ParameterParser, value: str | bool) -> None:
    with pytest.raises(ValueError, match=r"."):
        parser(value)


@pytest.mark.parametrize(
    ("value", "keyword"), [("abc", "ABC"), ("", ""), (True, ""), ("\u0131", ""), ("\u017f", ""), ("\ufb00", "")]
)
def test_upper_ascii(value: str | bool, keyword: str) -> None:
    assert upper_ascii(value) == keyword


def encode_xtext(text: str) -> str:
    """RFC 3461 section 4, the other way round."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}" for octet in text.encode()
    )


@settings(deadline=None)
@given(st.text())
def test_xtext_round_trip(text: str) -> None:
    assert decode_xtext(encode_xtext(text)) == text


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(PARSERS)),
    st.one_of(
        st.text(),
        st.text("+-;,.:TZ0123456789ABCDEFabcdef\\x{}<>ü", max_size=30),
        st.tuples(st.sampled_from(["utf-8;", "rfc822;", "2030-01-01T"]), st.text("+0123456789:ABCDZ\\x{}")).map(
            "".join
        ),
        st.just(True),
    ),
)
def test_any_value_is_parsed_or_a_value_error(keyword: str, value: str | bool) -> None:
    try:
        parsed = PARSERS[keyword](value)
    except ValueError:
        return
    if isinstance(parsed, str):
        assert parsed.isprintable()
    assert parsed is not None


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.sampled_from(sorted(PARSERS)), st.text(max_size=6), st.sampled_from(" ==+<>5"))).map("".join),
    st.booleans(),
)
def test_any_list_is_parsed_or_a_protocol_error(text: str, allow_unknown: bool) -> None:
    error = None
    try:
        args, values = parse_parameters(f" {text}", PARSERS, allow_unknown=allow_unknown)
    except ProtocolError as exc:
        error = exc
    else:
        assert set(values) == set(args) & set(PARSERS)
        assert allow_unknown or set(args) <= set(PARSERS)
    if error is not None:
        assert (error.code in (501, 555), error.enhanced) == (True, "5.5.4")
        assert error.code == 501 or not allow_unknown


def test_a_parser_that_fails_is_not_the_clients_fault() -> None:
    def fail(value: str | bool) -> object:
        raise KeyError(value)

    with pytest.raises(ParserCrashed) as caught:
        parse_parameters(" SIZE=1 X=secret", {**PARSERS, "X": fail})
    crashed = caught.value
    assert isinstance(crashed.crash, KeyError)
    assert crashed.__cause__ is crashed.crash
    assert crashed.verb is None
    assert "secret" not in str(crashed)


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(SMTPError("Try later", 450, "4.2.1"), id="a refusal"),
        pytest.param(SMTPError(["One", "Two"], 421), id="two lines, the usual enhanced code, the end"),
        pytest.param(ProtocolError("Enough", 500, close=True), id="a ProtocolError: not the client's breach"),
    ],
)
def test_a_parser_that_refuses(refusal: SMTPError) -> None:
    def refuse(value: str | bool) -> object:
        raise refusal

    with pytest.raises(ProtocolError) as caught:
        parse_parameters(" X", {"X": refuse})
    error = caught.value
    assert (error.reply, error.counted, error.close) == (refusal.reply, False, False)
