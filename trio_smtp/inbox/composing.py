"""Makes messages of JSON, as ``POST /api/v1/send`` takes it."""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from collections.abc import Iterable
from email.headerregistry import Address as HeaderAddress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime, make_msgid
from typing import Any

import attrs

from trio_smtp import Address

from .store import Mailbox

__all__ = ["ComposeError", "Draft", "compose"]

_MAX_ADDRESSES = 10_000
_MAX_HEADERS = 500
_MAX_ATTACHMENTS = 500
#: Fields that are made of other members.
_RESERVED = frozenset(
    (
        "to",
        "from",
        "cc",
        "bcc",
        "reply-to",
        "date",
        "subject",
        "content-type",
        "mime-version",
        "content-transfer-encoding",
    )
)
_FIELD = re.compile(r"[!-9;-~]{1,200}", re.ASCII)
_TYPE = re.compile(r"([a-z0-9][a-z0-9!#$&^_.+-]{0,126})/([a-z0-9][a-z0-9!#$&^_.+-]{0,126})", re.ASCII)


class ComposeError(ValueError):
    """The JSON says nothing that a message can be made of; the text says why."""


@attrs.frozen
class Attachment:
    """What is attached.

    Attributes:
        content: The octets.
        filename: Its name, or ``""``.
        content_type: Such as ``"image/png"``; ``""``: what the name says.
        content_id: What the HTML calls it; ``""``: it is not shown inside the message.
    """

    content: bytes
    filename: str
    content_type: str
    content_id: str


@attrs.frozen(kw_only=True)
class Draft:
    """What a message is made of."""

    sender: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str
    text: str
    html: str
    tags: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    attachments: tuple[Attachment, ...]

    @property
    def recipients(self) -> tuple[str, ...]:
        """All addresses that the message is for."""
        return tuple(box.address for box in (*self.to, *self.cc, *self.bcc))

    @classmethod
    def from_json(cls, data: Any) -> Draft:
        """Read the body of a request.

        Raises:
            ComposeError: A member is missing or malformed.
        """
        if not isinstance(data, dict):
            raise ComposeError("the body must be a JSON object")
        if data.get("From") is None:
            raise ComposeError("From is missing")
        headers = _object(data.get("Headers"), "Headers")
        if len(headers) > _MAX_HEADERS:
            raise ComposeError(f"Headers has more than {_MAX_HEADERS} members")
        return cls(
            sender=_box(data["From"], "From"),
            to=_boxes(data, "To"),
            cc=_boxes(data, "Cc"),
            bcc=tuple(_box({"Email": each}, "Bcc") for each in _list(data, "Bcc", _MAX_ADDRESSES)),
            reply_to=_boxes(data, "ReplyTo"),
            subject=_line(_text(data.get("Subject"), "Subject")),
            text=_text(data.get("Text"), "Text"),
            html=_text(data.get("HTML"), "HTML"),
            tags=tuple(_line(_text(each, "Tags")) for each in _list(data, "Tags", 100)),
            headers=tuple(_header(name, value) for name, value in headers.items()),
            attachments=tuple(_attachment(each) for each in _list(data, "Attachments", _MAX_ATTACHMENTS)),
        )


def compose(draft: Draft) -> bytes:
    """Make the message: lines end with CRLF, Bcc is left out.

    Raises:
        ComposeError: The package `email` cannot make it.
    """
    try:
        return _message(draft).as_bytes()
    except (ValueError, TypeError, IndexError, LookupError, AttributeError) as error:
        raise ComposeError(f"error building message: {error}") from error


def _message(draft: Draft) -> EmailMessage:
    message = EmailMessage(policy=SMTP.clone(utf8=any(not each.isascii() for each in _addresses(draft))))
    message["From"] = _header_addresses([draft.sender])
    for name, boxes in (("To", draft.to), ("Cc", draft.cc), ("Reply-To", draft.reply_to)):
        if boxes:
            message[name] = _header_addresses(boxes)
    message["Subject"] = draft.subject
    message["Date"] = format_datetime(localtime())
    if not any(name.lower() == "message-id" for name, _ in draft.headers):
        message["Message-ID"] = make_msgid(domain="trio-smtp.localhost")
    if draft.tags:
        message["X-Tags"] = ", ".join(draft.tags)
    for name, value in draft.headers:
        message[name] = value
    message.set_content(draft.text)
    if draft.html:
        message.add_alternative(draft.html, subtype="html")
    for each in draft.attachments:
        _attach(message, each)
    return message


def _attach(message: EmailMessage, attachment: Attachment) -> None:
    kind = attachment.content_type or mimetypes.guess_type(attachment.filename)[0] or ""
    match = _TYPE.fullmatch(kind.lower())
    maintype, subtype = (match[1], match[2]) if match is not None else ("application", "octet-stream")
    if maintype in ("multipart", "message"):
        maintype, subtype = "application", "octet-stream"
    options: dict[str, Any] = {"filename": attachment.filename} if attachment.filename else {}
    if attachment.content_id:
        options |= {"cid": f"<{attachment.content_id}>", "disposition": "inline"}
    message.add_attachment(attachment.content, maintype=maintype, subtype=subtype, **options)


def _addresses(draft: Draft) -> Iterable[str]:
    return (draft.sender.address, *draft.recipients, *(box.address for box in draft.reply_to))


def _header_addresses(boxes: Iterable[Mailbox]) -> list[HeaderAddress]:
    return [_header_address(box.name, box.address) for box in boxes]


def _header_address(name: str, address: str) -> HeaderAddress:
    if address.isascii():
        return HeaderAddress(name, addr_spec=address)
    local, _, domain = address.rpartition("@")  # the parser of addresses takes ASCII alone
    return HeaderAddress(name, username=local, domain=domain)


def _clean(text: str) -> str:
    """Without what UTF-8 cannot say."""
    return text.encode("utf-8", "replace").decode()


def _line(text: str) -> str:
    """Without line ends, and other control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ComposeError(f"{name} must be a string")
    return _clean(value)


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ComposeError(f"{name} must be an object")
    return value


def _list(data: dict[str, Any], name: str, most: int) -> list[Any]:
    value = data.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ComposeError(f"{name} must be a list")
    if len(value) > most:
        raise ComposeError(f"{name} has more than {most:,} members")
    return value


def _boxes(data: dict[str, Any], name: str) -> tuple[Mailbox, ...]:
    return tuple(_box(each, name) for each in _list(data, name, _MAX_ADDRESSES))


def _box(value: Any, name: str) -> Mailbox:
    members = _object(value, name)
    address = _text(members.get("Email"), f"{name}: Email")
    try:
        Address.parse(address)
        _header_address("", address)
    except Exception:
        raise ComposeError(f"invalid {name} address: {address[:200]}") from None
    return Mailbox(_line(_text(members.get("Name"), f"{name}: Name")), address)


def _header(name: str, value: Any) -> tuple[str, str]:
    if not _FIELD.fullmatch(name):
        raise ComposeError(f"Headers: {name[:200]!a} is no name of a header field")
    if name.lower() in _RESERVED:
        raise ComposeError(f'cannot overwrite header: "{name}"')
    return name, _line(_text(value, f"Headers: {name}"))


def _attachment(value: Any) -> Attachment:
    members = _object(value, "Attachments")
    filename = _line(_text(members.get("Filename") or members.get("FileName"), "Attachments: Filename"))
    # JavaScript's readAsDataURL puts the type before it: data:image/png;base64,...
    encoded = _text(members.get("Content"), "Attachments: Content").rpartition(",")[2]
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ComposeError(f'error decoding base64 attachment "{filename}": {error}') from None
    return Attachment(
        content,
        filename,
        _line(_text(members.get("ContentType"), "Attachments: ContentType")).strip(),
        re.sub(r"[<>\s]", "", _line(_text(members.get("ContentID"), "Attachments: ContentID"))),
    )
