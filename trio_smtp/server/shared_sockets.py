"""Listening sockets that several processes share, opened before there is an event loop."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from trio_smtp.net.unix import UnixFile, open_unix_listener
from trio_smtp.protocol.values import ShowsFields

from .server import SMTPServer

__all__ = ["SPREADS", "Listening", "listen", "listen_all"]

#: Whether the system spreads connections over the sockets that share a port (SO_REUSEPORT on Linux). Elsewhere one of
#: the sockets would get all connections.
SPREADS: bool = sys.platform.startswith("linux") and hasattr(socket, "SO_REUSEPORT")


@attrs.define(eq=False, repr=False)
class Listening(ShowsFields):
    """A server, and the sockets it listens on in each worker.

    Attributes:
        server: What serves them.
        sockets: The sockets of each worker; all workers may have the same one.
        file: A Unix socket's file, which is removed at the end; None for TCP.
    """

    server: SMTPServer
    sockets: Sequence[Sequence[socket.socket]]
    file: UnixFile | None = None

    def close(self) -> None:
        """Close the sockets, and remove the Unix socket's file; may be called again."""
        for own in self.sockets:
            for sock in own:
                sock.close()
        if self.file is not None:
            # Only once: by the second call another server's file may be there, even with the same inode.
            self.file.remove()
            self.file = None


def listen_all(
    servers: Sequence[SMTPServer],
    workers: int,
    *,
    explain: Callable[[SMTPServer, OSError | ValueError], Exception] | None = None,
    handed_over: Mapping[SMTPServer, Sequence[socket.socket]] | None = None,
) -> list[Listening]:
    """Open what several servers need, or nothing.

    Args:
        servers: The servers, whose Configs name where to listen.
        workers: How many processes are to accept.
        explain: Makes the exception that is raised instead, out of the server that cannot listen and the reason.
        handed_over: Listening sockets in place of what a server's Config names, which all workers share.

    Raises:
        OSError: An address cannot be had; what was opened before is closed. See `explain`.
        ValueError: A host is no name; likewise.
    """
    listening: list[Listening] = []
    for server in servers:
        try:
            if handed_over and server in handed_over:
                listening.append(Listening(server, [handed_over[server]] * workers))
            else:
                listening.append(listen(server, workers))
        except BaseException as error:
            for each in listening:
                each.close()
            if explain is not None and isinstance(error, (OSError, ValueError)):
                raise explain(server, error) from error
            raise
    return listening


def listen(server: SMTPServer, workers: int, *, spread: bool = SPREADS) -> Listening:
    """Open what the server's Config names.

    Args:
        server: The server.
        workers: How many processes are to accept.
        spread: Each worker gets a socket of its own for each TCP address; False: all accept from one.

    Raises:
        OSError: The address cannot be had.
        ValueError: The host is no name.
    """
    config = server.config
    if config.unix_path is not None:
        listener, file = open_unix_listener(config.unix_path, mode=config.unix_mode, backlog=config.backlog)
        only = socket.socket(fileno=listener.socket.detach())
        return Listening(server, [[only]] * workers, file)
    found_addresses = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[list[socket.socket]] = [[] for _ in range(workers)]
    unsupported: OSError | None = None
    try:
        for family, _, protocol, _, address in found_addresses:
            try:
                first = _bound(family, protocol, address)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:  # a name may have IPv6 addresses where the system has no IPv6
                    raise
                unsupported = error
                continue
            _share(first, family, protocol, sockets, spread=spread)
            for own in sockets:
                own[-1].listen(min(config.backlog or 65_535, 65_535))
        if unsupported is not None and not sockets[0]:
            raise unsupported
    except OSError:
        Listening(server, sockets).close()
        raise
    return Listening(server, sockets)


def _share(
    first: socket.socket, family: int, protocol: int, sockets: Sequence[list[socket.socket]], *, spread: bool
) -> None:
    """Give each worker the bound socket of an address, or one of its own that shares the port."""
    sockets[0].append(first)
    if spread:
        # After bind(): with SO_REUSEPORT set before, the first socket could be bound beside another server's.
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    for own in sockets[1:]:
        own.append(_bound(family, protocol, first.getsockname(), shared=True) if spread else first)


def _bound(family: int, protocol: int, address: Any, *, shared: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
