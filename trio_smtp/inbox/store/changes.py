"""What is done to rows that are there: marked, tagged, deleted. Each function is one step of a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from . import rows
from .events import Event
from .records import fold

__all__ = ["delete", "delete_all", "delete_tag", "evict", "index_some", "mark", "rename_tag", "set_tags"]

#: A change of more messages than this is one event: look at everything anew.
_MANY = 100
#: So many texts are indexed at a time: messages that come meanwhile wait.
_INDEXED_AT_ONCE = 50
#: So many texts that are gone may be in the index in any case.
_MAX_STALE = 1000
_TABLES = ("octets", "dialogues", "words")

#: Rows: their numbers and ids.
Chosen = Sequence[tuple[int, str]]


def mark(connection: sqlite3.Connection, events: list[Event], chosen: Chosen, *, read: bool) -> None:
    """Mark messages as read or unread."""
    changed = connection.execute(
        "UPDATE messages SET read = ? WHERE read <> ? AND seq IN (SELECT value FROM json_each(?))",
        (int(read), int(read), _numbers(chosen)),
    ).rowcount
    if changed and len(chosen) > _MANY:
        events.append(Event("prune"))
    elif changed:
        events += [Event("update", {"ID": identifier, "Read": read}) for _, identifier in chosen]


def delete(connection: sqlite3.Connection, events: list[Event], chosen: Chosen, *, trigrams: bool) -> None:
    """Delete messages."""
    numbers = _numbers(chosen)
    if trigrams:
        # The index keeps them until there is time: their numbers are never given to others, so no search finds them.
        connection.execute(
            "UPDATE progress SET stale = stale + (SELECT COUNT(*) FROM json_each(?) WHERE value <= indexed)", (numbers,)
        )
    for table in _TABLES:
        # The names are this module's own.
        statement = f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))"  # noqa: S608
        connection.execute(statement, (numbers,))
    connection.execute("DELETE FROM tags WHERE message IN (SELECT value FROM json_each(?))", (numbers,))
    connection.execute("DELETE FROM messages WHERE seq IN (SELECT value FROM json_each(?))", (numbers,))
    if len(chosen) > _MANY:
        events.append(Event("prune"))
    else:
        events += [Event("delete", {"ID": identifier}) for _, identifier in chosen]


def delete_all(connection: sqlite3.Connection, events: list[Event], *, trigrams: bool) -> None:
    """Delete all messages and failures."""
    if trigrams:
        _empty_index(connection)
    for table in (*_TABLES, "tags", "messages"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - likewise
    events.append(Event("truncate"))


def evict(
    connection: sqlite3.Connection,
    events: list[Event],
    *,
    messages: int,
    size: int,
    oldest: float | None,
    trigrams: bool,
) -> None:
    """Delete the oldest messages until no limit is exceeded.

    Args:
        connection: With a transaction under way.
        events: Where the deletions are noted.
        messages: So many accepted ones may be there, and so many others.
        size: Octets that all of them may take.
        oldest: What came before these seconds since the epoch goes; None: nothing for that reason.
        trigrams: The database has an index of trigrams.
    """
    gone: dict[int, str] = {}
    counts = connection.execute("SELECT accepted, messages, cost FROM totals").fetchall()
    for accepted, count, _ in counts:
        if count > messages:
            gone |= connection.execute(
                "SELECT seq, id FROM messages WHERE (state = 'accepted') = ? ORDER BY seq LIMIT ?",
                (accepted, count - messages),
            ).fetchall()
    if oldest is not None:
        gone |= connection.execute("SELECT seq, id FROM messages WHERE created < ?", (oldest,)).fetchall()
    excess = sum(cost for _, _, cost in counts) - size
    if excess > 0:
        gone |= _oldest_of_size(connection, excess)
    if gone:
        delete(connection, events, list(gone.items()), trigrams=trigrams)


def _oldest_of_size(connection: sqlite3.Connection, excess: int) -> dict[int, str]:
    """The oldest messages that take so many octets together; the newest message stays."""
    newest = connection.execute("SELECT MAX(seq) FROM messages").fetchone()[0]
    gone: dict[int, str] = {}
    rows_from_the_oldest = connection.execute(
        "SELECT seq, id, cost FROM messages WHERE seq < ? ORDER BY seq", (newest,)
    )
    for seq, identifier, cost in rows_from_the_oldest:
        gone[seq] = identifier
        excess -= cost
        if excess <= 0:
            break
    return gone


def set_tags(connection: sqlite3.Connection, events: list[Event], chosen: Chosen, *, tags: Sequence[str]) -> None:
    """Give messages these tags and no others."""
    for seq, identifier in chosen:
        connection.execute("DELETE FROM tags WHERE message = ?", (seq,))
        shown = rows.set_tags(connection, seq, tags)
        events.append(Event("update", {"ID": identifier, "Tags": list(shown)}))


def rename_tag(connection: sqlite3.Connection, events: list[Event], *, tag: str, name: str) -> bool:
    """Give a tag another name; a message that has both keeps one. Returns whether it was there."""
    messages = [seq for (seq,) in connection.execute("SELECT message FROM tags WHERE words = ?", (fold(tag),))]
    connection.execute("DELETE FROM tags WHERE words = ?", (fold(tag),))
    connection.executemany(
        "INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", [(message, name, fold(name)) for message in messages]
    )
    if messages:
        events.append(Event("prune"))
    return bool(messages)


def delete_tag(connection: sqlite3.Connection, events: list[Event], *, tag: str) -> bool:
    """Take a tag off all messages; returns whether it was there."""
    deleted = connection.execute("DELETE FROM tags WHERE words = ?", (fold(tag),)).rowcount
    if deleted:
        events.append(Event("prune"))
    return bool(deleted)


def _empty_index(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO words_index (words_index) VALUES ('delete-all')")
    connection.execute("UPDATE progress SET indexed = 0, stale = 0")


def index_some(connection: sqlite3.Connection) -> int:
    """Put some of the texts that came last into the index; returns how many.

    When most of what the index has is gone, it is made anew.
    """
    stale, live = connection.execute(
        "SELECT stale, (SELECT COUNT(*) FROM words WHERE seq <= indexed) FROM progress"
    ).fetchone()
    if stale > max(live, _MAX_STALE):
        _empty_index(connection)
    texts = connection.execute(
        "SELECT seq, text FROM words WHERE seq > (SELECT indexed FROM progress) ORDER BY seq LIMIT ?",
        (_INDEXED_AT_ONCE,),
    ).fetchall()
    if texts:
        connection.executemany("INSERT INTO words_index (rowid, text) VALUES (?, ?)", texts)
        connection.execute("UPDATE progress SET indexed = ?", (texts[-1][0],))
    return len(texts)


def _numbers(chosen: Chosen) -> str:
    """The rows' numbers as one parameter, since SQLite has a limit of these."""
    return json.dumps([seq for seq, _ in chosen])
