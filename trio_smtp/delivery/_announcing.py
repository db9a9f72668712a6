"""How the next server is told of the client: the PROXY header, XCLIENT or XFORWARD."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

from trio_smtp import Session
from trio_smtp.client import Client

__all__ = ["Announce", "forward", "hello_of", "identity_of", "introduce", "proxy_header"]

#: How the next server is told of the client.
Announce = Literal["xclient", "xforward", "proxy"]

_WORD = re.compile(r"[!-~]{1,200}")


def hello_of(session: Session) -> str:
    """What the client called itself, as EHLO can say it."""
    name = session.host_name_appears_as or ""
    return name if _WORD.fullmatch(name) else "unknown"


def identity_of(session: Session) -> tuple[object, ...]:
    """Whom a session with the next server speaks for; it serves no other client."""
    return session.remote_address, session.remote_port, hello_of(session), _user(session)


def _user(session: Session) -> str | None:
    return session.user if session.authenticated and isinstance(session.user, str) else None


def _tagged(address: str | None) -> str | None:
    """An address as XCLIENT and XFORWARD write it."""
    return f"IPV6:{address}" if address is not None and ":" in address else address


def _attributes(session: Session) -> dict[str, str | None]:
    named = session.client_hostname_verified
    return {
        "ADDR": _tagged(session.remote_address),
        "NAME": session.client_hostname if named else None,
        "PORT": None if session.remote_port is None else str(session.remote_port),
        "PROTO": "LMTP" if session.lmtp else "SMTP" if session.opening_command == "HELO" else "ESMTP",
        "HELO": hello_of(session),
    }


async def introduce(client: Client, session: Session) -> None:
    """Say XCLIENT on a session that is new; see `Client.xclient` for what is raised."""
    local = session.local_address
    told = _attributes(session) | {
        "LOGIN": _user(session),
        "DESTADDR": _tagged(local),
        "DESTPORT": None if session.local_port is None else str(session.local_port),
    }
    await client.xclient(told, hello=hello_of(session))


async def forward(client: Client, session: Session) -> None:
    """Say XFORWARD, where the server takes it: it is for the server's log, so that a refusal changes nothing."""
    if "XFORWARD" in client.extensions:
        await client.xforward(_attributes(session))


def proxy_header(session: Session) -> bytes:
    """The header of version 1, for the connection of this client; ``UNKNOWN`` where an address is not known."""
    try:
        source, target = (
            # The zone of a link-local address means nothing on another machine.
            ipaddress.ip_address((address or "").partition("%")[0])
            for address in (session.remote_address, session.local_address)
        )
    except ValueError:
        return b"PROXY UNKNOWN\r\n"
    if source.version != target.version or session.remote_port is None or session.local_port is None:
        return b"PROXY UNKNOWN\r\n"
    ends = f"{source} {target} {session.remote_port} {session.local_port}"
    return f"PROXY TCP{source.version} {ends}\r\n".encode()
