"""The library as it is measured: Config's defaults, and one handler that reads the message and lets it go.

python trio_smtp_server.py PORT [CERTIFICATE KEY]
"""

import sys
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from trio_smtp import App, Config, DataContext, serve
from trio_smtp.tls import create_context

app = App()


@app.on_data
async def discard(ctx: DataContext) -> None:
    async for _ in ctx.stream:
        pass


port, files = int(sys.argv[1]), sys.argv[2:]
# More connections than the default are measured, and larger messages.
config = Config(
    hostname="localhost",
    port=port,
    ssl_context=create_context(*files) if files else None,
    max_connections=5000,
    max_message_size=None,
)
trio.run(serve, app, config)
