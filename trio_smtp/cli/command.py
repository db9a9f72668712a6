"""The `trio-smtp` command: serves an App, or stores every message in a Maildir.

Every mistake in the arguments, and every refusal of the system, is one line on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from trio_smtp import App, CallNext, Config, DataContext
from trio_smtp.delivery.maildir import maildir
from trio_smtp.net.steady_log import SteadyHandler
from trio_smtp.server.processes import System

from .errors import PROGRAM, RUNTIME, CommandError, reason_of, reported
from .measuring import measuring
from .options import Parser, add_options, make_configs, make_workers
from .output import LossyWriter, open_standard_streams, say
from .serving import serve_all, show, supervise

__all__ = ["main", "make_parser"]

_DEFAULT_MAILDIR = "mail"
_SHOWN_RECIPIENTS = 3
_LOG_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


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
    if words[:1] == ["passwd"]:
        from .passwd import passwd

        return reported(lambda: passwd(words[1:]))
    if words[:1] == ["inbox"]:
        from .inbox import inbox

        return reported(lambda: inbox(words[1:]))
    if words[:1] == ["send"]:
        from .send import send

        return reported(lambda: send(words[1:]))
    if words[:1] == ["sendmail"]:
        from .sendmail import sendmail

        return reported(lambda: sendmail(words[1:]))
    return reported(lambda: _run(words, system))


def _run(words: list[str], system: System | None) -> int:
    given = vars(make_parser().parse_args(words))
    name, directory, file = (given.pop(option, None) for option in ("app", "maildir", "config"))
    verbose, workers, metrics = given.pop("verbose"), given.pop("workers", None), given.pop("metrics", None)
    if name is not None and directory is not None:
        raise CommandError("--maildir is for the built-in application: it cannot stand beside APP")
    configs = make_configs(given, file)
    workers = make_workers(workers, file)
    logging.basicConfig(
        level=_LOG_LEVELS[min(verbose, len(_LOG_LEVELS) - 1)],
        handlers=[SteadyHandler(LossyWriter(lambda: sys.stderr))],
        format=f"%(asctime)s {'%(process)d ' if workers > 1 else ''}%(levelname)s %(name)s: %(message)s",
    )
    if name is not None:
        app, what = _load_app(name), f"Serving {name}"
    else:
        app, what = _maildir_app(_DEFAULT_MAILDIR if directory is None else directory, configs)
    # Ignored around the run: a SIGHUP that arrives after serving has ended would otherwise kill the process.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with measuring([app], metrics):
            if workers > 1:
                return supervise(app, configs, what, workers, system=system)
            return trio.run(serve_all, app, configs, what)
    finally:
        signal.signal(signal.SIGHUP, before)


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
        usage=f"{PROGRAM} [APP] [options]\n       {PROGRAM} inbox [options]\n"
        f"       {PROGRAM} send URL --to ADDRESS [options]\n       {PROGRAM} sendmail [-t] [-f ADDRESS] [ADDRESS ...]\n"
        f"       {PROGRAM} passwd FILE USER [--delete]",
        description="An SMTP server. Without APP it stores every message in a Maildir and prints a line for each.",
        epilog="SIGTERM and SIGINT let what is under way finish; a second one stops at once. SIGHUP loads certificates"
        f" anew. {PROGRAM} inbox shows what it catches in a browser. {PROGRAM} passwd makes and edits a file of"
        f" users and the hashes of their passwords; {PROGRAM} send sends a message and shows the dialogue;"
        f" {PROGRAM} sendmail takes the place of sendmail in programs whose mail the inbox is to catch.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("app", nargs="?", metavar="APP", help="module:attribute, a trio_smtp.App")
    parser.add_argument("--version", nargs=0, action=_Version, help="print the version")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log to stderr; twice: the dialogue as well")
    parser.add_argument("--maildir", metavar="DIR", help=f"where messages go (default: ./{_DEFAULT_MAILDIR})")
    parser.add_argument(
        "--workers", type=_count, metavar="NUMBER", help="processes that serve, each in a core of its own (default: 1)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML with a [[listen]] table for each listener, in place of the options below"
    )
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="where /metrics, /livez and /readyz are to be had (default: nowhere)"
    )
    add_options(parser)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


# Applications


def _load_app(name: str) -> App:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise CommandError(f"APP must be module:attribute, as in my_module:app, not {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise CommandError(f"cannot import {name}: {type(error).__name__}: {error}") from error
    if not isinstance(found, App):
        raise CommandError(f"{name} is not a trio_smtp.App but of type {type(found).__name__}")
    return found


def _maildir_app(directory: str, configs: Sequence[Config]) -> tuple[App, str]:
    if any(config.auth_required for config in configs):
        raise CommandError("auth_required needs an APP: the built-in application knows no users")
    app = App()
    app.on_data(_say_what_came)
    try:
        app.use(maildir(directory))
    except OSError as error:
        raise CommandError(reason_of(error), RUNTIME) from error
    except ValueError as error:
        raise CommandError(f"--maildir: {error}") from error
    return app, f"Storing messages in the Maildir {Path(directory).absolute()}"


async def _say_what_came(ctx: DataContext, call_next: CallNext) -> None:
    await call_next()
    recipients = [f"<{recipient.address}>" for recipient in ctx.envelope.rcpt_to]
    if len(recipients) > _SHOWN_RECIPIENTS:
        recipients[_SHOWN_RECIPIENTS:] = [f"{len(recipients) - _SHOWN_RECIPIENTS} more"]
    sender = ctx.envelope.mail_from.address if ctx.envelope.mail_from else ""
    show(f"<{sender}> to {', '.join(recipients)}: {ctx.stream.byte_length} octets, {ctx.reply.text}")
