"""Reads a message: its fields, its bodies, its attachments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.parser import BytesParser
from typing import Any, TypeAlias, cast

import attrs

from trio_smtp.app.mail_policy import make_policy
from trio_smtp.protocol.values import ShowsFields

from .addresses import mailboxes_in
from .words import decode_text, decode_words

__all__ = [
    "Attachment",
    "attachments",
    "field_addresses",
    "fields",
    "html_body",
    "message_text",
    "read_octets",
    "text_body",
]

AnyMessage: TypeAlias = "Message[Any, Any]"

#: Of a longer field so many characters are read.
_MAX_FIELD = 1_048_576
#: Deeper nested parts are not looked into.
_MAX_NESTING = 100
#: Parts of a message that are looked at.
_MAX_PARTS = 10_000


@attrs.frozen(repr=False)
class Attachment(ShowsFields):
    """A part of a message that is neither its text nor its HTML: a file, or an image that the HTML shows.

    Attributes:
        name: The file name, as the message has it: never a path to write to without a check. A part without a name is
            called ``part-2.png`` after its place and its type.
        content_type: Such as ``"application/pdf"``, lower case.
        content: The octets, decoded; of an attached message, the message.
    """

    name: str
    content_type: str
    content: bytes = attrs.field(repr=False)


def read_octets(octets: bytes) -> EmailMessage:
    """Parse a message; neither this function nor reading the message's fields and contents raises.

    The message is made with the SMTP policy, so it has `get_body`, `iter_attachments` and fields with structure. Parts
    nested more than 100 deep are not parsed: such a message has a header section, and the rest is its text.

    Args:
        octets: The message.
    """
    message: EmailMessage | None = _attempt(_parse, None, octets)
    return _attempt(_parse_headers, EmailMessage(policy=make_policy()), octets) if message is None else message


def message_text(message: AnyMessage, name: str) -> str:
    """Get the text of a header field: decoded, on one line, without surrogates.

    Octets that are not ASCII are read as UTF-8, as in mail with SMTPUTF8, or else as Latin-1. Of a field of more than
    1,048,576 characters the first 1,048,576 are read.

    Args:
        message: Any message.
        name: The field's name, in any case; of several fields the first is read.

    Returns:
        The text, ``""`` where there is no such field.
    """
    for source in _sources(message, name):
        return decode_words(_unfolded(source))
    return ""


def fields(message: AnyMessage) -> list[tuple[str, str]]:
    """Get all header fields in order: names as they were sent, texts as `message_text` gives them."""
    return [(_clean(name), decode_words(_unfolded(source))) for name, source in _raw_items(message)]


def field_addresses(message: AnyMessage, name: str) -> list[str]:
    """Get the addresses of a field such as To, without display names and brackets, in order, of all fields of the name.

    Args:
        message: Any message.
        name: The field's name, in any case.
    """
    found = (pair for source in _sources(message, name) for pair in mailboxes_in(_unfolded(source)))
    return [address or word for word, address in found]


def text_body(message: AnyMessage) -> str:
    """Get the plain text: that of the first text part that is no attachment; lines end with LF.

    Returns:
        ``""`` where the message has none; see `html_body` and `text_of_html`.
    """
    return _body(message, "text/plain")


def html_body(message: AnyMessage) -> str:
    """Get the HTML: that of the first HTML part that is no attachment; lines end with LF.

    Returns:
        ``""`` where the message has none.
    """
    return _body(message, "text/html")


def attachments(message: AnyMessage, *, limit: int | None = None) -> list[Attachment]:
    """Get the attachments, inline images included, in order.

    Args:
        message: Any message.
        limit: Octets of each content; what is longer is cut. None: no limit.
    """
    found: list[Attachment] = []
    seen: dict[str, int] = {}
    bodies: set[str] = set()
    for number, part in enumerate(_leaves(message), 1):
        kind = _content_type(part)
        if _is_body(part) and kind in ("text/plain", "text/html") and kind not in bodies:
            bodies.add(kind)
            continue
        name = _unused(_file_name(part) or f"part-{number}{_ending(kind)}", seen)
        content = _attempt(_octets, b"", part)
        found.append(Attachment(name, kind, content if limit is None else content[:limit]))
    return found


# Fields


def _raw_items(message: AnyMessage) -> list[tuple[str, str]]:
    return [(str(name), str(source)) for name, source in _attempt(message.raw_items, [])]


def _sources(message: AnyMessage, name: str) -> list[str]:
    return [source for key, source in _raw_items(message) if key.lower() == name.lower()]


def _unfolded(source: str) -> str:
    return " ".join(_clean(source[:_MAX_FIELD]).split())


def _clean(text: str) -> str:
    """Text that can be encoded: octets that were no ASCII are UTF-8, or else Latin-1."""
    if text.isascii():
        return text
    try:
        return decode_text(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # a surrogate that stands for no octet
        return text.encode("utf-8", "replace").decode()


# Parts


def _parse(octets: bytes) -> EmailMessage | None:
    """Parse the whole message; None: its parts are nested too deeply."""
    message: EmailMessage = message_from_bytes(octets, policy=make_policy())
    rest: list[tuple[Any, int]] = [(message, 1)]
    while rest:
        part, depth = rest.pop()
        if depth > _MAX_NESTING:
            return None
        payload = part.get_payload()
        if isinstance(payload, list):
            rest += [(inner, depth + 1) for inner in payload]
    return message


def _parse_headers(octets: bytes) -> EmailMessage:
    parser: Any = BytesParser(policy=make_policy())
    return cast("EmailMessage", parser.parsebytes(octets, headersonly=True))


def _leaves(message: AnyMessage) -> Iterator[AnyMessage]:
    """The parts that are no multiparts, in order; not those of an attached message, which is one part."""
    rest: list[tuple[Any, int]] = [(message, 1)]
    for _ in range(_MAX_PARTS):
        if not rest:
            return
        part, depth = rest.pop()
        payload = part.get_payload()
        if isinstance(payload, list) and not _content_type(part).startswith("message/"):
            if depth <= _MAX_NESTING:
                rest += [(inner, depth + 1) for inner in reversed(payload)]
        else:
            yield part


def _content_type(part: AnyMessage) -> str:
    """The type, lower case; that of a multipart whose parts could not be found is that of a text."""
    kind = _clean(_attempt(part.get_content_type, "application/octet-stream"))
    return kind if part.is_multipart() or not kind.startswith("multipart/") else "text/plain"


def _is_body(part: AnyMessage) -> bool:
    """Whether the part may be the text or the HTML of the message: it is no attachment and has no file name."""
    return _attempt(part.get_content_disposition, None) != "attachment" and not _file_name(part)


def _body(message: AnyMessage, kind: str) -> str:
    for part in _leaves(message):
        if _content_type(part) == kind and _is_body(part):
            return _text(part)
    return ""


def _file_name(part: Any) -> str:
    return _clean(_attempt(part.get_filename, None) or "")


def _text(part: Any) -> str:
    octets = _attempt(_octets, b"", part)
    return decode_text(octets, str(_attempt(part.get_content_charset, "utf-8", "utf-8")))


def _octets(part: Any) -> bytes:
    payload = part.get_payload()
    if isinstance(payload, list):
        return bytes(payload[0].as_bytes()) if payload else b""
    decoded = part.get_payload(decode=True)
    return decoded if isinstance(decoded, bytes) else b""


def _ending(kind: str) -> str:
    if kind == "message/rfc822":
        return ".eml"
    import mimetypes

    return mimetypes.guess_extension(kind) or ".bin"


def _unused(name: str, seen: dict[str, int]) -> str:
    """A name that no attachment had before: ``report.pdf``, ``report (2).pdf``."""
    stem, dot, ending = name.rpartition(".")
    candidate = name
    while candidate in seen:
        seen[name] += 1
        candidate = f"{stem} ({seen[name]}).{ending}" if dot else f"{name} ({seen[name]})"
    seen[candidate] = 1
    return candidate


def _attempt(read: Callable[..., Any], otherwise: Any, *args: Any) -> Any:
    try:
        return read(*args)
    except Exception:
        return otherwise
