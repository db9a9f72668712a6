"""How many coroutines stand between a connection's task and its socket: each is left and entered for every wait."""

from __future__ import annotations

import socket
from types import CoroutineType
from typing import Any

import pytest
import trio
import trio.testing

from trio_smtp import SMTPServer
from trio_smtp.net.transport import Outbox, SocketTransport
from trio_smtp.testing import Client

from .support import COMPILED, mail_app, start_data


def layers(task: trio.lowlevel.Task) -> list[str]:
    """The library's coroutines that a task has entered, the outermost first."""
    found: list[str] = []
    coroutine: Any = task.coro
    while isinstance(coroutine, CoroutineType):
        if "trio_smtp" in coroutine.cr_code.co_filename:
            found.append(coroutine.__qualname__)
        coroutine = coroutine.cr_await
    return found


#: A task that waits for a command, or for the first octets of a message.
WAITING = ["Connection.run", "Connection._drive", "Wire.receive_while", "Wire.receive", "SocketTransport.receive_some"]


@pytest.mark.skipif(COMPILED, reason="a compiled coroutine does not tell what it awaits")
async def test_no_layer_between_a_task_and_its_client_only_hands_on() -> None:
    app, _ = mail_app()
    server = SMTPServer(app)
    ours, theirs = socket.socketpair()
    with Outbox().at_work() as outbox:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, SocketTransport(theirs, outbox))
            client = Client(SocketTransport(ours))
            await client.read_reply()
            await trio.testing.wait_all_tasks_blocked()
            (task,) = [task for task in nursery.child_tasks if "serve_stream" in task.name]
            serving, *command = layers(task)
            assert serving == "SMTPServer.serve_stream"
            assert command == WAITING
            await start_data(client)
            await trio.testing.wait_all_tasks_blocked()
            assert layers(task)[1:] == WAITING
            await client.aclose()
