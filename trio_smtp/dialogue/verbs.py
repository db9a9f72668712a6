"""What each command does: one small function a verb, and the table that names them.

A phase is called when the command was parsed and its turn was checked. It returns the reply, or None when it has
sent its own; what the peer did wrong it raises as ProtocolError. AUTH and DATA have files of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import CommandContext, HeloContext, MailFromContext, RcptToContext, VerifyContext
from trio_smtp.app.session import Envelope
from trio_smtp.connection.handshake import after_handshake, handshake
from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.commands import Command, Verb
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.parameters import DSNEnvelope
from trio_smtp.protocol.replies import Reply

from .auth import authenticate
from .front_ends import xclient, xforward
from .outcomes import EndSession, logger
from .transaction import receive_chunk, receive_message

if TYPE_CHECKING:
    from trio_smtp.connection.connection import Connection

__all__ = ["PHASES"]

# Looking a member up in its Enum takes ten times as long as a name of the module.
_MAIL_FROM, _RCPT_TO = Phase.MAIL_FROM, Phase.RCPT_TO

_OK = Reply(250, "OK", "2.0.0")
_SENDER_OK = Reply(250, "Sender OK", "2.1.0")
_RECIPIENT_OK = Reply(250, "Recipient OK", "2.1.5")
_CANNOT_VERIFY = Reply(252, "Cannot verify; try delivering", "2.5.0")
_VERIFIED = Reply(250, "OK", "2.1.5")
_BYE = Reply(221, "Bye", "2.0.0")
_READY_FOR_TLS = Reply(220, "Ready to start TLS", "2.0.0")
_TOO_MANY_TRANSACTIONS = Reply(421, "Too many transactions on this connection", "4.7.0")
_TOO_MANY_RECIPIENTS = Reply(452, "Too many recipients", "4.5.3")


async def _hello(conn: Connection, command: Command) -> Reply:
    """RFC 5321 section 4.1.1.1: accepted, it begins anew; refused, everything stays as it was."""
    session, verb = conn.session, command.verb
    opening = session.opening_command, session.host_name_appears_as
    session.opening_command = verb.value  # type: ignore[assignment]
    session.host_name_appears_as = command.argument
    extensions = [] if verb is Verb.HELO else conn.server.offer.ehlo_lines(session)
    reply = conn.server.hello
    if Phase.HELO in conn.chains:
        reply = await conn.phase(Phase.HELO, HeloContext(session, reply, command.argument, extensions))
    elif extensions:
        reply = conn.server.ehlo_reply(tuple(extensions))
    if reply.code >= 400:
        session.opening_command, session.host_name_appears_as = opening
        return reply
    conn.enhanced = conn.server.offer.enhanced and verb is not Verb.HELO
    conn.begin_transaction_anew()
    return reply


async def _mail(conn: Connection, command: Command) -> Reply:
    config, session, values = conn.config, conn.session, command.values
    address = command.address
    assert address is not None
    conn.mails += 1  # RFC 9422 section 4: also those that are refused
    if config.max_transactions is not None and conn.mails > config.max_transactions:
        raise EndSession("refused", _TOO_MANY_TRANSACTIONS)
    size = values.get("SIZE")
    if isinstance(size, int) and config.max_message_size is not None and size > config.max_message_size:
        raise ProtocolError("Message size exceeds the limit", 552, "5.3.4", counted=False)
    session.envelope = _envelope(address, values)
    reply = _SENDER_OK
    if _MAIL_FROM in conn.chains:
        reply = await conn.phase(_MAIL_FROM, MailFromContext(session, reply, address))
    if reply.code >= 400:
        session.envelope = Envelope()
    return reply


#: MAIL's parameters and where the envelope keeps their values.
_ENVELOPE_FIELDS = {
    "SIZE": "size",
    "BODY": "body_type",
    "SMTPUTF8": "smtp_utf8",
    "AUTH": "auth",
    "REQUIRETLS": "require_tls",
    "BY": "deliver_by",
    "MT-PRIORITY": "mt_priority",
    "HOLDFOR": "hold_for",
    "HOLDUNTIL": "hold_until",
}


def _envelope(address: Address, values: Mapping[str, object]) -> Envelope:
    if not values:
        return Envelope(address)
    if "HOLDFOR" in values and "HOLDUNTIL" in values:
        raise ProtocolError("HOLDFOR and HOLDUNTIL exclude each other", 501, "5.5.4")
    fields: dict[str, Any] = {_ENVELOPE_FIELDS[key]: values[key] for key in values if key in _ENVELOPE_FIELDS}
    if "RET" in values or "ENVID" in values:
        fields["dsn"] = DSNEnvelope(values.get("RET"), values.get("ENVID"))  # type: ignore[arg-type]
    return Envelope(address, values=values, **fields)


async def _rcpt(conn: Connection, command: Command) -> Reply:
    session, address = conn.session, command.address
    assert address is not None
    envelope = session.envelope
    if not envelope.smtp_utf8 and not command.argument.isascii():
        raise ProtocolError("A non-ASCII address needs SMTPUTF8", 553, "5.6.7", counted=False)
    if len(envelope.rcpt_to) >= conn.config.max_recipients:
        return _TOO_MANY_RECIPIENTS
    reply = _RECIPIENT_OK
    if _RCPT_TO in conn.chains:
        reply = await conn.phase(_RCPT_TO, RcptToContext(session, reply, address))
    if reply.code < 400:
        envelope.rcpt_to.append(address)
    return reply


async def _rset(conn: Connection, command: Command) -> Reply:
    conn.begin_transaction_anew()
    return _OK


async def _noop(conn: Connection, command: Command) -> Reply:
    return _OK


async def _help(conn: Connection, command: Command) -> Reply:
    return Reply(214, conn.server.offer.help_lines(conn.session), "2.0.0")


async def _vrfy(conn: Connection, command: Command) -> Reply:
    if Phase.VRFY not in conn.chains:
        return _CANNOT_VERIFY
    return await conn.phase(Phase.VRFY, VerifyContext(conn.session, _VERIFIED, command.argument))


async def _expn(conn: Connection, command: Command) -> Reply:
    if Phase.EXPN not in conn.chains:
        raise ProtocolError("Command not implemented", 502, "5.5.1")
    return await conn.phase(Phase.EXPN, VerifyContext(conn.session, _VERIFIED, command.argument))


async def _quit(conn: Connection, command: Command) -> Reply:
    return _BYE


async def _starttls(conn: Connection, command: Command) -> None:
    """RFC 3207: nothing that was said before the handshake counts after it."""
    session = conn.session
    if session.secure:
        raise ProtocolError("TLS is active already", 503, "5.5.1")
    conn.write(_READY_FOR_TLS)
    conn.machine.advance(Verb.STARTTLS, _READY_FOR_TLS.code)
    stale = conn.framer.discard_pending()
    if stale:
        # A man in the middle may have put it there to have it read as if it came through TLS.
        logger.warning("session=%s %d octets after STARTTLS were thrown away", session.id, stale)
    # Before the 220 leaves: there is no moment in which a client has TLS and its words from before it still count.
    conn.forget_dialogue()
    await conn.flush()
    await handshake(conn)
    conn.machine.advance(Verb.HANDSHAKE, 220)
    conn.refusal = await after_handshake(conn)


async def _extension(conn: Connection, command: Command) -> Reply:
    handler = conn.server.offer.commands[command.name]
    context = CommandContext(conn.session, _OK, command.name, command.argument)
    return await conn.run_handlers(command.name, context, handler)


PHASES: Mapping[Verb, Callable[[Connection, Command], Awaitable[Reply | None]]] = {
    Verb.HELO: _hello,
    Verb.EHLO: _hello,
    Verb.LHLO: _hello,
    Verb.MAIL: _mail,
    Verb.RCPT: _rcpt,
    Verb.DATA: receive_message,
    Verb.RSET: _rset,
    Verb.NOOP: _noop,
    Verb.HELP: _help,
    Verb.VRFY: _vrfy,
    Verb.EXPN: _expn,
    Verb.QUIT: _quit,
    Verb.STARTTLS: _starttls,
    Verb.AUTH: authenticate,
    Verb.BDAT: receive_chunk,
    Verb.XCLIENT: xclient,
    Verb.XFORWARD: xforward,
    Verb.EXTENSION: _extension,
}
