"""Checking the file's tables, and making the Config of each listener. Nothing is imported and nothing is opened."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from trio_smtp import Config
from trio_smtp.cli.errors import CommandError

from .handed_over import KEYS, SocketConfig, common_source, source_of
from .reading import Secrets, read_document, with_files
from .settings import COMMAND, PROFILES, TLS, Setting, listener_settings
from .values import closest

__all__ = ["MOVE", "Configuration", "Listener", "Step", "command_settings", "load", "make_config"]

_COMMAND = {each.name: each for each in COMMAND}
#: Tables, and `app`, which may be one.
_ABOVE = ("app", "use", "delivery", "listen")
_TABLES = ("use", "delivery")
#: The keys that say where a listener is.
_PLACE = (*KEYS, "host", "port", "unix_path", "unix_mode", "backlog")
MOVE = "move it to the top, above the first table"
_NOT_YET = "queue is not there yet: [delivery] passes mail on at once, or refuses it for now"


@attrs.frozen
class Step:
    """A plugin or a delivery, as it was written.

    Attributes:
        name: A name of ours, or ``module:name``.
        arguments: The rest of its table.
        where: Names the table in errors.
    """

    name: str
    arguments: Mapping[str, object] = attrs.field(repr=False)
    where: str


@attrs.frozen
class Listener:
    """One ``[[listen]]`` table.

    Attributes:
        config: Where it listens, and limits.
        users: The file of its users, or None.
        uses: Its plugins, in order.
        delivery: Where its messages go; None: not said.
        where: Names the table in errors.
    """

    config: Config
    users: Path | None
    uses: tuple[Step, ...]
    delivery: Step | None
    where: str


@attrs.frozen
class Configuration:
    """A TOML file whose keys and tables are right.

    Attributes:
        path: The file.
        listeners: One for each ``[[listen]]``.
        app: The App or the factory, and the table that it gets; None: not said.
        secrets: Hides what was read from the files that ``KEY_file`` names.
    """

    path: Path
    listeners: Sequence[Listener]
    app: Step | None
    secrets: Secrets = attrs.field(repr=False)


def command_settings(path: Path) -> dict[str, Any]:
    """What the file says for the command as a whole: those of `COMMAND` that are there.

    Raises:
        CommandError: The file cannot be read, or a value is wrong.
    """
    document = read_document(path)
    return _checked({key: document[key] for key in _COMMAND if key in document}, _COMMAND, f"{path}: ")


def load(path: Path) -> Configuration:
    """Read and check the file.

    Raises:
        CommandError: Something in it is wrong; the text names the file, the table, the key and what is allowed.
    """
    document, secrets = read_document(path), Secrets()
    try:
        return _load(path, document, secrets)
    except CommandError as error:
        raise CommandError(secrets.hide(str(error)), error.status) from error


def _load(path: Path, document: dict[str, object], secrets: Secrets) -> Configuration:
    top = f"{path}: "
    settings = listener_settings()
    _refuse_unknown(document, {*_COMMAND, *settings, *_ABOVE}, top)
    shared = {key: value for key, value in document.items() if key not in {*_COMMAND, *_ABOVE}}
    shared = _listener_keys(shared, top, path.parent, secrets)
    tables = document.get("listen")
    if isinstance(tables, dict):
        raise CommandError(
            f"{path}: a listener has two brackets on each side, [[listen]], because there may be several"
        )
    if isinstance(tables, str):
        raise CommandError(f"{path}: listen = {tables!r} belongs to one listener: move it below its [[listen]]")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise CommandError(f"{path}: it has no [[listen]] table: each listener needs one, below the keys for all")
    uses, delivery = _steps(document, f"{path}, ", "use", "delivery")
    listeners = []
    for number, table in enumerate(tables, 1):
        where = f"{path}, listener {number}: "
        _refuse_unknown(table, {*settings, *_TABLES}, where)
        own = {key: value for key, value in table.items() if key not in _TABLES}
        own = _listener_keys(own, where, path.parent, secrets)
        check_place(own, shared | own, where)
        fields = {**_profile(shared), **shared, **_profile(own), **own}
        users = fields.pop("users", None)
        fields.pop("profile", None)
        more, instead = _steps(table, f"{path}, listener {number}, ", "listen.use", "listen.delivery")
        listeners.append(
            Listener(
                make_config(fields, where, path.parent),
                None if users is None else path.parent / str(users),
                uses + more,
                instead or delivery,
                where,
            )
        )
    _check_distinct([each.config for each in listeners], str(path))
    app = _app(document, path)
    if app is not None:
        _check_alone(document, tables, listeners, str(path))
    return Configuration(path, listeners, app, secrets)


def _refuse_unknown(table: Mapping[str, object], known: Iterable[str], where: str) -> None:
    known = set(known)
    for key in table:
        if key in known or key.removesuffix("_file") in known:
            continue
        if key == "queue":
            raise CommandError(f"{where}{_NOT_YET}")
        if key in _COMMAND or key == "app":
            raise CommandError(f"{where}{key} is for all listeners: {MOVE}")
        hint = " (tls_cert, or tls_self_signed, gives it one)" if key == "ssl_context" else closest(key, known)
        raise CommandError(f"{where}unknown key {key!r}{hint}")


def _listener_keys(table: dict[str, object], where: str, directory: Path, secrets: Secrets) -> dict[str, object]:
    settings = listener_settings()
    texts = [each.name for each in settings.values() if each.kind is str]
    paths = [each.name for each in settings.values() if each.path]
    filled = with_files(table, texts, paths, where=where, directory=directory, secrets=secrets)
    _refuse_unknown({key: None for key in filled if key not in settings}, (), where)
    return _checked(filled, settings, where)


def _checked(table: Mapping[str, object], settings: Mapping[str, Setting], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        try:
            found[name] = settings[name].from_toml(value)
        except ValueError as error:
            raise CommandError(f"{where}{error}") from error
    return found


def _profile(settings: Mapping[str, object]) -> Mapping[str, object]:
    return PROFILES.get(str(settings.get("profile")), {})


def _steps(table: Mapping[str, object], where: str, use: str, delivery: str) -> tuple[tuple[Step, ...], Step | None]:
    uses = table.get("use", [])
    if not isinstance(uses, list) or not all(isinstance(each, dict) for each in uses):
        raise CommandError(f"{where}{use}: a plugin has a table of its own, [[{use}]] with plugin = NAME in it")
    steps = [_step(each, "plugin", f"{where}[[{use}]] {number}: ") for number, each in enumerate(uses, 1)]
    its = table.get("delivery")
    if its is None:
        return tuple(steps), None
    if not isinstance(its, dict):
        raise CommandError(f"{where}{delivery}: it is a table, [{delivery}] with type = NAME in it")
    return tuple(steps), _step(its, "type", f"{where}[{delivery}]: ")


def _step(table: dict[str, object], key: str, where: str) -> Step:
    name = table.get(key)
    if not isinstance(name, str) or not name:
        said = f"not {name!r}" if key in table else f"it has no {key}"
        raise CommandError(f'{where}{key} must be a name of ours, or "module:name": {said}')
    if name == "queue" or "queue" in table:
        raise CommandError(f"{where}{_NOT_YET}")
    return Step(name, {each: value for each, value in table.items() if each != key}, where)


def _app(document: Mapping[str, object], path: Path) -> Step | None:
    app, where = document.get("app"), f"{path}, [app]: "
    if app is None:
        return None
    if isinstance(app, str):
        return Step(app, {}, f"{path}: ")
    if not isinstance(app, dict) or not isinstance(app.get("factory"), str):
        raise CommandError(f'{where}factory must be "module:make_app", which is called with the rest of the table')
    return Step(app["factory"], {key: value for key, value in app.items() if key != "factory"}, where)


def _check_alone(
    document: Mapping[str, object], tables: Sequence[Mapping[str, object]], listeners: Sequence[Listener], path: str
) -> None:
    """An App says by itself what becomes of mail."""
    for name in _TABLES:
        if name in document or any(name in table for table in tables):
            raise CommandError(f"{path}: {name} cannot stand beside app: let the App use its plugins and its delivery")
    if any(each.users is not None for each in listeners):
        raise CommandError(f"{path}: users cannot stand beside app: let the App use trio_smtp.plugins.password_file")


# Listeners


def check_place(own: Mapping[str, object], all_settings: Mapping[str, object], where: str) -> None:
    """A listener is on a Unix socket, or on a host and a port, or on sockets that are open at the start.

    Args:
        own: What was written for this listener.
        all_settings: The same, with what holds for all listeners.
        where: Names the listener in the error.

    Raises:
        CommandError: Two of them were written.
    """
    keys = [key for key in KEYS if key in all_settings]
    if keys:
        for name in (*keys[1:], *(name for name in _PLACE if name in own and name not in KEYS)):
            raise CommandError(f"{where}{name} contradicts {keys[0]}, which takes sockets that are there")
        return
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
        if isinstance(one, SocketConfig) or isinstance(other, SocketConfig):
            taken = common_source(one, other)
            same, place = taken is not None, str(taken)
        elif one.unix_path is not None or other.unix_path is not None:
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


def make_config(settings: Mapping[str, object], where: str, directory: Path) -> Config:
    """Make a listener's Config.

    Args:
        settings: Its fields, and the settings of its TLS context.
        where: Names the listener in errors.
        directory: Relative paths begin here.

    Raises:
        CommandError: A value is not allowed, two contradict each other, or a certificate cannot be used.
    """
    fields: dict[str, Any] = dict(settings)
    if fields.get("host") == "*":
        fields["host"] = None
    for name in ("unix_path", "spool_directory"):
        if fields.get(name) is not None:
            fields[name] = str(directory / str(fields[name]))
    source = source_of(fields, where)
    make: type[Config] = Config
    if source is not None:
        fields = {name: value for name, value in fields.items() if name not in _PLACE} | {"source": source}
        make = SocketConfig
    tls = {each.name: fields.pop(each.name) for each in TLS if each.name in fields}
    # A switch that is off asks for no context.
    if any(value is not False for value in tls.values()):
        from trio_smtp.cli.certificates import make_context

        fields["ssl_context"] = make_context(tls, where, directory)
    try:
        return make(**fields)
    except (TypeError, ValueError) as error:
        hint = " (tls_cert gives it one)" if "ssl_context" in str(error) else ""
        raise CommandError(f"{where}{error}{hint}") from error
