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
        self._hosts: Counter[str] = Counter()

    def take(self, address: str | None) -> Place | Reply:
        """Take a place for a connection from this address; returns a refusal where there is none."""
        config, host = self._config, host_key(address)
        if self._taken >= config.max_connections:
            return _FULL
        # A proxy's own address does not count: its header names another, for which the place is taken then (`move`).
        if not self._has_room(host, self._hosts[host]) and not trusts(config.proxy_protocol, address):
            return FULL_FOR_HOST
        return Place(self, host)

    def take_anyway(self, address: str | None) -> Place:
        """Take a place, whatever the limits."""
        return Place(self, host_key(address))

    def _has_room(self, host: str, others: int) -> bool:
        most = self._config.max_connections_per_host
        return most is None or not host or others < most  # a Unix or in-memory stream comes from nowhere

    def enter(self, host: str) -> bool:
        """Count one more of this host; False: there are too many of it now."""
        self._taken += 1
        self._hosts[host] += 1
        return self._has_room(host, self._hosts[host] - 1)

    def leave(self, host: str) -> None:
        """Count one less of this host."""
        self._taken -= 1
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]


class Place:
    """One connection's place."""

    __slots__ = ("_host", "_places")

    def __init__(self, places: Places, host: str) -> None:
        self._places = places
        self._host = host
        places.enter(host)

    def move(self, address: str | None) -> bool:
        """Count the connection for the host that its PROXY header names; False: that one has too many."""
        self._places.leave(self._host)
        self._host = host_key(address)
        return self._places.enter(self._host)

    def leave(self) -> None:
        """The connection is over."""
        self._places.leave(self._host)
