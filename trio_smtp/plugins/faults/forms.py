"""The forms of a rule that can be written down: a line of text, and JSON.

A line is words with blanks between them::

    rcpt to=bob@* fail 451 "Try again later" times=1

The first word is the place, the second one without ``=`` the act, and those behind it are the act's parameters in their
order. Words with ``=`` are filters, counts, and parameters of the act by name, and may stand anywhere after the place.
What has blanks or quotes in it is a string in JSON's form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .acts import ACTS, PLACES, Act
from .errors import RuleError
from .rule import Rule

__all__ = ["format_rule", "parse_rule", "rule_from_json", "rule_to_json"]

_STRING = r'"(?:[^"\\]|\\.)*"'
_WORD = re.compile(rf'(?:([a-z_]+)=)?({_STRING}|[^\s"]*)(?=\s|\Z)', re.DOTALL)
_BLANKS = re.compile(r"\s*")
_PLAIN = re.compile(r"[\w@*?.:/<>+-]+")
#: The fields of a rule besides place and act, with their defaults.
_FIELDS: Mapping[str, Any] = {
    field.name: field.default for field in attrs.fields(Rule) if field.init and field.name not in ("at", "act")
}


def _whole(name: str, word: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", word):
        raise RuleError(f"{name} must be a whole number, not {word!r}")
    return int(word)


def _number(name: str, word: str) -> float:
    if re.fullmatch(r"-?[0-9]{1,18}", word):
        return int(word)
    if not re.fullmatch(r"-?[0-9]{1,30}(\.[0-9]{1,30})?(e[+-]?[0-9]{1,3})?", word):
        raise RuleError(f"{name} must be a number, not {word!r}")
    return float(word)


def _switch(name: str, word: str) -> bool:
    if word not in ("true", "false"):
        raise RuleError(f"{name} must be true or false, not {word!r}")
    return word == "true"


def _string(_: str, word: str) -> str:
    return word


#: Readers of words by the annotation of the field.
_READERS: Mapping[object, Callable[[str, str], Any]] = {
    "int": _whole,
    "int | None": _whole,
    "float": _number,
    "bool": _switch,
}


def _reader(field: attrs.Attribute[Any]) -> Callable[[str, str], Any]:
    return _READERS.get(field.type, _string)


def parse_rule(line: str) -> Rule:
    """Read a rule from a line of text, such as ``--fail`` takes.

    Args:
        line: Such as ``rcpt to=bob@* fail 451 times=1``.

    Raises:
        RuleError: It is no rule; the text names the field, and what is allowed.
    """
    bare, named = _words(line)
    if not bare:
        raise RuleError("a rule begins with its place and its act, such as: rcpt to=bob@* fail 451 times=1")
    act = _act_named(bare[1] if len(bare) > 1 else None)
    parameters = attrs.fields(act)
    if len(bare) - 2 > len(parameters):
        wanted = ", ".join(field.name for field in parameters) or "none"
        raise RuleError(f"{act.name} has the parameters {wanted}; {bare[2 + len(parameters)]!r} is one too many")
    by_name = {field.name: field for field in parameters}
    values = {field.name: _reader(field)(field.name, word) for field, word in zip(parameters, bare[2:], strict=False)}
    for name, word in named.items():
        if name in values:
            raise RuleError(f"{name} is given twice")
        field = by_name.get(name) or _field_named(name, act)
        values[name] = _reader(field)(name, word)
    return _build(bare[0], act, values)


def _words(line: str) -> tuple[list[str], dict[str, str]]:
    """The words without a name, and those with one."""
    bare: list[str] = []
    named: dict[str, str] = {}
    at = _end(_BLANKS.match(line))
    while at < len(line):
        match = _WORD.match(line, at)
        if match is None:
            raise RuleError(f"a quote does not end, or stands inside a word: {line[at:]!r}")
        name, word = match[1], _unquoted(match[2])
        if name is None:
            bare.append(word)
        elif not bare:
            raise RuleError(f"a rule begins with its place, one of {', '.join(PLACES)}, not with {match[0]!r}")
        elif name in named:
            raise RuleError(f"{name} is given twice")
        else:
            named[name] = word
        at = _end(_BLANKS.match(line, match.end()))
    return bare, named


def _end(match: re.Match[str] | None) -> int:
    assert match is not None
    return match.end()


def _unquoted(word: str) -> str:
    if not word.startswith('"'):
        return word
    try:
        return str(json.loads(word))
    except ValueError:
        raise RuleError(f"{word} is no string in JSON's form") from None


def _act_named(name: object) -> type[Act]:
    act = ACTS.get(name) if isinstance(name, str) else None
    if act is None:
        raise RuleError(f"act must be one of {', '.join(ACTS)}, not {name!r}")
    return act


def _field_named(name: str, act: type[Act]) -> attrs.Attribute[Any]:
    if name not in _FIELDS:
        allowed = ", ".join([*(field.name for field in attrs.fields(act)), *_FIELDS])
        raise RuleError(f"{name} is unknown; a rule with {act.name} may have {allowed}")
    return attrs.fields_dict(Rule)[name]


def _build(at: Any, act: type[Act], values: Mapping[str, Any]) -> Rule:
    """Make the rule of the place, the act, and the fields and parameters by name."""
    parameters = {field.name for field in attrs.fields(act)}
    needed = [field.name for field in attrs.fields(act) if field.default is attrs.NOTHING and field.name not in values]
    if needed:
        raise RuleError(f"{act.name} needs {', '.join(needed)}")
    done = act(**{name: value for name, value in values.items() if name in parameters})
    return Rule(at=at, act=done, **{name: value for name, value in values.items() if name not in parameters})


def format_rule(rule: Rule) -> str:
    """The line of text that `parse_rule` reads as an equal rule; its `id` is left out.

    Raises:
        RuleError: A filter is a pattern or a function, which only Python can say.
    """
    words: list[str] = [rule.at]
    values = rule_to_json(rule)
    words += [f"{name}={_quoted(values[name])}" for name in ("to", "sender", "user", "peer") if name in values]
    words.append(rule.act.name)
    in_order = True
    for field in attrs.fields(type(rule.act)):
        value = getattr(rule.act, field.name)
        if value == field.default:
            in_order = False  # the parameters behind one that is left out need their names
        else:
            words.append(_quoted(value) if in_order and field.type != "bool" else f"{field.name}={_quoted(value)}")
    counts = ("times", "after", "every", "probability", "seed")
    return " ".join([*words, *(f"{name}={_quoted(values[name])}" for name in counts if name in values)])


def _quoted(value: object) -> str:
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """A rule as a dict of JSON's values.

    Args:
        rule: The rule.

    Returns:
        ``id``, ``at``, ``act``, the act's parameters, filters and counts where they are given, and ``hits``.

    Raises:
        RuleError: A filter is a pattern or a function, which only Python can say.
    """
    form: dict[str, Any] = {"id": rule.id, "at": rule.at, "act": rule.act.name, **attrs.asdict(rule.act)}
    for name, default in _FIELDS.items():
        value = getattr(rule, name)
        if name == "id" or value == default:
            continue
        if name == "peer" and not callable(value):
            value = str(value)
        if not isinstance(value, str | int | float):
            raise RuleError(f"{name} is {value!r}: text and JSON know globs, addresses and networks alone")
        form[name] = value
    return {**form, "hits": rule.hits}


def rule_from_json(form: Mapping[str, Any]) -> Rule:
    """Make a rule of what `rule_to_json` returns; ``hits`` does not count.

    Args:
        form: The dict. ``at`` and ``act`` are needed, and the parameters of the act that have no default.

    Raises:
        RuleError: It is no rule; the text names the field, and what is allowed.
    """
    if not isinstance(form, Mapping):
        raise RuleError(f"a rule must be an object with at and act, not {form!r}")
    act = _act_named(form.get("act"))
    values = {name: value for name, value in form.items() if name not in ("at", "act", "hits")}
    parameters = {field.name for field in attrs.fields(act)}
    for name in values.keys() - parameters:
        _field_named(name, act)
    for name in ("to", "sender", "user", "peer"):
        if not isinstance(values.get(name, ""), str):
            raise RuleError(f"{name} must be a string, not {values[name]!r}")
    return _build(form.get("at"), act, values)
