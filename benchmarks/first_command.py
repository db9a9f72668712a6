"""How long the first command after STARTTLS takes, beside Postfix: a client with Nagle's algorithm may wait for an ACK.

    python benchmarks/first_command.py [--tries N] [--most MS]

In TLS 1.3 the client speaks last in the handshake. A client that leaves Nagle's algorithm on (smtplib, JavaMail,
PHPMailer and others) sends its first command only when that is acknowledged, which a server that has nothing to say may
put off for 40 ms. smtplib says STARTTLS to both servers in turn; the EHLO after it is measured. Exit code 1 when our
median is not less than 10 ms. Postfix is left out, with a reason, where it is not installed or may not be started. Only
127.0.0.1 is used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import smtplib
import ssl
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from processes import Server, running
from run import certificate

SERVERS = Path(__file__).resolve().parent / "servers"
OURS, POSTFIX = "trio_smtp", "Postfix smtpd"


def first_command(server: Server, trust: ssl.SSLContext) -> float:
    """Shake hands with a server; how many milliseconds the next EHLO takes."""
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        client.ehlo()
        client.starttls(context=trust)
        start = time.perf_counter()
        code, _ = client.ehlo()
        taken = time.perf_counter() - start
    if code != 250:
        raise SystemExit(f"the server refused EHLO: {code}")
    return taken * 1000


def missing() -> str | None:
    """Why Postfix is left out."""
    if shutil.which("postfix") is None:
        return "it is not installed"
    return "only root may start it" if os.geteuid() != 0 else None


def measure(tries: int, most: float) -> int:
    """Print the figures; returns the exit code."""
    programs = {OURS: "trio_smtp_server.py"}
    if (reason := missing()) is None:
        programs[POSTFIX] = "postfix_server.py"
    else:
        print(f"{POSTFIX} is left out: {reason}.", file=sys.stderr)
    taken: dict[str, list[float]] = {name: [] for name in programs}
    with ExitStack() as stack:
        files = stack.enter_context(certificate())
        if files is None:
            raise SystemExit("pip install trustme")
        trust = ssl.create_default_context(cafile=files.ca)
        trust.minimum_version = ssl.TLSVersion.TLSv1_3
        trust.check_hostname = False
        servers = {
            name: stack.enter_context(
                running([sys.executable, str(SERVERS / program), "{port}", files.chain, files.key], None)
            )
            for name, program in programs.items()
        }
        for attempt in range(-1, tries):
            for name, server in servers.items():
                figure = first_command(server, trust)
                # The first may find a server that still loads what it needs.
                if attempt >= 0:
                    taken[name].append(figure)
    print(f"EHLO after STARTTLS with TLS 1.3, smtplib, {tries} tries each, in turn; in ms")
    for name, figures in taken.items():
        low, middle, high = min(figures), statistics.median(figures), max(figures)
        print(f"{name:14} median {middle:8.2f}   least {low:8.2f}   most {high:8.2f}")
    holds = statistics.median(taken[OURS]) < most
    print(f"the median of {OURS} must be less than {most:g} ms: {'holds' if holds else 'DOES NOT HOLD'}")
    return 0 if holds else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="The first command after a handshake, beside Postfix.")
    parser.add_argument("--tries", type=int, default=50, metavar="N", help="with each (default: %(default)s)")
    parser.add_argument(
        "--most", type=float, default=10, metavar="MS", help="bound of our median (default: %(default)s)"
    )
    options = parser.parse_args()
    return measure(options.tries, options.most)


if __name__ == "__main__":
    sys.exit(main())
