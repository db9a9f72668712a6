"""Every key of the file with its default and a line of help, as a TOML file in which all is commented out."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import trio_smtp.delivery
import trio_smtp.plugins

from .building import find_function, names_in
from .settings import COMMAND, GROUPS, Setting, descriptions, listener_settings
from .signatures import Argument, arguments_of

__all__ = ["show_configuration"]

_HEAD = """\
## Every key, with its default. Keys above the first table are for all listeners; a [[listen]] may set its own.
## Times may be written "5m", sizes "10M", modes "0660"; KEY_file = "PATH" reads a string from a file.
"""
#: What has no default, or none that can be written.
_UNSET = '"..."'


def show_configuration() -> str:
    """The text, of which every line without ``#`` in front could stand in a file."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "## the command"
    for each in COMMAND:
        yield from _setting(each)
    yield '# app = "module:name"'
    yield "#   an App, or a function that makes one; in [app]: factory, and what the function is called with"
    settings = dict(listener_settings())
    for title, names in GROUPS:
        yield f"\n## each listener: {title}"
        for name in names or tuple(settings):
            yield from _setting(settings.pop(name))
    yield "\n## plugins, for every listener and in order; [[listen.use]] below a [[listen]] adds to them\n# [[use]]"
    yield '# plugin = "NAME"\n# one of the following, or "module:name"; the rest of the table are its arguments'
    yield from _functions(trio_smtp.plugins, "plugin")
    yield "\n## where messages go; [listen.delivery] below a [[listen]] takes its place\n# [delivery]"
    yield '# type = "NAME"\n# one of the following, or "module:name"; the rest of the table are its arguments'
    yield from _functions(trio_smtp.delivery, "type")
    yield "\n## a table for each listener\n# [[listen]]"


def _setting(setting: Setting) -> Iterator[str]:
    choices = f": {', '.join(setting.choices)}" if setting.choices else ""
    # The host's name is another on every machine.
    default: object = "the host's name" if setting.name == "hostname" else setting.default
    unset = default is None and "none" not in setting.words
    yield f"# {setting.name} = {_UNSET if unset else _toml(default)}"
    yield f"#   {setting.help}{choices}"


def _toml(value: object) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, tuple | frozenset):
        return json.dumps(sorted(map(str, value)) if isinstance(value, frozenset) else list(map(str, value)))
    return json.dumps(value, default=str)


def _functions(package: Any, key: str) -> Iterator[str]:
    for name in names_in(package):
        try:
            function = find_function(package, name)
        except (ImportError, AttributeError):  # without its extra
            continue
        yield f'\n# {key} = "{name}"\n#   {_first_line(function)}'
        texts = descriptions(function.__doc__ or "", "Args")
        for each in arguments_of(function).values():
            if each.wanted:
                yield from _argument(each, texts.get(each.name, each.text or each.wanted))


def _argument(argument: Argument, text: str) -> Iterator[str]:
    no_word = type(None) not in argument.kinds or argument.takes_none_itself
    unset = argument.required or (argument.default is None and no_word)
    default = _UNSET if unset else _toml(argument.default)
    yield f"# {argument.name} = {default}"
    yield f"#   {'needed: ' if argument.required else ''}{text}"


def _first_line(function: Callable[..., object]) -> str:
    return inspect.cleandoc(function.__doc__ or "").partition("\n")[0]
