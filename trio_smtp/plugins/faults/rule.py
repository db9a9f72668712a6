"""Rule: a place, filters, counts, and an act."""

from __future__ import annotations

import random
from typing import Any

import attrs

from .acts import ACTS, PLACES, Act, Disconnect, Place
from .errors import RuleError
from .facts import Facts
from .filters import FILTERS, Filter, PeerFilter, check_filter, check_peer, matches, matches_peer

__all__ = ["Rule"]


@attrs.define
class _State:
    """What has become of a live rule.

    Attributes:
        seed: Of `probability`; None: that of the rule, and where it has none chance decides.
        seen: Events that the filters have let through.
        hits: How often the rule has acted.
        memory: The act's own.
        dice: Made when they are first thrown.
    """

    seed: int | str | None = None
    dice: random.Random | None = None
    seen: int = 0
    hits: int = 0
    memory: dict[Any, Any] = attrs.field(factory=dict)

    def fires(self, rule: Rule, facts: Facts, now: float) -> bool:
        """Count an event that the filters have let through; whether the rule acts on it."""
        self.seen += 1
        n = self.seen - rule.after
        if n <= 0 or n % rule.every or (rule.times is not None and self.hits >= rule.times):
            return False
        if rule.probability < 1 and not self._throw(rule):
            return False
        if not rule.act.decide(self.memory, facts, now):
            return False
        self.hits += 1
        return True

    def _throw(self, rule: Rule) -> bool:
        if self.dice is None:
            seed = self.seed if rule.seed is None else rule.seed
            self.dice = random.Random(seed)  # noqa: S311 - failures for tests
        return self.dice.random() < rule.probability


def _count(least: int, *, optional: bool = False) -> Any:
    def check(_: Any, attribute: attrs.Attribute[int], value: Any) -> None:
        if optional and value is None:
            return
        if type(value) is not int or not least <= value <= 10**9:
            raise RuleError(f"{attribute.name} must be a whole number from {least} to 1000000000, not {value!r}")

    return check


def _name(_: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str):
        raise RuleError(f"{attribute.name} must be a string, not {value!r}")


def _probability(_: Any, attribute: Any, value: Any) -> None:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise RuleError(f"{attribute.name} must be a number from 0 to 1, not {value!r}")


@attrs.frozen(kw_only=True)
class Rule:
    """One failure: where, for whom, how often, and what.

    Counts are asked in this order: the first `after` events that the filters let through pass, then every `every`-th is
    chosen, of these no more than `times`, and each with `probability`.

    Attributes:
        at: The place.
        act: What is done there.
        to: For which recipients. In SMTP a message goes to several: one of them is enough.
        sender: For which senders; ``""`` is the null sender.
        user: For which AUTH users.
        peer: For which clients.
        times: How often at most; None: always.
        after: Events that pass before.
        every: Of the events after those, only every n-th is chosen.
        probability: From 0 to 1.
        seed: Makes `probability` repeatable; None: the seed of the `Rules`.
        id: Its name in a `Rules`, which gives one to a rule without.

    Raises:
        RuleError: A field is malformed, or the act or a filter has no sense at the place.
    """

    at: Place = attrs.field()
    act: Act = attrs.field()
    to: Filter | None = attrs.field(default=None, validator=check_filter)
    sender: Filter | None = attrs.field(default=None, validator=check_filter)
    user: Filter | None = attrs.field(default=None, validator=check_filter)
    peer: PeerFilter | None = attrs.field(default=None, validator=check_peer)
    times: int | None = attrs.field(default=None, validator=_count(1, optional=True))
    after: int = attrs.field(default=0, validator=_count(0))
    every: int = attrs.field(default=1, validator=_count(1))
    probability: float = attrs.field(default=1, validator=_probability)
    seed: int | None = attrs.field(default=None, validator=_count(0, optional=True))
    id: str = attrs.field(default="", validator=_name, eq=False)
    _state: _State = attrs.field(factory=_State, init=False, eq=False, repr=False)

    @at.validator
    def _check_place(self, attribute: attrs.Attribute[str], value: Any) -> None:
        if value not in PLACES:
            raise RuleError(f"at must be one of {', '.join(PLACES)}, not {value!r}")

    @act.validator
    def _check_act(self, attribute: attrs.Attribute[Act], value: Any) -> None:
        if not (isinstance(value, Act) and type(value) in ACTS.values()):
            raise RuleError(f"act must be one of {', '.join(ACTS)}, not {value!r}")

    def __attrs_post_init__(self) -> None:
        if self.at not in self.act.places:
            raise RuleError(f"act: {self.act.name} is possible at {_in_order(self.act.places)}, not at {self.at}")
        for name, places in FILTERS.items():
            if getattr(self, name) is not None and self.at not in places:
                raise RuleError(f"{name} is known at {_in_order(places)}, not at {self.at}")
        if self.at == "body" and isinstance(self.act, Disconnect) and not self.act.before_reply:
            raise RuleError("before_reply must be true at body, which has no reply; the reply is that of end")

    def copied(self, id: str, seed: str | None) -> Rule:  # noqa: A002 - the name of the field
        """A copy that counts from zero.

        Args:
            id: Its id.
            seed: Of `probability` where the rule has no seed of its own; None: chance decides.
        """
        copy = attrs.evolve(self, id=id)
        object.__setattr__(copy, "_state", _State(None if self.seed is not None else seed))
        return copy

    @property
    def hits(self) -> int:
        """How often it has acted."""
        return self._state.hits

    def fires(self, facts: Facts, now: float) -> bool:
        """Whether it acts on an event; counts that. `Rules` call it, one thread at a time.

        Args:
            facts: What is known of the event.
            now: Seconds of the clock that the server goes by.
        """
        if not (
            matches_peer(self.peer, facts.peer)
            and (self.to is None or any(matches(self.to, each) for each in facts.to))
            and matches(self.sender, facts.sender)
            and matches(self.user, facts.user)
        ):
            return False
        return self._state.fires(self, facts, now)


def _in_order(places: frozenset[Place]) -> str:
    return ", ".join(place for place in PLACES if place in places)
