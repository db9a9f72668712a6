"""The store: limits, events, what is kept over a restart and a kill, and what it does when it cannot write."""

from __future__ import annotations

import gc
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from trio_smtp.inbox import Inbox
from trio_smtp.inbox.store import (
    Event,
    StorageError,
    StorageFull,
    Store,
    Summary,
    Totals,
    changes,
    database,
    events,
    parse_query,
    writer,
)
from trio_smtp.inbox.store.store import Limits

from .support import arrival, mail, put


def subjects(inbox: Inbox, query: str = "") -> list[str]:
    return [row.headline.subject for row in inbox.store.page(parse_query(query) or None).rows]


# Limits


def test_the_oldest_messages_go_first() -> None:
    with Inbox(max_messages=3) as inbox:
        for number in range(5):
            put(inbox, mail(f"Number {number}"))
        assert subjects(inbox) == ["Number 4", "Number 3", "Number 2"]
        assert inbox.store.totals() == Totals(3, 3, 0)


def test_failures_do_not_push_messages_out() -> None:
    with Inbox(max_messages=2) as inbox:
        put(inbox, mail("Kept"))
        for number in range(4):
            put(inbox, mail(f"Bad {number}"), state="refused")
        assert subjects(inbox) == ["Kept"]
        assert inbox.store.totals() == Totals(1, 1, 2)


def test_size_is_bounded() -> None:
    with Inbox(max_size=1_048_576) as inbox:
        for number in range(30):
            put(inbox, mail(f"Number {number}", "x" * 100_000))
        kept = inbox.store.page().count
        assert 1 <= kept < 11
        assert subjects(inbox)[0] == "Number 29"
        # A quarter more for the index and free pages, and the log that SQLite writes ahead.
        assert inbox.store.path.stat().st_size < 4 * 1_048_576
        with pytest.raises(StorageFull, match="larger than the inbox"):
            put(inbox, b"x" * 1_048_577)


def test_the_newest_message_stays_even_when_it_alone_is_too_much() -> None:
    with Inbox(max_size=1_048_576) as inbox:
        put(inbox, mail("Small"))
        put(inbox, mail("Large", "word " * 209_000))
        assert subjects(inbox) == ["Large"]


def test_age_is_bounded_without_new_messages() -> None:
    with Inbox(max_age=0.3) as inbox:
        put(inbox, created=time.time() - 100)
        assert inbox.store.totals().total == 0
        put(inbox, created=time.time())
        deadline = time.monotonic() + 10
        while inbox.store.totals().total:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(
    "options", [{"max_messages": 0}, {"max_size": 1000}, {"max_age": 0}, {"max_age": -1.5}, {"relay": "http://x"}]
)
def test_limits_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|is written"):
        Inbox(**options)


# Files


def test_a_temporary_database_is_private_and_goes() -> None:
    inbox = Inbox()
    path = inbox.store.path
    assert inbox.store.temporary
    assert path.parent.stat().st_mode & 0o777 == 0o700
    put(inbox)
    inbox.close()
    assert not path.parent.exists()


def test_a_forgotten_inbox_takes_its_file_with_it() -> None:
    inbox = Inbox()
    path = inbox.store.path
    put(inbox)
    del inbox
    gc.collect()
    assert not path.parent.exists()


def test_a_database_is_kept(tmp_path: Path) -> None:
    with Inbox(tmp_path / "mail.db") as inbox:
        row = put(inbox, mail("Kept", "needle"))
        assert not inbox.store.temporary
    with Inbox(tmp_path / "mail.db") as inbox:
        assert subjects(inbox, "needle") == ["Kept"]
        assert inbox.store.octets(row.id) == mail("Kept", "needle")


def test_texts_that_were_not_indexed_yet_are_indexed_later(tmp_path: Path) -> None:
    with Inbox(tmp_path / "mail.db") as inbox:
        for _ in range(120):
            put(inbox, mail(text="needle"))
    with Inbox(tmp_path / "mail.db") as inbox:
        put(inbox, mail("last"))
        wait_for_index(inbox.store)
        assert inbox.store.page(parse_query("needle")).count == 120


def wait_for_index(store: Store) -> None:
    deadline = time.monotonic() + 20
    with sqlite3.connect(store.path) as connection:
        while connection.execute("SELECT indexed < (SELECT IFNULL(MAX(seq), 0) FROM words) FROM progress").fetchone()[
            0
        ]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    connection.close()


def test_the_index_is_made_anew_when_most_of_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_MAX_STALE", 5)
    with Inbox(max_messages=4) as inbox:
        for number in range(20):
            put(inbox, mail(text=f"needle{number} common"))
            wait_for_index(inbox.store)
        with sqlite3.connect(inbox.store.path) as connection:
            (stale,) = connection.execute("SELECT stale FROM progress").fetchone()
            (docs,) = connection.execute("SELECT COUNT(*) FROM words_index_docsize").fetchone()
        connection.close()
        assert stale <= 6
        assert docs <= 10
        assert inbox.store.page(parse_query("common")).count == 4
        assert inbox.store.page(parse_query("needle0")).count == 0


def test_files_that_are_no_inbox(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database, but some text that is long enough to be looked at by SQLite" * 50)
    with pytest.raises(ValueError, match="is no database"):
        Inbox(text)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(ValueError, match="is not a database of this version's inbox"):
        Inbox(other)
    with pytest.raises(OSError, match="cannot open the database"):
        Inbox(tmp_path / "nowhere" / "mail.db")


def test_a_broken_temporary_database_leaves_no_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> bool:
        raise sqlite3.OperationalError("unable")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("trio_smtp.inbox.store.store.create", fail)
    with pytest.raises(OSError, match="unable"):
        Inbox()
    assert list(tmp_path.iterdir()) == []


def test_sqlite_without_trigrams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_TRIGRAMS", "CREATE VIRTUAL TABLE words_index USING nothing")
    with Inbox() as inbox:
        put(inbox, mail("One", "needle"))
        put(inbox, mail("Two"))
        assert subjects(inbox, "needle") == ["One"]
        inbox.store.delete([row.id for row in inbox.store.page(parse_query("needle")).rows])
        assert subjects(inbox) == ["Two"]
        inbox.store.delete(None)
        assert subjects(inbox) == []


WRITER = """
import sys
from trio_smtp.inbox import Inbox
from tests.inbox.support import mail, put
inbox = Inbox(sys.argv[1], max_messages=100_000)
number = 0
while True:
    put(inbox, mail(f"Number {number}"))
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    path = tmp_path / "mail.db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 50:
                process.send_signal(signal.SIGKILL)
                break
        last = max([50, *map(int, process.stdout.read().split())])
    with Inbox(path, max_messages=100_000) as inbox:
        shown = inbox.store.page(limit=100_000)
        numbers = sorted(int(row.headline.subject.split()[1]) for row in shown.rows)
    # One more may be there: it was committed, and the writer killed before it could say so.
    assert numbers in ([*range(last + 1)], [*range(last + 2)])


# Events


@pytest.fixture
def told(inbox: Inbox) -> Iterator[list[Event]]:
    """What the inbox tells of changes."""
    collected: list[Event] = []

    def wake() -> None:
        collected.extend(subscription.take())

    with inbox.store.events.subscribe(wake) as subscription:
        yield collected


def kinds(told: list[Event]) -> list[str]:
    found: list[str] = [event.type for event in told]
    told.clear()
    return found


def test_every_change_is_told(inbox: Inbox, told: list[Event]) -> None:
    row = put(inbox)
    assert [type(event.data) for event in told] == [Summary, type(None)]
    assert kinds(told) == ["new", "stats"]
    inbox.store.mark([row.id], read=True)
    assert told[0] == Event("update", {"ID": row.id, "Read": True})
    assert kinds(told) == ["update", "stats"]
    inbox.store.mark([row.id], read=True)
    assert kinds(told) == []
    inbox.store.set_tags([row.id], ["b", "A"])
    assert told[0] == Event("update", {"ID": row.id, "Tags": ["A", "b"]})
    assert kinds(told) == ["update", "stats"]
    assert inbox.store.rename_tag("a", "c")
    assert not inbox.store.rename_tag("nothing", "c")
    assert inbox.store.delete_tag("b")
    assert not inbox.store.delete_tag("b")
    assert kinds(told) == ["prune", "stats", "prune", "stats"]
    inbox.store.delete([row.id])
    assert kinds(told) == ["delete", "stats"]
    inbox.store.delete(None)
    assert kinds(told) == ["truncate", "stats"]


def test_many_changes_are_told_as_one(inbox: Inbox, told: list[Event]) -> None:
    for _ in range(101):
        put(inbox)
    told.clear()
    inbox.store.mark(None, read=True)
    assert kinds(told) == ["prune", "stats"]
    inbox.store.delete(parse_query("is:read"))
    assert kinds(told) == ["prune", "stats"]


def test_a_subscriber_that_sleeps_is_told_to_look_anew(inbox: Inbox) -> None:
    with inbox.store.events.subscribe(lambda: None) as subscription:
        inbox.store.events.publish([Event("stats")] * 1001)
        assert subscription.take() == [Event("prune")]
        assert subscription.take() == []


def test_a_subscriber_whose_loop_has_ended_is_forgotten(inbox: Inbox) -> None:
    def wake() -> None:
        raise RuntimeError("Event loop is closed")

    inbox.store.events.subscribe(wake)
    put(inbox)
    assert len(inbox.store.events) == 0


def test_subscribers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MAX_SUBSCRIBERS", 1)
    made = events.Events()
    made.subscribe(lambda: None)
    with pytest.raises(events.TooManySubscribers):
        made.subscribe(lambda: None)


# Threads, and writing


def test_many_threads_write_and_read_at_once(inbox: Inbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda number: put(inbox, mail(f"Number {number}")), range(100)))
        found = list(pool.map(lambda row: inbox.store.find(row.id), rows))
        list(pool.map(lambda _: inbox.store.page(parse_query("number")), range(20)))
    assert found == rows
    assert inbox.store.totals().total == 100


def test_one_job_that_fails_does_not_fail_the_others(inbox: Inbox) -> None:
    put(inbox)
    gate = threading.Event()

    def wait(*_: object) -> None:
        gate.wait(10)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    first = inbox.store._writer.submit(wait)  # noqa: SLF001 - so that the others come together
    bad = inbox.store._writer.submit(fail)  # noqa: SLF001
    good = inbox.store._writer.submit(lambda *_: 5)  # noqa: SLF001
    gate.set()
    first.result(10)
    with pytest.raises(ZeroDivisionError):
        bad.result(10)
    assert good.result(10) == 5
    assert inbox.store.problem == ""


def test_batches_are_bounded_and_closing_does_what_was_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_MAX_BATCH", 3)
    inbox = Inbox()
    gate = threading.Event()
    inbox.store._writer.submit(lambda *_: gate.wait(10))  # noqa: SLF001
    futures = [inbox.store._writer.submit(lambda *_: None) for _ in range(7)]  # noqa: SLF001
    threading.Timer(0.1, gate.set).start()
    inbox.close()
    assert all(future.done() for future in futures)
    with pytest.raises(StorageError, match="closed"):
        put(inbox)


def test_a_writer_that_cannot_open_the_database(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    store = Store(tmp_path / "mail.db", Limits(messages=5, size=2**20, age=None))

    def fail(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(store._writer, "_connect", fail)  # noqa: SLF001
    for _ in range(2):
        with pytest.raises(StorageError, match="unable to open"):
            store.add(arrival())
    assert store.problem == "unable to open database file"
    store.close()
    assert "the inbox cannot be written: unable to open database file" in caplog.text


def test_reading_a_database_that_breaks(inbox: Inbox) -> None:
    put(inbox)
    inbox.store._writer.run(lambda connection, _: connection.execute("DROP TABLE octets"))  # noqa: SLF001
    with pytest.raises(StorageError, match="no such table"):
        inbox.store.octets("x")


def test_few_connections_are_kept_for_the_next_readers(inbox: Inbox) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(inbox.store._reading())  # noqa: SLF001 - six readers at once
    assert len(inbox.store._readers) == 4  # noqa: SLF001


def test_reading_when_no_connection_can_be_had(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("too many open files")

    monkeypatch.setattr("trio_smtp.inbox.store.store.connect", fail)
    with pytest.raises(StorageError, match="too many open files"):
        inbox.store.totals()


def test_tidying_that_fails_is_in_the_log(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    inbox.store._writer.run(lambda connection, _: connection.execute("ALTER TABLE progress RENAME TO lost"))  # noqa: SLF001
    deadline = time.monotonic() + 10
    while "no such table" not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.01)
    assert inbox.store.problem


def test_a_connection_that_cannot_be_set_up_is_closed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" * 5000)
    with pytest.raises(sqlite3.DatabaseError):
        database.create(tmp_path / "text", durable=True)


def test_the_index_is_made_in_between_when_it_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_MAX_BEHIND", 10)
    monkeypatch.setattr(writer, "_QUIET", 1000)
    with Inbox() as inbox:
        for _ in range(70):
            put(inbox, mail(text="needle"))
        with sqlite3.connect(inbox.store.path) as connection:
            (indexed,) = connection.execute("SELECT indexed FROM progress").fetchone()
        connection.close()
        assert indexed >= 50
        assert inbox.store.page(parse_query("needle")).count == 70
