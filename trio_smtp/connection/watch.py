"""The watch that holds the connections of a server to their deadlines (clock.py says why)."""

from __future__ import annotations

import trio

from trio_smtp.app.config import Config

from .wire import Wire

__all__ = ["Watch"]


class Watch:
    """Cancels what a connection awaits when its time is over: never early, at most an interval late.

    Args:
        config: Its shortest timeout decides on the interval: a quarter of it, at most a second.
    """

    def __init__(self, config: Config) -> None:
        shortest = min(
            config.command_timeout,
            config.data_timeout,
            config.handler_timeout,
            config.send_timeout,
            config.tls_handshake_timeout,
            config.proxy_timeout,
        )
        self._interval = min(1.0, shortest / 4)
        self._wires: set[Wire] = set()
        self._some = trio.Event()

    async def run(self) -> None:
        """Watch until cancelled; sleeps while there is nothing to watch."""
        while True:
            if not self._wires:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(self._interval)
            now = trio.current_time()
            for wire in self._wires:
                wire.expire(now)

    def begin(self, wire: Wire) -> None:
        """Watch over this connection from now on."""
        self._wires.add(wire)
        self._some.set()

    def end(self, wire: Wire) -> None:
        """Watch over this connection no more."""
        self._wires.discard(wire)
