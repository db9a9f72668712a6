"""`trio-smtp send`: sends one message and shows the dialogue, to try out a server."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from pathlib import Path

from trio_smtp.client import Options, Password, SendResult, connect

from .certificates import client_context
from .delivering import delivered
from .errors import PROGRAM, RUNTIME, CommandError, reason_of
from .options import Parser
from .output import say

__all__ = ["send"]

_ARROWS = {"C": "->", "S": "<-"}


def send(arguments: Sequence[str]) -> int:
    """Run the command: send one message.

    Args:
        arguments: What follows ``send`` on the command line.

    Returns:
        The exit code: 0 when every recipient has the message, 1 when one was refused, 130 when it was interrupted.

    Raises:
        CommandError: Nobody has the message, or it is not known; or a mistake in the arguments.
    """
    given = _parser().parse_args(arguments)
    message = _message(given)
    options = _options(given)
    return delivered(lambda: _deliver(given, message, options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"{PROGRAM} send",
        description="Send one message, and show the dialogue with the server; secrets are masked.",
        epilog="URL: smtp://host:port, smtps://host, lmtp://host:port or lmtp+unix:///path.",
        allow_abbrev=False,
    )
    parser.add_argument("url", metavar="URL", help="the server")
    parser.add_argument(
        "--from", dest="sender", metavar="ADDRESS", default="", help="the sender (default: the null sender)"
    )
    parser.add_argument(
        "--to",
        dest="recipients",
        metavar="ADDRESS",
        action="append",
        required=True,
        help="a recipient; may be repeated",
    )
    parser.add_argument(
        "--file", metavar="FILE", help="the message, - for standard input (default: a short one is made)"
    )
    parser.add_argument("--subject", metavar="TEXT", help="of the message that is made")
    parser.add_argument("--body", metavar="TEXT", help="of the message that is made")
    parser.add_argument("--tls", choices=("required", "opportunistic", "none"), help="(default: required for smtp)")
    parser.add_argument("--ca", metavar="FILE", help="PEM file of the authorities to trust")
    parser.add_argument("--no-verify", action="store_true", help="take any certificate")
    parser.add_argument("--user", metavar="NAME", help="log in; the password is asked for on a terminal")
    parser.add_argument("--password-file", metavar="FILE", help="the password is the first line of this file")
    parser.add_argument("--auth", metavar="MECHANISM", action="append", help="a mechanism to use; may be repeated")
    parser.add_argument("--insecure-auth", action="store_true", help="send a password without TLS too")
    parser.add_argument("--ehlo", metavar="NAME", help="what the client calls itself")
    parser.add_argument("--chunking", action="store_true", help="send the message by BDAT")
    parser.add_argument("--quiet", action="store_true", help="do not show the dialogue")
    return parser


def _message(given: argparse.Namespace) -> bytes | EmailMessage:
    if given.file is None:
        return _made(given)
    if given.subject is not None or given.body is not None:
        raise CommandError("--subject and --body are for the message that is made: they cannot stand beside --file")
    try:
        return sys.stdin.buffer.read() if given.file == "-" else Path(given.file).read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {given.file}: {reason_of(error)}", RUNTIME) from error


def _made(given: argparse.Namespace) -> EmailMessage:
    """A short message, so that a server can be tried out without a file."""
    message = EmailMessage()
    try:
        message["Date"] = format_datetime(localtime())
        message["From"] = given.sender or "<>"
        message["To"] = ", ".join(given.recipients)
        message["Message-ID"] = make_msgid(domain="trio-smtp.invalid")
        message["Subject"] = "A test" if given.subject is None else given.subject
        message.set_content(f"{given.body}\n" if given.body is not None else f"Sent by {PROGRAM} send.\n")
    except ValueError as error:
        raise CommandError(str(error)) from error
    return message


def _options(given: argparse.Namespace) -> Options:
    options = Options(tls=given.tls, insecure_auth=given.insecure_auth, local_hostname=given.ehlo)
    if not given.quiet:
        options["watch"] = lambda who, line: say(sys.stdout, f"{_ARROWS[who]} {line}")
    if given.ca is not None or given.no_verify:
        options["ssl_context"] = client_context(given.ca, verify=not given.no_verify)
    if given.user is not None:
        mechanisms = None if given.auth is None else tuple(given.auth)
        options["auth"] = Password(given.user, _password(given), mechanisms=mechanisms)
    elif given.auth is not None or given.password_file is not None:
        raise CommandError("--auth and --password-file need --user")
    return options


def _password(given: argparse.Namespace) -> str:
    """Read the password: it is no argument, because every user of the machine can see those."""
    try:
        if given.password_file is not None:
            lines = Path(given.password_file).read_text(encoding="utf-8").splitlines()
            return lines[0] if lines else ""
        return getpass.getpass(f"Password for {given.user}: ")
    except (OSError, UnicodeError) as error:
        raise CommandError(f"cannot read {given.password_file}: {error}", RUNTIME) from error
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandError("no password was given", RUNTIME) from error


async def _deliver(given: argparse.Namespace, message: bytes | EmailMessage, options: Options) -> SendResult:
    async with connect(given.url, **options) as client:
        return await client.send(given.sender, given.recipients, message, chunking=given.chunking)
