"""TLS and AUTH in front of an old server that has neither: mail goes on while it comes in, and nothing is stored here.

The old server gets a connection without TLS, and should be reached by this program alone. Its address comes from
OLD_SERVER, such as smtp://10.0.0.5:25.

    python examples/tls_front.py certificate.pem key.pem
"""

import hmac
import os
import sys

from trio_smtp import App, AuthContext, Config, PlainCredentials, RcptToContext, create_context, run
from trio_smtp.delivery.proxy import proxy

# A program of your own has scrypt hashes here: `trio_smtp.plugins.password_file`, and `trio-smtp passwd`.
PASSWORDS = {"alice@example.com": os.environ.get("PASSWORD", "correct horse battery staple")}

app = App()


@app.on_auth
async def check(ctx: AuthContext) -> None:
    given = ctx.credentials
    if isinstance(given, PlainCredentials):
        known = PASSWORDS.get(given.username, "")
        if known and hmac.compare_digest(given.password.encode(), known.encode()):
            ctx.accept(given.username)


@app.on_rcpt_to
async def one_of_us(ctx: RcptToContext) -> None:
    """Whoever has logged in may send anywhere; everybody else to our own domain."""
    if not ctx.session.authenticated and ctx.address.domain != "example.com":
        ctx.reject("Relay access denied", 550, enhanced="5.7.1")


# The last one: a handler before it may refuse, and then the old server is not asked.
app.use(proxy(os.environ.get("OLD_SERVER", "smtp://127.0.0.1:25"), tls="none", announce="xforward"))


def make_config(arguments: list[str]) -> Config:
    context = create_context(*arguments) if arguments else None
    return Config(port=8025, ssl_context=context, starttls_required=context is not None)


if __name__ == "__main__":
    run(app, make_config(sys.argv[1:]))
