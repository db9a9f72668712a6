"""What a test sees of mail that has come: the message, its envelope, and the session that brought it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from email.message import EmailMessage
from functools import cached_property
from typing import Any

import attrs

from trio_smtp import TLSInfo
from trio_smtp.reading import (
    Attachment,
    attachments,
    code_in,
    field_addresses,
    fields,
    html_body,
    links,
    message_text,
    read_octets,
    text_body,
    text_of_html,
)

__all__ = ["CapturedEnvelope", "CapturedMessage", "CapturedSession", "Headers"]


class CapturedSession:
    """A client's connection, as far as a test may want to know it; goes on changing until the connection has ended.

    Attributes:
        id: Random characters.
        peer: The client's address and port; None where it has none.
        helo: What HELO, EHLO or LHLO said; None before.
        tls: What TLS agreed on; None without TLS.
        user: Who has logged in; None before.
        password: The password, or the token, that was sent at the last login; None where none was sent.
        mechanism: The SASL mechanism of the login, such as ``"PLAIN"``; None before.
        last_error: The last reply of the classes 4 and 5; None where there was none.
        ended: Why the connection has ended, as `CloseContext.reason`; None while it is open.
    """

    def __init__(self, id: str, peer: tuple[str, int] | None) -> None:  # noqa: A002 - the attribute's name
        self.id: str = id
        self.peer: tuple[str, int] | None = peer
        self.helo: str | None = None
        self.tls: TLSInfo | None = None
        self.user: str | None = None
        self.password: str | None = None
        self.mechanism: str | None = None
        self.last_error: str | None = None
        self.ended: str | None = None
        self._lines: list[str] = []

    def __repr__(self) -> str:
        return f"<CapturedSession peer={self.peer} helo={self.helo!r} user={self.user!r} ended={self.ended!r}>"

    def note(self, lines: Iterable[str], **facts: Any) -> None:
        """Add lines to the transcript, and set attributes."""
        self._lines.extend(lines)
        for name, value in facts.items():
            setattr(self, name, value)

    @property
    def transcript(self) -> str:
        """The dialogue: ``C:`` and ``S:`` before what each said, ``--`` before what happened; secrets are masked."""
        return "".join(f"{line}\n" for line in list(self._lines))


@attrs.frozen(kw_only=True)
class CapturedEnvelope:
    """What MAIL and RCPT said.

    Attributes:
        sender: The reverse-path; ``""`` for the null sender.
        recipients: The accepted recipients, in order.
        parameters: The parameters of MAIL as they were sent, such as ``{"SIZE": "1234", "BODY": "8BITMIME"}``.
        recipient_parameters: Those of each RCPT, in the order of `recipients`.
    """

    sender: str
    recipients: list[str]
    parameters: dict[str, str | bool] = attrs.field(factory=dict)
    recipient_parameters: list[dict[str, str | bool]] = attrs.field(factory=list)


class Headers(Mapping[str, str]):
    """Header fields by name; case does not count. Of several fields with one name the first counts.

    Args:
        items: Names and texts, in order.
    """

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._items = list(items)
        self._first: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for name, text in self._items:
            self._first.setdefault(name.lower(), text)
            self._names.setdefault(name.lower(), name)

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._names.values())

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        return f"Headers({self._items!r})"

    def get_all(self, name: str) -> list[str]:
        """Get the texts of all fields of a name, in order.

        Args:
            name: In any case.
        """
        return [text for each, text in self._items if each.lower() == name.lower()]


class CapturedMessage:
    """A message that has come. It is parsed when something of it is asked for; however odd it is, that raises nothing.

    Attributes:
        raw: The message as it came: octets, dots unstuffed.
        envelope: What MAIL and RCPT said.
        session: The connection that brought it.
    """

    def __init__(self, raw: bytes, envelope: CapturedEnvelope, session: CapturedSession) -> None:
        self.raw: bytes = raw
        self.envelope: CapturedEnvelope = envelope
        self.session: CapturedSession = session
        self._parsing = threading.Lock()
        self._message: EmailMessage | None = None

    def __repr__(self) -> str:
        return f"<CapturedMessage {self.subject!r} from {self.envelope.sender!r} to {self.envelope.recipients!r}>"

    @property
    def message(self) -> EmailMessage:
        """The message, parsed by the package `email`."""
        with self._parsing:
            if self._message is None:
                self._message = read_octets(self.raw)
            return self._message

    @cached_property
    def headers(self) -> Headers:
        """The header fields: decoded, each on one line."""
        return Headers(fields(self.message))

    @cached_property
    def subject(self) -> str:
        """The Subject; ``""`` where there is none."""
        return message_text(self.message, "Subject")

    @property
    def from_(self) -> str:
        """The first address of From, without name and brackets; ``""`` where there is none."""
        return next(iter(field_addresses(self.message, "From")), "")

    @property
    def to(self) -> list[str]:
        """The addresses of To, without names and brackets; `envelope` has who receives the message."""
        return field_addresses(self.message, "To")

    @property
    def cc(self) -> list[str]:
        """The addresses of Cc."""
        return field_addresses(self.message, "Cc")

    @property
    def bcc(self) -> list[str]:
        """The recipients of the envelope that neither To nor Cc names."""
        named = {each.lower() for each in self.to + self.cc}
        return [each for each in self.envelope.recipients if each.lower() not in named]

    @cached_property
    def text(self) -> str:
        """The plain text, lines ended by LF; ``""`` where there is none."""
        return text_body(self.message)

    @cached_property
    def html(self) -> str:
        """The HTML, lines ended by LF; ``""`` where there is none."""
        return html_body(self.message)

    @property
    def html_text(self) -> str:
        """The text of the HTML, without tags, as far as a search needs it."""
        return text_of_html(self.html)

    @cached_property
    def attachments(self) -> dict[str, Attachment]:
        """The attachments by file name, in order; a second ``a.pdf`` is called ``a (2).pdf``."""
        return {each.name: each for each in attachments(self.message)}

    @property
    def transcript(self) -> str:
        """The dialogue of the session so far; secrets are masked."""
        return self.session.transcript

    def links(self) -> list[str]:
        """Find the links: those of the text, then those of the HTML; none twice."""
        return links(self.text, self.html)

    def code(self, pattern: str | re.Pattern[str] = r"\b\d{4,8}\b") -> str:
        """Find a code, such as the one that confirms an address: in the text, the HTML's text, the subject.

        Args:
            pattern: What a code looks like; what its first group matches is the code, where it has one.

        Raises:
            AssertionError: There is none; the text shows the message's.
        """
        places = (self.text, self.html_text, self.subject)
        for place in places:
            found = code_in(place, pattern)
            if found is not None:
                return found
        shown = " | ".join(" ".join(place.split())[:200] for place in places if place.strip())
        wanted = pattern if isinstance(pattern, str) else pattern.pattern
        raise AssertionError(f"no code like {wanted!r} in the message: {shown or '(it has no text)'}")
