"""Replies that were not sent yet: they gather until each line that came is answered, and leave together (RFC 2920)."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from trio_smtp.app.session import Session
from trio_smtp.app.stats import Stats
from trio_smtp.protocol.replies import Reply, default_enhanced
from trio_smtp.protocol.verbs import Verb

from .hooks import HeldReply, Hooks
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
        hooks: Holds replies until `on_reply` has seen them, or None.

    Attributes:
        octets: How many octets wait.
        since: When the oldest of the replies that wait was written, or waited last.
    """

    __slots__ = ("_hooks", "_log", "_now", "_parts", "_plain", "_session", "_stats", "octets", "since")

    def __init__(
        self, session: Session, stats: Stats, log: SessionLog, now: Callable[[], float], hooks: Hooks | None = None
    ) -> None:
        self._session = session
        self._stats = stats
        self._log = log
        self._now = now
        self._hooks = hooks
        # Replies are neither logged nor held.
        self._plain = hooks is None and not log.debug
        self._parts: list[bytes] = []
        self.since: float = log.opened
        self.octets: int = 0

    def write(self, reply: Reply, enhanced: bool, verb: Verb | None = None) -> None:
        """Add a reply.

        Args:
            reply: The reply.
            enhanced: With the enhanced status code, where a reply of that code has one.
            verb: What is answered; None: the command that has come last. The log has a line of its own for the end of a
                message.
        """
        code = reply.code
        self._stats.count_reply(verb, code)
        enhanced = enhanced and code != 334
        if code >= 400:
            status = (reply.enhanced or default_enhanced(code)) if enhanced else None
            self._session.error = error = f"{code} {status} {reply.text}" if status else f"{code} {reply.text}"
            if verb is not _END_OF_DATA:
                self._log.refused(verb, error)
        octets = reply.encode(enhanced=enhanced, utf8=self._session.envelope.smtp_utf8)
        if not self.octets:
            self.since = self._now()
        self.octets += len(octets)
        if self._plain:
            self._parts.append(octets)
        elif self._hooks is None or not self._hooks.hold(verb, reply, octets):
            self._add(reply, octets)

    def _add(self, reply: Reply, octets: bytes) -> None:
        self._parts.append(octets)
        if self._log.debug:
            self._log.said(reply, octets)

    def release(self, held: HeldReply, octets: bytes | None) -> None:
        """Add a reply that was held.

        Args:
            held: The reply.
            octets: What is sent in its place; None: the reply.
        """
        if octets is None:
            octets = held.octets
        self.octets += len(octets) - len(held.octets)
        if octets:
            self._add(held.reply, octets)

    def drop(self, held: HeldReply) -> None:
        """Forget a reply that was held."""
        self.octets -= len(held.octets)

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
