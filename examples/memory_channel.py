"""Messages for another task: the handler sends each through a memory channel, a worker receives them one by one.

The channel holds a few messages. When it is full the handler waits, and with it the client: that is back-pressure. The
250 leaves when the worker can have the message, not when it is done with it: mail that must survive a crash is written
to disk first.
"""

import attrs
import trio

from trio_smtp import App, Config, DataContext, SMTPServer, serve


@attrs.frozen
class Message:
    """One message, as the worker gets it."""

    sender: str
    recipients: tuple[str, ...]
    body: bytes


def make_app(messages: trio.MemorySendChannel[Message]) -> App:
    app = App()

    @app.on_data
    async def hand_over(ctx: DataContext) -> None:
        envelope = ctx.envelope
        sender = envelope.mail_from.address if envelope.mail_from else ""
        recipients = tuple(recipient.address for recipient in envelope.rcpt_to)
        await messages.send(Message(sender, recipients, await ctx.stream.read()))

    return app


async def work(messages: trio.MemoryReceiveChannel[Message]) -> None:
    async for message in messages:
        print(f"{len(message.body)} octets from <{message.sender}> for {', '.join(message.recipients)}")


async def main(config: Config, *, task_status: trio.TaskStatus[SMTPServer] = trio.TASK_STATUS_IGNORED) -> None:
    send_channel, receive_channel = trio.open_memory_channel[Message](10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, receive_channel)
        # When the server ends, closing the channel ends the worker, after the messages that it still holds.
        async with send_channel:
            await serve(make_app(send_channel), config, task_status=task_status)


if __name__ == "__main__":
    trio.run(main, Config(port=8025))
