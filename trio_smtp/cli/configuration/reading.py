"""Reading the TOML file, the files that ``KEY_file`` names, and hiding what stands in them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from trio_smtp.cli.errors import RUNTIME, CommandError, reason_of

__all__ = ["Secrets", "read_document", "with_files"]

_SUFFIX = "_file"
_CREDENTIALS = "$CREDENTIALS_DIRECTORY"
_MAX_OCTETS = 65_536


@attrs.define(eq=False, repr=False)
class Secrets:
    """What was read from files, so that no error shows it."""

    _texts: set[str] = attrs.field(factory=set, init=False)

    def add(self, text: str) -> None:
        """Keep a text that errors must not show, and the parts of ``user:password``."""
        self._texts |= {each for each in (text, text.partition(":")[2], *text.splitlines()) if each}

    def hide(self, text: str) -> str:
        """The text without any secret."""
        for each in sorted(self._texts, key=len, reverse=True):
            text = text.replace(each, "***").replace(repr(each)[1:-1], "***")
        return text


def read_document(path: Path) -> dict[str, object]:
    """Read a TOML file.

    Raises:
        CommandError: It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {reason_of(error)}", RUNTIME) from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise CommandError(f"{path}: {error}") from error


def with_files(
    table: Mapping[str, object],
    known: Iterable[str],
    paths: Iterable[str],
    *,
    where: str,
    directory: Path,
    secrets: Secrets,
) -> dict[str, object]:
    """The table with the content of a file in the place of each ``KEY_file``.

    Args:
        table: As it was written.
        known: The keys that the table may have.
        paths: Those of them whose value is a path already.
        where: Names the table in errors.
        directory: Relative paths begin here; a leading ``$CREDENTIALS_DIRECTORY`` is systemd's.
        secrets: Gets what was read.

    Raises:
        CommandError: A file cannot be read, or a key is there twice.
    """
    known, paths = set(known), set(paths)
    found: dict[str, object] = {}
    for key, value in table.items():
        name = key.removesuffix(_SUFFIX)
        if key in known or name == key or name not in known:
            found[key] = value
            continue
        if name in paths:
            raise CommandError(f"{where}{name} is a file already: write {name} = ... in place of {key}")
        if name in table:
            raise CommandError(f"{where}{key} stands beside {name}: write one of them")
        if not isinstance(value, str):
            raise CommandError(f"{where}{key} must be the path of a file, not {value!r}")
        found[name] = _content(value, f"{where}{key}: ", directory)
        secrets.add(str(found[name]))
    return found


def _content(name: str, where: str, directory: Path) -> str:
    start, slash, rest = name.partition("/")
    if start == _CREDENTIALS and slash:
        credentials = os.environ.get(_CREDENTIALS[1:])
        if not credentials:
            raise CommandError(f"{where}{_CREDENTIALS} is not set: systemd sets it for LoadCredential=", RUNTIME)
        path = Path(credentials) / rest
    else:
        path = directory / name
    try:
        with path.open("rb") as file:
            octets = file.read(_MAX_OCTETS + 1)
        if len(octets) > _MAX_OCTETS:
            raise CommandError(f"{where}{path} has more than {_MAX_OCTETS} octets", RUNTIME)
        return octets.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise CommandError(f"{where}cannot read {path}: {reason_of(error)}", RUNTIME) from error
    except UnicodeDecodeError:  # its text would show an octet
        raise CommandError(f"{where}{path} is not UTF-8") from None
