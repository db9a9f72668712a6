"""Reads messages, however odd they are: bounded, and without ever raising.

This is the only module of the inbox that takes messages apart with the package `email`. Mail is hostile: a field may
be no field, a character set may not exist, parts may be nested a thousand times. What cannot be read as it should be
is read as something simpler, in the end as one part of plain text. Reading a large message takes long: call it in a
thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

import attrs

from trio_smtp.reading import decode_text, decode_words, mailboxes_in, text_of_html

from .store import Headline, Mailbox
from .texts import collapsed

__all__ = ["Mail", "Part", "headline_of", "read_mail"]

#: What is looked at: more parts and longer texts are as if they were not there; what is nested deeper is plain text.
_MAX_PARTS = 1_000
_MAX_NESTING = 100
_MAX_TEXT = 4_194_304
_MAX_FIELD = 1_048_576
_MAX_FIELDS = 10_000
_SEARCHED_TEXT = 131_072
_SEARCHED_FIELDS = 65_536
_SNIPPET = 250
_SNIPPET_SOURCE = 4_096
_MAX_TAGS = 100

#: Every part with parts of its own needs this parameter; the parser takes very long where there are very many.
_BOUNDARY = re.compile(rb"boundary", re.IGNORECASE)
#: Fields whose parameters the parser reads in time that grows with the square of their length.
_MIME_FIELD = re.compile(rb"^content-[a-z-]{1,40}:.*(?:\r?\n[ \t].*)*", re.IGNORECASE | re.MULTILINE)
_MAX_MIME_FIELD = 8_192
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9\-. _@]")


@attrs.frozen(kw_only=True)
class Part:
    """A part of a message.

    Attributes:
        id: Its place: ``"0"`` for the message itself, then ``"1"``, ``"2"``, and ``"2.1"`` for parts inside of them.
        content_type: Lower case, without parameters.
        filename: Decoded; ``""`` where there is none. Never a path.
        content_id: Without the angle brackets.
        disposition: ``"attachment"``, ``"inline"`` or ``""``.
        charset: As it was declared, or ``""``.
        multipart: It has parts of its own, and no content.
        depth: How many parts it is inside of.
        message: The parser's object.
    """

    id: str
    content_type: str
    filename: str
    content_id: str
    disposition: str
    charset: str
    multipart: bool
    depth: int
    message: Any = attrs.field(repr=False, eq=False)

    @property
    def content(self) -> bytes:
        """The octets, decoded."""
        try:
            payload = self.message.get_payload()
            if isinstance(payload, list):  # an attached message, or a delivery status
                return b"".join(each.as_bytes() for each in payload)
            payload = self.message.get_payload(decode=True)
        except Exception:
            return b""
        return payload if isinstance(payload, bytes) else b""

    @property
    def text(self) -> str:
        """The content as text, whatever its character set is said to be; cut off after 4,194,304 characters."""
        return decode_text(self.content[: 4 * _MAX_TEXT], self.charset)[:_MAX_TEXT]

    @property
    def kind(self) -> str:
        """``"text"``, ``"html"``, ``"inline"``, ``"attachment"``; ``""`` for a part that has parts."""
        if self.multipart:
            return ""
        if self.disposition != "attachment" and not self.filename:
            if self.content_type == "text/plain":
                return "text"
            if self.content_type == "text/html":
                return "html"
        return "inline" if self.disposition == "inline" or self._shown_by_reference else "attachment"

    @property
    def _shown_by_reference(self) -> bool:
        return self.content_id != "" and self.disposition != "attachment"


@attrs.frozen
class Mail:
    """A message, taken apart.

    Attributes:
        fields: The header fields: names, and unfolded values, decoded from octets but not from encoded words.
        parts: All parts, the message itself first.
    """

    fields: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]

    def field(self, name: str) -> str:
        """The first field of that name, with encoded words decoded; ``""`` where there is none."""
        return decode_words(self._raw(name))

    def addresses(self, name: str) -> tuple[Mailbox, ...]:
        """The addresses of all fields of that name."""
        found = (mailboxes_in(value) for field, value in self.fields if field.lower() == name)
        return tuple(Mailbox(name, address) for pairs in found for name, address in pairs if address)

    @property
    def sender(self) -> Mailbox | None:
        """The first address of From; what stands there as a name, where it is none."""
        found = self.addresses("from")
        if found:
            return found[0]
        text = self.field("from")
        return Mailbox(text, "") if text else None

    @property
    def message_id(self) -> str:
        """Message-ID without its angle brackets."""
        return self._raw("message-id").strip("<>")

    @property
    def date(self) -> datetime | None:
        """The date of the header, with a zone; None: there is none that can be read."""
        try:
            date = parsedate_to_datetime(self._raw("date"))
            return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        except Exception:  # TypeError, ValueError, OverflowError or IndexError, by the version of Python
            return None

    @property
    def text(self) -> str:
        """The plain text."""
        return "\n".join(part.text for part in self._of_kind("text"))[:_MAX_TEXT]

    @property
    def html(self) -> str:
        """The HTML text."""
        return "\n".join(part.text for part in self._of_kind("html"))[:_MAX_TEXT]

    @property
    def attachments(self) -> tuple[Part, ...]:
        """Parts that are not shown inside the message."""
        return self._of_kind("attachment")

    @property
    def inline(self) -> tuple[Part, ...]:
        """Parts that are shown inside the message."""
        return self._of_kind("inline")

    def part(self, identifier: str) -> Part | None:
        """The part at that place, if it has content."""
        return next((part for part in self.parts if part.id == identifier and not part.multipart), None)

    def _raw(self, name: str) -> str:
        return next((value for field, value in self.fields if field.lower() == name), "")

    def _of_kind(self, kind: str) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.kind == kind)


def read_mail(octets: bytes) -> Mail:
    """Take a message apart.

    Args:
        octets: The message, or what calls itself one.
    """
    if len(_BOUNDARY.findall(octets)) <= 2 * _MAX_PARTS:
        try:
            message = message_from_bytes(_MIME_FIELD.sub(lambda match: match[0][:_MAX_MIME_FIELD], octets))
            fields = tuple(_fields(message))
            return Mail(fields, tuple(_parts(message)))
        except Exception:  # noqa: S110 - RecursionError, or a fault of the parser: what follows is the simpler reading
            pass
    plain: Message[str, str] = Message()
    plain.set_payload(octets.decode("ascii", "surrogateescape"))
    return Mail((), (_part(plain, "0", 0),))


def headline_of(mail: Mail, recipients: tuple[str, ...] = (), username: str = "") -> Headline:
    """What lists show of a message, and what searches look at.

    Args:
        mail: The message.
        recipients: Those of the envelope; the ones that no header field names are Bcc.
        username: Who has authenticated; becomes a tag.
    """
    to, cc, bcc = mail.addresses("to"), mail.addresses("cc"), mail.addresses("bcc")
    named = {box.address.casefold() for box in (*to, *cc, *bcc)}
    unnamed = dict.fromkeys(address for address in recipients if address.casefold() not in named)
    bcc += tuple(Mailbox("", address) for address in unnamed)
    text = mail.text
    seen = text or text_of_html(mail.html[:_SEARCHED_TEXT])
    return Headline(
        message_id=mail.message_id,
        subject=mail.field("subject"),
        sender=mail.sender,
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=mail.addresses("reply-to"),
        snippet=collapsed(seen[:_SNIPPET_SOURCE])[:_SNIPPET],
        attachments=len(mail.attachments),
        inline=len(mail.inline),
        tags=tuple(_tags(mail, (*to, *cc, *bcc), username)),
        text="\n".join(_searched(mail, recipients)),
    )


def clean_tag(text: str) -> str:
    """A tag as it is kept: characters that tags cannot have are left out, as in Mailpit."""
    return collapsed(_NOT_IN_TAGS.sub("", text))[:100]


def _tags(mail: Mail, boxes: tuple[Mailbox, ...], username: str) -> Iterator[str]:
    wanted = [*mail.field("x-tags").split(","), username]
    for box in boxes[:_MAX_TAGS]:
        local, _, _ = box.address.rpartition("@")
        wanted += local.split("+")[1:]
    yield from list(dict.fromkeys(filter(None, map(clean_tag, wanted))))[:_MAX_TAGS]


def _searched(mail: Mail, recipients: tuple[str, ...]) -> Iterator[str]:
    fields = "\n".join(f"{name}: {decode_words(value)}" for name, value in mail.fields)
    yield fields[:_SEARCHED_FIELDS]
    yield "\n".join(recipients)[:_SEARCHED_FIELDS]
    yield mail.text[:_SEARCHED_TEXT]
    yield text_of_html(mail.html[:_SEARCHED_TEXT])
    yield "\n".join(part.filename for part in (*mail.attachments, *mail.inline))[:_SEARCHED_FIELDS]


def _fields(message: Message[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in list(message.raw_items())[:_MAX_FIELDS]:
        yield _octets_decoded(name), " ".join(_octets_decoded(value[:_MAX_FIELD]).split())


def _parts(message: Message[str, str]) -> Iterator[Part]:
    """The parts, in the order in which they stand in the message."""
    waiting: list[tuple[Message[str, str], str, int]] = [(message, "0", 0)]
    for _ in range(_MAX_PARTS):
        if not waiting:
            return
        each, identifier, depth = waiting.pop()
        yield _part(each, identifier, depth)
        inner: Any = each.get_payload()
        if isinstance(inner, list) and each.get_content_maintype() == "multipart":
            if depth == _MAX_NESTING:
                raise RecursionError("its parts are nested too deeply")
            prefix = "" if identifier == "0" else f"{identifier}."
            waiting += [(child, f"{prefix}{number}", depth + 1) for number, child in enumerate(inner, 1)][::-1]


def _part(message: Message[str, str], identifier: str, depth: int) -> Part:
    content_type = message.get_content_type()
    return Part(
        id=identifier,
        content_type=content_type if _TYPE.fullmatch(content_type) else "application/octet-stream",
        filename=_filename(message),
        content_id=decode_words(_octets_decoded(str(message.get("Content-ID", "")))).strip().strip("<>"),
        disposition=_disposition(message),
        charset=str(_parameter(message, "charset", "content-type")),
        multipart=content_type.startswith("multipart/") and message.is_multipart(),
        depth=depth,
        message=message,
    )


def _disposition(message: Message[str, str]) -> str:
    found = str(message.get("Content-Disposition", "")).partition(";")[0].strip().lower()
    # RFC 2183 section 2.8: a disposition that is not known is an attachment.
    return found if found in ("", "inline") else "attachment"


def _filename(message: Message[str, str]) -> str:
    name = _parameter(message, "filename", "content-disposition") or _parameter(message, "name", "content-type")
    text = decode_words(_octets_decoded(name))
    # The last part of what looks like a path, without control characters.
    text = re.split(r"[/\\]", text)[-1]
    return "".join(character for character in text if character.isprintable())[:255].strip(" .")


def _parameter(message: Message[str, str], name: str, field: str) -> str:
    try:
        found: Any = message.get_param(name, "", field)
        if isinstance(found, tuple):  # RFC 2231: charset, language, value
            charset, _, value = found
            return decode_text(value.encode("latin-1", "replace"), charset or "us-ascii")
        return str(found)
    except Exception:  # of the parser of parameters
        return ""


def _octets_decoded(text: str) -> str:
    """Undo what the parser does to octets that are not ASCII: they are UTF-8, or else Latin-1."""
    return decode_text(str(text).encode("utf-8", "surrogateescape"))
