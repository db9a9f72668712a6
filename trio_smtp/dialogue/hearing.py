"""Each command before it acts: `on_command`, which may refuse it."""

from __future__ import annotations

from trio_smtp.app.application import Phase
from trio_smtp.app.hooks import CommandContext
from trio_smtp.protocol.commands import Command, parse_command
from trio_smtp.protocol.errors import ParserCrashed, ProtocolError
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .dialogue import Dialogue
from .hooks import Hooks
from .log import masked
from .steps import Ask, EndSession, Steps
from .transaction import refuse_chunk

__all__ = ["hear"]

_HEARD = Reply(250, "OK")


def hear(dialogue: Dialogue, hooks: Hooks, line: bytes) -> Steps[bool]:
    """Note which command has come, and ask `on_command`; True: it was refused, and is answered.

    Args:
        dialogue: Whose.
        hooks: Its notes.
        line: The command line.
    """
    verbs = dialogue.syntax.verbs
    text = masked(line, verbs).decode("utf-8", "replace")
    sent, _, argument = text.partition(" ")
    verb = sent.strip().upper()
    known = verb in verbs
    hooks.begin(verb if known else "")
    handlers = dialogue.service.chains.get(Phase.COMMAND)
    if handlers is None:
        return False
    context = CommandContext(dialogue.session, _HEARD, verb if known else "", argument if known else "", text)
    step = Ask(Phase.COMMAND, context, handlers)
    yield step
    if step.reply.code < 400:
        return False
    yield from _refuse(dialogue, line, step.reply)
    return True


def _refuse(dialogue: Dialogue, line: bytes, refusal: Reply) -> Steps[None]:
    """Answer a command that does not act; the octets of a chunk are read all the same.

    Raises:
        EndSession: It is not known where the octets of the chunk end, or the refusal closes.
    """
    command, verb, lost = _parse(dialogue, line)
    if lost:
        raise EndSession("abuse", refusal)
    if verb is None and refusal.code in (421, 521):  # the machine knows of no such command
        raise EndSession("refused", refusal)
    if command is not None and command.verb is Verb.BDAT:
        yield from refuse_chunk(dialogue, command, refusal)
    else:
        dialogue.answer(verb, refusal)


def _parse(dialogue: Dialogue, line: bytes) -> tuple[Command | None, Verb | None, bool]:
    """The command, its verb, and whether what follows it cannot be located."""
    try:
        command = parse_command(line, dialogue.syntax)
    except ProtocolError as exc:
        return None, exc.verb, exc.close
    except ParserCrashed as crash:
        return None, crash.verb, False
    return command, command.verb, False
