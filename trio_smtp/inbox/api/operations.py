"""The table of all operations: the routes and the OpenAPI description are made of it, so that both say the same."""

from __future__ import annotations

from typing import Any

import attrs

from . import exporting, info, message, messages, rules, sending, tags, views, waiting
from .service import Endpoint

__all__ = ["OPERATIONS", "Operation"]

_TEXT, _INTEGER = {"type": "string"}, {"type": "integer", "minimum": 0}
_STRINGS = {"type": "array", "items": _TEXT, "nullable": True}
_QUERY = {"query": {"type": "string", "maxLength": 2000}, "tz": _TEXT}
_RANGE = {"start": _INTEGER, "limit": _INTEGER}
_BOX = {"type": "object", "properties": {"Name": _TEXT, "Email": _TEXT}, "required": ["Email"]}
_BOXES = {"type": "array", "items": _BOX, "nullable": True}
_TRIGGER = {
    "type": "object",
    "properties": {
        "ErrorCode": {"type": "integer", "minimum": 400, "maximum": 599},
        "Probability": {"type": "integer", "minimum": 0, "maximum": 100},
    },
}
_DRAFT = {
    "type": "object",
    "required": ["From"],
    "properties": {
        "From": _BOX,
        "To": _BOXES,
        "Cc": _BOXES,
        "ReplyTo": _BOXES,
        "Bcc": _STRINGS,
        "Subject": _TEXT,
        "Text": _TEXT,
        "HTML": _TEXT,
        "Tags": _STRINGS,
        "Headers": {"type": "object", "additionalProperties": _TEXT},
        "Attachments": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["Content"],
                "properties": {
                    "Content": {"type": "string", "description": "base64"},
                    "Filename": _TEXT,
                    "ContentType": _TEXT,
                    "ContentID": _TEXT,
                },
            },
        },
    },
}
_RULE = {"oneOf": [{"type": "string"}, {"type": "object"}]}


def _object(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members}


@attrs.frozen(kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        method: The HTTP method.
        path: With ``{id}``, ``{part}``, ``{tag}``.
        handler: Answers it.
        summary: What it does.
        query: The parameters in the URL, with their schemas.
        required: Those of them that must be there.
        body: The schema of a body in JSON; None: it takes none.
        body_type: The body's media type.
        answers: The media type of its answer when it goes well; ``""`` for one without a body.
        status: The status then.
        problems: Other statuses, with what they mean.
    """

    method: str
    path: str
    handler: Endpoint
    summary: str
    query: dict[str, Any] = attrs.field(factory=dict)
    required: frozenset[str] = frozenset()
    body: dict[str, Any] | None = None
    body_type: str = "application/json"
    answers: str = "application/json"
    status: int = 200
    problems: dict[int, str] = attrs.field(factory=dict)


_MISSING = {404: "It is not there."}
_MALFORMED = {400: "The request is malformed; the text says why."}
_LARGE = {413: "The body is too large."}
_FULL = {507: "The disk is full; nothing was changed."}
_CHANGE = _MALFORMED | _LARGE | _FULL
_PLAIN = "text/plain"
_ONE = "/api/v1/message/{id}"


def _get(path: str, handler: Endpoint, summary: str, **more: Any) -> Operation:
    return Operation(method="GET", path=path, handler=handler, summary=summary, **more)


def _one(path: str, handler: Endpoint, summary: str, **more: Any) -> Operation:
    more.setdefault("problems", _MISSING | _MALFORMED)
    return _get(f"{_ONE}{path}", handler, summary, query=_QUERY, **more)


def _change(method: str, path: str, handler: Endpoint, summary: str, **more: Any) -> Operation:
    more.setdefault("answers", _PLAIN)
    more.setdefault("problems", _CHANGE)
    return Operation(method=method, path=path, handler=handler, summary=summary, **more)


_REQUIRED = frozenset({"query"})
_NOT_OFFERED: dict[str, Any] = {"status": 501, "problems": {}}

#: All of them.
OPERATIONS: tuple[Operation, ...] = (
    _get("/api/v1/messages", messages.list_messages, "List messages, newest first", query=_RANGE),
    _change(
        "PUT",
        "/api/v1/messages",
        messages.set_read,
        "Mark messages as read or unread: those of IDs, those that Search finds, or all",
        query={"tz": _TEXT},
        body=_object(Read={"type": "boolean"}, IDs=_STRINGS, Search=_TEXT),
    ),
    _change(
        "DELETE", "/api/v1/messages", messages.delete_messages, "Delete messages, or all", body=_object(IDs=_STRINGS)
    ),
    _get(
        "/api/v1/search",
        messages.search,
        "Search messages",
        query=_QUERY | _RANGE,
        required=_REQUIRED,
        problems=_MALFORMED,
    ),
    _change(
        "DELETE",
        "/api/v1/search",
        messages.delete_found,
        "Delete what a search finds",
        query=_QUERY,
        required=_REQUIRED,
    ),
    _get("/api/v1/failures", messages.failures, "List what was refused and what broke", query=_RANGE),
    _get(
        "/api/v1/wait",
        waiting.wait,
        "Wait for a message that a search finds",
        query=_QUERY | {"timeout": {"type": "number", "minimum": 0, "maximum": 300}},
        problems=_MALFORMED | {408: "None came in time.", 503: "Too many clients wait."},
    ),
    _get(
        "/api/v1/export",
        exporting.export,
        "A tar archive with a Maildir",
        query=_QUERY,
        answers="application/x-tar",
        problems=_MALFORMED,
    ),
    _change(
        "POST",
        "/api/v1/import",
        sending.import_message,
        "Store a message as it is",
        body=_TEXT,
        body_type="message/rfc822",
        answers="application/json",
    ),
    _change(
        "POST", "/api/v1/send", sending.send, "Make a message and store it", body=_DRAFT, answers="application/json"
    ),
    _one("", message.get_message, "A whole message; marks it as read"),
    _one("/headers", message.headers, "The header fields"),
    _one("/raw", message.raw, "The message as it was sent", answers=_PLAIN),
    _one("/parts", message.parts, "The tree of parts"),
    _one("/part/{part}", message.part, "The content of a part", answers="*/*"),
    _one("/part/{part}/thumb", message.thumb, "A small picture of a part", answers="image/jpeg"),
    _one("/envelope", message.envelope, "What was said before the message"),
    _one("/transcript", message.transcript, "The SMTP dialogue"),
    _change(
        "POST",
        f"{_ONE}/release",
        message.release,
        "Pass the message on to the relay",
        query=_QUERY,
        body=_object(To=_STRINGS),
        problems=_CHANGE | _MISSING,
    ),
    _one("/html-check", message.not_offered, "Not offered", **_NOT_OFFERED),
    _one("/link-check", message.not_offered, "Not offered", **_NOT_OFFERED),
    _one("/sa-check", message.not_offered, "Not offered", **_NOT_OFFERED),
    _get("/api/v1/tags", tags.list_tags, "All tags"),
    _change("PUT", "/api/v1/tags", tags.set_tags, "Tag messages", body=_object(IDs=_STRINGS, Tags=_STRINGS)),
    _change(
        "PUT",
        "/api/v1/tags/{tag}",
        tags.rename_tag,
        "Rename a tag",
        body=_object(Name=_TEXT),
        problems=_CHANGE | _MISSING,
    ),
    _change("DELETE", "/api/v1/tags/{tag}", tags.delete_tag, "Delete a tag", problems=_FULL | _MISSING),
    _get("/api/v1/info", info.info, "What the server is and has"),
    _get("/api/v1/webui", info.web_ui, "How the server is set up"),
    _get("/api/v1/chaos", rules.get_chaos, "Mailpit's triggers"),
    _change(
        "PUT",
        "/api/v1/chaos",
        rules.put_chaos,
        "Set Mailpit's triggers; what is left out is reset",
        body=_object(Authentication=_TRIGGER, Recipient=_TRIGGER, Sender=_TRIGGER),
        answers="application/json",
        problems=_MALFORMED | _LARGE,
    ),
    _get("/api/v1/rules", rules.get_rules, "The rules of failures"),
    _change(
        "PUT",
        "/api/v1/rules",
        rules.put_rules,
        "Replace all rules",
        body={"type": "array", "items": _RULE},
        answers="application/json",
        problems=_MALFORMED | _LARGE,
    ),
    _change(
        "POST",
        "/api/v1/rules",
        rules.add_rule,
        "Add a rule",
        body=_RULE,
        answers="application/json",
        problems=_MALFORMED | _LARGE,
    ),
    _change("DELETE", "/api/v1/rules", rules.delete_rules, "Delete all rules", problems={}),
    _change("DELETE", "/api/v1/rules/{rule}", rules.delete_rule, "Delete a rule", problems=_MISSING),
    _get(
        "/view/{id}.html",
        views.view_html,
        "The HTML of a message",
        query=_QUERY | {"embed": _TEXT, "remote": _TEXT},
        answers="text/html",
        problems=_MISSING | _MALFORMED,
    ),
    _get(
        "/view/{id}.txt",
        views.view_text,
        "The text of a message",
        query=_QUERY,
        answers=_PLAIN,
        problems=_MISSING | _MALFORMED,
    ),
    _get(
        "/view/latest",
        views.latest,
        "Leads to the page of the newest message",
        query=_QUERY,
        answers="",
        status=302,
        problems=_MISSING | _MALFORMED,
    ),
    _get("/livez", info.live, "The server lives", answers=_PLAIN),
    _get("/readyz", info.ready, "The database can be read", answers=_PLAIN),
)
