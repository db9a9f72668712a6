"""A consumer: keeps an index of all mail in a SQLite file. Run one on each machine; CONSUMER is its name.

A mail that comes twice, after a crash, say, is in the index once: its id is the key.
"""

import os
import sqlite3
from contextlib import closing

import trio

from trio_smtp.delivery.redis_stream import Mail, consume
from trio_smtp.reading import message_text, read_octets


def insert(database: sqlite3.Connection, mail: Mail) -> None:
    row = mail.id, mail.envelope.sender, message_text(read_octets(mail.data), "Subject"), len(mail.data)
    with database:  # commits
        database.execute("INSERT OR IGNORE INTO mail VALUES (?, ?, ?, ?)", row)


async def main() -> None:
    url, name = os.environ.get("REDIS", "redis://localhost"), os.environ.get("CONSUMER", "one")
    with closing(sqlite3.connect(os.environ.get("INDEX", "index.db"), check_same_thread=False)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS mail (id TEXT PRIMARY KEY, sender, subject, octets)")
        async with consume(url, "mail", group="index", consumer=name) as mails:
            async for mail in mails:
                await trio.to_thread.run_sync(insert, database, mail)
                await mail.ack()


if __name__ == "__main__":
    trio.run(main)
