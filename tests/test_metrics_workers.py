"""Metrics of several workers: what they report, and the process beside them that adds up."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from trio_smtp import App, DataContext, SMTPServer
from trio_smtp.plugins.metrics import Metrics, metrics
from trio_smtp.plugins.metrics.gathering import Gathered, Gatherer
from trio_smtp.plugins.metrics.process import Process, Report
from trio_smtp.server.companions import accompany
from trio_smtp.server.shared_sockets import Listening
from trio_smtp.server.supervisor import Supervisor

from .metrics_support import eventually, get, values, values_of
from .socket_support import connected, serving
from .supervisor_support import ENDS, Exited, FakeSystem
from .worker_support import Process as Server
from .worker_support import command, connect, send, until

APP = """
import os
import trio_smtp
from trio_smtp.plugins.metrics import metrics

app = trio_smtp.App()
app.use(metrics("127.0.0.1:0"))

@app.on_data
async def take(ctx):
    with ctx.delivering("memory"):
        await ctx.stream.discard()
    ctx.reply = f"taken by {os.getpid()}"
"""


def app_with(plugin: Metrics) -> App:
    app = App()
    app.use(plugin)

    @app.on_data
    async def data(ctx: DataContext) -> None:
        await ctx.stream.discard()

    return app


def reported(pid: int, connections: int, *, last: bool = False, draining: bool = False) -> bytes:
    values: dict[tuple[str, ...], list[float]] = {
        ("trio_smtp_connections",): [connections],
        ("trio_smtp_connections_total", "accepted"): [connections],
    }
    return pid.to_bytes(8, "big") + bytes([last]) + Report(values, draining, {}).encode()


#: The number of a process that is not there.
NOBODY = 2**22 + 1


def obstacle_of(gathered: Gathered) -> str | None:
    return gathered.obstacle


async def test_counters_of_the_dead_count_on_and_gauges_do_not(autojump_clock: MockClock) -> None:
    gathered = Gathered()
    assert obstacle_of(gathered) == "no worker serves"
    me = os.getpid()
    gathered.take(reported(NOBODY, 3))
    gathered.take(reported(me, 4, draining=True))
    assert obstacle_of(gathered) is None
    assert gathered.values()["trio_smtp_connections",] == [7]
    gathered.bury()
    assert gathered.values()["trio_smtp_connections",] == [4]
    assert gathered.values()["trio_smtp_connections_total", "accepted"] == [7]
    assert obstacle_of(gathered) == "draining"
    silent = [gathered.silent]
    await trio.sleep(31)
    silent.append(gathered.silent)  # it hangs
    gathered.take(reported(me, 5, last=True))
    silent.append(gathered.silent)
    assert gathered.values() == {("trio_smtp_connections_total", "accepted"): [8]}
    await trio.sleep(31)
    silent.append(gathered.silent)  # there is none
    assert silent == [False, True, False, True]


async def test_a_worker_and_what_is_beside_it() -> None:
    plugin = metrics("127.0.0.1:0")

    async def ready() -> bool:
        return (await get(plugin, "/readyz"))[0] == 200

    async def quit_was_counted() -> bool:
        return 'trio_smtp_commands_total{verb="QUIT",code="221"}' in await values(plugin)

    async def nobody_is_left() -> bool:
        return "trio_smtp_processes" not in await values(plugin)

    plugin.open()
    draining = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plugin.run, draining)
        await trio.testing.wait_all_tasks_blocked()
        assert await get(plugin, "/readyz") == (503, "no worker serves\n")
        async with serving(app_with(plugin)) as server:
            async with connected(server) as client:
                await client.quit()
            await eventually(ready)
            await eventually(quit_was_counted)
            draining.set()
            assert await get(plugin, "/readyz") == (503, "draining\n")
        await eventually(nobody_is_left)
        found = await values(plugin)
        assert found['trio_smtp_connections_total{outcome="accepted"}'] == 1
        nursery.cancel_scope.cancel()
    plugin.close()
    plugin.close()


async def test_what_nobody_reads_holds_up_nothing(autojump_clock: MockClock) -> None:
    gatherer, process = Gatherer(), Process({})
    with trio.fail_after(200):
        with trio.move_on_after(100):
            await gatherer.report(process)
        for _ in range(50):
            await gatherer.report_last(process)
        gatherer.close()
        await gatherer.report_last(process)


# The supervisor


class Beside:
    """A companion that notes what is done with it."""

    name = "beside"

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails = False
        self.drained = trio.Event()

    def open(self) -> None:
        self.done.append("open")
        if self.fails:
            raise OSError("taken")

    async def run(self, draining: trio.Event) -> None:
        self.done.append("run")
        await draining.wait()
        self.done.append("draining")
        self.drained.set()

    def close(self) -> None:
        self.done.append("close")


def supervisor(system: FakeSystem, beside: Beside) -> Supervisor:
    app = App()
    app.accompany(beside)
    servers = [SMTPServer(app), SMTPServer(app)]
    listening = [Listening(server, [[socket.create_server(("127.0.0.1", 0))]]) for server in servers]
    return Supervisor(listening, 1, system=system)


def test_a_companion_ends_after_the_last_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    system, beside = FakeSystem(), Beside()
    system.dies(1, 2, 1)
    system.at(2, ENDS)
    system.dies(3, 1, 0)
    system.dies(4, 3, 0)
    assert supervisor(system, beside).run() == 0
    assert beside.done == ["open", "close"]
    assert [record.getMessage() for record in caplog.records if "beside" in record.getMessage()] == [
        "beside is process 2",
        "beside, process 2, exited with code 1; the next one starts in 0.1 s",
        "beside is process 3",
    ]


def test_a_companion_that_cannot_open() -> None:
    beside = Beside()
    beside.fails = True
    with pytest.raises(OSError, match="taken"):
        supervisor(FakeSystem(), beside).run()
    assert beside.done == ["open", "close"]


def test_a_companion_has_a_process() -> None:
    system, beside = FakeSystem(), Beside()
    system.born = lambda pid: 0 if pid == 2 else pid
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Exited

    system.exit = leave  # type: ignore[assignment, method-assign]
    watched = supervisor(system, beside)
    sockets = [own for each in watched.listening for own in each.sockets[0]]
    made: list[socket.socket] = []

    def pair() -> tuple[socket.socket, socket.socket]:
        made.extend(real())
        return made[-2], made[-1]

    real = socket.socketpair
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socketpair", pair)
        patch.setattr(beside, "run", _ends_at_once)
        with pytest.raises(Exited):
            watched.run()
    assert codes == [0]
    assert [sock.fileno() for sock in sockets] == [-1, -1]
    for sock in made:
        sock.close()


async def _ends_at_once(_: trio.Event) -> None:
    pass


async def test_orders_to_a_companion() -> None:
    for order in (b"s", b""):
        ours, theirs = socket.socketpair()
        beside = Beside()
        with ours, trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accompany, _Patient(beside), theirs)
                ours.send(b"d")
                await beside.drained.wait()
                assert beside.done == ["run", "draining"]
                if order:
                    ours.send(order)
                else:
                    ours.close()


class _Patient(Beside):
    """One that goes on."""

    def __init__(self, beside: Beside) -> None:
        super().__init__()
        self._beside = beside

    async def run(self, draining: trio.Event) -> None:
        await self._beside.run(draining)
        await trio.sleep_forever()


# Real processes


def page_of(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def total_of(port: int, name: str) -> float:
    return values_of(page_of(port)[1]).get(name, 0)


def metrics_port(server: Server) -> int:
    found = re.search(r":(\d+)/metrics", server.logged("metrics on http"))
    assert found is not None
    return int(found[1])


def test_workers_that_die_and_a_drain(tmp_path: Path) -> None:
    (tmp_path / "measured.py").write_text(APP)
    with command(tmp_path, "measured:app", "--workers", "2", "--port", "0") as server:
        port = server.port()
        page = metrics_port(server)
        server.started(2)
        until(lambda: total_of(page, "trio_smtp_processes") == 2, tries=10_000)
        assert page_of(page, "/readyz") == (200, "ready\n")
        with connect(port) as client:
            taken = int(send(client).rpartition(" ")[2])
            accepted = 'trio_smtp_messages_total{outcome="accepted"}'
            until(lambda: total_of(page, accepted) == 1, tries=10_000)
            assert total_of(page, "trio_smtp_connections") == 1
            os.kill(taken, signal.SIGKILL)
            until(lambda: total_of(page, "trio_smtp_connections") == 0, tries=10_000)
            client.close()
        assert total_of(page, accepted) == 1
        server.logged("is process")
        waiting = connect(port)
        waiting.ehlo()
        waiting.mail("alice@example.com")
        server.signal()
        until(lambda: page_of(page, "/readyz") == (503, "draining\n"), tries=10_000)
        assert total_of(page, 'trio_smtp_commands_total{verb="MAIL",code="250"}') >= 1
        waiting.close()
        assert server.wait() == 0


def test_the_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "measured.py").write_text(APP.replace(":0", f":{taken.getsockname()[1]}"))
        script = "from measured import app; from trio_smtp import *;serve_workers(app, Config(port=0), workers=2)"
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "metrics cannot listen on 127.0.0.1:" in done.stderr
    assert done.returncode == 1
