"""Rules: the live collection, which any thread may change while servers go by it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict, Unpack

from .acts import (
    Act,
    BadCertificate,
    CertificateFault,
    CloseAfter,
    Delay,
    Disconnect,
    Fail,
    Garbage,
    Greylist,
    NoStartTLS,
    Place,
    RateLimit,
    Reset,
    Throttle,
    Truncate,
)
from .errors import RuleError
from .facts import Facts
from .filters import Filter, PeerFilter
from .forms import parse_rule, rule_from_json, rule_to_json
from .rule import Rule

__all__ = ["AnyRule", "Rules", "When"]

#: A rule in any of its forms.
AnyRule = Rule | str | Mapping[str, Any]


class When(TypedDict, total=False):
    """The filters and counts of a `Rule`."""

    to: Filter
    sender: Filter
    user: Filter
    peer: PeerFilter
    times: int
    after: int
    every: int
    probability: float
    seed: int


class Rules:
    """A live collection of rules, in their order; any thread may read and change it while servers go by it.

    Several rules may act on one event, in their order, up to the first that ends it (`Act.ends`); those behind that one
    do not count the event. So two rules with ``times=1`` act one after the other.

    Args:
        rules: The first rules.
        seed: Makes every `probability` repeatable; None: chance decides.

    Raises:
        RuleError: A rule is malformed, or two have the same `id`.
    """

    def __init__(self, rules: Iterable[AnyRule] = (), *, seed: int | None = None) -> None:
        self._lock = threading.RLock()  # a filter may be a function that looks at the rules
        self._seed = seed
        self._last = 0
        self._rules: tuple[Rule, ...] = ()
        if isinstance(rules, str):  # its letters would be taken for rules
            raise RuleError(f"rules must be a list of rules, such as [{rules!r}]")
        for rule in rules:
            self.add(rule)

    def __iter__(self) -> Iterator[Rule]:
        """The rules as they are now."""
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __getitem__(self, id: str) -> Rule:  # noqa: A002 - the name of the field
        """The rule of that id.

        Raises:
            KeyError: There is none.
        """
        for rule in self._rules:
            if rule.id == id:
                return rule
        raise KeyError(id)

    def add(self, rule: AnyRule) -> Rule:
        """Add a rule behind the others.

        Args:
            rule: A `Rule`, a line of text, or JSON's form.

        Returns:
            The live rule, a copy with an `id`: its `hits` are counted.

        Raises:
            RuleError: It is malformed, or its `id` is there already.
        """
        made = _rule_of(rule)
        with self._lock:
            live = self._live(made, {each.id for each in self._rules})
            self._rules = (*self._rules, live)
        return live

    def remove(self, rule: Rule | str) -> Rule:
        """Take a rule out.

        Args:
            rule: The rule, or its id.

        Returns:
            The rule.

        Raises:
            KeyError: There is none of that id.
        """
        name = rule if isinstance(rule, str) else rule.id
        with self._lock:
            found = self[name]
            self._rules = tuple(each for each in self._rules if each is not found)
        return found

    def clear(self) -> None:
        """Take all rules out."""
        with self._lock:
            self._rules = ()

    def replace(self, rules: Iterable[AnyRule]) -> list[Rule]:
        """Put these rules in the place of all others. One with the `id` of a live rule that equals it goes on counting.

        Args:
            rules: The rules.

        Returns:
            The live rules.

        Raises:
            RuleError: One is malformed, or two have the same `id`; nothing has changed then.
        """
        made = [_rule_of(rule) for rule in rules]
        with self._lock:
            before = {rule.id: rule for rule in self._rules}
            taken = {rule.id for rule in made if rule.id}
            live: list[Rule] = []
            for rule in made:
                kept = before.get(rule.id)
                if kept is not None and kept == rule and kept not in live:
                    live.append(kept)
                else:
                    others = {each.id for each in live} | (set() if rule.id else taken)
                    live.append(self._live(rule, others))
            self._rules = tuple(live)
        return live

    def to_json(self) -> list[dict[str, Any]]:
        """The rules as JSON's values, each as `rule_to_json` gives it.

        Raises:
            RuleError: A rule has a filter that only Python can say.
        """
        return [rule_to_json(rule) for rule in self._rules]

    def take(self, at: Place, facts: Facts, now: float, *acts: type[Act]) -> list[Rule]:
        """The rules that act on an event, in their order; counts it.

        Args:
            at: The place.
            facts: What is known of it.
            now: Seconds of the clock that the server goes by.
            acts: The acts that are possible now; none: all.
        """
        if not self._rules:
            return []
        taken: list[Rule] = []
        with self._lock:
            for rule in self._rules:
                if rule.at != at or (acts and not isinstance(rule.act, acts)) or not rule.fires(facts, now):
                    continue
                taken.append(rule)
                if rule.act.ends:
                    break
        return taken

    def has(self, at: Place) -> bool:
        """Whether there is a rule for the place."""
        return any(rule.at == at for rule in self._rules)

    def _live(self, rule: Rule, taken: set[str]) -> Rule:
        """A copy that counts from zero, with an id; call it with the lock held."""
        if rule.id in taken:
            raise RuleError(f"id: {rule.id!r} is there already")
        name = rule.id
        while not name or name in taken:
            self._last += 1
            name = str(self._last)
        return rule.copied(name, None if self._seed is None else f"{self._seed} {name}")

    # One method for each act

    def _add(self, at: Place, act: Act, when: When) -> Rule:
        for name in when:
            if name not in When.__annotations__:
                raise TypeError(f"{name} is unknown; a rule may have {', '.join(When.__annotations__)}")
        return self.add(Rule(at=at, act=act, **when))

    def fail(
        self,
        at: Place,
        code: int = 451,
        text: str = "Failed by a rule",
        *,
        enhanced: str | None = None,
        **when: Unpack[When],
    ) -> Rule:
        """Add a rule with `Fail`."""
        return self._add(at, Fail(code, text, enhanced), when)

    def delay(self, at: Place, seconds: float, **when: Unpack[When]) -> Rule:
        """Add a rule with `Delay`."""
        return self._add(at, Delay(seconds), when)

    def disconnect(self, at: Place, *, before_reply: bool = True, **when: Unpack[When]) -> Rule:
        """Add a rule with `Disconnect`."""
        return self._add(at, Disconnect(before_reply), when)

    def reset(self, at: Place, **when: Unpack[When]) -> Rule:
        """Add a rule with `Reset`."""
        return self._add(at, Reset(), when)

    def throttle(self, at: Place, octets_per_second: float, **when: Unpack[When]) -> Rule:
        """Add a rule with `Throttle`."""
        return self._add(at, Throttle(octets_per_second), when)

    def rate_limit(self, at: Place, count: int, per: float, **when: Unpack[When]) -> Rule:
        """Add a rule with `RateLimit`."""
        return self._add(at, RateLimit(count, per), when)

    def greylist(self, seconds: float, **when: Unpack[When]) -> Rule:
        """Add a rule with `Greylist`, at ``rcpt``."""
        return self._add("rcpt", Greylist(seconds), when)

    def garbage(self, at: Place, **when: Unpack[When]) -> Rule:
        """Add a rule with `Garbage`."""
        return self._add(at, Garbage(), when)

    def truncate(self, at: Place, **when: Unpack[When]) -> Rule:
        """Add a rule with `Truncate`."""
        return self._add(at, Truncate(), when)

    def no_starttls(self, **when: Unpack[When]) -> Rule:
        """Add a rule with `NoStartTLS`, at ``tls``."""
        return self._add("tls", NoStartTLS(), when)

    def bad_certificate(self, fault: CertificateFault, **when: Unpack[When]) -> Rule:
        """Add a rule with `BadCertificate`, at ``tls``."""
        return self._add("tls", BadCertificate(fault), when)

    def close_after(self, octets: int, **when: Unpack[When]) -> Rule:
        """Add a rule with `CloseAfter`, in ``body``."""
        return self._add("body", CloseAfter(octets), when)


def _rule_of(rule: AnyRule) -> Rule:
    if isinstance(rule, Rule):
        return rule
    return parse_rule(rule) if isinstance(rule, str) else rule_from_json(rule)
