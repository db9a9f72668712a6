"""How sizes, ages and times are written on the pages. `inbox.js` writes ages in the same way."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["age", "iso", "size", "stamp"]

_UNITS = ("kB", "MB", "GB", "TB")
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def size(octets: int) -> str:
    """Octets as people read them: ``812 B``, ``1.4 kB``, ``23 MB``."""
    if octets < 1_000:
        return f"{octets} B"
    amount, unit = octets / 1_000, 0
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1_000, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if amount < 9.95 else f"{amount:,.0f} {_UNITS[unit]}"


def age(created: float, now: float) -> str:
    """How long ago something was: ``now``, ``5 min``, ``3 h``, ``2 d``, then the date.

    Args:
        created: Seconds since the epoch.
        now: Likewise.
    """
    passed = max(0.0, now - created)
    if passed < _MINUTE:
        return "now"
    for length, unit, most in ((_MINUTE, "min", _HOUR), (_HOUR, "h", _DAY), (_DAY, "d", 7 * _DAY)):
        if passed < most:
            return f"{int(passed // length)} {unit}"
    return f"{datetime.fromtimestamp(created, UTC):%Y-%m-%d}"


def iso(created: float) -> str:
    """The time as scripts read it."""
    return f"{datetime.fromtimestamp(created, UTC):%Y-%m-%dT%H:%M:%SZ}"


def stamp(created: float) -> str:
    """The time as people read it, in UTC; a script shows the reader's own zone."""
    return f"{datetime.fromtimestamp(created, UTC):%Y-%m-%d %H:%M:%S} UTC"
