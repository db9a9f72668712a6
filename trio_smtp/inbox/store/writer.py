"""The one thread that writes. Jobs that have queued up go into one transaction.

A commit costs the same for one message and for fifty. While one transaction is being committed, the next messages queue
up, and become the next transaction: so the store takes many messages a second, and each is committed before its future
has a result.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import attrs

from .events import Event

__all__ = ["Job", "StorageError", "StorageFull", "Writer"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")
#: Changes the database, and notes what to tell subscribers.
Job = Callable[[sqlite3.Connection, "list[Event]"], T]

_MAX_BATCH = 200
_CLOSE = 10.0
#: Seconds without a job after which the writer tidies up.
_QUIET = 0.05
#: With so many jobs done since, it tidies up in between.
_MAX_BEHIND = 2000
#: What SQLite says when the disk is full: of the database or its log, and of the index of the log.
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


class StorageError(Exception):
    """The database cannot be written, or the store is closed; the text says why."""


class StorageFull(StorageError):
    """The disk is full."""


@attrs.frozen
class _Waiting:
    job: Job[Any]
    future: Future[Any]


class Writer:
    """Runs jobs in a thread of its own. The thread begins with the first job and ends with `close`.

    Args:
        connect: Opens the connection that is written with; called in the thread.
        settle: A job that is done at the end of every transaction, and every `pause` seconds.
        publish: Called with the events of a transaction that was committed, and when one fails.
        pause: Seconds without a job after which `settle` runs; None: never.
        tidy: Work that is better done later, a piece at a call: while no job waits, or when it is far behind. Returns
            how much it has done, 0 when nothing is left.

    Attributes:
        problem: Why the last transaction failed; ``""`` when it did not.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        settle: Job[None],
        publish: Callable[[list[Event]], object],
        *,
        pause: float | None = None,
        tidy: Callable[[sqlite3.Connection], int] | None = None,
    ) -> None:
        self._connect = connect
        self._settle = settle
        self._publish = publish
        self._pause = pause
        self._tidy = tidy
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.problem: str = ""

    def submit(self, job: Job[T]) -> Future[T]:
        """Have a job done. The future has its result once that is committed.

        Raises:
            StorageError: The store is closed.
        """
        waiting = _Waiting(job, Future())
        with self._lock:
            if self._closed:
                raise StorageError("the store is closed")
            if self._thread is None:
                # Daemonic: a program that forgets to close the store ends all the same.
                self._thread = threading.Thread(target=self._run, name="trio-smtp inbox writer", daemon=True)
                self._thread.start()
            self._queue.put(waiting)
        return waiting.future

    def run(self, job: Job[T]) -> T:
        """Have a job done, and wait until it is committed.

        Raises:
            StorageFull: The disk is full; nothing was written.
            StorageError: The database cannot be written; likewise.
        """
        return self.submit(job).result()

    def close(self) -> None:
        """Do what was submitted, and end the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._queue.put(None)
        if thread is not None:
            thread.join(_CLOSE)

    def _run(self) -> None:
        try:
            connection = self._connect()
        except sqlite3.Error as error:
            self._refuse_all(error)
            return
        try:
            # What was left undone when the database was last closed.
            untidy, behind = self._tidy is not None, 0
            while (batch := self._next_batch(_QUIET if untidy else self._pause)) is not None:
                if batch:
                    untidy, behind = self._tidy is not None, behind + len(batch)
                if batch or not untidy:
                    self._write(connection, batch)
                if untidy and (not batch or behind > _MAX_BEHIND):
                    done = self._tidy_up(connection)
                    untidy, behind = done > 0, max(0, behind - done) if done else 0
        finally:
            connection.close()

    def _tidy_up(self, connection: sqlite3.Connection) -> int:
        assert self._tidy is not None
        try:
            with _transaction(connection):
                return self._tidy(connection)
        except sqlite3.Error as error:
            self._note(error)
            return 0

    def _refuse_all(self, error: sqlite3.Error) -> None:
        """Answer every job with the error, until the store is closed."""
        logger.error("the inbox cannot be written: %s", error)
        self.problem = str(error)
        while (waiting := self._queue.get()) is not None:
            waiting.future.set_exception(_explained(error))

    def _next_batch(self, seconds: float | None) -> list[_Waiting] | None:
        """Wait for jobs; an empty list when none has come for so many seconds, None at the end."""
        try:
            first = self._queue.get(timeout=seconds)
        except Empty:
            return []
        batch: list[_Waiting] = []
        while first is not None:
            batch.append(first)
            if len(batch) == _MAX_BATCH:
                return batch
            try:
                first = self._queue.get_nowait()
            except Empty:
                return batch
        if batch:
            self._queue.put(None)  # the end comes after these
        return batch or None

    def _write(self, connection: sqlite3.Connection, batch: list[_Waiting]) -> None:
        try:
            events: list[Event] = []
            with _transaction(connection):
                results = [waiting.job(connection, events) for waiting in batch]
                self._settle(connection, events)
        except Exception as error:
            if len(batch) > 1:
                # One of them is at fault, or there is no room for all: each in a transaction of its own.
                for waiting in batch:
                    self._write(connection, [waiting])
                return
            self._note(error)
            for waiting in batch:
                waiting.future.set_exception(_explained(error))
            return
        self.problem = ""
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result(result)
        if events:
            self._publish(events)

    def _note(self, error: Exception) -> None:
        if isinstance(error, sqlite3.Error):
            self.problem = str(_explained(error))
            logger.error("the inbox cannot be written: %s", self.problem)
            self._publish([Event("stats")])  # subscribers show the problem


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has rolled back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


def _explained(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    if getattr(error, "sqlite_errorcode", None) in _FULL:
        return StorageFull("the disk is full")
    return StorageError(str(error))
