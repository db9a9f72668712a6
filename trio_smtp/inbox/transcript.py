"""Records what client and server say to each other, by the hooks `on_command` and `on_reply` alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs

from trio_smtp import App, CallNext, CommandContext, ReplyContext, Session

__all__ = ["Line", "Transcript", "recorder", "shown_reply"]

#: Lines that are kept of the beginning, and of the end; those between them are counted.
_FIRST, _LAST = 200, 800
_MAX_LINE = 1_000


@attrs.frozen
class Line:
    """What one side has said.

    Attributes:
        speaker: ``"client"``, ``"server"``; ``"note"`` for what the recorder has to say.
        text: One line or several, without the last line end; secrets are masked.
        at: Seconds since the recording began.
    """

    speaker: str
    text: str
    at: float

    def to_json(self) -> dict[str, object]:
        """As the API shows it."""
        return {"From": self.speaker, "Text": self.text, "At": round(self.at, 3)}


class Transcript:
    """The dialogue of one session, bounded: how it began, and the transaction in progress."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lines: list[Line] = []
        #: Where lines are left out.
        self._gap = _FIRST
        self._left_out = 0

    def add(self, speaker: str, text: str) -> None:
        """Add what somebody has said."""
        at = time.monotonic() - self._began
        self._lines.append(Line(speaker, text[:_MAX_LINE], at))
        if len(self._lines) > _FIRST + _LAST:
            del self._lines[self._gap]
            self._left_out += 1

    def begin_transaction(self) -> None:
        """A transaction begins with the next line; the lines before the first transaction are those that stay."""
        self._gap = min(self._gap, len(self._lines))

    def end_transaction(self) -> None:
        """Leave out the lines of the transaction that has ended: its message has them."""
        self._left_out += len(self._lines[self._gap :])
        del self._lines[self._gap :]

    @property
    def lines(self) -> Sequence[Line]:
        """The lines, and a note where some are left out."""
        if not self._left_out:
            return tuple(self._lines)
        before, after = self._lines[: self._gap], self._lines[self._gap :]
        at = (after or before)[0].at
        return (*before, Line("note", f"{self._left_out} lines are left out", at), *after)

    def __len__(self) -> int:
        return len(self._lines) + self._left_out


def recorder(app: App, transcript_of: Callable[[Session], Transcript]) -> None:
    """Register the hooks that record. Do it before other plugins, so that what they send in place of replies is seen.

    Args:
        app: Whose sessions are recorded.
        transcript_of: Gives the transcript of a session.
    """

    async def heard(ctx: CommandContext) -> None:
        transcript = transcript_of(ctx.session)
        if ctx.verb == "MAIL":
            transcript.begin_transaction()
        transcript.add("client", ctx.line)

    async def said(ctx: ReplyContext, call_next: CallNext) -> None:
        transcript = transcript_of(ctx.session)
        try:
            await call_next()
        except BaseException:
            transcript.add("note", f"not sent: {shown_reply(ctx)}")
            raise
        if ctx.octets is None:
            transcript.add("server", shown_reply(ctx))
        else:
            transcript.add("note", f"sent in place of {shown_reply(ctx)}")
            transcript.add("server", ctx.octets.decode("utf-8", "backslashreplace").rstrip("\r\n"))

    app.on_command(heard)
    app.on_reply(said)


def shown_reply(ctx: ReplyContext) -> str:
    """The reply as it goes over the wire, without its last line end."""
    return ctx.encoded.decode().removesuffix("\r\n").replace("\r\n", "\n")
