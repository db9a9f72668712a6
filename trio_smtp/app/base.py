"""BaseApp: what an App is to its own handlers.

Contexts name it, and App names the contexts: without a class below both, their modules would import each other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

__all__ = ["BaseApp"]


class BaseApp:
    """What handlers and lifespans find in their App.

    Attributes:
        state: A namespace for what handlers share.
        delivery_watchers: What `App.watch_deliveries` has registered.
    """

    def __init__(self) -> None:
        self.state: SimpleNamespace = SimpleNamespace()
        # Called with a Session, whose module stands on this one, and the name of a target.
        self.delivery_watchers: list[Callable[[Any, str], AbstractContextManager[object]]] = []
