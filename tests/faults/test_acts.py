"""Each act at each place, in memory and in virtual time: what the client sees, and what was taken."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from trio_smtp import App, AuthContext, Config, Exchange, MailFromContext, Mechanism, SASLContext, SMTPServer
from trio_smtp.plugins.faults import Place, faults
from trio_smtp.testing import Client, MemoryListener, open_client

from .support import CLOSED, Taken, said

#: What a client sends in a whole session in which nothing fails, by the place, and the code that it hears.
STEPS: dict[Place, tuple[str, str]] = {
    "helo": ("EHLO client.example", "250"),
    "auth": ("AUTH PLAIN AGFubgBzZWNyZXQ=", "235"),
    "mail": ("MAIL FROM:<a@example.org>", "250"),
    "rcpt": ("RCPT TO:<b@example.com>", "250"),
    "data": ("DATA", "354"),
    "end": ("Subject: x\r\n\r\nHello\r\n.", "250"),
    "quit": ("QUIT", "221"),
}
AFTER_CONNECT = list(STEPS)


@asynccontextmanager
async def raw_client(taken: Taken) -> AsyncIterator[Client]:
    """A client that has not read the greeting."""
    listener = MemoryListener()
    server = SMTPServer(taken.app, Config(hostname="mx.example", allow_insecure_auth=True))
    taken.servers.append(server)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        client = Client(await listener.connect())
        yield client
        await client.aclose()
        nursery.cancel_scope.cancel()


async def up_to(client: Client, place: Place) -> str:
    """Lead a session up to a place; what the client hears there."""
    heard = await said(client)
    if place == "connect":
        return heard
    assert heard == "220"
    for name, (line, code) in STEPS.items():
        heard = await said(client, line)
        if name == place:
            break
        assert heard == code, name
    return heard


def ok(place: Place) -> str:
    return "220" if place == "connect" else STEPS[place][1]


WITH_A_REPLY: Sequence[Place] = ["connect", *STEPS]


async def test_nothing_fails_where_there_are_no_rules(autojump_clock: MockClock) -> None:
    taken = Taken()
    async with raw_client(taken) as client:
        assert await up_to(client, "quit") == "221"
    assert taken.messages == [(b"Subject: x\r\n\r\nHello\r\n", ["b@example.com"])]


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_fail_is_the_reply(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f'{place} fail 554 "No way"')
    async with raw_client(taken) as client:
        assert await up_to(client, place) == "554"
        if place == "connect":
            assert await said(client) == CLOSED
    assert [rule.hits for rule in taken.rules] == [1]
    assert len(taken.messages) == (place == "quit")


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_delay_holds_the_reply_up(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} delay 42")
    async with raw_client(taken) as client:
        began = trio.current_time()
        assert await up_to(client, place) == ok(place)
        assert 42 <= trio.current_time() - began < 43


@pytest.mark.parametrize("act", ["disconnect", "reset"])
@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_disconnect_and_reset_leave_no_reply(place: Place, act: str, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} {act}")
    async with raw_client(taken) as client:
        assert await up_to(client, place) == CLOSED
    assert len(taken.messages) == (place in ("end", "quit"))


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_disconnect_after_the_reply(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} disconnect before_reply=false")
    async with raw_client(taken) as client:
        assert await up_to(client, place) == ok(place)
        assert await said(client) == CLOSED


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_garbage_is_no_reply_and_the_session_goes_on(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} garbage")
    async with raw_client(taken) as client:
        assert "not a reply line" in await up_to(client, place)
        if place == "data":
            assert await said(client, STEPS["end"][0]) == "250"
        else:
            assert await said(client, "NOOP") == (CLOSED if place == "quit" else "250")


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_truncate_is_half_a_reply_and_then_silence(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} truncate")
    async with raw_client(taken) as client:
        if place == "connect":
            await trio.sleep(1)
        else:
            for name in ["connect", *STEPS]:
                if name == place:
                    break
                await said(client, None if name == "connect" else STEPS[name][0])
            await client.send_bytes(STEPS[place][0].encode() + b"\r\n")
        half = bytes(await client.stream.receive_some())
        assert half.startswith(ok(place).encode())
        if place != "helo":  # a reply of several lines
            assert b"\n" not in half
        else:
            assert re.match(rb"250-[a-z]", half)  # no enhanced status code: that of EHLO's reply has none
        await client.send_bytes(b"NOOP\r\n" if place != "data" else b".\r\n")
        if place == "quit":
            assert await client.read_to_end() == b""
            return
        with trio.move_on_after(200) as scope:
            assert await client.read_to_end() == b""
        assert scope.cancelled_caught
        # The time of a client that says nothing ends; nothing is said of that.
        await client.read_to_end()


@pytest.mark.parametrize("place", WITH_A_REPLY)
async def test_throttle_holds_the_reply_up_by_its_length(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} throttle 2")
    async with raw_client(taken) as client:
        began = trio.current_time()
        assert await up_to(client, place) == ok(place)
        assert 3 < trio.current_time() - began < 200


@pytest.mark.parametrize("place", ["connect", "helo", "auth", "mail", "rcpt", "data", "end"])
async def test_rate_limit_refuses_when_it_is_used_up(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} rate_limit 1 60")
    refused = {"auth": "454"}.get(place, "450")
    for expected in (ok(place), refused):
        async with raw_client(taken) as client:
            assert await up_to(client, place) == expected
    await trio.sleep(60)
    async with raw_client(taken) as client:
        assert await up_to(client, place) == ok(place)
    assert [rule.hits for rule in taken.rules] == [1]


async def test_greylist_takes_the_recipient_later(autojump_clock: MockClock) -> None:
    taken = Taken("rcpt greylist 300")
    for expected, pause in [("451", 100), ("451", 200), ("250", 0)]:
        async with raw_client(taken) as client:
            assert await up_to(client, "rcpt") == expected
        await trio.sleep(pause)


# --- filters ---


async def test_rules_know_sender_recipient_and_user(autojump_clock: MockClock) -> None:
    taken = Taken(
        "mail sender=eve@* fail 550",
        "rcpt sender=<> to=root@* fail 551",
        "rcpt user=ann to=boss@* fail 552",
        "auth user=bob fail 535",
        "quit user=ann fail 553",
    )
    async with taken.client() as client:
        await client.ehlo()
        assert await said(client, "MAIL FROM:<eve@example.org>") == "550"
        assert await said(client, "MAIL FROM:<>") == "250"
        assert await said(client, "RCPT TO:<root@example.com>") == "551"
        assert await said(client, "RCPT TO:<boss@example.com>") == "250"
        assert await said(client, "RSET") == "250"
        assert (await client.auth_plain("bob", "secret")).code == 535
        assert (await client.auth_plain("ann", "secret")).code == 235
        assert await said(client, "MAIL FROM:<a@example.org>") == "250"
        assert await said(client, "RCPT TO:<root@example.com>") == "250"
        assert await said(client, "RCPT TO:<boss@example.com>") == "552"
        assert await said(client, "QUIT") == "553"
        assert await said(client, "NOOP") == "250"


async def test_a_user_who_was_refused_is_nobody_later(autojump_clock: MockClock) -> None:
    taken = Taken("auth fail 535 times=1", "mail user=* fail")
    async with taken.client() as client:
        await client.ehlo()
        assert (await client.auth_plain("ann", "secret")).code == 535
        assert await said(client, "MAIL FROM:<a@example.org>") == "250"


async def test_rules_know_the_peer(autojump_clock: MockClock) -> None:
    taken = Taken("connect peer=192.0.2.0/24 fail 554")
    async with open_client(taken.app, peer=("192.0.2.1", 4711)) as client:
        assert client.greeting.code == 554
    async with open_client(taken.app, peer=("198.51.100.1", 4711)) as client:
        assert client.greeting.code == 220


async def test_rules_change_under_a_session(autojump_clock: MockClock) -> None:
    taken = Taken()
    async with taken.client() as client:
        await client.ehlo()
        rule = taken.rules.fail("mail", 452)
        assert await said(client, "MAIL FROM:<>") == "452"
        taken.rules.remove(rule)
        assert await said(client, "MAIL FROM:<>") == "250"
        taken.rules.delay("rcpt", 5, times=1)
        taken.rules.fail("rcpt", 450, times=1)
        began = trio.current_time()
        assert await said(client, "RCPT TO:<b@example.com>") == "450"
        assert trio.current_time() - began == 5
        assert await said(client, "RCPT TO:<b@example.com>") == "250"


async def test_a_421_closes(autojump_clock: MockClock) -> None:
    taken = Taken("rcpt fail 421")
    async with raw_client(taken) as client:
        assert await up_to(client, "rcpt") == "421"
        assert await said(client) == CLOSED


# --- pipelining ---

RECIPIENTS = b"".join(b"RCPT TO:<b%d@x.example>\r\n" % n for n in (1, 2, 3))
PIPELINED = b"MAIL FROM:<a@example.org>\r\n" + RECIPIENTS + b"DATA\r\n"


@pytest.mark.parametrize(
    ("rule", "heard"),
    [
        ("rcpt to=b2@* fail 451", ["250", "250", "451", "250", "354"]),
        ("rcpt to=b2@* delay 60", ["250", "250", "250", "250", "354"]),
        ("rcpt to=b2@* garbage", ["250", "250", "garbage", "250", "354"]),
        ("rcpt to=b2@* disconnect", ["250", "250", CLOSED]),
        ("rcpt to=b2@* disconnect before_reply=false", ["250", "250", "250", CLOSED]),
        ("rcpt after=2 fail 452", ["250", "250", "250", "452", "354"]),
        ("data fail 451", ["250", "250", "250", "250", "451"]),
        ("data garbage", ["250", "250", "250", "250", "garbage"]),
        ("mail fail", ["451", "503", "503", "503", "554"]),
    ],
)
async def test_rules_hit_the_right_command_when_commands_are_pipelined(
    rule: str, heard: list[str], autojump_clock: MockClock
) -> None:
    taken = Taken(rule)
    async with taken.client() as client:
        await client.ehlo()
        await client.send_bytes(PIPELINED)
        for expected in heard:
            answer = await said(client)
            assert answer == expected or (expected == "garbage" and "not a reply" in answer)


async def test_replies_before_a_delay_do_not_wait_for_it(autojump_clock: MockClock) -> None:
    taken = Taken("rcpt to=b2@* delay 60")
    async with taken.client() as client:
        await client.ehlo()
        await client.send_bytes(PIPELINED)
        began, waited = trio.current_time(), []
        for _ in range(5):
            await said(client)
            waited.append(trio.current_time() - began)
        assert waited == [0, 0, 60, 60, 60]


# --- LMTP ---


async def test_in_lmtp_each_recipient_is_an_event_of_its_own(autojump_clock: MockClock) -> None:
    taken = Taken("end after=2 delay 9", "end to=b2@* fail 452", "end to=b3@* garbage")
    async with taken.client(lmtp=True) as client:
        await said(client, "LHLO client.example")
        await client.send_bytes(PIPELINED.replace(b"b1", b"b0") + b"Hello\r\n.\r\n")
        for expected in ["250", "250", "250", "250", "354", "250", "452"]:
            assert await said(client) == expected
        assert "not a reply" in await said(client)
        assert trio.current_time() == 9
        assert await said(client, "NOOP") == "250"
    assert taken.messages == [(b"Hello\r\n", ["b0@x.example", "b3@x.example"])]


async def test_in_lmtp_a_message_refused_for_all_reaches_no_handler(autojump_clock: MockClock) -> None:
    taken = Taken("end fail 452")
    async with taken.client(lmtp=True) as client:
        await said(client, "LHLO client.example")
        await client.send_bytes(PIPELINED + b"Hello\r\n.\r\n")
        assert [await said(client) for _ in range(8)] == ["250"] * 4 + ["354"] + ["452"] * 3
        assert await said(client, "NOOP") == "250"
    assert taken.messages == []


async def test_in_lmtp_the_connection_ends_between_two_replies(autojump_clock: MockClock) -> None:
    taken = Taken("end to=b2@* disconnect")
    async with taken.client(lmtp=True) as client:
        await said(client, "LHLO client.example")
        await client.send_bytes(PIPELINED + b"Hello\r\n.\r\n")
        assert [await said(client) for _ in range(7)] == ["250"] * 4 + ["354", "250", CLOSED]
    assert taken.messages == [(b"Hello\r\n", ["b1@x.example", "b2@x.example", "b3@x.example"])]


# --- AUTH ---


@pytest.mark.parametrize(
    ("rule", "heard"),
    [("auth fail 535", "535"), ("auth fail 454", "454"), ("auth fail 421", "421"), ("auth disconnect", CLOSED)],
)
async def test_an_exchange_fails_at_its_end(rule: str, heard: str, autojump_clock: MockClock) -> None:
    taken = Taken(rule)
    async with taken.client() as client:
        await client.ehlo()
        assert await said(client, "AUTH LOGIN") == "334"
        assert await said(client, "YW5u") == "334"
        assert await said(client, "c2VjcmV0") == heard


async def test_credentials_without_a_user_name(autojump_clock: MockClock) -> None:
    def token(context: SASLContext) -> Exchange:
        yield b""
        return object()  # type: ignore[return-value]

    app = App().use(faults(["auth user=* fail 535", "mail user=* fail"]))

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept("token")

    async with open_client(app, allow_insecure_auth=True, auth_mechanisms=[Mechanism("X-TOKEN", token)]) as client:
        await client.ehlo()
        assert await said(client, "AUTH X-TOKEN eA==") == "235"
        assert await said(client, "MAIL FROM:<a@example.org>") == "250"


async def test_auth_is_not_offered_for_the_sake_of_rules(autojump_clock: MockClock) -> None:
    app = App().use(faults(["auth fail"]))
    async with open_client(app, allow_insecure_auth=True) as client:
        assert "AUTH" not in (await client.ehlo()).text
        assert await said(client, "AUTH PLAIN AGFubgBzZWNyZXQ=") == "502"


# --- delays end ---


@pytest.mark.parametrize("place", ["connect", "helo", "mail", "end"])
async def test_a_drain_ends_delays_at_once(place: Place, autojump_clock: MockClock) -> None:
    taken = Taken(f"{place} delay 500")
    async with raw_client(taken) as client, trio.open_nursery() as nursery:
        heard: list[str] = []

        async def talk() -> None:
            heard.append(await up_to(client, place))

        nursery.start_soon(talk)
        await trio.sleep(5)
        assert heard == []
        [server] = taken.servers
        server.drain()
        await trio.sleep(1)
        assert heard in ([ok(place)], ["421"])


async def test_a_cancellation_ends_delays_at_once(autojump_clock: MockClock) -> None:
    taken = Taken("end delay 500")
    async with raw_client(taken) as client:
        with trio.move_on_after(5):
            await up_to(client, "end")
    assert trio.current_time() == 5
    assert taken.servers[0].stats.connections_open == 0


async def test_other_replies_than_that_of_the_place_stay(autojump_clock: MockClock) -> None:
    taken = Taken("mail garbage")

    @taken.app.on_mail_from
    async def hang(ctx: MailFromContext) -> None:
        await trio.sleep_forever()

    async with taken.client() as client:
        await client.ehlo()
        assert await said(client, "MAIL FROM:<a@example.org>") == "421"
