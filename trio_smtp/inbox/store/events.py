"""Tells subscribers in whatever thread and event loop what has changed."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal

import attrs

__all__ = ["Event", "EventType", "Events", "Subscription", "TooManySubscribers"]

logger: logging.Logger = logging.getLogger(__name__)

EventType = Literal["new", "update", "delete", "truncate", "prune", "stats"]
#: So many events wait for a subscriber; with more, one "prune" takes their place: look at everything anew.
_MAX_WAITING = 1000
_MAX_SUBSCRIBERS = 1000


class TooManySubscribers(Exception):
    """There are a thousand subscriptions already."""


@attrs.frozen
class Event:
    """Something has changed.

    Attributes:
        type: ``"new"``: a `Summary` came. ``"update"``, ``"delete"``: the message that `data` names by its ``"ID"``.
            ``"truncate"``: all messages are gone. ``"prune"``: many have changed. ``"stats"``: the `Totals` are.
        data: A `Summary`, `Totals`, a dict, or None.
    """

    type: EventType
    data: object = None


class Subscription:
    """The events that one subscriber has not taken yet. A context manager; its end ends the subscription.

    Args:
        events: Where it belongs.
        wake: Called in any thread when there is something to take; it must return at once.
    """

    def __init__(self, events: Events, wake: Callable[[], object]) -> None:
        self._events = events
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()

    def take(self) -> list[Event]:
        """What has happened since the last call, in order. Does not wait."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
        return taken

    def deliver(self, events: Iterable[Event]) -> None:
        """Add events, and wake the subscriber. `Events.publish` calls this method."""
        with self._lock:
            self._waiting.extend(events)
            if len(self._waiting) > _MAX_WAITING:
                self._waiting.clear()
                self._waiting.append(Event("prune"))
        try:
            self._wake()
        except RuntimeError as error:
            # The subscriber's event loop has ended: trio.RunFinishedError, or asyncio's "Event loop is closed".
            logger.debug("a subscriber is gone: %r", error)
            self.close()

    def close(self) -> None:
        """End the subscription."""
        self._events.remove(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Events:
    """Where changes are made known. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: set[Subscription] = set()

    def subscribe(self, wake: Callable[[], object]) -> Subscription:
        """Begin to collect events.

        Args:
            wake: Called in any thread when there is something to take, such as `threading.Event.set`; for event loops
                `trio_smtp.inbox.waking.Waker.wake`. It must return at once.

        Raises:
            TooManySubscribers: There are a thousand already.
        """
        subscription = Subscription(self, wake)
        with self._lock:
            if len(self._subscriptions) >= _MAX_SUBSCRIBERS:
                raise TooManySubscribers
            self._subscriptions.add(subscription)
        return subscription

    def publish(self, events: Iterable[Event]) -> None:
        """Tell all subscribers."""
        events = tuple(events)
        with self._lock:
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            subscription.deliver(events)

    def remove(self, subscription: Subscription) -> None:
        """End a subscription, if it has not ended yet."""
        with self._lock:
            self._subscriptions.discard(subscription)

    def __len__(self) -> int:
        return len(self._subscriptions)
