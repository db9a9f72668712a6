"""A front end behind HAProxy: takes mail and adds it to a Redis stream. Run as many as you like, on as many machines.

REDIS is where Redis is, PORT the port to listen on; HAProxy connects to it with send-proxy-v2 (haproxy.cfg).
SIGTERM drains: transactions in flight end, and new connections go to the other front ends.
"""

import os

from trio_smtp import App, Config, run
from trio_smtp.delivery.redis_stream import redis_stream
from trio_smtp.plugins import received_loop

app = App()
app.use(received_loop())
app.use(redis_stream(os.environ.get("REDIS", "redis://localhost"), "mail"))

if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8025"))
    run(app, Config(host="127.0.0.1", port=port, proxy_protocol=("127.0.0.1",)))
