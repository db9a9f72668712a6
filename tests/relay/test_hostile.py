"""Next servers that are broken or hostile, under virtual time: the client is told 451, its session goes on, and a
message whose end was not sent is nobody's.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from tests.client.support import Lines, Script, dialogue
from trio_smtp.client import Password, Timeouts

from .support import LMTP, before_scripts, relay_to, shown
from .support import front as make_front

HEALTHY: dict[str, bytes] = {}
STEPS = ["MAIL", "RCPT", "DATA", "."]
#: What the client says for each.
SAID = {"MAIL": "MAIL FROM:<a@example.org>", "RCPT": "RCPT TO:<b@example.com>", "DATA": "DATA"}


def misbehaves(at: str, octets: bytes | None, *, closes: bool = False) -> Script:
    """A server that answers one verb with these octets; None: not at all."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        if at == "CONNECT":
            await stream.send_all(octets or b"")
            await trio.sleep(0 if closes else 1e6)
            return
        await stream.send_all(b"220 mx\r\n")
        body = False
        while (line := await lines.next()) is not None:
            if body and line != b".":
                continue
            verb = "." if body else line.split(b" ")[0].decode().upper()
            body = verb == "DATA"
            if verb == at:
                if octets is None:
                    await trio.sleep_forever()
                await stream.send_all(octets)
                if closes:
                    return
                body = body and octets.startswith(b"354")
            else:
                await stream.send_all(b"354 go\r\n" if verb == "DATA" else b"250 ok\r\n")

    return serve


async def codes_until(front: Any, at: str) -> str:
    """Lead a transaction up to one step; gives the reply to that."""
    await front.client.ehlo()
    for step in STEPS:
        if step == ".":
            reply = await end(front)
        else:
            reply = await front.client.command(SAID[step])
        if step == at:
            return shown(reply)
        assert reply.code < 400, step
    raise AssertionError(at)


async def end(front: Any) -> Any:
    await front.client.send_bytes(b"Subject: x\r\n\r\nHello\r\n.\r\n")
    return await front.client.read_reply()


LOST: list[tuple[str, bytes | None, bool]] = [
    ("421 closes", b"421 4.3.2 bye\r\n", True),
    ("521 stays", b"521 no\r\n", False),
    ("closes", b"", True),
    ("half a reply", b"25", True),
    ("no reply", b"hello there\r\n", False),
    ("reply with LF", b"250 ok\n", False),
    ("two codes", b"250-ok\r\n550 no\r\n", False),
    ("endless line", b"250 " + b"x" * 20_000, False),
    ("endless reply", b"250-x\r\n" * 300, False),
    ("a code that fits nothing", b"334 go\r\n", False),
    ("silence", None, False),
]


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "."])
@pytest.mark.parametrize("code", [100, 199, 300, 354, 399])
async def test_a_code_that_neither_takes_nor_refuses(at: str, code: int) -> None:
    """Nobody has taken what is answered so: a 354 to the end of a message is no 250."""
    async with before_scripts(misbehaves(at, b"%d go on\r\n" % code)) as front:
        assert (await codes_until(front, at)).startswith("451 4.4.")
    assert front.relay.stats.accepted == 0


@pytest.mark.parametrize("verdicts", [(250, 550), (550, 250)])
async def test_a_recipient_that_is_named_twice_has_two_verdicts(verdicts: tuple[int, int]) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        body = False
        while (line := await lines.next()) is not None:
            if body:
                if line == b".":
                    body = False
                    await stream.send_all(b"".join(b"%d 2.0.0 so\r\n" % code for code in verdicts))
            elif line == b"DATA":
                body = True
                await stream.send_all(b"354 go\r\n")
            else:
                await stream.send_all(b"250 ok\r\n")

    async with before_scripts(serve, front_config=LMTP, to_lmtp=True) as front:
        assert await front.begin("b@example.com", "b@example.com") == [250] * 3
        assert [int(reply[:3]) for reply in await front.data(replies=2)] == list(verdicts)


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize(("octets", "closes"), [row[1:] for row in LOST], ids=[row[0] for row in LOST])
async def test_the_next_server_is_lost(
    at: str, octets: bytes | None, closes: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """451 for the command and for the rest of the transaction; then a new connection serves the next."""
    healthy = dialogue(HEALTHY)
    async with before_scripts(misbehaves(at, octets, closes=closes), healthy, healthy, size=1) as front:
        reply = await codes_until(front, at)
        assert reply.startswith("451 4.4.")
        if at == "RCPT":
            assert await front.say(SAID["RCPT"], "DATA") == [451, 554]
        elif at == "DATA":
            assert await front.say(SAID["RCPT"], "DATA") == [451, 451]
        assert await front.say("RSET") == [250]
        assert (await codes_until(front, ".")).startswith("250")
        assert await front.say("QUIT") == [221]
    lost = front.relay.stats.failed
    # A 421 or 521 to a message says that it is refused; everything else leaves that open.
    assert front.relay.stats.uncertain == (1 if at == "." and octets not in (LOST[0][1], LOST[1][1]) else 0)
    assert lost == (0 if at == "." and octets in (LOST[0][1], LOST[1][1]) else 1)


@pytest.mark.parametrize(
    ("octets", "closes"),
    [
        (b"", True),
        (b"421 too busy\r\n", True),
        (b"554 no service\r\n", False),
        (b"nonsense\r\n", False),
        (b"220-x\r\n" * 300, False),
        (None, False),
    ],
)
async def test_the_next_server_is_down(
    octets: bytes | None, closes: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with before_scripts(misbehaves("CONNECT", octets, closes=closes), dialogue(HEALTHY)) as front:
        assert (await codes_until(front, "MAIL")).startswith("451 4.4.1")
        assert (await codes_until(front, ".")).startswith("250")
        assert await front.say(SAID["MAIL"]) == [250]
        assert await front.say("RSET", "QUIT") == [250, 221]
    assert "smtp://mx: " in caplog.text


async def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    async with before_scripts() as front:
        for _ in range(3):
            assert (await codes_until(front, "MAIL")).startswith("451 4.4.1")
    assert "nobody listens" in caplog.text
    assert front.relay.stats.failed == 3


async def test_a_server_that_is_too_slow_to_begin(autojump_clock: trio.testing.MockClock) -> None:
    """`patience` is for everything up to the reply to MAIL; the wait for a connection counts."""
    long = Timeouts(greeting=1000, mail=1000)
    slow = misbehaves("MAIL", None)
    async with before_scripts(slow, dialogue({}), patience=20, timeouts=long, size=1) as front:
        began = trio.current_time()
        assert (await codes_until(front, "MAIL")).startswith("451 4.4.1 The next server is not to be had in time")
        assert trio.current_time() - began == pytest.approx(20, abs=0.1)
        assert (await codes_until(front, ".")).startswith("250")


@pytest.mark.parametrize(
    ("at", "octets", "answer"),
    [
        ("MAIL", b"550 5.1.8 who\r\n", "550 5.1.8 who"),
        ("MAIL", b"451 4.7.1 greylisted\r\n", "451 4.7.1 greylisted"),
        ("MAIL", b"550 no code\r\n", "550 5.0.0 no code"),
        (
            "MAIL",
            b"530 5.7.0 Authentication required\r\n",
            "451 4.3.5 The next server does not take mail from this one",
        ),
        ("RCPT", b"538 encrypt\r\n", "451 4.3.5 The next server does not take mail from this one"),
        ("RCPT", b"550-one\r\n550 two\r\n", "550 5.0.0 one / two"),
        ("RCPT", b"550 \x1b[31mred\x07\xff\r\n", "550 5.0.0 ?[31mred??"),
        (
            "RCPT",
            b"".join(b"550-%d\r\n" % n for n in range(200)) + b"550 x\r\n",
            "550 5.0.0 0 / 1 / 2 / 3 / 4 / 5 / 6 / 7",
        ),
        ("RCPT", b"550 " + b"y" * 450 + b"\r\n", "550 5.0.0 " + "y" * 400),
        ("RCPT", b"550 " + b"y " * 5000 + b"\r\n", "550 5.0.0 " + " / ".join([("y " * 200)] * 8)),
        ("DATA", b"554 5.5.1 no\r\n", "554 5.5.1 no"),
        (".", b"552 5.2.2 full\r\n", "552 5.2.2 full"),
        (".", b"250 2.0.0 Ok: queued as 4F2A\r\n", "250 2.0.0 Queued as 4F2A"),
        (".", b"250 OK id=1rXyZ-0002-Ab\r\n", "250 2.0.0 Queued as 1rXyZ-0002-Ab"),
        (".", b"299 fine\r\n", "250 2.0.0 fine"),
        ("MAIL", b"299 fine\r\n", "250 2.1.0 fine"),
    ],
)
async def test_their_words_are_cleaned_and_bounded(at: str, octets: bytes, answer: str) -> None:
    async with before_scripts(misbehaves(at, octets)) as front:
        assert await codes_until(front, at) == answer
        assert await front.say("QUIT") == [221]


async def test_a_refusal_within_the_message(autojump_clock: trio.testing.MockClock) -> None:
    """The next server does not wait for the end: what is left of the message goes nowhere."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        while await lines.next() != b"DATA":
            await stream.send_all(b"250 ok\r\n")
        await stream.send_all(b"354 go\r\n")
        await lines.next()
        await stream.send_all(b"552 5.3.4 too much\r\n")

    async with before_scripts(serve) as front:
        await front.client.ehlo()
        assert await front.say(*SAID.values()) == [250, 250, 354]
        await front.client.send_bytes(b"x" * 70 + b"\r\n")
        await trio.sleep(1)
        await front.client.send_bytes((b"x" * 70 + b"\r\n") * 10_000 + b".\r\n")
        assert shown(await front.client.read_reply()) == "552 5.3.4 too much"
        assert await front.say("QUIT") == [221]


async def test_a_server_that_does_not_take_the_message(autojump_clock: trio.testing.MockClock) -> None:
    """Back-pressure: the client is held up, then told 451; the next server never gets the end."""
    took: list[int] = [0]

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        while await lines.next() != b"DATA":
            await stream.send_all(b"250 ok\r\n")
        await stream.send_all(b"354 go\r\n")
        await trio.sleep_forever()

    waiting = [serve]
    async with trio.open_nursery() as nursery:

        async def open_stream() -> trio.abc.Stream:
            ours, theirs = trio.testing.lockstep_stream_pair()
            nursery.start_soon(waiting.pop(), theirs)
            return ours

        async with make_front(relay_to(open_stream)) as front:
            await front.client.ehlo()
            assert await front.say(*SAID.values()) == [250, 250, 354]
            began = trio.current_time()

            async def push() -> None:
                while True:
                    await front.client.send_bytes(b"x" * 998 + b"\r\n")
                    took[0] += 1000
                    if took[0] == 2_000_000:
                        await front.client.send_bytes(b".\r\n")
                        return

            await push()
            assert shown(await front.client.read_reply()).startswith("451 4.4.2")
            assert trio.current_time() - began == pytest.approx(10, abs=0.5)  # 8, and 2 for last words
            assert await front.say("QUIT") == [221]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("leaves", ["before the message", "in the message"])
async def test_a_client_that_leaves(leaves: str, autojump_clock: trio.testing.MockClock) -> None:
    seen: list[bytes] = []
    async with before_scripts(dialogue({}, seen=seen)) as front:
        await front.client.ehlo()
        assert await front.say(SAID["MAIL"], SAID["RCPT"]) == [250, 250]
        if leaves == "in the message":
            assert await front.say("DATA") == [354]
            await front.client.send_bytes(b"Subject: half\r\n")
        await front.client.aclose()
        await trio.sleep(10)
    assert seen[-1] != b"."
    assert b"." not in seen
    assert (b"RSET" in seen) is (leaves == "before the message")


async def test_the_message_is_given_up_between_chunks(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[bytes] = []
    async with before_scripts(dialogue({}, seen=seen), dialogue({}, seen=seen)) as front:
        await front.client.ehlo()
        assert await front.say(SAID["MAIL"], SAID["RCPT"]) == [250, 250]
        await front.client.send_bytes(b"BDAT 4\r\nabcd")
        assert (await front.client.read_reply()).code == 250
        assert await front.say("RSET") == [250]
        assert b"." not in seen
        assert (await codes_until(front, ".")).startswith("250")
    assert seen.count(b".") == 1


async def test_a_server_that_is_drained_beside_a_transaction(autojump_clock: trio.testing.MockClock) -> None:
    """RSET at the next server takes no longer than it may."""
    async with before_scripts(misbehaves("RSET", None), size=1) as front:
        await front.client.ehlo()
        assert await front.say(SAID["MAIL"]) == [250]
        began = trio.current_time()
        assert await front.say("RSET", "NOOP") == [250, 250]
        assert trio.current_time() - began < 10


async def test_secrets_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    offers = {"EHLO": b"250-mx\r\n250 AUTH PLAIN\r\n", "AUTH": b"535 you said AHVzZXIAc2VjcmV0 secret\r\n"}
    options: dict[str, Any] = {"auth": Password("user", "secret"), "insecure_auth": True}
    async with before_scripts(dialogue(offers), **options) as front:
        assert (await codes_until(front, "MAIL")).startswith("451 4.4.1")
    assert "secret" not in caplog.text
    assert "AHVzZXIAc2VjcmV0" not in caplog.text


async def test_a_login_at_the_next_server() -> None:
    seen: list[bytes] = []
    offers = {"EHLO": b"250-mx\r\n250 AUTH PLAIN\r\n", "AUTH": b"235 ok\r\n"}
    options: dict[str, Any] = {"auth": Password("user", "secret"), "insecure_auth": True}
    async with before_scripts(dialogue(offers, seen=seen), **options) as front:
        assert (await codes_until(front, ".")).startswith("250")
    assert b"AUTH PLAIN AHVzZXIAc2VjcmV0" in seen


@pytest.mark.parametrize("at", ["MAIL", "."])
async def test_an_lmtp_front_before_a_server_that_is_lost(at: str, autojump_clock: trio.testing.MockClock) -> None:
    async with before_scripts(misbehaves(at, b"", closes=True), front_config=LMTP) as front:
        assert (await front.begin("b@example.com", "c@example.com"))[0] == (451 if at == "MAIL" else 250)
        if at == ".":
            assert [reply[:9] for reply in await front.data(replies=2)] == ["451 4.4.2"] * 2
