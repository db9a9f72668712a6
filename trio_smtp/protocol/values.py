"""What the classes that attrs makes have in common here."""

from __future__ import annotations

from reprlib import recursive_repr
from typing import Any

__all__ = ["repr_of_fields"]


@recursive_repr()
def repr_of_fields(value: Any) -> str:
    """The repr that attrs would give a class: its name, and the fields that may be shown.

    For ``__repr__ = repr_of_fields`` in a class's body. attrs writes one for each class and compiles it, which was a
    sixth of the time that importing the library took.
    """
    fields = (f"{field.name}={getattr(value, field.name)!r}" for field in value.__attrs_attrs__ if field.repr)
    return f"{type(value).__qualname__}({', '.join(fields)})"
