r"""Test mail handlers in memory, and programs that send mail: a client, transcripts, a server that captures.

Handlers are tested without sockets, and with trio's ``autojump_clock`` timeouts take no time::

    async def test_refuses_strangers() -> None:
        async with open_client(app) as client:
            await client.ehlo()
            reply = await client.send_message("a@example.org", ["b@elsewhere.example"], b"Hello\r\n")
            assert reply.code == 550

Programs that send are tested with a `MailServer`::

    with MailServer() as mailserver:
        sign_up("bob@example.com", smtp_port=mailserver.port)
        assert mailserver.wait_for(to="bob@example.com").code() == "123456"

``python -m trio_smtp.testing`` prints what comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_smtp.protocol.stuffing import stuff as stuff

from .client import Client
from .memory import MemoryListener, open_client
from .transcripts import Cut, play

if TYPE_CHECKING:
    from trio_smtp.reading import Attachment

    from .captured import CapturedEnvelope, CapturedMessage, CapturedSession
    from .in_memory import TrioMailServer
    from .mailserver import MailServer

__all__ = [
    "Attachment",
    "CapturedEnvelope",
    "CapturedMessage",
    "CapturedSession",
    "Client",
    "Cut",
    "MailServer",
    "MemoryListener",
    "TrioMailServer",
    "open_client",
    "play",
]

#: Where the names are that tests of handlers do without.
_LATE = {
    "Attachment": "trio_smtp.reading",
    "CapturedEnvelope": "trio_smtp.testing.captured",
    "CapturedMessage": "trio_smtp.testing.captured",
    "CapturedSession": "trio_smtp.testing.captured",
    "MailServer": "trio_smtp.testing.mailserver",
    "TrioMailServer": "trio_smtp.testing.in_memory",
}


def __getattr__(name: str) -> object:
    """Import what captures mail when it is asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
