"""The next server is told of the client: by XFORWARD, by XCLIENT, by the PROXY protocol."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.client.support import Mailbox, dialogue, scripted
from trio_smtp import App, AuthContext, Config, DataContext, Session, SMTPServer
from trio_smtp.client import DeliveryFailed, DeliveryRefused, ExtensionMissing, connect
from trio_smtp.delivery._announcing import proxy_header
from trio_smtp.testing import MemoryListener

from .support import before_scripts, front, relay_to

EVERYBODY = ("0.0.0.0/0", "::/0")
CLIENT = ("192.0.2.7", 4711)


class Watching(Mailbox):
    """Keeps what each message's session says of its client."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.connections = 0
        self.app.on_connect(self._connected)
        self.app.on_auth(self._accept, offers=True)

    async def _accept(self, ctx: AuthContext) -> None:
        ctx.accept("alice")

    async def _connected(self, ctx: Any) -> None:
        self.connections += not ctx.session.xclient  # XCLIENT begins anew

    async def _take(self, ctx: DataContext) -> None:
        session = ctx.session
        self.seen.append(
            (session.remote_address, session.host_name_appears_as, session.user, {**session.xforward}, session.tls)
        )
        await super()._take(ctx)


def connecting(listener: MemoryListener) -> Any:
    async def open_stream() -> Any:
        return await listener.connect(peer=("127.0.0.1", 5))

    return open_stream


def login(app: App) -> App:
    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        ctx.accept("alice")

    return app


async def relayed(box: Watching, back: Config, announce: Any, messages: int = 2, **fields: Any) -> None:
    """Send messages through a front that announces its client."""
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SMTPServer(box.app, back).serve_listeners, [listener])
        relay = relay_to(connecting(listener), announce=announce, size=3)
        async with front(relay, app=login(App()), peer=CLIENT, allow_insecure_auth=True, **fields) as found:
            for number in range(messages):
                await found.client.ehlo("laptop.example")
                if number == 1:
                    assert (await found.client.auth_plain("alice", "x")).code == 235
                assert await found.begin("b@example.com") == [250, 250]
                assert (await found.data())[0].startswith("250")
            assert await found.say("QUIT") == [221]
        nursery.cancel_scope.cancel()


async def test_xforward() -> None:
    box = Watching()
    await relayed(box, Config(hostname="mx.example", xforward=EVERYBODY), "xforward")
    told = {"ADDR": "192.0.2.7", "NAME": None, "PORT": "4711", "PROTO": "ESMTP", "HELO": "client.example"}
    assert [seen[3] for seen in box.seen] == [told, told]
    assert [seen[0] for seen in box.seen] == ["127.0.0.1"] * 2
    assert box.connections == 1


async def test_xforward_that_is_not_offered() -> None:
    box = Watching()
    await relayed(box, Config(hostname="mx.example"), "xforward")
    assert [seen[3] for seen in box.seen] == [{}, {}]


async def test_xclient() -> None:
    """Another identity of the client, here a login, is another session."""
    box = Watching()
    await relayed(box, Config(hostname="mx.example", xclient=EVERYBODY), "xclient", messages=3)
    assert [seen[0] for seen in box.seen] == ["192.0.2.7"] * 3
    assert {seen[1] for seen in box.seen} == {"client.example"}
    assert [seen[2] for seen in box.seen] == [None, "alice", "alice"]
    assert box.connections == 2


async def test_xclient_that_is_not_offered() -> None:
    """Without it the next server would take everybody for us: nothing goes on."""
    async with before_scripts(dialogue({}), dialogue({}), announce="xclient") as found:
        assert await found.begin() == [451]
        assert await found.begin() == [451]


async def test_the_proxy_protocol() -> None:
    box = Watching()
    await relayed(box, Config(hostname="mx.example", proxy_protocol=("127.0.0.1",)), "proxy")
    assert [seen[0] for seen in box.seen] == ["192.0.2.7"] * 2
    # The login is another identity.
    assert box.connections == 2


@pytest.mark.parametrize(
    ("remote", "local", "header"),
    [
        (("192.0.2.7", 1), ("10.0.0.1", 25), b"PROXY TCP4 192.0.2.7 10.0.0.1 1 25\r\n"),
        (("2001:db8::7", 1), ("fe80::1%eth0", 25), b"PROXY TCP6 2001:db8::7 fe80::1 1 25\r\n"),
        (("192.0.2.7", 1), ("::1", 25), b"PROXY UNKNOWN\r\n"),
        (("192.0.2.7", None), ("10.0.0.1", 25), b"PROXY UNKNOWN\r\n"),
        ((None, None), (None, None), b"PROXY UNKNOWN\r\n"),
    ],
)
def test_headers(remote: Any, local: Any, header: bytes) -> None:
    session = Session(remote_address=remote[0], remote_port=remote[1], local_address=local[0], local_port=local[1])
    assert proxy_header(session) == header


XCLIENT = {"EHLO": b"250-mx\r\n250-REQUIRETLS\r\n250-XFORWARD NAME\r\n250 XCLIENT NAME ADDR HELO\r\n"}


class TestTheClient:
    async def test_what_it_says(self) -> None:
        seen: list[bytes] = []
        answers = XCLIENT | {"XCLIENT": b"220 mx\r\n"}
        async with before_client(dialogue(answers, seen=seen)) as client:
            await client.xclient({"ADDR": "IPV6:::1", "NAME": "a b", "LOGIN": "x", "HELO": "ü"}, hello="laptop")
            assert seen[-2:] == [b"XCLIENT ADDR=IPV6:::1 NAME=a+20b HELO=[UNAVAILABLE]", b"EHLO laptop"]
            assert "REQUIRETLS" not in client.extensions
            assert (await client.xforward({"NAME": "n" * 201, "ADDR": "x"})).code == 250
            assert seen[-1] == b"XFORWARD NAME=[UNAVAILABLE]"
            with pytest.raises(ValueError, match="hello"):
                await client.xclient({"ADDR": "192.0.2.7"}, hello="two words")

    async def test_what_is_not_offered(self) -> None:
        async with before_client(dialogue({})) as client:
            with pytest.raises(ExtensionMissing):
                await client.xforward({"ADDR": "192.0.2.7"})
            with pytest.raises(ExtensionMissing):
                await client.xclient({"ADDR": "192.0.2.7"}, hello="laptop")

    @pytest.mark.parametrize(
        ("answer", "error"), [(b"550 no\r\n", DeliveryRefused), (b"250 ok\r\n", DeliveryFailed), (b"", DeliveryFailed)]
    )
    async def test_what_is_refused(self, answer: bytes, error: type[Exception]) -> None:
        async with before_client(dialogue(XCLIENT | {"XCLIENT": answer})) as client:
            with pytest.raises(error, match="xclient"):
                await client.xclient({"ADDR": "192.0.2.7"}, hello="laptop")


def before_client(script: Any) -> Any:
    @asynccontextmanager
    async def opened() -> Any:
        async with scripted(script) as open_stream, connect("smtp://mx", tls="none", open_stream=open_stream) as client:
            yield client

    return opened()


async def test_a_session_whose_refusal_was_521() -> None:
    """It is not used again."""
    answers = {"MAIL": b"521 5.3.2 no mail here\r\n"}
    async with before_scripts(dialogue(answers), dialogue({})) as found:
        assert await found.begin() == [451]
        assert await found.begin("b@example.com") == [250, 250]
