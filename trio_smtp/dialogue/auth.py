"""AUTH: a SASL exchange on the wire (RFC 4954), and the handlers that decide."""

from __future__ import annotations

import binascii
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import AuthContext
from trio_smtp.app.session import Session
from trio_smtp.protocol.commands import Command, Verb
from trio_smtp.protocol.credentials import Credentials, ScramSecret
from trio_smtp.protocol.errors import ProtocolError, SMTPError
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.sasl import Exchange, Mechanism, SASLContext, SecretNeeded

from .outcomes import EndSession, outcome, what_goes_on

if TYPE_CHECKING:
    from trio_smtp.connection.connection import Connection

__all__ = ["ask_handlers", "authenticate"]

_ACCEPTED = Reply(235, "Authentication successful", "2.7.0")
_NOBODY_ACCEPTED = Reply(535, "Authentication credentials invalid", "5.7.8")
_TOO_MANY_FAILURES = Reply(421, "Too many failed authentications", "4.7.0")


async def authenticate(conn: Connection, command: Command) -> None:
    """The whole of an AUTH command, its reply included."""
    name, _, initial = command.argument.strip(" ").partition(" ")
    mechanism = _mechanism(conn, name.upper())
    initial = initial.strip(" ")
    if initial and not mechanism.takes_initial_response:
        raise ProtocolError(f"{mechanism.name} takes no initial response", 501, "5.5.2")
    conn.machine.advance(Verb.AUTH, 334)
    conn.framer.sasl = True
    conn.session.auth_mechanism = mechanism.name
    try:
        reply = await _decide(conn, mechanism, initial)
    except ProtocolError as exc:
        # Whatever the reply, the exchange is over; the loop sends it and counts it.
        conn.machine.advance(Verb.END_OF_AUTH, exc.code)
        raise
    finally:
        conn.framer.sasl = False
        if not conn.session.authenticated:
            conn.session.auth_mechanism = None
    conn.write(reply)
    conn.machine.advance(Verb.END_OF_AUTH, reply.code)


def _mechanism(conn: Connection, name: str) -> Mechanism:
    """The mechanism asked for, when this session may use it now."""
    offer, session = conn.server.offer, conn.session
    mechanisms = offer.mechanisms(session)
    if not mechanisms:
        if offer.auth_after_tls(session):
            raise ProtocolError("Encryption required for authentication", 538, "5.7.11", counted=False)
        raise ProtocolError("Command not implemented", 502, "5.5.1")
    if session.authenticated:
        raise ProtocolError("Already authenticated", 503, "5.5.1")
    if session.opening_command == "HELO":
        raise ProtocolError("Send EHLO first", 503, "5.5.1")
    mechanism = mechanisms.get(name)
    if mechanism is None:
        raise ProtocolError("Unrecognized authentication mechanism", 504, "5.5.4")
    return mechanism


async def _decide(conn: Connection, mechanism: Mechanism, initial: str) -> Reply:
    """The exchange, the handlers' word on it, and what a refusal costs."""
    try:
        credentials = await _exchange(conn, mechanism, initial)
    except ProtocolError:
        raise
    except SMTPError as exc:  # the mechanism, or the look-up of a secret, refused
        return await _refused(conn, mechanism, exc.reply)
    reply, context = await ask_handlers(conn, credentials)
    if reply.code >= 400:
        why = _as_json(context.oauth_challenge) if mechanism.oauth else None
        return await _refused(conn, mechanism, reply, why)
    conn.stats.auth_successes += 1
    return reply


def _as_json(challenge: Mapping[str, str]) -> bytes:
    import json  # for a refused token alone

    return json.dumps(dict(challenge)).encode()


async def ask_handlers(conn: Connection, credentials: Credentials) -> tuple[Reply, AuthContext]:
    """Ask `on_auth`, and let the client in when it accepts; the reply's code tells."""
    session = conn.session
    context = AuthContext(session, _ACCEPTED, credentials)
    if Phase.AUTH not in conn.chains:  # XCLIENT LOGIN, which needs no AUTH
        return _NOBODY_ACCEPTED, context
    reply = await conn.phase(Phase.AUTH, context)
    if reply.code >= 400:
        return _as_refusal(reply), context
    if not context.accepted:
        return _NOBODY_ACCEPTED, context
    session.user, session.authenticated = context.user, True
    conn.syntax = conn.server.offer.syntax(session)
    return reply, context


def _as_refusal(reply: Reply) -> Reply:
    """The only temporary failure RFC 4954 section 6 knows is 454; 421 closes."""
    return Reply(454, reply.lines, "4.7.0") if reply.code < 500 and reply.code != 421 else reply


async def _refused(conn: Connection, mechanism: Mechanism, reply: Reply, why: bytes | None = None) -> Reply:
    """A refusal costs the client time, and in the end the connection."""
    conn.stats.auth_failures += 1
    reply = _as_refusal(reply)
    if reply.code == 454:
        return reply
    conn.auth_failures += 1
    conn.log(logging.WARNING, "authentication refused", f"mechanism={mechanism.name} failures={conn.auth_failures}")
    if conn.config.auth_failure_delay:
        await conn.pause(conn.config.auth_failure_delay * 2 ** (conn.auth_failures - 1))
    if why is not None and reply.code >= 500:
        # RFC 7628 section 3.2.2: the client is told why, answers something, and is refused then. Some just leave.
        await _ask(conn, why)
    if conn.auth_failures >= conn.config.max_auth_failures:
        raise EndSession("abuse", _TOO_MANY_FAILURES)
    return reply


async def _exchange(conn: Connection, mechanism: Mechanism, initial: str) -> Credentials:
    """Challenges and responses up to the credentials."""
    exchange = _begin(mechanism, conn.server.offer.sasl_context(conn.session, mechanism.name))
    try:
        step = _advance(conn, exchange, None)
        if initial:
            # "=" is an empty initial response (RFC 4954 section 4).
            step = _advance(conn, exchange, b"" if initial == "=" else _decode(initial.encode()))
        while True:
            if isinstance(step, SecretNeeded):
                step = _advance(conn, exchange, await _look_up(conn, step.username))
            else:
                answer = await _ask(conn, step)
                if answer == b"*":
                    raise ProtocolError("Authentication cancelled", 501, "5.7.0")
                step = _advance(conn, exchange, _decode(answer))
    except StopIteration as stop:
        credentials: Credentials = stop.value
        return credentials
    finally:
        try:
            exchange.close()
        except Exception as exc:  # logged; how the exchange ended stays as it is
            outcome(exc, "mechanism", conn.session)


def _begin(mechanism: Mechanism, context: SASLContext) -> Exchange:
    """A mechanism's exchange, which is not begun before its first step: that is where a crash is seen to."""
    return (yield from mechanism.start(context))


def _advance(conn: Connection, exchange: Exchange, response: bytes | ScramSecret | None) -> bytes | SecretNeeded:
    """One step of a mechanism, which may be the user's own.

    Raises:
        StopIteration: It was the last one; with the credentials.
        SMTPError: The mechanism refused, or crashed.
    """
    try:
        return exchange.send(response)
    except (SMTPError, StopIteration):
        raise
    except Exception as exc:
        raise _refusal(exc, "mechanism", conn.session) from None


async def _ask(conn: Connection, challenge: bytes) -> bytes:
    """Send a challenge; returns the client's line as it came."""
    conn.write(Reply(334, binascii.b2a_base64(challenge, newline=False).decode()), enhanced=False)
    return await conn.next_line()


async def _look_up(conn: Connection, username: str) -> ScramSecret | None:
    """The stored secret of a user.

    Raises:
        SMTPError: The look-up refused, or crashed.
    """
    lookup = conn.config.scram_lookup
    assert lookup is not None
    conn.arm("handler", conn.config.handler_timeout)
    try:
        return await lookup(username, conn.session)
    except Exception as exc:
        raise _refusal(exc, "scram_lookup", conn.session) from None
    except BaseExceptionGroup as group:
        raise what_goes_on(group, "scram_lookup", conn.session) from None


def _refusal(exc: Exception, what: str, session: Session) -> SMTPError:
    reply = outcome(exc, what, session)
    return SMTPError(reply.lines, reply.code, reply.enhanced)


def _decode(line: bytes) -> bytes:
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except ValueError:
        raise ProtocolError("Not valid base64", 501, "5.5.2") from None
