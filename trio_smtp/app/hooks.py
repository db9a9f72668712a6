"""What handlers are given that see every command, every reply, and the ends of transactions and sessions."""

from __future__ import annotations

from typing import Literal

import attrs

from trio_smtp.protocol.values import ShowsFields

from .contexts import Context
from .session import Envelope, Session

__all__ = ["CloseContext", "CloseReason", "CommandContext"]

#: Why a session ended.
CloseReason = Literal["quit", "lost", "timeout", "drained", "refused", "abuse", "tls", "error", "cancelled", "aborted"]


@attrs.define(eq=False, repr=False)
class CommandContext(Context):
    """A command whose verb an `Extension` has added.

    Attributes:
        verb: The verb, upper case.
        argument: What follows the verb.
    """

    verb: str
    argument: str


@attrs.frozen(eq=False, repr=False)
class CloseContext(ShowsFields):
    """The session has ended; no reply can be sent any more.

    Attributes:
        session: The client's session.
        reason: Why it ended.
    """

    session: Session
    reason: CloseReason

    @property
    def envelope(self) -> Envelope:
        """The session's envelope at its end: that of a transaction which was broken off, or one without a sender."""
        return self.session.envelope
