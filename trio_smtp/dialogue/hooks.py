"""What a session notes for handlers of `on_command`, `on_reply` and `on_transaction_end`.

Replies are written without waiting, and handlers of `on_reply` may wait. So a reply is held until the driver has shown
it to them: at the `SETTLE` that follows each command, and before anything is sent.
"""

from __future__ import annotations

import attrs

from trio_smtp.app.hooks import TransactionEndContext, TransactionEndReason
from trio_smtp.app.session import Envelope, Session
from trio_smtp.protocol.machine import Machine
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

__all__ = ["HeldReply", "Hooks"]

_NAMES = {Verb.GREETING: "CONNECT", Verb.END_OF_DATA: "END"}


@attrs.frozen
class HeldReply:
    """A reply that `on_reply` has not seen.

    Attributes:
        verb: As in `ReplyContext`.
        reply: The reply.
        octets: The reply as it is sent.
    """

    verb: str
    reply: Reply
    octets: bytes


class Hooks:
    """One session's notes.

    Args:
        holds: There are handlers of `on_reply`.

    Attributes:
        held: The replies that they have not seen.
    """

    __slots__ = ("_answered", "_envelope", "_greeted", "_holds", "_taken", "_verb", "held")

    def __init__(self, *, holds: bool) -> None:
        self._holds = holds
        self._verb = "CONNECT"
        self._greeted = False
        self.held: list[HeldReply] = []
        # The transaction that was open at the last look, and the messages that were answered by then.
        self._envelope: Envelope | None = None
        self._answered = 0
        self._taken = False

    def begin(self, verb: str) -> None:
        """A command has come."""
        self._verb = verb

    def begin_last_words(self) -> None:
        """What is said from here on answers no command."""
        self._verb = "CLOSING" if self._greeted else "CONNECT"

    def hold(self, verb: Verb | None, reply: Reply, octets: bytes) -> bool:
        """Note a reply; False: it need not be held."""
        if verb is Verb.END_OF_DATA:
            self._taken = self._taken or reply.code < 400
        elif verb is Verb.GREETING:
            self._greeted = True
        if self._holds:
            name = self._verb if verb is None else _NAMES.get(verb, self._verb)
            self.held.append(HeldReply(name, reply, octets))
        return self._holds

    def next_end(self, session: Session, machine: Machine) -> TransactionEndContext | None:
        """The transaction that has ended since the last call, or None.

        Args:
            session: Whose.
            machine: Knows whether a transaction is open now, and whether the session goes on.
        """
        before, self._envelope = self._envelope, session.envelope if machine.in_transaction else None
        if before is None or before is self._envelope:
            return None
        reason: TransactionEndReason
        if session.transaction > self._answered:
            reason = "accepted" if self._taken else "refused"
        else:
            reason = "refused" if machine.closed and self._verb != "QUIT" else "reset"
        self._answered, self._taken = session.transaction, False
        return TransactionEndContext(session, before, reason)

    def last_end(self, session: Session, machine: Machine) -> TransactionEndContext | None:
        """The transaction that was open when the connection ended, or None."""
        if session.envelope is not self._envelope:
            return self.next_end(session, machine)
        return TransactionEndContext(session, self._envelope, "lost")
