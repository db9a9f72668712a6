"""What a rule does, and the places where it may do so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, get_args

import attrs

from trio_smtp import SMTPError

from .errors import RuleError
from .facts import Facts

__all__ = [
    "ACTS",
    "PLACES",
    "Act",
    "BadCertificate",
    "CertificateFault",
    "CloseAfter",
    "Delay",
    "Disconnect",
    "Fail",
    "Garbage",
    "Greylist",
    "NoStartTLS",
    "Place",
    "RateLimit",
    "Refusing",
    "Reset",
    "Throttle",
    "Truncate",
]

#: Where in a session a rule acts.
Place = Literal["connect", "tls", "helo", "auth", "mail", "rcpt", "data", "body", "end", "quit"]
#: The places, in the order of a session.
PLACES: tuple[Place, ...] = get_args(Place)
#: What is wrong with a certificate.
CertificateFault = Literal["expired", "self-signed", "wrong-host"]

_EVERYWHERE = frozenset(PLACES)
_WITH_A_REPLY = _EVERYWHERE - {"body"}
_LIMITED: frozenset[Place] = frozenset({"connect", "helo", "auth", "mail", "rcpt", "data", "end"})
#: The clients that a greylist or a rate limit remembers.
_MAX_REMEMBERED = 10_000


def _whole(least: int) -> Callable[[Any, attrs.Attribute[int], Any], None]:
    def check(_: Any, attribute: attrs.Attribute[int], value: Any) -> None:
        if type(value) is not int or not least <= value <= 10**9:
            raise RuleError(f"{attribute.name} must be a whole number from {least} to 1000000000, not {value!r}")

    return check


def _above_zero(_: Any, attribute: attrs.Attribute[float], value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value <= 10**9:
        raise RuleError(f"{attribute.name} must be a number above 0, at most 1000000000, not {value!r}")


def _text(_: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str):
        raise RuleError(f"{attribute.name} must be a string, not {value!r}")


def _switch(_: Any, attribute: attrs.Attribute[bool], value: Any) -> None:
    if type(value) is not bool:
        raise RuleError(f"{attribute.name} must be true or false, not {value!r}")


@attrs.frozen
class Act:
    """What a rule does.

    Attributes:
        name: Its name in text and JSON.
        places: Where it may stand.
        ends: No rule after it is asked about the same event.
    """

    name: ClassVar[str]
    places: ClassVar[frozenset[Place]] = _EVERYWHERE
    ends: ClassVar[bool] = True

    def decide(self, memory: dict[Any, Any], facts: Facts, now: float) -> bool:
        """Whether it acts on an event that all else has chosen.

        Args:
            memory: The act's own, as long as its rule lives.
            facts: The event.
            now: Seconds of the clock that the server goes by.
        """
        return True


@attrs.frozen
class Refusing(Act):
    """An act that refuses by a reply.

    Attributes:
        code: 4xx or 5xx; 421 and 521 close the connection after the reply.
        text: For the client.
        enhanced: The enhanced status code; None: the usual one for the code.
    """

    code: int = attrs.field(default=451)
    text: str = attrs.field(default="Failed by a rule", validator=_text)
    enhanced: str | None = attrs.field(default=None)

    def __attrs_post_init__(self) -> None:
        if type(self.code) is not int:
            raise RuleError(f"code must be a reply code from 400 to 599, not {self.code!r}")
        if not 400 <= self.code <= 599:
            raise RuleError(f"code must be a reply code from 400 to 599, not {self.code}")
        if self.enhanced is None:
            return
        if not isinstance(self.enhanced, str):
            raise RuleError(f"enhanced must look like '4.7.1', not {self.enhanced!r}")
        try:
            SMTPError(self.text, self.code, self.enhanced)
        except ValueError as exc:
            raise RuleError(str(exc)) from None


@attrs.frozen
class Fail(Refusing):
    """Refuse with a reply. At ``auth`` another 4xx than 421 becomes 454 (RFC 4954 section 6)."""

    name: ClassVar[str] = "fail"
    places: ClassVar[frozenset[Place]] = _WITH_A_REPLY


@attrs.frozen
class Delay(Act):
    """Wait before going on: before the reply, at ``end`` after the message was taken, in ``body`` before it is read.

    Attributes:
        seconds: How long.
    """

    name: ClassVar[str] = "delay"
    ends: ClassVar[bool] = False

    seconds: float = attrs.field(validator=_above_zero)


@attrs.frozen
class Disconnect(Act):
    """Close the connection. At ``end`` the message was taken: the client cannot know that.

    Attributes:
        before_reply: Without the reply; False: after it.
    """

    name: ClassVar[str] = "disconnect"

    before_reply: bool = attrs.field(default=True, validator=_switch)


@attrs.frozen
class Reset(Act):
    """Reset the connection without a reply. At ``end`` the message was taken."""

    name: ClassVar[str] = "reset"


@attrs.frozen
class Throttle(Act):
    """Read a ``body`` slowly; elsewhere hold the reply back for the time that it would take.

    Attributes:
        octets_per_second: How slowly.
    """

    name: ClassVar[str] = "throttle"
    ends: ClassVar[bool] = False

    octets_per_second: float = attrs.field(validator=_above_zero)


@attrs.frozen
class RateLimit(Refusing):
    """Let so many events pass in so much time, and refuse the others.

    Attributes:
        count: Events that pass.
        per: In so many seconds.
    """

    name: ClassVar[str] = "rate_limit"
    places: ClassVar[frozenset[Place]] = _LIMITED

    count: int = attrs.field(validator=_whole(0))
    per: float = attrs.field(validator=_above_zero)
    code: int = attrs.field(default=450)
    text: str = attrs.field(default="Too many, try again later", validator=_text)
    enhanced: str | None = attrs.field(default=None)

    def decide(self, memory: dict[Any, Any], facts: Facts, now: float) -> bool:
        """Whether the events of the time before have used the limit up."""
        passed: deque[float] = memory.setdefault("passed", deque())
        while passed and passed[0] <= now - self.per:
            passed.popleft()
        if len(passed) >= self.count:
            return True
        passed.append(now)
        return False


@attrs.frozen
class Greylist(Refusing):
    """Refuse a peer, sender and recipient that are seen together for the first time, and until some time has passed.

    Attributes:
        seconds: How long.
    """

    name: ClassVar[str] = "greylist"
    places: ClassVar[frozenset[Place]] = frozenset({"rcpt"})

    seconds: float = attrs.field(validator=_above_zero)
    code: int = attrs.field(default=451)
    text: str = attrs.field(default="Greylisted, try again later", validator=_text)
    enhanced: str | None = attrs.field(default=None)

    def decide(self, memory: dict[Any, Any], facts: Facts, now: float) -> bool:
        """Whether the three are new, or were seen too shortly before."""
        first = memory.setdefault((facts.peer, facts.sender, facts.to), now)
        if len(memory) > _MAX_REMEMBERED:
            del memory[next(iter(memory))]
        return bool(now - first < self.seconds)


@attrs.frozen
class Garbage(Act):
    """Send a line that is no reply in place of the reply."""

    name: ClassVar[str] = "garbage"
    places: ClassVar[frozenset[Place]] = _WITH_A_REPLY


@attrs.frozen
class Truncate(Act):
    """Send half the reply, and nothing any more; the connection stays open."""

    name: ClassVar[str] = "truncate"
    places: ClassVar[frozenset[Place]] = _WITH_A_REPLY


@attrs.frozen
class NoStartTLS(Act):
    """Leave STARTTLS out of the reply to EHLO, and refuse it with 502."""

    name: ClassVar[str] = "no_starttls"
    places: ClassVar[frozenset[Place]] = frozenset({"tls"})
    ends: ClassVar[bool] = False


@attrs.frozen
class BadCertificate(Act):
    """Present a certificate that clients should refuse. Needs trustme (the extra ``testing``).

    Attributes:
        fault: What is wrong with it.
    """

    name: ClassVar[str] = "bad_certificate"
    places: ClassVar[frozenset[Place]] = frozenset({"tls"})

    fault: CertificateFault = attrs.field()

    @fault.validator
    def _check(self, attribute: attrs.Attribute[str], value: Any) -> None:
        faults = get_args(CertificateFault)
        if value not in faults:
            raise RuleError(f"fault must be one of {', '.join(faults)}, not {value!r}")
        if find_spec("trustme") is None:
            raise RuleError("bad_certificate needs trustme: pip install 'trio-smtp[testing]'")


@attrs.frozen
class CloseAfter(Act):
    """Close the connection when more of the body has come than so many octets.

    Attributes:
        octets: So many.
    """

    name: ClassVar[str] = "close_after"
    places: ClassVar[frozenset[Place]] = frozenset({"body"})

    octets: int = attrs.field(validator=_whole(0))


#: The acts by name.
ACTS: Mapping[str, type[Act]] = {
    act.name: act
    for act in (
        Fail,
        Delay,
        Disconnect,
        Reset,
        Throttle,
        RateLimit,
        Greylist,
        Garbage,
        Truncate,
        NoStartTLS,
        BadCertificate,
        CloseAfter,
    )
}
