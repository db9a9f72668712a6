"""DATA (RFC 5321 section 4.1.1.4) and BDAT (RFC 3030): how a message begins, and how it is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import DataStartContext
from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.commands import Command
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .dialogue import Dialogue
from .steps import Ask, BeginChunks, Chunk, Drop, EndChunks, Message, Steps, Verdict

__all__ = ["bdat", "data"]

_START = Reply(354, "End data with <CR><LF>.<CR><LF>")
_CHUNK_REFUSED = Reply(250, "")
_NO_HANDLER = Reply(554, "This server takes no mail", "5.3.5")
_DATA, _DATA_START, _DATA_VERB, _BDAT, _END_OF_DATA = (
    Phase.DATA,
    Phase.DATA_START,
    Verb.DATA,
    Verb.BDAT,
    Verb.END_OF_DATA,
)
_NO_RECIPIENTS: Mapping[Address, Reply] = {}


def data(dialogue: Dialogue, command: Command) -> Steps[Reply | None]:
    """The whole of a DATA command; returns a reply only when it is refused before the 354."""
    if dialogue.session.envelope.body_type == "BINARYMIME":
        raise ProtocolError("BINARYMIME needs BDAT", 503, "5.5.1")
    reply = yield from _ask_to_begin(dialogue)
    if reply.code >= 400:
        return reply
    dialogue.answer(_DATA_VERB, reply)
    dialogue.framer.start_body()
    yield from _take_whole(dialogue)
    return None


def _ask_to_begin(dialogue: Dialogue) -> Steps[Reply]:
    """May a message come? `on_data_start` is asked; the 354 that says so is not for a client that uses BDAT."""
    chains = dialogue.service.chains
    if _DATA not in chains:
        return _NO_HANDLER
    handlers = chains.get(_DATA_START)
    if handlers is None:
        return _START
    step = Ask(_DATA_START, DataStartContext(dialogue.session, _START), handlers)
    yield step
    return step.reply


def _take_whole(dialogue: Dialogue) -> Steps[None]:
    """Take a message whose octets come without another command between them, and answer it."""
    step = Message(dialogue.session.envelope)
    yield step
    assert step.verdict is not None
    _conclude(dialogue, step.verdict)


def _conclude(dialogue: Dialogue, verdict: Verdict, *, counted: bool = False) -> None:
    """Answer a message (in LMTP once for each recipient) and end the transaction.

    Args:
        dialogue: Whose.
        verdict: How it ended.
        counted: It was refused before its last chunk, and counted and logged then.
    """
    session, stats = dialogue.session, dialogue.service.stats
    reply = verdict.reply
    replies: Sequence[Reply] = (reply,)
    if dialogue.service.config.lmtp:
        replies = [verdict.recipients.get(recipient, reply) for recipient in session.envelope.rcpt_to]
    accepted, last = False, reply
    for each in replies:
        dialogue.say(each)
        if each.code < 400:
            accepted = True
        elif each.code in (421, 521):
            last = each  # it closes the connection, whatever the others say
    if accepted:
        stats.messages_accepted += 1
        dialogue.budget.accept_message(dialogue.now())
    elif not counted:
        stats.messages_refused += 1
    if not counted:
        dialogue.log.message(session.envelope, verdict.octets, verdict.began, replies)
    dialogue.answer(_END_OF_DATA, last, silent=True)
    dialogue.end_transaction()


def bdat(dialogue: Dialogue, command: Command) -> Steps[None]:
    """One BDAT command. Whatever its reply, its octets are read first: they are no commands."""
    try:
        dialogue.admit(_BDAT)
    except ProtocolError:
        yield from _drop(dialogue, command)
        raise
    chunks = dialogue.chunks
    if chunks is None:
        reply = yield from _ask_to_begin(dialogue)
        if reply.code >= 400:
            yield from _refuse_first(dialogue, command, reply)
            return
        dialogue.answer(_BDAT, reply, silent=True)
        if command.last:
            dialogue.framer.start_chunk(command.size)
            yield from _take_whole(dialogue)
            return
        chunks = dialogue.begin_chunks(dialogue.now())
        yield BeginChunks(dialogue.session.envelope)
    elif chunks.refusal is not None:
        yield from _drop(dialogue, command)
        _answer_refused(dialogue, command, chunks.refusal)
        return
    yield from _take_chunk(dialogue, command)


def _take_chunk(dialogue: Dialogue, command: Command) -> Steps[None]:
    """Hand a chunk to the handlers of a message that is on its way, and answer it."""
    chunks = dialogue.chunks
    assert chunks is not None
    dialogue.framer.start_chunk(command.size)
    step = Chunk(last=command.last)
    yield step
    verdict = step.verdict
    if verdict is None:
        chunks.take(command.size)
        dialogue.say(Reply(250, f"{command.size} octets received", "2.0.0"))
        return
    if command.last:
        _conclude(dialogue, verdict)
    else:
        chunks.refuse(verdict.reply)
        dialogue.service.stats.messages_refused += 1
        dialogue.log.message(dialogue.session.envelope, verdict.octets, verdict.began, [verdict.reply])
        dialogue.answer(_BDAT, verdict.reply)
    yield EndChunks()


def _refuse_first(dialogue: Dialogue, command: Command, refusal: Reply) -> Steps[None]:
    """Refuse a message with its first chunk: the chunks that follow are answered with the same reply."""
    yield from _drop(dialogue, command)
    dialogue.answer(_BDAT, _CHUNK_REFUSED, silent=True)
    dialogue.service.stats.messages_refused += 1
    dialogue.begin_chunks(dialogue.now(), refusal)
    _answer_refused(dialogue, command, refusal)


def _answer_refused(dialogue: Dialogue, command: Command, refusal: Reply) -> None:
    """Answer a chunk of a message that is refused and was counted."""
    if command.last:
        _conclude(dialogue, Verdict(refusal, _NO_RECIPIENTS, 0, dialogue.now()), counted=True)
    else:
        dialogue.answer(_BDAT, refusal)


def _drop(dialogue: Dialogue, command: Command) -> Steps[None]:
    """Read the octets of a chunk and drop them."""
    dialogue.framer.start_chunk(command.size)
    yield Drop(dialogue.budget.take_drop(command.size))
