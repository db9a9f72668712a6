"""What lives as long as the server: a database, and a background task that says what became of the mail.

A lifespan is entered before the first connection is accepted, and left after the last one has ended.
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing

import trio

from trio_smtp import App, Config, DataContext, Running, run

app = App()


@app.lifespan
async def database(running: Running) -> AsyncIterator[None]:
    with closing(sqlite3.connect("mail.db", check_same_thread=False)) as running.app.state.database:
        running.app.state.database.execute("CREATE TABLE IF NOT EXISTS mail (sender TEXT, body BLOB)")
        running.nursery.start_soon(report, running)
        yield


async def report(running: Running) -> None:
    while True:
        await trio.sleep(60)
        stats = running.stats()
        print(f"{stats.messages_accepted} messages taken, {stats.messages_refused} refused")


def insert(connection: sqlite3.Connection, sender: str, body: bytes) -> None:
    with connection:  # commits: the message survives a crash
        connection.execute("INSERT INTO mail VALUES (?, ?)", (sender, body))


#: One thread at a time uses the connection.
one = trio.CapacityLimiter(1)


@app.on_data
async def store(ctx: DataContext) -> None:
    sender = ctx.envelope.mail_from.address if ctx.envelope.mail_from else ""
    body = await ctx.stream.read()
    await trio.to_thread.run_sync(insert, ctx.app.state.database, sender, body, limiter=one)


if __name__ == "__main__":
    run(app, Config(port=8025))
