"""Many messages in one go: all their commands and their octets, by BDAT, before the replies to the first are read."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Mapping
from typing import final

from .driver import Sending
from .errors import DeliveryError, DeliveryFailed, DeliveryRefused
from .ready import make_ready
from .results import Mail, SendResult
from .sending import outcome, positive
from .wire import BLOCK, Wire

__all__ = ["send_burst"]

#: Octets and commands of one send. The replies to two sends wait in the buffers of the two sides at most, so that
#: neither side waits for the other to read.
_OCTETS, _COMMANDS = 32_768, 200

_Result = SendResult | DeliveryError


async def send_burst(
    wire: Wire, extensions: Mapping[str, str], mails: AsyncIterable[Mail], *, lmtp: bool, at_once: bool
) -> list[_Result]:
    """Send messages; see `Client.send_many`.

    Args:
        wire: The connection.
        extensions: What the server offers.
        mails: The messages.
        lmtp: The protocol is LMTP.
        at_once: A message is sent when it is there: the next may be long in coming. Otherwise several leave together.

    Each begins with RSET: a transaction that was refused in the middle does not take in the next one's recipients.
    """
    burst = _Burst(wire, lmtp=lmtp, at_once=at_once)
    async for mail in mails:
        try:
            ready = make_ready(mail, extensions, chunking=True)
        except DeliveryError as error:
            burst.note(error)
            continue
        octets = ready.in_one_go(BLOCK)
        if octets is None:
            await burst.finish()
            burst.note(await _alone(Sending(wire, ready, pipelining=True, lmtp=lmtp)))
        else:
            await burst.add(octets, tuple(ready.recipients))
    await burst.finish()
    return burst.results


async def _alone(sending: Sending) -> _Result:
    try:
        await sending.begin(reset=True)
        await sending.go_on()
        return await sending.finish()
    except DeliveryError as error:
        return error


@final
class _Burst:
    """What is sent and not answered yet.

    Attributes:
        results: What became of each message, in order; None: not known yet.
    """

    def __init__(self, wire: Wire, *, lmtp: bool, at_once: bool) -> None:
        self._wire = wire
        self._lmtp = lmtp
        self._at_once = at_once
        self._found: list[_Result | None] = []
        # The messages that are sent, and those that wait to be: their places in `_found`, and their recipients.
        self._sent: deque[tuple[int, tuple[str, ...]]] = deque()
        self._waiting: list[tuple[int, tuple[str, ...]]] = []
        self._octets: list[bytes] = []
        self._size = self._commands = 0
        # Commands whose replies are not read yet.
        self._unanswered = 0

    @property
    def results(self) -> list[_Result]:
        return [result for result in self._found if result is not None]

    def note(self, result: _Result) -> None:
        """What became of a message is known without this burst."""
        self._found.append(result)

    async def add(self, octets: bytes, recipients: tuple[str, ...]) -> None:
        """Send a message soon; what was sent before is answered first."""
        self._waiting.append((len(self._found), recipients))
        self._found.append(None)
        self._octets.append(octets)
        self._size += len(octets)
        self._commands += len(recipients) + 3
        if self._at_once:
            await self._send()
            if self._unanswered >= _COMMANDS:
                await self._read((len(self._sent) + 1) // 2)
        elif self._size >= _OCTETS or self._commands >= _COMMANDS:
            before = len(self._sent)
            await self._send()
            await self._read(before)

    async def finish(self) -> None:
        """Send what waits, and read every reply."""
        await self._send()
        await self._read(len(self._sent))

    async def _send(self) -> None:
        data, waiting = b"".join(self._octets), self._waiting
        self._unanswered += self._commands
        self._octets, self._waiting, self._size, self._commands = [], [], 0, 0
        if not waiting:
            return
        if self._wire.broken:
            for place, _ in waiting:
                self._found[place] = DeliveryFailed("mail", "the session has ended")
            return
        self._sent += waiting
        try:
            await self._wire.send(data, "end", uncertain=True)
        except DeliveryFailed as error:
            self._lose(error)

    async def _read(self, count: int) -> None:
        """Read the replies to so many messages."""
        for _ in range(min(count, len(self._sent))):
            place, recipients = self._sent.popleft()
            self._unanswered -= len(recipients) + 3
            try:
                self._found[place] = await self._read_one(recipients)
            except DeliveryFailed as error:
                self._wire.mark_broken()
                self._found[place] = error
                self._lose(error)
                return

    def _lose(self, error: DeliveryFailed) -> None:
        """The connection is lost: all that is sent may have been delivered."""
        for place, _ in self._sent:
            self._found[place] = DeliveryFailed("end", error.reason, uncertain=True)
        self._sent.clear()

    async def _read_one(self, recipients: tuple[str, ...]) -> _Result:
        wire = self._wire
        try:
            if not positive("rset", await wire.reply("rset")):
                wire.mark_broken()
            begun, *replies = await wire.replies(("mail", *("rcpt",) * len(recipients)))
            to_rcpt = dict(zip(recipients, replies, strict=True))
            taken = [name for name, reply in to_rcpt.items() if positive("rcpt", reply)]
            taken = taken if positive("mail", begun) else []
            final = await wire.replies(("end",) * (max(1, len(taken)) if self._lmtp else 1))
        except DeliveryFailed as error:
            raise DeliveryFailed(error.phase, error.reason, uncertain=True) from error
        refused = {name: reply for name, reply in to_rcpt.items() if reply.code >= 400}
        if begun.code >= 400:
            return DeliveryRefused(begun, phase="mail")
        if not taken:
            return DeliveryRefused([*to_rcpt.values()][-1], refused, phase="rcpt")
        try:
            return outcome(taken, refused, final)
        except DeliveryRefused as error:
            return error
