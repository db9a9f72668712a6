"""Files of several tasks that are committed together: what is on the disk, whatever fails and whoever is cancelled."""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from trio_smtp.delivery import _committer
from trio_smtp.delivery._committer import MAX_FILES, Commit, Committer, commit_together, committer_of
from trio_smtp.delivery._files import NewFile

from .maildir_support import is_directory

CALLS = ("open", "writev", "fsync", "close", "rename")


@attrs.define(eq=False)
class Place:
    """Directories that files go to, by way of one in which they are written."""

    root: Path
    numbers: Iterator[int] = attrs.field(factory=itertools.count)

    def files(self, *directories: str, octets: int = 10) -> list[NewFile]:
        """The files of one commit, one for each directory."""
        name = str(next(self.numbers))
        made = []
        for directory in directories or ("new",):
            (self.root / directory).mkdir(exist_ok=True)
            (self.root / "tmp").mkdir(exist_ok=True)
            file = NewFile(f"{self.root}/tmp/{directory}-{name}", f"{self.root}/{directory}", name)
            file.hold([name.encode() + b"\n", bytearray(b"x" * octets)])
            made.append(file)
        return made

    def is_there(self, files: Sequence[NewFile]) -> bool:
        """Whether all files of a commit are where they belong, or none of them anywhere; each of them whole."""
        there = [path for file in files if (path := Path(file.directory, file.name)).exists()]
        assert len(there) in (0, len(files))
        for path in there:
            head, _, body = path.read_bytes().partition(b"\n")
            assert head == path.name.encode()
            assert body
            assert not body.strip(b"x")
        return bool(there)

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.root / "tmp").iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@attrs.define(eq=False)
class System:
    """Notes the calls on files, and lets some of them fail."""

    root: Path
    calls: list[str] = attrs.field(factory=list)
    fails: Callable[[str, int], bool] = lambda name, number: False
    error: int = errno.EIO
    open: set[int] = attrs.field(factory=set)
    most_open: int = 0

    def call(self, name: str, real: Callable[..., Any], first: Any, *args: Any, **kwargs: Any) -> Any:
        ours = first in self.open if isinstance(first, int) else str(first).startswith(str(self.root))
        if not ours:
            return real(first, *args, **kwargs)
        called = f"{name} directory" if isinstance(first, int) and is_directory(first) else name
        self.calls.append(called)
        failing = self.fails(called, self.calls.count(called))
        if name == "close":  # as Linux does it: whatever the error, the descriptor is closed
            self.open.discard(first)
            real(first)
        if failing:
            raise OSError(self.error, os.strerror(self.error))
        # Nothing here needs what the disk has to survive a power cut.
        if name in ("close", "fsync"):
            return None
        result = real(first, *args, **kwargs)
        if name == "open":
            self.open.add(result)
            self.most_open = max(self.most_open, len(self.open))
        return result

    @contextmanager
    def at_work(self) -> Iterator[System]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, partial(self.call, name, getattr(os, name)))
            yield self
        assert self.open == set()


class Gate:
    """Holds the next batch up in its thread until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.begun = trio.Event()
        self._open = threading.Event()
        self._real = commit_together
        token = trio.lowlevel.current_trio_token()

        def gated(commits: Sequence[Commit]) -> None:
            self.batches.append(len(commits))
            token.run_sync_soon(self.begun.set)
            assert self._open.wait(30)
            self._real(commits)

        monkeypatch.setattr(_committer, "commit_together", gated)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def gate(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


@asynccontextmanager
async def committing(
    committer: Committer, *commits: Sequence[NewFile], begun: trio.Event | None = None
) -> AsyncIterator[list[object]]:
    """Commit all of them, each in a task of its own; gives how each has ended, in the order of the commits.

    The first is in a batch of its own where an event says that this has begun.
    """
    ended: list[object] = [None] * len(commits)

    async def commit(index: int, files: Sequence[NewFile]) -> None:
        try:
            await committer.commit(files)
            ended[index] = "committed"
        except (OSError, RuntimeError, ArithmeticError, MemoryError, KeyboardInterrupt) as error:
            ended[index] = error

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for index, files in enumerate(commits):
                nursery.start_soon(commit, index, files)
                await trio.testing.wait_all_tasks_blocked()
                if begun is not None:
                    await begun.wait()
            yield ended


# --- batches ---


async def test_what_waits_while_a_batch_is_under_way_is_the_next_batch(place: Place, gate: Gate) -> None:
    commits = [place.files() for _ in range(12)]
    async with committing(Committer(), *commits, begun=gate.begun):
        gate.open()
    assert gate.batches == [1, 11]
    assert all(map(place.is_there, commits))
    assert place.left() == []


async def test_one_alone_is_committed_by_one_call_in_a_thread(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    committer, files, hops = Committer(), place.files(), []
    run_sync = trio.to_thread.run_sync

    async def count(function: Callable[..., object], *args: Any, **kwargs: Any) -> object:
        hops.append(function)
        return await run_sync(function, *args, **kwargs)

    monkeypatch.setattr(trio.to_thread, "run_sync", count)
    with System(place.root).at_work() as system:
        await committer.commit(files)
    assert len(hops) == 1
    assert system.calls == [
        *("open", "writev", "fsync", "close", "open", "rename"),
        *("fsync directory", "close directory"),
    ]
    assert place.is_there(files)


async def test_a_batch_waits_for_those_of_the_last_to_come_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every second batch is the one that waited alone while the others had theirs."""
    found: list[int] = []
    committer, all_wait = Committer(), trio.Event()
    come_back = threading.Event()
    token = trio.lowlevel.current_trio_token()

    def note(commits: Sequence[Commit]) -> None:
        found.append(len(commits))
        if len(found) == 1:
            token.run_sync_soon(all_wait.set)
            assert come_back.wait(30)
        commit_together(commits)
        time.sleep(0.1)

    async def commit_twice() -> None:
        await committer.commit(place.files())
        await committer.commit(place.files())

    monkeypatch.setattr(_committer, "commit_together", note)
    monkeypatch.setattr(_committer, "MAX_PATIENCE", 30)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit_twice)
            await all_wait.wait()
            nursery.start_soon(commit_twice)
            nursery.start_soon(commit_twice)
            await trio.testing.wait_all_tasks_blocked()
            come_back.set()
    # The last two wait as long as the batch before took, in vain: the third has done.
    assert found == [1, 3, 2]
    assert len(list((place.root / "new").iterdir())) == 6


async def test_one_that_comes_alone_waits_for_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_committer, "MAX_PATIENCE", 30)
    committer = Committer()
    with trio.fail_after(20):
        for _ in range(20):
            await committer.commit(place.files())


async def test_the_steps_of_a_batch_are_taken_together(place: Place) -> None:
    commits = [Commit(place.files("new", "other")) for _ in range(10)]
    with System(place.root).at_work() as system:
        commit_together(commits)
    calls = [call for call in system.calls if call != "close"]
    assert [(name, len(list(group))) for name, group in itertools.groupby(calls[:-4])] == [
        *[("open", 1), ("writev", 1)] * 20,
        ("fsync", 20),
        *[("open", 1), ("rename", 1), ("open", 1), ("rename", 19)],
    ]
    # These run at the same time.
    assert sorted(calls[-4:]) == ["close directory"] * 2 + ["fsync directory"] * 2
    assert all(place.is_there(commit.files) and commit.settled and commit.error is None for commit in commits)


async def test_syncs_run_at_the_same_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other would each wait for a journal of its own."""
    fsync, meeting = os.fsync, threading.Barrier(_committer.MAX_SYNCS)

    def meet(file: int) -> None:
        if not is_directory(file):
            meeting.wait(30)
        fsync(file)

    monkeypatch.setattr(os, "fsync", meet)
    commits = [Commit(place.files()) for _ in range(3 * _committer.MAX_SYNCS)]
    commit_together(commits)
    assert all(place.is_there(commit.files) for commit in commits)


async def test_a_thread_that_cannot_be_started_is_done_without(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_committer, "start_thread_soon", no_thread)
    commits = [Commit(place.files()) for _ in range(5)]
    commit_together(commits)
    assert all(place.is_there(commit.files) for commit in commits)


async def test_threads_that_come_too_late_have_nothing_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Callable[[], object]] = []
    monkeypatch.setattr(_committer, "start_thread_soon", lambda function, deliver: late.append(function))
    commits = [Commit(place.files()) for _ in range(5)]
    commit_together(commits)
    assert all(place.is_there(commit.files) for commit in commits)
    assert len(late) == 4
    for function in late:
        function()


@pytest.mark.parametrize(
    ("limits", "octets", "batches"),
    [
        ({"max_files": 4}, 10, [1, 4, 4, 2]),
        ({"max_files": 1}, 10, [1] * 11),
        ({"max_octets": 60}, 18, [1, 3, 3, 3, 1]),
    ],
)
async def test_a_batch_has_limits(
    place: Place, gate: Gate, limits: dict[str, int], octets: int, batches: list[int]
) -> None:
    commits = [place.files(octets=octets) for _ in range(10)] + [place.files(octets=octets - 1)]
    async with committing(Committer(**limits), *commits, begun=gate.begun):
        gate.open()
    assert gate.batches == batches
    assert all(map(place.is_there, commits))


@pytest.mark.parametrize("limits", [{"max_octets": 50}, {"max_files": 1}], ids=str)
async def test_a_large_commit_holds_up_no_other(place: Place, monkeypatch: pytest.MonkeyPatch, limits: Any) -> None:
    """It writes and syncs in a call of its own, so that only names are left for its batch."""
    large = place.files("new", "other", octets=100)
    steps: list[tuple[str, int]] = []
    real = commit_together

    def note(commits: Sequence[Commit]) -> None:
        steps.extend(("batch", sum(len(file.parts) for file in commit.files)) for commit in commits)
        steps.extend(("batch", commit.octets) for commit in commits)
        real(commits)

    monkeypatch.setattr(_committer, "commit_together", note)
    with System(place.root).at_work() as system:
        await Committer(**limits).commit(large)
    assert steps == [("batch", 0), ("batch", 0)]
    assert system.calls[:8] == ["open", "writev"] * 2 + ["fsync", "close"] * 2
    assert place.is_there(large)


@pytest.mark.parametrize("call", ["open", "writev", "fsync", "close"])
async def test_a_large_commit_that_fails_by_itself_leaves_nothing(place: Place, call: str) -> None:
    files = place.files("new", "other", octets=100)
    system = System(place.root, fails=lambda name, number: name == call and number == 2)
    with system.at_work(), pytest.raises(OSError, match="Input/output"):
        await Committer(max_octets=50).commit(files)
    assert not place.is_there(files)
    assert place.left() == []


async def test_files_that_were_written_before_are_renamed(place: Place) -> None:
    (file,) = place.files()
    file.write_parts()
    file.write([b"xx"])
    await Committer().commit([file])
    assert place.is_there([file])
    assert file.place is None


async def test_each_event_loop_and_each_file_system_has_a_committer_of_its_own() -> None:
    assert committer_of(1) is committer_of(1)
    assert committer_of(1) is not committer_of(2)

    async def elsewhere() -> Committer:
        return committer_of(1)

    assert await trio.to_thread.run_sync(trio.run, elsewhere) is not committer_of(1)


@pytest.mark.parametrize("how", ["held", "written before"])
async def test_a_commit_of_very_many_files_takes_few_descriptors(place: Place, how: str) -> None:
    files = place.files(*(f"new{n}" for n in range(200)))
    with System(place.root).at_work() as system:
        if how == "written before":
            for file in files:
                file.write_parts()
                file.sync()
        await Committer().commit(files)
    assert system.most_open <= MAX_FILES
    assert place.is_there(files)
    assert place.left() == []


@pytest.mark.parametrize("call", [*CALLS, "fsync directory", "close directory"])
@pytest.mark.parametrize("number", [1, 64, 65, 200])
async def test_a_commit_of_very_many_files_is_stored_as_a_whole_or_not_at_all(
    place: Place, call: str, number: int
) -> None:
    files = place.files(*(f"new{n}" for n in range(200)))
    system = System(place.root, fails=lambda name, count: name == call and count == number)
    with system.at_work(), pytest.raises(OSError, match="Input/output"):
        await Committer().commit(files)
    assert not place.is_there(files)
    assert place.left() == []


# --- the n-th call fails ---


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("call", [*CALLS, "fsync directory", "close directory"])
@pytest.mark.parametrize("size", [1, 2, 7, 20])
@pytest.mark.parametrize("directories", [("new",), ("new", "other")], ids=" ".join)
async def test_the_nth_call_of_a_batch_fails(
    place: Place, directories: tuple[str, ...], size: int, call: str, lasting: bool
) -> None:
    for n in itertools.count(1):
        commits = [Commit(place.files(*directories)) for _ in range(size)]
        hit = False

        def fails(name: str, number: int, n: int = n) -> bool:
            nonlocal hit
            failing = name == call and (number >= n if lasting else number == n)
            hit = hit or failing
            return failing

        with System(place.root, fails=fails).at_work():
            commit_together(commits)
        failed = [commit for commit in commits if commit.error is not None]
        assert all(commit.settled for commit in commits)
        assert all(isinstance(commit.error, OSError) for commit in failed)
        # Acknowledged is the same as there, and nothing is left of the others.
        assert all(place.is_there(commit.files) == (commit.error is None) for commit in commits)
        assert place.left() == []
        if not hit:
            assert failed == []
            break
        if "directory" in call:
            assert len(failed) == size
        elif not lasting and (call != "open" or n <= size * len(directories)):
            assert len(failed) == 1
        else:
            assert failed
    assert n > 1


async def test_a_directory_that_cannot_be_synced_is_the_failure_of_its_own_files(place: Place) -> None:
    here, elsewhere, both = (
        [Commit(place.files(*directories)) for _ in range(3)] for directories in (["a"], ["b"], ["a", "b"])
    )
    fsync = os.fsync

    def fail(file: int) -> None:
        if is_directory(file) and os.path.samestat(os.fstat(file), (place.root / "a").stat()):
            raise OSError(errno.EIO, "Input/output error")
        fsync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        commit_together([*here, *elsewhere, *both])
    assert [place.is_there(commit.files) for commit in (*here, *elsewhere, *both)] == [False] * 3 + [True] * 3 + [
        False
    ] * 3
    assert place.left() == []


async def test_a_failure_that_is_no_error_of_the_system_is_raised_where_it_belongs(
    place: Place, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    commits = [place.files() for _ in range(4)]
    monkeypatch.setattr(NewFile, "write_parts", lambda file: 1 / 0 if file.name == "2" else file.write(file.parts))
    async with committing(Committer(), *commits, begun=gate.begun) as ended:
        gate.open()
    assert [type(each) for each in ended] == [str, str, ZeroDivisionError, str]
    assert [place.is_there(files) for files in commits] == [True, True, False, True]


# --- cancellation ---


async def test_a_commit_that_is_cancelled_before_its_batch_is_taken_out(place: Place, gate: Gate) -> None:
    committer, waiting = Committer(), place.files()
    others = [place.files() for _ in range(3)]
    async with committing(committer, *others, begun=gate.begun):
        with trio.move_on_after(0.01) as scope:
            await committer.commit(waiting)
        assert scope.cancelled_caught
        gate.open()
    assert gate.batches == [1, 2]
    assert not place.is_there(waiting)
    assert waiting[0].place is None
    assert all(map(place.is_there, others))


async def test_a_commit_that_is_cancelled_already_does_nothing(place: Place) -> None:
    files = place.files()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Committer().commit(files)
    assert scope.cancelled_caught
    assert not place.is_there(files)


@pytest.mark.parametrize("leads", [True, False])
async def test_a_commit_that_is_cancelled_in_its_batch_is_committed(
    place: Place, monkeypatch: pytest.MonkeyPatch, leads: bool
) -> None:
    committer, files, others = Committer(), place.files(), [place.files() for _ in range(0 if leads else 2)]
    scope, returned, token = trio.CancelScope(), trio.Event(), trio.lowlevel.current_trio_token()
    # A batch of ours or of the first of the others, and in the end the one in which ours follows.
    gates = [threading.Event() for _ in range(1 if leads else 2)]
    begun = [trio.Event() for _ in gates]
    steps = iter(zip(gates, begun, strict=True))

    def hold(commits: Sequence[Commit]) -> None:
        gate, event = next(steps)
        token.run_sync_soon(event.set)
        assert gate.wait(30)
        commit_together(commits)

    async def commit() -> None:
        with scope:
            await committer.commit(files)
            returned.set()
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(_committer, "commit_together", hold)
    first = None if leads else begun[0]
    async with committing(committer, *others, begun=first), trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        await trio.testing.wait_all_tasks_blocked()
        for gate in gates[:-1]:
            gate.set()
        await begun[-1].wait()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not returned.is_set()
        gates[-1].set()
        await returned.wait()
    assert scope.cancelled_caught
    assert place.is_there(files)
    assert all(map(place.is_there, others))


async def test_all_are_cancelled_at_once(place: Place, gate: Gate) -> None:
    """The batch that is under way is committed, the others are not, and nobody waits for ever."""
    committer = Committer()
    commits = [place.files() for _ in range(10)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for files in commits:
                nursery.start_soon(committer.commit, files)
                await trio.testing.wait_all_tasks_blocked()
                await gate.begun.wait()
            nursery.cancel_scope.cancel()
            gate.open()
    assert gate.batches == [1]
    assert [place.is_there(files) for files in commits] == [True] + [False] * 9
    assert place.left() == []
    await committer.commit(more := place.files())
    assert place.is_there(more)


# --- a leader that fails ---


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), KeyboardInterrupt(), MemoryError()], ids=repr
)
@pytest.mark.parametrize("lasting", [False, True])
async def test_a_leader_that_fails_lets_the_others_go_on(
    place: Place, gate: Gate, error: BaseException, lasting: bool
) -> None:
    commits = [place.files() for _ in range(5)]
    committer, run_sync, calls = Committer(), trio.to_thread.run_sync, 0

    async def fail(*args: Any, **kwargs: Any) -> object:
        nonlocal calls
        calls += 1
        if lasting or calls == 1:
            raise error
        return await run_sync(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        async with committing(committer, *commits, begun=gate.begun) as ended:
            patch.setattr(trio.to_thread, "run_sync", fail)
            gate.open()
    expected = ["committed", error] + ([error] * 3 if lasting else ["committed"] * 3)
    assert ended == expected
    assert [place.is_there(files) for files in commits] == [each == "committed" for each in expected]
    await committer.commit(more := place.files())
    assert place.is_there(more)


async def test_a_batch_that_fails_before_its_first_step_is_tried_by_the_others(place: Place, gate: Gate) -> None:
    commits, error = [place.files() for _ in range(5)], MemoryError()
    with pytest.MonkeyPatch.context() as patch:
        async with committing(Committer(), *commits, begun=gate.begun) as ended:
            failures = iter([error, error])

            def fail(commits: Sequence[Commit]) -> None:
                for each in failures:
                    raise each
                commit_together(commits)

            patch.setattr(_committer, "commit_together", fail)
            gate.open()
    assert ended == ["committed", error, error, "committed", "committed"]
    assert [place.is_there(files) for files in commits] == [True, False, False, True, True]


def test_an_event_loop_that_fails_lets_the_batch_end(tmp_path: Path) -> None:
    place, begun, opened = Place(tmp_path), threading.Event(), threading.Event()
    first, second = place.files(), place.files()

    def hold(commits: Sequence[Commit]) -> None:
        begun.set()
        assert opened.wait(30)
        commit_together(commits)

    def fail() -> None:
        raise ZeroDivisionError

    async def commit_second(committer: Committer) -> None:
        try:
            await committer.commit(second)
        finally:
            opened.set()  # the first batch ends when the failure has reached the second message

    async def main() -> None:
        committer = Committer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.commit, first)
            await trio.to_thread.run_sync(begun.wait)  # the second comes too late for this batch
            nursery.start_soon(commit_second, committer)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.current_trio_token().run_sync_soon(fail)
            await trio.sleep_forever()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_committer, "commit_together", hold)
        with pytest.raises(trio.TrioInternalError):
            trio.run(main)
    assert place.is_there(first)
    assert not place.is_there(second)
    assert place.left() == []


# --- chance ---


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_acknowledged_is_there(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    committer = Committer(max_files=chance.choice([1, 3, 64]), max_octets=chance.choice([2000, 1_048_576]))
    commits = [
        place.files(*chance.choice([("a",), ("b",), ("a", "b")]), octets=chance.choice([1, 500, 5000]))
        for _ in range(60)
    ]
    ended: dict[int, str] = {}

    async def commit(index: int) -> None:
        await trio.sleep(chance.uniform(0, 0.02))
        with trio.CancelScope(deadline=trio.current_time() + chance.choice([0, 0.001, 0.005, 0.02, 60])):
            try:
                await committer.commit(commits[index])
                ended[index] = "committed"
            except OSError:
                ended[index] = "failed"

    share = chance.choice([0, 0.01, 0.1])
    with System(place.root, fails=lambda *_: chance.random() < share).at_work(), trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for index in range(len(commits)):
                nursery.start_soon(commit, index)
        for index, files in enumerate(commits):
            if index not in ended:
                for file in files:  # as a delivery does that was cancelled
                    file.remove()
    for index, files in enumerate(commits):
        assert place.is_there(files) == (ended.get(index) == "committed")
    assert place.left() == []
    assert "committed" in ended.values()
