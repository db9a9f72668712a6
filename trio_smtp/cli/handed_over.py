"""Sockets that the process gets when it starts: those of a service manager (sd_listen_fds(3)), or any descriptor.

The service manager keeps its own copies open. Connections wait in their backlog while the process is restarted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from trio_smtp import Config

from .configuration.handed_over import SocketConfig, Source
from .errors import RUNTIME, CommandError, reason_of

__all__ = ["Sockets", "sockets_for", "take_environment"]

#: The sockets of each listener; None: the listener opens its own.
Sockets = Sequence[Sequence[socket.socket] | None]

_FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
#: The name of sockets when the service manager gives none.
_UNKNOWN = "unknown"
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def take_environment(environ: MutableMapping[str, str]) -> dict[int, str]:
    """What the service manager handed over to this process; the descriptors are not inheritable from now on.

    Args:
        environ: The variables that say so are taken away, so that no child process takes them for its own.

    Returns:
        The name of each file descriptor; empty: nothing was handed over, or to another process.

    Raises:
        CommandError: The variables contradict themselves, or a descriptor is not open.
    """
    pid, count, names, _ = (environ.pop(name, None) for name in _VARIABLES)
    if pid != str(os.getpid()) or count is None:
        return {}
    if not (count.isascii() and count.isdigit() and len(count) <= 6):
        raise CommandError(f"LISTEN_FDS must be a number of sockets, not {count!r}")
    descriptors = range(_FIRST, _FIRST + int(count))
    named = [_UNKNOWN] * len(descriptors) if names is None else names.split(":")
    if descriptors and len(named) != len(descriptors):
        raise CommandError(f"LISTEN_FDNAMES has {len(named)} names, but LISTEN_FDS is {count}")
    for fd in descriptors:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise CommandError(
                f"LISTEN_FDS is {count}, but file descriptor {fd}: {reason_of(error)}", RUNTIME
            ) from error
    return dict(zip(descriptors, named, strict=False))


@contextmanager
def sockets_for(configs: Iterable[Config], handed_over: Mapping[int, str]) -> Iterator[Sockets]:
    """The sockets of the listeners, which are not inheritable and do not block; closed at the end.

    Args:
        configs: Of the listeners.
        handed_over: See `take_environment`.

    Raises:
        CommandError: A listener's sockets are missing, taken by another one or not what can be served, or no listener
            takes a socket that was handed over.
    """
    sources = [each.source if isinstance(each, SocketConfig) else None for each in configs]
    found = [None if each is None else (each, _descriptors(each, handed_over)) for each in sources]
    _check_taken_once([each for each in found if each is not None], handed_over)
    with ExitStack() as stack:
        yield [
            None if each is None else [stack.enter_context(_open(fd, each[0], handed_over)) for fd in each[1]]
            for each in found
        ]


def _descriptors(source: Source, handed_over: Mapping[int, str]) -> list[int]:
    if source.fd is not None:
        return [source.fd]
    its = [fd for fd, name in handed_over.items() if source.name in {None, name}]
    if its:
        return its
    if handed_over:
        known = ", ".join(dict.fromkeys(handed_over.values()))
        raise CommandError(f"{source.where}{source}: no socket of this name was handed over, but {known}", RUNTIME)
    raise CommandError(
        f"{source.where}{source}: no sockets were handed over to this process (LISTEN_PID, LISTEN_FDS): a .socket unit"
        " does that",
        RUNTIME,
    )


def _check_taken_once(found: Iterable[tuple[Source, Iterable[int]]], handed_over: Mapping[int, str]) -> None:
    taken: dict[int, Source] = {}
    for source, descriptors in found:
        for fd in descriptors:
            if fd in taken:
                raise CommandError(
                    f"{source.where}{source}: {_shown(fd, handed_over)} is taken by another listener ({taken[fd]})"
                )
            taken[fd] = source
    left = ", ".join(_shown(fd, handed_over) for fd in handed_over if fd not in taken)
    if left:
        raise CommandError(
            f"no listener takes {left}, and clients would wait there for ever: one with listen systemd[:NAME] does"
        )


def _shown(fd: int, handed_over: Mapping[int, str]) -> str:
    name = handed_over.get(fd, _UNKNOWN)
    return f"file descriptor {fd}" if name == _UNKNOWN else f"file descriptor {fd} ({name})"


def _open(fd: int, source: Source, handed_over: Mapping[int, str]) -> socket.socket:
    where = f"{source.where}{source}: {_shown(fd, handed_over)}"
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise CommandError(f"{where} is no socket: {reason}", RUNTIME) from error
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM or not _listens(sock):
        sock.close()
        raise CommandError(f"{where} is no listening stream socket, of TCP or Unix", RUNTIME)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _listens(sock: socket.socket) -> bool:
    with suppress(OSError):  # some systems do not tell
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return True
