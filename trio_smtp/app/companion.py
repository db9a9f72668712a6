"""Companion: what runs in a process of its own beside the workers of one server."""

from __future__ import annotations

from typing import Protocol

import trio

__all__ = ["Companion"]


class Companion(Protocol):
    """What runs in a process of its own beside workers; see `App.accompany`.

    Where one process serves, none of the methods is called.
    """

    @property
    def name(self) -> str:
        """Names the process in the log."""
        ...

    def open(self) -> None:
        """Open sockets that this process and the workers are to have. Called once, before any process is started.

        Raises:
            OSError: Something cannot be had; nothing is served.
        """
        ...

    async def run(self, draining: trio.Event) -> None:
        """Work until cancelled. It is cancelled when the last worker has ended, and begun anew when it ends before.

        Args:
            draining: Is set when the workers begin to drain.
        """
        ...

    def close(self) -> None:
        """Close in the supervisor what `open` has opened. Also called when `open` has failed."""
        ...
