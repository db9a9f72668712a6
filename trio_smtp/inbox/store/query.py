"""The search language, which is Mailpit's: words, quotes, and filters such as ``from:bob`` or ``is:unread``.

A search is a list of terms, all of which must hold; ``-`` or ``!`` before a term negates it. What is no filter is a
plain word, found anywhere in a message, its header included. Capital and small letters are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

import attrs

from .records import fold

__all__ = ["Kind", "Query", "Term", "parse_query"]

#: What a term looks at.
Kind = Literal[
    "text",
    "from",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "addressed",
    "mailbox",
    "subject",
    "message-id",
    "tag",
    "read",
    "tagged",
    "attachment",
    "inline",
    "state",
    "before",
    "after",
    "larger",
    "smaller",
]

MAX_LENGTH = 2_000
MAX_TERMS = 50

_WORDS: tuple[Kind, ...] = (
    "from",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "addressed",
    "mailbox",
    "subject",
    "message-id",
    "tag",
)
#: Filters that are one word as a whole: the kind, and the value.
_SWITCHES: dict[str, tuple[Kind, str | bool]] = {
    "is:read": ("read", True),
    "is:unread": ("read", False),
    "is:tagged": ("tagged", True),
    "has:attachment": ("attachment", True),
    "has:attachments": ("attachment", True),
    "has:inline": ("inline", True),
    "has:inlines": ("inline", True),
    "is:accepted": ("state", "accepted"),
    "is:refused": ("state", "refused"),
    "is:broken": ("state", "broken"),
    "is:failed": ("state", "failed"),
    "is:any": ("state", "any"),
}
_UNITS = {"": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30}
#: Larger numbers are too large for SQLite.
_MAX_SIZE = 2**63 - 1
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([a-z]{0,2})", re.ASCII)
_YEAR = re.compile(r"\d{4}", re.ASCII)
_MONTH = re.compile(r"\d{4}[-/]\d{1,2}", re.ASCII)
_DAY = re.compile(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,2}")


@attrs.frozen
class Term:
    """One condition.

    Attributes:
        kind: What it looks at.
        value: A folded text, a size in octets, seconds since the epoch, or a switch.
        negated: It must not hold.
    """

    kind: Kind
    value: str | float | bool
    negated: bool = False


@attrs.frozen
class Query:
    """A search.

    Attributes:
        terms: What must hold, all of it.
    """

    terms: tuple[Term, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.terms)

    @property
    def chooses_state(self) -> bool:
        """It says itself which of the accepted, the refused and the broken are looked at."""
        return any(term.kind == "state" for term in self.terms)


def parse_query(text: str, timezone: str = "") -> Query:
    """Read a search.

    Args:
        text: What somebody has typed.
        timezone: The IANA name of the zone that dates are in, such as ``"Europe/Vienna"``; one that is not known, and
            ``""``, is this machine's.

    Returns:
        The search; without terms where nothing was asked for.

    Raises:
        ValueError: It is longer than 2,000 characters, has more than 50 terms, or a date or a size that is none.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a search has at most {MAX_LENGTH:,} characters")
    terms: list[Term] = []
    for word in _split(text):
        negated = len(word) > 1 and word[0] in "-!"
        term = _term(word[1:] if negated else word, timezone, negated=negated)
        if term is not None:
            terms.append(term)
    if len(terms) > MAX_TERMS:
        raise ValueError(f"a search has at most {MAX_TERMS} terms")
    return Query(tuple(terms))


def _split(text: str) -> Iterator[str]:
    """Cut at white space that is not between double quotes; quotes are left out."""
    word, quoted, begun = "", False, False
    for character in text:
        if character == '"':
            quoted = not quoted
            begun = True
        elif character.isspace() and not quoted:
            if begun:
                yield word
            word, begun = "", False
        else:
            word += character
            begun = True
    if begun:
        yield word


def _term(word: str, timezone: str, *, negated: bool) -> Term | None:
    folded = fold(word).strip()
    if not any(character.isalnum() or not character.isascii() for character in folded):
        return None  # punctuation alone, as in Mailpit
    if folded in _SWITCHES:
        kind, switch = _SWITCHES[folded]
        return Term(kind, switch, negated)
    name, colon, value = folded.partition(":")
    value = value.strip()
    if colon and name in ("before", "after", "larger", "smaller", *_WORDS):
        if not value:
            return None  # somebody is still typing
        if name in ("larger", "smaller"):
            return Term(name, _size(name, value), negated)
        if name in ("before", "after"):
            return Term(name, _moment(name, value, timezone), negated)
        return Term(name, value, negated)
    return Term("text", folded, negated)


def _size(name: str, text: str) -> float:
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{name}: needs a size such as 500, 20k or 1.5mb, not {text!r}")
    return min(int(float(match[1]) * _UNITS[match[2]]), _MAX_SIZE)


def _moment(name: str, text: str, timezone: str) -> float:
    try:
        moment = _date(text)
        zone = _zone(timezone)
        return (moment if moment.tzinfo is not None or zone is None else moment.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{name}: needs a date such as 2026-05-31 or 2026-05-31T18:30, not {text!r}") from None


def _date(text: str) -> datetime:
    numbers = [int(number) for number in re.split("[-/]", text) if number.isdecimal()]
    if text in ("today", "yesterday"):
        today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        return today if text == "today" else today - timedelta(days=1)
    if _YEAR.fullmatch(text):
        return datetime(numbers[0], 1, 1)  # noqa: DTZ001 - the zone comes later
    if _MONTH.fullmatch(text):
        return datetime(numbers[0], numbers[1], 1)  # noqa: DTZ001 - likewise
    if _DAY.fullmatch(text):
        return datetime(*numbers)  # type: ignore[arg-type]  # noqa: DTZ001 - likewise
    return datetime.fromisoformat(text.upper())


def _zone(name: str) -> tzinfo | None:
    """The zone of that name; None: this machine's."""
    if not _ZONE.fullmatch(name):
        return None
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):  # there is no such zone, or its name is that of a folder
        return None
