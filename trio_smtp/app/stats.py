"""The counters of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from trio_smtp.protocol.values import ShowsFields

__all__ = ["Stats", "total"]


@attrs.define(eq=False, repr=False)
class Stats(ShowsFields):
    """What a server has seen since it was made. Read it at any time; only the server writes.

    Attributes:
        connections_accepted: Connections that became sessions.
        connections_refused: Connections over a limit (behind a proxy they are known as such when they are sessions).
        connections_open: Sessions there are now.
        tls_handshakes: Completed handshakes.
        tls_failures: Handshakes that failed or timed out.
        auth_successes: Accepted credentials.
        auth_failures: Refused credentials.
        messages_accepted: Messages answered with 2xx.
        messages_refused: Messages that were refused when their octets had come, all or some chunks of them.
        messages_incomplete: Messages whose client vanished, fell silent or gave them up.
        octets_received: Octets read from clients (inside TLS: after decryption).
        replies: Replies sent, by code.
    """

    connections_accepted: int = 0
    connections_refused: int = 0
    connections_open: int = 0
    tls_handshakes: int = 0
    tls_failures: int = 0
    auth_successes: int = 0
    auth_failures: int = 0
    messages_accepted: int = 0
    messages_refused: int = 0
    messages_incomplete: int = 0
    octets_received: int = 0
    replies: Counter[int] = attrs.field(factory=Counter)


def total(several: Iterable[Stats]) -> Stats:
    """Add the counters of several servers; returns new ones."""
    together = Stats()
    for stats in several:
        for field in attrs.fields(Stats):
            setattr(together, field.name, getattr(together, field.name) + getattr(stats, field.name))
    return together
