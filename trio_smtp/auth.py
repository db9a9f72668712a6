"""AUTH: a SASL exchange on the wire (RFC 4954), and the handlers that decide."""

from __future__ import annotations

import binascii
import logging
from typing import TYPE_CHECKING

from .app import Phase
from .contexts import AuthContext
from .outcomes import EndSession
from .protocol.commands import Command, Verb
from .protocol.errors import ProtocolError
from .protocol.replies import Reply
from .protocol.sasl import MECHANISMS, Credentials, Mechanism

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["authenticate"]

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
    try:
        try:
            credentials = await _exchange(conn, mechanism, initial)
        finally:
            conn.framer.sasl = False
        reply = await _decide(conn, mechanism, credentials)
    except ProtocolError as exc:
        # Whatever the reply, the exchange is over; the loop sends it and counts it.
        conn.machine.advance(Verb.END_OF_AUTH, exc.code)
        raise
    conn.write(reply)
    conn.machine.advance(Verb.END_OF_AUTH, reply.code)


def _mechanism(conn: Connection, name: str) -> Mechanism:
    """The mechanism asked for, when this session may use it now."""
    offer, session = conn.server.offer, conn.session
    if not offer.auth(session):
        if offer.auth_after_tls(session):
            raise ProtocolError("Encryption required for authentication", 538, "5.7.11", counted=False)
        raise ProtocolError("Command not implemented", 502, "5.5.1")
    if session.authenticated:
        raise ProtocolError("Already authenticated", 503, "5.5.1")
    if session.opening_command == "HELO":
        raise ProtocolError("Send EHLO first", 503, "5.5.1")
    if name not in conn.config.auth_mechanisms:
        raise ProtocolError("Unrecognized authentication mechanism", 504, "5.5.4")
    return MECHANISMS[name]


async def _exchange(conn: Connection, mechanism: Mechanism, initial: str) -> Credentials:
    """Challenges and responses up to the credentials."""
    exchange = mechanism.start()
    try:
        challenge = next(exchange)
        if initial:
            # "=" is an empty initial response (RFC 4954 section 4).
            challenge = exchange.send(b"" if initial == "=" else _decode(initial.encode()))
        while True:
            conn.write(Reply(334, binascii.b2a_base64(challenge, newline=False).decode()), enhanced=False)
            challenge = exchange.send(await _response(conn))
    except StopIteration as stop:
        credentials: Credentials = stop.value
        return credentials
    finally:
        exchange.close()


async def _response(conn: Connection) -> bytes:
    line = await conn.next_line()
    if line == b"*":
        raise ProtocolError("Authentication cancelled", 501, "5.7.0")
    return _decode(line)


def _decode(line: bytes) -> bytes:
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except ValueError:
        raise ProtocolError("Not valid base64", 501, "5.5.2") from None


async def _decide(conn: Connection, mechanism: Mechanism, credentials: Credentials) -> Reply:
    """Ask the handlers; a refusal costs the client time, and in the end the connection."""
    session, config = conn.session, conn.config
    context = AuthContext(session, _ACCEPTED, credentials)
    reply = await conn.phase(Phase.AUTH, context)
    if reply.code < 400:
        if context.accepted:
            session.user, session.authenticated, session.auth_mechanism = context.user, True, mechanism.name
            conn.stats.auth_successes += 1
            return reply
        reply = _NOBODY_ACCEPTED
    conn.stats.auth_failures += 1
    if 400 <= reply.code < 500 and reply.code != 421:
        # The only temporary failure RFC 4954 section 6 knows.
        return Reply(454, reply.lines, reply.enhanced or "4.7.0")
    conn.auth_failures += 1
    conn.log(logging.WARNING, "authentication refused", f"mechanism={mechanism.name} failures={conn.auth_failures}")
    if config.auth_failure_delay:
        await conn.pause(config.auth_failure_delay * 2 ** (conn.auth_failures - 1))
    if conn.auth_failures >= config.max_auth_failures:
        raise EndSession("abuse", _TOO_MANY_FAILURES)
    return reply
