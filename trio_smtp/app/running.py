"""Running: what a lifespan is given."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Protocol

import trio

from .base import BaseApp
from .config import Config
from .session import Session
from .stats import Stats, total

__all__ = ["Running", "Server"]


class Server(Protocol):
    """An `SMTPServer`, as a lifespan sees it."""

    @property
    def config(self) -> Config:
        """Limits, clocks and switches."""
        ...

    @property
    def stats(self) -> Stats:
        """The counters."""
        ...

    @property
    def listeners(self) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        """The listeners being served."""
        ...

    @property
    def port(self) -> int | None:
        """The port of the first listener."""
        ...

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """The context of handshakes from now on: that of the Config, or what `reload_tls` was given last."""
        ...

    @property
    def sessions(self) -> Sequence[Session]:
        """The live sessions."""
        ...

    def drain(self) -> None:
        """Stop accepting, and let transactions in flight end."""
        ...

    @property
    def draining(self) -> bool:
        """Whether `drain` has been called."""
        ...

    async def wait_draining(self) -> None:
        """Wait until `drain` has been called."""
        ...

    def reload_tls(self, ssl_context: ssl.SSLContext) -> None:
        """Use this context for handshakes from now on."""
        ...


class Running:
    """An App that is being served by this process; what `App.lifespan` functions are given.

    Args:
        app: The App.
        nursery: Runs the background tasks.
        calls: How many ``serve_*`` calls of each server are under way.

    Attributes:
        app: The App; ``app.state`` is where resources are put for the handlers.
        nursery: Runs background tasks. They are cancelled when the last connection has ended, and have ended before the
            first lifespan is left. One that crashes ends the servers. A task that must work during shutdown belongs
            into a nursery inside the lifespan.
    """

    __slots__ = ("_calls", "app", "nursery")

    def __init__(self, app: BaseApp, nursery: trio.Nursery, calls: Mapping[Server, int]) -> None:
        self.app: BaseApp = app
        self.nursery: trio.Nursery = nursery
        self._calls = calls

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers that serve the App now; inside `App.running` they come and go."""
        return tuple(server for server, calls in self._calls.items() if calls)

    def stats(self) -> Stats:
        """The counters of all servers of this process together, of those that have ended too. A new object."""
        return total(server.stats for server in self._calls)
