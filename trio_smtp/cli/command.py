"""The `trio-smtp` command: serves an App, or stores every message in a Maildir.

Every mistake in the arguments, and every refusal of the system, is one line on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import trio

from trio_smtp import App, CallNext, Config, DataContext
from trio_smtp.delivery.maildir import maildir
from trio_smtp.server.processes import System

from .configuration import Configuration, build, load, show_configuration
from .configuration.building import load_app
from .configuration.checking import command_settings
from .configuration.settings import COMMAND
from .configuration.values import closest
from .errors import PROGRAM, RUNTIME, CommandError, reason_of, reported
from .handed_over import Sockets, sockets_for, take_environment
from .logs import set_up_logging, show
from .measuring import measuring
from .options import Parser, add_command_options, add_listener_options, make_single_config, refuse_beside_file
from .output import open_standard_streams, say
from .serving import serve_all, supervise

__all__ = ["SUBCOMMANDS", "main", "make_parser"]

#: Each is a function in a module of the same name.
SUBCOMMANDS = ("check", "inbox", "passwd", "send", "sendmail")

Pairs = Sequence[tuple[App, Config]]

_DEFAULT_MAILDIR = "mail"
_SHOWN_RECIPIENTS = 3


def main(arguments: Sequence[str] | None = None, *, system: System | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name; None: that of the process.
        system: Signals, processes and the time for the supervisor of several workers; None: the real ones.

    Returns:
        The exit code: 0 after a drain, 1 when the system refused something, 2 for a mistake in the arguments, 128 and a
        signal's number when that stopped it.
    """
    open_standard_streams()
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] and words[0] in SUBCOMMANDS:
        module = importlib.import_module(f"trio_smtp.cli.{words[0]}")
        return reported(lambda: int(getattr(module, words[0])(words[1:])))
    return reported(lambda: _run(words, system))


def _run(words: list[str], system: System | None) -> int:
    if "--log-format=json" in words or ("--log-format", "json") in pairwise(words):
        set_up_logging(0, "json")  # mistakes in the other options are JSON as well
    given = vars(make_parser().parse_args(words))
    if given.pop("print_config", False):
        say(sys.stdout, show_configuration().rstrip())
        return 0
    name, directory, file = (given.pop(option, None) for option in ("app", "maildir", "config"))
    check = given.pop("check", False)
    said = {each.name: given.pop(each.name) for each in COMMAND if each.name in given}
    if file is not None:
        refuse_beside_file(given)
        said = command_settings(Path(file)) | said  # what the command line says wins
    workers = said.get("workers", 1)
    set_up_logging(said.get("verbose", 0), said.get("log_format", "text"), workers=workers)
    if name is not None and directory is not None:
        raise CommandError("--maildir is for the built-in application: it cannot stand beside APP")
    handed_over = take_environment(os.environ)
    pairs, what = (
        _of_options(given, name, directory, check) if file is None else _of_file(Path(file), name, directory, check)
    )
    configs = [config for _, config in pairs]
    if check:
        if handed_over:  # a service manager hands sockets over to the service alone
            with sockets_for(configs, handed_over):
                pass
        show(f"{file or 'The command line'} is right: {len(pairs)} {'listener' if len(pairs) == 1 else 'listeners'}")
        return 0
    with sockets_for(configs, handed_over) as sockets, measuring((app for app, _ in pairs), said.get("metrics")):
        return _serve(pairs, what, workers, sockets, system)


def _serve(pairs: Pairs, what: str, workers: int, sockets: Sockets, system: System | None) -> int:
    app = pairs[0][0]
    # Ignored around the run: a SIGHUP that arrives after serving has ended would otherwise kill the process.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if workers > 1:
            return supervise(app, pairs, what, workers, sockets=sockets, system=system)
        return trio.run(partial(serve_all, sockets=sockets), app, pairs, what)
    finally:
        signal.signal(signal.SIGHUP, before)


def _of_options(given: Mapping[str, object], name: str | None, directory: str | None, check: bool) -> tuple[Pairs, str]:
    """What a command line without a file describes."""
    config = make_single_config(given)
    if name is not None:
        hint = closest(name, SUBCOMMANDS)
        if hint:
            raise CommandError(f"there is no command {name!r}{hint}")
        return [(load_app(name), config)], f"Serving {name}"
    if config.auth_required:
        raise CommandError("auth_required needs an APP: the built-in application knows no users")
    app = App()
    _store(app, directory, check)
    return [(app, config)], _storing(directory)


def _of_file(file: Path, name: str | None, directory: str | None, check: bool) -> tuple[Pairs, str]:
    """What a file describes, and what the command line says beside it."""
    configuration = load(file)
    if name is not None:
        _check_beside(configuration, f"APP {name}")
        app = load_app(name)
        return [(app, each.config) for each in configuration.listeners], f"Serving {name}"
    if directory is not None and (configuration.app or all(each.delivery for each in configuration.listeners)):
        raise CommandError(f"--maildir is for the built-in application: {file} says where messages go")
    serving = build(configuration, lambda app: _store(app, directory, check), check=check)
    return serving.pairs, f"Serving {file}" if serving.delivers else _storing(directory)


def _check_beside(configuration: Configuration, what: str) -> None:
    """An App of the command line says by itself what becomes of mail."""
    for each in configuration.listeners:
        if configuration.app or each.uses or each.delivery or each.users:
            raise CommandError(f"{configuration.path} says what is served: {what} cannot stand beside it")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version(PROGRAM)
        except PackageNotFoundError:
            installed = "(not installed)"
        say(sys.stdout, f"{PROGRAM} {installed}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, all options included."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [APP] [options]\n       {PROGRAM} --config FILE [options]\n"
        f"       {PROGRAM} inbox [options]\n       {PROGRAM} check [HOST:]PORT [options]\n"
        f"       {PROGRAM} send URL --to ADDRESS [options]\n       {PROGRAM} sendmail [-t] [-f ADDRESS] [ADDRESS ...]\n"
        f"       {PROGRAM} passwd FILE USER [--delete]",
        description="An SMTP server. Without APP it stores every message in a Maildir and prints a line for each.",
        epilog="SIGTERM and SIGINT let what is under way finish; a second one stops at once. SIGHUP loads certificates"
        f" anew. {PROGRAM} inbox shows what it catches in a browser. {PROGRAM} passwd makes and edits a file of"
        f" users and the hashes of their passwords; {PROGRAM} send sends a message and shows the dialogue;"
        f" {PROGRAM} sendmail takes the place of sendmail in programs whose mail the inbox is to catch;"
        f" {PROGRAM} check asks whether a server answers.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("app", nargs="?", metavar="APP", help="module:attribute, a trio_smtp.App")
    group = parser.add_argument_group("the command")
    group.add_argument("--config", metavar="FILE", help="TOML that says what is served, in place of the groups below")
    group.add_argument("--maildir", metavar="DIR", help=f"where messages go (default: ./{_DEFAULT_MAILDIR})")
    group.add_argument("-v", "--verbose", action="count", help="log to stderr; twice: the dialogue as well")
    add_command_options(group)
    group.add_argument("--check", action="store_true", help="load everything, listen on nothing, and say what is wrong")
    group.add_argument("--print-config", action="store_true", help="print every key of the file with its default")
    group.add_argument("--version", nargs=0, action=_Version, help="print the version")
    add_listener_options(parser)
    return parser


# The built-in application


def _storing(directory: str | None) -> str:
    return f"Storing messages in the Maildir {Path(directory or _DEFAULT_MAILDIR).absolute()}"


def _store(app: App, directory: str | None, check: bool) -> None:
    app.on_data(_say_what_came)
    try:
        plugin = maildir(_DEFAULT_MAILDIR if directory is None else directory)
        if not check:
            app.use(plugin)
    except OSError as error:
        raise CommandError(reason_of(error), RUNTIME) from error
    except ValueError as error:
        raise CommandError(f"--maildir: {error}") from error


async def _say_what_came(ctx: DataContext, call_next: CallNext) -> None:
    await call_next()
    recipients = [f"<{recipient.address}>" for recipient in ctx.envelope.rcpt_to]
    if len(recipients) > _SHOWN_RECIPIENTS:
        recipients[_SHOWN_RECIPIENTS:] = [f"{len(recipients) - _SHOWN_RECIPIENTS} more"]
    sender = ctx.envelope.mail_from.address if ctx.envelope.mail_from else ""
    show(f"<{sender}> to {', '.join(recipients)}: {ctx.stream.byte_length} octets, {ctx.reply.text}")
