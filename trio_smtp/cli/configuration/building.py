"""Building what a checked configuration describes: Apps with their plugins and deliveries."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

import trio_smtp.delivery
import trio_smtp.plugins
from trio_smtp import App, Config, Plugin
from trio_smtp.app.application import Phase, chains_of
from trio_smtp.cli.errors import RUNTIME, CommandError, reason_of

from .checking import MOVE, Configuration, Listener, Step
from .reading import Secrets, with_files
from .settings import COMMAND, listener_settings
from .signatures import Argument, arguments_of
from .values import closest

__all__ = ["Serving", "build", "find_function", "import_named", "load_app", "names_in"]

_logger = logging.getLogger("trio_smtp")
_MAILDIR = "maildir"


@attrs.frozen
class Serving:
    """What is served.

    Attributes:
        pairs: An App and a Config for each listener.
        delivers: Every App has a delivery, or says by itself what becomes of mail.
    """

    pairs: Sequence[tuple[App, Config]]
    delivers: bool


def build(configuration: Configuration, otherwise: Callable[[App], object], *, check: bool = False) -> Serving:
    """Make the Apps of all listeners; those that say nothing of their own share one.

    Args:
        configuration: The file.
        otherwise: Gives an App its delivery when the file has none for it.
        check: Make a Maildir's delivery, but no Maildir.

    Raises:
        CommandError: A plugin or a delivery cannot be had, or refuses its arguments.
    """
    builder = _Builder(configuration, otherwise, check=check)
    try:
        if configuration.app is not None:
            app = builder.own_app(configuration.app)
            return Serving([(app, each.config) for each in configuration.listeners], True)
        delivers = all(each.delivery is not None for each in configuration.listeners)
        return Serving([(builder.app_of(each), each.config) for each in configuration.listeners], delivers)
    except CommandError as error:
        raise CommandError(configuration.secrets.hide(str(error)), error.status) from error


class _Builder:
    """Makes the Apps."""

    def __init__(self, configuration: Configuration, otherwise: Callable[[App], object], *, check: bool) -> None:
        self._directory = configuration.path.parent
        self._secrets = configuration.secrets
        self._otherwise = otherwise
        self._check = check
        self._made: list[tuple[tuple[object, ...], App]] = []

    def own_app(self, step: Step) -> App:
        """Import the App, or call its factory with the table."""
        found = self._import(step, "app")
        if isinstance(found, App):
            if step.arguments:
                raise CommandError(f"{step.where}{step.name} is an App, which takes no arguments: {_some(step)}")
            return found
        if not callable(found):
            raise CommandError(f"{step.where}{step.name} is not a trio_smtp.App but of type {type(found).__name__}")
        keys = {key.removesuffix("_file") for key in step.arguments if key.endswith("_file")}
        table = self._filled(step, {*keys, *step.arguments} - {key + "_file" for key in keys}, ())
        made = self._call(step, lambda: found(table), "cannot make the App: ")
        if not isinstance(made, App):
            raise CommandError(f"{step.where}{step.name} gives no trio_smtp.App: it is of type {type(made).__name__}")
        return made

    def app_of(self, listener: Listener) -> App:
        """The App of a listener: users, plugins in order, and the delivery."""
        key = (listener.users, listener.uses, listener.delivery)
        for known, app in self._made:
            if known == key:
                self._check_auth(listener, app)
                return app
        app = App()
        for step in listener.uses:
            self._install(app, step, self._function(step, trio_smtp.plugins, "plugin"))
        if listener.users is not None:
            step = Step("password_file", {"path": str(listener.users.absolute())}, f"{listener.where}users: ")
            self._install(app, step, self._function(step, trio_smtp.plugins, "plugin"))
        if listener.delivery is None:
            self._otherwise(app)
        else:
            self._deliver(app, listener.delivery)
        self._made.append((key, app))
        self._check_auth(listener, app)
        return app

    def _import(self, step: Step, key: str) -> object:
        """Import what the operator names, from the working directory and the file's too."""
        for directory in (Path.cwd(), self._directory.absolute()):
            if str(directory) not in sys.path:
                sys.path.insert(0, str(directory))
        return import_named(step.name, step.where, key, self._secrets)

    def _check_auth(self, listener: Listener, app: App) -> None:
        if listener.config.auth_required and Phase.AUTH not in chains_of(app):
            raise CommandError(f"{listener.where}auth_required needs users = FILE, or a plugin that checks passwords")

    def _deliver(self, app: App, step: Step) -> None:
        function = self._function(step, trio_smtp.delivery, "type")
        is_maildir = step.name == _MAILDIR
        if is_maildir and "{" in str(step.arguments.get("root", step.arguments.get("path", ""))):
            from trio_smtp.delivery.maildir_template import maildir_template

            function = maildir_template
        self._install(app, step, function, keep_out=self._check and is_maildir)

    def _function(self, step: Step, package: Any, key: str) -> Callable[..., object]:
        if ":" in step.name:
            found = self._import(step, key)
            if not callable(found):
                raise CommandError(f"{step.where}{step.name} is no function but of type {type(found).__name__}")
            return found
        known = names_in(package)
        if step.name not in known:
            hint = closest(step.name, known)
            ours = ", ".join(known)
            raise CommandError(
                f'{step.where}there is no {key} {step.name!r}{hint}: it is one of {ours}, or "module:name"'
            )
        try:
            return find_function(package, step.name)
        except (ImportError, AttributeError) as error:
            raise CommandError(f"{step.where}{error}", RUNTIME) from error

    def _install(self, app: App, step: Step, function: Callable[..., object], *, keep_out: bool = False) -> None:
        arguments = arguments_of(function)
        if not step.arguments and list(arguments) == ["app"]:  # a plugin itself, and no function that makes one
            plugin: Any = function
        else:
            plugin = self._call(step, lambda: function(**self._values(step, arguments)), "")
        if not callable(plugin):
            raise CommandError(f"{step.where}{step.name} gives no plugin: it is of type {type(plugin).__name__}")
        if not keep_out:
            self._call(step, lambda: _use(app, plugin), "")

    def _values(self, step: Step, arguments: dict[str, Argument]) -> dict[str, object]:
        texts = [each.name for each in arguments.values()]
        paths = [each.name for each in arguments.values() if each.is_path]
        table = self._filled(step, texts, paths)
        values: dict[str, object] = {}
        for key, value in table.items():
            if key not in arguments:
                raise CommandError(f"{step.where}{_unknown(key, step, arguments)}")
            try:
                values[key] = arguments[key].from_toml(value, self._directory.absolute())
            except ValueError as error:
                shown = "" if key not in step.arguments or isinstance(value, str) else f", not {value!r}"
                raise CommandError(f"{step.where}{error}{shown}") from None
        for each in arguments.values():
            if each.required and each.name not in values:
                raise CommandError(f"{step.where}it needs {each.name}, {each.wanted}")
        return values

    def _filled(self, step: Step, known: Any, paths: Any) -> dict[str, object]:
        return with_files(
            step.arguments, known, paths, where=step.where, directory=self._directory, secrets=self._secrets
        )

    def _call(self, step: Step, call: Callable[[], object], what: str) -> object:
        try:
            return call()
        except CommandError:
            raise
        except ImportError as error:
            raise CommandError(f"{step.where}{what}{error}", RUNTIME) from error
        except OSError as error:
            raise CommandError(f"{step.where}{what}{reason_of(error)}", RUNTIME) from error
        except Exception as error:
            _log_traceback(step.name, error, self._secrets)
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise CommandError(f"{step.where}{what}{kind}{error}") from error


def _use(app: App, plugin: Plugin) -> None:
    app.use(plugin)


def _some(step: Step) -> str:
    return ", ".join(step.arguments)


def _unknown(key: str, step: Step, arguments: dict[str, Argument]) -> str:
    if key in listener_settings() or key in {each.name for each in COMMAND}:
        return f"{key} is no key of this table: {MOVE}, or below its [[listen]]"
    known = [each.name for each in arguments.values() if each.wanted]
    allowed = f"allowed are {', '.join(known)}" if known else "it takes none"
    return f"{step.name} has no argument {key!r}{closest(key, known)}; {allowed}"


# Names


def names_in(package: Any) -> list[str]:
    """The plugins, or the deliveries, that a package has."""
    return sorted(each.name for each in pkgutil.iter_modules(package.__path__) if not each.name.startswith("_"))


def find_function(package: Any, name: str) -> Callable[..., object]:
    """Import ``package.NAME``, and give the function of the same name.

    Raises:
        ImportError: It cannot be imported, as without an extra.
        AttributeError: The module has no such function.
    """
    found: Callable[..., object] = getattr(importlib.import_module(f"{package.__name__}.{name}"), name)
    return found


def import_named(name: str, where: str, key: str, secrets: Secrets | None = None) -> object:
    """Import ``module:attribute``; with ``-v`` the log has the traceback of what fails.

    Raises:
        CommandError: The name is none, or cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise CommandError(f"{where}{key} must be module:attribute, as in my_module:app, not {name!r}")
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        _log_traceback(name, error, secrets or Secrets())
        raise CommandError(f"{where}cannot import {name}: {type(error).__name__}: {error}") from error
    return found


def load_app(name: str) -> App:
    """Import an App, from the working directory too.

    Raises:
        CommandError: The name is none, it cannot be imported, or is no App.
    """
    sys.path.insert(0, str(Path.cwd()))
    found = import_named(name, "", "APP")
    if not isinstance(found, App):
        raise CommandError(f"{name} is not a trio_smtp.App but of type {type(found).__name__}")
    return found


def _log_traceback(name: str, error: Exception, secrets: Secrets) -> None:
    if _logger.isEnabledFor(logging.INFO):
        _logger.info("%s failed:\n%s", name, secrets.hide("".join(traceback.format_exception(error)).rstrip()))
