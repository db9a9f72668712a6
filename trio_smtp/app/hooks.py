"""What handlers are given that see every command, every reply, and the ends of transactions and sessions."""

from __future__ import annotations

from typing import Literal, NoReturn

import attrs

from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.values import ShowsFields

from .base import BaseApp
from .contexts import Context
from .session import Envelope, Session

__all__ = [
    "CloseContext",
    "CloseReason",
    "CommandContext",
    "ReplyContext",
    "TransactionEndContext",
    "TransactionEndReason",
]

#: Why a session ended.
CloseReason = Literal["quit", "lost", "timeout", "drained", "refused", "abuse", "tls", "error", "cancelled", "aborted"]


#: How a transaction ended: its message was accepted; the message or the client was refused; the client began anew or
#: said QUIT; or the connection ended before.
TransactionEndReason = Literal["accepted", "refused", "reset", "lost"]


@attrs.define(eq=False, repr=False)
class CommandContext(Context):
    """A command: one whose verb an `Extension` has added, or in `on_command` any, before it acts.

    In `on_command` secrets are masked: the responses of AUTH, and whatever follows a verb that is not known.

    Attributes:
        verb: The verb, upper case; ``""`` for one that is not known.
        argument: What follows the verb.
        line: The whole line, without its end.
    """

    verb: str
    argument: str
    line: str


@attrs.define(eq=False, repr=False)
class ReplyContext(ShowsFields):
    """A reply, before it is sent.

    Attributes:
        session: The client's session.
        verb: The command that is answered, ``""`` for one that is not known; ``"CONNECT"`` for the greeting or what
            comes in its place, ``"END"`` for the reply to a message, ``"CLOSING"`` for the last words of a session that
            the server ends.
        reply: The reply.
        encoded: The reply's octets as they are sent: with the enhanced status code where the session has those (RFC
            2034), non-ASCII text as UTF-8 where the transaction has SMTPUTF8.
        octets: What is sent in its place; None: the reply.
        closes: Whether `close_after` was called.
    """

    session: Session
    verb: str
    reply: Reply
    encoded: bytes = attrs.field(repr=False)
    octets: bytes | None = attrs.field(default=None, init=False)
    closes: bool = attrs.field(default=False, init=False)

    @property
    def app(self) -> BaseApp:
        """The App; ``app.state`` has what lifespans and handlers share."""
        return self.session.app

    @property
    def envelope(self) -> Envelope:
        """The envelope of the session's transaction; one without a sender when none is in progress."""
        return self.session.envelope

    def send(self, octets: bytes) -> None:
        """Have octets sent in place of the reply, as they are; further calls add to them.

        Args:
            octets: Raw; ``b""`` for no reply at all.
        """
        self.octets = (self.octets or b"") + octets

    def close_after(self) -> None:
        """End the session when the reply has been sent."""
        self.closes = True

    def abort(self, *, reset: bool = True) -> NoReturn:
        """End the connection without a word, as `Context.abort` does.

        Args:
            reset: The client's system sees a reset; otherwise the end of the connection.

        Raises:
            Aborted: Always; let it pass.
        """
        self.session._abort(reset=reset)  # noqa: SLF001 - for contexts alone


@attrs.frozen(eq=False, repr=False)
class TransactionEndContext(ShowsFields):
    """A transaction has ended.

    Attributes:
        session: The client's session.
        envelope: The transaction's envelope.
        reason: How it ended. ``"accepted"``: its message was accepted. ``"refused"``: the message or the client was
            refused. ``"reset"``: the client began anew or said QUIT. ``"lost"``: the connection ended before.
    """

    session: Session
    envelope: Envelope
    reason: TransactionEndReason

    @property
    def app(self) -> BaseApp:
        """The App; ``app.state`` has what lifespans and handlers share."""
        return self.session.app


@attrs.frozen(eq=False, repr=False)
class CloseContext(ShowsFields):
    """The session has ended; no reply can be sent any more.

    Attributes:
        session: The client's session.
        reason: Why it ended. ``"quit"``: the client said QUIT. ``"lost"``: the client is gone. ``"timeout"``: the
            client, a handler or the session took too long. ``"drained"``: the server drains. ``"refused"``: a handler
            or a limit refused the client. ``"abuse"``: the client broke the protocol too often, or in a way that cannot
            go on. ``"tls"``: a TLS handshake failed. ``"error"``: an internal error. ``"cancelled"``: the server was
            cancelled. ``"aborted"``: a handler called `Context.abort`.
    """

    session: Session
    reason: CloseReason

    @property
    def app(self) -> BaseApp:
        """The App; ``app.state`` has what lifespans and handlers share."""
        return self.session.app

    @property
    def envelope(self) -> Envelope:
        """The session's envelope at its end: that of a transaction which was broken off, or one without a sender."""
        return self.session.envelope
