"""Files of several tasks, committed to the disk together.

A sync of the disk takes as long for twenty files as for one, and a call in a worker thread costs more than most calls
to the system. So the commits that wait at the same time are one batch, and one call in a worker thread does this:

1. The files of all are written.
2. All files are synced and closed.
3. All files are renamed into their directories.
4. Each directory is synced once.
5. What belongs to a commit that has failed is removed.

A commit of more files than a batch may have takes these steps with a part of its files after the other: each open file
and each open directory takes a descriptor, which the connections need too.

A failure is that of its own commit: the next steps leave that commit out. When a directory cannot be synced, every
commit of the batch fails that has a file in it.

A batch waits a moment for those to come again who were in the last one (see `Committer._run`).

No task in the background does this: the first task that waits leads. It runs the batch in which its own commit is,
wakes the others of that batch, and makes the task that has waited longest the next leader. A task in a nursery would be
cancelled together with the tasks that wait for it, and those would wait for ever.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import trio
from trio.lowlevel import Abort, start_thread_soon

from ._files import NewFile, open_directory, sync_directory

__all__ = [
    "MAX_FILES",
    "MAX_OCTETS",
    "MAX_PATIENCE",
    "MAX_SYNCS",
    "Commit",
    "Committer",
    "commit_together",
    "committer_of",
]

#: A batch has at most so many files.
MAX_FILES = 64
#: A batch writes at most so many octets.
MAX_OCTETS = 1_048_576
#: Seconds that a batch waits at most for others to come.
MAX_PATIENCE = 0.005
#: So many threads sync at the same time.
MAX_SYNCS = 8

_Item = TypeVar("_Item")

_committers: trio.lowlevel.RunVar[dict[int, Committer]] = trio.lowlevel.RunVar("trio_smtp.delivery.committers")


def committer_of(device: int) -> Committer:
    """The committer of a file system; each event loop, and so each process, has its own.

    Args:
        device: The file system's number, `os.stat_result.st_dev`. A disk that is slow holds up no other.
    """
    try:
        committers = _committers.get()
    except LookupError:
        committers = {}
        _committers.set(committers)
    try:
        return committers[device]
    except KeyError:
        return committers.setdefault(device, Committer())


class Commit:
    """The files of one task, all of which are committed, or none.

    Attributes:
        files: The files.
        octets: How much is to be written.
        task: The task that they belong to.
        settled: Whether the thread has done with it.
        error: Why it has failed.
    """

    __slots__ = ("error", "files", "octets", "settled", "task")

    def __init__(self, files: Sequence[NewFile]) -> None:
        self.files = files
        self.octets = sum(len(part) for file in files for part in file.parts)
        self.task = trio.lowlevel.current_task()
        self.settled = False
        self.error: BaseException | None = None

    def attempt(self, step: Callable[[], object]) -> None:
        """Run a step, whose failure is this commit's own."""
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - raised in the task that the commit belongs to
            self.error = error

    def fail(self, error: BaseException) -> None:
        """A step that several commits share has failed."""
        self.error = error

    def write(self) -> None:
        """Make and write the files that are still to be written."""
        _write(self.files)

    def write_and_sync(self) -> None:
        """Write, sync and close the files apart from a batch, in which only their names are left to do."""
        try:
            for part in _parts(self.files):
                _write(part)
                for file in part:
                    file.sync()
        except BaseException:
            self._remove_files()
            raise
        self.octets = 0

    def settle(self) -> None:
        """The thread has done with this commit: the files stay where they are, or are removed where it has failed."""
        if self.error is None:
            for file in self.files:
                file.release()
        else:
            self._remove_files()
        self.settled = True

    def raise_error(self) -> None:
        """Raise what the commit has failed with."""
        error, self.error = self.error, None  # the error's traceback holds the frames that hold this object
        if error is not None:
            try:
                raise error
            finally:
                del error  # as above: this frame is one of them

    def _remove_files(self) -> None:
        for file in self.files:
            file.remove()


class Committer:
    """Commits files of the tasks of one event loop.

    Args:
        max_files: A batch has at most so many files.
        max_octets: A batch writes at most so many octets.
    """

    def __init__(self, *, max_files: int = MAX_FILES, max_octets: int = MAX_OCTETS) -> None:
        self._max_files = max_files
        self._max_octets = max_octets
        #: In the order in which they came; whoever leads is not among them.
        self._waiting: dict[Commit, None] = {}
        self._led = False
        # The thread takes those who wait, and cancellation takes them out.
        self._lock = threading.Lock()
        #: How many may come: those of the last batch, and who waited when it ended.
        self._expected = 1
        #: Gets something when so many wait.
        self._enough = SimpleQueue[None]()
        #: How many seconds a batch waits for them.
        self._patience = 0.0
        # Of its own: other work of the program in threads does not hold up a commit.
        self._limiter = trio.CapacityLimiter(1)

    @trio.lowlevel.enable_ki_protection
    async def commit(self, files: Sequence[NewFile]) -> None:
        """Write files, sync them, rename them into their directories, and sync the directories.

        Files without `NewFile.parts` were written before: they are synced, unless they were, and renamed. A commit that
        is larger than a batch writes and syncs its files in a call of its own, so that it holds up no other.

        Args:
            files: All of them are there afterwards, or none is.

        Raises:
            OSError: A step has failed. The files were removed.

        Cancellation: until the batch begins that the files are in, the call raises `trio.Cancelled`; files that have a
        `NewFile.place` then are the caller's to remove. Afterwards the call waits until its batch has ended, which is
        bounded by the limits above, and does not raise `trio.Cancelled`. Who leads a batch is in it from the start.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        commit = Commit(files)
        if commit.octets > self._max_octets or len(files) > self._max_files:
            await trio.to_thread.run_sync(commit.write_and_sync)
        if self._led:
            await self._wait(commit)
        if not commit.settled:
            self._led = True
            await self._lead(commit)
        commit.raise_error()

    async def _wait(self, commit: Commit) -> None:
        """Wait until a leader has settled the commit, or it is this task's turn to lead."""

        def abort(_: object) -> Abort:
            with self._lock:
                if commit not in self._waiting:
                    return Abort.FAILED  # its batch has begun
                del self._waiting[commit]
            return Abort.SUCCEEDED

        with self._lock:
            self._waiting[commit] = None
        if len(self._waiting) + 1 >= self._expected:
            self._enough.put(None)
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self, commit: Commit) -> None:
        """Run the batch in which this commit is the first, and let the next task lead."""
        batch, self._enough = [commit], SimpleQueue[None]()
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._run, batch, limiter=self._limiter)
        finally:
            self._pass_on(batch[1:])

    def _run(self, batch: list[Commit]) -> None:
        """Add to the batch what is to be committed with its first, and settle it. Blocks.

        Those of a batch are answered at the same time, so that their clients' next messages come at nearly the same
        time. A batch that begins with the first of them, alone, takes as long as one of all, and all others wait for
        it. So it waits for as many as may come, no longer than the last batch took, and never where one comes at a
        time.
        """
        if len(self._waiting) + 1 < self._expected:
            with suppress(Empty):
                self._enough.get(timeout=self._patience)
        files, octets = len(batch[0].files), batch[0].octets
        with self._lock:
            for commit in list(self._waiting):
                files += len(commit.files)
                octets += commit.octets
                if files > self._max_files or octets > self._max_octets:
                    break
                del self._waiting[commit]
                batch.append(commit)
        start = time.perf_counter()
        commit_together(batch)
        self._patience = min(time.perf_counter() - start, MAX_PATIENCE)

    def _pass_on(self, batch: Sequence[Commit]) -> None:
        """Wake those whose commits are settled, and the next leader.

        Where the thread could not begin, the others of the batch are not settled: each of them tries it again.
        """
        self._expected = min(1 + len(batch) + len(self._waiting), self._max_files)
        unsettled = dict.fromkeys(commit for commit in batch if not commit.settled)
        self._waiting = {**unsettled, **self._waiting}
        for commit in batch:
            if commit.settled:
                trio.lowlevel.reschedule(commit.task)
        self._led = bool(self._waiting)
        if self._led:
            following = next(iter(self._waiting))
            del self._waiting[following]
            trio.lowlevel.reschedule(following.task)


def commit_together(commits: Sequence[Commit]) -> None:
    """Settle a batch. Blocks, and raises nothing: what fails is in the `error` of each."""
    for commit in commits:
        commit.attempt(commit.write)
    _at_once([partial(commit.attempt, file.sync) for commit in _sound(commits) for file in commit.files])
    for part in _parts([(commit, file) for commit in commits for file in commit.files]):
        _name(part)
    for commit in commits:
        commit.settle()


def _name(part: Sequence[tuple[Commit, NewFile]]) -> None:
    """Rename files into their directories, and sync these; what belongs to a commit that has failed is left out."""
    directories: dict[str, int] = {}
    inside: dict[str, dict[Commit, None]] = {}
    for commit, file in part:
        if commit.error is None:
            commit.attempt(partial(_rename, file, directories))
            inside.setdefault(file.directory, {})[commit] = None
    _at_once(
        [partial(_sync_and_close, opened, list(_sound(inside[directory]))) for directory, opened in directories.items()]
    )


def _parts(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[begin : begin + MAX_FILES] for begin in range(0, len(items), MAX_FILES))


def _write(files: Iterable[NewFile]) -> None:
    for file in files:
        if file.parts:
            file.write_parts()


def _sound(commits: Iterable[Commit]) -> Iterator[Commit]:
    return (commit for commit in commits if commit.error is None)


def _rename(file: NewFile, directories: dict[str, int]) -> None:
    """Rename a file. Its directory is opened once for many, and stays open until it is synced."""
    if file.directory not in directories:
        directories[file.directory] = file.with_directories(partial(open_directory, file.directory))
    file.rename(directories[file.directory])


def _sync_and_close(directory: int, commits: Sequence[Commit]) -> None:
    """Sync a directory with the files of these commits, all of which fail when that fails."""
    try:
        try:
            if commits:
                sync_directory(directory)
        finally:
            os.close(directory)
    except BaseException as error:  # noqa: BLE001 - raised in the tasks that the commits belong to
        for commit in commits:
            commit.fail(error)


def _at_once(steps: Sequence[Callable[[], object]]) -> None:
    """Run steps that raise nothing, in several threads; return when all have ended.

    File systems with a journal write it once for all syncs that wait at the same time. One after the other, each sync
    would wait for a journal of its own: on a busy machine that is ten times as long.
    """
    left, ended, own = deque(steps), SimpleQueue[None](), 0

    def help_with_them() -> None:
        while left:
            with suppress(IndexError):  # another thread was faster
                step = left.popleft()
                step()
                ended.put(None)

    for _ in range(min(len(steps), MAX_SYNCS) - 1):
        with suppress(RuntimeError):  # no thread can be started: this one runs what is left
            start_thread_soon(help_with_them, lambda _: None)
    while left:
        with suppress(IndexError):
            step = left.popleft()
            own += 1
            step()
    # A helper that came too late for a step is not waited for.
    for _ in range(len(steps) - own):
        ended.get()
