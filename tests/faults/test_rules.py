"""Rules: the live collection, its counts and its filters."""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp.plugins.faults import Delay, Facts, Fail, Greylist, RateLimit, Reset, Rule, RuleError, Rules


def hits(rules: Rules, events: int, now: float = 0, facts: Facts | None = None) -> list[int]:
    """The numbers of the events on which a rule has acted."""
    facts = facts or Facts(sender="a@example.org", to=("b@example.com",))
    return [n for n in range(1, events + 1) if rules.take("rcpt", facts, now)]


@pytest.mark.parametrize(
    ("counts", "acted"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("times=2", [1, 2]),
        ("after=3", [4, 5, 6, 7, 8]),
        ("every=3", [3, 6]),
        ("after=1 every=3 times=1", [4]),
        ("probability=0", []),
    ],
)
def test_counts(counts: str, acted: list[int]) -> None:
    rules = Rules([f"rcpt fail {counts}"])
    assert hits(rules, 8) == acted
    assert next(iter(rules)).hits == len(acted)


def test_probability_is_the_seeds() -> None:
    line = "rcpt fail probability=0.5"
    first = hits(Rules([line], seed=1), 64)
    assert first == hits(Rules([line], seed=1), 64)
    assert first != hits(Rules([line], seed=2), 64)
    assert 16 < len(first) < 48
    own = hits(Rules([f"{line} seed=3"], seed=1), 64)
    assert own == hits(Rules([f"{line} seed=3"]), 64)
    assert own != first
    assert 16 < len(hits(Rules([line]), 64)) < 48  # by chance, and less likely than 1 in 10,000 to fail


def test_dice_of_one_rule_do_not_hang_on_another() -> None:
    alone = Rules(["rcpt fail probability=0.5 id=x"], seed=1)
    beside = Rules(["rcpt delay 1 probability=0.5 id=y", "rcpt fail probability=0.5 id=x"], seed=1)
    for _ in range(64):
        alone.take("rcpt", Facts(), 0)
        beside.take("rcpt", Facts(), 0)
    assert alone["x"].hits == beside["x"].hits


@pytest.mark.parametrize(
    ("field", "wanted", "yes", "no"),
    [
        ("to", "bob@*", "BOB@example.com", "alice@example.com"),
        ("to", "b?b@example.com", "bib@example.com", "bb@example.com"),
        ("to", "*@[192.0.2.1]", "x@[192.0.2.1]", "x@1"),
        ("to", re.compile("^b"), "bob@example.com", "rob@example.com"),
        ("to", lambda address: address.endswith("com"), "bob@example.com", "bob@example.org"),
        ("sender", "", "", "a@example.org"),
        ("sender", "<>", "", "a@example.org"),
        ("sender", "*", "a@example.org", None),
        ("user", "ann", "ann", None),
        ("peer", "192.0.2.0/24", "192.0.2.7", "198.51.100.1"),
        ("peer", "192.0.2.1", "192.0.2.1", None),
        ("peer", "192.0.2.1", "192.0.2.1", "::1"),
        ("peer", ipaddress.ip_network("2001:db8::/32"), "2001:db8::1", "192.0.2.1"),
        ("peer", lambda peer: peer == "::1", "::1", "192.0.2.1"),
    ],
)
def test_filters(field: str, wanted: Any, yes: str, no: str | None) -> None:
    rules = Rules([Rule(at="end", act=Reset(), **{field: wanted})])

    def facts(value: Any) -> Facts:
        if field == "to":
            return Facts(to=("nobody@example.net",) if value is None else ("other@example.net", value))
        return Facts(**{field: value})

    assert rules.take("end", facts(yes), 0)
    assert not rules.take("end", facts(no), 0)
    assert not rules.take("quit", facts(yes), 0)


@pytest.mark.parametrize("glob", ["*a" * 40 + "*b", "*" * 200 + "b", "*?" * 40 + "b", "?*" * 40 + "b"])
def test_a_glob_of_many_stars_takes_no_time(glob: str) -> None:
    rule = Rule(at="rcpt", act=Reset(), to=glob)
    began = time.process_time()
    assert not Rules([rule]).take("rcpt", Facts(to=("a" * 250,)), 0)
    assert Rules([rule]).take("rcpt", Facts(to=("a" * 250 + "B",)), 0)
    assert time.process_time() - began < 1


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_globs_are_what_the_plain_pattern_is(glob: str, text: str) -> None:
    plain = glob.replace("*", ".*").replace("?", ".")
    acts = Rules([Rule(at="rcpt", act=Reset(), to=glob)]).take("rcpt", Facts(to=(text,)), 0)
    assert bool(acts) == (re.fullmatch(plain, text) is not None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("to", 1), ("to", re.compile(b"x")), ("peer", "example.com"), ("peer", 1), ("peer", b"1234"), ("peer", object())],
)
def test_a_filter_that_is_none(field: str, value: Any) -> None:
    with pytest.raises(RuleError, match=f"{field} must be"):
        Rule(at="rcpt", act=Reset(), **{field: value})


def test_rules_that_are_one_text() -> None:
    with pytest.raises(RuleError, match=r"rules must be a list of rules, such as \['rcpt fail'\]"):
        Rules("rcpt fail")


@pytest.mark.parametrize("act", ["fail", Reset, object()])
def test_an_act_that_is_none(act: Any) -> None:
    with pytest.raises(RuleError, match="act must be one of fail, delay"):
        Rule(at="rcpt", act=act)


def test_rules_act_in_their_order_up_to_the_first_that_ends() -> None:
    rules = Rules(["rcpt delay 1", "rcpt fail 451 times=1", "rcpt delay 2", "rcpt fail 452 times=1"])

    def acts() -> list[object]:
        return [rule.act for rule in rules.take("rcpt", Facts(), 0)]

    assert acts() == [Delay(1), Fail(451)]
    assert acts() == [Delay(1), Delay(2), Fail(452)]
    assert acts() == [Delay(1), Delay(2)]
    assert [rule.hits for rule in rules] == [3, 1, 2, 1]


def test_the_acts_that_are_possible_alone_count() -> None:
    rules = Rules(["tls no_starttls", "tls fail 454"])
    assert [rule.act for rule in rules.take("tls", Facts(), 0, Fail)] == [Fail(454)]
    assert [rule.hits for rule in rules] == [0, 1]


def test_a_rate_limit() -> None:
    rules = Rules(["rcpt rate_limit 2 60"])
    assert hits(rules, 4, now=0) == [3, 4]
    assert hits(rules, 1, now=59.9) == [1]
    assert hits(rules, 3, now=60) == [3]
    assert isinstance(next(iter(rules)).act, RateLimit)


def test_a_greylist_knows_peer_sender_and_recipient() -> None:
    rules = Rules([Rule(at="rcpt", act=Greylist(300))])
    one, other = Facts("::1", "a@example.org", ("b@example.com",)), Facts("::1", "", ("b@example.com",))
    assert hits(rules, 2, 0, one) == [1, 2]
    assert hits(rules, 1, 300, other) == [1]
    assert hits(rules, 2, 300, one) == []
    assert hits(rules, 1, 600, other) == []


def test_a_greylist_forgets_the_oldest() -> None:
    rules = Rules(["rcpt greylist 300"])
    for n in range(10_001):
        rules.take("rcpt", Facts(sender=f"{n}@example.org"), 0)
    assert hits(rules, 1, 300, Facts(sender="0@example.org")) == [1]
    assert hits(rules, 1, 300, Facts(sender="10000@example.org")) == []


def test_the_collection() -> None:
    rules = Rules()
    assert len(rules) == 0
    first = rules.add("rcpt fail")
    second = rules.add({"at": "mail", "act": "reset", "id": "mine"})
    third = rules.add(Rule(at="quit", act=Reset()))
    assert [rule.id for rule in rules] == ["1", "mine", "2"]
    assert rules["mine"] is second
    assert rules.has("quit")
    assert not rules.has("connect")
    assert rules.remove("1") is first
    assert rules.remove(third) is third
    assert list(rules) == [second]
    with pytest.raises(KeyError):
        rules.remove("1")
    with pytest.raises(RuleError, match="id: 'mine' is there already"):
        rules.add("rcpt fail id=mine")
    assert [form["id"] for form in rules.to_json()] == ["mine"]
    rules.clear()
    assert list(rules) == []
    with pytest.raises(KeyError):
        rules["mine"]


def test_one_rule_in_two_collections_counts_twice() -> None:
    rule = Rule(at="rcpt", act=Fail())
    here, there = Rules([rule]), Rules([rule, rule])
    assert hits(here, 2) == [1, 2]
    assert [each.hits for each in (*here, *there, rule)] == [2, 0, 0, 0]


def test_replace_keeps_what_stays() -> None:
    rules = Rules(["rcpt fail", "mail fail"], seed=5)
    hits(rules, 3)
    forms = rules.to_json()
    live = rules.replace([forms[1] | {"code": 452}, "quit reset id=3", forms[0], "helo reset"])
    assert [rule.id for rule in live] == ["2", "3", "1", "4"]
    assert list(rules) == live
    assert [rule.hits for rule in live] == [0, 0, 3, 0]


@pytest.mark.parametrize(
    "wrong", [["rcpt fail id=x", "mail fail id=x"], ["rcpt fail id=1", "rcpt fail id=1"], ["rcpt"]]
)
def test_replace_all_or_nothing(wrong: list[str]) -> None:
    rules = Rules(["rcpt fail"])
    with pytest.raises(RuleError):
        rules.replace(wrong)
    assert [rule.id for rule in rules] == ["1"]


def test_each_act_has_a_method() -> None:
    rules = Rules()
    made = [
        rules.fail("rcpt", 452, "No", enhanced="4.1.1", to="b@*"),
        rules.delay("rcpt", 5),
        rules.disconnect("end", before_reply=False),
        rules.reset("end", times=1),
        rules.throttle("body", 100),
        rules.rate_limit("mail", 1, 60),
        rules.greylist(300),
        rules.garbage("quit"),
        rules.truncate("quit"),
        rules.no_starttls(),
        rules.bad_certificate("expired"),
        rules.close_after(10),
    ]
    assert list(rules) == made
    assert len({rule.act.name for rule in made}) == len(made)
    assert made[0] == Rule(at="rcpt", act=Fail(452, "No", "4.1.1"), to="b@*")


def test_threads_change_and_use_rules_at_once() -> None:
    rules = Rules()
    taken: list[int] = []

    def change() -> None:
        for _ in range(200):
            rules.remove(rules.add("quit fail"))
            rules.add("rcpt fail times=1")

    def use() -> None:
        taken.extend(len(rules.take("rcpt", Facts(), 0)) for _ in range(2000))

    threads = [threading.Thread(target=each) for each in (change, use, change, use)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while rules.take("rcpt", Facts(), 0):
        taken.append(1)
    assert sum(taken) == 400 == sum(rule.hits for rule in rules)
    assert len({rule.id for rule in rules}) == 400


def test_a_filter_may_look_at_the_rules() -> None:
    rules = Rules()
    rules.fail("rcpt", to=lambda address: rules.add("quit reset") is not None)
    assert hits(rules, 1) == [1]
    assert len(rules) == 2
