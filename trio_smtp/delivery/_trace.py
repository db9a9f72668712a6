"""What a delivery puts in front of a message: who sent it, whom it was delivered to, and the Received field."""

from __future__ import annotations

from collections.abc import Iterable

from trio_smtp import Address, DataContext

__all__ = ["delivered_fields", "octets_of", "received_field", "recipients_of"]

#: Control octets, and what stands for each in a field.
_CONTROLS = bytes(range(0x20)) + b"\x7f"
_CLEANED = bytes.maketrans(_CONTROLS, b"?" * len(_CONTROLS))


def recipients_of(ctx: DataContext) -> list[Address]:
    """The recipients that no handler has refused (`DataContext.reject_recipient`)."""
    refused = ctx.recipient_replies
    return [recipient for recipient in ctx.envelope.rcpt_to if recipient not in refused]


def delivered_fields(ctx: DataContext, recipients: Iterable[Address]) -> bytes:
    """Return-Path, and a Delivered-To for each mailbox, with what it was rewritten from before it as X-Original-To.

    Args:
        ctx: The message; its sender is the one that handlers have made of it.
        recipients: Those whom this copy is for.

    RFC: RFC 5321 section 4.4 (Return-Path), RFC 9228 (Delivered-To). X-Original-To is what Postfix calls it.
    """
    originals: dict[bytes, dict[bytes, None]] = {}
    for recipient in recipients:
        mailbox = octets_of(recipient)
        its = originals.setdefault(mailbox, {})
        if recipient.original is not None and (original := octets_of(recipient.original)) != mailbox:
            its[original] = None
    sender = ctx.envelope.mail_from
    fields = [b"Return-Path: <%s>\r\n" % (octets_of(sender) if sender is not None else b"")]
    for mailbox, its in originals.items():
        fields += [b"X-Original-To: %s\r\n" % original for original in its]
        fields.append(b"Delivered-To: %s\r\n" % mailbox)
    return b"".join(fields)


def octets_of(address: Address) -> bytes:
    """An address as a header field may hold it: UTF-8, with ``?`` for each control octet.

    The address grammar refuses control octets, but a handler may have put an Address of its own there: with a line end
    in it, it would add header fields.
    """
    return address.address.encode("utf-8", "replace").translate(_CLEANED)


def received_field(ctx: DataContext) -> bytes:
    """The Received field without a line end more than its own."""
    return ctx.received_header().rstrip(b"\r\n") + b"\r\n"
