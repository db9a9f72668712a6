"""A listener's settings as people write them: options on a command line, keys of a TOML file.

They are the fields of `Config` that one can write down, and a few that stand for its TLS context.
Every mistake in them is a `CommandError`, one line for people.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import attrs

from trio_smtp import Config

from .errors import RUNTIME, USAGE, CommandError, reason_of

__all__ = ["RUNTIME", "USAGE", "CommandError", "Parser", "add_options", "make_configs", "make_workers"]

# The kinds of values that people can write. Fields of other kinds (an SSLContext, a function) have no option.
_KINDS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    list: "a list of strings",
    str: "a string",
}
#: Numbers that people write as chmod(1) takes them.
_OCTAL = {"unix_mode": "an octal number, as in 0660"}
_METAVARS = {float: "NUMBER", int: "NUMBER", list: "NAME,...", str: "TEXT"}


@attrs.frozen
class _Option:
    """One setting: the kind of its value, and how people write it."""

    name: str
    kind: type
    help: str
    default: object = None
    #: Words for values of another type, such as "none".
    words: Mapping[str, bool | None] = {}
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def shown_default(self) -> str:
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, (tuple, frozenset)):
            return ",".join(self.default) or "empty"
        return "none" if self.default is None else str(self.default)

    @property
    def wanted(self) -> str:
        """What the value must be, for people."""
        return _OCTAL.get(self.name, _KINDS[self.kind])

    def from_text(self, text: str) -> object:
        """Read the value on a command line; raises ValueError for a text that is not one."""
        if text in self.words:
            return self.words[text]
        if self.kind is list:
            return [item for item in text.split(",") if item]
        if self.name in _OCTAL:
            return int(text, 8)
        return int(text, 0) if self.kind is int else self.kind(text)

    def from_toml(self, value: object) -> object:
        """Check the value in a TOML file; raises ValueError for another type."""
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if isinstance(value, bool) and value in self.words.values():
            return value
        if isinstance(value, str) and self.name in _OCTAL and re.fullmatch("(?:0o)?[0-7]+", value):
            return int(value, 8)
        wanted = (int, float) if self.kind is float else self.kind
        # In Python True is a whole number; a person who writes it means something else.
        if not isinstance(value, wanted) or isinstance(value, bool) is not (self.kind is bool):
            raise ValueError(f"{self.name} must be {self.wanted}, not {value!r}")
        return value


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage of fifty options."""

    def error(self, message: str) -> NoReturn:
        """Report a mistake and exit."""
        self.exit(USAGE, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


_TLS = (
    _Option("tls_cert", str, "PEM file with the certificate and its chain"),
    _Option("tls_key", str, "PEM file with its private key, where the certificate's file has none"),
    _Option("tls_sni", list, "other certificates and keys, by the name a client asks for"),
    _Option("tls_client_ca", str, "certificates that those of clients are checked against: a PEM file, or a directory"),
    _Option(
        "tls_client_certificates",
        str,
        "whether clients are asked for one",
        default="none",
        choices=("none", "optional", "required"),
    ),
    _Option(
        "tls_min_version",
        str,
        "the oldest version that is let in; one before 1.2 lets old ciphers in as well",
        default="1.2",
        choices=("1.0", "1.1", "1.2", "1.3"),
    ),
    _Option(
        "tls_self_signed", bool, "make a certificate for localhost that lasts as long as the server", default=False
    ),
)
_TLS_METAVARS = {"tls_cert": "FILE", "tls_key": "FILE", "tls_sni": "NAME=CERT:KEY,...", "tls_client_ca": "FILE"}


def _options() -> Iterator[_Option]:
    yield from _TLS
    hints = typing.get_type_hints(Config)
    descriptions = _field_descriptions()
    defaults = Config()
    for field in attrs.fields(Config):
        hint = hints[field.name]
        words: dict[str, bool | None] = {}
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            members = typing.get_args(hint)
            words |= {"none": None} if type(None) in members else {}
            words |= {"on": True, "off": False} if bool in members else {}
            hint = next(member for member in members if member not in (bool, type(None)))
        origin = typing.get_origin(hint)
        choices = typing.get_args(hint) if origin is typing.Literal else ()
        kind = str if choices else list if origin in (tuple, frozenset) else hint
        if kind in _KINDS:
            text = descriptions.get(field.name, "")
            yield _Option(field.name, kind, text, getattr(defaults, field.name), words, choices)


def _field_descriptions() -> dict[str, str]:
    """The help texts, out of Config's docstring: a description goes on where the indentation is deeper.

    None is "none" to people, and they need no quotes.
    """
    text = inspect.cleandoc(Config.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {
        name: " ".join(description.split()).rstrip(".").replace("`", "").replace("None", "none")
        for name, description in found
    }


# Options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a listener.

    Args:
        parser: A parser with ``argument_default`` SUPPRESS: options that were not given are left to `Config`.
    """
    group = parser.add_argument_group("listener", "Durations are in seconds, sizes in octets.")
    for option in _options():
        default = f" (default: {option.shown_default})" if option.words or option.default is not None else ""
        text = (option.help + default).replace("%", "%%")
        if option.kind is bool:
            group.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            metavar = _TLS_METAVARS.get(option.name) or "|".join(option.choices) or _METAVARS[option.kind]
            group.add_argument(option.flag, type=_converter(option), metavar=metavar, help=text)


def _converter(option: _Option) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return option.from_text(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {option.wanted}") from None

    return convert


# Listeners


def make_configs(settings: Mapping[str, object], file: str | None = None) -> list[Config]:
    """Make the Config of each listener.

    Args:
        settings: The options that were given, by name.
        file: A TOML file with a ``[[listen]]`` table for each listener, in place of options. What stands above the
            first table is for all of them; paths are relative to the file.

    Raises:
        CommandError: An option, or a value in the file, is wrong, or the file cannot be read.
    """
    if file is None:
        _check_place(settings, settings, "")
        return [_make_config(settings, "", Path())]
    if settings:
        names = ", ".join(option.flag for option in _options() if option.name in settings)
        raise CommandError(f"--config FILE says what to listen on: {names} cannot stand beside it")
    path = Path(file)
    configs = []
    for number, table in enumerate(_tables(path), 1):
        where = f"{file}, listener {number}: "
        configs.append(_make_config(_checked(table, where), where, path.parent))
    _check_distinct(configs, file)
    return configs


def _check_place(own: Mapping[str, object], all_settings: Mapping[str, object], where: str) -> None:
    """A listener is on a Unix socket, or on a host and a port.

    Args:
        own: What was written for this listener.
        all_settings: The same, with what holds for all listeners.
        where: Names the listener in the error.

    Raises:
        CommandError: Both were written.
    """
    if all_settings.get("unix_path") not in {None, "none"}:
        for name in ("port", "host"):
            if name in own:
                raise CommandError(f"{where}{name} contradicts unix_path: one listener has one of them")


def _check_distinct(configs: Sequence[Config], file: str) -> None:
    """Two listeners cannot have one place; the system would only say that the address is in use.

    Raises:
        CommandError: Two do.
    """
    for (first, one), (second, other) in itertools.combinations(enumerate(configs, 1), 2):
        if one.unix_path is not None or other.unix_path is not None:
            same, place = one.unix_path == other.unix_path, f"the Unix socket {one.unix_path}"
        else:
            same, place = one.port == other.port != 0 and _overlap(one.host, other.host), f"port {one.port}"
        if same:
            raise CommandError(f"{file}: listeners {first} and {second} both listen on {place}: change one of them")


def _overlap(one: str | None, other: str | None) -> bool:
    """Whether two hosts may have an address in common; names are not looked up."""
    if one == other or one is None or other is None:
        return True
    return any(every in {one, other} and (":" in one) is (":" in other) for every in ("0.0.0.0", "::"))  # noqa: S104


def make_workers(given: int | None, file: str | None = None) -> int:
    """How many processes serve.

    Args:
        given: The option's number, which overrides the file's.
        file: A TOML file with ``workers`` above its first table, or without.

    Raises:
        CommandError: The file has another kind of value there, or cannot be read.
    """
    if given is not None or file is None:
        return given or 1
    number = _read(Path(file)).get("workers", 1)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise CommandError(f"{file}: workers must be a whole number of at least 1, not {number!r}")
    return number


def _read(path: Path) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {reason_of(error)}", RUNTIME) from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise CommandError(f"{path}: {error}") from error


def _tables(path: Path) -> list[dict[str, object]]:
    shared = _read(path)
    shared.pop("workers", None)  # of the command, not of a listener
    tables = shared.pop("listen", None)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise CommandError(f"{path}: it has no [[listen]] table")
    for number, table in enumerate(tables, 1):
        _check_place(table, shared | table, f"{path}, listener {number}: ")
    return [shared | table for table in tables]


def _checked(table: Mapping[str, object], where: str) -> dict[str, object]:
    options = {option.name: option for option in _options()}
    settings: dict[str, object] = {}
    for name, value in table.items():
        if name not in options:
            raise CommandError(f"{where}unknown key {name!r}")
        try:
            settings[name] = options[name].from_toml(value)
        except ValueError as error:
            raise CommandError(f"{where}{error}") from error
    return settings


def _make_config(settings: Mapping[str, object], where: str, directory: Path) -> Config:
    fields: dict[str, typing.Any] = dict(settings)
    tls = {option.name: fields.pop(option.name) for option in _TLS if option.name in fields}
    # A switch that is off asks for no context.
    if any(value is not False for value in tls.values()):
        from .certificates import make_context

        fields["ssl_context"] = make_context(tls, where, directory)
    try:
        return Config(**fields)
    except (TypeError, ValueError) as error:
        hint = " (tls_cert gives it one)" if "ssl_context" in str(error) else ""
        raise CommandError(f"{where}{error}{hint}") from error
