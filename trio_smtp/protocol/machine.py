"""The order of things: the states of a connection, one table, and the machine that follows it.

The order of commands is in `TRANSITIONS`: an absent cell is 503, and the state stays. Beside the state the machine
remembers only whether MAIL or recipients were refused. That decides between 503 and 554, and whether the error counts
against the client: one that pipelines cannot know of the refusal. Conditions that are not order (TLS first, AUTH first,
sizes, counts) are guards of the caller, with codes of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import ClassVar, final

from .errors import ProtocolError
from .verbs import Verb

__all__ = ["TRANSITIONS", "Machine", "State"]


class State(enum.Enum):
    """Where a connection is."""

    __hash__: ClassVar[Callable[[object], int]] = object.__hash__

    #: Connected; the 220 was not sent yet.
    CONNECTED = "CONNECTED"
    #: Greeted; no HELO, EHLO or LHLO yet, or none since TLS began.
    GREETED = "GREETED"
    #: HELO was said; no transaction.
    READY = "READY"
    #: Inside a SASL exchange.
    AUTH = "AUTH"
    #: A sender, no recipient yet.
    MAIL = "MAIL"
    #: A sender and at least one recipient.
    RCPT = "RCPT"
    #: 354 was sent: the body comes.
    DATA = "DATA"
    #: Between the chunks of a message.
    BDAT = "BDAT"
    #: 220 to STARTTLS was sent: the handshake comes.
    TLS = "TLS"
    #: Over.
    CLOSED = "CLOSED"


_ANY_TIME = (Verb.NOOP, Verb.HELP, Verb.VRFY, Verb.EXPN, Verb.QUIT, Verb.EXTENSION)


def _stay(state: State, *verbs: Verb) -> dict[Verb, State]:
    return dict.fromkeys((*_ANY_TIME, *verbs), state)


def _hello(state: State) -> dict[Verb, State]:
    return dict.fromkeys((Verb.HELO, Verb.EHLO, Verb.LHLO), state)


#: State -> verb -> the state after it was accepted. QUIT's 221 leads to CLOSED, as do 421 and 521 to anything.
TRANSITIONS: Mapping[State, Mapping[Verb, State]] = {
    State.CONNECTED: {Verb.GREETING: State.GREETED},
    State.GREETED: {
        **_stay(State.GREETED, Verb.RSET),
        **_hello(State.READY),
        Verb.STARTTLS: State.TLS,
        Verb.XCLIENT: State.CONNECTED,
        Verb.XFORWARD: State.GREETED,
    },
    State.READY: {
        **_stay(State.READY, Verb.RSET),
        **_hello(State.READY),
        Verb.STARTTLS: State.TLS,
        Verb.AUTH: State.AUTH,
        Verb.MAIL: State.MAIL,
        Verb.XCLIENT: State.CONNECTED,
        Verb.XFORWARD: State.READY,
    },
    State.AUTH: {Verb.END_OF_AUTH: State.READY},
    State.MAIL: {
        **_stay(State.MAIL),
        **_hello(State.READY),
        Verb.RSET: State.READY,
        Verb.RCPT: State.RCPT,
    },
    State.RCPT: {
        **_stay(State.RCPT, Verb.RCPT),
        **_hello(State.READY),
        Verb.RSET: State.READY,
        Verb.DATA: State.DATA,
        Verb.BDAT: State.BDAT,
    },
    State.DATA: {Verb.END_OF_DATA: State.READY},
    State.BDAT: {
        **_stay(State.BDAT, Verb.BDAT),
        **_hello(State.READY),
        Verb.RSET: State.READY,
        Verb.END_OF_DATA: State.READY,
    },
    State.TLS: {Verb.HANDSHAKE: State.GREETED},
    State.CLOSED: {},
}

#: Events that move the state whatever the reply says, because the octets that follow are commands again.
_UNCONDITIONAL = frozenset({Verb.END_OF_AUTH, Verb.END_OF_DATA})
#: Replies that close the connection (RFC 5321 sections 3.8 and 4.1.1.10, RFC 7504).
_CLOSING = frozenset({221, 421, 521})

#: Verbs and events after which the machine forgets what an earlier transaction refused.
_NEW_TRANSACTION = frozenset(
    {Verb.HELO, Verb.EHLO, Verb.LHLO, Verb.MAIL, Verb.RSET, Verb.END_OF_DATA, Verb.HANDSHAKE, Verb.XCLIENT}
)

_IN_TRANSACTION = frozenset({State.MAIL, State.RCPT, State.DATA, State.BDAT})

_NEEDED_FIRST: Mapping[Verb, str] = {
    Verb.MAIL: "Send HELO or EHLO first",
    Verb.AUTH: "Send EHLO first",
    Verb.RCPT: "Need MAIL before RCPT",
    Verb.DATA: "Need RCPT before DATA",
    Verb.BDAT: "Need RCPT before BDAT",
}


@final  # where the module is compiled, nothing can inherit from it
class Machine:
    """Walks `TRANSITIONS` for one connection. `advance` is the one place where the state moves.

    Args:
        lmtp: The rules of RFC 2033 hold: DATA without a valid recipient is 503, also when all recipients were refused.

    Attributes:
        state: The present state.
    """

    __slots__ = ("_lmtp", "_mail_refused", "_recipients_refused", "state")

    def __init__(self, *, lmtp: bool = False) -> None:
        self.state: State = State.CONNECTED
        self._lmtp = lmtp
        self._mail_refused = False
        self._recipients_refused = False

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self.state is State.CLOSED

    @property
    def in_transaction(self) -> bool:
        """Whether a sender was accepted and the transaction is not over."""
        return self.state in _IN_TRANSACTION

    def check(self, verb: Verb) -> None:
        """Check that a verb may come now.

        Raises:
            ProtocolError: 503, or 554 for DATA after recipients that were all refused. After a refused MAIL or refused
                recipients the error does not count as the client's: a client that pipelines cannot know.
        """
        if verb in TRANSITIONS[self.state]:
            return
        refused = self._mail_refused or self._recipients_refused
        followers = (Verb.RCPT, Verb.DATA, Verb.BDAT)
        if (
            self._recipients_refused
            and verb in (Verb.DATA, Verb.BDAT)
            and not self._lmtp
            and self.state is not State.BDAT
        ):
            raise ProtocolError("no valid recipients", 554, "5.5.1", counted=False)
        counted = not (refused and verb in followers)
        if self.state is State.BDAT or (self.in_transaction and verb not in followers):
            message = "Not inside a transaction"
        else:
            message = _NEEDED_FIRST.get(verb, "Bad sequence of commands")
        raise ProtocolError(message, 503, "5.5.1", counted=counted)

    def advance(self, verb: Verb, code: int) -> None:
        """Move on after a reply.

        Args:
            verb: The verb or event that was answered; `check` has accepted it, unless the code is a refusal.
            code: The reply's code.
        """
        if code in _CLOSING:
            self.state = State.CLOSED
        elif code < 400 or verb in _UNCONDITIONAL:
            self.state = TRANSITIONS[self.state][verb]
            if verb in _NEW_TRANSACTION:
                self._mail_refused = self._recipients_refused = False
        elif verb is Verb.MAIL and not self.in_transaction:
            self._mail_refused = True
        elif verb is Verb.RCPT and (self._mail_refused or verb in TRANSITIONS[self.state]):
            self._recipients_refused = True

    def close(self) -> None:
        """End the session: no verb is allowed any more."""
        self.state = State.CLOSED
