"""Unix socket listeners: stale files are replaced, live ones are not, permissions are set before anybody connects."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

import trio

__all__ = ["open_unix_listener", "remove_socket_file"]


def open_unix_listener(path: str | Path, *, mode: int | None = None, backlog: int | None = None) -> trio.SocketListener:
    """Listen on a Unix socket.

    Args:
        path: Where. A socket file that nobody listens on any more is replaced.
        mode: The file's permissions; None: what the umask leaves.
        backlog: Connections the system keeps waiting; None: as many as it allows.

    Raises:
        OSError: Somebody listens there, something that is no socket is there, or it cannot be made; the text names
            the path.
    """
    path = str(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        if mode is not None:
            Path(path).chmod(mode)  # nobody can connect before listen()
        sock.listen(min(backlog or 65_535, 65_535))
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        sock.close()
        code, text = (exc.errno, exc.strerror) if isinstance(exc, OSError) else (None, None)
        raise OSError(code or errno.EINVAL, text or str(exc), path) from exc


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except BlockingIOError:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def remove_socket_file(path: str | Path, inode: tuple[int, int]) -> None:
    """Remove the file of a listener that was closed, if it is still that listener's.

    Args:
        path: Where.
        inode: Device and inode it had.
    """
    with contextlib.suppress(OSError):  # gone, or no longer ours to remove: the next listener replaces it
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == inode:
            Path(path).unlink()
