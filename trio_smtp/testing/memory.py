"""A server in memory, without sockets: a client that is connected to it, and a listener."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio.testing

from trio_smtp.app.application import App
from trio_smtp.app.config import Config
from trio_smtp.app.session import Session
from trio_smtp.net.endpoints import Endpoints, PlacedStream
from trio_smtp.server.server import SMTPServer

from .client import Client

__all__ = ["MemoryListener", "configured", "open_client", "serving", "stream_pair"]


def configured(config: Config | None, changes: dict[str, Any]) -> Config:
    """A Config with changes; None: one whose host name is ``mx.example``."""
    return attrs.evolve(config, **changes) if config is not None else Config(**{"hostname": "mx.example"} | changes)


def stream_pair(
    peer: tuple[str, int] | None, local: tuple[str, int] | None = None
) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
    """The client's and the server's end of a connection in memory; the server's has the addresses, if there are any."""
    ours, theirs = trio.testing.memory_stream_pair()
    if peer is not None:
        ip = _ip_address("peer", peer)
        local = local or ("127.0.0.1" if ip.version == 4 or ip.ipv4_mapped else "::1", 25)
    elif local is None:
        return ours, theirs
    _ip_address("local", local)
    return ours, PlacedStream(theirs, Endpoints(peer, local))


def _ip_address(argument: str, endpoint: tuple[str, int]) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address, _port = endpoint
        return ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{argument} must be an IP address and a port, not {endpoint!r}") from None


@asynccontextmanager
async def open_client(
    app: App, config: Config | None = None, *, peer: tuple[str, int] | None = None, **config_changes: Any
) -> AsyncIterator[Client]:
    """Start a server and connect a client to it in memory; the greeting has been read.

    Args:
        app: The handlers.
        config: None: defaults, and ``mx.example`` as the host name.
        peer: The address and port that the client seems to come from; see `MemoryListener.connect`.
        config_changes: Fields of Config that differ.

    Yields:
        The client. At the end of the block its stream is closed, and the end of the session is waited for.

    Raises:
        ValueError: `peer` is no IP address and port.
    """
    ours, theirs = stream_pair(peer)
    async with serving(SMTPServer(app, configured(config, config_changes)), ours, theirs) as client:
        if not client.server.config.implicit_tls:
            await client.read_reply()
        yield client


@asynccontextmanager
async def serving(server: SMTPServer, ours: trio.abc.Stream, theirs: trio.abc.Stream) -> AsyncIterator[Client]:
    """Serve the stream beside the block. What either raises comes out bare: a failing test shows its own error."""
    client = Client(ours)
    failures: list[Exception] = []

    async def serve(*, task_status: trio.TaskStatus[Session]) -> None:
        try:
            await server.serve_stream(theirs, task_status=task_status)
        except Exception as exc:
            failures.insert(0, exc)  # what the block raises may be a consequence
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        try:
            client.server, client.session = server, await nursery.start(serve)
            yield client
        except Exception as exc:
            failures.append(exc)
            nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await client.aclose()
    if failures:
        raise failures[0]


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener without sockets, for `SMTPServer.serve_listeners`: each `connect` gives a client's stream."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](0)

    async def connect(
        self, peer: tuple[str, int] | None = None, *, local: tuple[str, int] | None = None
    ) -> trio.abc.Stream:
        """Connect; returns the client's end.

        With addresses, whatever goes by them can be tested: lists of addresses, trusted front ends, limits by host::

            stream = await listener.connect(("192.0.2.1", 4711), local=("198.51.100.1", 25))

        Args:
            peer: The IP address and port that the client seems to come from; None: from nowhere, as on a Unix socket.
            local: Where it seems to come in; None: port 25 of ``127.0.0.1`` (of ``::1`` for an IPv6 `peer`), and
                nowhere when there is no `peer`.

        Raises:
            trio.BrokenResourceError: The listener was closed.
            ValueError: An address is no IP address and port.
        """
        ours, theirs = stream_pair(peer, local)
        await self._send.send(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        """See `trio.abc.Listener`."""
        return await self._receive.receive()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self._receive.close()
        await trio.lowlevel.checkpoint()
