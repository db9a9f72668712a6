"""What the classes that attrs makes have in common here."""

from __future__ import annotations

from reprlib import recursive_repr
from typing import Any

__all__ = ["ShowsFields"]


class ShowsFields:
    """Gives a class of attrs the repr that attrs would give it: its name, and the fields that may be shown.

    With ``repr=False``: attrs writes one for each class and compiles it, which was a sixth of the time that importing
    the library took.
    """

    __slots__ = ()

    @recursive_repr()
    def __repr__(self: Any) -> str:
        fields = (f"{field.name}={getattr(self, field.name)!r}" for field in self.__attrs_attrs__ if field.repr)
        return f"{type(self).__qualname__}({', '.join(fields)})"
