"""Values as people write them: sizes such as "10M", times such as "5m", modes such as "0660", and names with a typo."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

__all__ = ["closest", "mode", "names_time", "seconds", "size"]

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d|w|)", re.ASCII | re.IGNORECASE)
_MODE = re.compile("(?:0o)?[0-7]+", re.ASCII)
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TIMES = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TIME_NAMES = re.compile(r"(?:^|_)(?:timeout|delay|interval|seconds|age|patience|idle|ttl|every|after)(?:_|$)")


def size(text: str) -> int:
    """Read a number of octets: ``"1000"``, ``"64k"``, ``"10M"``, ``"1.5 GiB"``; k is 1024.

    Raises:
        ValueError: It is none, or not a whole number of octets.
    """
    return _whole(_number(_SIZE, _SIZES, text, "a size such as 10M"))


def seconds(text: str) -> float:
    """Read a time in seconds: ``"30"``, ``"500ms"``, ``"5m"``, ``"1.5h"``, ``"7d"``.

    Raises:
        ValueError: It is none.
    """
    return _number(_TIME, _TIMES, text, "a time such as 5m")


def _number(pattern: re.Pattern[str], units: Mapping[str, float], text: str, wanted: str) -> float:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {wanted}")
    number = float(match[1]) * units[match[2].lower()]
    return int(number) if number.is_integer() else number


def _whole(number: float) -> int:
    if not isinstance(number, int):
        raise ValueError(f"{number:g} is not a whole number")
    return number


def mode(text: str) -> int:
    """Read a mode as chmod(1) takes them: ``"0660"``.

    Raises:
        ValueError: It is no octal number.
    """
    if _MODE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not an octal number")
    return int(text, 8)


def names_time(name: str) -> bool:
    """Whether a setting of this name is a time; other numbers with a unit are sizes."""
    return _TIME_NAMES.search(name) is not None


def closest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: ``", did you mean 'port'?"``, or nothing."""
    found = difflib.get_close_matches(name, sorted(known), 1, 0.72)
    return f", did you mean {found[0]!r}?" if found else ""
