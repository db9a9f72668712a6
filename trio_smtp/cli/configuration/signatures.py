"""The arguments of plugins and deliveries: which a file may have, and what their values must be."""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import attrs

from trio_smtp.client import Password

from .settings import descriptions
from .values import names_time, seconds, size

__all__ = ["Argument", "arguments_of"]

_LISTS = (Iterable, Collection, Sequence, AbstractSet, list, tuple, set, frozenset)
_PLAIN: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Password: '"user:password"',
}
_TIME = 'a number of seconds, as in 30 or "5m"'
_ANYTHING = (Any, object, inspect.Parameter.empty)


@attrs.frozen
class Argument:
    """One argument of a function.

    Attributes:
        name: Its name, which is the key in a table.
        kinds: The types that its value may have.
        default: Its default, or `inspect.Parameter.empty`.
        text: What the TypedDict that it comes from says of it; otherwise empty.
    """

    name: str
    kinds: tuple[Any, ...]
    default: object
    text: str = ""

    @property
    def required(self) -> bool:
        """The function has no default for it."""
        return self.default is inspect.Parameter.empty

    @property
    def takes_none_itself(self) -> bool:
        """``"none"`` is one of its words, and does not stand for no value: ``tls="none"`` turns TLS off."""
        return any(_origin(kind) is typing.Literal and "none" in typing.get_args(kind) for kind in self.kinds)

    @property
    def is_path(self) -> bool:
        """Its value is the path of a file or a directory."""
        return Path in self.kinds or any(_origin(kind) is os.PathLike for kind in self.kinds)

    @property
    def wanted(self) -> str:
        """What a file may have for it, for people; empty when nothing can be written."""
        found = [_PLAIN[kind] for kind in self.kinds if kind in _PLAIN]
        if float in self.kinds and names_time(self.name):
            found = [_TIME if text == _PLAIN[float] else text for text in found]
        if self.is_path:
            found = ["a path"]
        for kind in filter(_writable, self.kinds):
            if _origin(kind) is typing.Literal:
                found.append(f"one of {', '.join(map(repr, typing.get_args(kind)))}")
            elif _origin(kind) in _LISTS:
                found.append("a list")
            elif _origin(kind) in (dict, Mapping):
                found.append("a table")
            elif kind in _ANYTHING:
                found.append("anything")
        return " or ".join(dict.fromkeys(found))

    def from_toml(self, value: object, directory: Path) -> object:
        """Check a value, and make of it what the function takes.

        Args:
            value: As TOML has it.
            directory: Relative paths begin here.

        Raises:
            ValueError: It is not allowed; the text does not show it.
        """
        if value == "none" and type(None) in self.kinds and not self.takes_none_itself:
            return None
        if self.is_path and isinstance(value, str):
            return directory / value
        if any(_fits(value, kind) for kind in self.kinds):
            return value
        if isinstance(value, str):
            if Password in self.kinds and ":" in value:
                user, _, password = value.partition(":")
                return Password(user, password)
            if float in self.kinds or int in self.kinds:
                return self._number(value)
        raise self._wrong()

    def _number(self, text: str) -> float:
        try:
            number = seconds(text) if names_time(self.name) else size(text)
        except ValueError:
            raise self._wrong() from None
        if float not in self.kinds and not isinstance(number, int):
            raise self._wrong()
        return number

    def _wrong(self) -> ValueError:
        if not self.wanted:
            return ValueError(f"{self.name} cannot be written in a file: set it in Python")
        return ValueError(f"{self.name} must be {self.wanted}")


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _writable(kind: Any) -> bool:
    """Whether a file can have a value of this type: no function, and no list of them."""
    origin = _origin(kind)
    if origin in _LISTS or origin in (dict, Mapping):
        items = [each for each in typing.get_args(kind) if each is not Ellipsis]
        items = items[1:] if origin in (dict, Mapping) else items
        members = [member for each in items for member in _members(each)]
        return not members or Path in members or any(map(_writable, members))
    return origin is typing.Literal or kind in _PLAIN or kind in _ANYTHING


def _fits(value: object, kind: Any) -> bool:
    origin = _origin(kind)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if origin in _LISTS:
        items = [each for each in typing.get_args(kind) if each is not Ellipsis]
        return isinstance(value, list) and all(_item_fits(each, items) for each in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_item_fits(each, typing.get_args(kind)[1:]) for each in value.values())
    if kind in (bool, int, float):
        wanted = (int, float) if kind is float else kind
        return isinstance(value, wanted) and isinstance(value, bool) is (kind is bool)
    return kind in _ANYTHING or (kind is str and isinstance(value, str))


def _item_fits(value: object, items: Sequence[Any]) -> bool:
    kinds = [each for item in items for each in _members(item)]
    return not kinds or any(_fits(value, kind) for kind in kinds) or (isinstance(value, str) and Path in kinds)


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return tuple(member for each in typing.get_args(hint) for member in _members(each))
    return (hint,)


def arguments_of(function: Callable[..., object]) -> dict[str, Argument]:
    """The arguments of a function that have a name, in order, those of ``**options: Unpack[...]`` included.

    A function whose types cannot be found out takes anything; one whose arguments cannot be has none.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that are there for type checkers alone
        hints = {}
    found: dict[str, Argument] = {}
    for each in parameters:
        hint = hints.get(each.name, inspect.Parameter.empty)
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            found[each.name] = Argument(each.name, _members(hint), each.default)
        elif each.kind is each.VAR_KEYWORD and typing.get_origin(hint) is typing.Unpack:
            (options,) = typing.get_args(hint)
            texts = descriptions(options.__doc__ or "", "Attributes")
            for name, kind in typing.get_type_hints(options).items():
                found[name] = Argument(name, _members(kind), None, texts.get(name, ""))
    return found
