"""A filter that reads the message twice before a delivery stores it: once for its octets, once for its parts.

`DataContext.spool` keeps the message meanwhile, in memory or in a temporary file. The delivery reads it as edited.
"""

import hashlib

from trio_smtp import App, Config, DataContext, run
from trio_smtp.delivery.maildir import maildir

FORBIDDEN = (".exe", ".js", ".scr")

app = App()


@app.on_data
async def inspect(ctx: DataContext) -> None:
    message = await ctx.spool()
    digest = hashlib.sha256()
    async for chunk in message.chunks():
        digest.update(chunk)
    for part in (await message.parse()).walk():
        if str(part.get_filename("")).lower().endswith(FORBIDDEN):
            ctx.reject("Programs are not taken", 550, enhanced="5.7.1")
    message.add_field("X-Checksum", f"sha256={digest.hexdigest()}")


# Behind the filter. It stores the message, syncs it to the disk, and then the client gets its 250.
app.use(maildir("mail"))

if __name__ == "__main__":
    run(app, Config(port=8025, spool_memory=262_144))
