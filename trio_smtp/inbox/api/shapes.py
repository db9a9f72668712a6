"""What answers look like in JSON: names and cases are Mailpit's; `State`, `Reply`, `Links` and `Truncated` are ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from trio_smtp.inbox.reading import Mail, Part, headline_of, read_mail
from trio_smtp.inbox.store import Mailbox, Page, Summary, Totals
from trio_smtp.inbox.texts import links_of

__all__ = ["listing", "message", "parts", "summary"]

_LINK = re.compile(r"<([^<>]{1,2000})>")
_UNSUBSCRIBE = ("http://", "https://", "mailto:")


def summary(row: Summary) -> dict[str, Any]:
    """A row of a list."""
    headline = row.headline
    return {
        "ID": row.id,
        "MessageID": headline.message_id,
        "Read": row.read,
        "From": _box(headline.sender),
        "To": _boxes(headline.to),
        "Cc": _boxes(headline.cc),
        "Bcc": _boxes(headline.bcc),
        "ReplyTo": _boxes(headline.reply_to),
        "Subject": headline.subject,
        "Created": _time(row.created),
        "Username": row.username,
        "Tags": list(row.tags),
        "Size": row.size,
        "Attachments": headline.attachments,
        "Snippet": headline.snippet,
        "State": row.state,
        "Reply": row.reply,
    }


def listing(page: Page, totals: Totals, tags: Iterable[str], start: int) -> dict[str, Any]:
    """A part of a list."""
    return {
        "total": totals.total,
        "unread": totals.unread,
        "count": len(page.rows),
        "messages_count": page.count,
        "messages_unread": page.unread,
        "start": start,
        "tags": list(tags),
        "messages": [summary(row) for row in page.rows],
    }


def message(row: Summary, octets: bytes, envelope: dict[str, Any]) -> dict[str, Any]:
    """A whole message. Reading it may take long: call this function in a thread."""
    mail = read_mail(octets)
    headline = headline_of(mail, tuple(each["Address"] for each in envelope["Recipients"]), row.username)
    date = mail.date
    text, html = mail.text, mail.html
    return {
        "ID": row.id,
        "MessageID": headline.message_id,
        "From": _box(headline.sender if octets else row.headline.sender),
        "To": _boxes(headline.to if octets else row.headline.to),
        "Cc": _boxes(headline.cc),
        "Bcc": _boxes(headline.bcc if octets else ()),
        "ReplyTo": _boxes(headline.reply_to),
        "ReturnPath": envelope["Sender"],
        "Subject": headline.subject,
        "ListUnsubscribe": _unsubscribe(mail),
        "Date": _time(row.created) if date is None else date.isoformat(),
        "Tags": list(row.tags),
        "Username": row.username,
        "Text": text,
        "HTML": html,
        "Size": row.size,
        "Inline": [_attachment(part) for part in mail.inline],
        "Attachments": [_attachment(part) for part in mail.attachments],
        "Links": links_of(text, html),
        "State": row.state,
        "Reply": row.reply,
    }


def parts(mail: Mail) -> list[dict[str, Any]]:
    """The tree of a message's parts."""
    return [
        {
            "PartID": part.id,
            "Depth": part.depth,
            "ContentType": part.content_type,
            "FileName": part.filename,
            "ContentID": part.content_id,
            "Charset": part.charset,
            "Kind": part.kind,
            "Size": 0 if part.multipart else len(part.content),
        }
        for part in mail.parts
    ]


def _attachment(part: Part) -> dict[str, Any]:
    content = part.content
    return {
        "PartID": part.id,
        "FileName": part.filename or part.content_id,
        "ContentType": part.content_type,
        "ContentID": part.content_id,
        "Size": len(content),
        "Checksums": {
            "MD5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            "SHA1": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
            "SHA256": hashlib.sha256(content).hexdigest(),
        },
    }


def _box(box: Mailbox | None) -> dict[str, str] | None:
    return None if box is None else {"Name": box.name, "Address": box.address}


def _boxes(boxes: Iterable[Mailbox]) -> list[dict[str, str]]:
    return [{"Name": box.name, "Address": box.address} for box in boxes]


def _time(seconds: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unsubscribe(mail: Mail) -> dict[str, Any]:
    """List-Unsubscribe, and what is wrong with it (RFC 2369, RFC 8058)."""
    header, post = mail.field("list-unsubscribe"), mail.field("list-unsubscribe-post")
    links = _LINK.findall(header)[:10]
    errors = ""
    if header and not links:
        errors = "List-Unsubscribe has no link in angle brackets"
    elif not all(link.lower().startswith(_UNSUBSCRIBE) for link in links):
        errors = "List-Unsubscribe has a link that is neither http, https nor mailto"
    elif post and post.strip().lower() != "list-unsubscribe=one-click":
        errors = "List-Unsubscribe-Post must be List-Unsubscribe=One-Click"
    return {"Header": header, "Links": links, "Errors": errors, "HeaderPost": post}
