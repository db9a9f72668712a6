"""The greeting: asks `on_connect` and says the 220. Also asks `on_secure` after a TLS handshake."""

from __future__ import annotations

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import ConnectContext, SecureContext
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .auth import log_in
from .dialogue import Dialogue
from .steps import Ask, EndSession, Steps

__all__ = ["ask_secure", "greet"]

_SECURED = Reply(250, "Secured")


def greet(dialogue: Dialogue, login: str | None = None) -> Steps[None]:
    """Ask `on_connect` (and `on_secure` where TLS began at once) and say the 220.

    Args:
        dialogue: Whose greeting.
        login: Whom a trusted front end speaks for (XCLIENT LOGIN): `on_auth` is asked.

    Raises:
        EndSession: A handler refused.
    """
    session, service = dialogue.session, dialogue.service
    first = dialogue.connect()
    reply = service.greeting
    handlers = service.chains.get(Phase.CONNECT)
    if handlers is not None:
        step = Ask(Phase.CONNECT, ConnectContext(session, reply), handlers)
        yield step
        reply = step.reply
    if reply.code < 400 and login is not None:
        reply = (yield from log_in(dialogue, login)) or reply
    if reply.code < 400 and session.secure and first:
        reply = (yield from ask_secure(dialogue)) or reply
    if reply.code >= 400:
        raise EndSession("refused", reply)
    dialogue.answer(Verb.GREETING, reply)


def ask_secure(dialogue: Dialogue) -> Steps[Reply | None]:
    """Ask `on_secure`; returns what it refused with, or None."""
    handlers = dialogue.service.chains.get(Phase.SECURE)
    if handlers is None:
        return None
    step = Ask(Phase.SECURE, SecureContext(dialogue.session, _SECURED), handlers)
    yield step
    return step.reply if step.reply.code >= 400 else None
