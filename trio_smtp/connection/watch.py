"""The watch that holds connections to their deadlines.

Moving a cancel scope's deadline costs more than most commands do, and most deadlines are moved again long before they
are reached. So a connection only notes when its time is over, and one task looks at all of them at short intervals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_smtp.app.config import Config

    from .wire import Wire

__all__ = ["Watch"]


class Watch:
    """Cancels what goes on in a connection when its time is over: never early, at most an interval late.

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
        """Its time is nobody's matter any more."""
        self._wires.discard(wire)
