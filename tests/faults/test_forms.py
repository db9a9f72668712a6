"""The forms of a rule: a line of text, JSON; what is wrong with one is said with the field's name."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp.plugins.faults import (
    ACTS,
    FILTERS,
    PLACES,
    Act,
    BadCertificate,
    CertificateFault,
    Delay,
    Disconnect,
    Fail,
    Garbage,
    Greylist,
    RateLimit,
    Reset,
    Rule,
    RuleError,
    format_rule,
    parse_rule,
    rule_from_json,
    rule_to_json,
)

LINES = [
    ("rcpt to=bob@* fail 451 times=1", Rule(at="rcpt", to="bob@*", act=Fail(451), times=1)),
    ("rcpt fail", Rule(at="rcpt", act=Fail())),
    ('end fail 552 "Too big"', Rule(at="end", act=Fail(552, "Too big"))),
    ('end fail 552 enhanced=5.3.4 text="Too \\"big\\""', Rule(at="end", act=Fail(552, 'Too "big"', "5.3.4"))),
    ("rcpt sender=<> to=x@example.com reset", Rule(at="rcpt", sender="<>", to="x@example.com", act=Reset())),
    ("connect peer=192.0.2.0/24 delay 2.5", Rule(at="connect", peer="192.0.2.0/24", act=Delay(2.5))),
    ("  end\tdisconnect  before_reply=false ", Rule(at="end", act=Disconnect(before_reply=False))),
    ("end disconnect false", Rule(at="end", act=Disconnect(before_reply=False))),
    ("mail rate_limit 5 60", Rule(at="mail", act=RateLimit(5, 60))),
    ("mail rate_limit per=60 count=5 code=421", Rule(at="mail", act=RateLimit(5, 60, 421))),
    ("rcpt greylist 300", Rule(at="rcpt", act=Greylist(300))),
    ("tls bad_certificate expired", Rule(at="tls", act=BadCertificate("expired"))),
    ("quit after=2 every=3 garbage", Rule(at="quit", after=2, every=3, act=Garbage())),
    ("auth user=ann fail probability=0.25 seed=7", Rule(at="auth", user="ann", act=Fail(), probability=0.25, seed=7)),
]


@pytest.mark.parametrize(("line", "rule"), LINES, ids=[line for line, _ in LINES])
def test_a_line_is_a_rule_and_is_written_again(line: str, rule: Rule) -> None:
    assert parse_rule(line) == rule
    assert parse_rule(format_rule(rule)) == rule
    assert rule_from_json(json.loads(json.dumps(rule_to_json(rule)))) == rule


WRITTEN = [
    ("rcpt fail", "rcpt fail"),
    ("rcpt times=1 fail to=bob@* code=452", "rcpt to=bob@* fail 452 times=1"),
    ('rcpt fail text="a b"', 'rcpt fail text="a b"'),
    ('rcpt fail 450 "a b"', 'rcpt fail 450 "a b"'),
    ("end disconnect false", "end disconnect before_reply=false"),
    ('rcpt sender="" fail', 'rcpt sender="" fail'),
]


@pytest.mark.parametrize(("line", "written"), WRITTEN)
def test_there_is_one_way_to_write_a_rule(line: str, written: str) -> None:
    assert format_rule(parse_rule(line)) == written


WRONG = [
    ("", "a rule begins with its place and its act"),
    ("  ", "a rule begins with its place and its act"),
    ("to=b@* rcpt fail", "a rule begins with its place, one of connect, tls, helo"),
    ("rcpt", "act must be one of fail, delay, disconnect"),
    ("rcpt explode", "act must be one of fail, delay, disconnect.*not 'explode'"),
    ("lunch fail", "at must be one of connect, tls, .*not 'lunch'"),
    ("rcpt delay", "delay needs seconds"),
    ("mail rate_limit 5", "rate_limit needs per"),
    ("rcpt delay 1 2", "delay has the parameters seconds; '2' is one too many"),
    ("rcpt reset 1", "reset has the parameters none; '1' is one too many"),
    ("rcpt delay soon", "seconds must be a number, not 'soon'"),
    ("rcpt delay 0", "seconds must be a number above 0"),
    ("rcpt delay -1", "seconds must be a number above 0"),
    ("rcpt delay 1e999", "seconds must be a number above 0"),
    ("rcpt fail 250", "code must be a reply code from 400 to 599, not 250"),
    ("rcpt fail 4.5", "code must be a whole number, not '4.5'"),
    ("rcpt fail 451 enhanced=5.1.1", "enhanced: the class of '5.1.1' must equal the class of code 451"),
    ("rcpt fail times=0", "times must be a whole number from 1 to 1000000000, not 0"),
    ("rcpt fail times=often", "times must be a whole number, not 'often'"),
    ("rcpt fail after=-1", "after must be a whole number from 0"),
    ("rcpt fail every=0", "every must be a whole number from 1"),
    ("rcpt fail probability=2", "probability must be a number from 0 to 1, not 2"),
    ("rcpt fail time=1", "time is unknown; a rule with fail may have code, text, enhanced, to, sender"),
    ("rcpt fail times=1 times=2", "times is given twice"),
    ("rcpt fail 451 code=452", "code is given twice"),
    ('rcpt fail 451 text=a"b"', "a quote does not end, or stands inside a word"),
    ('rcpt fail 451 "open', "a quote does not end"),
    ('rcpt fail 451 "\\q"', "is no string in JSON's form"),
    ("rcpt no_starttls", "act: no_starttls is possible at tls, not at rcpt"),
    ("body fail", "act: fail is possible at connect, tls, helo, auth, mail, rcpt, data, end, quit, not at body"),
    ("body disconnect before_reply=false", "before_reply must be true at body"),
    ("end disconnect before_reply=no", "before_reply must be true or false, not 'no'"),
    ("mail to=b@* fail", "to is known at rcpt, data, body, end, not at mail"),
    ("connect user=ann fail", "user is known at auth, mail"),
    ("connect peer=example.com fail", "peer must be an IP address, a network such as 192.0.2.0/24"),
    ("tls bad_certificate old", "fault must be one of expired, self-signed, wrong-host, not 'old'"),
    ("body close_after -1", "octets must be a whole number from 0"),
]


@pytest.mark.parametrize(("line", "text"), WRONG)
def test_what_is_wrong_with_a_line(line: str, text: str) -> None:
    with pytest.raises(RuleError, match=text):
        parse_rule(line)


WRONG_JSON: list[tuple[Any, str]] = [
    ([], "a rule must be an object with at and act"),
    ("rcpt fail", "a rule must be an object"),
    ({}, "act must be one of"),
    ({"act": "fail"}, "at must be one of"),
    ({"act": ["fail"], "at": "rcpt"}, "act must be one of"),
    ({"act": "fail", "at": ["rcpt"]}, "at must be one of"),
    ({"act": "fail", "at": "rcpt", "when": 1}, "when is unknown"),
    ({"act": "fail", "at": "rcpt", "code": "451"}, "code must be a reply code"),
    ({"act": "fail", "at": "rcpt", "code": True}, "code must be a reply code"),
    ({"act": "fail", "at": "rcpt", "text": 1}, "text must be a string"),
    ({"act": "fail", "at": "rcpt", "enhanced": 1}, "enhanced must look like"),
    ({"act": "fail", "at": "rcpt", "to": 1}, "to must be a string"),
    ({"act": "fail", "at": "rcpt", "peer": 1}, "peer must be a string"),
    ({"act": "fail", "at": "rcpt", "id": 1}, "id must be a string"),
    ({"act": "fail", "at": "rcpt", "times": 1.5}, "times must be a whole number"),
    ({"act": "fail", "at": "rcpt", "probability": "1"}, "probability must be a number"),
    ({"act": "disconnect", "at": "end", "before_reply": 1}, "before_reply must be true or false"),
    ({"act": "delay", "at": "end", "seconds": "1"}, "seconds must be a number"),
    ({"act": "delay", "at": "end", "seconds": float("nan")}, "seconds must be a number"),
]


@pytest.mark.parametrize(("form", "text"), WRONG_JSON)
def test_what_is_wrong_with_json(form: Any, text: str) -> None:
    with pytest.raises(RuleError, match=text):
        rule_from_json(form)


def test_json_shows_what_is_given_and_counts() -> None:
    rule = parse_rule("rcpt to=bob@* fail 451 times=1 id=first")
    assert rule_to_json(rule) == {
        "id": "first",
        "at": "rcpt",
        "act": "fail",
        "code": 451,
        "text": "Failed by a rule",
        "enhanced": None,
        "to": "bob@*",
        "times": 1,
        "hits": 0,
    }


@pytest.mark.parametrize("value", [re.compile("bob"), lambda text: True])
def test_patterns_and_functions_are_pythons_alone(value: Any) -> None:
    for form in (format_rule, rule_to_json):
        with pytest.raises(RuleError, match=r"to is .*: text and JSON know globs, addresses and networks alone"):
            form(Rule(at="rcpt", act=Reset(), to=value))


# --- any rule, any text ---

texts = st.text(max_size=20)
counts = st.integers(1, 10**9)
seconds = st.integers(1, 10**9) | st.floats(0.001, 1e9)
codes = st.integers(400, 599)
VALUES: dict[object, st.SearchStrategy[Any]] = {
    "int": counts,
    "float": seconds,
    "bool": st.booleans(),
    "str": texts,
    "str | None": st.none(),
    "CertificateFault": st.sampled_from(get_args(CertificateFault)),
}


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    kind: type[Act] = draw(st.sampled_from(list(ACTS.values())))
    act = kind(
        **{field.name: draw(codes if field.name == "code" else VALUES[field.type]) for field in attrs.fields(kind)}
    )
    at = draw(st.sampled_from([place for place in PLACES if place in kind.places]))
    if at == "body" and isinstance(act, Disconnect):
        act = Disconnect()
    optional = st.none() | texts
    filters: dict[str, Any] = {name: draw(optional) for name in ("to", "sender", "user") if at in FILTERS[name]}
    return Rule(
        at=at,
        act=act,
        peer=draw(st.none() | st.ip_addresses().map(str)),
        times=draw(st.none() | counts),
        after=draw(st.integers(0, 10**9)),
        every=draw(counts),
        probability=draw(st.floats(0, 1)),
        seed=draw(st.none() | st.integers(0, 10**9)),
        **filters,
    )


@given(rules())
def test_every_rule_comes_back_from_its_forms(rule: Rule) -> None:
    assert parse_rule(format_rule(rule)) == rule
    assert rule_from_json(json.loads(json.dumps(rule_to_json(rule)))) == rule


WORDS = st.sampled_from(
    [*PLACES, *ACTS, "to=", "times=", '"', "\\", "=", "451", "1", " ", "x", "é", "\n", "code=", "9" * 400]
)


@given(st.text() | st.lists(WORDS).map(" ".join) | st.lists(WORDS).map("".join))
def test_a_line_is_a_rule_or_a_rule_error(line: str) -> None:
    try:
        rule = parse_rule(line)
    except RuleError:
        return
    assert parse_rule(format_rule(rule)) == rule


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KEYS = ["id", "at", "act", "code", "text", "to", "peer", "seconds", "times", "seed", "before_reply", "hits"]


@given(values | st.dictionaries(st.sampled_from(KEYS), values | st.sampled_from([*PLACES, *ACTS])))
def test_json_is_a_rule_or_a_rule_error(form: Any) -> None:
    try:
        rule = rule_from_json(form)
    except RuleError:
        return
    assert rule_from_json(rule_to_json(rule)) == rule
