"""`trio-smtp sendmail`: the command line of sendmail, for programs that send by one (PHP, cron); sends to the inbox."""

from __future__ import annotations

import argparse
import getpass
import re
import socket
import sys
from collections.abc import Sequence

from trio_smtp.client import SendResult, connect
from trio_smtp.reading import field_addresses, read_octets

from .delivering import delivered
from .errors import PROGRAM, RUNTIME, CommandError, reason_of
from .options import Parser
from .output import say
from .places import LOOPBACK, SMTP_PORT, place

__all__ = ["sendmail"]

_FIELD = re.compile(rb"(?:[!-9;-~]+)[ \t]*:")
_BCC = re.compile(rb"bcc[ \t]*:", re.IGNORECASE)


def sendmail(arguments: Sequence[str]) -> int:
    """Run the command: send the message on standard input.

    Args:
        arguments: What follows ``sendmail`` on the command line.

    Returns:
        The exit code: 0 when every recipient has the message, 1 when one was refused, 130 when it was interrupted.

    Raises:
        CommandError: Nobody has the message, or it is not known; or a mistake in the arguments.
    """
    given = _parser().parse_args(arguments)
    try:
        message = sys.stdin.buffer.read()
    except OSError as error:
        raise CommandError(f"cannot read standard input: {reason_of(error)}", RUNTIME) from error
    recipients: list[str] = given.recipients
    if given.from_fields:
        parsed = read_octets(message)
        recipients = [*recipients, *(each for name in ("To", "Cc", "Bcc") for each in field_addresses(parsed, name))]
        message = _without_bcc(message)
    if not recipients:
        raise CommandError("no recipient: name some, or have -t take them from the fields To, Cc and Bcc")
    return delivered(lambda: _deliver(given, list(dict.fromkeys(map(_with_domain, recipients))), message))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"{PROGRAM} sendmail",
        description="Send the message on standard input, as sendmail does, to the inbox. In php.ini: sendmail_path ="
        f' "{PROGRAM} sendmail -t -i".',
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("recipients", metavar="ADDRESS", nargs="*", help="a recipient")
    add("-t", dest="from_fields", action="store_true", help="the fields To, Cc and Bcc name recipients; Bcc is removed")
    add("-f", "-r", dest="sender", metavar="ADDRESS", help="the sender (default: the user on this host)")
    add("-v", dest="verbose", action="store_true", help="show the dialogue")
    default = f"{LOOPBACK}:{SMTP_PORT}"
    add(
        "--smtp",
        type=place,
        default=(LOOPBACK, SMTP_PORT),
        metavar="[HOST:]PORT",
        help=f"where to (default: {default})",
    )
    for flag in ("-i", "-bm"):  # a line of a dot alone is never the end; and this command does nothing but send
        add(flag, action="store_true", help=argparse.SUPPRESS)
    for option in ("-o", "-F", "-B", "-N", "-R", "-V", "-O"):  # of sendmail, and of no effect here
        add(option, action="append", help=argparse.SUPPRESS)
    return parser


def _without_bcc(message: bytes) -> bytes:
    """The message without its Bcc fields; all other octets stay."""
    lines = message.splitlines(keepends=True)
    kept: list[bytes] = []
    dropping = False
    for number, line in enumerate(lines):
        if line[:1] in b" \t" and line.strip():
            if not dropping:
                kept.append(line)
        elif _FIELD.match(line):
            dropping = _BCC.match(line) is not None
            if not dropping:
                kept.append(line)
        else:  # the header section ends here
            return b"".join([*kept, *lines[number:]])
    return b"".join(kept)


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may know no name for the user's number
        return "nobody"


def _with_domain(address: str) -> str:
    """The address as sendmail completes it: cron writes to ``root``, and means the user on this host."""
    return f"{address}@{socket.gethostname()}" if address and "@" not in address else address


async def _deliver(given: argparse.Namespace, recipients: Sequence[str], message: bytes) -> SendResult:
    host, port = given.smtp
    sender = _with_domain(_user() if given.sender is None else given.sender.strip("<>"))
    watch = (lambda _, line: say(sys.stderr, line)) if given.verbose else None
    async with connect(
        f"smtp://[{host}]:{port}" if ":" in host else f"smtp://{host}:{port}", tls="none", watch=watch
    ) as client:
        return await client.send(sender, recipients, message)
