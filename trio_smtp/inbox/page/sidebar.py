"""What stands beside every page: counts, mailboxes, tags."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import attrs

from trio_smtp.inbox.api.types import InboxLike
from trio_smtp.inbox.store import StorageError, Totals

__all__ = ["Beside", "Sidebar"]

_MAX_MAILBOXES = 50
_MAX_TAGS = 50
#: The mailboxes take a look at every message. They are not counted again before so many times as long as that took.
_REST = 10.0


@attrs.frozen(kw_only=True)
class Beside:
    """What is shown.

    Attributes:
        totals: How much there is.
        mailboxes: Recipients of envelopes, those with most messages first, and how many messages each has.
        tags: Tags, and how many messages have each.
        rules: How many rules of failures there are.
        problem: Why nothing can be written or read; ``""``: all is well.
    """

    totals: Totals
    mailboxes: Mapping[str, int]
    tags: Mapping[str, int]
    rules: int
    problem: str


class Sidebar:
    """Looks at the store.

    Args:
        inbox: The inbox.
    """

    def __init__(self, inbox: InboxLike) -> None:
        self._inbox = inbox
        self._lock = threading.Lock()
        self._mailboxes: dict[str, int] = {}
        self._good_until = 0.0

    def look(self) -> Beside:
        """What is to be shown now. A database that cannot be read is a `problem`. Call this method in a thread."""
        store, rules = self._inbox.store, len(self._inbox.rules)
        try:
            return Beside(
                totals=store.totals(),
                mailboxes=self._counted(),
                tags=dict(list(store.tags().items())[:_MAX_TAGS]),
                rules=rules,
                problem=store.problem,
            )
        except StorageError as error:
            problem = f"the database cannot be read: {error}"
            return Beside(totals=Totals(0, 0, 0), mailboxes={}, tags={}, rules=rules, problem=problem)

    def _counted(self) -> dict[str, int]:
        with self._lock:
            began = time.monotonic()
            if began >= self._good_until:
                self._mailboxes = self._inbox.store.mailboxes(_MAX_MAILBOXES)
                ended = time.monotonic()
                self._good_until = ended + _REST * (ended - began)
            return self._mailboxes
