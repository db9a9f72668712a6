"""Tells those who watch deliveries when one begins and ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from .session import Session

__all__ = ["DeliveryWatcher", "watched"]

#: Called with the session and the target's name; the delivery is done inside of what it returns.
DeliveryWatcher = Callable[[Session, str], AbstractContextManager[object]]

# Seldom used: re compiles the pattern when it is, and keeps it.
_TARGET = r"[a-z][a-z0-9_]{0,31}"


def watched(watchers: Sequence[DeliveryWatcher], session: Session, target: str) -> AbstractContextManager[None]:
    """What a delivery is done in; see `DataContext.delivering`."""
    if not re.fullmatch(_TARGET, target):
        raise ValueError(
            f"target must be a name such as 'maildir' (a-z, 0-9 and _, at most 32 characters), not {target!r}"
        )
    return _inside(watchers, session, target) if watchers else nullcontext()


@contextmanager
def _inside(watchers: Sequence[DeliveryWatcher], session: Session, target: str) -> Iterator[None]:
    with ExitStack() as stack:
        for watcher in watchers:
            stack.enter_context(watcher(session, target))
        yield
