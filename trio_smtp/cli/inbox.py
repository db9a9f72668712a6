"""`trio-smtp inbox`: catches what programs send, and shows it in a browser."""

from __future__ import annotations

import argparse
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from trio_smtp import App, Config
from trio_smtp.plugins.faults import RuleError
from trio_smtp.plugins.password_file import password_file

from .configuration.values import seconds, size
from .errors import PROGRAM, RUNTIME, CommandError, reason_of
from .logs import set_up_logging
from .options import Parser
from .places import LOOPBACK, SMTP_PORT, place
from .serving import place_of, serve_all

if TYPE_CHECKING:
    from trio_smtp.inbox import Inbox

__all__ = ["inbox"]

_HTTP = 8025
#: What is offered where any credentials are right.
_MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")
_MAX_RECIPIENTS = 10_000


def inbox(arguments: Sequence[str]) -> int:
    """Run the command until signals end it.

    Args:
        arguments: What follows ``inbox`` on the command line.

    Returns:
        The exit code.

    Raises:
        CommandError: An option is wrong, or the system refuses something; nothing is served.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    try:
        from trio_smtp.inbox.web import bind, web

        with _inbox_of(options) as made:
            app, config = _smtp(made, options)
            made.smtp_address = place_of(options.smtp)
            application = made.asgi(
                root_path=options.webroot,
                allowed_hosts=options.allow_host,
                max_message_size=config.max_message_size or 0,
                users=options.auth,
            )
            sockets = _listen(bind, *options.http)
            app.lifespan(web(application, sockets))
            try:
                return _serve(app, config, _announcement(made, sockets, options))
            finally:
                for sock in sockets:
                    sock.close()
    except ImportError as error:
        raise CommandError(str(error), RUNTIME) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{where}{reason_of(error)}", RUNTIME) from error
    except RuleError as error:
        raise CommandError(f"--fail: {error}") from error
    except ValueError as error:
        raise CommandError(str(error)) from error


def _inbox_of(options: argparse.Namespace) -> Inbox:
    from trio_smtp.inbox import Inbox

    return Inbox(
        options.database,
        max_messages=options.max_messages,
        max_size=options.max_size,
        max_age=options.max_age,
        rules=options.fail,
        relay=options.relay,
        label=options.label,
    )


def _serve(app: App, config: Config, what: str) -> int:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return trio.run(serve_all, app, [config], what)
    finally:
        signal.signal(signal.SIGHUP, before)


def _parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} inbox",
        description="Catch what programs send by SMTP, and show it in a browser. Nothing is delivered.",
        epilog="It speaks Mailpit's API: docs/inbox.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--smtp",
        type=place,
        default=(LOOPBACK, SMTP_PORT),
        metavar="[HOST:]PORT",
        help=f"default: {LOOPBACK}:{SMTP_PORT}",
    )
    add("--http", type=place, default=(LOOPBACK, _HTTP), metavar="[HOST:]PORT", help=f"default: {LOOPBACK}:{_HTTP}")
    add("--database", metavar="FILE", help="keep the messages there (default: a temporary file)")
    add("--max-messages", type=int, default=500, metavar="NUMBER", help="the oldest go first (default: 500)")
    add("--max-size", type=_size, default=_size("512M"), metavar="SIZE", help="of all of them (default: 512M)")
    add("--max-age", type=_age, metavar="AGE", help="such as 12h or 7d (default: none)")
    add("--fail", action="append", default=[], metavar="RULE", help='such as "rcpt to=bob@* fail 451 times=1"')
    add("--relay", metavar="URL", help="release messages to smtp://[USER:PASSWORD@]HOST[:PORT][?allow=*@example.com]")
    add("--tls", action="store_true", help="offer STARTTLS, with a certificate made at start")
    add("--smtp-users", metavar="FILE", help="let in only these users by SMTP; see trio-smtp passwd")
    add("--auth", metavar="FILE", help="let only these users look; see trio-smtp passwd")
    add("--no-auth", action="store_true", help="let everybody look who can reach an address that is not local")
    add("--webroot", default="", metavar="PATH", help="where a proxy shows the pages, such as /mail")
    add("--allow-host", action="append", default=[], metavar="NAME", help="answer requests for this name, too")
    add("--label", default="", metavar="TEXT", help="shown on the page, to tell several inboxes apart")
    add("-v", "--verbose", action="count", default=0, help="log to stderr; twice: the dialogue as well")
    return parser


def _check(options: argparse.Namespace) -> None:
    from trio_smtp.inbox.web import is_loopback

    if options.auth is not None and options.no_auth:
        raise CommandError("--auth contradicts --no-auth")
    for name in ("smtp", "http"):
        host, port = getattr(options, name)
        if not is_loopback(host) and options.auth is None and not options.no_auth:
            raise CommandError(
                f"--{name} {place_of((host, port))} can be reached from elsewhere: say --auth FILE, or --no-auth"
            )
    set_up_logging(options.verbose, "text")


def _smtp(made: Inbox, options: argparse.Namespace) -> tuple[App, Config]:
    """The App that catches, and where it listens."""
    host, port = options.smtp
    fields: dict[str, Any] = {"auth_mechanisms": _MECHANISMS}
    app = App()
    if options.smtp_users is not None:
        fields = {"auth_required": True}
    app.use(made.capture(accept_any_user=options.smtp_users is None))
    if options.smtp_users is not None:
        app.use(password_file(options.smtp_users))
    if options.tls:
        from .certificates import make_context

        fields["ssl_context"] = make_context({"tls_self_signed": True}, "", Path())
    return app, Config(host=host or None, port=port, allow_insecure_auth=True, max_recipients=_MAX_RECIPIENTS, **fields)


def _listen(bind: Any, host: str, port: int) -> list[socket.socket]:
    try:
        sockets: list[socket.socket] = bind(host, port)
    except OSError as error:
        raise CommandError(f"cannot listen on {place_of((host, port))}: {reason_of(error)}", RUNTIME) from error
    return sockets


def _announcement(made: Inbox, sockets: Sequence[socket.socket], options: argparse.Namespace) -> str:
    host, port = sockets[0].getsockname()[:2]
    shown = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - looked up, not listened on
    url = f"http://{place_of((shown, port))}{options.webroot.rstrip('/')}/"
    kept = "in a temporary file" if made.store.temporary else f"in {made.store.path}"
    return f"Inbox on {url} (messages {kept})"


# Options


def _size(text: str) -> int:
    try:
        return size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M") from None


def _age(text: str) -> int:
    try:
        return int(seconds(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 12h") from None
