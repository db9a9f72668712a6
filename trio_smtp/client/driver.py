"""Drives one message through its steps."""

from __future__ import annotations

from typing import final

from trio_smtp import Reply

from .errors import DeliveryError, DeliveryFailed
from .ready import Ready
from .results import SendResult
from .sending import RSET, Body, Commands, Steps, send_steps
from .transfer import Transfer
from .wire import Wire

__all__ = ["Sending"]


@final
class Sending:
    """Sends one message: `begin`, `go_on`, `finish`, one after the other.

    Between `begin` and `go_on` the replies to the message before may be read, and likewise after `go_on` the commands
    of the next may be sent: each follows on the heels of the other.

    Args:
        wire: The connection.
        ready: The mail.
        pipelining: See `send_steps`.
        lmtp: The protocol is LMTP.
    """

    __slots__ = ("_chunking", "_message", "_next", "_result", "_steps", "_transfer", "_wire")

    def __init__(self, wire: Wire, ready: Ready, *, pipelining: bool, lmtp: bool) -> None:
        self._wire = wire
        self._chunking = ready.chunking
        self._message = ready.message
        self._transfer = Transfer(wire, ready.newlines, chunking=ready.chunking, ascii_only=ready.ascii_only)
        self._steps: Steps = send_steps(
            ready.mail, ready.recipients, pipelining=pipelining, chunking=ready.chunking, lmtp=lmtp
        )
        self._next: Commands | Body | None = next(self._steps)
        self._result: SendResult | DeliveryError | None = None

    async def begin(self, *, follows: bool = False, reset: bool = False) -> None:
        """Send the first commands.

        Args:
            follows: The replies to the message before are not read yet.
            reset: The transaction before may be open.
        """
        self._wire.check_open()
        first = self._next
        assert isinstance(first, Commands)
        if reset or (follows and self._chunking):
            # A BDAT that is refused leaves its transaction open.
            first = Commands((*RSET.lines, *first.lines), (*RSET.phases, *first.phases))
        await self._wire.send_commands(first, early=follows)
        self._next = first

    async def go_on(self, *, soon: bool = False) -> None:
        """Read the replies, and go on until the whole message is sent, or refused.

        Args:
            soon: The end of the message may leave together with what is sent next.
        """
        step = self._next
        assert isinstance(step, Commands)
        with self._wire.guarded():
            replies = await self._wire.replies(step.phases)
            self._advance(replies[1:] if step.phases[0] == "rset" else replies)
            while isinstance(self._next, Commands) or (self._next is not None and self._next.empty):
                await self._take(self._next)
            if self._next is not None:
                await self._transfer.send_prepared(self._message, soon=soon)

    async def finish(self) -> SendResult | DeliveryError:
        """Read the replies to the message, if it was sent; returns what became of it."""
        with self._wire.guarded():
            while self._next is not None:
                await self._take(self._next)
        assert self._result is not None
        return self._result

    async def _take(self, step: Commands | Body) -> None:
        decided = step.empty if isinstance(step, Body) else step.phases == RSET.phases
        try:
            if isinstance(step, Commands):
                replies = await self._wire.exchange(step)
            else:
                if step.empty:
                    await self._transfer.send_end()
                replies = await self._transfer.read_end(step.replies)
        except DeliveryFailed:
            if not decided:
                raise
            replies = []  # the message was refused before: a server that then says nothing more has still said no
        self._advance(replies)

    def _advance(self, replies: list[Reply]) -> None:
        try:
            self._next = self._steps.send(replies)
        except StopIteration as done:
            self._next, self._result = None, done.value
        except DeliveryFailed:
            raise
        except DeliveryError as error:
            self._next, self._result = None, error
