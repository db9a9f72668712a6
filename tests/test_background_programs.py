"""Whole programs that use BackgroundServer, with every warning an error: their ends, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import trio_smtp

HEAD = """
import asyncio, signal, smtplib, sys, threading, time
from trio_smtp import App, Config
from trio_smtp.background import BackgroundServer, asyncio_handler

app = App()

@app.on_data
async def store(ctx):
    print(len(await ctx.stream.read()))

def send(server):
    with smtplib.SMTP(server.host, server.port, timeout=30) as client:
        client.sendmail("alice@example.com", ["bob@example.com"], b"Subject: Hi\\r\\n\\r\\nHello\\r\\n")
"""


def program(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-u", "-c", HEAD + textwrap.dedent(body)],
        cwd=Path(trio_smtp.__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            """
            with BackgroundServer(app) as server:
                send(server)
            """,
            id="a block",
        ),
        pytest.param(
            """
            server = BackgroundServer(app).__enter__()
            send(server)
            """,
            id="a block that is never left",
        ),
        pytest.param(
            """
            server = BackgroundServer(app).__enter__()
            send(server)
            client = smtplib.SMTP(server.host, server.port)
            client.ehlo()
            threading.Thread(target=lambda: server.call(time.sleep, 0.2)).start()
            client.close()
            """,
            id="a block that is never left and at work",
        ),
        pytest.param(
            """
            with BackgroundServer(app, [Config(port=0), Config(port=0)], drain_timeout=5) as server:
                send(server)
                sys.exit()
            """,
            id="an exit inside",
        ),
        pytest.param(
            """
            async def main():
                async with BackgroundServer(app) as server:
                    await asyncio.to_thread(send, server)

            asyncio.run(main())
            """,
            id="asyncio",
        ),
        pytest.param(
            """
            async def main():
                server = await BackgroundServer(app).__aenter__()
                await asyncio.to_thread(send, server)

            asyncio.run(main())
            """,
            id="a block of asyncio that is never left",
        ),
        pytest.param(
            """
            before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
            with BackgroundServer(app) as server:
                send(server)
                assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
                assert signal.set_wakeup_fd(-1) == -1
            """,
            id="signals are left alone",
        ),
    ],
)
def test_a_program_ends_in_silence(body: str) -> None:
    with program(body) as running:
        out, errors = running.communicate(timeout=60)
    assert (running.returncode, out, errors) == (0, "22\n", "")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            """
            with BackgroundServer(app, drain_timeout=100) as server:
                client = smtplib.SMTP(server.host, server.port)
                client.ehlo()
                print("ready")
                try:
                    time.sleep(100)
                finally:
                    client.close()
            """,
            id="with",
        ),
        pytest.param(
            """
            @app.on_connect
            @asyncio_handler
            async def hang(ctx):
                print("ready")
                await asyncio.sleep(100)

            async def main():
                async with BackgroundServer(app) as server:
                    reader, writer = await asyncio.open_connection(server.host, server.port)
                    try:
                        await reader.read()
                    finally:
                        writer.close()

            asyncio.run(main())
            """,
            id="async with",
        ),
    ],
)
def test_an_interrupt_ends_the_block_and_the_program(body: str) -> None:
    with program(textwrap.dedent(body) + "print('not here')") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        out, errors = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT
    assert out == ""
    assert errors.splitlines()[-1].startswith("KeyboardInterrupt")
    assert [word for word in ("Warning", "Exception in thread", "Exception ignored") if word in errors] == []


def test_what_is_imported() -> None:
    with program(
        """
        modules = {*sys.modules}
        for name in modules:
            if name.startswith(("trio_smtp", "asyncio")):
                del sys.modules[name]
        import trio_smtp
        print("trio_smtp.background" in sys.modules)
        import trio_smtp.background
        print("asyncio" in sys.modules)
        """
    ) as running:
        out, errors = running.communicate(timeout=60)
    assert (out, errors) == ("False\nFalse\n", "")
