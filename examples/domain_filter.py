"""Takes mail for some domains only: a filter that refuses, and a middleware around it that counts what became of it.

The order of registration is the order of execution, outermost first: the middleware sees what the filter did.
"""

from collections import Counter

from trio_smtp import App, CallNext, Config, DataContext, RcptToContext, SMTPError, run

DOMAINS = frozenset({"example.com", "example.net"})

app = App()
app.state.recipients = Counter[str]()


@app.on_rcpt_to
async def count(ctx: RcptToContext, call_next: CallNext) -> None:
    """A middleware: goes on when it awaits ``call_next()``."""
    try:
        await call_next()
    except SMTPError:
        app.state.recipients["refused"] += 1
        raise
    app.state.recipients["accepted"] += 1


@app.on_rcpt_to
async def ours_only(ctx: RcptToContext) -> None:
    """A filter: refuses, or returns and lets the chain go on."""
    if ctx.address.domain not in DOMAINS:
        ctx.reject("Relay access denied", 550, enhanced="5.7.1")


@app.on_data
async def take(ctx: DataContext) -> None:
    await ctx.stream.discard()
    print(dict(app.state.recipients))


if __name__ == "__main__":
    run(app, Config(port=8025))
