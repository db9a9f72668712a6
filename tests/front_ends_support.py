"""Real programs for tests: Postfix and HAProxy with settings of our own, on loopback and Unix sockets alone.

They end with the test, and by themselves if the tests are killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from trio_smtp.testing import Client

#: Seconds for anything that waits: far more than a loaded machine needs.
PATIENCE = 60
#: Seconds after which a program ends itself.
LIFETIME = 300
MASTER = "/usr/lib/postfix/sbin/master"
MESSAGE = b"From: alice@example.org\r\nTo: bob@example.net\r\nSubject: Hello\r\n\r\nIt works.\r\n"


async def run(*command: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, which must be a good one."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command,
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "HOME": "/", **environment},  # no settings of whoever runs the tests
        )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return done


# Postfix

MASTER_CF = """\
# service  type      private unpriv chroot wakeup maxproc command
postlog    unix-dgram n      -      n      -      1       postlogd
submit     unix      n       -      n      -      -       smtpd
cleanup    unix      n       -      n      -      0       cleanup
qmgr       unix      n       -      n      300    1       qmgr
rewrite    unix      -       -      n      -      -       trivial-rewrite
bounce     unix      -       -      n      -      0       bounce
defer      unix      -       -      n      -      0       bounce
trace      unix      -       -      n      -      0       bounce
smtp       unix      -       -      n      -      -       smtp
proxymap   unix      -       -      n      -      -       proxymap
lmtp       unix      -       -      n      -      -       lmtp
error      unix      -       -      n      -      -       error
retry      unix      -       -      n      -      -       error
"""

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = relay.example.org
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_host_lookup = native
smtp_connection_cache_on_demand = no
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
mynetworks = 0.0.0.0/0
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_send_xforward_command = yes
"""


@attrs.frozen
class Postfix:
    """A Postfix of our own."""

    directory: Path

    @asynccontextmanager
    async def running(self, **settings: str) -> AsyncIterator[Client]:
        """Run it with these settings in main.cf besides; gives a client of its SMTP server, after the greeting."""
        directory = str(self.directory)
        lines = [MAIN_CF.format(directory=directory), *(f"{name} = {value}\n" for name, value in settings.items())]
        (self.directory / "main.cf").write_text("".join(lines), encoding="utf-8")
        (self.directory / "master.cf").write_text(MASTER_CF, encoding="utf-8")
        await run("postfix", "check", MAIL_CONFIG=directory)
        with trio.fail_after(PATIENCE):
            await trio.run_process(  # its daemons keep what it writes to
                [MASTER, "-w", "-e", str(LIFETIME)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "MAIL_CONFIG": directory},
            )
        # What a new master listens on is there once the first one (-w) has ended.
        pid = os.pidfd_open(int((self.directory / "queue/pid/master.pid").read_text()))
        try:
            client = Client(await trio.open_unix_socket(f"{directory}/queue/public/submit"))
            with trio.fail_after(PATIENCE):
                client.greeting = await client.read_reply()
            yield client
            await say(client, "QUIT")
            await client.aclose()
        finally:
            signal.pidfd_send_signal(pid, signal.SIGTERM)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
                await trio.lowlevel.wait_readable(pid)
            os.close(pid)


async def say(client: Client, *commands: str) -> None:
    """Say these; each must be accepted."""
    with trio.fail_after(PATIENCE):
        for command in commands:
            reply = await client.command(command)
            assert reply.code < 400, f"{command}: {reply}"


async def submit(client: Client, *commands: str, message: bytes = MESSAGE) -> None:
    """Give a message to Postfix."""
    await say(client, *commands, "DATA")
    await client.send_bytes(message + b".\r\n")
    with trio.fail_after(PATIENCE):
        assert (await client.read_reply()).code == 250


class RecordingListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener whose streams keep what each receive gave."""

    def __init__(self, listener: trio.SocketListener, received: list[bytes]) -> None:
        self._listener = listener
        self._received = received

    async def accept(self) -> trio.abc.Stream:
        stream = await self._listener.accept()
        return trio.StapledStream(stream, RecordingStream(stream, self._received))

    async def aclose(self) -> None:
        await self._listener.aclose()


class RecordingStream(trio.abc.ReceiveStream):
    def __init__(self, stream: trio.SocketStream, received: list[bytes]) -> None:
        self._stream = stream
        self._received = received

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        self._received += [data] if data else []
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


# HAProxy

HAPROXY_CFG = """\
defaults
  mode tcp
  timeout connect 60s
  timeout client 60s
  timeout server 60s
  unique-id-format connection-%pid
frontend front
  bind fd@{fd} {bind}
  default_backend back
backend back
  server mail 127.0.0.1:{port} {send}
"""


@asynccontextmanager
async def haproxy(directory: Path, port: int, send: str, bind: str = "") -> AsyncIterator[int]:
    """HAProxy in front of a port; gives its own."""
    # The listening socket is made here: whoever connects early waits in its backlog.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        file = directory / "haproxy.cfg"
        file.write_text(HAPROXY_CFG.format(fd=listener.fileno(), bind=bind, port=port, send=send), encoding="utf-8")
        command = ["timeout", str(LIFETIME), "haproxy", "-q", "-db", "-f", str(file)]
        async with trio.open_nursery() as nursery:
            fds = [listener.fileno()]
            nursery.start_soon(partial(trio.run_process, command, pass_fds=fds, check=False))
            yield listener.getsockname()[1]
            nursery.cancel_scope.cancel()
