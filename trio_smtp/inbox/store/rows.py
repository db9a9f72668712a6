"""What the store's rows look like: records to columns, and columns to records."""

from __future__ import annotations

import json
import secrets
import sqlite3
import string
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from .records import Arrival, Headline, Mailbox, State, Summary, fold

__all__ = ["COLUMNS", "insert", "summary_of", "tags_of"]

#: What `summary_of` needs of the table ``messages m``.
COLUMNS = (
    "m.seq, m.id, m.created, m.read, m.size, m.state, m.reply, m.username, m.attachments, m.inline, m.shown,"
    " (SELECT json_group_array(name) FROM tags WHERE message = m.seq)"
)
_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 22
#: Addresses of one field that lists show; searches look at more.
_SHOWN_ADDRESSES = 100
_MAX_WORDS = 262_144
#: Octets of a row besides its message, its text and its dialogue.
_OVERHEAD = 4096
#: An index of trigrams takes so many times the text.
_INDEX_FACTOR = 4

_FIELDS = ("to", "cc", "bcc", "reply_to")


def cost_of(arrival: Arrival, transcript: str) -> int:
    """About how many octets of the database a message takes."""
    text = len(arrival.headline.text) * (_INDEX_FACTOR + 1)
    return len(arrival.octets) + text + len(transcript) + _OVERHEAD


def insert(connection: sqlite3.Connection, arrival: Arrival) -> Summary:
    """Write all rows of a message."""
    headline = arrival.headline
    transcript = json.dumps(list(arrival.transcript))
    identifier = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    row: dict[str, Any] = {
        "id": identifier,
        "created": arrival.created,
        "state": arrival.state,
        "read": 0,
        "size": len(arrival.octets),
        "cost": cost_of(arrival, transcript),
        "attachments": headline.attachments,
        "inline": headline.inline,
        "username": arrival.username,
        "reply": arrival.reply,
        "shown": _shown(headline),
        "sender_words": _words([headline.sender] if headline.sender is not None else []),
        **{f"{field}_words": _words(getattr(headline, field)) for field in _FIELDS},
        "subject_words": fold(headline.subject),
        "message_id_words": fold(headline.message_id),
    }
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    cursor = connection.execute(f"INSERT INTO messages ({names}) VALUES ({marks})", list(row.values()))  # noqa: S608
    seq = cursor.lastrowid
    assert seq is not None
    connection.execute("INSERT INTO octets VALUES (?, ?)", (seq, arrival.octets))
    connection.execute("INSERT INTO words VALUES (?, ?)", (seq, fold(headline.text)))
    connection.execute("INSERT INTO dialogues VALUES (?, ?, ?)", (seq, json.dumps(dict(arrival.envelope)), transcript))
    tags = set_tags(connection, seq, headline.tags)
    return Summary(
        id=identifier,
        created=arrival.created,
        read=False,
        size=len(arrival.octets),
        state=arrival.state,
        reply=arrival.reply,
        username=arrival.username,
        tags=tags,
        headline=attrs.evolve(headline, text="", tags=(), **_cut(headline)),
    )


def set_tags(connection: sqlite3.Connection, seq: int, names: Iterable[str]) -> tuple[str, ...]:
    """Write a message's tags; returns them as they are shown. Of tags that differ only in case the first counts."""
    tags: dict[str, str] = {}
    for name in names:
        tags.setdefault(fold(name), name)
    connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(seq, name, words) for words, name in tags.items()])
    return tags_of(tags.values())


def tags_of(names: Iterable[str]) -> tuple[str, ...]:
    """Tags in the order in which they are shown."""
    return tuple(sorted(names, key=fold))


def summary_of(row: Sequence[Any]) -> Summary:
    """Read a row of `COLUMNS`."""
    _seq, identifier, created, read, size, state, reply, username, attachments, inline, shown, tags = row
    known: State = state
    fields = json.loads(shown)
    return Summary(
        id=identifier,
        created=created,
        read=bool(read),
        size=size,
        state=known,
        reply=reply,
        username=username,
        tags=tags_of(json.loads(tags)),
        headline=Headline(
            message_id=fields["message_id"],
            subject=fields["subject"],
            sender=None if fields["sender"] is None else Mailbox(*fields["sender"]),
            to=_boxes(fields["to"]),
            cc=_boxes(fields["cc"]),
            bcc=_boxes(fields["bcc"]),
            reply_to=_boxes(fields["reply_to"]),
            snippet=fields["snippet"],
            attachments=attachments,
            inline=inline,
        ),
    )


def _boxes(pairs: Iterable[tuple[str, str]]) -> tuple[Mailbox, ...]:
    return tuple(Mailbox(*pair) for pair in pairs)


def _cut(headline: Headline) -> dict[str, Any]:
    return {field: getattr(headline, field)[:_SHOWN_ADDRESSES] for field in _FIELDS}


def _shown(headline: Headline) -> str:
    sender = headline.sender
    return json.dumps(
        {
            "message_id": headline.message_id,
            "subject": headline.subject,
            "snippet": headline.snippet,
            "sender": None if sender is None else [sender.name, sender.address],
            **{field: [[each.name, each.address] for each in boxes] for field, boxes in _cut(headline).items()},
        }
    )


def _words(boxes: Iterable[Mailbox]) -> str:
    """What searches for addresses look at: one address a line, which no word of a search crosses."""
    return fold("\n".join(map(str, boxes))[:_MAX_WORDS])
