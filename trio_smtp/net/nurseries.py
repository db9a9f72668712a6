"""A nursery whose own block raises what it raises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_bare_nursery"]


@asynccontextmanager
async def open_bare_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery; an Exception that its block raises comes out as it is, where trio would put it into a group.

    Yields:
        The nursery. It is cancelled when the block raises. What its tasks raise comes out in a group, as from any
        nursery.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as exc:
            failure = exc
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
