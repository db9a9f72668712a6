"""The plugins, each played against a server in memory; the counter of Received fields against its definition."""

from __future__ import annotations

import logging
import re
import ssl
import tracemalloc
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp import (
    Address,
    App,
    AuthContext,
    Config,
    ConnectContext,
    DataContext,
    HeloContext,
    MailFromContext,
    Plugin,
    RcptToContext,
    Reply,
    Session,
)
from trio_smtp.plugins import denylist, logger, received_loop, recipient_filter, sender_block
from trio_smtp.plugins.received_loop import ReceivedCounter
from trio_smtp.testing import open_client


def app_with(*plugins: Plugin) -> App:
    """An App that has the plugins and takes every message."""
    app = App()
    for plugin in plugins:
        app.use(plugin)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()

    return app


# --- denylist ---


def app_for_peer(address: str | None, *plugins: Plugin) -> App:
    """An App whose clients seem to come from `address`: streams in memory have none."""
    app = App()

    @app.on_connect
    async def pretend(ctx: ConnectContext) -> None:
        ctx.session.remote_address, ctx.session.remote_port = address, 4711

    for plugin in plugins:
        app.use(plugin)
    return app


@pytest.mark.parametrize(
    ("address", "denied"),
    [
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("198.51.100.0", True),
        ("198.51.100.255", True),
        ("198.51.101.0", False),
        ("203.0.113.9", True),
        ("203.0.113.10", False),
        ("2001:db8::", True),
        ("2001:db8:ffff::1", True),
        ("2001:db9::", False),
        ("fe80::1%eth0", True),
        ("fe80::2%eth0", False),
        ("10.1.2.3", True),
        ("10.2.2.3", False),
        (None, False),
    ],
)
async def test_denylist_refuses_addresses_and_networks(
    address: str | None, denied: bool, autojump_clock: trio.testing.MockClock
) -> None:
    networks: list[str | IPv4Address | IPv4Network | IPv6Network] = [
        "192.0.2.1",
        "198.51.100.0/24",
        IPv4Address("203.0.113.9"),
        ip_network("2001:db8::/32"),
        "fe80::1",
        "::ffff:10.1.0.0/112",
    ]
    async with open_client(app_for_peer(address, denylist(networks, message="Not you"))) as client:
        if denied:
            assert client.greeting == Reply(554, "Not you")
        else:
            assert client.greeting.code == 220


async def test_denylist_knows_ipv4_in_its_mapped_form(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(app_for_peer("192.0.2.1", denylist(["::ffff:0:0/96"]))) as client:
        assert client.greeting.code == 554


async def test_an_empty_denylist_lets_everyone_in(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(app_for_peer("192.0.2.1", denylist([]))) as client:
        assert client.greeting.code == 220


async def test_the_networks_of_one_family_say_nothing_of_the_other(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(app_for_peer("::1", denylist(["0.0.0.0/0"]))) as client:
        assert client.greeting.code == 220


@pytest.mark.parametrize(
    ("addresses", "match"),
    [
        ("192.0.2.1", "several addresses"),
        (b"192.0.2.1", "several addresses"),
        (["192.0.2.1", "localhost"], "not 'localhost'"),
        (["192.0.2.1/24"], "host bits"),
        ([42], "not 42"),
        ([None], "not None"),
    ],
)
def test_denylist_says_what_is_wrong_with_its_argument(addresses: Any, match: str) -> None:
    with pytest.raises(ValueError, match=rf"^addresses must be .*{match}"):
        denylist(addresses)


# --- sender_block and recipient_filter ---


@pytest.mark.parametrize(
    ("sender", "blocked"),
    [
        ("a@spam.example", True),
        ("a@SPAM.Example", True),
        ("a@bulk.mail.spam.example", True),
        ("a@notspam.example", False),
        ("a@example", False),
        ("a@spam.example.org", False),
        ("spam.example@good.example", False),
        ("a@xn--bcher-kva.example", True),
        ("a@shop.xn--bcher-kva.example", True),
        ("a@xn--strae-oqa.example", True),
        ("a@[192.0.2.7]", True),
        ("a@[192.0.2.8]", False),
        ("", False),
    ],
)
async def test_sender_block_refuses_domains_and_their_subdomains(
    sender: str, blocked: bool, autojump_clock: trio.testing.MockClock
) -> None:
    domains = ["spam.EXAMPLE.", "bücher.example", "xn--strae-oqa.example", "[192.0.2.7]"]
    async with open_client(app_with(sender_block(domains, message="No"))) as client:
        await client.ehlo()
        reply = await client.command(f"MAIL FROM:<{sender}>")
        if blocked:
            assert reply == Reply(550, "No", "5.7.1")
        else:
            assert reply.code == 250


async def test_sender_block_knows_domains_in_unicode(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(app_with(sender_block(["xn--bcher-kva.example"]))) as client:
        await client.ehlo()
        reply = await client.command("MAIL FROM:<a@BÜCHER.example> SMTPUTF8")
        assert (reply.code, reply.enhanced) == (550, "5.7.1")


@pytest.mark.parametrize(
    ("recipient", "accepted"),
    [
        ("a@example.com", True),
        ("a@EXAMPLE.com", True),
        ("a@sub.example.com", False),
        ("a@example.org", False),
        ("a@com", False),
        ("postmaster", True),
        ("PostMaster", True),
        ("postmaster@example.org", False),
        ("a@[IPv6:2001:db8::1]", True),
    ],
)
async def test_recipient_filter_takes_mail_for_its_domains_alone(
    recipient: str, accepted: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_client(app_with(recipient_filter(["example.com", "[IPv6:2001:DB8::1]"]))) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<>")
        reply = await client.command(f"RCPT TO:<{recipient}>")
        if accepted:
            assert reply.code == 250
        else:
            assert reply == Reply(550, "Relay access denied", "5.7.1")


async def test_recipient_filter_refuses_other_names_without_a_domain(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = App()

    @app.on_rcpt_to
    async def forget_the_domain(ctx: RcptToContext) -> None:
        ctx.address = Address(address="alice", local_part="alice", domain="")

    app.use(recipient_filter(["example.com"]))
    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<>")
        assert (await client.command("RCPT TO:<alice@example.com>")).code == 550


async def test_domains_that_no_idna_table_knows_are_compared_as_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(app_with(sender_block(["XN--LS8H.example"]))) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<a@xn--ls8h.example>")).code == 550


@pytest.mark.parametrize("factory", [sender_block, recipient_filter])
@pytest.mark.parametrize(
    ("domains", "match"),
    [
        ("example.com", "several strings"),
        (b"example.com", "several strings"),
        (["example.com", ""], "not ''"),
        (["."], "not '.'"),
        (["a@example.com"], "not 'a@example.com'"),
        (["*.example.com"], re.escape("not '*.example.com'")),
        ([".example.com"], "not '.example.com'"),
        (["exa mple.com"], "not 'exa mple.com'"),
        (["a..b"], "not 'a..b'"),
        (["-a.example"], "not '-a.example'"),
        (["bu\u0308cher.example"], "not "),  # not in normalization form C: nothing sent could ever be equal
        ([b"example.com"], "not b'example.com'"),
        ([None], "not None"),
    ],
)
def test_domains_are_checked(factory: Callable[[Iterable[str]], Plugin], domains: Any, match: str) -> None:
    with pytest.raises(ValueError, match=rf"^domains must be .*{match}"):
        factory(domains)


def test_recipient_filter_without_domains_would_refuse_everything() -> None:
    with pytest.raises(ValueError, match=r"^domains must name at least one domain"):
        recipient_filter([])


# --- received_loop ---


def received_fields(message: bytes) -> int:
    """The definition that the counter is held against: look at all lines up to the first empty one."""
    count = 0
    for line in message.split(b"\n"):
        if line.removesuffix(b"\r") == b"":
            break
        count += re.match(rb"received[ \t]*:", line, re.IGNORECASE) is not None
    return count


def counted(chunks: Iterable[bytes]) -> int:
    counter = ReceivedCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.count


NASTY = [
    b"Received: a\r\nReceived: b\r\n\r\nReceived: in the body\r\n",
    b"Received: a\r\n\tReceived: folded\r\n Received: folded\r\nRECEIVED \t : b\r\n\r\n",
    b"\r\nReceived: the header section is empty\r\n",
    b"Received\r\n: no\r\nReceived:yes\r\nXReceived: no\r\nReceived-SPF: no\r\n\r\n",
    b"Received  x: no\r\nrEcEiVeD: yes\r\n",
    b"Subject: a\rReceived: a bare CR ends no line\r\nReceived: yes\r\n\r\n",
    b"Subject: a\nReceived: one\n\nReceived: bare LFs do, as BDAT may bring them\n",
    b"Received: a\r\r\nReceived: b\r\n\n\r\nReceived: no\r\n",
    b"Rec\r\neived: no\r\nReceived: yes",
    b"\r",
    b"",
]


@pytest.mark.parametrize("message", NASTY)
def test_received_fields_are_counted_whatever_the_cut(message: bytes) -> None:
    expected = received_fields(message)
    assert counted([message]) == expected
    assert counted(bytes([octet]) for octet in message) == expected
    for first in range(len(message) + 1):
        for second in range(first, len(message) + 1):
            assert counted([message[:first], message[first:second], message[second:]]) == expected


def test_the_nasty_messages_are_not_all_alike() -> None:
    assert [received_fields(message) for message in NASTY] == [2, 2, 0, 1, 1, 1, 1, 2, 1, 0, 0]


pieces = st.sampled_from(
    [b"Received", b"received:", b"Rec", b"eived", b":", b" ", b"\t", b"\r", b"\n", b"\r\n", b"x", b"r"]
)


@given(st.lists(st.one_of(pieces, st.binary(max_size=3)), max_size=40))
def test_received_fields_are_counted_as_defined(chunks: list[bytes]) -> None:
    assert counted(chunks) == received_fields(b"".join(chunks))


def test_the_counter_keeps_next_to_nothing_of_huge_lines() -> None:
    chunks = [b"Received", *[b" " * 65_536] * 4, b"\t:", *[b"x" * 65_536] * 4, b"\r\n", *[b" " * 65_536] * 4]
    kept = 0
    tracemalloc.start()
    try:
        counter = ReceivedCounter()
        for chunk in chunks:
            counter.feed(chunk)
            kept = max(kept, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert counter.count == 1
    assert kept < 10_000


def message_with(fields: int) -> bytes:
    received = b"".join(b"Received: from a by b; %d\r\n" % n for n in range(fields))
    return received + b"Subject: x\r\n\r\nReceived: in the body\r\n"


@pytest.mark.parametrize(("limit", "fields", "refused"), [(50, 50, False), (50, 51, True), (1, 1, False), (1, 2, True)])
async def test_received_loop_refuses_after_its_limit(
    limit: int, fields: int, refused: bool, autojump_clock: trio.testing.MockClock
) -> None:
    plugin = received_loop() if limit == 50 else received_loop(limit)
    async with open_client(app_with(plugin)) as client:
        await client.ehlo()
        reply = await client.send_message("a@example.com", ["b@example.com"], message_with(fields))
        if refused:
            assert reply == Reply(554, "Routing loop detected", "5.4.6")
        else:
            assert reply.code == 250
        # each message is counted for itself
        assert (await client.send_message("a@example.com", ["b@example.com"], message_with(1))).code == 250


async def test_received_loop_sees_a_message_that_comes_octet_by_octet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = bytearray()
    app = App().use(received_loop(3))

    @app.on_data
    async def keep(ctx: DataContext) -> None:
        async for chunk in ctx.stream:
            seen.extend(chunk)

    async with open_client(app) as client:
        await client.ehlo()
        for fields, code in [(3, 250), (4, 554)]:
            seen.clear()
            for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>", "DATA"):
                await client.command(line)
            message = message_with(fields)
            for octet in message:
                await client.send_bytes(bytes([octet]))
                await trio.testing.wait_all_tasks_blocked()
            await client.send_bytes(b".\r\n")
            assert (await client.read_reply()).code == code
            assert (bytes(seen) == message) == (code == 250)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "50", None, True])
def test_received_loop_checks_its_limit(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"^limit must be a positive int, not "):
        received_loop(limit)


# --- logger ---


def lines_of(caplog: pytest.LogCaptureFixture, session: Session, name: str = "trio_smtp.plugins.logger") -> list[str]:
    """The lines of the logger, without the session's id that each begins with."""
    begin = f"session={session.id} "
    messages = [record.getMessage() for record in caplog.records if record.name == name]
    assert all(message.startswith(begin) for message in messages)
    return [message.removeprefix(begin) for message in messages]


async def test_logger_has_a_line_for_every_phase(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO)
    app = App().use(logger())

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        await trio.sleep(1.5)
        ctx.reply = Reply(250, ["Queued", "and more"], "2.0.0")

    async with open_client(app, Config(hostname="mx.example.com")) as client:
        await client.command("EHLO client.example")
        await client.send_message("a@example.com", ["b@example.com", "c@example.com"], b"Hello\r\n")
        await client.quit()
    assert lines_of(caplog, client.session) == [
        "connect from a local stream -> 220 mx.example.com ESMTP",
        "EHLO 'client.example' -> 250 mx.example.com",
        "MAIL 'a@example.com' -> 250 2.1.0 Sender OK",
        "RCPT 'b@example.com' -> 250 2.1.5 Recipient OK",
        "RCPT 'c@example.com' -> 250 2.1.5 Recipient OK",
        "message from 'a@example.com' to 'b@example.com', 'c@example.com', 7 octets in 1.500 s -> 250 2.0.0 Queued",
        "close (quit), transactions: 1",
    ]


async def test_logger_tells_refusals_crashes_and_cancellation(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO)
    app = App().use(logger())

    @app.on_helo
    async def refuse_one(ctx: HeloContext) -> None:
        if ctx.domain == "bad.example":
            ctx.reject(["Go away", "please"], 550, enhanced="5.7.1")

    @app.on_mail_from
    async def crash_and_hang(ctx: MailFromContext) -> None:
        if ctx.address.address == "crash@example.com":
            raise RuntimeError("not for the client")
        await trio.sleep_forever()

    async with open_client(app, handler_timeout=60) as client:
        await client.command("EHLO bad.example")
        await client.command("EHLO x")
        assert (await client.command("MAIL FROM:<crash@example.com>")).code == 451
        assert (await client.command("MAIL FROM:<hang@example.com>")).code == 421
    assert [line.rpartition(" -> ")[::2] for line in lines_of(caplog, client.session)[1:5]] == [
        ("EHLO 'bad.example'", "550 5.7.1 Go away"),
        ("EHLO 'x'", f"250 {client.greeting.lines[0].split()[0]}"),
        ("MAIL 'crash@example.com'", "RuntimeError"),
        ("MAIL 'hang@example.com'", "cancelled"),
    ]


async def test_logger_names_the_authenticated_but_never_a_secret(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG)

    async def first_lines(user: object) -> list[str]:
        app = App().use(logger())

        @app.on_auth
        async def accept(ctx: AuthContext) -> None:
            ctx.accept(user)

        async with open_client(app, allow_insecure_auth=True) as client:
            await client.ehlo()
            await client.auth_plain("alice", "open sesame")
            await client.command("MAIL FROM:<a@example.com>")
        return [line for line in lines_of(caplog, client.session) if line.startswith("MAIL")]

    class Account:
        def __repr__(self) -> str:
            return "open sesame"

    who = await first_lines("al\nice")
    assert who == ["MAIL 'a@example.com', authenticated by PLAIN as 'al\\nice' -> 250 2.1.0 Sender OK"]
    caplog.clear()
    who = await first_lines(Account())
    assert who == ["MAIL 'a@example.com', authenticated by PLAIN -> 250 2.1.0 Sender OK"]
    assert "sesame" not in caplog.text


async def test_logger_shortens_long_lists_and_quotes_what_is_not_ascii(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    log = logging.getLogger("somewhere.else")
    caplog.set_level(logging.DEBUG, log.name)
    app = app_for_peer("192.0.2.1", logger(log, level=logging.DEBUG))

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<b\u00fccher@example.com> SMTPUTF8")
        for n in range(12):
            await client.command(f"RCPT TO:<{n}@example.com>")
        await client.command("DATA")
        await client.send_bytes(b".\r\n")
        await client.read_reply()
    lines = lines_of(caplog, client.session, log.name)
    assert {record.levelno for record in caplog.records if record.name == log.name} == {logging.DEBUG}
    assert lines[0].startswith("connect from [192.0.2.1]:4711 -> 220 ")
    assert lines[2].startswith("MAIL 'b\\xfccher@example.com' -> 250 ")
    assert lines[-2].startswith("message from 'b\\xfccher@example.com' to '0@example.com', '1@example.com', ")
    assert "'9@example.com' and 2 more, 0 octets in " in lines[-2]
    assert lines[-1] == "close (lost), transactions: 1"


async def test_logger_shows_what_tls_agreed_on(
    caplog: pytest.LogCaptureFixture,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    caplog.set_level(logging.INFO)
    async with open_client(App().use(logger()), ssl_context=server_ssl_context) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context)
        await client.ehlo()
        tls = client.session.tls
        assert tls is not None
    line = lines_of(caplog, client.session)[2]
    assert line.startswith(f"{tls.version} {tls.standard_name} -> 2")


async def test_logger_switches_no_command_on(autojump_clock: trio.testing.MockClock) -> None:
    async with open_client(App().use(logger()), allow_insecure_auth=True) as client:
        assert "AUTH" not in (await client.ehlo()).text
        assert (await client.command("VRFY a")).code == 252
        assert (await client.command("EXPN a")).code == 502


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"log": "mail"}, "log must be a logging.Logger or None, not 'mail'"),
        ({"level": "INFO"}, "level must be an int such as logging.INFO, not 'INFO'"),
    ],
)
def test_logger_checks_its_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=re.escape(match)):
        logger(**arguments)
