"""Reads mail as people see it: text of fields, addresses, bodies, attachments, links, codes. Nothing in here raises.

A stranger's message may be broken in any way: two subjects, an unknown character set, a boundary that never comes,
parts nested a thousand deep. Each function gives what can be read, and an empty text or list where there is nothing.

The functions take any message of the package `email`; `read_octets` makes one that suits them best.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.utils import getaddresses
from html import unescape
from typing import Any, TypeAlias, cast

import attrs

from trio_smtp.app.mail_policy import make_policy
from trio_smtp.protocol.values import ShowsFields

__all__ = [
    "Attachment",
    "attachments",
    "code_in",
    "field_addresses",
    "fields",
    "html_body",
    "links",
    "message_text",
    "read_octets",
    "text_body",
    "text_of_html",
]

AnyMessage: TypeAlias = "Message[Any, Any]"

#: Of a longer field so many characters are read: the parsers of fields take time that grows faster than the field.
_MAX_FIELD = 8_192
#: Of a list of addresses that is longer so many characters are read, by a parser that takes less time.
_MAX_LIST = 1_048_576
#: Deeper nested parts are not looked into.
_MAX_NESTING = 100
#: Parts of a message that are looked at.
_MAX_PARTS = 10_000

_ADDRESS = re.compile(r"(?<![^\s<>,;:()\"\[\]\\@])[^\s<>,;:()\"\[\]\\@]{1,256}+@[^\s<>,;()\"\\@]{1,256}+")
# An attribute's value ends at its quote, or without quotes at a blank or the tag's end.
_HREF = re.compile(
    r"""<a\s[^<>]{0,4096}?\bhref\s{0,16}=\s{0,16}(?:"([^"]*+)"|'([^']*+)'|([^\s>"']++))""", re.IGNORECASE
)
_URL = re.compile(r"""\b[a-z][a-z0-9+.-]{1,30}://[^\s<>"'`{}|\\^]{1,2048}+""", re.IGNORECASE)
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(style|script|head|title)\b.*?(?:</\1\s*+>|\Z)", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(r"<(?:br|/p|/div|/tr|/li|/h[1-6]|/table)\b[^<>]*+>", re.IGNORECASE)
_TAG = re.compile(r"<[a-z/!?][^<>]*+(?:>|\Z)", re.IGNORECASE)
#: Makes a field of its name and its text, and never raises.
_make_field: Callable[[str, str], Any] = make_policy().header_factory
_OPENING = {")": "(", "]": "["}
_CODE = r"\b\d{4,8}\b"


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

    Octets that are not ASCII are read as UTF-8, as in mail with SMTPUTF8. Of a field of more than 8,192 characters the
    first 8,192 are read.

    Args:
        message: Any message.
        name: The field's name, in any case; of several fields the first is read.

    Returns:
        The text, ``""`` where there is no such field.
    """
    for text in _texts(message, name):
        return text
    return ""


def fields(message: AnyMessage) -> list[tuple[str, str]]:
    """Get all header fields in order: names as they were sent, texts as `message_text` gives them."""
    return [(_clean(name), _field_text(name, source)) for name, source in _raw_items(message)]


def field_addresses(message: AnyMessage, name: str) -> list[str]:
    """Get the addresses of a field such as To, without display names and brackets, in order, of all fields of the name.

    Args:
        message: Any message.
        name: The field's name, in any case.
    """
    return [address for source in _sources(message, name) for address in _addresses(name, source)]


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


def links(text: str, html: str = "") -> list[str]:
    """Find links: what has ``://`` in a text, then what anchors of HTML lead to; in order, none twice.

    Args:
        text: Plain text.
        html: HTML; links to a place in the page itself are left out.
    """
    found = [match[0].rstrip(".,;:!?") for match in _URL.finditer(text)]
    found = [_without_open_end(link) for link in found]
    for match in _HREF.finditer(html):
        link = unescape(match[1] or match[2] or match[3] or "").strip()
        if link and not link.startswith("#"):
            found.append(link)
    return list(dict.fromkeys(found))


def text_of_html(html: str) -> str:
    """Make text of HTML, as far as a search needs it: without tags, comments, styles and scripts."""
    shown = _UNSEEN.sub(" ", html)
    return unescape(_TAG.sub(" ", _BREAK.sub("\n", shown)))


def code_in(text: str, pattern: str | re.Pattern[str] = _CODE) -> str | None:
    """Find a code, such as the one that confirms an address.

    Args:
        text: Where to look.
        pattern: What a code looks like; what its first group matches is the code, where it has one.

    Returns:
        The first code, None where there is none.

    Raises:
        re.error: The pattern is none.
    """
    match = re.search(pattern, text)
    if match is None:
        return None
    return str(match[1] or "") if match.re.groups else match[0]


# Fields


def _raw_items(message: AnyMessage) -> list[tuple[str, str]]:
    return [(str(name), str(source)) for name, source in _attempt(message.raw_items, [])]


def _sources(message: AnyMessage, name: str) -> list[str]:
    return [source for key, source in _raw_items(message) if key.lower() == name.lower()]


def _texts(message: AnyMessage, name: str) -> Iterator[str]:
    for source in _sources(message, name):
        yield _field_text(name, source)


def _field_text(name: str, source: str) -> str:
    source = " ".join(_clean(source)[:_MAX_FIELD].split())
    return _clean(str(_make_field(name, source)))


def _clean(text: str) -> str:
    """Text that can be encoded: octets that were no ASCII are read as UTF-8; what is not UTF-8 is replaced."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape" if _escapes_only(text) else "replace").decode("utf-8", "replace")


def _escapes_only(text: str) -> bool:
    """Whether all surrogates in the text stand for octets."""
    return not any("\ud800" <= char < "\udc80" or "\udcff" < char <= "\udfff" for char in text)


def _addresses(name: str, source: str) -> list[str]:
    source = " ".join(_clean(source)[:_MAX_LIST].split())
    if len(source) <= _MAX_FIELD:
        field = _make_field(name, source)
        found = [_clean(each.addr_spec) for each in getattr(field, "addresses", ())]
    else:
        found = [address for _, address in _attempt(getaddresses, [], [source])]
    found = [each for each in found if each and each != "<>"]
    if found and all(" " not in each for each in found):
        return found
    return _ADDRESS.findall(source)


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
    charset = _attempt(part.get_content_charset, "utf-8", "utf-8")
    for name in (charset, "utf-8"):  # the name of a character set may not fit, or nobody knows it
        text: str | None = _attempt(octets.decode, None, name)
        if text is not None:
            break
    else:
        text = octets.decode("latin-1")
    return _clean(text.replace("\r\n", "\n"))


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


def _without_open_end(link: str) -> str:
    """A link without a bracket that closes one which stands before the link."""
    while link[-1:] in _OPENING and link.count(link[-1]) > link.count(_OPENING[link[-1]]):
        link = link[:-1].rstrip(".,;:!?")
    return link


def _attempt(read: Callable[..., Any], otherwise: Any, *args: Any) -> Any:
    try:
        return read(*args)
    except Exception:
        return otherwise
