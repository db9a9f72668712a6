"""What a caller hands to a client, and what comes back: recipients, whole mails, results."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from email.message import Message
from typing import Literal, TypedDict

import attrs

from trio_smtp import Address, Reply, SpooledMessage
from trio_smtp.protocol.values import ShowsFields

from .body import NewlinePolicy

__all__ = [
    "BodyType",
    "Content",
    "EnvelopeOptions",
    "Mail",
    "Recipient",
    "Recipients",
    "SendResult",
    "TransactionOptions",
]

#: What a message may be: octets, a message of the package `email`, one that a server has spooled, or pieces.
Content = bytes | bytearray | memoryview | Message | SpooledMessage | AsyncIterable[bytes]
#: What MAIL says about the octets of a message.
BodyType = Literal["7BIT", "8BITMIME", "BINARYMIME"]


def _words(words: str | Iterable[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)


@attrs.frozen(repr=False)
class Recipient(ShowsFields):
    """A recipient, and what is asked of delivery status notifications for it.

    Attributes:
        address: Without the brackets.
        notify: ``NEVER`` alone, or some of ``SUCCESS``, ``FAILURE``, ``DELAY``; empty: the server decides.
        orcpt: The original recipient: an address, or ``(address type, address)``.

    RFC: RFC 3461 sections 4.1 and 4.2.
    """

    address: str | Address
    notify: tuple[str, ...] = attrs.field(default=(), converter=_words)
    orcpt: str | tuple[str, str] | None = None


#: Who is to have a message: one address, or several.
Recipients = str | Address | Recipient | Iterable[str | Address | Recipient]


class EnvelopeOptions(TypedDict, total=False):
    """What may be said of a message besides its sender and its recipients; all of it may be left out.

    Attributes:
        chunking: Send the message by BDAT (RFC 3030). It is sent so anyway where ``body="BINARYMIME"``.
        newlines: What is done about a CR or LF alone: ``"crlf"`` makes it a line end; ``"refuse"`` raises
            `BareNewline`; ``"keep"`` sends it, by BDAT alone, and is what is done with ``body="BINARYMIME"``.
        body: What the octets are. None: `Client.send` says 8BITMIME where there are octets that are not ASCII; of an
            iterable that is not known, and 8BITMIME is said where the server offers it. `Client.transaction` says
            nothing, and the octets go on as they are.
        smtputf8: Ask for SMTPUTF8 (RFC 6531). None: where an address, or the message's header, needs it.
        envid: The envelope's name, for notifications (RFC 3461 section 4.4).
        ret: What notifications return (RFC 3461 section 4.3).
        requiretls: The message must not go on without TLS (RFC 8689).
        parameters: Further parameters of MAIL, by keyword; True for one without a value.
    """

    chunking: bool
    newlines: NewlinePolicy
    body: BodyType | None
    smtputf8: bool | None
    envid: str | None
    ret: Literal["FULL", "HDRS"] | None
    requiretls: bool
    parameters: Mapping[str, str | bool]


class TransactionOptions(EnvelopeOptions, total=False):
    """The same for a transaction step by step.

    Attributes:
        size: Octets of the message, where that is known.
    """

    size: int | None


@attrs.frozen(repr=False)
class Mail(ShowsFields):
    """A message and its envelope, for `Client.send_many`; see `Client.send` and `EnvelopeOptions`."""

    sender: str | Address
    recipients: Recipients
    message: Content = attrs.field(repr=False)
    body: BodyType | None = attrs.field(default=None, kw_only=True)
    smtputf8: bool | None = attrs.field(default=None, kw_only=True)
    envid: str | None = attrs.field(default=None, kw_only=True)
    ret: Literal["FULL", "HDRS"] | None = attrs.field(default=None, kw_only=True)
    requiretls: bool = attrs.field(default=False, kw_only=True)
    parameters: Mapping[str, str | bool] = attrs.field(factory=dict, kw_only=True)


@attrs.frozen(repr=False)
class SendResult(ShowsFields):
    """A message that was taken for at least one recipient.

    Attributes:
        reply: The reply to the message; in LMTP the first recipient's that has it.
        accepted: The reply for each recipient that has the message: in LMTP its own, in SMTP `reply`.
        refused: The reply for each recipient that has it not: to RCPT, or in LMTP to the message.
    """

    reply: Reply
    accepted: Mapping[str, Reply]
    refused: Mapping[str, Reply]
