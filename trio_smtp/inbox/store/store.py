"""Store: messages in, lists and searches out."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from .changes import delete, delete_all, delete_tag, evict, index_some, mark, rename_tag, set_tags
from .database import connect, create
from .events import Event, Events
from .query import Query
from .records import Arrival, Page, Summary, Totals
from .rows import COLUMNS, insert, summary_of, tags_of
from .sql import condition
from .writer import StorageError, StorageFull, Writer

__all__ = ["Selection", "Store"]

#: What a change is for: messages by their ids, those that a search finds, or None for all.
Selection = Sequence[str] | Query | None

_IDLE_READERS = 4
#: `max_age` is looked at so often while no message comes, in seconds.
_LONGEST_PAUSE = 60.0


@attrs.frozen(kw_only=True)
class Limits:
    """How much is kept.

    Attributes:
        messages: So many accepted messages, and so many failures.
        size: Octets of the database, about.
        age: Seconds; None: for ever.
    """

    messages: int
    size: int
    age: float | None


class Store:
    """What was caught. All methods block for as long as the database takes, and may be called from any thread.

    Args:
        path: The database, which is kept; None: a private temporary one that is deleted by `close`, or when the
            interpreter ends.
        limits: How much is kept; the oldest goes first.
        trigrams: Make an index for searches in a new database, where SQLite can.

    Attributes:
        events: Tells of changes, after they were committed.
        path: The database.
        limits: How much is kept.

    Raises:
        ValueError: The file is no database of an inbox.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path | None, limits: Limits, *, trigrams: bool = True) -> None:
        self.limits: Limits = limits
        self.events: Events = Events()
        directory = None if path is not None else Path(tempfile.mkdtemp(prefix="trio-smtp-inbox-"))
        self.path: Path = path if directory is None else directory / "mail.db"  # type: ignore[assignment]
        self._durable = directory is None
        self._readers: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            self._trigrams = create(self.path, durable=self._durable, trigrams=trigrams)
        except sqlite3.DatabaseError as error:
            _remove(directory)
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(f"cannot open the database {self.path}: {error}") from error
            raise ValueError(f"{self.path} is no database") from error
        except ValueError:
            _remove(directory)
            raise
        writer = Writer(
            partial(connect, self.path, durable=self._durable),
            partial(_settle, limits=limits, trigrams=self._trigrams),
            self.events.publish,
            pause=None if limits.age is None else min(limits.age, _LONGEST_PAUSE),
            tidy=index_some if self._trigrams else None,
        )
        self._writer = writer
        self._close = weakref.finalize(self, _close, writer, self._readers, directory)

    def close(self) -> None:
        """Write what is under way, and close the database; a temporary one is deleted."""
        self._close()

    @property
    def problem(self) -> str:
        """Why nothing can be written now, such as ``"the disk is full"``; ``""`` when the last change went well."""
        return self._writer.problem

    @property
    def temporary(self) -> bool:
        """The database is deleted at the end."""
        return not self._durable

    # Changes

    def add(self, arrival: Arrival) -> Summary:
        """Keep a message. When this method returns, it is committed.

        Raises:
            StorageFull: The disk is full, or the message is larger than all that is kept.
            StorageError: The database cannot be written.
        """
        if len(arrival.octets) > self.limits.size:
            raise StorageFull("the message is larger than the inbox")
        return self._writer.run(partial(_add, arrival=arrival))

    def set_transcript(self, identifier: str, transcript: Sequence[object]) -> Future[None]:
        """Replace the lines of a dialogue, which has gone on. Does not wait.

        Raises:
            StorageError: The store is closed.
        """
        text = json.dumps(list(transcript))
        return self._writer.submit(partial(_set_transcript, identifier=identifier, text=text))

    def mark(self, selection: Selection, *, read: bool) -> None:
        """Mark messages as read or unread. Ids that are not there are passed over.

        Raises:
            StorageFull: The disk is full.
            StorageError: The database cannot be written.
        """
        self._change(partial(mark, read=read), selection)

    def delete(self, selection: Selection) -> None:
        """Delete messages; all and the failures too for None. Ids that are not there are passed over.

        Raises:
            StorageFull: The disk is full.
            StorageError: The database cannot be written.
        """
        if selection is None:
            self._writer.run(partial(delete_all, trigrams=self._trigrams))
        else:
            self._change(partial(delete, trigrams=self._trigrams), selection)

    def set_tags(self, identifiers: Sequence[str], tags: Sequence[str]) -> None:
        """Give messages these tags and no others."""
        self._change(partial(set_tags, tags=tags), identifiers)

    def rename_tag(self, tag: str, name: str) -> bool:
        """Give a tag another name, on all messages; returns whether it was there."""
        return self._writer.run(partial(rename_tag, tag=tag, name=name))

    def delete_tag(self, tag: str) -> bool:
        """Take a tag off all messages; returns whether it was there."""
        return self._writer.run(partial(delete_tag, tag=tag))

    def _change(self, change: Callable[..., None], selection: Selection) -> None:
        def job(connection: sqlite3.Connection, events: list[Event]) -> None:
            change(connection, events, _chosen(connection, selection, trigrams=self._trigrams))

        self._writer.run(job)

    # Looking

    def page(self, query: Query | None = None, *, start: int = 0, limit: int = 50) -> Page:
        """A part of the list of messages, newest first.

        Args:
            query: A search; None: all accepted messages.
            start: So many are left out.
            limit: The most that are given.
        """
        # The conditions are this package's own words; what people have typed is in the values.
        where, values = condition(query, trigrams=self._trigrams)
        with self._reading() as connection:
            if query is None:
                counts = connection.execute("SELECT messages, unread FROM totals WHERE accepted = 1").fetchone()
                rows = connection.execute(
                    f"SELECT {COLUMNS} FROM messages m WHERE {where} ORDER BY m.seq DESC LIMIT ? OFFSET ?",  # noqa: S608
                    [*values, limit, start],
                ).fetchall()
            else:
                # All that is found, once: it is needed to count, and a search takes longer than looking rows up.
                found = connection.execute(
                    f"SELECT m.seq, m.read FROM messages m WHERE {where} ORDER BY m.seq DESC",  # noqa: S608
                    values,
                ).fetchall()
                counts = len(found), sum(not read for _, read in found)
                rows = connection.execute(
                    f"SELECT {COLUMNS} FROM messages m WHERE m.seq IN (SELECT value FROM json_each(?))"  # noqa: S608
                    " ORDER BY m.seq DESC",
                    (json.dumps([seq for seq, _ in found[start : start + limit]]),),
                ).fetchall()
        return Page(tuple(map(summary_of, rows)), *counts)

    def latest(self, query: Query | None = None) -> Summary | None:
        """The newest message that a search finds; None: the newest of all."""
        where, values = condition(query, trigrams=self._trigrams)
        chosen = f"SELECT {COLUMNS} FROM messages m WHERE {where} ORDER BY m.seq DESC LIMIT 1"  # noqa: S608
        with self._reading() as connection:
            row = connection.execute(chosen, values).fetchone()
        return None if row is None else summary_of(row)

    def find(self, identifier: str) -> Summary | None:
        """The message of that id, whatever its state."""
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT {COLUMNS} FROM messages m WHERE m.id = ?",  # noqa: S608
                (identifier,),
            ).fetchone()
        return None if row is None else summary_of(row)

    def octets(self, identifier: str) -> bytes | None:
        """The message as it was sent."""
        found = self._one("SELECT o.octets FROM octets o JOIN messages m USING (seq) WHERE m.id = ?", identifier)
        return found if isinstance(found, bytes) else None

    def envelope(self, identifier: str) -> Any:
        """What was said before the message; None: it is not there."""
        text = self._one("SELECT d.envelope FROM dialogues d JOIN messages m USING (seq) WHERE m.id = ?", identifier)
        return None if text is None else json.loads(text)

    def transcript(self, identifier: str) -> Any:
        """The lines of the dialogue; None: the message is not there."""
        text = self._one("SELECT d.transcript FROM dialogues d JOIN messages m USING (seq) WHERE m.id = ?", identifier)
        return None if text is None else json.loads(text)

    def tags(self) -> dict[str, int]:
        """All tags, in order, and how many messages have each."""
        with self._reading() as connection:
            rows = connection.execute("SELECT MIN(name), COUNT(*) FROM tags GROUP BY words").fetchall()
        counts = dict(rows)
        return {name: counts[name] for name in tags_of(counts)}

    def mailboxes(self, most: int) -> dict[str, int]:
        """The recipients of accepted messages' envelopes, those with most messages first, and how many each has.

        Args:
            most: So many are given.
        """
        with self._reading() as connection:
            return dict(
                connection.execute(
                    "SELECT fold(json_extract(r.value, '$.Address')) AS name, COUNT(DISTINCT d.seq) AS messages"
                    " FROM messages m JOIN dialogues d USING (seq), json_each(d.envelope, '$.Recipients') r"
                    " WHERE m.state = 'accepted' GROUP BY name ORDER BY messages DESC, name LIMIT ?",
                    (most,),
                ).fetchall()
            )

    def beside(self, identifier: str, query: Query | None = None) -> tuple[str, str]:
        """The ids of the next newer and the next older message in the list of a search; ``""`` where there is none."""
        where, values = condition(query, trigrams=self._trigrams)
        place = "(SELECT seq FROM messages WHERE id = ?)"
        found: list[str] = []
        with self._reading() as connection:
            for which in (f"m.seq > {place} ORDER BY m.seq", f"m.seq < {place} ORDER BY m.seq DESC"):
                chosen = f"SELECT m.id FROM messages m WHERE {where} AND {which} LIMIT 1"  # noqa: S608
                row = connection.execute(chosen, [*values, identifier]).fetchone()
                found.append("" if row is None else row[0])
        return found[0], found[1]

    def totals(self) -> Totals:
        """How much there is."""
        with self._reading() as connection:
            failed, accepted = connection.execute("SELECT messages, unread FROM totals ORDER BY accepted").fetchall()
        return Totals(accepted[0], accepted[1], failed[0])

    def disk_usage(self) -> int:
        """Octets of the database's files."""
        files = (self.path.with_name(self.path.name + suffix) for suffix in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _one(self, statement: str, identifier: str) -> Any:
        with self._reading() as connection:
            row = connection.execute(statement, (identifier,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each reader; idle ones are kept for the next."""
        with self._lock:
            connection = self._readers.pop() if self._readers else None
        try:
            if connection is None:
                connection = connect(self.path, durable=self._durable, reading=True)
            yield connection
        except sqlite3.Error as error:
            raise StorageError(str(error)) from error
        finally:
            self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection | None) -> None:
        if connection is None:
            return
        with self._lock:
            if len(self._readers) < _IDLE_READERS and self._close.alive:
                self._readers.append(connection)
                return
        connection.close()


def _add(connection: sqlite3.Connection, events: list[Event], *, arrival: Arrival) -> Summary:
    summary = insert(connection, arrival)
    events.append(Event("new", summary))
    return summary


def _set_transcript(connection: sqlite3.Connection, _: list[Event], *, identifier: str, text: str) -> None:
    connection.execute(
        "UPDATE dialogues SET transcript = ? WHERE seq = (SELECT seq FROM messages WHERE id = ?)", (text, identifier)
    )


def _chosen(connection: sqlite3.Connection, selection: Selection, *, trigrams: bool) -> list[tuple[int, str]]:
    """The rows that a change is for: their numbers and ids."""
    if selection is None or isinstance(selection, Query):
        where, values = condition(selection, trigrams=trigrams)
        return connection.execute(f"SELECT m.seq, m.id FROM messages m WHERE {where}", values).fetchall()  # noqa: S608
    # As one parameter: SQLite has a limit of these.
    return connection.execute(
        "SELECT seq, id FROM messages WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(selection)),)
    ).fetchall()


def _settle(connection: sqlite3.Connection, events: list[Event], *, limits: Limits, trigrams: bool) -> None:
    oldest = None if limits.age is None else time.time() - limits.age
    evict(connection, events, messages=limits.messages, size=limits.size, oldest=oldest, trigrams=trigrams)
    if events:
        events.append(Event("stats"))


def _close(writer: Writer, readers: list[sqlite3.Connection], directory: Path | None) -> None:
    writer.close()
    while readers:
        readers.pop().close()
    _remove(directory)


def _remove(directory: Path | None) -> None:
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
