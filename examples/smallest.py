"""The smallest server: reads every message and says how long it was."""

from trio_smtp import App, Config, DataContext, run

app = App()


@app.on_data
async def take(ctx: DataContext) -> None:
    body = await ctx.stream.read()
    print(f"{len(body)} octets for {len(ctx.envelope.rcpt_to)} recipients")


if __name__ == "__main__":
    run(app, Config(port=8025))
