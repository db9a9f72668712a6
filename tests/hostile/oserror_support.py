"""Sockets that fail as planned, and a listener for them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import attrs
import trio

__all__ = ["Doorway", "Plan", "PlannedSocket", "descriptors"]


@attrs.define(eq=False)
class Plan:
    """Which call fails: the n-th of this method, and with `lasting` every later one as well."""

    method: str
    n: int
    error: int
    lasting: bool
    #: Each send takes at most so many octets, and every other one takes none; None: what the system takes.
    narrow: int | None = None
    calls: int = 0

    @property
    def reached(self) -> bool:
        return self.calls >= self.n

    def check(self, method: str) -> None:
        if method == self.method:
            self.calls += 1
            if self.calls == self.n or (self.lasting and self.reached):
                raise OSError(self.error, os.strerror(self.error))


class PlannedSocket(socket.socket):
    """A connected socket whose calls fail as planned."""

    def __init__(self, sock: socket.socket, plan: Plan) -> None:
        super().__init__(fileno=sock.detach())
        self._plan = plan
        self._full = False

    def send(self, data: Any, flags: int = 0, /) -> int:
        self._plan.check("send")
        if self._plan.narrow is None:
            return super().send(data, flags)
        self._full = not self._full
        if self._full:
            raise BlockingIOError
        return super().send(data[: self._plan.narrow], flags)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        self._plan.check("recv")
        return super().recv(size, flags)

    def shutdown(self, how: int, /) -> None:
        self._plan.check("shutdown")
        super().shutdown(how)

    def getpeername(self) -> Any:
        self._plan.check("getpeername")
        return super().getpeername()

    def getsockname(self) -> Any:
        self._plan.check("getsockname")
        return super().getsockname()

    def close(self) -> None:
        open_still = self.fileno() >= 0
        super().close()
        if open_still:  # as Linux does it: whatever the error, the descriptor is closed
            self._plan.check("close")


class Doorway(trio.abc.Listener[trio.abc.Stream]):
    """A listener of the streams that `enter` is given."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](1)

    def enter(self, stream: trio.abc.Stream) -> None:
        self._send.send_nowait(stream)

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._receive.close()
        await trio.lowlevel.checkpoint()


def descriptors() -> int:
    """How many descriptors this process has, where that can be seen."""
    listing = Path("/proc/self/fd")
    return len(list(listing.iterdir())) if listing.is_dir() else 0
