"""One message on its way to the server: after DATA in one go, or by BDAT in chunks (RFC 3030)."""

from __future__ import annotations

from typing import final

from trio_smtp import Reply

from .body import BodyWriter, NewlinePolicy
from .content import Prepared
from .errors import ExtensionMissing
from .wire import BLOCK, Wire

__all__ = ["Transfer"]

#: So many octets are sent at once, at least.
_PIECE = 16_384


@final
class Transfer:
    """Sends one message.

    Back-pressure: `write` returns when the system, or the server, has taken the octets but for the last 16 KiB, which
    wait for more: a message in small pieces is not sent in small pieces. A chunk is sent before the reply to the chunk
    before it is read, and no two before.

    Args:
        wire: The connection.
        newlines: See `BodyWriter`.
        chunking: By BDAT.
        ascii_only: The server lacks 8BITMIME.

    Attributes:
        chunking: As given.
    """

    __slots__ = ("_ascii_only", "_refusal", "_unanswered", "_waiting", "_wire", "_writer", "chunking")

    def __init__(self, wire: Wire, newlines: NewlinePolicy, *, chunking: bool, ascii_only: bool = False) -> None:
        self._wire = wire
        self.chunking: bool = chunking
        self._writer = BodyWriter(newlines, dots=not chunking)
        self._ascii_only = ascii_only
        self._waiting = bytearray()
        self._unanswered = 0
        # The reply to a chunk that was refused: nothing more is sent.
        self._refusal: Reply | None = None

    async def write(self, data: bytes) -> None:
        """Send a piece of the message; once the server has refused it, nothing is sent.

        Raises:
            ExtensionMissing: There is an octet that is not ASCII, and the server lacks 8BITMIME.
            BareNewline: See `BodyWriter.feed`.
            DeliveryFailed: The server does not take the octets.
        """
        if self._ascii_only and not data.isascii():
            raise ExtensionMissing("8BITMIME", "the message has octets that are not ASCII", phase="body")
        for start in range(0, len(data), BLOCK):
            self._waiting += self._writer.feed(data[start : start + BLOCK])
            if len(self._waiting) >= _PIECE:
                octets, self._waiting = bytes(self._waiting), bytearray()
                if self._refusal is None:
                    await (self._send_chunk(octets) if self.chunking else self._wire.send_body(octets))

    async def _send_chunk(self, octets: bytes) -> None:
        if self._unanswered:
            await self._read_one()
            if self._refusal is not None:
                return
        self._unanswered += 1
        await self._wire.send_body(b"BDAT %d\r\n%b" % (len(octets), octets))

    async def _read_one(self) -> None:
        self._unanswered -= 1
        reply = await self._wire.reply("body")
        if reply.code >= 300:
            self._refusal = reply

    async def send_end(self, data: bytes = b"", *, soon: bool = False) -> None:
        """Send the rest of the message and its end; the replies remain to be read.

        Args:
            data: The rest.
            soon: It may leave together with what is sent next.
        """
        octets = bytes(self._waiting) + self._writer.feed(data) + self._writer.end()
        self._waiting.clear()
        while self._unanswered:
            await self._read_one()
        self._wire.check_silence()
        if self._refusal is None:
            if self.chunking:
                octets = b"BDAT %d LAST\r\n%b" % (len(octets), octets)
            if not (soon and self._wire.hold(octets)):
                await self._wire.send_body(octets, uncertain=True)

    async def read_end(self, replies: int) -> list[Reply]:
        """Read so many replies to the end; a chunk that was refused stands for all of them."""
        if self._refusal is not None:
            found = [self._refusal] * replies
        else:
            found = await self._wire.replies(("end",) * replies)
        return found

    async def send_prepared(self, message: Prepared, *, soon: bool) -> None:
        """Send a whole message and its end; see `send_end`."""
        if message.octets is not None:
            last = len(message.octets) // BLOCK * BLOCK if len(message.octets) > BLOCK else 0
            await self.write(message.octets[:last])
            await self.send_end(message.octets[last:], soon=soon)
            return
        assert message.chunks is not None
        try:
            async for chunk in message.chunks:
                await self.write(chunk)
        except BaseException:
            # A generator that was written into the call has nobody else to close it.
            if hasattr(message.chunks, "aclose"):
                await message.chunks.aclose()
            raise
        await self.send_end()
