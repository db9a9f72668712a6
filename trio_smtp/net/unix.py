"""Unix socket listeners and their files.

A stale file is replaced, and one that somebody listens on is not. The permissions are set before anybody can connect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

import trio

__all__ = ["UnixFile", "open_unix_listener"]


class UnixFile(NamedTuple):
    """The file of a Unix socket, as it was made.

    Attributes:
        path: Where.
        device: The device it is on.
        inode: Its number there.
    """

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, if this very file is still there.

        Call it once, after the listener was closed: another server may have put a file there, and a new file may be
        given the number of one that is gone. An error is ignored: the next listener replaces a stale file.
        """
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                Path(self.path).unlink()


def open_unix_listener(
    path: str | Path, *, mode: int | None = None, backlog: int | None = None
) -> tuple[trio.SocketListener, UnixFile]:
    """Listen on a Unix socket.

    Args:
        path: Where. A socket file that nobody listens on is replaced.
        mode: The file's permissions; None: what the umask leaves.
        backlog: Connections the system keeps waiting; None: as many as it allows.

    Returns:
        The listener, and its file, which the caller removes after closing the listener.

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
        made = os.lstat(path)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock)), UnixFile(path, made.st_dev, made.st_ino)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        sock.close()
        code, text = (exc.errno, exc.strerror) if isinstance(exc, OSError) else (None, None)
        raise OSError(code or errno.EINVAL, text or str(exc), path) from exc


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that is gone.

    Raises:
        OSError: Somebody listens there, or something that is no socket is there.
    """
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
        except BlockingIOError:  # the queue of a listener is full
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
