"""What runs beside workers: one companion in a process of its own, until its supervisor ends it."""

from __future__ import annotations

import socket

import trio

from trio_smtp.app.companion import Companion

from .worker import DRAIN, STOP

__all__ = ["accompany"]


async def accompany(companion: Companion, orders: socket.socket) -> None:
    """Run a companion until the supervisor has it end, or is gone.

    Args:
        companion: What runs.
        orders: This process's end of the supervisor's socket pair; closed at the end.
    """
    draining = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey, orders, draining, nursery.cancel_scope)
        await companion.run(draining)
        nursery.cancel_scope.cancel()


async def _obey(orders: socket.socket, draining: trio.Event, everything: trio.CancelScope) -> None:
    async with trio.SocketStream(trio.socket.from_stdlib_socket(orders)) as stream:
        async for chunk in stream:
            if DRAIN in chunk:
                draining.set()
            if STOP in chunk:
                break
    everything.cancel()
