"""The table of settings: each key of the file and option of the command line, the kind of its value, its default.

`COMMAND` holds what is said once for the command, `listener_settings` what each listener may say for itself: the fields
of `Config` that one can write down, and a few that stand for its TLS context, its users and its profile.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache

import attrs

from trio_smtp import Config

from .values import mode, names_time, seconds, size

__all__ = ["COMMAND", "GROUPS", "PROFILES", "TLS", "Setting", "descriptions", "listener_settings"]

# The kinds of values that people can write. Fields of other kinds (an SSLContext, a function) have no setting.
_KINDS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    list: "a list of strings",
    str: "a string",
}
_WANTED = {
    "mode": "an octal number, as in 0660",
    "size": 'a number of octets, as in 1000 or "10M"',
    "time": 'a number of seconds, or a time such as "5m"',
}
_SIZES = frozenset(
    ("max_message_size", "max_command_line", "max_auth_line", "max_data_line", "min_data_rate", "spool_memory")
)
_SECONDS = frozenset(("deliver_by", "future_release"))


@attrs.frozen
class Setting:
    """One setting: the kind of its value, and how people write it."""

    name: str
    kind: type
    help: str
    default: object = None
    #: Words for values of another type, such as "none".
    words: Mapping[str, bool | None] = {}
    choices: tuple[str, ...] = ()
    #: A path: relative ones begin at the file's directory, and there is no ``KEY_file``.
    path: bool = False
    #: The least number that is allowed.
    least: int | None = None
    #: What stands for the value on the command line.
    metavar: str = ""

    @property
    def flag(self) -> str:
        """The option's name."""
        return "--" + self.name.replace("_", "-")

    @property
    def shown_default(self) -> str:
        """The default, for people."""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, tuple | frozenset):
            return ",".join(self.default) or "empty"
        return "none" if self.default is None else str(self.default)

    @property
    def unit(self) -> str:
        """``"size"``, ``"time"``, ``"mode"`` or ``""``."""
        if self.name == "unix_mode":
            return "mode"
        if self.name in _SIZES:
            return "size"
        return "time" if self.name in _SECONDS or (self.kind is float and names_time(self.name)) else ""

    @property
    def wanted(self) -> str:
        """What the value must be, for people."""
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        wanted = _WANTED.get(self.unit, _KINDS[self.kind])
        return wanted if self.least is None else f"{wanted} of at least {self.least}"

    def from_text(self, text: str) -> object:
        """Read the value on a command line; raises ValueError for a text that is not one."""
        if text in self.words:
            return self.words[text]
        if self.kind is list:
            return [item for item in text.split(",") if item]
        if self.unit:
            return self._with_unit(text)
        if self.kind is int:
            return self._enough(int(text, 0))
        return self.kind(text)

    def from_toml(self, value: object) -> object:
        """Check the value in a TOML file; raises ValueError for one that is not allowed."""
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if isinstance(value, bool) and value in self.words.values():
            return value
        try:
            if isinstance(value, str) and self.unit:
                return self._with_unit(value)
            self._check(value)
        except ValueError:
            raise ValueError(f"{self.name} must be {self.wanted}, not {value!r}") from None
        return value

    def _check(self, value: object) -> None:
        wanted = (int, float) if self.kind is float else self.kind
        # In Python True is a whole number; a person who writes it means something else.
        if not isinstance(value, wanted) or isinstance(value, bool) is not (self.kind is bool):
            raise ValueError
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ValueError
        if self.choices and value not in self.choices:
            raise ValueError
        if isinstance(value, int):
            self._enough(value)

    def _enough(self, number: int) -> int:
        if self.least is not None and number < self.least:
            raise ValueError
        return number

    def _with_unit(self, text: str) -> float:
        if self.unit == "mode":
            return mode(text)
        number = size(text) if self.unit == "size" else seconds(text)
        if self.kind is int and not isinstance(number, int):
            raise ValueError(f"{text} is not a whole number")
        return number


#: What is said once, above the first table of a file or on the command line.
COMMAND = (
    Setting("workers", int, "processes that serve, each in a core of its own", default=1, least=1, metavar="NUMBER"),
    Setting("verbose", int, "1: log to stderr what happens; 2: the dialogue as well", default=0, least=0),
    Setting(
        "log_format",
        str,
        "how stderr is written; json: a JSON object on each line",
        default="text",
        choices=("text", "json"),
    ),
    Setting("metrics", str, "where /metrics, /livez and /readyz are to be had", metavar="HOST:PORT"),
)

TLS = (
    Setting("tls_cert", str, "PEM file with the certificate and its chain", path=True, metavar="FILE"),
    Setting(
        "tls_key",
        str,
        "PEM file with its private key, where the certificate's file has none",
        path=True,
        metavar="FILE",
    ),
    Setting("tls_sni", list, "other certificates and keys, by the name a client asks for", metavar="NAME=CERT:KEY,..."),
    Setting(
        "tls_client_ca",
        str,
        "certificates that those of clients are checked against: a PEM file, or a directory",
        path=True,
        metavar="FILE",
    ),
    Setting(
        "tls_client_certificates",
        str,
        "whether clients are asked for one",
        default="none",
        choices=("none", "optional", "required"),
    ),
    Setting(
        "tls_min_version",
        str,
        "the oldest version that is let in; one before 1.2 lets old ciphers in as well",
        default="1.2",
        choices=("1.0", "1.1", "1.2", "1.3"),
    ),
    Setting(
        "tls_self_signed", bool, "make a certificate for localhost that lasts as long as the server", default=False
    ),
)

_SUBMISSION = {
    "auth_required": True,
    "starttls_required": True,
    "max_connections_per_host": 50,
    "max_unauthenticated_commands": 20,
    "max_recipients": 200,
    "auth_failure_delay": 1.0,
}
#: What a profile sets; keys beside it win.
PROFILES: Mapping[str, Mapping[str, object]] = {
    "mx": {"max_connections_per_host": 20, "error_delay": 1.0},
    "submission": _SUBMISSION,
    "submissions": _SUBMISSION | {"implicit_tls": True},
}

_OWN = (
    Setting(
        "profile",
        str,
        "sets several keys at once; a key set beside it wins",
        choices=tuple(PROFILES),
    ),
    Setting(
        "listen",
        str,
        "sockets of systemd in place of host, port and unix_path: systemd takes all, systemd:NAME those of a name",
        metavar="systemd[:NAME]",
    ),
    Setting(
        "fd",
        int,
        "a listening socket that is open at the start, by its file descriptor; in place of host, port and unix_path",
        least=3,
        metavar="NUMBER",
    ),
    Setting("users", str, "the users and hashed passwords of trio-smtp passwd; they may log in", path=True),
)
_PATHS = frozenset({"unix_path", "spool_directory"})

#: The groups of the help and of the documentation, the most used first; what is named nowhere is in the last one.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "where it listens, and as whom",
        ("host", "port", "unix_path", "unix_mode", "backlog", "listen", "fd", "hostname", "banner", "lmtp"),
    ),
    ("profile and users", ("profile", "users")),
    ("TLS", (*(each.name for each in TLS), "implicit_tls", "starttls_required", "tls_handshake_timeout")),
    (
        "authentication",
        (
            "auth_required",
            "auth_mechanisms",
            "allow_insecure_auth",
            "auth_required_message",
            "max_auth_failures",
            "auth_failure_delay",
            "max_unauthenticated_commands",
        ),
    ),
    (
        "limits",
        (
            "max_connections",
            "max_connections_per_host",
            "max_message_size",
            "max_recipients",
            "max_transactions",
            "max_errors",
            "error_delay",
            "greeting_delay",
            "max_command_line",
            "max_auth_line",
            "max_data_line",
            "spool_memory",
            "spool_directory",
        ),
    ),
    (
        "times",
        (
            "command_timeout",
            "data_timeout",
            "min_data_rate",
            "handler_timeout",
            "send_timeout",
            "session_timeout",
            "drain_timeout",
            "lifespan_timeout",
        ),
    ),
    (
        "front ends and names",
        ("proxy_protocol", "xclient", "xforward", "proxy_timeout", "reverse_dns", "reverse_dns_timeout"),
    ),
    ("what clients may do, and extensions", ()),
)


@cache
def listener_settings() -> Mapping[str, Setting]:
    """All settings of a listener, by name, in the order of the groups."""
    found = {each.name: each for each in (*_OWN, *TLS, *_fields())}
    named = [name for _, names in GROUPS for name in names]
    return {name: found[name] for name in [*named, *(each for each in found if each not in named)]}


def _fields() -> Iterator[Setting]:
    hints = typing.get_type_hints(Config)
    texts = descriptions(Config.__doc__ or "", "Attributes")
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
            default = getattr(defaults, field.name)
            text = texts.get(field.name, "")
            yield Setting(field.name, kind, text, default, words, choices, path=field.name in _PATHS)


def descriptions(docstring: str, section: str) -> dict[str, str]:
    """The help texts, out of a docstring's section: a description goes on where the indentation is deeper.

    None is "none" to people, and they need no quotes.
    """
    text = inspect.cleandoc(docstring).partition(f"{section}:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {
        name: " ".join(description.split()).rstrip(".").replace("`", "").replace("None", "none")
        for name, description in found
    }
