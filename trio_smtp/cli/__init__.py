"""The command `trio-smtp`."""

from .command import main as main

__all__ = ["main"]
