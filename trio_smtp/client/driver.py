"""Drives one message through its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from trio_smtp import Reply

from .body import NewlinePolicy
from .commands import Parameters, mail_command, path_of, rcpt_command, recipients_of
from .content import prepare
from .errors import DeliveryError, DeliveryFailed, ExtensionMissing
from .results import BodyType, Mail, SendResult
from .sending import RSET, Body, Commands, Steps, send_steps
from .transfer import Transfer
from .wire import BLOCK, Wire

__all__ = ["Sending", "check_chunking"]


def check_chunking(extensions: Mapping[str, str], *, wanted: bool) -> bool:
    """Returns `wanted`.

    Raises:
        ExtensionMissing: It is wanted, and the server lacks it.
    """
    if wanted and "CHUNKING" not in extensions:
        raise ExtensionMissing("CHUNKING", "the message is to go by BDAT")
    return wanted


@final
class Sending:
    """Sends one message: `begin`, `go_on`, `finish`, one after the other.

    Between `begin` and `go_on` the replies to the message before may be read, and likewise after `go_on` the commands
    of the next may be sent: each follows on the heels of the other.

    Args:
        wire: The connection.
        extensions: What the server offers.
        mail: The message.
        lmtp: The protocol is LMTP.
        chunking: By BDAT.
        newlines: See `BodyWriter`.

    Attributes:
        recipients: The names of the recipients, in order.

    Raises:
        ExtensionMissing: The server lacks what the message needs.
        BareNewline: `newlines` refuses the message.
        ValueError: An address or a parameter is not allowed.
    """

    __slots__ = ("_chunking", "_lines", "_message", "_next", "_result", "_steps", "_transfer", "_wire", "recipients")

    def __init__(
        self,
        wire: Wire,
        extensions: Mapping[str, str],
        mail: Mail,
        *,
        lmtp: bool,
        chunking: bool,
        newlines: NewlinePolicy = "crlf",
    ) -> None:
        binary = mail.body == "BINARYMIME"
        recipients = recipients_of(mail.recipients)
        paths = [path_of(mail.sender), *(path_of(recipient.address) for recipient in recipients)]
        utf8 = mail.smtputf8 or (mail.smtputf8 is None and not all(map(str.isascii, paths)))
        newlines = "keep" if binary else newlines
        self._message = prepare(mail.message, extensions, newlines=newlines, utf8=utf8)
        utf8 = utf8 or (mail.smtputf8 is None and self._message.utf8)
        body: BodyType | None = mail.body
        if body is None and self._message.eight_bit is not False:
            known = self._message.eight_bit is not None
            body = "8BITMIME" if known or "8BITMIME" in extensions else None
        parameters = Parameters(
            size=self._message.size,
            body=body,
            smtputf8=utf8,
            envid=mail.envid,
            ret=mail.ret,
            requiretls=mail.requiretls,
            others=mail.parameters,
        )
        lines = {str(each.address): rcpt_command(each, extensions, smtputf8=utf8) for each in recipients}
        line = mail_command(mail.sender, parameters, extensions)
        self._chunking = check_chunking(extensions, wanted=chunking or binary)
        ascii_only = body is None and self._message.eight_bit is None
        self._transfer = Transfer(wire, newlines, chunking=self._chunking, ascii_only=ascii_only)
        self._wire = wire
        self.recipients: tuple[str, ...] = tuple(lines)
        self._lines = (*RSET.lines, line, *lines.values())
        pipelining = "PIPELINING" in extensions
        self._steps: Steps = send_steps(line, lines, pipelining=pipelining, chunking=self._chunking, lmtp=lmtp)
        self._next: Commands | Body | None = next(self._steps)
        self._result: SendResult | DeliveryError | None = None

    def in_one_go(self) -> bytes | None:
        """RSET, the commands, and the message by BDAT; None where it is large, or not whole yet."""
        octets = self._message.octets
        if octets is None or len(octets) > BLOCK:
            return None
        return b"".join((*self._lines, b"BDAT %d LAST\r\n" % len(octets), octets))

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
        if isinstance(step, Commands):
            self._advance(await self._wire.exchange(step))
            return
        if step.empty:
            await self._transfer.send_end()
        self._advance(await self._transfer.read_end(step.replies))

    def _advance(self, replies: list[Reply]) -> None:
        try:
            self._next = self._steps.send(replies)
        except StopIteration as done:
            self._next, self._result = None, done.value
        except DeliveryFailed:
            raise
        except DeliveryError as error:
            self._next, self._result = None, error
