"""What the framer gives: a line, a piece of a body, what was wrong with it, its end; or nothing yet."""

from __future__ import annotations

import enum
from typing import Final, Literal

import attrs

from .values import ShowsFields

__all__ = ["MAX_CHUNK", "NEED_DATA", "BodyChunk", "EndOfBody", "Event", "Line", "MalformedBody", "NeedData"]

#: The longest BodyChunk, in octets.
MAX_CHUNK = 65_536


class _NeedData(enum.Enum):
    NEED_DATA = "NEED_DATA"


#: No complete event is in the buffer: feed more.
NEED_DATA: Final = _NeedData.NEED_DATA
#: The type of `NEED_DATA`.
NeedData = Literal[_NeedData.NEED_DATA]


@attrs.define(repr=False)
class Line(ShowsFields):
    """One line, without its end."""

    data: bytes


@attrs.define(repr=False)
class BodyChunk(ShowsFields):
    """Octets of the body, dots unstuffed, 1 to `MAX_CHUNK` of them."""

    data: bytes


@attrs.frozen(repr=False)
class MalformedBody(ShowsFields):
    """The body broke a rule. Comes once; no BodyChunk follows it, only the EndOfBody."""

    reason: str


@attrs.frozen(repr=False)
class EndOfBody(ShowsFields):
    """The end mark was seen, or the last octet of the chunk; what follows in the buffer is lines again."""


#: What a framer finds in the octets it was fed.
Event = Line | BodyChunk | MalformedBody | EndOfBody | NeedData
