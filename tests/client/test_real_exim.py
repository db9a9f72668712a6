"""Exim takes what the client sends, and stores it octet for octet."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.front_ends_support import LIFETIME, PATIENCE
from tests.test_real_senders import exim_directory as exim_directory  # noqa: PLC0414 - a fixture
from tests.test_real_senders import needs_exim
from trio_smtp.client import DeliveryRefused, Mail, SendResult, connect

pytestmark = needs_exim

MESSAGE = b"From: a@example.org\r\nSubject: Hi\r\n\r\n.\r\n..\r\n.a\r\nGr\xc3\xbc\xc3\x9fe\r\n\r\n"
BODY = MESSAGE.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")

#: It speaks on its standard input, and stores each message in a file of its own.
CONF = """\
exim_path = {exim}
primary_hostname = mx.example.net
spool_directory = {directory}/spool
log_file_path = {directory}/log-%s
disable_ipv6
keep_environment =
message_size_limit = 200000
chunking_advertise_hosts = *
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  deny local_parts = nobody
       message = no such user
  accept
begin routers
everything:
  driver = accept
  transport = files
begin transports
files:
  driver = appendfile
  directory = {directory}/mail
  maildir_format
  create_directory
  user = Debian-exim
"""


@asynccontextmanager
async def exim_server(directory: Path) -> AsyncIterator[Callable[[], Awaitable[trio.abc.Stream]]]:
    """An Exim for each connection, as inetd would start it; gives what connects."""
    program = shutil.which("exim4") or ""
    conf = directory / "exim.conf"
    conf.write_text(CONF.format(exim=program, directory=directory), encoding="utf-8")
    command = ["timeout", str(LIFETIME), program, "-C", str(conf), "-odi", "-bs"]
    async with trio.open_nursery() as nursery:

        async def open_stream() -> trio.abc.Stream:
            ours, theirs = socket.socketpair()
            with theirs:
                run = partial(trio.run_process, command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
                await nursery.start(partial(run, check=False))
            return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

        with trio.fail_after(2 * PATIENCE):
            yield open_stream
        nursery.cancel_scope.cancel()


def bodies(directory: Path) -> list[bytes]:
    files = [*(directory / "mail" / "new").iterdir()]
    return [file.read_bytes().partition(b"\n\n")[2] for file in files]


async def pieces() -> AsyncIterator[bytes]:
    for start in range(0, len(MESSAGE), 5):
        yield MESSAGE[start : start + 5]


async def test_it_takes_what_the_client_sends(exim_directory: Path) -> None:
    to = "b@example.net"
    async with (
        exim_server(exim_directory) as open_stream,
        connect("smtp://mx.example.net", tls="none", open_stream=open_stream) as client,
    ):
        assert {"PIPELINING", "SIZE", "8BITMIME", "CHUNKING"} <= client.extensions.keys()
        for chunking in (False, True):
            await client.send("a@example.org", to, MESSAGE, chunking=chunking)
            await client.send("", to, pieces(), chunking=chunking)
            result = await client.send("a@example.org", ["nobody@example.net", to], MESSAGE, chunking=chunking)
            assert {name: reply.code for name, reply in result.refused.items()} == {"nobody@example.net": 550}
            with pytest.raises(DeliveryRefused):
                await client.send("a@example.org", "nobody@example.net", MESSAGE, chunking=chunking)
            with pytest.raises(DeliveryRefused) as caught:
                await client.send("a@example.org", to, b"x\r\n" * 100_000, chunking=chunking)
            assert caught.value.reply.code == 552
            mails = [Mail("a@example.org", to, MESSAGE) for _ in range(8)]
            mails[3] = Mail("a@example.org", "nobody@example.net", MESSAGE)
            results = await client.send_many(mails, chunking=chunking)
            assert [isinstance(each, SendResult) for each in results] == [number != 3 for number in range(8)]
    assert bodies(exim_directory) == [BODY] * 2 * (3 + 7)
