"""A mailing gateway: mail for example.com becomes requests to a web application.

A message gets 250 when the application has answered 2xx; it is told who sent it, whom it is for, what it says and what
is attached. Where the application is comes from WEBHOOK_URL, and what signs the requests from WEBHOOK_SECRET.

Try it: swaks --server localhost:8025 --to bob@example.com
"""

import base64
import os
import secrets

from trio_smtp import App, Config, run
from trio_smtp.delivery.webhook import webhook
from trio_smtp.plugins import received_loop, recipient_filter

URL = os.environ.get("WEBHOOK_URL", "http://localhost:8000/inbound")


def secret() -> str:
    """The secret of the environment, or one for this run."""
    given = os.environ.get("WEBHOOK_SECRET")
    if given is None:
        given = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        print(f"WEBHOOK_SECRET is not set; the secret of this run is {given}")
    return given


app = App()
app.use(recipient_filter(["example.com"]))
app.use(received_loop())
app.use(webhook(URL, secret=secret()))

if __name__ == "__main__":
    # A message is held in memory while it is posted, and its attachments in base64 besides.
    run(app, Config(hostname="mx.example.com", host="127.0.0.1", port=8025, max_message_size=10_000_000))
