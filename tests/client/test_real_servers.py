"""Real servers: Postfix takes what the client sends and passes it on octet for octet; aiosmtpd takes it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from tests.front_ends_support import MASTER, PATIENCE, Postfix
from tests.socket_support import port_of, serving
from tests.test_real_front_ends import postfix as postfix  # noqa: PLC0414 - a fixture
from trio_smtp.client import DeliveryRefused, ExtensionMissing, Mail, Pool, Recipient, SendResult, connect

from .support import Mailbox

MESSAGE = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: Hi\r\n\r\n.\r\n..\r\n.a\r\n\r\n"
EIGHT_BIT = "Subject: Hi\r\n\r\nGrüße\r\n".encode()

needs_postfix = [
    pytest.mark.program("postfix", MASTER),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts as root only"),
]


async def pieces(message: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(message), 5):
        yield message[start : start + 5]


async def arrived(box: Mailbox, count: int) -> list[bytes]:
    """Wait for so many messages; gives their bodies, in any order."""
    with trio.fail_after(PATIENCE):
        while len(box.messages) < count:  # noqa: ASYNC110 - the App is the other tests' own
            await trio.sleep(0.05)
    return sorted(message.partition(b"\r\n\r\n")[2] for message in box.messages)


class TestPostfix:
    pytestmark = needs_postfix

    async def test_it_takes_what_the_client_sends(self, postfix: Postfix) -> None:
        box = Mailbox()
        async with (
            serving(box.app, dsn=True) as server,
            postfix.running(relayhost=f"[127.0.0.1]:{port_of(server)}", message_size_limit="200000"),
            connect(f"smtp+unix://{postfix.directory}/queue/public/submit") as client,
        ):
            assert {"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING"} <= client.extensions.keys()
            bodies = []
            for chunking in (False, True):
                await client.send("a@example.org", "b@example.net", MESSAGE, chunking=chunking)
                await client.send("a@example.org", "b@example.net", pieces(MESSAGE), chunking=chunking)
                bodies += [MESSAGE] * 2
            await client.send("", [Recipient("b@example.net", "NEVER", "c@example.org")], EIGHT_BIT, envid="x y")
            await client.send("é@example.org", "ü@example.net", EIGHT_BIT)
            async with client.transaction("a@example.org") as t:
                assert (await t.recipient("b@example.net")).code == 250
                assert (await t.data_start()).code == 354
                await t.write(MESSAGE)
                assert [reply.code for reply in await t.finish()] == [250]
            bodies += [EIGHT_BIT, EIGHT_BIT, MESSAGE]
            with pytest.raises(DeliveryRefused) as caught:
                await client.send("a@example.org", "b@example.net", b"x\r\n" * 100_000)
            assert caught.value.reply.code == 552
            mails = [Mail("a@example.org", "b@example.net", MESSAGE) for _ in range(30)]
            for chunking in (False, True):
                results = await client.send_many(mails, chunking=chunking)
                assert all(isinstance(result, SendResult) for result in results)
            bodies += [MESSAGE] * 60
            found = await arrived(box, len(bodies))
        assert found == sorted(message.partition(b"\r\n\r\n")[2] for message in bodies)

    async def test_a_pool_and_recipients_that_it_refuses(self, postfix: Postfix) -> None:
        box = Mailbox()
        async with (
            serving(box.app) as server,
            postfix.running(
                relayhost=f"[127.0.0.1]:{port_of(server)}",
                smtpd_recipient_restrictions="check_recipient_access inline:{nobody@example.net=REJECT}, permit",
            ),
            Pool(f"smtp+unix://{postfix.directory}/queue/public/submit", size=2) as pool,
        ):
            to = ["nobody@example.net", "b@example.net"]
            for _ in range(5):
                result = await pool.send("a@example.org", to, MESSAGE)
                assert {name: reply.code for name, reply in result.refused.items()} == {"nobody@example.net": 554}
            with pytest.raises(DeliveryRefused):
                await pool.send("a@example.org", "nobody@example.net", MESSAGE)
            await pool.send("a@example.org", "b@example.net", MESSAGE)
            assert len(await arrived(box, 6)) == 6


class TestAiosmtpd:
    @pytest.fixture
    def server(self) -> Any:
        """An aiosmtpd with a handler that keeps what it takes."""
        controllers = pytest.importorskip("aiosmtpd.controller")

        class Keep:
            def __init__(self) -> None:
                self.taken: list[bytes] = []

            async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, _: Any) -> str:  # noqa: N802
                if address.startswith("nobody"):
                    return "550 no such user"
                envelope.rcpt_tos.append(address)
                return "250 OK"

            async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
                self.taken.append(envelope.original_content)
                return "250 OK"

        class Controller(controllers.Controller):  # type: ignore[misc,name-defined] # without types
            def _trigger_server(self) -> None:
                """Connect once, so that it is seen to be there: to the port that the system chose."""
                socket.create_connection(self.server.sockets[0].getsockname(), 30).close()

        controller = Controller(Keep(), hostname="127.0.0.1", port=0, ready_timeout=30)
        controller.start()
        try:
            yield controller
        finally:
            controller.stop()

    async def test_it_takes_what_the_client_sends(self, server: Any) -> None:
        port = server.server.sockets[0].getsockname()[1]
        async with connect(f"smtp://127.0.0.1:{port}", tls="none") as client:
            assert "PIPELINING" not in client.extensions
            await client.send("a@example.org", "b@example.net", MESSAGE)
            await client.send("a@example.org", "b@example.net", pieces(EIGHT_BIT))
            result = await client.send("a@example.org", ["nobody@example.net", "b@example.net"], MESSAGE)
            assert set(result.refused) == {"nobody@example.net"}
            with pytest.raises(DeliveryRefused):
                await client.send("a@example.org", "nobody@example.net", MESSAGE)
            with pytest.raises(ExtensionMissing):
                await client.send("a@example.org", "b@example.net", MESSAGE, chunking=True)
            results = await client.send_many([Mail("a@example.org", "b@example.net", MESSAGE)] * 20)
            assert all(isinstance(result, SendResult) for result in results)
        assert server.handler.taken == [MESSAGE, EIGHT_BIT] + [MESSAGE] * 21
