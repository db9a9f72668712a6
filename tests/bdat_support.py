"""What the tests of BDAT share."""

from __future__ import annotations

from tests.support import BODY, status
from trio_smtp import App, DataContext, MessageIncomplete, Reply
from trio_smtp.testing import Client

CHUNK = bytes(range(256)) * 16
#: A chunk that no server may take for commands.
HOSTILE = b"QUIT\r\nMAIL FROM:<x@example.org>\r\n.\r\nBDAT 5\r\n"


async def bdat(client: Client, data: bytes, *, last: bool = False) -> Reply:
    """Send a chunk and read its reply."""
    await client.send_bytes(b"BDAT %d%s\r\n%s" % (len(data), b" LAST" if last else b"", data))
    return await client.read_reply()


async def still_in_step(client: Client) -> bool:
    """The server takes the next line for a command and whole messages for messages."""
    assert status(await client.command("RSET")) == (250, "2.0.0")
    assert (await client.command("MAIL FROM:<a@example.org>")).code == 250
    assert (await client.command("RCPT TO:<b@example.com>")).code == 250
    return (await bdat(client, BODY, last=True)).code == 250


def aborted_app() -> tuple[App, list[str]]:
    """An App that notes how its messages ended."""
    app = App()
    ends: list[str] = []

    @app.on_data
    async def read(ctx: DataContext) -> None:
        try:
            data = await ctx.stream.read()
        except MessageIncomplete:
            ends.append("incomplete")
            raise
        ends.append(f"{len(data)} octets")

    return app, ends
