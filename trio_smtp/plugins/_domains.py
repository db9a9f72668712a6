"""Domain names out of a configuration, in the form that `Address.domain` has."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LITERAL = re.compile(r"\[[!-Z^-~]+\]")
_NAME = re.compile(r"[^\W_](?:[\w-]*[^\W_])?(?:\.[^\W_](?:[\w-]*[^\W_])?)*")


def domain_set(domains: Iterable[str]) -> frozenset[str]:
    """Check and normalise an argument that is called `domains`.

    Args:
        domains: Domain names, in Unicode or with A-labels (``xn--``), in any case; address literals in brackets.

    Returns:
        The names in lower case with their A-labels shown as Unicode.

    Raises:
        ValueError: It is one string instead of several, or one of them is no domain.
    """
    if isinstance(domains, str | bytes):
        raise ValueError(f"domains must be several strings, such as [{domains!r}], not one")
    return frozenset(map(_normalize, domains))


def _normalize(domain: str) -> str:
    if isinstance(domain, str):
        name = domain.strip().lower().removesuffix(".")
        if _LITERAL.fullmatch(name):
            return name
        labels = [_shown(label) for label in name.split(".")] if _NAME.fullmatch(name) else []
        if all(labels) and labels:
            return ".".join(labels)
    raise ValueError(f"domains must be domain names such as 'example.com', without '@', '*' or spaces, not {domain!r}")


def _shown(label: str) -> str:
    """The label in Unicode; empty when it is none that a domain can have."""
    if label.isascii() and not label.startswith("xn--"):
        return label
    import idna  # installed with trio; its tables are large, and few need them

    try:
        return idna.ulabel(label) if label.isascii() else idna.ulabel(idna.alabel(label))
    except idna.IDNAError:
        # An A-label that IDNA 2008 does not know is compared as it was sent.
        return label if label.isascii() else ""
