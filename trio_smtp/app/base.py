"""BaseApp: what an App is to its own handlers.

Contexts name it, and App names the contexts: without a class below both, their modules would import each other.
"""

from __future__ import annotations

from types import SimpleNamespace

__all__ = ["BaseApp"]


class BaseApp:
    """What handlers and lifespans find in their App.

    Attributes:
        state: A namespace for what handlers share.
    """

    def __init__(self) -> None:
        self.state: SimpleNamespace = SimpleNamespace()
