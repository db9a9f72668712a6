"""`trio-smtp check`: asks whether a mail server answers, for health checks of containers and load balancers."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import trio

from trio_smtp.client import DeliveryError, ExtensionMissing, Options, Timeouts, connect

from .certificates import client_context
from .errors import PROGRAM, RUNTIME, CommandError
from .options import Parser
from .output import say
from .places import place

__all__ = ["check"]

_SCHEMES = {"none": "smtp", "starttls": "smtp", "implicit": "smtps"}


def check(arguments: Sequence[str]) -> int:
    """Run the command: wait for the greeting, say EHLO, shake hands where that is asked for, and QUIT.

    Args:
        arguments: What follows ``check`` on the command line.

    Returns:
        The exit code: 0 when the server serves.

    Raises:
        CommandError: It does not, or not in time (`RUNTIME`); or a mistake in the arguments.
    """
    given = _parser().parse_args(arguments)
    options: Options = {
        "tls": "required" if given.tls == "starttls" else "none",
        "timeouts": Timeouts(connect=given.timeout, greeting=given.timeout, command=given.timeout, tls=given.timeout),
    }
    if given.ca is not None or given.no_verify:
        options["ssl_context"] = client_context(given.ca, verify=not given.no_verify)
    host, port = given.place
    scheme = "lmtp" if given.lmtp else _SCHEMES[given.tls]
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        said = trio.run(_ask, url, options, given.timeout)
    except ExtensionMissing as error:
        raise CommandError(f"{url}: the server does not offer {error.extension}", RUNTIME) from error
    except DeliveryError as error:
        raise CommandError(f"{url}: {error}", RUNTIME) from error
    except trio.TooSlowError as error:
        raise CommandError(f"{url}: no answer in {given.timeout:g} seconds", RUNTIME) from error
    except ValueError as error:
        raise CommandError(f"{url}: {error}") from error
    if not given.quiet:
        say(sys.stdout, said)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"{PROGRAM} check",
        description="Ask whether a mail server answers: its greeting, EHLO, and TLS where that is asked for.",
        epilog="Exit codes: 0: it serves; 1: it does not; 2: a mistake in the arguments.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("place", type=place, metavar="[HOST:]PORT", help="the server (default of the host: 127.0.0.1)")
    add("--tls", choices=tuple(_SCHEMES), default="none", help="(default: none)")
    add("--lmtp", action="store_true", help="say LHLO")
    add("--ca", metavar="FILE", help="PEM file of the authorities to trust")
    add("--no-verify", action="store_true", help="take any certificate")
    add("--timeout", type=_timeout, default=5.0, metavar="SECONDS", help="for all of it (default: 5)")
    add("-q", "--quiet", action="store_true", help="say nothing when it serves")
    return parser


def _timeout(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


async def _ask(url: str, options: Options, timeout: float) -> str:
    with trio.fail_after(timeout):
        async with connect(url, **options) as client:
            tls = f", {client.tls}" if client.tls else ""
            return f"{url} serves ({', '.join(sorted(client.extensions)) or 'no extensions'}{tls})"
