"""AUTH: a SASL exchange on the wire (RFC 4954), and the handlers that decide."""

from __future__ import annotations

import binascii
import logging
from collections.abc import Mapping

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import AuthContext, oauth_challenge_of
from trio_smtp.protocol.commands import Command
from trio_smtp.protocol.credentials import Credentials, ExternalCredentials, ScramSecret, XClientCredentials
from trio_smtp.protocol.errors import ProtocolError, SMTPError
from trio_smtp.protocol.exchange import Exchange, Mechanism, SASLContext, SecretNeeded
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .dialogue import Dialogue
from .outcomes import as_error, reply_to
from .steps import Ask, EndSession, LookUp, Pause, Steps

__all__ = ["authenticate", "log_in"]

_CONTINUE = Reply(334, "")
_ACCEPTED = Reply(235, "Authentication successful", "2.7.0")
_NOBODY_ACCEPTED = Reply(535, "Authentication credentials invalid", "5.7.8")
#: What log lines say about a refusal that looks like a handler's oversight.
_XCLIENT_HINT = "hint: on_auth did not accept XClientCredentials"
_IDENTITY_HINT = "hint: accept(user, authzid=credentials.authzid) lets a user act as another identity"
_TOO_MANY_FAILURES = Reply(421, "Too many failed authentications", "4.7.0")


def authenticate(dialogue: Dialogue, command: Command) -> Steps[None]:
    """The whole of an AUTH command, its reply included."""
    name, _, initial = command.argument.strip(" ").partition(" ")
    mechanism = _mechanism(dialogue, name.upper())
    initial = initial.strip(" ")
    if initial and not mechanism.takes_initial_response:
        raise ProtocolError(f"{mechanism.name} takes no initial response", 501, "5.5.2")
    session = dialogue.session
    dialogue.answer(Verb.AUTH, _CONTINUE, silent=True)  # each challenge is said when the mechanism has it
    dialogue.framer.start_sasl()
    session.auth_mechanism = mechanism.name
    try:
        reply = yield from _decide(dialogue, mechanism, initial)
    finally:
        dialogue.framer.end_sasl()
        if not session.authenticated:
            session.auth_mechanism = None
    dialogue.answer(Verb.END_OF_AUTH, reply)


def _mechanism(dialogue: Dialogue, name: str) -> Mechanism:
    """The mechanism asked for, when this session may use it now."""
    capabilities, session = dialogue.service.capabilities, dialogue.session
    mechanisms = capabilities.mechanisms(session)
    if not mechanisms:
        if capabilities.auth_after_tls(session):
            raise ProtocolError("Encryption required for authentication", 538, "5.7.11", counted=False)
        raise ProtocolError("Command not implemented", 502, "5.5.1")
    if session.authenticated:
        raise ProtocolError("Already authenticated", 503, "5.5.1")
    mechanism = mechanisms.get(name)
    if mechanism is None:
        raise ProtocolError("Unrecognized authentication mechanism", 504, "5.5.4")
    return mechanism


def _decide(dialogue: Dialogue, mechanism: Mechanism, initial: str) -> Steps[Reply]:
    """The exchange, the handlers' word on it, and what a refusal costs."""
    try:
        credentials = yield from _exchange(dialogue, mechanism, initial)
    except ProtocolError:
        raise
    except SMTPError as exc:  # the mechanism, or the look-up of a secret, refused
        return (yield from _refused(dialogue, mechanism, exc.reply))
    reply, context = yield from _ask_handlers(dialogue, credentials)
    if reply.code >= 400:
        why = _as_json(oauth_challenge_of(context)) if mechanism.oauth else None
        return (yield from _refused(dialogue, mechanism, reply, why))
    dialogue.logged_in(context.user)
    stats = dialogue.service.stats
    stats.auth_successes += 1
    if stats.measures is not None:
        stats.measures.auth[mechanism.name, "accepted"] += 1
    return reply


def _as_json(challenge: Mapping[str, str]) -> bytes:
    import json  # for a refused token alone

    return json.dumps(dict(challenge)).encode()


def _ask_handlers(dialogue: Dialogue, credentials: Credentials) -> Steps[tuple[Reply, AuthContext]]:
    """Ask `on_auth`; the reply is a refusal unless a handler called `accept`."""
    context = AuthContext(dialogue.session, _ACCEPTED, credentials)
    handlers = dialogue.service.chains.get(Phase.AUTH)
    if handlers is None:  # XCLIENT LOGIN where nobody can say who may log in
        return _NOBODY_ACCEPTED, context
    step = Ask(Phase.AUTH, context, handlers)
    yield step
    if step.reply.code >= 400:
        return _as_refusal(step.reply), context
    if not context.accepted:
        return _NOBODY_ACCEPTED, context
    # A mechanism of the user's own may return anything.
    identity = getattr(credentials, "authzid", "")
    if identity and identity != context.authzid and not _is_own(credentials, identity, context.user):
        dialogue.log.event(logging.WARNING, "authorization identity refused", _IDENTITY_HINT)
        return _NOBODY_ACCEPTED, context
    return step.reply, context


def _is_own(credentials: Credentials, identity: str, user: object) -> bool:
    """Whether the authorization identity is the user's own name; EXTERNAL's handler finds that name."""
    return identity == (user if isinstance(credentials, ExternalCredentials) else credentials.username)


def log_in(dialogue: Dialogue, username: str) -> Steps[Reply | None]:
    """Ask the handlers about XCLIENT LOGIN; returns their refusal, or None."""
    credentials = XClientCredentials(username)
    reply, context = yield from _ask_handlers(dialogue, credentials)
    if reply.code >= 400:
        dialogue.log.event(logging.WARNING, "XCLIENT LOGIN refused", f"reply={reply.code} {_XCLIENT_HINT}")
        return reply
    dialogue.logged_in(context.user, credentials.method)
    return None


def _as_refusal(reply: Reply) -> Reply:
    """The only temporary failure RFC 4954 section 6 knows is 454; 421 closes."""
    return Reply(454, reply.lines, "4.7.0") if reply.code < 500 and reply.code != 421 else reply


def _refused(dialogue: Dialogue, mechanism: Mechanism, reply: Reply, why: bytes | None = None) -> Steps[Reply]:
    """A refusal costs the client time, and in the end the connection."""
    stats = dialogue.service.stats
    stats.auth_failures += 1
    if stats.measures is not None:
        stats.measures.auth[mechanism.name, "refused"] += 1
    reply = _as_refusal(reply)
    if reply.code == 454:
        return reply
    budget, delay = dialogue.budget, dialogue.service.config.auth_failure_delay
    enough = not budget.take_auth_failure()
    details = f"mechanism={mechanism.name} failures={budget.auth_failures}"
    dialogue.log.event(logging.WARNING, "authentication refused", details)
    if delay:
        yield Pause(delay * 2 ** (budget.auth_failures - 1))
    if why is not None and reply.code >= 500:
        # RFC 7628 section 3.2.2: the client is told why, answers something, and is refused then. Some just leave.
        yield from _challenge(dialogue, why)
    if enough:
        raise EndSession("abuse", _TOO_MANY_FAILURES)
    return reply


def _exchange(dialogue: Dialogue, mechanism: Mechanism, initial: str) -> Steps[Credentials]:
    """Challenges and responses up to the credentials."""
    session = dialogue.session
    exchange = _begin(mechanism, dialogue.service.capabilities.sasl_context(session, mechanism.name))
    try:
        step = _advance(dialogue, exchange, None)
        if initial:
            # "=" is an empty initial response (RFC 4954 section 4).
            step = _advance(dialogue, exchange, b"" if initial == "=" else _decode(initial.encode()))
        while True:
            if isinstance(step, SecretNeeded):
                secret = yield from _look_up(dialogue, step.username)
                step = _advance(dialogue, exchange, secret)
            else:
                answer = yield from _challenge(dialogue, step)
                if answer.strip() == b"*":
                    raise ProtocolError("Authentication cancelled", 501, "5.7.0")
                step = _advance(dialogue, exchange, _decode(answer))
    except _Finished as finished:
        return finished.credentials
    finally:
        try:
            exchange.close()
        except Exception as exc:  # logged; how the exchange ended stays as it is
            reply_to(exc, "mechanism", session)


class _Finished(Exception):
    """The exchange has its credentials; inside a generator a StopIteration would become a RuntimeError."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self.credentials = credentials


def _begin(mechanism: Mechanism, context: SASLContext) -> Exchange:
    """Delay calling `mechanism.start` until the first step, so that `_advance` also catches a crash in it."""
    return (yield from mechanism.start(context))


def _advance(dialogue: Dialogue, exchange: Exchange, response: bytes | ScramSecret | None) -> bytes | SecretNeeded:
    """One step of a mechanism, which may be the user's own.

    Raises:
        _Finished: It was the last one; with the credentials.
        SMTPError: The mechanism refused, or crashed.
    """
    try:
        return exchange.send(response)
    except SMTPError:
        raise
    except StopIteration as stop:
        raise _Finished(stop.value) from None
    except Exception as exc:
        raise as_error(reply_to(exc, "mechanism", dialogue.session)) from None


def _challenge(dialogue: Dialogue, challenge: bytes) -> Steps[bytes]:
    """Send a challenge; returns the client's line as it came."""
    dialogue.say(Reply(334, binascii.b2a_base64(challenge, newline=False).decode()), Verb.AUTH)
    return (yield from dialogue.next_line())


def _look_up(dialogue: Dialogue, username: str) -> Steps[ScramSecret | None]:
    """The stored secret of a user.

    Raises:
        SMTPError: The look-up refused, or crashed.
    """
    lookup = dialogue.service.config.scram_lookup
    assert lookup is not None
    step = LookUp(lookup, username, dialogue.session)
    yield step
    if step.refusal is not None:
        raise as_error(step.refusal)
    return step.secret


def _decode(line: bytes) -> bytes:
    """Read base64; white space at its ends does not count: some clients send CR LF LF, or a space before CR LF."""
    try:
        return binascii.a2b_base64(line.strip(), strict_mode=True)
    except ValueError:
        raise ProtocolError("Not valid base64", 501, "5.5.2") from None
