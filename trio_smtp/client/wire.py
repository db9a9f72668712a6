"""The octets of one connection: sent and received within time limits, each failure an error that says where.

After any failure, cancellation included, the connection is closed: nobody knows which reply would come next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self, final

import trio

from trio_smtp import Reply

from .errors import BadReply, DeliveryFailed
from .replies import ReplyParser
from .sending import Commands
from .timeouts import Timeouts

__all__ = ["Watcher", "Wire"]

#: Called with ``"C"`` or ``"S"`` and a line of the dialogue, secrets masked and without what could confuse a terminal.
Watcher = Callable[[str, str], None]

#: Octets that are read at once, and that one time limit of sending is for.
BLOCK = 65_536
_MOST_HELD = 16_384
#: After the server has broken the connection: its last reply may be there to be read for so long, in seconds.
_LAST_WORDS = 2.0


@final
class Wire:
    """One connection.

    Args:
        stream: To the server.
        timeouts: The time limits.
        watch: Sees the dialogue, or None.

    Attributes:
        stream: As given; after STARTTLS the encrypted stream around it.
        timeouts: As given.
        goodbye: The last reply of a server that has ended the session (421 as a rule), or None. It stands for all
            replies that would come after it.
        broken: The connection is closed, or must not be used any more.
    """

    __slots__ = ("_held", "_parser", "_watch", "broken", "goodbye", "stream", "timeouts")

    def __init__(self, stream: trio.abc.Stream, timeouts: Timeouts, watch: Watcher | None) -> None:
        self.stream: trio.abc.Stream = stream
        self.timeouts: Timeouts = timeouts
        self.goodbye: Reply | None = None
        self.broken: bool = False
        self._parser = ReplyParser()
        self._watch = watch
        # Waits for the next send.
        self._held = b""

    def guarded(self) -> Self:
        """Whatever is raised in the block of a ``with`` ends the use of the connection.

        This is no generator of `contextlib`: each message comes through here several times.
        """
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.broken = True

    def mark_broken(self) -> None:
        """The connection must not be used any more."""
        self.broken = True

    def check_open(self) -> None:
        """Raise DeliveryFailed where the session has ended: no message can begin."""
        if self.broken:
            raise DeliveryFailed("mail", "the session has ended")

    def _check(self, phase: str) -> None:
        """Raise DeliveryFailed where the session has ended without a goodbye."""
        if self.broken and self.goodbye is None:
            raise DeliveryFailed(phase, "the session has ended", uncertain=phase == "end")

    async def close(self) -> None:
        """Close at once, without a word."""
        self.broken = True
        await trio.aclose_forcefully(self.stream)

    def replace_stream(self, stream: trio.abc.Stream) -> None:
        """Go on over TLS; what came before the handshake is thrown away (RFC 3207 section 4.2)."""
        self._parser.take()
        self.stream = stream

    # Sending

    async def send(self, data: bytes, phase: str, *, uncertain: bool = False) -> None:
        """Send octets.

        Raises:
            DeliveryFailed: The server does not take them in time, or is gone; `uncertain` is passed on.
        """
        if self._held:
            data, self._held = self._held + data, b""
        with memoryview(data) as view:
            for start in range(0, len(view), BLOCK):
                with trio.move_on_after(self.timeouts.block) as scope, view[start : start + BLOCK] as block:
                    try:
                        await self.stream.send_all(block)
                    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                        raise self._failed(phase, "the connection broke", uncertain=uncertain) from error
                if scope.cancelled_caught:
                    raise self._failed(phase, "the server did not take what was sent in time", uncertain=uncertain)

    async def exchange(self, commands: Commands, *, shown: str | None = None) -> list[Reply]:
        """Send commands in one go, and read their replies.

        After a 421 the server says nothing more: that reply then stands for those that are missing.

        Args:
            commands: The commands.
            shown: What is shown in the place of the octets, for secrets.

        Raises:
            DeliveryFailed: There is no answer, or one that came before its command.
        """
        with self.guarded():
            await self.send_commands(commands, shown=shown)
            replies = await self.replies(commands.phases)
        if commands.phases[-1] == "rset" and replies[-1].code >= 300:
            self.broken = True  # a transaction may still be open there
        return replies

    async def send_commands(self, commands: Commands, *, shown: str | None = None, early: bool = False) -> None:
        """Send commands without reading their replies; nothing is sent after a 421.

        Args:
            commands: The commands.
            shown: See `exchange`.
            early: Replies to what was sent before are still to come.
        """
        phase = commands.phases[0]
        self._check(phase)
        if self.goodbye is not None:
            return
        if self._parser.pending and not early:
            self._take_goodbye(phase)
            return
        try:
            await self.send(b"".join(commands.lines), phase)
        except DeliveryFailed as error:
            if early:  # what can be read is no answer to these commands
                raise
            await self._last_words(phase, error)
        if self._watch is not None:
            for line in commands.lines:
                self._watch("C", shown if shown is not None else line.decode().removesuffix("\r\n"))

    def _take_goodbye(self, phase: str) -> None:
        """Something came before a command was sent: a 421, or nothing that one may go on after."""
        reply = self._next(phase)
        if reply is None or reply.code != 421:
            raise self._failed(phase, "the server replied before the command was sent")
        self._note(reply)

    async def _last_words(self, phase: str, broke: DeliveryFailed) -> None:
        """The connection broke while something was sent: the server may have said 421, or refused, before.

        Raises:
            DeliveryFailed: `broke`, because the server has said nothing.
        """
        with trio.move_on_after(_LAST_WORDS), suppress(DeliveryFailed):
            reply = await self._read(phase, uncertain=False)
            if reply.code >= 400:
                self.goodbye = reply
                return
        raise broke

    def check_silence(self) -> None:
        """Nothing must have come before the end of a message but a refusal, which then is the reply to it.

        Raises:
            DeliveryFailed: Something else has come: taken for the reply, it would say that a message was delivered
                whose end was not even sent.
        """
        if not self._parser.pending or self.broken:
            return
        reply = self._next("body")
        if reply is None or reply.code < 400:
            raise self._failed("body", "the server replied before the message was sent")
        self._note(reply)
        self.goodbye, self.broken = reply, True

    def hold(self, data: bytes) -> bool:
        """Send the end of a message together with what is sent next, or before the next reply is waited for.

        Returns:
            False: there are too many octets for that.
        """
        if len(data) > _MOST_HELD or self.broken:
            return False
        self._held += data
        return True

    async def send_body(self, data: bytes, *, uncertain: bool = False) -> bool:
        """Send a piece of a message.

        Args:
            data: The octets.
            uncertain: They have the end of the message in them.

        Returns:
            False: the server has refused the message before its end, see `goodbye`.
        """
        self._check("body")
        if self.goodbye is not None:
            return False
        phase = "end" if uncertain else "body"
        try:
            await self.send(data, phase, uncertain=uncertain)
        except DeliveryFailed as error:
            await self._last_words(phase, error)
            return False
        return True

    # Receiving

    async def replies(self, phases: Sequence[str]) -> list[Reply]:
        """Read a reply for each phase; see `exchange` for a 421 among them."""
        return [self._at_hand(phase) or await self._wait(phase) for phase in phases]

    async def reply(self, phase: str) -> Reply:
        """Read the next reply.

        Raises:
            DeliveryFailed: None came in time, or what came is none; uncertain in the phase ``"end"``.
        """
        return self._at_hand(phase) or await self._wait(phase)

    def _at_hand(self, phase: str) -> Reply | None:
        """The next reply, where it has come already."""
        if self.broken:
            self._check(phase)
            return self.goodbye
        reply = self._next(phase)
        if reply is not None:
            self._note(reply)
        return reply

    async def _wait(self, phase: str) -> Reply:
        seconds = self._seconds(phase)
        reply: Reply | None = None
        with trio.move_on_after(seconds):
            reply = await self._read(phase, uncertain=phase == "end")
        if reply is None:
            raise self._failed(phase, f"no reply in {seconds:g} seconds", uncertain=phase == "end")
        self._note(reply)
        return reply

    def _note(self, reply: Reply) -> None:
        if self._watch is not None:
            for number, line in enumerate(reply.lines, 1):
                status = f"{reply.enhanced} " if reply.enhanced else ""
                self._watch("S", f"{reply.code}{'-' if number < len(reply.lines) else ' '}{status}{line}")
        if reply.code == 421:
            self.goodbye = reply
            self.broken = True

    async def _read(self, phase: str, *, uncertain: bool) -> Reply:
        if self._held:
            await self.send(b"", phase, uncertain=uncertain)
        while True:
            try:
                data = await self.stream.receive_some(BLOCK)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._failed(phase, "the connection broke", uncertain=uncertain) from error
            if not data:
                raise self._failed(phase, "the server closed the connection", uncertain=uncertain)
            self._parser.feed(data)
            reply = self._next(phase)
            if reply is not None:
                return reply

    def _next(self, phase: str) -> Reply | None:
        try:
            return self._parser.next_reply()
        except BadReply as error:
            raise self._failed(phase, str(error), uncertain=phase == "end") from None

    def _seconds(self, phase: str) -> float:
        limits = self.timeouts
        match phase:
            case "greeting":
                return limits.greeting
            case "mail":
                return limits.mail
            case "rcpt":
                return limits.rcpt
            case "data":
                return limits.data
            case "end" | "body":
                return limits.end
            case "quit":
                return limits.quit
            case _:
                return limits.command

    def _failed(self, phase: str, reason: str, *, uncertain: bool = False) -> DeliveryFailed:
        self.broken = True
        return DeliveryFailed(phase, reason, uncertain=uncertain)
