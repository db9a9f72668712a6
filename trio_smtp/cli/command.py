"""The `trio-smtp` command: serves an App, or stores every message in a Maildir.

Whatever is wrong with what it was told is one line on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import trio

from trio_smtp import App, CallNext, Config, DataContext, SMTPServer, serve
from trio_smtp.cli.options import RUNTIME, CommandError, Parser, add_options, make_configs, make_workers
from trio_smtp.cli.output import LossyWriter
from trio_smtp.delivery.maildir import maildir

__all__ = ["main"]

#: A Unix socket's path, or a host (None: all of this machine's) and a port.
_Address = str | tuple[str | None, int]

_PROGRAM = "trio-smtp"
_DEFAULT_MAILDIR = "mail"
_SHOWN_RECIPIENTS = 3
#: The stream is asked for when it is written to: a program that has the command in it may change it.
_stdout = LossyWriter(lambda: sys.stdout)
_LOG_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
#: What a client on this machine connects to where the server listens on every interface.
_LOOPBACK: dict[str | None, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not listened on


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name; None: that of the process.

    Returns:
        The exit code: 0 after a drain, 1 when the system refused something, 2 for a mistake in the arguments, 128 and a
        signal's number when that stopped it.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words[:1] == ["passwd"]:
            from trio_smtp.cli.passwd import passwd

            return passwd(words[1:])
        return _run(words)
    except CommandError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return error.status


def _run(words: list[str]) -> int:
    given = vars(_parser().parse_args(words))
    name, directory, file = (given.pop(option, None) for option in ("app", "maildir", "config"))
    verbose, workers = given.pop("verbose"), given.pop("workers", None)
    if name is not None and directory is not None:
        raise CommandError("--maildir is for the built-in application: it cannot stand beside APP")
    configs = make_configs(given, file)
    workers = make_workers(workers, file)
    logging.basicConfig(
        level=_LOG_LEVELS[min(verbose, len(_LOG_LEVELS) - 1)],
        stream=LossyWriter(lambda: sys.stderr),
        format=f"%(asctime)s {'%(process)d ' if workers > 1 else ''}%(levelname)s %(name)s: %(message)s",
    )
    if name is not None:
        app, what = _load_app(name), f"Serving {name}"
    else:
        app, what = _maildir_app(_DEFAULT_MAILDIR if directory is None else directory, configs)
    # One that comes when serving has ended is delivered then, and would end the process in its own way.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if workers > 1:
            return _supervise(app, configs, what, workers)
        return trio.run(_serve_all, app, configs, what)
    finally:
        signal.signal(signal.SIGHUP, before)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version(_PROGRAM)
        except PackageNotFoundError:
            installed = "(not installed)"
        print(_PROGRAM, installed)
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} [APP] [options]\n       {_PROGRAM} passwd FILE USER [--delete]",
        description="An SMTP server. Without APP it stores every message in a Maildir and prints a line for each.",
        epilog="SIGTERM and SIGINT let what is under way finish; a second one stops at once. SIGHUP loads certificates"
        f" anew. {_PROGRAM} passwd makes and edits a file of users and the hashes of their passwords.",
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
        raise CommandError(str(error.strerror), RUNTIME) from error
    except ValueError as error:
        raise CommandError(f"--maildir: {error}") from error
    return app, f"Storing messages in the Maildir {Path(directory).absolute()}"


async def _say_what_came(ctx: DataContext, call_next: CallNext) -> None:
    await call_next()
    recipients = [f"<{recipient.address}>" for recipient in ctx.envelope.rcpt_to]
    if len(recipients) > _SHOWN_RECIPIENTS:
        recipients[_SHOWN_RECIPIENTS:] = [f"{len(recipients) - _SHOWN_RECIPIENTS} more"]
    sender = ctx.envelope.mail_from.address if ctx.envelope.mail_from else ""
    _say(f"<{sender}> to {', '.join(recipients)}: {ctx.stream.byte_length} octets, {ctx.reply.text}")


def _say(text: str) -> None:
    """Print a line at once, or not at all."""
    _stdout.write(f"{text}\n")


# Serving


async def _serve_all(app: App, configs: Sequence[Config], what: str) -> int:
    """Serve the App under every Config until signals end it; returns the exit code."""
    servers: list[SMTPServer] = []
    status = 0
    failure: CommandError | None = None

    async def obey_signals(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        nonlocal status
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            number = await _next_but_hangups(signals, servers)
            if len(servers) == len(configs):
                _say_finishing()
                for server in servers:
                    server.drain()
                number = await _next_but_hangups(signals, servers)
            status = 128 + number
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(obey_signals)
        async with trio.open_nursery() as serving:
            for config in configs:
                try:
                    servers.append(await serving.start(serve, app, config))
                except (OSError, ValueError) as error:  # a ValueError: the host is no name
                    failure = _cannot_listen(config, error)
                    nursery.cancel_scope.cancel()
                    break
            else:
                _announce([(server.config, _addresses_of(server)) for server in servers], what)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return status


async def _next_but_hangups(signals: AsyncIterator[int], servers: Sequence[SMTPServer]) -> int:
    """The next signal that is no SIGHUP; those have the certificates loaded anew."""
    while (number := await anext(signals)) == signal.SIGHUP:
        for server in servers:
            await _load_anew(server)
    return number


async def _load_anew(server: SMTPServer) -> None:
    from trio_smtp.cli.certificates import reload_certificates

    file = await reload_certificates(server)
    if file is not None:
        _say(f"Loaded {file} anew")


def _supervise(app: App, configs: Sequence[Config], what: str, workers: int) -> int:
    """The same in several processes."""
    from trio_smtp.server.shared_sockets import Listening, listen
    from trio_smtp.server.workers import Supervisor

    listening: list[Listening] = []
    for config in configs:
        try:
            listening.append(listen(SMTPServer(app, config), workers))
        except (OSError, ValueError) as error:
            for each in listening:
                each.close()
            raise _cannot_listen(config, error) from error

    def started() -> None:
        places = [
            (each.server.config, _addresses(sock.getsockname() for sock in each.sockets[0])) for each in listening
        ]
        _announce(places, f"{what} ({workers} workers)")

    return Supervisor(listening, workers, started=started, draining=_say_finishing, reload=_load_anew).run()


def _cannot_listen(config: Config, error: OSError | ValueError) -> CommandError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    place = _place(config.unix_path or (config.host, config.port))
    return CommandError(f"cannot listen on {place}: {reason}", RUNTIME)


def _say_finishing() -> None:
    _say("Finishing what is under way; a second signal stops at once.")


def _announce(places: Sequence[tuple[Config, list[_Address]]], what: str) -> None:
    _say(what)
    for config, addresses in places:
        tls = " (TLS)" if config.implicit_tls else " (STARTTLS)" if config.ssl_context else ""
        for address in addresses:
            _say(f"Listening on {_place(address)}{tls}")
    config, addresses = places[0]
    first = _first_message(addresses[0], config)
    if first is not None:
        _say(f"Send a first message:\n  {first}")


def _addresses_of(server: SMTPServer) -> list[_Address]:
    return _addresses(
        listener.socket.getsockname() for listener in server.listeners if isinstance(listener, trio.SocketListener)
    )


def _addresses(names: Iterable[Any]) -> list[_Address]:
    """What sockets call themselves, as people read it."""
    return [str(Path(name).absolute()) if isinstance(name, str) else (name[0], name[1]) for name in names]


def _place(address: _Address) -> str:
    if isinstance(address, str):
        return address
    host, port = address
    return f"{f'[{host}]' if host and ':' in host else host or '*'}:{port}"


def _first_message(address: _Address, config: Config) -> str | None:
    """A command that any shell takes; None where smtplib cannot send one.

    smtplib trusts every certificate unless it is told which. Its LMTP client is the one that knows Unix sockets.
    """
    unix = isinstance(address, str)
    if config.proxy_protocol or (unix and config.implicit_tls):
        return None
    client = "LMTP" if unix else "SMTP_SSL" if config.implicit_tls else "SMTP"
    where = repr(address) if isinstance(address, str) else f"{_LOOPBACK.get(address[0], address[0])!r}, {address[1]}"
    steps = [
        "import smtplib",
        f"c = smtplib.{client}({where})",
        *([f"c.ehlo_msg = '{'lhlo' if config.lmtp else 'ehlo'}'"] if config.lmtp is not unix else []),
        *(["c.starttls()"] if config.starttls_required else []),
        *(["c.login('USER', 'PASSWORD')"] if config.auth_required else []),
        r"c.sendmail('you@example.com', ['me@example.com'], 'Subject: Hello\n\nIt works.\n')",
        "c.quit()",
    ]
    return f'{shlex.quote(sys.executable)} -c "{"; ".join(steps)}"'
