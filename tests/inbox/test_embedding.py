"""The inbox inside of other applications: Starlette, FastAPI, Django, in asyncio and Trio, in a thread of their own."""

from __future__ import annotations

import smtplib
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
import trio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from trio_smtp import App, Config, SMTPServer, serve
from trio_smtp.inbox import Inbox

from .support import mail, put

Application = Callable[..., Awaitable[None]]


def in_starlette(inbox: Inbox) -> Application:
    return Starlette(routes=[Mount("/mail", inbox.asgi())])


def in_fastapi(inbox: Inbox) -> Application:
    app = FastAPI()
    app.mount("/mail", inbox.asgi())

    @app.get("/own")
    async def own() -> str:
        return "own"

    return app


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("embed", [in_starlette, in_fastapi])
def test_mounted(backend: str, embed: Callable[[Inbox], Application], inbox: Inbox) -> None:
    application = embed(inbox)
    row = put(inbox, mail("Embedded"))

    async def main() -> None:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
            assert (await api.get("/mail/api/v1/messages")).json()["messages"][0]["Subject"] == "Embedded"
            latest = await api.get("/mail/view/latest")
            assert latest.headers["location"] == f"/mail/view/{row.id}"
            assert (await api.get("/mail/api/v1/info", headers={"host": "evil.example"})).status_code in (400, 421)
            assert (await api.get("/api/v1/messages")).status_code == 404
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:

                    async def come() -> None:
                        await anyio.sleep(0.05)
                        await anyio.to_thread.run_sync(put, inbox, mail("Later"))

                    group.start_soon(come)
                    waited = await api.get("/mail/api/v1/wait", params={"query": "subject:later"})
            assert waited.json()["Subject"] == "Later"

    anyio.run(main, backend=backend)


DJANGO = """
import asyncio, sys
import httpx
from django.conf import settings
settings.configure(ROOT_URLCONF="urls", ALLOWED_HOSTS=["localhost"], SECRET_KEY="x", DEBUG=False)
sys.modules["urls"] = type(sys)("urls")
sys.modules["urls"].urlpatterns = []
import django
from django.core.asgi import get_asgi_application
from trio_smtp.inbox import Inbox
from tests.inbox.support import mail, put
django.setup()
inbox = Inbox()
site, mails = get_asgi_application(), inbox.asgi(root_path="/mail")

async def application(scope, receive, send):
    mine = scope["type"] != "lifespan" and scope["path"].startswith("/mail/")
    await (mails if mine else site)(scope, receive, send)

async def main():
    row = put(inbox, mail("Embedded"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://localhost") as api:
        assert (await api.get("/mail/api/v1/messages")).json()["messages"][0]["Subject"] == "Embedded"
        assert (await api.get("/mail/view/latest")).headers["location"] == f"/mail/view/{row.id}"
        assert (await api.get("/api/v1/messages")).status_code == 404
        assert "Not Found" in (await api.get("/nothing")).text
        later = asyncio.create_task(asyncio.to_thread(put, inbox, mail("Later")))
        waited = await api.get("/mail/api/v1/wait", params={"query": "subject:later", "timeout": "20"})
        assert waited.json()["Subject"] == "Later"
        await later

asyncio.run(main())
inbox.close()
print("all there")
"""


def test_mounted_in_django() -> None:
    """In a process of its own: Django sets up all of the process."""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", DJANGO], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "all there\n", done.stderr


def test_mail_comes_in_one_loop_and_is_shown_in_another(inbox: Inbox) -> None:
    """SMTP under Trio in a thread, the API under asyncio in this one."""
    app = App().use(inbox.capture())
    ports: list[int] = []
    ready = threading.Event()
    token: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def smtp() -> None:
        async with trio.open_nursery() as nursery:
            server: SMTPServer = await nursery.start(serve, app, Config(port=0))
            ports.append(server.port or 0)
            token.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(smtp,))
    thread.start()
    assert ready.wait(10)

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", ports[0], timeout=10) as client:
            client.sendmail("alice@example.com", ["bob@example.com"], mail("Across"))

    async def main() -> None:
        transport = httpx.ASGITransport(inbox.asgi())
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as api,
            anyio.create_task_group() as group,
        ):
            group.start_soon(anyio.to_thread.run_sync, send)
            with anyio.fail_after(20):
                found = await api.get("/api/v1/wait", params={"query": "subject:across"})
            assert found.json()["To"] == [{"Name": "", "Address": "bob@example.com"}]

    try:
        anyio.run(main)
    finally:
        token[0][0].run_sync_soon(token[0][1].cancel)
        thread.join(10)
    assert not thread.is_alive()
