"""Tells a service manager how the command is doing: started, loading anew, stopping, alive (sd_notify(3)).

systemd sets NOTIFY_SOCKET for services of ``Type=notify``, and WATCHDOG_USEC where ``WatchdogSec=`` is set; other
programs speak the same protocol. Where the variables are missing, nothing is told.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time

import trio

from trio_smtp.server.processes import System

__all__ = ["ManagedSystem", "keep_telling", "tell", "tell_ready", "tell_reloading", "tell_stopping"]

_logger = logging.getLogger("trio_smtp")


def tell(*lines: str) -> None:
    """Send assignments such as ``READY=1``. What cannot be sent is in the log, and ends nothing."""
    place = os.environ.get("NOTIFY_SOCKET")
    if not place:
        return
    address = "\0" + place[1:] if place.startswith("@") else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _logger.warning("cannot tell the service manager %s: %s", lines[0], error)


def tell_ready(status: str = "") -> None:
    """All listeners accept connections, or what was to be loaded anew is in force."""
    tell("READY=1", *([f"STATUS={status}"] if status else []))


def tell_reloading() -> None:
    """Something is loaded anew; `tell_ready` must follow."""
    tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def tell_stopping() -> None:
    """The command finishes what is under way, and ends."""
    tell("STOPPING=1", "STATUS=Finishing what is under way")


def _pause() -> float | None:
    """Seconds between two signs of life, half of what the service manager allows; None: it asks for none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed = os.environ.get("WATCHDOG_USEC", "")
    # Twelve digits are more than a day, and the number cannot be too large for a wait.
    if not (allowed.isascii() and allowed.isdigit() and 0 < len(allowed) <= 12 and int(allowed)):
        return None
    return int(allowed) / 2_000_000


def _tell_alive() -> None:
    tell("WATCHDOG=1")


async def keep_telling() -> None:
    """Give signs of life until cancelled. An event loop that hangs gives none, and the service is restarted."""
    pause = _pause()
    while pause is not None:
        _tell_alive()
        await trio.sleep(pause)


class ManagedSystem(System):
    """The supervisor's system, which gives signs of life while the supervisor waits, and tells of a SIGHUP.

    A worker whose event loop hangs does not keep the supervisor from giving them.
    """

    def wait(self, seconds: float | None) -> bytes:
        """See `System.wait`."""
        pause = _pause()
        if pause is not None:
            _tell_alive()
            seconds = pause if seconds is None else min(seconds, pause)
        numbers = super().wait(seconds)
        if signal.SIGHUP in numbers:
            tell_reloading()  # each worker does it when it comes to it
            tell_ready()
        return numbers
