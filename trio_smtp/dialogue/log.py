"""The log of a session: a line about an event, a line about a message, and for DEBUG the dialogue without secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence

from trio_smtp.app.session import Envelope, Session
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.sasl import MECHANISMS

__all__ = ["SessionLog", "logger", "masked"]

logger: logging.Logger = logging.getLogger("trio_smtp")


class SessionLog:
    """Writes what happens in one session.

    Args:
        session: Whose lines it writes.
        now: The clock, in seconds.

    Attributes:
        opened: When the session began, by that clock.
        debug: The dialogue is written as well; decided when the session begins.
    """

    __slots__ = ("_now", "_session", "debug", "opened")

    def __init__(self, session: Session, now: Callable[[], float]) -> None:
        self._session = session
        self._now = now
        self.opened: float = now()
        self.debug: bool = logger.isEnabledFor(logging.DEBUG)

    def event(self, level: int, event: str, details: str = "") -> None:
        """Write one line about the session.

        Args:
            level: One of logging's.
            event: What happened.
            details: More of it, ``name=value``.
        """
        if logger.isEnabledFor(level):
            session = self._session
            logger.log(
                level,
                "session=%s peer=%s helo=%s %s%s seconds=%.3f",
                session.id,
                session.remote_address,
                session.host_name_appears_as,
                event,
                f" {details}" if details else "",
                self._now() - self.opened,
            )

    def message(self, envelope: Envelope, octets: int, began: float, replies: Sequence[Reply] = ()) -> None:
        """Write one line about a message.

        Args:
            envelope: Its envelope.
            octets: How many came.
            began: When the first of them was awaited.
            replies: What it was answered; none: it was not finished.
        """
        if logger.isEnabledFor(logging.INFO):
            session = self._session
            result = "reply=" + ",".join(str(each.code) for each in replies) if replies else "incomplete"
            logger.info(
                "session=%s peer=%s message from=<%s> recipients=%d size=%d %s seconds=%.3f",
                session.id,
                session.remote_address,
                envelope.mail_from,
                len(envelope.rcpt_to),
                octets,
                result,
                self._now() - began,
            )

    def said(self, reply: Reply, octets: bytes) -> None:
        """Write a reply, for DEBUG; the text of a 334 may tell a secret."""
        self._trace("S", b"334 ***" if reply.code == 334 else octets)

    def heard(self, line: bytes, verbs: Container[str]) -> None:
        """Write a command line, for DEBUG, without what may be a secret.

        The lines of a SASL exchange never come here.

        Args:
            line: As it came.
            verbs: The verbs that are known in the session.
        """
        self._trace("C", masked(line, verbs))

    def _trace(self, who: str, octets: bytes) -> None:
        for line in octets.removesuffix(b"\r\n").split(b"\r\n"):
            logger.debug("session=%s %s: %s", self._session.id, who, ascii(line.decode("utf-8", "replace"))[1:-1])


def masked(line: bytes, verbs: Container[str]) -> bytes:
    """A command line without what may be a secret.

    Args:
        line: As it came.
        verbs: The verbs that are known in the session.
    """
    words = line.split(b" ")
    verb = words[0].strip().upper()
    if verb == b"AUTH":
        # A client may forget the mechanism: the word after AUTH is a secret then.
        known = [word for word in words[1:2] if word.decode("ascii", "replace").upper() in MECHANISMS]
        return b" ".join([words[0], *known, b"***"][: len(words)])
    if verb.decode("ascii", "replace") not in verbs:
        # A client whose AUTH was refused may send its password all the same.
        return b"(unrecognized, %d octets)" % len(line)
    return line
