"""Failures: the rules, and Mailpit's chaos, whose three triggers are rules of their own."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trio_smtp.plugins.faults import Fail, Place, Rule, RuleError, Rules, format_rule, rule_to_json

from .service import Problem, Service, json_of, json_response, member, ok

__all__ = ["add_rule", "delete_rule", "delete_rules", "get_chaos", "get_rules", "put_chaos", "put_rules", "shown_rule"]

_MAX_RULES = 1_000
#: Octets of one rule; all of them are shown on one page.
_MAX_RULE = 16_384
#: What a trigger of Mailpit's is here: where, its id, and its usual code.
_TRIGGERS: dict[str, tuple[Place, str, int]] = {
    "Authentication": ("auth", "chaos-authentication", 535),
    "Recipient": ("rcpt", "chaos-recipient", 451),
    "Sender": ("mail", "chaos-sender", 451),
}


async def get_rules(service: Service, _: Request) -> Response:
    """GET /api/v1/rules."""
    return json_response([shown_rule(rule) for rule in service.inbox.rules])


async def put_rules(service: Service, request: Request) -> Response:
    """PUT /api/v1/rules."""
    data = await json_of(request)
    if not isinstance(data, list):
        raise Problem(400, "the body must be a list of rules", as_json=True)
    _check_count(len(data))
    return _changed(lambda rules: rules.replace([_read(each) for each in data]), service)


async def add_rule(service: Service, request: Request) -> Response:
    """POST /api/v1/rules."""
    data = await json_of(request, _MAX_RULE)
    _check_count(len(service.inbox.rules) + 1)
    return _changed(lambda rules: [rules.add(_read(data))], service)


async def delete_rules(service: Service, _: Request) -> Response:
    """DELETE /api/v1/rules."""
    service.inbox.rules.clear()
    return ok()


async def delete_rule(service: Service, request: Request) -> Response:
    """DELETE /api/v1/rules/{id}."""
    try:
        service.inbox.rules.remove(request.path_params["rule"])
    except KeyError:
        raise Problem(404, "rule not found") from None
    return ok()


def _check_count(count: int) -> None:
    if count > _MAX_RULES:
        raise Problem(400, f"there are at most {_MAX_RULES:,} rules", as_json=True)


def _changed(change: Any, service: Service) -> Response:
    try:
        return json_response([shown_rule(rule) for rule in change(service.inbox.rules)])
    except RuleError as error:
        raise Problem(400, str(error), as_json=True) from None


def _read(data: Any) -> Any:
    """A rule as the API takes it: a line, or an object, with or without what `shown_rule` adds."""
    if isinstance(data, str):
        return data
    if not isinstance(data, dict):
        raise RuleError("a rule must be a line of text, or an object")
    return {name: value for name, value in data.items() if name not in ("hits", "line")}


def shown_rule(rule: Rule) -> dict[str, Any]:
    """A rule as the API shows it."""
    try:
        return {**rule_to_json(rule), "hits": rule.hits, "line": format_rule(rule)}
    except RuleError:
        # A filter that is a function of Python's: it can be looked at, and deleted.
        return {"id": rule.id, "at": rule.at, "act": rule.act.name, "hits": rule.hits, "line": None}


async def get_chaos(service: Service, _: Request) -> Response:
    """GET /api/v1/chaos."""
    return json_response(_triggers(service.inbox.rules))


async def put_chaos(service: Service, request: Request) -> Response:
    """PUT /api/v1/chaos."""
    data = await json_of(request)
    wanted = {name: member(data, name, dict, {}) for name in _TRIGGERS}
    made: list[Rule] = []
    for name, (place, identifier, usual) in _TRIGGERS.items():
        code = member(wanted[name], "ErrorCode", int, 0) or usual
        probability = member(wanted[name], "Probability", int, 0)
        if not 400 <= code <= 599:
            raise Problem(400, f"{name}: ErrorCode must be from 400 to 599")
        if not 0 <= probability <= 100:
            raise Problem(400, f"{name}: Probability must be from 0 to 100")
        if (code, probability) != (usual, 0):
            act = Fail(code, "Chaos")
            made.append(Rule(at=place, act=act, probability=probability / 100, id=identifier))
    own = {identifier for _, identifier, _ in _TRIGGERS.values()}
    rules = service.inbox.rules
    rules.replace([*(rule for rule in rules if rule.id not in own), *made])
    return json_response(_triggers(rules))


def _triggers(rules: Rules) -> dict[str, dict[str, int]]:
    found = {rule.id: rule for rule in rules}
    shown: dict[str, dict[str, int]] = {}
    for name, (_, identifier, usual) in _TRIGGERS.items():
        rule = found.get(identifier)
        code = rule.act.code if rule is not None and isinstance(rule.act, Fail) else usual
        shown[name] = {
            "ErrorCode": code,
            "Probability": round(rule.probability * 100) if rule is not None else 0,
        }
    return shown
