"""The OpenAPI description, made of the table of operations."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import trio_smtp

from .operations import OPERATIONS, Operation

__all__ = ["description"]

_PARAMETER = re.compile(r"\{(\w+)\}")
#: What the layers around the operations answer.
_EVERYWHERE = {
    414: "The query is too long.",
    421: "The Host is not this server's.",
    503: "The database cannot be used.",
}


@cache
def description() -> dict[str, Any]:
    """The description, OpenAPI 3.0."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "trio-smtp inbox",
            "version": trio_smtp.__version__,
            "description": "Mailpit's API v1, and a few paths more. The websocket /api/events tells of changes.",
        },
        "paths": paths,
    }


def _described(operation: Operation) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in operation.required, "schema": schema}
        for name, schema in operation.query.items()
    ]
    problems = dict(operation.problems)
    if operation.method not in ("GET", "HEAD"):
        problems[403] = "The Origin is another one."
    responses: dict[str, Any] = {
        str(operation.status): {
            "description": "As asked.",
            **({"content": {operation.answers: {}}} if operation.answers else {}),
        },
        **{str(status): {"description": text} for status, text in sorted((problems | _EVERYWHERE).items())},
    }
    described: dict[str, Any] = {"summary": operation.summary, "parameters": parameters, "responses": responses}
    if operation.body is not None:
        described["requestBody"] = {"content": {operation.body_type: {"schema": operation.body}}}
    return described
