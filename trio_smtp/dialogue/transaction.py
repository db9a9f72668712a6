"""DATA (RFC 5321 section 4.1.1.4) and BDAT (RFC 3030): how a message begins, and how it is answered."""

from __future__ import annotations

from collections.abc import Sequence

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import DataStartContext
from trio_smtp.protocol.commands import Command
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .dialogue import Dialogue
from .steps import Ask, BeginChunks, Chunk, Drop, EndChunks, Message, Steps

__all__ = ["bdat", "data", "refuse_chunk"]

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


def data(dialogue: Dialogue, command: Command) -> Steps[Reply | None]:
    """The whole of a DATA command; returns a reply only when it is refused before the 354."""
    if dialogue.session.envelope.body_type == "BINARYMIME":
        raise ProtocolError("BINARYMIME needs BDAT", 503, "5.5.1")
    reply = _START if dialogue.service.starts_freely else (yield from _ask_to_start(dialogue))
    if reply.code >= 400:
        return reply
    dialogue.answer(_DATA_VERB, reply)
    dialogue.framer.start_body()
    step = Message(dialogue.session.envelope, invited=True)
    yield step
    _conclude(dialogue, step)
    return None


def _ask_to_start(dialogue: Dialogue) -> Steps[Reply]:
    """May a message come? The 354 that says so is not for a client that uses BDAT."""
    chains = dialogue.service.chains
    if _DATA not in chains:
        return _NO_HANDLER
    step = Ask(_DATA_START, DataStartContext(dialogue.session, _START), chains[_DATA_START])
    yield step
    return step.reply


def _conclude(dialogue: Dialogue, step: Message | Chunk) -> None:
    """Answer a message (in LMTP once for each recipient) and end the transaction.

    Args:
        dialogue: Whose.
        step: Has the answer.
    """
    session, stats = dialogue.session, dialogue.service.stats
    reply = step.reply
    assert reply is not None
    replies: Sequence[Reply] = (reply,)
    accepted = reply.code < 400
    lmtp = dialogue.service.config.lmtp
    if lmtp:
        replies = [step.recipients.get(recipient, reply) for recipient in step.accepted]
        for each in replies:
            dialogue.say(each, _END_OF_DATA)
        accepted = any(each.code < 400 for each in replies)
        # One that closes the connection does, whatever the others say.
        reply = next((each for each in replies if each.code in (421, 521)), reply)
    dialogue.answer(_END_OF_DATA, reply, silent=lmtp)
    if accepted:
        stats.messages_accepted += 1
        dialogue.budget.accept_message(dialogue.now())
    else:
        stats.messages_refused += 1
    dialogue.log.message(session.envelope, step.octets, step.began, replies)
    dialogue.end_transaction()


def bdat(dialogue: Dialogue, command: Command) -> Steps[None]:
    """One BDAT command. Whatever its reply, its octets are read first: they are no commands."""
    refusal = _refusal(dialogue)
    if refusal is not None:
        try:
            yield from _drop(dialogue, command)
            raise refusal
        finally:
            del refusal  # its traceback holds this frame, which would hold it: a cycle
    chunks = dialogue.chunks
    if chunks is None:
        reply = _START if dialogue.service.starts_freely else (yield from _ask_to_start(dialogue))
        if reply.code >= 400:
            yield from _refuse_first(dialogue, command, reply)
            return
        dialogue.answer(_BDAT, reply, silent=True)
        if command.last:
            dialogue.framer.start_chunk(command.size)
            step = Message(dialogue.session.envelope, invited=False)
            yield step
            _conclude(dialogue, step)
            return
        chunks = dialogue.begin_chunks(dialogue.now())
        yield BeginChunks(dialogue.session.envelope)
    elif chunks.refusal is not None:
        yield from _drop(dialogue, command)
        _answer_refused(dialogue, command, chunks.refusal)
        return
    yield from _take_chunk(dialogue, command)


def _refusal(dialogue: Dialogue) -> ProtocolError | None:
    """Why a chunk may not come now; None: it may."""
    try:
        dialogue.admit(_BDAT)
    except ProtocolError as exc:
        return exc
    return None


def _take_chunk(dialogue: Dialogue, command: Command) -> Steps[None]:
    """Hand a chunk to the handlers of a message that is on its way, and answer it."""
    chunks = dialogue.chunks
    assert chunks is not None
    dialogue.framer.start_chunk(command.size)
    step = Chunk(last=command.last)
    yield step
    refusal = step.reply
    if refusal is None:
        chunks.take(command.size)
        dialogue.say(Reply(250, f"{command.size} octets received", "2.0.0"))
        return
    if command.last:
        _conclude(dialogue, step)
    else:
        chunks.refuse(refusal)
        dialogue.service.stats.messages_refused += 1
        dialogue.log.message(dialogue.session.envelope, step.octets, step.began, [refusal])
        dialogue.say(refusal, _END_OF_DATA)
        dialogue.answer(_BDAT, refusal, silent=True)
    yield EndChunks()


def _refuse_first(dialogue: Dialogue, command: Command, refusal: Reply) -> Steps[None]:
    """Refuse a message with its first chunk: the chunks that follow are answered with the same reply."""
    yield from _drop(dialogue, command)
    dialogue.answer(_BDAT, _CHUNK_REFUSED, silent=True)
    dialogue.service.stats.messages_refused += 1
    dialogue.begin_chunks(dialogue.now(), refusal)
    _answer_refused(dialogue, command, refusal)


def refuse_chunk(dialogue: Dialogue, command: Command, refusal: Reply) -> Steps[None]:
    """Answer a chunk that may not act, although it may come now: the message that it belongs to is refused."""
    chunks = dialogue.chunks
    if chunks is None:
        if _refusal(dialogue) is None:
            yield from _refuse_first(dialogue, command, refusal)
        else:
            yield from _drop(dialogue, command)
            dialogue.answer(_BDAT, refusal)
        return
    yield from _drop(dialogue, command)
    taking = chunks.refusal is None
    if taking:
        chunks.refuse(refusal)
    _answer_refused(dialogue, command, refusal)
    if taking:
        yield EndChunks()


def _answer_refused(dialogue: Dialogue, command: Command, refusal: Reply) -> None:
    """Answer a chunk of a message that is refused, and was counted and logged then."""
    if not command.last:
        dialogue.answer(_BDAT, refusal)
        return
    chunks = dialogue.chunks
    assert chunks is not None
    for _ in range(chunks.recipients if dialogue.service.config.lmtp else 1):
        dialogue.say(refusal, _BDAT)
    dialogue.answer(_END_OF_DATA, refusal, silent=True)
    dialogue.end_transaction()


def _drop(dialogue: Dialogue, command: Command) -> Steps[None]:
    """Read the octets of a chunk and drop them."""
    dialogue.framer.start_chunk(command.size)
    yield Drop(dialogue.budget.take_drop(command.size))
