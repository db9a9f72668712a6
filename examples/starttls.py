"""STARTTLS, and no mail without it.

    python examples/starttls.py CERT.PEM KEY.PEM

Without arguments it makes a certificate of its own that lasts as long as the server (pip install trustme);
no client has a reason to trust that one.
"""

import ssl
import sys

from trio_smtp import App, Config, DataContext, run
from trio_smtp.tls import create_context

app = App()


@app.on_data
async def take(ctx: DataContext) -> None:
    await ctx.stream.discard()
    tls = ctx.session.tls
    print(f"a message over {tls.version}, {tls.standard_name}" if tls else "a message in the clear")


def load_context(files: list[str]) -> ssl.SSLContext:
    if files:
        return create_context(*files)
    import trustme

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


if __name__ == "__main__":
    config = Config(port=8025, ssl_context=load_context(sys.argv[1:]), starttls_required=True)
    run(app, config)
