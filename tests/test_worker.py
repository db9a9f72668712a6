"""A worker's inside: what it does when orders and signals come."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from trio_smtp import Config, SMTPServer
from trio_smtp.server.worker import work
from trio_smtp.testing import Client

from .support import crashes, logged, mail_app, note_closes, start_data


@attrs.define
class Working:
    """A worker in this process."""

    server: SMTPServer
    sockets: list[socket.socket]
    supervisor: socket.socket
    orders: socket.socket

    async def connect(self) -> Client:
        address = self.sockets[0].getsockname()
        client = Client(await trio.open_tcp_stream(*address))
        client.greeting = await client.read_reply()
        return client

    def run(self, *arguments: Any) -> Any:
        return work([(self.server, self.sockets)], self.orders, *arguments)


@pytest.fixture
def working() -> Iterator[Working]:
    app, _ = mail_app()
    note_closes(app)
    ours, theirs = socket.socketpair()
    server = SMTPServer(app, Config(hostname="mx.example"))
    with ours, socket.create_server(("127.0.0.1", 0)) as listening:
        yield Working(server, [listening], ours, theirs)


@pytest.mark.parametrize("way", ["order", "supervisor gone", "signal"])
async def test_a_worker_drains(working: Working, way: str, caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run)
        client = await working.connect()
        await start_data(client)
        if way == "order":
            working.supervisor.send(b"d")
        elif way == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            working.supervisor.close()
        while working.server.listeners:
            await trio.lowlevel.checkpoint()
        await client.send_bytes(b"Hello\r\n.\r\n")
        assert (await client.read_reply()).code == 250
        assert (await client.read_reply()).code == 421
        await client.aclose()
    assert working.orders.fileno() == working.sockets[0].fileno() == -1
    assert logged(caplog) == (["the supervisor is gone: draining"] if way == "supervisor gone" else [])


async def test_a_worker_stops(working: Working) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run)
        client = await working.connect()
        await start_data(client)
        working.supervisor.send(b"ds")
        assert await client.read_to_end() == b""
        await client.aclose()
    assert working.orders.fileno() == working.sockets[0].fileno() == -1


async def test_a_worker_reloads_in_order_and_goes_on(working: Working, caplog: pytest.LogCaptureFixture) -> None:
    begun: list[SMTPServer] = []
    enough, first = trio.Event(), trio.Event()

    async def reload(server: SMTPServer) -> None:
        begun.append(server)
        if len(begun) == 1:
            await first.wait()
            raise OSError("no certificate")
        enough.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run, reload)
        client = await working.connect()
        working.supervisor.send(b"r")
        while not begun:
            await trio.lowlevel.checkpoint()
        working.supervisor.send(b"r")
        assert (await client.ehlo()).code == 250  # a slow one hinders nobody
        await trio.testing.wait_all_tasks_blocked()
        assert begun == [working.server]
        first.set()
        await enough.wait()
        assert begun == [working.server] * 2
        working.supervisor.send(b"d")
        assert (await client.read_reply()).code == 421
        await client.aclose()
    assert crashes(caplog) == ["reload failed"]


async def test_a_worker_without_anything_to_reload(working: Working) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run)
        client = await working.connect()
        working.supervisor.send(b"rd")
        assert (await client.read_reply()).code == 421
        await client.aclose()


async def test_a_worker_that_comes_after_a_hangup_reloads_before_it_serves(working: Working) -> None:
    seen: list[int] = []

    async def reload(server: SMTPServer) -> None:
        seen.append(len(server.listeners))

    working.supervisor.close()
    await working.run(reload, True)
    assert seen == [0]


@pytest.mark.parametrize("way", [b"s", b"d", b""], ids=["stop", "drain", "supervisor gone"])
async def test_a_worker_that_reloads_first_hears_its_orders(working: Working, way: bytes) -> None:
    reloading = trio.Event()

    async def hang(server: SMTPServer) -> None:
        reloading.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run, hang, True)
        await reloading.wait()
        if way:
            working.supervisor.send(way)
        else:
            working.supervisor.close()
    assert working.orders.fileno() == -1
