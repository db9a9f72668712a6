"""One transaction at the next server: begun, led and ended step by step as the client's own goes on.

Whatever goes wrong with the connection to the next server is the client's 451, for that command and for the rest of the
transaction; the client's session goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import trio

from trio_smtp import Address, DataContext, Envelope, Reply, Session, SMTPError
from trio_smtp.client import (
    BareNewline,
    Client,
    DeliveryError,
    DeliveryFailed,
    DeliveryRefused,
    ExtensionMissing,
    Pool,
    Transaction,
    TransactionOptions,
)

from ._trace import received_field
from ._verdicts import LOST, UNANSWERED, ends_session, refusal, shown

__all__ = ["Passing", "Prepare", "Report", "options_for"]

#: Called with what went wrong, and whether the message may have been delivered all the same.
Report = Callable[[str, bool], None]
#: Awaited with the session with the next server, and the client's, before MAIL.
Prepare = Callable[[Client, Session], Awaitable[None]]

_UNREACHABLE = ("The next server cannot be used now", 451, "4.4.1")
#: Also where a handler has rewritten an address to one that is not ASCII.
_NO_UTF8 = ("The next server does not offer SMTPUTF8", 550, "5.6.7")
_TOO_BUSY = ("The next server is not to be had in time", 451, "4.4.1")
#: For RSET when a transaction is given up, in seconds; then the connection is closed.
_RESET_SECONDS = 5.0
#: Parameters whose promise is broken where they are left out (RFC 2852, RFC 4865), and the extension that each needs.
_BINDING = {"BY": "DELIVERBY", "HOLDFOR": "FUTURERELEASE", "HOLDUNTIL": "FUTURERELEASE"}
#: Parameters that are a wish.
_WISHES = {"MT-PRIORITY": "MT-PRIORITY"}


def options_for(envelope: Envelope, extensions: Mapping[str, str]) -> TransactionOptions:
    """What MAIL is to say to a server that offers these extensions.

    Raises:
        SMTPError: The server lacks what the message needs, or the message is larger than it takes.
    """
    limit = extensions.get("SIZE", "")
    if envelope.size is not None and limit.isdecimal() and len(limit) <= 20 and 0 < int(limit) < envelope.size:
        raise SMTPError("The next server takes no message of that size", 552, "5.3.4")
    if envelope.body_type == "BINARYMIME" and not {"BINARYMIME", "CHUNKING"} <= extensions.keys():
        raise SMTPError("The next server takes no binary message", 554, "5.6.1")
    if envelope.smtp_utf8 and "SMTPUTF8" not in extensions:
        raise SMTPError(*_NO_UTF8)
    if envelope.require_tls and "REQUIRETLS" not in extensions:
        raise SMTPError("The next server does not offer REQUIRETLS", 550, "5.7.30")
    options: TransactionOptions = {
        "size": envelope.size,
        "smtputf8": envelope.smtp_utf8,
        "requiretls": envelope.require_tls,
        "parameters": _parameters(envelope, extensions),
        "newlines": "refuse",
    }
    if envelope.body_type == "BINARYMIME":
        options["body"], options["newlines"] = "BINARYMIME", "keep"
    elif envelope.body_type == "8BITMIME" and "8BITMIME" in extensions:
        options["body"] = "8BITMIME"
    if envelope.dsn is not None and "DSN" in extensions:
        options["ret"], options["envid"] = envelope.dsn.ret, envelope.dsn.envid
    return options


def _parameters(envelope: Envelope, extensions: Mapping[str, str]) -> dict[str, str | bool]:
    """The parameters that go on as they were sent."""
    sent = envelope.mail_from.args if envelope.mail_from is not None else {}
    for name, extension in _BINDING.items():
        if name in sent and extension not in extensions:
            raise SMTPError(f"The next server does not offer {extension}", 555, "5.5.4")
    known = _BINDING | _WISHES
    return {name: value for name, value in sent.items() if name in known and known[name] in extensions}


class Passing:
    """A transaction at the next server.

    Args:
        session: The client's.
        report: For what is worth a line in the log.
        patience: Seconds for everything up to the reply to MAIL.
        prepare: Says there what comes before MAIL.

    Attributes:
        sender: The sender that MAIL named.
        recipients: The recipients that the next server has taken, in order.
        started: The next server waits for the message.
    """

    def __init__(
        self,
        session: Session,
        report: Report,
        *,
        patience: float,
        prepare: Prepare,
    ) -> None:
        self.sender: Address | None = None
        self.recipients: list[Address] = []
        self.started: bool = False
        self._session = session
        self._report = report
        self._patience = patience
        self._prepare = prepare
        self._extensions: Mapping[str, str] = {}
        self._manager: AbstractAsyncContextManager[Transaction] | None = None
        self._transaction: Transaction | None = None

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """What the client of the next server raises becomes a reply.

        Raises:
            SMTPError: 451, and the transaction there is over; or 550 5.6.7.
        """
        try:
            yield
        except ExtensionMissing:
            raise SMTPError(*_NO_UTF8) from None
        except DeliveryFailed as error:
            self._report(str(error), error.uncertain)
            self._transaction = None
            raise refusal(UNANSWERED if error.uncertain else LOST) from None

    def _open(self) -> Transaction:
        if self._transaction is None:
            raise refusal(LOST)
        return self._transaction

    async def _judge(self, transaction: Transaction, reply: Reply) -> None:
        """Raise what says no; where the next server ends the session by it, the transaction is over."""
        if reply.code < 400:
            return
        if ends_session(reply):
            self._report(f"the server said {shown(reply)}", False)
            self._transaction = None
            await transaction.abandon()
        raise refusal(reply)

    # The steps

    async def begin(self, pool: Pool, envelope: Envelope) -> Reply:
        """Say MAIL.

        Raises:
            SMTPError: The next server refuses, lacks what the message needs, or cannot be used.
        """
        self.sender = envelope.mail_from
        assert self.sender is not None

        async def prepare(client: Client) -> TransactionOptions:
            await self._prepare(client, self._session)
            self._extensions = client.extensions
            return options_for(envelope, client.extensions)

        manager = pool.transaction(self.sender, prepare=prepare)
        try:
            with trio.move_on_after(self._patience):
                self._transaction = await manager.__aenter__()
        except DeliveryRefused as error:
            if error.phase == "mail" and not ends_session(error.reply):
                raise refusal(error.reply) from None
            self._report(str(error), False)
            raise SMTPError(*_UNREACHABLE) from None
        except DeliveryError as error:
            if isinstance(error, ExtensionMissing) and error.phase == "mail":
                raise SMTPError(*_NO_UTF8) from None
            self._report(str(error), False)
            raise SMTPError(*_UNREACHABLE) from None
        if self._transaction is None:
            self._report(f"mail: no session, or no reply, in {self._patience:g} seconds", False)
            raise SMTPError(*_TOO_BUSY)
        self._manager = manager
        return self._transaction.reply

    async def recipient(self, recipient: Address) -> Reply:
        """Say RCPT.

        Raises:
            SMTPError: The next server refuses the recipient, or is lost.
        """
        transaction = self._open()
        asked: dict[str, Any] = {}
        dsn = recipient.dsn
        if "DSN" in self._extensions:
            if dsn is not None:
                asked = {"notify": dsn.notify, "orcpt": dsn.orcpt}
            if asked.get("orcpt") is None and recipient.original is not None and recipient.original.address:
                asked["orcpt"] = recipient.original.address  # RFC 3461 section 5.2.1: it has another address from here
        with self._translating():
            reply = await transaction.recipient(recipient, **asked)
        await self._judge(transaction, reply)
        self.recipients.append(recipient)
        return reply

    async def start(self) -> None:
        """Say DATA, unless that was said.

        Raises:
            SMTPError: The next server refuses, or is lost.
        """
        transaction = self._open()
        if not self.started:
            with self._translating():
                reply = await transaction.data_start()
            await self._judge(transaction, reply)
            self.started = True

    async def pass_on(self, ctx: DataContext, *, received: bool) -> Sequence[Reply]:
        """Send the message as it comes, and its end.

        Args:
            ctx: The message.
            received: A Received field is put in front of it.

        Returns:
            The reply to it; from an LMTP server one for each recipient, `UNANSWERED` where none came.

        Raises:
            SMTPError: The message is not whole, has a CR or LF alone, or the next server is lost.
        """
        head = received_field(ctx) if received else b""
        try:
            async for chunk in ctx.stream:
                if head:
                    # A message that begins with a blank would go on with the field.
                    await self._write(head + b"\r\n" if chunk.startswith((b" ", b"\t")) else head)
                    head = b""
                await self._write(chunk)
            await self._write(head)
            transaction = self._open()
            with self._translating():
                replies = await self._finish(transaction)
        except BareNewline:
            raise SMTPError("The message has a CR or LF alone", 550, "5.6.0") from None
        if any(map(ends_session, replies)):
            await transaction.abandon()
        return replies

    async def _finish(self, transaction: Transaction) -> Sequence[Reply]:
        try:
            return await transaction.finish()
        except DeliveryFailed as error:
            if not transaction.replies:
                raise
            # The verdicts that have come are known.
            self._report(str(error), error.uncertain)
            missing = len(transaction.accepted) - len(transaction.replies)
            return [*transaction.replies, *[UNANSWERED] * missing]

    async def _write(self, octets: bytes) -> None:
        transaction = self._open()
        with self._translating():
            await transaction.write(octets)

    async def close(self) -> None:
        """Give the session with the next server back; what has begun there and is not finished never is."""
        manager, self._manager = self._manager, None
        self._transaction = None
        if manager is not None:
            with trio.move_on_after(_RESET_SECONDS, shield=True):
                await manager.__aexit__(None, None, None)
