"""Listening sockets that several processes share, opened before there is an event loop."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from typing import Any

import attrs

from trio_smtp.net.unix import UnixFile, open_unix_listener
from trio_smtp.protocol.values import ShowsFields

from .server import SMTPServer

__all__ = ["Listening", "listen"]

#: Whether connections are spread over the sockets that share a port. Elsewhere one of them would get them all.
_SPREADS: bool = sys.platform.startswith("linux") and hasattr(socket, "SO_REUSEPORT")


@attrs.define(eq=False, repr=False)
class Listening(ShowsFields):
    """A server, and the sockets it listens on in each worker.

    Attributes:
        server: What serves them.
        sockets: Those of each worker; one socket may be all workers'.
        file: The Unix socket's file, where there is one to remove at the end.
    """

    server: SMTPServer
    sockets: Sequence[Sequence[socket.socket]]
    file: UnixFile | None = None

    def close(self) -> None:
        """Close them all; more than once is fine."""
        for own in self.sockets:
            for sock in own:
                sock.close()
        if self.file is not None:
            # Once: another server may have a file there by now, with the same inode even.
            self.file.remove()
            self.file = None


def listen(server: SMTPServer, workers: int) -> Listening:
    """Open what the server's Config names, for so many workers.

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
                if error.errno != errno.EAFNOSUPPORT:  # a name may stand for both families where there is one
                    raise
                unsupported = error
                continue
            sockets[0].append(first)
            if _SPREADS:
                # Only now: so the first is refused where anybody listens, who may share the port as well.
                first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for own in sockets[1:]:
                own.append(_bound(family, protocol, first.getsockname(), shared=True) if _SPREADS else first)
            for own in sockets:
                own[-1].listen(min(config.backlog or 65_535, 65_535))
        if unsupported is not None and not sockets[0]:
            raise unsupported
    except OSError:
        Listening(server, sockets).close()
        raise
    return Listening(server, sockets)


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
