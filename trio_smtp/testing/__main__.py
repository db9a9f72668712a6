"""``python -m trio_smtp.testing [[HOST:]PORT]``: takes every message and prints it."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence

from .captured import CapturedMessage
from .mailserver import MailServer

__all__ = ["main", "printed"]

_DESCRIPTION = "Take every message that is sent here, and print it. Nothing is delivered."


def main(args: Sequence[str] | None = None) -> int:
    """Serve and print until Ctrl-C, or until nobody reads what is printed.

    Args:
        args: The arguments; None: those of the command line.

    Returns:
        The exit code: 0 after Ctrl-C, 1 where the address cannot be had or standard output does not take what is
        printed.
    """
    parser = argparse.ArgumentParser(prog="python -m trio_smtp.testing", description=_DESCRIPTION)
    parser.add_argument(
        "address", nargs="?", default=("127.0.0.1", 8025), type=_address, metavar="[HOST:]PORT", help="127.0.0.1:8025"
    )
    host, port = parser.parse_args(args).address
    try:
        with _PrintingServer(host=host, port=port) as server:
            server.show(f"Listening on {server.host}:{server.port}; Ctrl-C ends")
            server.unread.wait()
        return 1
    except KeyboardInterrupt:
        return 0
    except OSError as exc:
        sys.stderr.write(f"cannot listen on {host}:{port}: {exc.strerror or exc}\n")
        return 1


class _PrintingServer(MailServer):
    """Prints messages, and keeps none.

    Attributes:
        unread: Set when standard output has not taken a text, such as a pipe whose reader has ended.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host=host, port=port)
        self.unread: threading.Event = threading.Event()

    def _store(self, message: CapturedMessage, generation: int) -> None:
        self.show(printed(message))

    def show(self, text: str) -> None:
        """Print a text, unless an earlier one was not taken."""
        if self.unread.is_set():
            return
        try:
            _print(text)
        except OSError as exc:
            sys.stderr.write(f"cannot print: {exc.strerror or exc}\n")
            # What is left in the buffer would be an error once more when Python ends.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
            self.unread.set()


def printed(message: CapturedMessage) -> str:
    """A message as it is printed: the client, the envelope, and the octets, between two lines that say so."""
    envelope, peer = message.envelope, message.session.peer
    head = [
        "---------- MESSAGE FOLLOWS ----------",
        f"peer: {peer[0]}:{peer[1]}" if peer is not None else "peer: unknown",
        *([f"user: {message.session.user}"] if message.session.user is not None else []),
        f"sender: <{envelope.sender}>",
        *(f"recipient: <{recipient}>" for recipient in envelope.recipients),
        "",
    ]
    body = message.raw.decode("utf-8", "backslashreplace").replace("\r\n", "\n").removesuffix("\n")
    return "\n".join([*head, body, "------------ END MESSAGE ------------"])


def _print(text: str) -> None:
    octets = f"{text}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace")
    sys.stdout.buffer.write(octets)
    sys.stdout.buffer.flush()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no [HOST:]PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


if __name__ == "__main__":
    sys.exit(main())
