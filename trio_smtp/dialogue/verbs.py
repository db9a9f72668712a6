"""What each verb does: one small function for each, and the table that names them.

A verb's function is called when its command was parsed and the state machine allows it now (BDAT checks that itself).
It returns the reply; one that needs something of the driver is a generator, which returns the reply, or None when it
has answered by itself. What the peer did wrong is raised as ProtocolError. AUTH, DATA, BDAT and the front ends' verbs
have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trio_smtp.app.application import Chain, Phase
from trio_smtp.app.contexts import HeloContext, MailFromContext, RcptToContext, VerifyContext
from trio_smtp.app.hooks import CommandContext
from trio_smtp.app.session import Envelope
from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.commands import Command
from trio_smtp.protocol.dsn import DSNEnvelope
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .auth import authenticate
from .dialogue import Dialogue
from .front_ends import xclient, xforward
from .greeting import ask_secure
from .log import facts, logger
from .steps import Ask, EndSession, Pause, ShakeHands, Steps
from .transaction import bdat, data

__all__ = ["VERBS"]

_MAIL_FROM, _RCPT_TO = Phase.MAIL_FROM, Phase.RCPT_TO

_OK = Reply(250, "OK", "2.0.0")
_SENDER_OK = Reply(250, "Sender OK", "2.1.0")
_RECIPIENT_OK = Reply(250, "Recipient OK", "2.1.5")
_CANNOT_VERIFY = Reply(252, "Cannot verify; try delivering", "2.5.0")
_VERIFIED = Reply(250, "OK", "2.1.5")
_BYE = Reply(221, "Bye", "2.0.0")
_READY_FOR_TLS = Reply(220, "Ready to start TLS", "2.0.0")
_TLS_IS_ACTIVE = Reply(220, "")
_TOO_MANY_TRANSACTIONS = Reply(421, "Too many transactions on this connection", "4.7.0")
_TOO_MANY_RECIPIENTS = Reply(452, "Too many recipients", "4.5.3")


def _hello(dialogue: Dialogue, command: Command) -> Steps[Reply]:
    """RFC 5321 section 4.1.1.1: accepted, it begins anew; refused, everything stays as it was."""
    session, service, verb = dialogue.session, dialogue.service, command.verb
    opening = session.opening_command, session.host_name_appears_as
    session.opening_command = verb.value  # type: ignore[assignment]
    session.host_name_appears_as = command.argument
    extensions = [] if verb is Verb.HELO else service.capabilities.ehlo_lines(session)
    reply = service.hello
    handlers = service.chains.get(Phase.HELO)
    if handlers is not None:
        step = Ask(Phase.HELO, HeloContext(session, reply, command.argument, extensions), handlers)
        yield step
        reply = step.reply
    elif extensions:
        reply = service.ehlo_reply(tuple(extensions))
    if reply.code >= 400:
        session.opening_command, session.host_name_appears_as = opening
    else:
        dialogue.greeted(verb)
    return reply


def _mail(dialogue: Dialogue, command: Command) -> Reply | Steps[Reply]:
    service, values = dialogue.service, command.values
    address, config = command.address, service.config
    assert address is not None
    if config.max_transactions is not None and not dialogue.budget.take_mail(config.max_transactions):
        raise EndSession("refused", _TOO_MANY_TRANSACTIONS)
    size = values.get("SIZE")
    if isinstance(size, int) and config.max_message_size is not None and size > config.max_message_size:
        raise ProtocolError("Message size exceeds the limit", 552, "5.3.4", counted=False)
    dialogue.session.envelope = _envelope(address, values)
    handlers = service.chains.get(_MAIL_FROM)
    return _SENDER_OK if handlers is None else _ask_sender(dialogue, address, handlers)


def _ask_sender(dialogue: Dialogue, address: Address, handlers: Chain) -> Steps[Reply]:
    step = Ask(_MAIL_FROM, MailFromContext(dialogue.session, _SENDER_OK, address), handlers)
    yield step
    if step.reply.code >= 400:
        dialogue.session.envelope = Envelope()
    return step.reply


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


def _rcpt(dialogue: Dialogue, command: Command) -> Reply | Steps[Reply]:
    service, address = dialogue.service, command.address
    assert address is not None
    envelope = dialogue.session.envelope
    if not envelope.smtp_utf8 and not command.argument.isascii():
        raise ProtocolError("A non-ASCII address needs SMTPUTF8", 553, "5.6.7", counted=False)
    if len(envelope.rcpt_to) >= service.config.max_recipients:
        return _TOO_MANY_RECIPIENTS
    handlers = service.chains.get(_RCPT_TO)
    if handlers is not None:
        return _ask_recipient(dialogue, envelope, address, handlers)
    envelope.rcpt_to.append(address)
    return _RECIPIENT_OK


def _ask_recipient(dialogue: Dialogue, envelope: Envelope, address: Address, handlers: Chain) -> Steps[Reply]:
    context = RcptToContext(dialogue.session, _RECIPIENT_OK, address)
    step = Ask(_RCPT_TO, context, handlers)
    yield step
    if step.reply.code < 400:
        envelope.rcpt_to.append(context.address)
    return step.reply


def _rset(dialogue: Dialogue, command: Command) -> Reply:
    dialogue.begin_transaction()
    return _OK


def _noop(dialogue: Dialogue, command: Command) -> Reply:
    return _OK


def _help(dialogue: Dialogue, command: Command) -> Reply:
    return Reply(214, dialogue.service.capabilities.help_lines(dialogue.session), "2.0.0")


def _vrfy(dialogue: Dialogue, command: Command) -> Reply | Steps[Reply]:
    handlers = dialogue.service.chains.get(Phase.VRFY)
    return _CANNOT_VERIFY if handlers is None else _ask_about(dialogue, command, Phase.VRFY, handlers)


def _expn(dialogue: Dialogue, command: Command) -> Steps[Reply]:
    handlers = dialogue.service.chains.get(Phase.EXPN)
    if handlers is None:
        raise ProtocolError("Command not implemented", 502, "5.5.1")
    return _ask_about(dialogue, command, Phase.EXPN, handlers)


def _ask_about(dialogue: Dialogue, command: Command, phase: Phase, handlers: Chain) -> Steps[Reply]:
    step = Ask(phase, VerifyContext(dialogue.session, _VERIFIED, command.argument), handlers)
    yield step
    return step.reply


def _quit(dialogue: Dialogue, command: Command) -> Reply:
    return _BYE


def _starttls(dialogue: Dialogue, command: Command) -> Steps[None]:
    """RFC 3207: nothing that was said before the handshake counts after it."""
    session = dialogue.session
    if session.secure:
        raise ProtocolError("TLS is active already", 503, "5.5.1")
    dialogue.answer(Verb.STARTTLS, _READY_FOR_TLS)
    stale = dialogue.framer.discard_pending()
    if stale:
        # A man in the middle may have put it there to have it read as if it came through TLS.
        logger.warning(
            "session=%s %d octets after STARTTLS were thrown away",
            session.id,
            stale,
            extra=facts(session, "octets after STARTTLS"),
        )
    # Before the 220 leaves: there is no moment in which a client has TLS and its words from before it still count.
    dialogue.forget()
    step = ShakeHands()
    yield step
    assert step.info is not None
    dialogue.secured(step.info)
    dialogue.answer(Verb.HANDSHAKE, _TLS_IS_ACTIVE, silent=True)
    refusal = yield from ask_secure(dialogue)
    if refusal is not None:
        yield from _refuse_next_command(dialogue, refusal)


def _refuse_next_command(dialogue: Dialogue, refusal: Reply) -> Steps[None]:
    """Answer the next command with what `on_secure` refused with: a handshake has no reply of its own.

    A line that is too long is no command: it is answered as everywhere.

    Raises:
        EndSession: Always.
    """
    line = None
    while line is None:
        try:
            line = yield from dialogue.next_line()
        except ProtocolError as exc:
            reply, pause = dialogue.fault(exc, None)
            if pause:
                yield Pause(pause)
            dialogue.answer(None, reply)
    if dialogue.log.debug:
        dialogue.log.heard(line, dialogue.syntax.verbs)
    raise EndSession("refused", refusal)


def _context_of(dialogue: Dialogue, command: Command) -> CommandContext:
    line = f"{command.name} {command.argument}".rstrip(" ")
    return CommandContext(dialogue.session, _OK, command.name, command.argument, line)


def _extension(dialogue: Dialogue, command: Command) -> Steps[Reply]:
    handler = dialogue.service.capabilities.commands[command.name]
    step = Ask(command.name, _context_of(dialogue, command), handler)
    yield step
    return step.reply


#: The verbs and what they do.
VERBS: Mapping[Verb, Callable[[Dialogue, Command], Reply | Steps[Reply] | Steps[Reply | None] | Steps[None]]] = {
    Verb.HELO: _hello,
    Verb.EHLO: _hello,
    Verb.LHLO: _hello,
    Verb.MAIL: _mail,
    Verb.RCPT: _rcpt,
    Verb.DATA: data,
    Verb.RSET: _rset,
    Verb.NOOP: _noop,
    Verb.HELP: _help,
    Verb.VRFY: _vrfy,
    Verb.EXPN: _expn,
    Verb.QUIT: _quit,
    Verb.STARTTLS: _starttls,
    Verb.AUTH: authenticate,
    Verb.BDAT: bdat,
    Verb.XCLIENT: xclient,
    Verb.XFORWARD: xforward,
    Verb.EXTENSION: _extension,
}
