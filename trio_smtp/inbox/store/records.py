"""What goes into the store, and what comes out of it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

__all__ = ["Arrival", "Headline", "Mailbox", "Page", "State", "Summary", "Totals", "fold"]

#: What became of it: the message was accepted; it, or the client, was refused; or the connection broke before.
State = Literal["accepted", "refused", "broken"]


def fold(text: str) -> str:
    """The form of a text that searches compare: the same for upper and lower case, without NUL and surrogates."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode()).casefold().replace("\0", " ")


@attrs.frozen
class Mailbox:
    """An address as a header field has it.

    Attributes:
        name: The display name, decoded; ``""`` where there is none.
        address: The address, ``""`` where the field has none.
    """

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} <{self.address}>" if self.name else self.address


@attrs.frozen(kw_only=True)
class Headline:
    """What lists show of a message, and what searches look at.

    Attributes:
        message_id: Without the angle brackets.
        subject: Decoded.
        sender: The first address of From; None: there is none.
        to: The addresses of To.
        cc: The addresses of Cc.
        bcc: The addresses of Bcc, and the recipients that no header field names.
        reply_to: The addresses of Reply-To.
        snippet: The beginning of the text.
        attachments: How many there are.
        inline: How many parts are shown inside the message.
        tags: Names of tags.
        text: Everything that plain words of a search may find.
    """

    message_id: str = ""
    subject: str = ""
    sender: Mailbox | None = None
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    snippet: str = ""
    attachments: int = 0
    inline: int = 0
    tags: tuple[str, ...] = ()
    text: str = ""


@attrs.frozen(kw_only=True)
class Arrival:
    """What the capture hands to the store.

    Attributes:
        headline: What lists show.
        octets: The message; ``b""`` where none came.
        envelope: What was said before the message, as JSON can hold it.
        transcript: The lines of the dialogue, as JSON can hold them.
        state: What became of it.
        reply: The reply that refused it, or how the connection broke; ``""`` for an accepted message.
        username: The name that the client authenticated as.
        created: Seconds since the epoch.
    """

    headline: Headline
    octets: bytes
    envelope: Mapping[str, object]
    transcript: Sequence[Mapping[str, object]]
    state: State = "accepted"
    reply: str = ""
    username: str = ""
    created: float


@attrs.frozen(kw_only=True)
class Summary:
    """A row of a list.

    Attributes:
        id: The name of the message in the store.
        created: When it came, in seconds since the epoch.
        read: Somebody has looked at it.
        size: Octets.
        state: What became of it.
        reply: As in `Arrival`.
        username: As in `Arrival`.
        tags: Names of tags, sorted.
        headline: What else is shown; `Headline.text` and `Headline.tags` are empty here.
    """

    id: str
    created: float
    read: bool
    size: int
    state: State
    reply: str
    username: str
    tags: tuple[str, ...]
    headline: Headline


@attrs.frozen
class Page:
    """A part of a list, newest first.

    Attributes:
        rows: The messages.
        count: How many there are in the whole list.
        unread: How many of these are unread.
    """

    rows: tuple[Summary, ...]
    count: int
    unread: int


@attrs.frozen
class Totals:
    """How much there is.

    Attributes:
        total: Accepted messages.
        unread: Those of them that are unread.
        failures: Refused messages and clients, and connections that broke.
    """

    total: int
    unread: int
    failures: int
