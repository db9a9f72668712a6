"""`ShowsFields`: a repr for attrs classes that leaves out secret fields, without a generated method for each class."""

from __future__ import annotations

from reprlib import recursive_repr
from typing import Any

__all__ = ["ShowsFields"]


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
