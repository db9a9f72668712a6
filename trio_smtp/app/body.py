"""Body: what the two ends of a message's channel share."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import trio

__all__ = ["Body"]


@final
class Body:
    """One message's octets on their way: the sending end notes what has come, the receiving end what became of it.

    Attributes:
        channel: Where the chunks are received; None before the sending end opened it, and once it is closed.
        left: Chunks in the channel, when all of the message is in it; None: the message ends where the channel does.
        length: Octets the client has sent of it, those that were thrown away included.
        size_exceeded: The message has more octets than the server allows.
        complete: The end mark was seen and nothing was wrong.
        finished: A handler has read the message to its end, or discarded the rest on purpose.
        error: Why the message is not whole, or what a tap raised.
        release: Gives back what the message was spooled into; None: it was not spooled.
    """

    __slots__ = ("channel", "complete", "error", "finished", "left", "length", "release", "size_exceeded")

    def __init__(self) -> None:
        self.channel: trio.MemoryReceiveChannel[bytes] | None = None
        self.left: int | None = None
        self.length: int = 0
        self.size_exceeded: bool = False
        self.complete: bool = False
        self.finished: bool = False
        self.error: Exception | None = None
        self.release: Callable[[], None] | None = None

    def fail(self, error: Exception) -> None:
        """The message is not whole; the first error stays."""
        if self.error is None:
            self.error = error
        self.complete = False

    def close(self) -> None:
        """Nothing more is received."""
        # A channel with all of the message in it stays open: the next message may use it.
        if self.channel is not None and self.left is None:
            self.channel.close()
        self.channel = None
