"""The log of a session: events, refusals, messages, and for DEBUG the dialogue without secrets."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Container, Mapping, Sequence

from trio_smtp.app.session import Envelope, Session
from trio_smtp.protocol.replies import Reply, default_enhanced
from trio_smtp.protocol.sasl import MECHANISMS
from trio_smtp.protocol.verbs import Verb

__all__ = ["SessionLog", "facts", "logger", "masked", "quoted"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: So many recipients are named in a message's line.
_SHOWN_RECIPIENTS = 3
#: The reply by which a delivery says what it calls the message.
_QUEUED = re.compile(r"Queued as (\S+)")
#: The commands that events belong to; a verb of an extension has a name of its own, which is not known here.
_EVENTS: Mapping[Verb, str] = {Verb.END_OF_AUTH: "AUTH", Verb.END_OF_DATA: "DATA", Verb.EXTENSION: "extension"}


class SessionLog:
    """Writes what happens in one session.

    Args:
        session: Whose lines it writes.
        now: The clock, in seconds.

    Attributes:
        opened: When the session began, by that clock.
        debug: The dialogue is written as well; decided when the session begins.
    """

    __slots__ = ("_bare_newline", "_now", "_session", "debug", "opened")

    def __init__(self, session: Session, now: Callable[[], float]) -> None:
        self._session = session
        self._now = now
        self._bare_newline = False  # was written of
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
                _shown(session.host_name_appears_as),
                event,
                f" {details}" if details else "",
                self._now() - self.opened,
                extra=facts(session, event),
            )

    def refused(self, verb: Verb | None, error: str) -> None:
        """Write one line about a reply that refuses something.

        Args:
            verb: The command that was refused, where it is a known one.
            error: The reply's code, enhanced code and text.
        """
        if logger.isEnabledFor(logging.INFO):
            name = _EVENTS.get(verb, verb.value) + " " if verb is not None else ""
            self.event(logging.INFO, "refused", f"{name}reply={quoted(error)}")

    def closed(self, reason: str) -> None:
        """Write the last line of the session.

        Args:
            reason: Why it was closed.
        """
        if logger.isEnabledFor(logging.INFO):
            session = self._session
            error = f" error={quoted(session.error)}" if session.error else ""
            details = f"reason={reason} transactions={session.transaction}{error}"
            self.event(logging.INFO, "connection closed", details)

    def bare_newline(self, what: str, refused: bool) -> None:
        """Write, once for the session, that a bare CR or LF came, and which settings decide what becomes of it.

        Args:
            what: What came.
            refused: It makes the message malformed; otherwise it is mended.
        """
        if self._bare_newline:
            return
        self._bare_newline = True
        if refused:
            hint = '(Config(bare_newline="normalize") mends it; legacy_clients mends it for networks of your own)'
            self.event(logging.WARNING, f"{what}: refused", hint)
        else:
            self.event(
                logging.INFO,
                f"{what}: mended",
                '(Config(bare_newline="reject") refuses it; legacy_clients lets it end messages)',
            )

    def lone_dot(self) -> None:
        """Write that a message is not finished whose client may think that it is."""
        hint = "(legacy_clients takes that for the end, from networks of your own)"
        self.event(logging.WARNING, "the unfinished message has LF . LF, or the like, which is no end of data", hint)

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
            logger.info(
                "session=%s peer=%s message from=<%s> recipients=%d%s size=%d%s %s seconds=%.3f",
                session.id,
                session.remote_address,
                envelope.mail_from,
                len(envelope.rcpt_to),
                _recipients(envelope),
                octets,
                _security(session),
                _result(replies),
                self._now() - began,
                extra=facts(session, "message"),
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
            text = ascii(line.decode("utf-8", "replace"))[1:-1]
            logger.debug("session=%s %s: %s", self._session.id, who, text, extra=facts(self._session, "dialogue"))


def facts(session: Session, event: str) -> dict[str, object]:
    """What the log records of a session carry as attributes (``extra``), for formatters that write JSON, say.

    Args:
        session: Whose records.
        event: What happened, without details.
    """
    return {
        "session": session.id,
        "peer": session.remote_address,
        "helo": session.host_name_appears_as,
        "user": _name(session.user),
        "transaction": session.transaction,
        "event": event,
    }


def quoted(text: str) -> str:
    """A text that came from handlers or the network, as the value of a ``name=value``: one line, in ASCII."""
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def _name(user: object) -> str | None:
    """How the log calls a user: what handlers accept may be any object, and may show secrets."""
    return user if user is None or isinstance(user, str) else type(user).__name__


def _recipients(envelope: Envelope) -> str:
    """The first recipients, and how many others there are."""
    if not envelope.rcpt_to:
        return ""
    first = ",".join(f"<{each}>" for each in envelope.rcpt_to[:_SHOWN_RECIPIENTS])
    others = len(envelope.rcpt_to) - _SHOWN_RECIPIENTS
    return f" to={first}" + (f",+{others}" if others > 0 else "")


def _security(session: Session) -> str:
    """Who sent a message, and over what, where that is known."""
    user, tls = _name(session.user), session.tls_options
    return (f" user={quoted(user)}" if user is not None else "") + (f" tls={tls.version}" if tls is not None else "")


def _result(replies: Sequence[Reply]) -> str:
    """What a message was answered: the codes, the first refusal's text, what the deliveries called the message."""
    if not replies:
        return "incomplete"
    result = "reply=" + ",".join(str(each.code) for each in replies)
    refusal = next((each for each in replies if each.code >= 400), None)
    if refusal is not None:
        enhanced = refusal.enhanced or default_enhanced(refusal.code)
        result += f" text={quoted(f'{enhanced} {refusal.text}')}"
    names = dict.fromkeys(match[1] for each in replies if each.code < 400 and (match := _QUEUED.match(each.text)))
    return result + (f" id={quoted(','.join(names))}" if names else "")


def _shown(name: str | None) -> str | None:
    """A HELO name for the log: those of `Config.legacy_clients` may have any characters."""
    return name if name is None or name.isascii() else ascii(name)[1:-1]


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
