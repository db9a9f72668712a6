"""What trusted front ends say of the client: the PROXY header, XCLIENT, XFORWARD."""

from __future__ import annotations

from trio_smtp.protocol.commands import Command
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.networks import trusts
from trio_smtp.protocol.proxy import ProxyHeader
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .dialogue import Dialogue
from .greeting import greet
from .steps import Steps

__all__ = ["proxied", "xclient", "xforward"]

_OK = Reply(250, "OK", "2.0.0")
_NEW_GREETING = Reply(220, "")


def proxied(dialogue: Dialogue, header: ProxyHeader) -> bool:
    """Take over what a PROXY header says; False: it says nothing of the client."""
    session = dialogue.session
    session.proxy = header
    if header.source is None or header.destination is None:
        return False
    session.remote_address, session.remote_port = _end(header.source)
    session.local_address, session.local_port = _end(header.destination)
    session.client_hostname = _literal(session.remote_address)
    dialogue.client_moved()
    return True


def _end(address: tuple[str, int]) -> tuple[str | None, int | None]:
    """A Unix socket's path is no address."""
    return (None, None) if address[0].startswith("unix:") else address


def _literal(address: str | None) -> str:
    return f"[{address}]" if address else "unknown"


def xclient(dialogue: Dialogue, command: Command) -> Steps[None]:
    """XCLIENT: a trusted peer says for whom it speaks; the session begins anew (Postfix's XCLIENT_README)."""
    session, values = dialogue.session, command.values
    if not trusts(dialogue.service.config.xclient, session.remote_address):
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
        session.client_hostname = attributes.get("NAME") or _literal(session.remote_address)
        session.client_hostname_verified = False
    dialogue.forget()
    session.host_name_appears_as = attributes.get("HELO")
    dialogue.answer(Verb.XCLIENT, _NEW_GREETING, silent=True)
    yield from greet(dialogue, attributes.get("LOGIN"))


def _port(value: str | None) -> int | None:
    return None if value is None else int(value)


def xforward(dialogue: Dialogue, command: Command) -> Reply:
    """XFORWARD: where a message came from before; for the log, never for policy (Postfix's XFORWARD_README)."""
    session = dialogue.session
    if not trusts(dialogue.service.config.xforward, session.remote_address):
        raise ProtocolError("Insufficient authorization", 550, "5.7.0", counted=False)
    for name, value in command.values.items():
        session.xforward[name] = None if value is None else str(value)
    return _OK
