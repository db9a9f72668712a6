"""Places on the network as they are written on the command line: ``[HOST:]PORT``."""

from __future__ import annotations

import argparse
import re

__all__ = ["LOOPBACK", "SMTP_PORT", "place"]

LOOPBACK = "127.0.0.1"
#: Where the inbox takes mail by default.
SMTP_PORT = 1025
_PLACE = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]*):)?([0-9]{1,5})", re.ASCII)


def place(text: str) -> tuple[str, int]:
    """Read the host (by default the loopback address) and the port, for argparse.

    Raises:
        argparse.ArgumentTypeError: It is no place.
    """
    match = _PLACE.fullmatch(text)
    if match is None or int(match[2]) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not [HOST:]PORT")
    return (LOOPBACK if match[1] is None else match[1].strip("[]")), int(match[2])
