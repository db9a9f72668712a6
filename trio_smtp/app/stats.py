"""The counters of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from trio_smtp.protocol.values import ShowsFields
from trio_smtp.protocol.verbs import Verb

from .measures import Measures, total_measures

__all__ = ["Stats", "total"]

#: Names of what is answered besides commands.
_NAMES: Mapping[Verb | None, str] = {
    None: "other",
    Verb.EXTENSION: "extension",
    Verb.GREETING: "connect",
    Verb.END_OF_AUTH: "AUTH",
    Verb.END_OF_DATA: "end",
}
_ANSWERED: tuple[Verb | None, ...] = (None, *Verb)


@attrs.define(eq=False, repr=False)
class Stats(ShowsFields):
    """What a server has seen since it was made. Read it at any time; only the server writes.

    Attributes:
        connections_accepted: Connections that became sessions.
        connections_refused: Connections over a limit (behind a proxy they are known as such when they are sessions).
        connections_open: Sessions there are now.
        tls_handshakes: Completed handshakes.
        tls_failures: Handshakes that failed or timed out.
        auth_successes: Accepted credentials.
        auth_failures: Refused credentials.
        messages_accepted: Messages answered with 2xx.
        messages_refused: Messages that were refused when their octets had come, all or some chunks of them.
        messages_incomplete: Messages whose client vanished, fell silent or gave them up.
        octets_received: Octets read from clients (inside TLS: after decryption).
        measures: More, after `App.measure`; None: nobody asked.
    """

    connections_accepted: int = 0
    connections_refused: int = 0
    connections_open: int = 0
    tls_handshakes: int = 0
    tls_failures: int = 0
    auth_successes: int = 0
    auth_failures: int = 0
    messages_accepted: int = 0
    messages_refused: int = 0
    messages_incomplete: int = 0
    octets_received: int = 0
    measures: Measures | None = None
    # Replies by what they answer and by code, in plain dicts: the server writes one for each reply, and a Counter takes
    # twice as long.
    _answers: dict[Verb | None, dict[int, int]] = attrs.field(
        factory=lambda: {verb: {} for verb in _ANSWERED}, init=False, repr=False
    )

    def count_reply(self, verb: Verb | None, code: int) -> None:
        """Count a reply.

        Args:
            verb: What it answers; None: no command.
            code: Its code.
        """
        codes = self._answers[verb]
        try:
            codes[code] += 1
        except KeyError:
            codes[code] = 1

    @property
    def replies(self) -> Counter[int]:
        """Replies sent, by code. A new object."""
        found: Counter[int] = Counter()
        for codes in self._answers.values():
            found.update(codes)
        return found

    @property
    def commands(self) -> Counter[tuple[str, int]]:
        """Replies sent, by the command that is answered and the code. A new object.

        Names that are no verbs: ``"connect"`` for the greeting or what comes in its place, ``"end"`` for the reply to a
        message, ``"extension"`` for a verb of an `Extension`, ``"other"`` for what is no command, and for last words.
        """
        found: Counter[tuple[str, int]] = Counter()
        for verb, codes in self._answers.items():
            name = _NAMES[verb] if verb is None or verb in _NAMES else verb.value
            for code, count in codes.items():
                found[name, code] += count
        return found

    def add(self, other: Stats) -> None:
        """Add the counters of another server."""
        for field in attrs.fields(Stats):
            if isinstance(field.default, int):
                setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.measures = total_measures([self.measures, other.measures])
        for verb, codes in other._answers.items():
            for code, count in codes.items():
                self._answers[verb][code] = self._answers[verb].get(code, 0) + count


def total(several: Iterable[Stats]) -> Stats:
    """Add the counters of several servers; returns new ones."""
    together = Stats()
    for stats in several:
        together.add(stats)
    return together
