"""A mail server inside an asyncio program: each message goes into a queue, which a task of asyncio works off.

A full queue makes the handler wait, and with it the client: that is back-pressure. SIGTERM or Ctrl-C drains the server,
and the program ends when the queue is empty.
"""

import asyncio
import signal
from email.message import EmailMessage

from trio_smtp import App, Config, DataContext
from trio_smtp.background import BackgroundServer, asyncio_handler


def make_app(queue: asyncio.Queue[EmailMessage]) -> App:
    app = App()

    @app.on_data
    @asyncio_handler
    async def hand_over(ctx: DataContext) -> None:
        await queue.put(await ctx.stream.read_message())

    return app


async def work(queue: asyncio.Queue[EmailMessage]) -> None:
    while True:
        message = await queue.get()
        await asyncio.sleep(0)  # whatever takes time: a database, a request
        print(f"{message['From']}: {message['Subject']}", flush=True)
        queue.task_done()


async def main(config: Config) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    queue: asyncio.Queue[EmailMessage] = asyncio.Queue(10)
    async with asyncio.TaskGroup() as group:  # a worker that fails ends the server
        working = group.create_task(work(queue))
        async with BackgroundServer(make_app(queue), config, drain_timeout=10) as server:
            print(f"listening on {server.url}", flush=True)
            await stop.wait()
        await queue.join()
        working.cancel()


if __name__ == "__main__":
    asyncio.run(main(Config(port=8025)))
