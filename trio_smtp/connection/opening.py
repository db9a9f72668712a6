"""What comes before the first command: the PROXY header, TLS at once, early talkers, reverse DNS."""

from __future__ import annotations

import logging

import trio

from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.front_ends import proxied
from trio_smtp.dialogue.steps import EndSession
from trio_smtp.net.reverse_dns import leads_back, name_of
from trio_smtp.protocol.networks import trusts
from trio_smtp.protocol.proxy import HeaderReader, ProxyError
from trio_smtp.protocol.replies import Reply

from .clock import EARLY_TALK, FIRST_HANDSHAKE, PAUSE, PROXY_HEADER, Clock
from .handshake import TLS, shake_hands
from .places import FULL_FOR_HOST, Place
from .wire import Wire

__all__ = ["open_connection"]

_EARLY_TALKER = Reply(421, "You talk too soon", "4.7.0")


async def open_connection(wire: Wire, tls: TLS, clock: Clock, dialogue: Dialogue, place: Place) -> None:
    """Do all that comes before the greeting.

    Raises:
        EndSession: The connection ends here.
    """
    config = dialogue.service.config
    if config.proxy_protocol and trusts(config.proxy_protocol, dialogue.session.remote_address):
        await _read_proxy_header(wire, clock, dialogue, place)
    if config.implicit_tls or isinstance(wire.stream, trio.SSLStream):
        dialogue.secured(await shake_hands(wire, tls, clock, dialogue, FIRST_HANDSHAKE))
    if config.greeting_delay:
        await _hear_early_talkers(wire, clock, dialogue)
    if config.reverse_dns and dialogue.session.remote_address is not None:
        await _find_name(clock, dialogue, dialogue.session.remote_address)


async def _read_proxy_header(wire: Wire, clock: Clock, dialogue: Dialogue, place: Place) -> None:
    """Read the PROXY header a trusted peer begins with, and not an octet more: what follows may be TLS.

    Raises:
        EndSession: There is none, or it is malformed (nothing was written); or its client has too many connections.
    """
    config = dialogue.service.config
    clock.arm(PROXY_HEADER, config.proxy_timeout)
    reader = HeaderReader()
    try:
        while (header := reader.header) is None:
            reader.feed(await wire.receive(reader.wanted))
    except EndSession:
        dialogue.log.event(logging.INFO, "the trusted proxy closed before its PROXY header")
        raise
    except ProxyError as exc:
        dialogue.log.event(logging.WARNING, f"bad PROXY header: {exc}")
        raise EndSession("abuse") from None
    if proxied(dialogue, header) and not place.move(dialogue.session.remote_address):
        dialogue.service.stats.connections_refused += 1
        dialogue.log.event(logging.WARNING, "refused:", FULL_FOR_HOST.text)
        # On an implicit-TLS port nothing can be said without a handshake.
        raise EndSession("refused", None if config.implicit_tls else FULL_FOR_HOST)


async def _hear_early_talkers(wire: Wire, clock: Clock, dialogue: Dialogue) -> None:
    """A client that talks before it was greeted is not a mail client (RFC 5321 section 4.3.1)."""
    config = dialogue.service.config
    clock.arm(EARLY_TALK, config.greeting_delay + config.command_timeout)
    with trio.move_on_after(config.greeting_delay):
        await wire.receive()
        dialogue.log.event(logging.WARNING, "the client talked before the greeting")
        raise EndSession("abuse", _EARLY_TALKER)


async def _find_name(clock: Clock, dialogue: Dialogue, address: str) -> None:
    """Look up the client's name, and whether it leads back to the address; never longer than its timeout."""
    config = dialogue.service.config
    clock.arm(PAUSE, config.reverse_dns_timeout + config.command_timeout)
    with trio.move_on_after(config.reverse_dns_timeout):
        name = await name_of(address)
        if name is not None:
            dialogue.name_client(name, verified=False)
            dialogue.name_client(name, verified=await leads_back(name, address))
