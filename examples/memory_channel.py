"""Messages for another task: the handler sends each through a memory channel, a worker receives them one by one.

The channel holds a few messages. When it is full the handler waits, and with it the client: that is back-pressure. The
250 leaves when the worker can have the message, not when it is done with it: mail that must survive a crash is written
to disk first.
"""

from collections.abc import AsyncIterator

import attrs
import trio

from trio_smtp import App, Config, DataContext, Running, run

HELD = 10

app = App()


@attrs.frozen
class Message:
    """One message, as the worker gets it."""

    sender: str
    recipients: tuple[str, ...]
    body: bytes


async def work(messages: trio.MemoryReceiveChannel[Message]) -> None:
    async for message in messages:
        print(f"{len(message.body)} octets from <{message.sender}> for {', '.join(message.recipients)}")


@app.lifespan
async def worker(running: Running) -> AsyncIterator[None]:
    send_channel, receive_channel = trio.open_memory_channel[Message](HELD)
    # A nursery of its own, and not `running.nursery`, whose tasks are cancelled: when the server has ended, closing the
    # channel ends the worker, after the messages that it still holds.
    async with trio.open_nursery() as nursery, send_channel:
        running.app.state.messages = send_channel
        nursery.start_soon(work, receive_channel)
        yield


@app.on_data
async def hand_over(ctx: DataContext) -> None:
    envelope = ctx.envelope
    sender = envelope.mail_from.address if envelope.mail_from else ""
    recipients = tuple(recipient.address for recipient in envelope.rcpt_to)
    await ctx.app.state.messages.send(Message(sender, recipients, await ctx.stream.read()))


if __name__ == "__main__":
    run(app, Config(port=8025))
