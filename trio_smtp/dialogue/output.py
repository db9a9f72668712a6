"""Replies that were not sent yet: they gather until each line that came is answered, and leave together (RFC 2920)."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from trio_smtp.app.session import Session
from trio_smtp.app.stats import Stats
from trio_smtp.protocol.replies import Reply, default_enhanced
from trio_smtp.protocol.verbs import Verb

from .log import SessionLog

__all__ = ["MAX_WAITING_OCTETS", "Output"]

#: Waiting replies leave before a handler runs when there are so many octets, or the oldest waits so many seconds.
MAX_WAITING_OCTETS = 65_536
_MAX_WAITING_SECONDS = 1.0
_END_OF_DATA = Verb.END_OF_DATA


@final  # where the module is compiled, nothing can inherit from it
class Output:
    """The replies of one session that were not sent yet.

    Args:
        session: Notes the last refusal in ``session.error``.
        stats: Counts the replies.
        log: Shows them for DEBUG.
        now: The clock, in seconds.

    Attributes:
        octets: How many octets wait.
        since: When the oldest of the replies that wait was written, or waited last.
    """

    __slots__ = ("_debug", "_log", "_now", "_parts", "_session", "_stats", "octets", "since")

    def __init__(self, session: Session, stats: Stats, log: SessionLog, now: Callable[[], float]) -> None:
        self._session = session
        self._stats = stats
        self._log = log
        self._now = now
        self._debug = log.debug
        self._parts: list[bytes] = []
        self.since: float = log.opened
        self.octets: int = 0

    def write(self, reply: Reply, enhanced: bool, verb: Verb | None) -> None:
        """Add a reply.

        Args:
            reply: The reply.
            enhanced: With the enhanced status code, where a reply of that code has one.
            verb: What it answers, for the log. The end of a message has a line of its own there.
        """
        code = reply.code
        self._stats.replies[code] += 1
        enhanced = enhanced and code != 334
        if code >= 400:
            status = (reply.enhanced or default_enhanced(code)) if enhanced else None
            self._session.error = error = f"{code} {status} {reply.text}" if status else f"{code} {reply.text}"
            if verb is not _END_OF_DATA:
                self._log.refused(verb, error)
        octets = reply.encode(enhanced=enhanced, utf8=self._session.envelope.smtp_utf8)
        if not self._parts:
            self.since = self._now()
        self._parts.append(octets)
        self.octets += len(octets)
        if self._debug:
            self._log.said(reply, octets)

    def take(self) -> bytes:
        """Hand the octets over; none wait after that."""
        octets = b"".join(self._parts)
        self._parts.clear()
        self.octets = 0
        return octets

    def put_back(self, octets: bytes) -> None:
        """Take octets back that were handed over and could not be sent yet."""
        self._parts.insert(0, octets)
        self.octets += len(octets)

    @property
    def due(self) -> bool:
        """The replies have waited long enough: no handler may hold them up."""
        return self.octets > 0 and (self.octets > MAX_WAITING_OCTETS or self._now() - self.since > _MAX_WAITING_SECONDS)
