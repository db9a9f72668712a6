"""The database's tables, and how its connections are opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from .records import fold

__all__ = ["connect", "create"]

#: "tsib", as `PRAGMA application_id` has it: tells this library's files from others.
APPLICATION = 0x74736962
VERSION = 1

_TABLES = """
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    state TEXT NOT NULL,
    read INTEGER NOT NULL,
    size INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    attachments INTEGER NOT NULL,
    inline INTEGER NOT NULL,
    username TEXT NOT NULL,
    reply TEXT NOT NULL,
    shown TEXT NOT NULL,
    sender_words TEXT NOT NULL,
    to_words TEXT NOT NULL,
    cc_words TEXT NOT NULL,
    bcc_words TEXT NOT NULL,
    reply_to_words TEXT NOT NULL,
    subject_words TEXT NOT NULL,
    message_id_words TEXT NOT NULL
);
CREATE INDEX messages_by_state ON messages (state, seq, read);
CREATE TABLE octets (seq INTEGER PRIMARY KEY, octets BLOB NOT NULL);
CREATE TABLE dialogues (seq INTEGER PRIMARY KEY, envelope TEXT NOT NULL, transcript TEXT NOT NULL);
CREATE TABLE words (seq INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE tags (message INTEGER NOT NULL, name TEXT NOT NULL, words TEXT NOT NULL, PRIMARY KEY (message, words))
    WITHOUT ROWID;
CREATE INDEX tags_by_words ON tags (words, message);
-- One row for accepted messages, and one for what failed; triggers keep them true.
CREATE TABLE totals (accepted INTEGER PRIMARY KEY, messages INTEGER NOT NULL, unread INTEGER NOT NULL,
    cost INTEGER NOT NULL);
INSERT INTO totals VALUES (0, 0, 0, 0), (1, 0, 0, 0);
CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
    UPDATE totals SET messages = messages + 1, unread = unread + (NEW.read = 0), cost = cost + NEW.cost
    WHERE accepted = (NEW.state = 'accepted');
END;
CREATE TRIGGER message_deleted AFTER DELETE ON messages BEGIN
    UPDATE totals SET messages = messages - 1, unread = unread - (OLD.read = 0), cost = cost - OLD.cost
    WHERE accepted = (OLD.state = 'accepted');
END;
CREATE TRIGGER message_read AFTER UPDATE OF read ON messages BEGIN
    UPDATE totals SET unread = unread + (NEW.read = 0) - (OLD.read = 0) WHERE accepted = (NEW.state = 'accepted');
END;
"""
# The text is folded already. The index has no copy of the text of its own.
_TRIGRAMS = """
CREATE VIRTUAL TABLE words_index USING fts5 (text, content='words', content_rowid='seq',
    tokenize='trigram case_sensitive 1');
"""
#: The texts up to this row are in the index; searches look at the others themselves. So many of those in it are gone.
_PROGRESS = "CREATE TABLE progress (indexed INTEGER NOT NULL, stale INTEGER NOT NULL)"


def connect(path: Path, *, durable: bool, reading: bool = False) -> sqlite3.Connection:
    """Open a connection. It may be used in any thread, in one at a time.

    Args:
        path: The database.
        durable: A commit waits until the disk has it, so that also a loss of power loses nothing.
        reading: The connection can only read.

    Raises:
        sqlite3.Error: The database cannot be opened.
    """
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        connection.create_function("fold", 1, fold, deterministic=True)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        if reading:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: Path, *, durable: bool, trigrams: bool = True) -> bool:
    """Make the tables, where they are not there yet.

    Args:
        path: The database; a file that does not exist is made.
        durable: As with `connect`.
        trigrams: Make an index of trigrams, where SQLite has that.

    Returns:
        Whether the database has an index of trigrams.

    Raises:
        ValueError: The file is a database of something else.
        sqlite3.Error: It cannot be opened or made.
    """
    with closing(connect(path, durable=durable)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables:
            found = tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
            if found != tuple(_MARKS.values()):
                connection.execute("ROLLBACK")
                raise ValueError(f"{path} is not a database of this version's inbox")
        else:
            _fill(connection, trigrams=trigrams)
        indexed = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'words_index'").fetchone()
        connection.execute("COMMIT")
        return indexed is not None


_MARKS = {"application_id": APPLICATION, "user_version": VERSION}


def _fill(connection: sqlite3.Connection, *, trigrams: bool) -> None:
    for statement in _statements(_TABLES):
        connection.execute(statement)
    if trigrams:
        try:
            connection.execute(_TRIGRAMS)
            connection.execute(_PROGRESS)
            connection.execute("INSERT INTO progress VALUES (0, 0)")
        except sqlite3.OperationalError:
            # This SQLite was built without FTS5, or is older than its trigrams (3.34): searches look at every text.
            pass
    for name, value in _MARKS.items():
        connection.execute(f"PRAGMA {name} = {value}")


def _statements(script: str) -> list[str]:
    """Cut a script into statements; `Connection.executescript` would commit what is under way."""
    statements, begun = [], ""
    for line in script.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            statements.append(begun)
            begun = ""
    return statements
