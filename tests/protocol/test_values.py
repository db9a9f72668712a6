"""The repr that the classes of attrs share is the one that attrs would give them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

import trio_smtp
from trio_smtp.protocol.values import ShowsFields


class Outer:
    @attrs.define(repr=False)
    class Ours(ShowsFields):
        name: str
        _private: bytes = b"\r\n"
        secret: str = attrs.field(default="hunter2", repr=False)
        more: object = None

    @attrs.define
    class Theirs:
        name: str
        _private: bytes = b"\r\n"
        secret: str = attrs.field(default="hunter2", repr=False)
        more: object = None


@attrs.define(repr=False)
class Empty(ShowsFields):
    """No fields."""


class Child(Outer.Ours):
    __slots__ = ()


@pytest.mark.parametrize("more", [None, 1, "two", [Empty()]])
def test_it_shows_what_attrs_would_show(more: object) -> None:
    ours, theirs = repr(Outer.Ours("a", more=more)), repr(Outer.Theirs("a", more=more))
    assert ours == theirs.replace("Theirs", "Ours")
    assert "hunter2" not in ours


def test_a_class_without_fields() -> None:
    assert repr(Empty()) == "Empty()"


def test_a_subclass_shows_its_own_name() -> None:
    assert repr(Child("a")) == "Child(name='a', _private=b'\\r\\n', more=None)"


def test_a_value_that_holds_itself_ends() -> None:
    value = Outer.Ours("a")
    value.more = {"again": value}
    assert repr(value) == "Outer.Ours(name='a', _private=b'\\r\\n', more={'again': ...})"


def test_public_classes_have_no_repr_that_attrs_compiled() -> None:
    public = [getattr(trio_smtp, name) for name in trio_smtp.__all__]
    classes: dict[str, Any] = {cls.__name__: cls for cls in public if hasattr(cls, "__attrs_attrs__")}
    assert {"Config", "Reply", "Session"} < set(classes)
    assert [name for name, cls in classes.items() if cls.__repr__ is not ShowsFields.__repr__] == []
