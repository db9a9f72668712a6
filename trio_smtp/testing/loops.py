"""Which event loop runs in this thread."""

from __future__ import annotations

import asyncio

import trio

__all__ = ["loop_runs_here", "trio_token"]


def trio_token() -> trio.lowlevel.TrioToken | None:
    """The token of the Trio program that runs in this thread, or None; `in_trio_run` needs a younger trio."""
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def loop_runs_here() -> bool:
    """Whether an event loop of Trio or asyncio runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return trio_token() is not None
    return True
