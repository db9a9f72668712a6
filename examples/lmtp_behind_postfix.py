"""A filter between Postfix and Dovecot: LMTP on both sides, so that each recipient has a verdict of its own.

Postfix has the queue, Dovecot the mailboxes. In Postfix's main.cf:

    virtual_transport = lmtp:unix:private/filter

Nothing is stored here: what Dovecot says of a recipient (no such user, mailbox full) is what Postfix is told.
"""

import os

from trio_smtp import App, Config, DataContext, run
from trio_smtp.delivery.lmtp import lmtp

app = App()


@app.on_data
async def mark(ctx: DataContext) -> None:
    """Vacation messages of newsletters help nobody: Sieve scripts look at this field."""
    message = await ctx.spool()
    names = {field.name.lower() for field in message.fields}
    if {"list-id", "list-unsubscribe"} & names:
        message.add_field("X-Bulk", "yes")


app.use(lmtp(os.environ.get("MAILBOXES", "lmtp+unix:///run/dovecot/lmtp")))

if __name__ == "__main__":
    path = os.environ.get("SOCKET", "/var/spool/postfix/private/filter")
    run(app, Config(lmtp=True, unix_path=path, unix_mode=0o666))
