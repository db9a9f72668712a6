"""The name of an address, and whether it leads back there.

Whoever has an address decides what its name is. So a name is used only when it is a well-formed host name, and counts
as confirmed only when the name's own addresses include the one that was asked about.
"""

from __future__ import annotations

import re
import socket
from typing import Any

import trio

__all__ = ["leads_back", "name_of"]

# A last label that is a number is excluded: a resolver would take the whole name for an address.
# Seldom used: re compiles the pattern when it is, and keeps it.
_HOSTNAME = r"(?!(?:.*\.)?(?:[0-9]+|0[Xx][0-9A-Fa-f]*)\.?\Z)[A-Za-z0-9_.-]{1,255}"

#: Look-ups in threads at a time. A look-up that was given up keeps its thread until the system's resolver gives up as
#: well, so they do not share trio's default limit with everything else in the program.
_THREADS = 10
_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("trio_smtp resolver threads")


async def name_of(address: str) -> str | None:
    """Look up the name of an address.

    Args:
        address: An IP address.

    Returns:
        The name; None when there is none, when it cannot be a host's name, or when the look-up fails.

    Cancellation:
        A look-up in a thread is given up at once, and its thread runs on.
    """
    try:
        name, _port = await _look_up("getnameinfo", (address, 0), socket.NI_NAMEREQD)
    except (OSError, UnicodeError):
        return None
    return name if re.fullmatch(_HOSTNAME, name) else None


async def leads_back(name: str, address: str) -> bool:
    """Look up the addresses of a name.

    Args:
        name: As `name_of` gave it.
        address: An IP address, as the socket module writes it.

    Returns:
        Whether the address is one of them; False when the look-up fails.

    Cancellation:
        As for `name_of`.
    """
    try:
        found = await _look_up("getaddrinfo", name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # UnicodeError: the codec for host names refuses a label of more than 63 octets
        return False
    return address in {entry[4][0] for entry in found}


async def _look_up(function: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of the socket module in a thread, or trio's replaceable resolver when a program has set one."""
    # trio has no function that only reads which resolver is set. No task can run between these two calls.
    resolver = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(resolver)
    if resolver is not None:
        return await getattr(trio.socket, function)(*args, **kwargs)
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(
        lambda: getattr(socket, function)(*args, **kwargs), limiter=limiter, abandon_on_cancel=True
    )
