"""The formats in which a webhook posts a message: each is a function that makes a request's body.

A format never refuses a message. What can be read of it is in its fields (`trio_smtp.reading`), and the octets are in
the body whatever they are: in base64, or as they came.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import getaddresses
from typing import Any
from urllib.parse import quote

import attrs

from trio_smtp.reading import (
    Attachment,
    attachments,
    field_addresses,
    fields,
    html_body,
    message_text,
    read_octets,
    text_body,
)

__all__ = ["FORMATS", "Body", "Format", "Posted"]

#: Characters of an address that a header field has as they are.
_PLAIN = "@!#$&'*+-/=?^_`{|}~."
#: The largest integer that JavaScript reads exactly has 53 bits.
_INTEGER_BITS = 53


@attrs.frozen
class Posted:
    """A message that is to be posted.

    Attributes:
        id: The webhook-id.
        timestamp: Seconds since 1970, of this attempt.
        mail_from: The sender; ``""`` for the null sender.
        rcpt_to: The recipients.
        message: The message without the fields of `trace`; it is what is parsed.
        trace: Return-Path, Delivered-To and Received fields that stand in front of it, or nothing.
        session: What is known of the client, as JSON has it.
        key: The first secret as it was given; Mailgun's signature needs the text.
    """

    id: str
    timestamp: int
    mail_from: str
    rcpt_to: tuple[str, ...]
    message: bytes = attrs.field(repr=False)
    trace: bytes = attrs.field(repr=False)
    session: Mapping[str, object]
    key: bytes = attrs.field(repr=False)

    @property
    def raw(self) -> bytes:
        """The message with the trace fields in front."""
        return self.trace + self.message


@attrs.frozen
class Body:
    """A request's body, its Content-Type, and what header fields it needs besides."""

    content: bytes = attrs.field(repr=False)
    content_type: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


#: Makes a request's body of a message.
Format = Callable[[Posted], Body]


@attrs.frozen
class _Parsed:
    """What can be read of a message."""

    fields: list[tuple[str, str]] = attrs.field(factory=list)
    subject: str = ""
    date: str = ""
    message_id: str = ""
    addresses: Mapping[str, list[str]] = attrs.field(factory=dict)
    #: The text of each field of addresses, display names included.
    named: Mapping[str, str] = attrs.field(factory=dict)
    text: str = ""
    html: str = ""
    attachments: list[Attachment] = attrs.field(factory=list)


def _parse(octets: bytes) -> _Parsed:
    """Read a message. One that cannot be read has nothing in its fields: its octets are posted all the same."""
    try:
        message = read_octets(octets)
        names = ("From", "To", "Cc", "Bcc", "Reply-To")
        return _Parsed(
            fields(message),
            message_text(message, "Subject"),
            message_text(message, "Date"),
            message_text(message, "Message-ID"),
            {name: field_addresses(message, name) for name in names},
            {name: message_text(message, name) for name in names},
            text_body(message),
            html_body(message),
            attachments(message),
        )
    except Exception:  # noqa: BLE001 - a stranger's mail is posted, whatever a parser makes of it
        return _Parsed()


def _json(value: object) -> Body:
    return Body(json.dumps(value, separators=(",", ":")).encode(), "application/json")


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _as_json(mail: Posted) -> Body:
    """The envelope, what can be read of the message, and its octets in base64."""
    parsed = _parse(mail.message)
    message = {
        "subject": parsed.subject,
        "date": parsed.date,
        "message_id": parsed.message_id,
        "from": parsed.addresses.get("From", []),
        "to": parsed.addresses.get("To", []),
        "cc": parsed.addresses.get("Cc", []),
        "reply_to": parsed.addresses.get("Reply-To", []),
        "headers": parsed.fields,
        "text": parsed.text,
        "html": parsed.html,
        "attachments": [
            {
                "name": each.name,
                "content_type": each.content_type,
                "size": len(each.content),
                "content": _base64(each.content),
            }
            for each in parsed.attachments
        ],
    }
    data = {
        "id": mail.id,
        "envelope": {"mail_from": mail.mail_from, "rcpt_to": mail.rcpt_to},
        "session": mail.session,
        "message": message,
        "raw": _base64(mail.raw),
    }
    when = datetime.fromtimestamp(mail.timestamp, UTC).isoformat().replace("+00:00", "Z")
    return _json({"type": "message.received", "timestamp": when, "data": data})


def _raw(mail: Posted) -> Body:
    """The octets as they are; the envelope is in two header fields, percent-encoded so that no value can end a line."""
    headers = {
        "x-envelope-from": quote(mail.mail_from, safe=_PLAIN),
        "x-envelope-to": ", ".join(quote(recipient, safe=_PLAIN) for recipient in mail.rcpt_to),
    }
    return Body(mail.raw, "message/rfc822", headers)


def _postmark(mail: Posted) -> Body:
    """Postmark's inbound JSON with RawEmail.

    RawEmail is text. Of a message that is not UTF-8 it has U+FFFD for each octet that is not; RawEmailBase64, which
    Postmark does not have, then has the octets.
    """
    parsed = _parse(mail.message)
    people = {name: _people(parsed, name) for name in ("From", "To", "Cc", "Bcc")}
    value: dict[str, Any] = {
        "FromName": people["From"][0]["Name"] if people["From"] else "",
        "MessageStream": "inbound",
        "From": people["From"][0]["Email"] if people["From"] else "",
        "FromFull": people["From"][0] if people["From"] else _person("", ""),
        **{name: parsed.named.get(name, "") for name in ("To", "Cc", "Bcc")},
        **{f"{name}Full": people[name] for name in ("To", "Cc", "Bcc")},
        "OriginalRecipient": ", ".join(mail.rcpt_to),
        "Subject": parsed.subject,
        "MessageID": mail.id,
        "ReplyTo": parsed.named.get("Reply-To", ""),
        "MailboxHash": people["To"][0]["MailboxHash"] if people["To"] else "",
        "Date": parsed.date,
        "TextBody": parsed.text,
        "HtmlBody": parsed.html,
        "StrippedTextReply": "",
        "Tag": "",
        "Headers": [
            {"Name": name, "Value": text} for name, text in [("Return-Path", f"<{mail.mail_from}>"), *parsed.fields]
        ],
        "Attachments": [
            {
                "Name": each.name,
                "Content": _base64(each.content),
                "ContentType": each.content_type,
                "ContentLength": len(each.content),
            }
            for each in parsed.attachments
        ],
    }
    try:
        value["RawEmail"] = mail.raw.decode()
    except UnicodeDecodeError:
        value["RawEmail"] = mail.raw.decode("utf-8", "replace")
        value["RawEmailBase64"] = _base64(mail.raw)
    return _json(value)


def _people(parsed: _Parsed, name: str) -> list[dict[str, str]]:
    try:
        names = {address: display for display, address in getaddresses([parsed.named.get(name, "")])}
    except Exception:  # noqa: BLE001 - comments a thousand deep, say: the addresses do without names
        names = {}
    return [_person(address, names.get(address, "")) for address in parsed.addresses.get(name, [])]


def _person(address: str, name: str) -> dict[str, str]:
    """A person as Postmark writes one; MailboxHash is what follows the plus sign of a local part."""
    return {"Email": address, "Name": name, "MailboxHash": address.rpartition("@")[0].partition("+")[2]}


def _mailgun_mime(mail: Posted) -> Body:
    """Mailgun's form of a route that ends in ``mime``, with the signature that Mailgun makes."""
    parsed = _parse(mail.message)
    timestamp = str(mail.timestamp)
    # Receivers refuse a token that they have seen, so each attempt has its own.
    token = hashlib.sha256(f"{mail.id}.{secrets.token_hex(16)}".encode()).hexdigest()[:50]
    signature = hmac.new(mail.key, (timestamp + token).encode(), hashlib.sha256).hexdigest()
    return _form(
        [
            ("recipient", ", ".join(mail.rcpt_to).encode()),
            ("sender", mail.mail_from.encode()),
            ("from", parsed.named.get("From", "").encode()),
            ("subject", parsed.subject.encode()),
            ("timestamp", timestamp.encode()),
            ("token", token.encode()),
            ("signature", signature.encode()),
            ("message-headers", json.dumps(parsed.fields).encode()),
            ("body-mime", mail.raw),
        ]
    )


def _sendgrid_raw(mail: Posted) -> Body:
    """The form of SendGrid's Inbound Parse with "POST the raw, full MIME message"."""
    parsed = _parse(mail.message)
    return _form(
        [
            ("to", parsed.named.get("To", "").encode()),
            ("cc", parsed.named.get("Cc", "").encode()),
            ("from", parsed.named.get("From", "").encode()),
            ("subject", parsed.subject.encode()),
            ("sender_ip", str(mail.session.get("remote_address") or "").encode()),
            ("envelope", json.dumps({"to": mail.rcpt_to, "from": mail.mail_from}).encode()),
            ("charsets", b'{"to":"UTF-8","cc":"UTF-8","from":"UTF-8","subject":"UTF-8"}'),
            ("email", mail.raw),
        ]
    )


def _postal(mail: Posted) -> Body:
    """The JSON of Postal's HTTP endpoint for raw messages."""
    return _json(
        {
            "id": int(hashlib.sha256(mail.id.encode()).hexdigest(), 16) % (1 << _INTEGER_BITS),
            "mail_from": mail.mail_from,
            "rcpt_to": ", ".join(mail.rcpt_to),
            "message": _base64(mail.raw),
            "base64": True,
            "size": len(mail.raw),
        }
    )


def _form(parts: Iterable[tuple[str, bytes]]) -> Body:
    """A multipart/form-data of fields (RFC 7578); nobody who writes a value can know the boundary."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for name, value in parts:
        pieces += [b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n' % (boundary.encode(), name.encode())]
        pieces += [value, b"\r\n"]
    pieces.append(b"--%b--\r\n" % boundary.encode())
    return Body(b"".join(pieces), f"multipart/form-data; boundary={boundary}")


#: The formats by their names.
FORMATS: Mapping[str, Format] = {
    "json": _as_json,
    "raw": _raw,
    "postmark": _postmark,
    "mailgun-mime": _mailgun_mime,
    "sendgrid-raw": _sendgrid_raw,
    "postal": _postal,
}
