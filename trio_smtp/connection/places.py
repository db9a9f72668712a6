"""Counts a server's connections, all together and by host; each connection has a `Place` while it lasts."""

from __future__ import annotations

from collections import Counter

from trio_smtp.app.config import Config
from trio_smtp.protocol.networks import host_key, trusts
from trio_smtp.protocol.replies import Reply

__all__ = ["FULL_FOR_HOST", "Place", "Places"]

_FULL = Reply(421, "Too many connections", "4.3.2")
FULL_FOR_HOST = Reply(421, "Too many connections from your host", "4.7.0")


class Places:
    """The places of one server.

    Args:
        config: How many connections there may be, and how many of one host.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._taken = 0
        # Connections by host; not counted where no limit asks.
        self._hosts: Counter[str] = Counter()
        self._most = config.max_connections_per_host

    def take(self, address: str | None) -> Place | Reply:
        """Take a place for a connection from this address; returns a refusal where there is none."""
        if self._taken >= self._config.max_connections:
            return _FULL
        full = self._most is not None and self._hosts[host_key(address)] >= self._most
        # A proxy's own address does not count: its header names another, for which the place is taken then (`move`).
        if full and not trusts(self._config.proxy_protocol, address):
            return FULL_FOR_HOST
        return Place(self, address)

    def take_anyway(self, address: str | None) -> Place:
        """Take a place, whatever the limits."""
        return Place(self, address)

    def enter(self, host: str | None) -> bool:
        """Count one connection more, of this host; False: the host has too many now."""
        self._taken += 1
        if self._most is None or not host:  # a Unix or in-memory stream comes from nowhere
            return True
        self._hosts[host] += 1
        return self._hosts[host] <= self._most

    def leave(self, host: str | None) -> None:
        """Count one connection less."""
        self._taken -= 1
        if self._most is not None and host:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def host_of(self, address: str | None) -> str | None:
        """What counts as the address's host; None where hosts are not counted."""
        return None if self._most is None else host_key(address)


class Place:
    """One connection's place.

    Args:
        places: Counts it.
        address: Where the connection comes from.
    """

    __slots__ = ("_host", "_places")

    def __init__(self, places: Places, address: str | None) -> None:
        self._places = places
        self._host = places.host_of(address)
        places.enter(self._host)

    def move(self, address: str | None) -> bool:
        """Count the connection for the host that its PROXY header names; False: that one has too many."""
        self._places.leave(self._host)
        self._host = self._places.host_of(address)
        return self._places.enter(self._host)

    def leave(self) -> None:
        """The connection is over."""
        self._places.leave(self._host)
