"""A file that nobody sees before it is whole: written under one path, synced to the disk, and renamed into a directory.

Every function here blocks. It belongs in a worker thread, and one file is used by one thread at a time.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["COPY_OCTETS", "NewFile", "is_directory", "make_directory", "open_directory", "sync_directory"]

#: Octets that a copy reads at once.
COPY_OCTETS = 262_144

_Octets = bytes | bytearray
_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


class NewFile:
    """A file on its way to a directory.

    Args:
        path: Where it is written; nothing may be there.
        directory: The directory that it is renamed into, on the same file system.
        name: Its name there. A file of that name would be replaced.
        make_missing: Called when the directory of `path`, or `directory`, does not exist; then that is tried again.
    """

    __slots__ = ("_file", "_make_missing", "directory", "name", "parts", "path", "place")

    def __init__(
        self,
        path: str,
        directory: str,
        name: str,
        *,
        make_missing: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.directory = directory
        self.name = name
        #: What `write_parts` writes.
        self.parts: Sequence[_Octets] = ()
        #: Where the file is that `remove` would remove; None when there is none.
        self.place: str | None = None
        self._make_missing = make_missing
        self._file: int | None = None

    def hold(self, parts: Sequence[_Octets]) -> None:
        """Keep octets for `write_parts`. They are not copied, and must stay as they are."""
        self.parts = parts

    def write(self, parts: Sequence[_Octets]) -> None:
        """Append octets. The first call makes the file, with the mode 0600."""
        if self._file is None:
            self._file = self.with_directories(self._make)
        _write(self._file, parts)

    def write_parts(self) -> None:
        """Write the octets that the file holds; afterwards it holds none."""
        parts, self.parts = self.parts, ()
        self.write(parts)

    def copy(self, source: str, skip: int) -> None:
        """Write what another file holds, except so many octets at its beginning."""
        original = os.open(source, os.O_RDONLY)
        try:
            os.lseek(original, skip, os.SEEK_SET)
            while octets := os.read(original, COPY_OCTETS):
                self.write([octets])
        finally:
            os.close(original)

    def sync(self) -> None:
        """Sync the file to the disk, and close it; nothing is done when that was done before."""
        if self._file is not None:
            os.fsync(self._file)
            self._close()

    def rename(self, directory: int) -> None:
        """Rename the file into its directory, which is open under this descriptor."""
        os.rename(self.path, self.name, dst_dir_fd=directory)
        self.place = f"{self.directory}/{self.name}"

    def release(self) -> None:
        """Leave the file where it is: from now on `remove` removes nothing."""
        self.place = None

    def remove(self) -> None:
        """Remove the file wherever it is now. What the system says against it is logged."""
        try:
            self._close()
        except OSError as error:
            _logger.warning("closing %r: %s", self.name, error)
        place, self.place = self.place, None
        if place is None:
            return
        try:
            # Missing when a reader has moved it away from where it was put.
            Path(place).unlink(missing_ok=True)
        except OSError as error:
            _logger.warning("a file of a message that was refused stays behind: %s", error)

    def with_directories(self, step: Callable[[], _Result]) -> _Result:
        """Run a step; where a directory is missing, make it and run the step again."""
        try:
            return step()
        except FileNotFoundError:
            if self._make_missing is None:
                raise
            self._make_missing()
            return step()

    def _make(self) -> int:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.place = self.path
        return file

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


def _write(file: int, parts: Sequence[_Octets]) -> None:
    missing = sum(map(len, parts)) - os.writev(file, parts)
    if missing:
        # The system took a part of it, because the disk is nearly full or a signal came.
        with memoryview(b"".join(parts)) as rest:
            while missing:
                missing -= os.write(file, rest[len(rest) - missing :])


def is_directory(path: str) -> bool:
    """Whether a directory is there; an OSError when the system cannot say."""
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def make_directory(directory: str) -> None:
    """Make a directory with the mode 0700, and sync the one that holds it.

    Its parents are not made: when a whole Maildir has vanished, its disk is probably not mounted.
    """
    try:
        Path(directory).mkdir(0o700)
    except FileExistsError:
        # Another delivery has made it in the meantime, or it is not a directory.
        if not is_directory(directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory) from None
    parent = open_directory(Path(directory).parent)
    try:
        sync_directory(parent)
    finally:
        os.close(parent)


def open_directory(directory: str | Path) -> int:
    """A descriptor by which files are renamed into the directory and it is synced; close it."""
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)


def sync_directory(directory: int) -> None:
    """Sync the names in a directory to the disk."""
    try:
        os.fsync(directory)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a directory: there the server decides how safe names are.
        if error.errno != errno.EINVAL:
            raise
