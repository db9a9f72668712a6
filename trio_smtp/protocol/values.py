"""What value classes have in common: a repr without secret fields, and a dict for handlers' own use.

Neither adds a generated method to a class, and neither costs time when an object is made.
"""

from __future__ import annotations

from reprlib import recursive_repr
from typing import Any

__all__ = ["KeepsData", "ShowsFields"]


class ShowsFields:
    """Gives an attrs class the repr that attrs would write for it: its name, and the fields that may be shown.

    Use it with ``attrs.define(repr=False)``. attrs would compile a method for each class, which took a sixth of the
    library's import time.
    """

    __slots__ = ()

    @recursive_repr()
    def __repr__(self: Any) -> str:
        fields = (f"{field.name}={getattr(self, field.name)!r}" for field in self.__attrs_attrs__ if field.repr)
        return f"{type(self).__qualname__}({', '.join(fields)})"


class KeepsData:
    """Gives a class with slots a dict for handlers' own use, which is made when it is first asked for."""

    __slots__ = ("_data",)
    _data: dict[str, object]

    @property
    def data(self) -> dict[str, object]:
        """For handlers' own use; lives as long as the object."""
        try:
            return self._data
        except AttributeError:
            object.__setattr__(self, "_data", {})  # the object may be frozen
            return self._data
