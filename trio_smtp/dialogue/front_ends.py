"""Who is at the other end: what trusted front ends say of it (PROXY, XCLIENT, XFORWARD), and reverse DNS."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_smtp.net.reverse_dns import leads_back, name_of
from trio_smtp.protocol.commands import Command, Verb
from trio_smtp.protocol.credentials import XClientCredentials
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.proxy import HeaderReader, ProxyError
from trio_smtp.protocol.replies import Reply

from .auth import ask_handlers
from .capabilities import trusts
from .outcomes import EndSession

if TYPE_CHECKING:
    from trio_smtp.connection.connection import Connection

__all__ = ["FULL_FOR_HOST", "log_in", "read_proxy_header", "resolve_client", "xclient", "xforward"]

_OK = Reply(250, "OK", "2.0.0")
FULL_FOR_HOST = Reply(421, "Too many connections from your host", "4.7.0")


async def read_proxy_header(conn: Connection) -> None:
    """Read the PROXY header a trusted peer begins with, and not an octet more: what follows may be TLS.

    Raises:
        EndSession: There is none, or it is malformed; nothing was written.
    """
    session, config = conn.session, conn.config
    if not trusts(config.proxy_protocol, session.remote_address):
        return
    conn.arm("proxy", config.proxy_timeout)
    reader = HeaderReader()
    try:
        while (header := reader.header) is None:
            reader.feed(await conn.receive_raw(reader.wanted))
    except ProxyError as exc:
        conn.log(logging.WARNING, f"bad PROXY header: {exc}")
        raise EndSession("abuse") from None
    session.proxy = header
    if header.source is None or header.destination is None:
        return
    session.remote_address, session.remote_port = _end(header.source)
    session.local_address, session.local_port = _end(header.destination)
    session.client_hostname = f"[{session.remote_address}]" if session.remote_address else "unknown"
    conn.syntax = conn.server.offer.syntax(session)
    if not conn.server.recount(conn):
        conn.stats.connections_refused += 1
        conn.log(logging.WARNING, "refused:", FULL_FOR_HOST.text)
        raise EndSession("refused", None if config.implicit_tls else FULL_FOR_HOST)


def _end(address: tuple[str, int]) -> tuple[str | None, int | None]:
    """A Unix socket's path is no address."""
    return (None, None) if address[0].startswith("unix:") else address


async def resolve_client(conn: Connection) -> None:
    """Look up the client's name, and whether it leads back to the address; never longer than its timeout."""
    session, config = conn.session, conn.config
    if not config.reverse_dns or session.remote_address is None:
        return
    conn.arm("delay", config.reverse_dns_timeout + config.command_timeout)
    with trio.move_on_after(config.reverse_dns_timeout):
        name = await name_of(session.remote_address)
        if name is not None:
            session.client_hostname = name
            session.client_hostname_verified = await leads_back(name, session.remote_address)


async def xclient(conn: Connection, command: Command) -> None:
    """XCLIENT: a trusted peer says for whom it speaks; the session begins anew (Postfix's XCLIENT_README)."""
    session, values = conn.session, command.values
    if not trusts(conn.config.xclient, session.remote_address):
        raise ProtocolError("Insufficient authorization", 550, "5.7.0", counted=False)
    attributes = {name: None if value is None else str(value) for name, value in values.items()}
    session.xclient |= attributes
    if "ADDR" in attributes:
        session.remote_address = attributes["ADDR"]
    if "PORT" in attributes:
        session.remote_port = _port(attributes["PORT"])
    if "DESTADDR" in attributes:
        session.local_address = attributes["DESTADDR"]
    if "DESTPORT" in attributes:
        session.local_port = _port(attributes["DESTPORT"])
    if "NAME" in attributes or "ADDR" in attributes:
        literal = f"[{session.remote_address}]" if session.remote_address else "unknown"
        session.client_hostname = attributes.get("NAME") or literal
        session.client_hostname_verified = False
    conn.forget_dialogue()
    session.host_name_appears_as = attributes.get("HELO")
    conn.machine.advance(Verb.XCLIENT, 220)
    await conn.greet(attributes.get("LOGIN"))


def _port(value: str | None) -> int | None:
    return None if value is None else int(value)


async def log_in(conn: Connection, username: str) -> Reply | None:
    """Ask the handlers about XCLIENT LOGIN; returns their refusal, or None."""
    credentials = XClientCredentials(username)
    reply, _ = await ask_handlers(conn, credentials)
    if reply.code >= 400:
        return reply
    conn.session.auth_mechanism = credentials.method
    return None


async def xforward(conn: Connection, command: Command) -> Reply:
    """XFORWARD: where a message came from before; for the log, never for policy (Postfix's XFORWARD_README)."""
    session = conn.session
    if not trusts(conn.config.xforward, session.remote_address):
        raise ProtocolError("Insufficient authorization", 550, "5.7.0", counted=False)
    for name, value in command.values.items():
        session.xforward[name] = None if value is None else str(value)
    return _OK
