"""A search as SQL."""

from __future__ import annotations

from .query import Kind, Query, Term

__all__ = ["condition"]

#: The columns that a term looks at.
_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "from": ("sender_words",),
    "to": ("to_words",),
    "cc": ("cc_words",),
    "bcc": ("bcc_words",),
    "reply-to": ("reply_to_words",),
    "addressed": ("sender_words", "to_words", "cc_words", "bcc_words", "reply_to_words"),
    "subject": ("subject_words",),
    "message-id": ("message_id_words",),
}
_FLAGS: dict[Kind, str] = {
    "read": "m.read = ?",
    "attachment": "(m.attachments > 0) = ?",
    "inline": "(m.inline > 0) = ?",
    "tagged": "(m.seq IN (SELECT message FROM tags)) = ?",
}
_COMPARISONS: dict[Kind, tuple[str, str]] = {
    "before": ("m.created <= ?", "m.created >= ?"),
    "after": ("m.created >= ?", "m.created <= ?"),
    "larger": ("m.size > ?", "m.size < ?"),
    "smaller": ("m.size < ?", "m.size > ?"),
}
#: Words of less characters have no trigram.
_TRIGRAM = 3

#: The recipients of the envelope, whatever the header says.
_MAILBOX = (
    "m.seq IN (SELECT d.seq FROM dialogues d, json_each(d.envelope, '$.Recipients') r"
    " WHERE fold(json_extract(r.value, '$.Address')) = ?)"
)

Value = str | float


def condition(query: Query | None, *, trigrams: bool) -> tuple[str, list[Value]]:
    """What stands behind WHERE, for the table ``messages m``.

    Args:
        query: The search; one that does not ask for a state, and None, is for accepted messages.
        trigrams: The database has an index of trigrams.

    Returns:
        The condition, and its parameters.
    """
    parts: list[str] = []
    values: list[Value] = []
    if query is None or not query.chooses_state:
        parts.append("m.state = 'accepted'")
    indexed: list[str] = []
    for term in query.terms if query is not None else ():
        if trigrams and term.kind == "text" and not term.negated and len(str(term.value)) >= _TRIGRAM:
            indexed.append(str(term.value))  # all of them are looked up at once
            continue
        part, more = _part(term, trigrams=trigrams)
        parts.append(part)
        values += more
    if indexed:
        part, more = _indexed(indexed)
        parts.append(part)
        values += more
    return " AND ".join(parts), values


def _part(term: Term, *, trigrams: bool) -> tuple[str, list[Value]]:
    kind, value = term.kind, term.value
    if kind in _COMPARISONS:
        return _COMPARISONS[kind][term.negated], [value]
    if kind in _FLAGS:
        return _FLAGS[kind], [int(bool(value) is not term.negated)]
    text = str(value)
    values: list[Value] = [text]
    if kind == "state":
        part, values = _state(text)
    elif kind == "tag":
        part = "m.seq IN (SELECT message FROM tags WHERE words = ?)"
    elif kind == "mailbox":
        part = _MAILBOX
    elif kind != "text":
        columns = _COLUMNS[kind]
        part = "(" + " OR ".join(f"instr(m.{column}, ?) > 0" for column in columns) + ")"
        values = [text] * len(columns)
    elif trigrams and len(text) >= _TRIGRAM:
        part, values = _indexed([text])
    else:
        part = "m.seq IN (SELECT seq FROM words WHERE instr(text, ?) > 0)"
    return (f"NOT {part}" if term.negated else part), values


def _indexed(texts: list[str]) -> tuple[str, list[Value]]:
    """Texts that are all in a message. Those that came last are not in the index yet, and are looked at one by one."""
    phrases = " AND ".join('"' + text.replace('"', '""') + '"' for text in texts)
    contains = " AND ".join("instr(text, ?) > 0" for _ in texts)
    # Marks for values, and no text that anybody has typed.
    late = f"SELECT seq FROM words WHERE seq > (SELECT indexed FROM progress) AND {contains}"  # noqa: S608
    part = f"(m.seq IN (SELECT rowid FROM words_index WHERE words_index MATCH ?) OR m.seq IN ({late}))"  # noqa: S608
    return part, [phrases, *texts]


def _state(text: str) -> tuple[str, list[Value]]:
    if text == "any":
        return "(1 = 1)", []
    if text == "failed":
        return "(m.state <> ?)", ["accepted"]
    return "(m.state = ?)", [text]
