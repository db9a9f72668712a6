"""The loop of a session: takes a line, parses it, runs its verb, answers, and begins again."""

from __future__ import annotations

from trio_smtp.app.hooks import CloseReason
from trio_smtp.protocol.commands import parse_command
from trio_smtp.protocol.errors import ParserCrashed, ProtocolError
from trio_smtp.protocol.machine import State
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .dialogue import Dialogue
from .greeting import greet
from .hearing import hear
from .outcomes import reply_to
from .output import MAX_WAITING_OCTETS
from .steps import FLUSH, SETTLE, EndChunks, Leave, Pause, Steps
from .verbs import VERBS

__all__ = ["converse"]

_BDAT, _QUIT, _END_OF_AUTH = Verb.BDAT, Verb.QUIT, Verb.END_OF_AUTH
_CLOSED, _BETWEEN_CHUNKS, _IN_AUTH = State.CLOSED, State.BDAT, State.AUTH


def converse(dialogue: Dialogue) -> Steps[None]:
    """Lead a session from its greeting to its end; yields what it needs (steps.py).

    `Dialogue.feed` gives it the client's octets, `Dialogue.take_output` has the replies. PROXY and TLS come before.

    Raises:
        EndSession: The session ends otherwise than by an answer that closes it.
    """
    yield from greet(dialogue)
    machine, output, session_log, hooks = dialogue.machine, dialogue.output, dialogue.log, dialogue.hooks
    admit = dialogue.admit if dialogue.service.guarded else machine.check
    bound, settle = (MAX_WAITING_OCTETS, FLUSH) if hooks is None else (-1, SETTLE)
    verb: Verb | None = None
    line: bytes | None = None
    first = True
    while machine.state is not _CLOSED:
        verb, line, pause = None, None, 0.0
        reply: Reply | None = None
        try:
            line = dialogue.framer.next_line()
            if line is None:
                line = yield from dialogue.await_line(first=first)
            elif dialogue.draining:  # a client that never pauses is not awaited, but has its reply
                dialogue.check_drain()
            if session_log.debug:
                session_log.heard(line, dialogue.syntax.verbs)
            if hooks is None or not (yield from hear(dialogue, hooks, line)):
                command = parse_command(line, dialogue.syntax)
                verb = command.verb
                if verb is not _BDAT:  # the octets of a chunk must be read before it can be refused
                    admit(verb)
                answer = VERBS[verb](dialogue, command)
                reply = answer if isinstance(answer, Reply) else (yield from answer)
        except ProtocolError as exc:
            verb = _END_OF_AUTH if machine.state is _IN_AUTH else exc.verb or verb  # an exchange that failed is over
            reply, pause = dialogue.fault(exc, line if first else None)
        except ParserCrashed as crash:
            verb, reply = crash.verb, reply_to(crash.crash, "parameter", dialogue.session)
        if pause:
            yield Pause(pause)
        if reply is not None:
            dialogue.answer(verb, reply)
        first = first and line is None
        if dialogue.chunks is not None and machine.state is not _BETWEEN_CHUNKS and dialogue.give_up_chunks():
            yield EndChunks(_reason(verb) if machine.state is _CLOSED else None)
        if output.octets > bound:
            yield settle
    yield Leave(_reason(verb))


def _reason(verb: Verb | None) -> CloseReason:
    """Why the session is over when this was the last command."""
    return "quit" if verb is _QUIT else "refused"
