"""Servers that are broken or hostile, under virtual time: every send ends, with an error that says what is known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp import Reply
from trio_smtp.client import (
    Client,
    Content,
    DeliveryError,
    DeliveryFailed,
    DeliveryRefused,
    Mail,
    Password,
    Timeouts,
    connect,
)
from trio_smtp.client.sending import RSET
from trio_smtp.client.wire import Wire

from .support import Lines, Script, dialogue, scripted, usable

MAIL = b"Subject: test\r\n\r\nHello\r\n"
QUICK = Timeouts(greeting=3, command=4, mail=5, rcpt=6, data=7, block=8, end=9, quit=1)
OFFERS = b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME\r\n"


async def attempt(
    script: Script, *, url: str = "smtp://mx.example", chunking: bool = False, **options: Any
) -> DeliveryError:
    """Send a message to a server; returns the error that came of it. A connection that is half used is closed."""
    given: dict[str, Any] = {"timeouts": QUICK, "tls": "none"} | options

    async def send(open_stream: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        async with connect(url, open_stream=open_stream, **given) as client:
            try:
                await client.send("a@example.org", "b@example.com", MAIL, chunking=chunking)
            except DeliveryError:
                if not usable(client):
                    with pytest.raises(trio.ClosedResourceError):
                        await client.stream.send_all(b"x")
                raise

    async with scripted(script) as open_stream:
        with pytest.raises(DeliveryError) as caught:
            await send(open_stream)
    return caught.value


async def forever(stream: trio.abc.Stream, octets: bytes) -> None:
    while True:
        await stream.send_all(octets)
        await trio.sleep(0.001)


def endless(octets: bytes, begin: bytes = b"") -> Script:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(begin)
        await forever(stream, octets)

    return serve


def then(replies: dict[str, bytes], verb: str, octets: bytes) -> Script:
    """Answers well up to one verb, and to that with octets without an end."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        while (line := await lines.next()) is not None:
            word = line.split(b" ")[0].decode()
            if word == verb:
                await forever(stream, octets)
            await stream.send_all(replies.get(word, b"250 ok\r\n"))

    return serve


@pytest.mark.parametrize(
    ("script", "phase", "why"),
    [
        (endless(b"220-a\r\n" * 100), "greeting", "lines"),
        (endless(b"220 a" * 1000), "greeting", "longer than"),
        (endless(b"x" * 1000), "greeting", "longer than"),
        (endless(b"\r\n"), "greeting", "no reply"),
        (then({}, "EHLO", b"250-mx\r\n" * 50), "hello", "lines"),
        (then({}, "MAIL", b"250-ok\r\n" * 50), "mail", "lines"),
        (then({}, "RCPT", b"2" * 1000), "rcpt", "longer than"),
        (then({}, "DATA", b"354-go\r\n" * 50), "data", "lines"),
        (then({}, "EHLO", b"250 mx\r\n" * 50), "mail", "before the command"),
        (then({}, "RCPT", b"250 ok\r\n" * 50), "data", "before the command"),
        (then({}, "DATA", b"354 go\r\n" * 50), "body", "before the message"),
    ],
)
async def test_endless_replies(script: Script, phase: str, why: str, autojump_clock: trio.testing.MockClock) -> None:
    error = await attempt(script)
    assert isinstance(error, DeliveryFailed)
    assert (error.phase, error.uncertain) == (phase, False)
    assert why in str(error)


def silent_at(verb: str, offers: bytes = b"250 mx\r\n") -> Script:
    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        if verb == "greeting":
            await trio.sleep_forever()
        await stream.send_all(b"220 mx\r\n")
        while (line := await lines.next()) is not None:
            word = line.split(b" ")[0].decode()
            if word == verb:
                await trio.sleep_forever()
            await stream.send_all({"EHLO": offers, "LHLO": offers, "DATA": b"354 go\r\n"}.get(word, b"250 ok\r\n"))
            if word == "DATA":
                while await lines.next() != b".":
                    pass
                if verb == "end":
                    await trio.sleep_forever()
                await stream.send_all(b"250 ok\r\n")

    return serve


@pytest.mark.parametrize(
    ("verb", "phase", "seconds", "uncertain"),
    [
        ("greeting", "greeting", 3, False),
        ("EHLO", "hello", 4, False),
        ("MAIL", "mail", 5, False),
        ("RCPT", "rcpt", 6, False),
        ("DATA", "data", 7, False),
        ("end", "end", 9, True),
    ],
)
async def test_a_server_that_never_answers(
    verb: str, phase: str, seconds: float, uncertain: bool, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    error = await attempt(silent_at(verb))
    assert isinstance(error, DeliveryFailed)
    assert (error.phase, error.uncertain) == (phase, uncertain)
    assert str(error).startswith(f"{phase}: no reply in {seconds} seconds")
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize(
    ("verb", "phase", "options", "seconds"),
    [
        ("STARTTLS", "starttls", {"tls": "required"}, 4),
        ("AUTH", "auth", {"auth": Password("a", "b", mechanisms=("LOGIN",)), "insecure_auth": True}, 4),
        ("LHLO", "hello", {"url": "lmtp://mx.example"}, 4),
        ("BDAT", "end", {"chunking": True}, 9),
    ],
)
async def test_a_server_that_never_answers_what_not_everybody_says(
    verb: str, phase: str, options: dict[str, Any], seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    offers = b"250-mx\r\n250-CHUNKING\r\n250-AUTH LOGIN\r\n250 STARTTLS\r\n"
    error = await attempt(silent_at(verb, offers), **options)
    assert isinstance(error, DeliveryFailed)
    assert (error.phase, error.uncertain) == (phase, phase == "end")
    assert f"no reply in {seconds} seconds" in str(error)
    assert trio.current_time() == pytest.approx(seconds, abs=0.1)


async def test_a_server_that_never_answers_rset(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        scripted(silent_at("RSET")) as open_stream,
        connect("smtp://mx", tls="none", timeouts=QUICK, open_stream=open_stream) as client,
    ):
        with pytest.raises(DeliveryFailed, match="rset: no reply in 4 seconds"):
            await client.reset()
        assert not usable(client)


async def test_each_recipient_of_lmtp_has_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 5321 section 4.5.3.2.6 gives the server ten minutes to deliver, and an LMTP server delivers several times."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        for reply in (b"250 mx\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await lines.next()
            await stream.send_all(reply)
        while await lines.next() != b".":
            pass
        for _ in range(2):
            await trio.sleep(8)
            await stream.send_all(b"250 ok\r\n")
        await lines.next()

    async with (
        scripted(serve) as open_stream,
        connect("lmtp://mx", tls="none", timeouts=QUICK, open_stream=open_stream) as client,
    ):
        result = await client.send("a@example.org", ["b@example.com", "c@example.com"], MAIL)
    assert len(result.accepted) == 2
    assert 16 <= trio.current_time() < 18


def test_the_times_are_those_of_the_rfc() -> None:
    """RFC 5321 section 4.5.3.2, each at least as long as it says."""
    limits = Timeouts()
    assert (limits.greeting, limits.mail, limits.rcpt, limits.data) == (300, 300, 300, 120)
    assert (limits.block, limits.end) == (180, 600)


async def test_octets_that_trickle_in_prolong_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        while True:
            await stream.send_all(b"2")
            await trio.sleep(1)

    error = await attempt(serve)
    assert "no reply in 3 seconds" in str(error)
    assert trio.current_time() < 4


async def test_a_server_that_takes_its_time_to_say_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted(silent_at("QUIT")) as open_stream:
        began = trio.current_time()
        async with connect("smtp://mx", tls="none", timeouts=QUICK, open_stream=open_stream) as client:
            await client.send("a@example.org", "b@example.com", MAIL)
    assert trio.current_time() - began == pytest.approx(1, abs=0.1)


async def test_a_server_that_never_reads(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    wire = Wire(ours, QUICK, None)
    with pytest.raises(DeliveryFailed, match="did not take what was sent in time") as caught:
        await wire.send(MAIL, "body")
    assert not caught.value.uncertain
    assert trio.current_time() == pytest.approx(8, abs=0.1)
    assert wire.broken
    await theirs.aclose()


@pytest.mark.parametrize("lost", [None, b"552 Enough\r\n"])
@pytest.mark.parametrize("chunking", [False, True])
async def test_a_server_that_stops_reading_in_the_message(
    lost: bytes | None, chunking: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """What it says before it goes counts; and without a word the message is not delivered, for certain."""
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.lockstep_stream_pair()

        async def serve() -> None:
            lines = Lines(theirs)
            await theirs.send_all(b"220 mx\r\n")
            while (line := await lines.next()) is not None:
                if line.startswith(b"BDAT"):
                    break
                await theirs.send_all(
                    OFFERS if line.startswith(b"EHLO") else b"354 go\r\n" if line == b"DATA" else b"250 ok\r\n"
                )
                if line == b"DATA":
                    break
            if lost is not None:
                await trio.sleep(1)
                await theirs.send_all(lost)

        async def open_stream() -> trio.abc.Stream:
            return ours

        nursery.start_soon(serve)
        error: DeliveryError | None = None
        try:
            async with connect("smtp://mx", tls="none", timeouts=QUICK, open_stream=open_stream) as client:
                await client.send("a@example.org", "b@example.com", b"x\r\n" * 100_000, chunking=chunking)
        except DeliveryError as caught:
            error = caught
    if lost is None:
        assert isinstance(error, DeliveryFailed)
        assert error.uncertain is False
    else:
        assert isinstance(error, DeliveryRefused)
        assert error.reply == Reply(552, "Enough")


@pytest.mark.parametrize(
    ("replies", "phase"),
    [
        ({"EHLO": b"220 mx\r\n"}, "hello"),
        ({"EHLO": b"354 mx\r\n"}, "hello"),
        ({"EHLO": b"502 no\r\n", "HELO": b"354 mx\r\n"}, "hello"),
        ({"MAIL": b"354 go\r\n"}, "mail"),
        ({"RCPT": b"354 go\r\n"}, "rcpt"),
        ({"DATA": b"250 ok\r\n"}, "data"),
        ({"DATA": b"334 ok\r\n"}, "data"),
        ({".": b"354 go\r\n"}, "end"),
        ({"EHLO": OFFERS + b"250 ok\r\n"}, "mail"),
        ({"DATA": b"354 go\r\n250 ok\r\n", ".": b"250 late\r\n"}, "body"),
        ({"DATA": b"354 go\r\n25"}, "body"),
        ({"MAIL": b"250 ok\r\n250 ok\r\n"}, "rcpt"),
        ({"MAIL": b"250 ok\r\n250-half"}, "rcpt"),
    ],
)
async def test_wrong_codes_and_replies_that_come_early(
    replies: dict[str, bytes], phase: str, autojump_clock: trio.testing.MockClock
) -> None:
    error = await attempt(dialogue(replies))
    assert isinstance(error, DeliveryFailed)
    assert (error.phase, error.uncertain) == (phase, phase == "end")


@pytest.mark.parametrize("greeting", [b"354 go\r\n", b"250 ok\r\n"])
async def test_a_greeting_that_is_none(greeting: bytes) -> None:
    error = await attempt(dialogue({}, greeting=greeting))
    assert isinstance(error, DeliveryFailed)
    assert error.phase == "greeting"


@pytest.mark.parametrize(
    ("replies", "greeting", "url", "phase", "code"),
    [
        ({}, b"554 no\r\n", "smtp://mx", "greeting", 554),
        ({"EHLO": b"421 no\r\n"}, b"220 mx\r\n", "smtp://mx", "hello", 421),
        ({"EHLO": b"502 no\r\n", "HELO": b"550 no\r\n"}, b"220 mx\r\n", "smtp://mx", "hello", 550),
        ({"LHLO": b"502 no\r\n"}, b"220 mx\r\n", "lmtp://mx", "hello", 502),
        ({"MAIL": b"421 4.3.2 bye\r\n"}, b"220 mx\r\n", "smtp://mx", "mail", 421),
        ({"EHLO": OFFERS, "MAIL": b"421 4.3.2 bye\r\n"}, b"220 mx\r\n", "smtp://mx", "mail", 421),
        ({"RCPT": b"421 bye\r\n"}, b"220 mx\r\n", "smtp://mx", "rcpt", 421),
        ({"DATA": b"421 bye\r\n"}, b"220 mx\r\n", "smtp://mx", "data", 421),
        ({".": b"421 bye\r\n"}, b"220 mx\r\n", "smtp://mx", "end", 421),
        ({"EHLO": b"250 mx\r\n421 idle\r\n"}, b"220 mx\r\n", "smtp://mx", "mail", 421),
        ({"DATA": b"354 go\r\n552 enough\r\n"}, b"220 mx\r\n", "smtp://mx", "end", 552),
    ],
)
async def test_servers_that_say_no(
    replies: dict[str, bytes],
    greeting: bytes,
    url: str,
    phase: str,
    code: int,
) -> None:
    error = await attempt(dialogue(replies, greeting=greeting), url=url)
    assert isinstance(error, DeliveryRefused)
    assert (error.phase, error.reply.code) == (phase, code)


async def test_a_server_without_extensions() -> None:
    seen: list[bytes] = []
    async with (
        scripted(dialogue({"EHLO": b"502 no\r\n"}, seen=seen)) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream, local_hostname="me") as client,
    ):
        assert client.extensions == {}
        await client.send("a@example.org", "b@example.com", MAIL)
    verbs = [line.split(b" ")[0] for line in seen]
    assert verbs[:5] == [b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA"]
    assert seen[1:3] == [b"HELO me", b"MAIL FROM:<a@example.org>"]


WHOLE = b"220 mx\r\n" + OFFERS + b"250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 taken\r\n"


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("octets", range(len(WHOLE)))
async def test_a_server_that_closes_at_any_octet(octets: int, chunking: bool) -> None:
    """Its replies are all there at once, as far as they go."""
    whole = WHOLE.replace(b"354 go\r\n", b"") if chunking else WHOLE
    taken = len(whole)
    if octets >= taken:
        return

    async def serve(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.StapledStream)
        lines, rest = Lines(stream), whole[:octets]
        # one reply, or group, for each group of commands, so that none is there before its command
        groups = [b"220 mx\r\n", OFFERS, b"250 ok\r\n250 ok\r\n" + (b"" if chunking else b"354 go\r\n")]
        for number, group in enumerate([*groups, b"250 2.0.0 taken\r\n"]):
            if number == 2:
                await lines.next()
                await lines.next()
            elif number:
                await lines.next()
            part, rest = rest[: len(group)], rest[len(group) :]
            await stream.send_all(part)
            if len(part) < len(group):
                await stream.send_eof()
                while await stream.receive_some():
                    pass
                return

    error = await attempt(serve, chunking=chunking)
    assert isinstance(error, DeliveryFailed)
    before_end = whole.index(b"250 2.0.0")
    assert error.uncertain is (octets >= before_end)
    assert error.phase in ("greeting", "hello", "mail", "rcpt", "data", "end")


async def test_many_messages_and_a_server_that_goes_away() -> None:
    """Those that may have been taken are uncertain, and those that were not sent are not."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        await lines.next()
        await stream.send_all(OFFERS)
        for _ in range(2):
            for reply in (b"250 mail\r\n", b"250 rcpt\r\n"):
                await lines.next()
                await stream.send_all(reply)
            await lines.next()
            await stream.send_all(b"354 go\r\n")
            while await lines.next() != b".":
                pass
            if _ == 0:
                await stream.send_all(b"250 taken\r\n")

    async with scripted(serve) as open_stream, connect("smtp://mx", tls="none", open_stream=open_stream) as client:
        results = await client.send_many([Mail("a@example.org", "b@example.com", MAIL)] * 4)
    assert not isinstance(results[0], DeliveryError)
    uncertain = [isinstance(each, DeliveryFailed) and each.uncertain for each in results[1:]]
    assert uncertain == [True, False, False]


async def test_a_burst_and_a_server_that_goes_away() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        await lines.next()
        await stream.send_all(OFFERS)
        await lines.next()
        await stream.send_all(b"250 rset\r\n250 mail\r\n250 rcpt\r\n250 taken\r\n250 rset\r\n")

    mails = [Mail("a@example.org", "b@example.com", MAIL * 1000)] * 5
    async with scripted(serve) as open_stream, connect("smtp://mx", tls="none", open_stream=open_stream) as client:
        results = await client.send_many(mails, chunking=True)
    assert not isinstance(results[0], DeliveryError)
    assert all(isinstance(each, DeliveryFailed) for each in results[1:])
    assert [each.uncertain for each in results[1:2] if isinstance(each, DeliveryFailed)] == [True]


@pytest.mark.parametrize(
    ("replies", "first"),
    [
        (b"500 what\r\n", DeliveryFailed),
        (b"250 ok\r\n421 4.3.2 bye\r\n", DeliveryRefused),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", DeliveryFailed),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n552 no\r\n250 ok\r\n421 bye\r\n", DeliveryRefused),
    ],
)
async def test_a_burst_and_replies_that_are_wrong(replies: bytes, first: type[DeliveryError]) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        await lines.next()
        await stream.send_all(OFFERS)
        await lines.next()
        await stream.send_all(replies)
        while await lines.next() is not None:
            pass

    mails = [Mail("a@example.org", "b@example.com", MAIL)] * 3
    async with scripted(serve) as open_stream, connect("smtp://mx", tls="none", open_stream=open_stream) as client:
        results = await client.send_many(mails, chunking=True)
        assert not usable(client)
    assert type(results[0]) is first
    assert all(isinstance(each, DeliveryError) for each in results)


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_burst_whose_connection_breaks_while_it_is_sent(at_once: bool) -> None:
    """What was sent may have been taken; what comes behind it was not sent, an iterable included."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        await lines.next()
        await stream.send_all(OFFERS)

    async def pieces() -> AsyncIterator[bytes]:
        yield MAIL

    async def one_by_one(mails: list[Mail]) -> AsyncIterator[Mail]:
        for mail in mails:
            yield mail

    messages: list[Content] = [MAIL * 1000, MAIL * 1000, pieces(), MAIL]
    mails = [Mail("a@example.org", "b@example.com", message) for message in messages]
    async with scripted(serve) as open_stream, connect("smtp://mx", tls="none", open_stream=open_stream) as client:
        await trio.testing.wait_all_tasks_blocked()  # the server is gone
        results = await client.send_many(one_by_one(mails) if at_once else mails, chunking=True)
    uncertain = [isinstance(each, DeliveryFailed) and each.uncertain for each in results]
    assert uncertain == [True, not at_once, False, False]


@pytest.mark.parametrize("at_once", [False, True])
async def test_many_messages_whose_connection_breaks_while_they_are_sent(at_once: bool) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        for reply in (OFFERS, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await lines.next()
            await stream.send_all(reply)

    async def mails() -> AsyncIterator[Mail]:
        for _ in range(3):
            yield Mail("a@example.org", "b@example.com", MAIL)
            await trio.testing.wait_all_tasks_blocked()

    async with scripted(serve) as open_stream, connect("smtp://mx", tls="none", open_stream=open_stream) as client:
        mail = Mail("a@example.org", "b@example.com", MAIL)
        results = await client.send_many(mails() if at_once else [mail] * 3)
    assert [isinstance(each, DeliveryFailed) and each.uncertain for each in results] == [True, False, False]


async def test_what_answers_a_message_is_no_answer_to_the_commands_behind_it() -> None:
    """The connection broke: the last words of the server are about the message that was sent before."""
    ours, theirs = trio.testing.memory_stream_pair()
    wire = Wire(ours, QUICK, None)
    await theirs.send_all(b"421 4.3.2 bye\r\n")
    await theirs.aclose()
    with pytest.raises(DeliveryFailed, match="the connection broke"):
        await wire.send_commands(RSET, early=True)
    assert wire.goodbye is None


async def test_a_server_that_wants_a_message_for_nobody() -> None:
    seen: list[bytes] = []
    replies = {"EHLO": OFFERS, "RCPT": b"550 no\r\n", ".": b"554 nobody\r\n"}
    async with (
        scripted(dialogue(replies, seen=seen)) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream) as client,
    ):
        with pytest.raises(DeliveryRefused) as caught:
            await client.send("a@example.org", "b@example.com", MAIL)
        assert (caught.value.phase, caught.value.reply.code) == ("rcpt", 550)
        assert usable(client)
    assert seen[-2:] == [b".", b"QUIT"]


@pytest.mark.parametrize(
    ("replies", "phase", "code"),
    [
        ({"MAIL": b"550 no\r\n", "RSET": b""}, "mail", 550),
        ({"RCPT": b"550 no\r\n", "RSET": b""}, "rcpt", 550),
        ({"DATA": b"554 no\r\n", "RSET": b""}, "data", 554),
        ({"DATA": b"554 no\r\n", "RSET": b"what?\r\n"}, "data", 554),
        ({"EHLO": OFFERS, "RCPT": b"550 no\r\n", ".": b""}, "rcpt", 550),
        ({"EHLO": OFFERS, "MAIL": b"550 no\r\n", ".": b"what?\r\n"}, "mail", 550),
    ],
)
async def test_a_refusal_counts_also_where_the_server_then_goes_away(
    replies: dict[str, bytes], phase: str, code: int
) -> None:
    """A message that was refused for good would be sent again and again if the lost connection were what counts."""
    error = await attempt(dialogue(replies))
    assert isinstance(error, DeliveryRefused)
    assert (error.phase, error.reply.code) == (phase, code)


class Failing:
    """An iterable that is no generator, and fails."""

    def __aiter__(self) -> Failing:
        return self

    async def __anext__(self) -> bytes:
        raise LookupError


async def test_an_iterable_that_fails() -> None:
    async with (
        scripted(dialogue({})) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream) as client,
    ):
        with pytest.raises(LookupError):
            await client.send("a@example.org", "b@example.com", Failing())
        assert not usable(client)


async def test_a_command_that_cannot_be_sent() -> None:
    """A server that has said why before it went is heard."""
    for ending, error in (
        (b"421 4.3.2 going down\r\n", DeliveryRefused),
        (b"250 ok\r\n", DeliveryFailed),
        (b"", DeliveryFailed),
    ):

        async def serve(stream: trio.abc.Stream, ending: bytes = ending) -> None:
            await stream.send_all(b"220 mx\r\n")
            await Lines(stream).next()
            await stream.send_all(b"250 mx\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(ending)

        async with scripted(serve) as open_stream, connect("smtp://mx", tls="none", open_stream=open_stream) as client:
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(error):
                await client.send("a@example.org", "b@example.com", MAIL)


async def test_a_stream_that_breaks_while_it_is_read() -> None:
    class Breaks(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise trio.BrokenResourceError

        async def aclose(self) -> None: ...

    with pytest.raises(DeliveryFailed, match="the connection broke"):
        await Wire(Breaks(), QUICK, None).reply("greeting")


FRAGMENTS = st.one_of(
    st.sampled_from(
        [
            b"220 mx\r\n",
            OFFERS,
            b"250 ok\r\n",
            b"250 ok\r\n250 ok\r\n354 go\r\n",
            b"354 go\r\n",
            b"421 bye\r\n",
            b"550 5.1.1 no\r\n",
            b"250-",
            b"\n",
            b"",
        ]
    ),
    st.binary(max_size=12),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAGMENTS, max_size=9), st.sampled_from(["send", "bdat", "many", "burst", "steps"]), st.booleans())
def test_whatever_a_server_says_and_whenever(said: list[bytes], way: str, lmtp: bool) -> None:
    """Each fragment is said after something was heard; the client returns, or raises what is documented."""

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mx\r\n")
        for fragment in [OFFERS, *said]:
            if not await stream.receive_some():
                return
            await stream.send_all(fragment)

    async def talk(client: Client) -> None:
        mails = [Mail("a@example.org", ["b@example.com", "c@example.com"], MAIL)] * 3
        if way in ("send", "bdat"):
            await client.send("a@example.org", ["b@example.com", "c@example.com"], MAIL, chunking=way == "bdat")
        elif way in ("many", "burst"):
            assert len(await client.send_many(mails, chunking=way == "burst")) == 3
        else:
            async with client.transaction("a@example.org") as t:
                await t.recipient("b@example.com")
                if t.accepted and (await t.data_start()).code == 354:
                    await t.write(MAIL)
                    assert len(await t.finish()) == 1

    async def main() -> None:
        async with scripted(serve) as open_stream:
            with suppress(DeliveryError):
                async with connect(
                    "lmtp://mx" if lmtp else "smtp://mx", tls="none", timeouts=QUICK, open_stream=open_stream
                ) as client:
                    await talk(client)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
