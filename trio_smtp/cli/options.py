"""The options of the command line: a listener's settings, in groups, the most used first."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from trio_smtp import Config

from .configuration.checking import check_place, make_config
from .configuration.settings import COMMAND, GROUPS, Setting, listener_settings
from .configuration.values import closest
from .errors import USAGE, CommandError
from .logs import complain

__all__ = ["Parser", "add_command_options", "add_listener_options", "make_single_config", "refuse_beside_file"]

_METAVARS = {float: "NUMBER", int: "NUMBER", list: "NAME,...", str: "TEXT"}
#: For files alone: the built-in application knows no users, and a command line needs no profile.
_IN_FILES = frozenset({"profile", "users"})


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage of fifty options."""

    def error(self, message: str) -> NoReturn:
        """Report a mistake and exit."""
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        hint = closest(unknown[1], self._option_string_actions) if unknown else ""
        complain(f"{message}{hint} ({self.prog} --help lists the options)", self.prog)
        self.exit(USAGE)


def add_command_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of the command as a whole, but ``--verbose``, which is counted."""
    for each in COMMAND:
        if each.name != "verbose":
            _add(group, each)


def add_listener_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a listener.

    Args:
        parser: A parser with ``argument_default`` SUPPRESS: options that were not given are left to `Config`.
    """
    settings = {name: each for name, each in listener_settings().items() if name not in _IN_FILES}
    note: str | None = "Durations are in seconds, or written as 5m; sizes in octets, or written as 10M."
    for title, names in GROUPS:
        its = [settings.pop(name) for name in names if name in settings] if names else list(settings.values())
        if its:
            group = parser.add_argument_group(title, note)
            note = None
            for each in its:
                _add(group, each)


def _add(group: argparse._ArgumentGroup, setting: Setting) -> None:
    shown = setting.words or setting.default is not None
    text = (setting.help + (f" (default: {setting.shown_default})" if shown else "")).replace("%", "%%")
    if setting.kind is bool:
        group.add_argument(setting.flag, action=argparse.BooleanOptionalAction, help=text)
    else:
        metavar = setting.metavar or "|".join(setting.choices) or _METAVARS[setting.kind]
        group.add_argument(setting.flag, type=_converter(setting), metavar=metavar, help=text)


def _converter(setting: Setting) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return setting.from_text(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {setting.wanted}") from None

    return convert


def make_single_config(settings: Mapping[str, object]) -> Config:
    """Make the Config of the one listener that the command line describes.

    Args:
        settings: The options that were given, by name.

    Raises:
        CommandError: A value is not allowed, or two contradict each other.
    """
    check_place(settings, settings, "")
    return make_config(settings, "", Path())


def refuse_beside_file(settings: Mapping[str, object]) -> None:
    """Refuse a listener's options where a file describes the listeners.

    Raises:
        CommandError: There are some.
    """
    names = ", ".join(each.flag for name, each in listener_settings().items() if name in settings)
    if names:
        raise CommandError(f"--config FILE says what to listen on: {names} cannot stand beside it")
