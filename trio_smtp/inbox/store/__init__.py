"""The store: what was caught, in an SQLite database. Knows no event loop, and is used from any thread."""

from __future__ import annotations

from .events import Event as Event
from .events import Events as Events
from .events import Subscription as Subscription
from .query import Query as Query
from .query import parse_query as parse_query
from .records import Arrival as Arrival
from .records import Headline as Headline
from .records import Mailbox as Mailbox
from .records import Page as Page
from .records import State as State
from .records import Summary as Summary
from .records import Totals as Totals
from .store import Store as Store
from .writer import StorageError as StorageError
from .writer import StorageFull as StorageFull

__all__ = [
    "Arrival",
    "Event",
    "Events",
    "Headline",
    "Mailbox",
    "Page",
    "Query",
    "State",
    "StorageError",
    "StorageFull",
    "Store",
    "Subscription",
    "Summary",
    "Totals",
    "parse_query",
]
