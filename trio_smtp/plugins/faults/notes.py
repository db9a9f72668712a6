"""What the plugin notes of a session until the reply that it is for."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .acts import Act, Place

__all__ = ["Notes"]

#: The verbs, as `ReplyContext` has them, of the replies at each place.
_VERBS: Mapping[Place, frozenset[str]] = {
    "connect": frozenset({"CONNECT"}),
    "tls": frozenset({"STARTTLS"}),
    "helo": frozenset({"HELO", "EHLO", "LHLO"}),
    "auth": frozenset({"AUTH"}),
    "mail": frozenset({"MAIL"}),
    "rcpt": frozenset({"RCPT"}),
    "data": frozenset({"DATA", "BDAT", "END"}),  # a message in one BDAT has no other reply than its last
    "end": frozenset({"END"}),
    "quit": frozenset({"QUIT"}),
}


@attrs.define(eq=False)
class _Mark:
    """Something to be done to a reply that is still to come.

    Attributes:
        verbs: To which.
        act: What.
        skip: So many replies of these verbs pass before.
    """

    verbs: frozenset[str]
    act: Act
    skip: int = 0

    def is_due(self, verb: str) -> bool:
        """Whether it is for a reply to that verb; counts those that pass."""
        if verb not in self.verbs:
            return False
        self.skip -= 1
        return self.skip < 0


class Notes:
    """What is noted of one session.

    Attributes:
        user: Who has authenticated, or tried to.
        hides_starttls: STARTTLS was left out of the reply to EHLO.
        silent: Nothing is said any more.
    """

    def __init__(self) -> None:
        self.user: str | None = None
        self.hides_starttls: bool = False
        self.silent: bool = False
        self._marks: list[_Mark] = []

    def name(self, user: str) -> None:
        """Somebody tries to authenticate."""
        self.user = user

    def hide_starttls(self, hidden: bool) -> None:
        """EHLO was answered."""
        self.hides_starttls = hidden

    def fall_silent(self) -> None:
        """Say nothing any more."""
        self.silent = True

    def mark(self, at: Place, act: Act, skip: int = 0) -> None:
        """Have something done to a reply that is still to come."""
        self._marks.append(_Mark(_VERBS[at], act, skip))

    def due(self, verb: str) -> list[Act]:
        """What is to be done to this reply; it is noted no more."""
        due = [mark for mark in self._marks if mark.is_due(verb)]
        self._marks = [mark for mark in self._marks if mark not in due]
        return [mark.act for mark in due]
