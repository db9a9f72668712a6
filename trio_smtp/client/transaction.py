"""A transaction step by step, for programs that pass a message on while it comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self, final

import trio

from trio_smtp import Address, Reply

from .body import NewlinePolicy
from .commands import rcpt_command
from .errors import DeliveryFailed, DeliveryRefused
from .results import Recipient
from .sending import RSET, Commands, positive
from .transfer import Transfer
from .wire import Wire

__all__ = ["Transaction"]


@final
class Transaction:
    """One transaction, made by `Client.transaction`: an async context manager.

    Leaving it before `finish` sends RSET, or closes the connection where the message had begun: the server never gets
    the end of a message that is not whole.

    Attributes:
        reply: The reply to MAIL.
        accepted: The recipients that were taken, in order. In LMTP the replies of `finish` are in this order.
        replies: The replies to the message that have come. In LMTP a connection may break between two of them: then
            `finish` raises, and the recipients at the beginning of `accepted` have their replies all the same.
    """

    __slots__ = (
        "_extensions",
        "_lmtp",
        "_mail",
        "_over",
        "_smtputf8",
        "_started",
        "_transfer",
        "_use",
        "_used",
        "_wire",
        "accepted",
        "replies",
        "reply",
    )

    def __init__(
        self,
        wire: Wire,
        use: Callable[[], AbstractContextManager[None]],
        mail: bytes,
        extensions: Mapping[str, str],
        *,
        lmtp: bool,
        smtputf8: bool,
        chunking: bool,
        newlines: NewlinePolicy,
    ) -> None:
        self.reply: Reply
        self.accepted: list[str] = []
        self.replies: list[Reply] = []
        self._wire = wire
        self._use = use
        self._used = ExitStack()
        self._mail = mail
        self._extensions = extensions
        self._lmtp = lmtp
        self._smtputf8 = smtputf8
        self._transfer = Transfer(wire, newlines, chunking=chunking)
        # The server waits for the message; there is no transaction any more.
        self._started = self._over = False

    async def __aenter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._use())
            self.reply = await self._say("mail", self._mail)
            if not positive("mail", self.reply):
                raise DeliveryRefused(self.reply, phase="mail")
            self._used = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._used:
            wire = self._wire
            try:
                if self._over or wire.broken:
                    return
                if self._started or (error is not None and not isinstance(error, Exception)):
                    wire.mark_broken()
                else:
                    await wire.exchange(RSET)
            except DeliveryFailed:
                pass  # the transaction ends all the same
            finally:
                self._over = True
                if wire.broken:
                    await wire.close()

    async def _say(self, phase: str, line: bytes) -> Reply:
        try:
            (reply,) = await self._wire.exchange(Commands((line,), (phase,)))
        finally:
            if self._wire.broken:
                await self._wire.close()
        return reply

    async def recipient(
        self,
        address: str | Address,
        *,
        notify: str | Iterable[str] = (),
        orcpt: str | tuple[str, str] | None = None,
    ) -> Reply:
        """Send RCPT.

        Args:
            address: See `Recipient`.
            notify: See `Recipient`.
            orcpt: See `Recipient`.

        Returns:
            The reply; where it says yes the recipient is in `accepted`.

        Raises:
            ExtensionMissing: The server lacks what the recipient needs; nothing was sent.
            ValueError: The address or a parameter is not allowed; nothing was sent.
            DeliveryFailed: There was no answer.
        """
        self._check(started=False)
        line = rcpt_command(Recipient(address, notify, orcpt), self._extensions, smtputf8=self._smtputf8)
        reply = await self._say("rcpt", line)
        if self._fits("rcpt", reply):
            self.accepted.append(str(address))
        return reply

    async def data_start(self) -> Reply:
        """Send DATA.

        Returns:
            The reply: 354, or a refusal. By BDAT nothing is sent, and the reply is a 354 of our own.

        Raises:
            DeliveryFailed: There was no answer.
            RuntimeError: No recipient was taken.
        """
        self._check(started=False)
        if not self.accepted:
            raise RuntimeError("no recipient was taken: there is nobody to send a message to")
        if self._transfer.chunking:
            reply = Reply(354, "Chunks follow")
        else:
            reply = await self._say("data", b"DATA\r\n")
        self._started = self._fits("data", reply)
        return reply

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the message; returns when the system has taken it, but for 16 KiB that wait for more.

        A server that has refused the message already is sent no more; `finish` gives its reply.

        Raises:
            BareNewline: See `Client.send`. The connection is closed.
            DeliveryFailed: The server did not take it.
        """
        self._check(started=True)
        with self._wire.guarded():
            await self._transfer.write(chunk)

    async def finish(self) -> list[Reply]:
        """End the message.

        Returns:
            The reply to it; in LMTP one for each recipient that was taken.

        Raises:
            DeliveryFailed: There was no answer: the server may have the message (``uncertain``), or not.
        """
        self._check(started=True)
        with self._wire.guarded():
            await self._transfer.send_end()
            for _ in range(len(self.accepted) if self._lmtp else 1):
                (reply,) = await self._transfer.read_end(1)
                positive("end", reply)
                self.replies.append(reply)
        # A chunk before the last may be what was refused: its transaction is open.
        self._started = False
        self._over = not (self._transfer.chunking and all(reply.code >= 400 for reply in self.replies))
        return self.replies

    async def abandon(self) -> None:
        """Close the connection: the server gets no more of this transaction, and a pool does not use it again."""
        self._over = True
        await self._wire.close()

    def _fits(self, phase: str, reply: Reply) -> bool:
        with self._wire.guarded():
            return positive(phase, reply, 3 if phase == "data" else 2)

    def _check(self, *, started: bool) -> None:
        if self._over:
            raise trio.ClosedResourceError("this transaction is over")
        if self._started is not started:
            raise RuntimeError(
                "the message has not begun: data_start comes first" if started else "the message has begun"
            )
