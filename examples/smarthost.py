"""A relay: takes mail from programs on this machine, and passes it on to a mail server that wants TLS and a password.

A message gets 250 when the next server has it; what that refuses is refused here, with its code. The address and the
password of the next server come from SMARTHOST, such as smtp://user:password@mx.example:587.
"""

import os
from collections.abc import AsyncIterator

from trio_smtp import App, Config, DataContext, Running, run
from trio_smtp.client import DeliveryError, DeliveryRefused, Pool, Recipient

app = App()


@app.lifespan
async def pool(running: Running) -> AsyncIterator[None]:
    url = os.environ.get("SMARTHOST", "smtp://localhost:587")
    async with Pool(url, size=4) as running.app.state.pool:
        yield


@app.on_data
async def pass_on(ctx: DataContext) -> None:
    message = await ctx.spool()
    envelope = ctx.envelope
    assert envelope.mail_from is not None  # there is a message, so there was a MAIL
    recipients = [Recipient(address) for address in envelope.rcpt_to]
    try:
        result = await ctx.app.state.pool.send(envelope.mail_from, recipients, message)
    except DeliveryRefused as error:
        ctx.reject(error.reply.lines, error.reply.code, enhanced=error.reply.enhanced)
    except DeliveryError as error:
        ctx.reject(f"The next server cannot be used ({error.phase})", 451)
    for recipient, reply in result.refused.items():
        print(f"{recipient} was refused: {reply.code}")
    await ctx.stream.discard()  # it is taken


if __name__ == "__main__":
    run(app, Config(port=8025, host="127.0.0.1"))
