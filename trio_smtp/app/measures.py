"""What a server counts in detail where a plugin asks for it, such as `trio_smtp.plugins.metrics`."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from trio_smtp.protocol.values import ShowsFields

from .chains import Chain

__all__ = ["Histogram", "Measures", "total_measures"]

#: Upper bounds in seconds: from a handler that only looks something up to a client that sends for minutes.
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_SHORTEST = _BOUNDS[0]


class Histogram:
    """How many durations there were, by their length.

    Attributes:
        bounds: Upper bounds, in seconds, ascending; the same in all objects.
        counts: How many durations were at most so long and longer than the bound before; the last number counts those
            that were longer than every bound.
        sum: All durations together, in seconds.
    """

    __slots__ = ("counts", "sum")

    bounds: Sequence[float] = _BOUNDS

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(_BOUNDS) + 1)
        self.sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        # Most durations are short, and the comparison is quicker than a search.
        self.counts[0 if seconds <= _SHORTEST else bisect_left(_BOUNDS, seconds)] += 1
        self.sum += seconds

    def timing(self, chain: Chain) -> Chain:
        """A chain of handlers whose durations are counted."""
        now = time.monotonic

        async def run(context: Any) -> Any:
            began = now()
            try:
                # A value that is not None is an error, of which the caller speaks.
                return await chain(context)
            finally:
                self.observe(now() - began)

        return run

    def add(self, other: Histogram) -> None:
        """Add the durations of another histogram."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


@attrs.define(eq=False, repr=False)
class Measures(ShowsFields):
    """What a server counts besides `Stats` after `App.measure`. Read it at any time; only the server writes.

    Attributes:
        tls_versions: Completed TLS handshakes, by version, such as ``"TLSv1.3"``.
        auth: Ended AUTH exchanges, by mechanism and ``"accepted"`` or ``"refused"``.
        message_octets: Octets of messages that were answered with 2xx.
        message_seconds: From the 354 (or the first BDAT) to the reply, of messages that were answered at their end.
        handler_seconds: How long handlers took, by phase, such as ``"on_data"``; that phase includes the time in which
            the client sends the message.
    """

    tls_versions: Counter[str] = attrs.field(factory=Counter)
    auth: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    message_octets: int = 0
    message_seconds: Histogram = attrs.field(factory=Histogram)
    handler_seconds: dict[str, Histogram] = attrs.field(factory=dict)

    def note_message(self, octets: int, seconds: float) -> None:
        """A message was answered at its end.

        Args:
            octets: Its length; 0 for one that was refused.
            seconds: Since it began.
        """
        self.message_octets += octets
        self.message_seconds.observe(seconds)

    def add(self, other: Measures) -> None:
        """Add what another server has counted."""
        self.tls_versions += other.tls_versions
        self.auth += other.auth
        self.message_octets += other.message_octets
        self.message_seconds.add(other.message_seconds)
        for phase, histogram in other.handler_seconds.items():
            self.handler_seconds.setdefault(phase, Histogram()).add(histogram)


def total_measures(several: Iterable[Measures | None]) -> Measures | None:
    """Add what several servers have counted; None where none of them measures."""
    together: Measures | None = None
    for measures in several:
        if measures is not None:
            together = Measures() if together is None else together
            together.add(measures)
    return together
