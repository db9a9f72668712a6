"""Store: octets that are kept to be read more than once, in memory or in an unnamed temporary file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, final

import trio
from trio.lowlevel import checkpoint

__all__ = ["Store"]

#: Octets that are gathered before a worker thread writes them: a hop to a thread costs more than most writes.
_BATCH = 262_144

T = TypeVar("T")


@final
class Store:
    """Octets that are appended to, and then read at any position, by several readers at once.

    Calls for the file are made in worker threads and never abandoned: a cancellation takes effect after them.

    Args:
        memory: Octets that are kept in memory; with more, all are in a file.
        directory: Where the file is made; None: where the system has its temporary files.

    Attributes:
        size: Octets appended.
        closed: `close` was called.
    """

    __slots__ = ("_calls", "_directory", "_file", "_memory", "_pending", "_written", "closed", "size")

    def __init__(self, memory: int, directory: str | None) -> None:
        self._memory = memory
        self._directory = directory
        # What is not in the file yet; without a file, all of it.
        self._pending = bytearray()
        self._file: int | None = None
        self._written = 0
        self._calls = 0
        self.closed: bool = False
        self.size: int = 0

    async def append(self, chunk: bytes) -> bytes:
        """Append octets; returns none, as `read` would where there are none.

        Raises:
            OSError: The file cannot be made or written.
            trio.ClosedResourceError: `close` was called.
        """
        if self.closed:
            raise trio.ClosedResourceError
        self._pending += chunk
        self.size += len(chunk)
        if self.size > self._memory and len(self._pending) >= min(_BATCH, self._memory + 1):
            await self._in_thread(self._write)
        return b""

    async def finish(self) -> bytes:
        """Nothing more is appended; returns no octets either.

        Raises:
            OSError: The file cannot be written.
            trio.ClosedResourceError: `close` was called.
        """
        if self.closed:
            raise trio.ClosedResourceError
        if self._file is not None and self._pending:
            await self._in_thread(self._write)
        else:
            await checkpoint()
        return b""

    async def read(self, start: int, end: int) -> bytes:
        """Read octets from one position to another.

        Raises:
            OSError: The file cannot be read, or has less octets than were written.
            trio.ClosedResourceError: `close` was called.
        """
        if self.closed:
            raise trio.ClosedResourceError
        if self._file is None:
            await checkpoint()
            return bytes(memoryview(self._pending)[start:end])
        return await self._in_thread(lambda: self._read(start, end))

    def close(self) -> None:
        """Give memory and file back; does nothing when it is called again.

        The descriptor is closed in a worker thread, after the last call for the file has returned.
        """
        self.closed = True
        self._free()

    def _free(self) -> None:
        if self._calls or not self.closed:
            return
        self._pending = bytearray()
        file, self._file = self._file, None
        if file is not None:
            # Closing frees the blocks of a file that has no name, which takes time for a large one.
            trio.lowlevel.start_thread_soon(lambda: os.close(file), lambda _: None)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        self._calls += 1
        try:
            return await trio.to_thread.run_sync(call)
        finally:
            self._calls -= 1
            self._free()

    def _write(self) -> None:
        if self._file is None:
            self._file = _open_unnamed(self._directory)
        with memoryview(self._pending) as rest:
            done = 0
            while done < len(rest):
                done += os.pwrite(self._file, rest[done:], self._written + done)
        self._written += done
        self._pending.clear()

    def _read(self, start: int, end: int) -> bytes:
        assert self._file is not None
        pieces = []
        while start < end:
            piece = os.pread(self._file, end - start, start)
            if not piece:
                raise OSError(f"the spooled file has lost octets from {start} on")
            start += len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _open_unnamed(directory: str | None) -> int:
    import tempfile  # loads random and shutil, which not every server needs

    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        return os.dup(file.fileno())
