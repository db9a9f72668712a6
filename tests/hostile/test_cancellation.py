"""Cancellation and drain at every step of a dialogue: what was acknowledged is there, and nothing half is.

An instrument counts the steps of the server's tasks and acts before the n-th, for every n until the dialogue is over
before its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from tests.support import note_closes
from trio_smtp import App, Config, ConnectContext, DataContext, MessageIncomplete, RcptToContext, SMTPServer
from trio_smtp.testing import Client, stuff

from .support import run, watched_log

SMALL = b"Subject: small\r\n\r\n.\r\n"
STREAMED = b"Subject: streamed\r\n\r\n" + b"line\r\n" * 30
CHUNKED = b"Subject: chunked\r\n\r\n" + b"octets"
MESSAGES = [SMALL, STREAMED, CHUNKED]


class Nth(trio.abc.Instrument):
    """Acts once, before the n-th step of one of the server's tasks."""

    def __init__(self, n: int, act: Callable[[], None]) -> None:
        self._left = n
        self._act = act
        self.acted = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith("trio_smtp."):
            self._left -= 1
            if not self._left:
                self.acted = True
                self._act()


@attrs.define(eq=False)
class Scene:
    """A server whose handlers take their time, and one client that sends three messages in three ways."""

    drain_timeout: float = 1000
    app: App = attrs.field(factory=App)
    stored: list[bytes] = attrs.field(factory=list)
    running: int = 0
    connected: int = 0
    closed: list[str] = attrs.field(factory=list)
    acknowledged: list[bytes] = attrs.field(factory=list)
    said: list[int] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.closed = note_closes(self.app)

        @self.app.on_connect
        async def connect(ctx: ConnectContext) -> None:
            self.connected += 1
            await trio.lowlevel.checkpoint()

        @self.app.on_rcpt_to
        async def recipient(ctx: RcptToContext) -> None:
            await trio.sleep(0.1)

        @self.app.on_data
        async def store(ctx: DataContext) -> None:
            self.running += 1
            try:
                body = b""
                try:
                    async for chunk in ctx.stream:
                        body += chunk
                        await trio.sleep(0.1)
                except MessageIncomplete:
                    assert not ctx.stream.complete
                    raise
                assert body in MESSAGES
                self.stored.append(body)
                await trio.sleep(0.1)
            finally:
                self.running -= 1

    async def play(self, stream: trio.abc.Stream) -> None:
        """The client; it stops where the server does."""
        client = Client(stream)
        try:
            await self._expect(client)
            await self._expect(client, b"EHLO x\r\n")
            for message in MESSAGES:
                await self._expect(client, b"MAIL FROM:<a@example.org>\r\n")
                await self._expect(client, b"RCPT TO:<b@example.com>\r\n")
                if message is CHUNKED:
                    await self._expect(client, b"BDAT 10\r\n" + message[:10])
                    await self._expect(client, b"BDAT 0\r\n")
                    last = b"BDAT %d LAST\r\n" % (len(message) - 10) + message[10:]
                else:
                    await self._expect(client, b"DATA\r\n")
                    last = stuff(message)
                    if message is STREAMED:
                        await client.send_bytes(last[:20])
                        await trio.sleep(1)
                        await client.send_bytes(last[20:100])
                        await trio.sleep(1)
                        last = last[100:]
                if await self._expect(client, last) == 250:
                    self.acknowledged.append(message)
            await self._expect(client, b"QUIT\r\n")
        except (trio.EndOfChannel, trio.BrokenResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _expect(self, client: Client, wire: bytes = b"") -> int:
        await client.send_bytes(wire)
        code = (await client.read_reply()).code
        self.said.append(code)
        if code == 421:
            raise trio.EndOfChannel
        return code

    def run(self, n: int, act: Callable[[SMTPServer, trio.CancelScope], None]) -> tuple[bool, float]:
        """Play it, and act before the n-th step; whether that came, and how long all of it took."""
        acted, seconds = False, 0.0

        async def main() -> None:
            nonlocal acted, seconds
            server = SMTPServer(self.app, Config(hostname="mx.example", drain_timeout=self.drain_timeout))
            ours, theirs = trio.testing.memory_stream_pair()
            scope = trio.CancelScope()
            instrument = Nth(n, lambda: act(server, scope))

            async def serve() -> None:
                with scope:
                    # A task of its own, so that its steps are known by its name.
                    async with trio.open_nursery() as serving:
                        serving.start_soon(server.serve_stream, theirs)
                assert self.running == 0
                assert server.sessions == []
                assert server.stats.connections_open == 0

            trio.lowlevel.add_instrument(instrument)
            with trio.fail_after(100):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve)
                    nursery.start_soon(self.play, ours)
            acted, seconds = instrument.acted, trio.current_time()

        with watched_log():
            run(main)
        return acted, seconds


def every_step(
    act: Callable[[SMTPServer, trio.CancelScope], None], drain_timeout: float = 1000
) -> list[tuple[Scene, float]]:
    """A scene for each step there is."""
    scenes: list[tuple[Scene, float]] = []
    acted = True
    while acted:
        scene = Scene(drain_timeout)
        acted, seconds = scene.run(len(scenes) + 1, act)
        scenes.append((scene, seconds))
        assert len(scenes) < 2000
    # The last one was let alone.
    scene, _ = scenes[-1]
    assert scene.acknowledged == scene.stored == MESSAGES
    assert scene.closed == ["quit"]
    assert len(scenes) > 40
    return scenes


def test_cancelled_at_every_step() -> None:
    scenes = every_step(lambda server, scope: scope.cancel())
    for scene, _ in scenes:
        # Acknowledged is stored; one more may be stored, whose reply did not leave any more.
        assert scene.acknowledged == scene.stored[: len(scene.acknowledged)]
        assert len(scene.stored) - len(scene.acknowledged) in (0, 1)
        assert len(scene.closed) == scene.connected <= 1
        assert scene.closed in ([], ["cancelled"], ["quit"])
        assert 421 not in scene.said
    # The cancellation came everywhere: before the greeting, and after each of the messages.
    assert {len(scene.acknowledged) for scene, _ in scenes} == {0, 1, 2, 3}


def test_drained_at_every_step() -> None:
    scenes = every_step(lambda server, scope: server.drain())
    for scene, _ in scenes:
        # There was time: whatever was under way has its reply, then 421, and nothing was begun after it.
        assert scene.acknowledged == scene.stored
        assert len(scene.closed) == scene.connected <= 1
        assert scene.closed in ([], ["drained"], ["quit"])
        assert scene.said.count(421) == (1 if scene.closed == ["drained"] else scene.said.count(421))
    assert {len(scene.stored) for scene, _ in scenes} == {0, 1, 2, 3}


@pytest.mark.parametrize("drain_timeout", [0, 0.25])
def test_drained_at_every_step_without_the_time_for_it(drain_timeout: float) -> None:
    """What cannot end in time is cut off; what it was told holds all the same."""
    scenes = every_step(lambda server, scope: server.drain(), drain_timeout=drain_timeout)
    for scene, seconds in scenes:
        assert scene.acknowledged == scene.stored[: len(scene.acknowledged)]
        assert len(scene.stored) - len(scene.acknowledged) in (0, 1)
        assert len(scene.closed) == scene.connected <= 1
        assert seconds < 10
    assert {len(scene.acknowledged) for scene, _ in scenes} == {0, 1, 2, 3}
