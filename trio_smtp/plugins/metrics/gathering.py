"""Adds up what workers report, in a process of its own.

Workers send what they have counted each second, as one datagram on a socket pair that all of them share. Of a worker
that has ended the last report counts on, its gauges apart.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import trio

from .families import Values, counters, total
from .process import Process, Report

__all__ = ["Gathered", "Gatherer"]

_BETWEEN_REPORTS = 1.0
#: A worker's report is sent after so many seconds though it is the same.
_HEARTBEAT = 5.0
#: A worker that says nothing for so long hangs.
_SILENCE = 30.0
_SEND_SECONDS = 1.0
#: Of a report; far more than the names of all commands, codes and handlers need.
_MAX_REPORT = 1 << 18


class Gathered:
    """The last report of each worker, and the counters of those that have ended."""

    def __init__(self) -> None:
        self._reports: dict[int, Report] = {}
        self._heard: dict[int, float] = {}
        self._past: Values = {}
        self._quiet_since = trio.current_time()

    def take(self, octets: bytes) -> None:
        """Take in what a worker has sent."""
        pid, last = int.from_bytes(octets[:8], "big"), bool(octets[8])
        self._reports[pid] = Report.decode(octets[9:])
        self._heard[pid] = trio.current_time()
        if last:
            self._end(pid)

    def bury(self) -> None:
        """Look for workers that have ended without a last report."""
        for pid in [*self._reports]:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                self._end(pid)

    def _end(self, pid: int) -> None:
        self._past = total([self._past, counters(self._reports.pop(pid).values)])
        del self._heard[pid]
        self._quiet_since = trio.current_time()

    def values(self) -> Values:
        """All counters together, and the gauges of the workers that live."""
        return total([self._past, *(report.values for report in self._reports.values())])

    @property
    def silent(self) -> bool:
        """A worker hangs, or there has been none for long."""
        heard = self._heard.values() or [self._quiet_since]
        return trio.current_time() - min(heard) > _SILENCE

    @property
    def obstacle(self) -> str | None:
        """Why no worker is ready; None: one is."""
        obstacles = [report.obstacle for report in self._reports.values()]
        return None if None in obstacles else next(iter(obstacles), "no worker serves")


class Gatherer:
    """The sockets between the workers and the process that adds up."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock, option in ((self._receiver, socket.SO_RCVBUF), (self._sender, socket.SO_SNDBUF)):
            sock.setsockopt(socket.SOL_SOCKET, option, 2 * _MAX_REPORT)

    def close(self) -> None:
        """Close both ends in this process."""
        self._receiver.close()
        self._sender.close()

    async def gather(self, gathered: Gathered) -> None:
        """Receive the workers' reports until cancelled."""
        receiver = trio.socket.from_stdlib_socket(self._receiver)
        while True:
            with trio.move_on_after(_BETWEEN_REPORTS):
                while True:
                    gathered.take(await receiver.recv(_MAX_REPORT))
            gathered.bury()

    async def report(self, process: Process) -> None:
        """Send a worker's reports until cancelled."""
        sent, when = b"", -_HEARTBEAT
        while True:
            octets, now = process.report().encode(), trio.current_time()
            if octets != sent or now - when >= _HEARTBEAT:
                await self._send(octets, last=False)
                sent, when = octets, now
            await trio.sleep(_BETWEEN_REPORTS)

    async def report_last(self, process: Process) -> None:
        """Send the last report of a worker that ends."""
        with trio.CancelScope(shield=True):
            await self._send(process.report().encode(), last=True)

    async def _send(self, octets: bytes, *, last: bool) -> None:
        # Where nobody reads, the report is dropped: the next one has all of it.
        with trio.move_on_after(_SEND_SECONDS), suppress(OSError):
            sender = trio.socket.from_stdlib_socket(self._sender)
            await sender.send(os.getpid().to_bytes(8, "big") + bytes([last]) + octets)
