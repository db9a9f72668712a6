"""What the replies of the next server mean to a client: whose words they are, and how much of them is passed on.

A reply keeps its class: what the next server refuses for good is refused for good. Some replies are not about the mail:
421 and 521 end the session with the next server, and not the client's; a server that wants a login or TLS of the relay
is one that the relay is not set up for, and no reason to bounce mail. All of these are 451.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from trio_smtp import Reply, SMTPError

__all__ = ["LOST", "UNANSWERED", "ends_session", "passed_on", "refusal", "shown", "worst"]

#: The session with the next server has ended.
LOST = Reply(451, "The next server has ended the session", "4.4.2")
#: The message was sent, and the connection broke before the reply.
UNANSWERED = Reply(451, "The next server did not say whether it has the message", "4.4.2")

_POSITIVE = frozenset({250, 251, 252})
_ENDS = frozenset({421, 521})
#: About the relay's own login or its TLS (RFC 4954 section 6, RFC 5248 section 2.4).
_OURS = frozenset({432, 454, 530, 534, 535, 538})
_SETUP = Reply(451, "The next server does not take mail from this one", "4.3.5")
_MOST_LINES = 8
_LONGEST_LINE = 400
#: So much of a reply is written into the log.
_SHOWN = 200
_NAMED = re.compile(r"(?:queued as|\bid=)\s*<?([!-;=?-~]{1,100})", re.IGNORECASE)


def _lines(reply: Reply) -> Iterable[str]:
    """The first lines of a reply; control characters are out of them already."""
    return tuple(line[:_LONGEST_LINE] for line in reply.lines[:_MOST_LINES])


def ends_session(reply: Reply) -> bool:
    """Whether the next server closes the connection with this."""
    return reply.code in _ENDS


def passed_on(reply: Reply, standing: Reply) -> Reply:
    """Say yes in the next server's words.

    Args:
        reply: What it said.
        standing: What the client would be told; its codes stand for those that the next server has not given, or that
            a client does not await.

    Returns:
        A 250, or a 251 or 252 to RCPT. One that names the message is ``Queued as`` and that name, which the log then
        shows too.
    """
    match = _NAMED.search(reply.text[:_LONGEST_LINE])
    lines = f"Queued as {match[1]}" if match is not None else _lines(reply)
    code = reply.code if reply.code in _POSITIVE else standing.code
    return Reply(code, lines, reply.enhanced or standing.enhanced)


def refusal(reply: Reply) -> SMTPError:
    """Say no in the next server's words; raise it."""
    if ends_session(reply):
        reply = LOST
    elif reply.code in _OURS:
        reply = _SETUP
    # Without an enhanced code of its own, no cause is added that the server has not named.
    enhanced = reply.enhanced or f"{reply.code // 100}.0.0"
    return SMTPError(_lines(reply), reply.code, enhanced)


def worst(replies: Iterable[Reply]) -> Reply:
    """The one of several refusals that stands for all: a temporary one, because a later attempt may help somebody."""
    return min(replies, key=lambda reply: reply.code // 100)


def shown(reply: Reply) -> str:
    """A reply as the log shows it."""
    status = f" {reply.enhanced}" if reply.enhanced else ""
    return f"{reply.code}{status} {' / '.join(reply.lines)}"[:_SHOWN]
