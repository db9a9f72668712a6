"""An inbox with its pages on real ports, served by a thread, for tests that drive a browser."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import trio

from trio_smtp import App, Config, serve
from trio_smtp.inbox import Inbox
from trio_smtp.inbox.web import bind, web


@attrs.frozen
class Site:
    """What is served.

    Attributes:
        inbox: The inbox.
        url: Of its pages, without a slash at the end.
        smtp: The port that takes mail.
    """

    inbox: Inbox
    url: str
    smtp: int

    def send(
        self, octets: bytes, *, sender: str = "alice@example.com", recipients: Sequence[str] = ("bob@example.com",)
    ) -> str:
        """Send a message by SMTP; returns its id.

        Raises:
            smtplib.SMTPException: It was refused.
        """
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as client:
            client.sendmail(sender, list(recipients), octets)
        latest = self.inbox.store.latest()
        assert latest is not None
        return latest.id


@contextmanager
def open_site(inbox: Inbox, *, ssl_context: Any = None, **options: Any) -> Iterator[Site]:
    """Serve an inbox in a thread of its own.

    Args:
        inbox: The inbox.
        ssl_context: SMTP offers STARTTLS.
        options: Those of `Inbox.asgi`.
    """
    sockets = bind("127.0.0.1", 0)
    app = App().use(inbox.capture(accept_any_user=True))
    app.lifespan(web(inbox.asgi(**options), sockets))
    config = Config(
        host="127.0.0.1",
        port=0,
        ssl_context=ssl_context,
        auth_mechanisms=("PLAIN", "LOGIN"),
        allow_insecure_auth=True,
        max_recipients=10_000,
    )
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server: Any = await nursery.start(partial(serve, app, config))
            state.update(token=trio.lowlevel.current_trio_token(), nursery=nursery, port=server.port)
            ready.set()

    def run() -> None:
        try:
            trio.run(main)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="site", daemon=True)
    thread.start()
    assert ready.wait(20)
    assert "port" in state, "the site does not start"
    inbox.smtp_address = f"127.0.0.1:{state['port']}"
    try:
        yield Site(inbox, f"http://127.0.0.1:{sockets[0].getsockname()[1]}", state["port"])
    finally:
        state["token"].run_sync_soon(state["nursery"].cancel_scope.cancel)
        thread.join(20)
        assert not thread.is_alive()
