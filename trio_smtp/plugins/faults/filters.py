"""The filters of a rule: by address, by user, by the client's address."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import attrs

from .acts import Place
from .errors import RuleError

__all__ = ["FILTERS", "Filter", "PeerFilter", "check_filter", "check_peer", "matches", "matches_peer"]

#: A glob (``*`` and ``?``, case does not count), a pattern that is searched for, or a function that says yes or no.
Filter = str | re.Pattern[str] | Callable[[str], bool]
#: An IP address or network, or a function that says yes or no.
PeerFilter = (
    str
    | ipaddress.IPv4Address
    | ipaddress.IPv6Address
    | ipaddress.IPv4Network
    | ipaddress.IPv6Network
    | Callable[[str], bool]
)

#: Where something is known that the filter can be asked about.
FILTERS: Mapping[str, frozenset[Place]] = {
    "to": frozenset({"rcpt", "data", "body", "end"}),
    "sender": frozenset({"mail", "rcpt", "data", "body", "end"}),
    "user": frozenset({"auth", "mail", "rcpt", "data", "body", "end", "quit"}),
    "peer": frozenset({"connect", "tls", "helo", "auth", "mail", "rcpt", "data", "body", "end", "quit"}),
}


def check_filter(_: Any, attribute: attrs.Attribute[Filter | None], value: Any) -> None:
    """Check a filter where a rule is made."""
    if not (value is None or isinstance(value, str | re.Pattern) or callable(value)):
        raise RuleError(f"{attribute.name} must be a glob, a compiled pattern or a function, not {value!r}")
    if isinstance(value, re.Pattern) and not isinstance(value.pattern, str):
        raise RuleError(f"{attribute.name} must be a pattern for text, not {value!r}")


def check_peer(_: Any, attribute: attrs.Attribute[PeerFilter | None], value: Any) -> None:
    """Check the filter of peers where a rule is made."""
    if value is None or callable(value):
        return
    try:
        if isinstance(value, int | bytes):  # which ip_network would take
            raise ValueError
        ipaddress.ip_network(value, strict=False)
    except (ValueError, TypeError):
        wanted = "an IP address, a network such as 192.0.2.0/24, or a function"
        raise RuleError(f"{attribute.name} must be {wanted}, not {value!r}") from None


def matches(wanted: Filter | None, text: str | None) -> bool:
    """Whether a filter takes a text; None takes all, and nothing but None takes what is not known."""
    if wanted is None:
        return True
    if text is None:
        return False
    if isinstance(wanted, str):
        return _glob("" if wanted == "<>" else wanted).fullmatch(text) is not None
    if isinstance(wanted, re.Pattern):
        return wanted.search(text) is not None
    return bool(wanted(text))


@lru_cache(maxsize=4_096)
def _glob(glob: str) -> re.Pattern[str]:
    """The pattern of a glob; an address literal has brackets, so these are no wildcards.

    The text between two stars is looked for once, at the first place where it stands: a later place could match nothing
    that the first does not. Without the atomic groups a glob of many stars would take years for some addresses.
    """
    first, *others = ("".join("." if char == "?" else re.escape(char) for char in piece) for piece in glob.split("*"))
    between = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    last = f".*{others[-1]}" if others else ""
    return re.compile(f"{first}{between}{last}", re.IGNORECASE | re.DOTALL)


def matches_peer(wanted: PeerFilter | None, peer: str | None) -> bool:
    """Whether the filter of peers takes a client's address, None where it has none."""
    if wanted is None:
        return True
    if peer is None:
        return False
    if not isinstance(wanted, str) and callable(wanted):
        return bool(wanted(peer))
    return ipaddress.ip_address(peer) in ipaddress.ip_network(wanted, strict=False)
