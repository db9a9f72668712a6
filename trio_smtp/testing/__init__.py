r"""Test mail handlers in memory, without sockets: a client, transcripts, and a listener.

Example::

    async def test_refuses_strangers() -> None:
        async with open_client(app) as client:
            await client.ehlo()
            reply = await client.send_message("a@example.org", ["b@elsewhere.example"], b"Hello\r\n")
            assert reply.code == 550

With trio's ``autojump_clock`` timeouts take no time.
"""

from __future__ import annotations

from trio_smtp.protocol.stuffing import stuff as stuff

from .client import Client
from .memory import MemoryListener, open_client
from .transcripts import Cut, play

__all__ = ["Client", "Cut", "MemoryListener", "open_client", "play"]
