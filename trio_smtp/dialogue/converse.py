"""The loop of a session: a line, a command, the verb's steps, a reply."""

from __future__ import annotations

from trio_smtp.app.contexts import CloseReason
from trio_smtp.protocol.commands import parse_command
from trio_smtp.protocol.errors import ParserCrashed, ProtocolError
from trio_smtp.protocol.machine import State
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .dialogue import Dialogue
from .greeting import greet
from .outcomes import reply_to
from .output import MAX_WAITING_OCTETS
from .steps import FLUSH, EndChunks, Leave, Steps
from .verbs import VERBS

__all__ = ["converse"]

_BDAT, _QUIT, _END_OF_AUTH = Verb.BDAT, Verb.QUIT, Verb.END_OF_AUTH
_CLOSED, _BETWEEN_CHUNKS, _IN_AUTH = State.CLOSED, State.BDAT, State.AUTH


def converse(dialogue: Dialogue) -> Steps[None]:
    """Lead a session from its greeting to its end.

    Args:
        dialogue: A new one; of a connection that begins with PROXY or TLS, when those are done.

    Yields:
        What it needs (steps.py). `dialogue.feed` gives it the client's octets, `dialogue.take_output` has the replies.

    Raises:
        EndSession: The session ends otherwise than by an answer that closes it.
    """
    yield from greet(dialogue)
    machine, output = dialogue.machine, dialogue.output
    verb: Verb | None = None
    while machine.state is not _CLOSED:
        verb = None
        line = b""
        try:
            ready = dialogue.take_line()
            if ready is None:
                line = yield from dialogue.await_line()
            else:
                line = ready
                if dialogue.draining:  # a client that never pauses is not awaited, but has its reply
                    dialogue.check_drain()
            if dialogue.log.debug:
                dialogue.log.heard(line, dialogue.syntax.verbs)
            command = parse_command(line, dialogue.syntax)
            verb = command.verb
            if verb is not _BDAT:  # the octets of a chunk must be read before it can be refused
                dialogue.admit(verb)
            answer = VERBS[verb](dialogue, command)
            reply = answer if isinstance(answer, Reply) else (yield from answer)
        except ProtocolError as exc:
            # Whatever its reply, an exchange that failed is over.
            verb = _END_OF_AUTH if machine.state is _IN_AUTH else exc.verb or verb
            reply = yield from dialogue.fault(exc, line)
        except ParserCrashed as crash:
            verb = crash.verb
            reply = reply_to(crash.crash, "parameter", dialogue.session)
        if reply is not None:
            dialogue.answer(verb, reply)
        if dialogue.chunks is not None and machine.state is not _BETWEEN_CHUNKS:
            yield from _give_up(dialogue, verb)
        if output.octets > MAX_WAITING_OCTETS:
            yield FLUSH
    yield Leave(_reason(verb))


def _reason(verb: Verb | None) -> CloseReason:
    """Why the session is over when the last command was this one."""
    return "quit" if verb is _QUIT else "refused"


def _give_up(dialogue: Dialogue, verb: Verb | None) -> Steps[None]:
    """The command that was answered last has ended a message between its chunks."""
    chunks = dialogue.chunks
    dialogue.end_chunks()
    if chunks is not None and chunks.refusal is None:
        yield EndChunks(_reason(verb) if dialogue.machine.state is _CLOSED else None)
