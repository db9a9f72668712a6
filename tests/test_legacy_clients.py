"""Clients as they are: LF alone, addresses without domains, and what `legacy_clients` lets in for some networks."""

from __future__ import annotations

import logging
import ssl
from typing import Any, Literal

import pytest
import trio
import trio.testing

from trio_smtp import App, Config, DataContext, HeloContext
from trio_smtp.testing import Client, open_client

from .peer_support import PROXY, STRANGER, Front, front
from .support import logged, mail_app, raw_client, start_data, start_transaction

HOME = "192.168.7.9"
LEGACY = ("192.168.0.0/16", "fd00::/8")


def noting_app() -> tuple[App, list[tuple[str, list[str], bytes]]]:
    """An App that takes every message, and of each its sender, its recipients and its body."""
    app = App()
    taken: list[tuple[str, list[str], bytes]] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        envelope = ctx.envelope
        taken.append((str(envelope.mail_from), [str(each) for each in envelope.rcpt_to], await ctx.stream.read()))

    return app, taken


async def answers(client: Client, octets: bytes, count: int) -> list[int]:
    """The codes of so many replies to these octets."""
    await client.send_bytes(octets)
    return [(await client.read_reply()).code for _ in range(count)]


async def arrive(there: Front, address: str | None = HOME, first: bytes = b"") -> Client:
    client = await there.connect(address, first)
    assert (await client.read_reply()).code == 220
    return client


# --- a bare LF from anybody ---


def test_normalize_is_the_default() -> None:
    assert Config().bare_newline == "normalize"


async def test_a_message_of_as_bytes_is_taken(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    app, taken = mail_app()
    async with open_client(app) as client:
        for _ in range(2):
            await start_data(client)
            await client.send_bytes(b"Subject: x\n\n..hidden\n...\nend\r\n.\r\n")
            assert (await client.read_reply()).code == 250
    assert taken == [b"Subject: x\r\n\r\n.hidden\r\n..\r\nend\r\n"] * 2
    told = [line for line in logged(caplog, logging.INFO) if "bare_newline" in line]
    assert len(told) == 1
    assert "an LF without CR: mended" in told[0]
    assert logged(caplog) == []


async def test_a_session_of_lf_lines_up_to_the_end_mark(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app) as client:
        lines = b"HELO x\nMAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\nDATA\n"
        assert await answers(client, lines, 4) == [250, 250, 250, 354]
        assert await answers(client, b"a\n.\nQUIT\n\r\n.\r\nQUIT\n", 2) == [250, 221]
    assert taken == [b"a\r\n.\r\nQUIT\r\n\r\n"]


@pytest.mark.parametrize("line", [b"EHLO x\n", b"QUIT\n", b"\n", b"x" * 5000 + b"\n", b"BDAT 5\n"])
async def test_reject_answers_and_closes(
    autojump_clock: trio.testing.MockClock, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()
    start = trio.current_time()
    async with open_client(app, bare_newline="reject") as client:
        await client.send_bytes(line)
        assert (await client.read_reply()).code == 500
        assert await client.read_to_end() == b""
    assert trio.current_time() - start < 5
    (warning,) = logged(caplog)
    assert "bare_newline" in warning
    assert "legacy_clients" in warning


@pytest.mark.parametrize("answer", [b"AGEAYg==\n", b"*\n", b"\n"])
async def test_reject_closes_inside_auth_too(
    autojump_clock: trio.testing.MockClock, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = mail_app()

    @app.on_auth
    async def check(ctx: Any) -> None:
        raise AssertionError

    async with open_client(app, bare_newline="reject", allow_insecure_auth=True) as client:
        await client.ehlo()
        assert (await client.command("AUTH PLAIN")).code == 334
        await client.send_bytes(answer)
        reply = await client.read_reply()
        assert (reply.code, reply.enhanced) == (500, "5.5.2")
        assert await client.read_to_end() == b""
    (warning,) = logged(caplog)
    assert "bare_newline" in warning
    assert "legacy_clients" in warning
    assert "AGEAYg" not in warning


async def test_reject_says_once_what_makes_messages_malformed(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app, taken = mail_app()
    async with open_client(app, bare_newline="reject") as client:
        for body in (b"a\rb\r\n.\r\n", b"a\nb\r\n.\r\n"):
            await start_data(client)
            await client.send_bytes(body)
            assert (await client.read_reply()).code == 550
    assert taken == []
    (warning,) = logged(caplog)
    assert "a CR without LF: refused" in warning
    assert "bare_newline" in warning
    assert "legacy_clients" in warning


@pytest.mark.parametrize("mode", ["reject", "normalize"])
@pytest.mark.parametrize(
    ("body", "told"), [(b"a\n.\n", True), (b"a\r\n.\nQUIT\n", True), (b"a\nb\n", False)], ids=["LF", "CRLF", "none"]
)
async def test_a_lone_dot_is_told_when_the_body_times_out(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    mode: Literal["reject", "normalize"],
    body: bytes,
    told: bool,
) -> None:
    app, taken = mail_app()
    async with open_client(app, bare_newline=mode, data_timeout=10) as client:
        await start_data(client)
        await client.send_bytes(body)
        assert (await client.read_reply()).code == 421
    assert taken == []
    assert any("LF . LF" in line and "legacy_clients" in line for line in logged(caplog)) is told


async def test_a_run_of_crs_has_an_end(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app, max_message_size=1000) as client:
        await start_data(client)
        for _ in range(17):
            await client.send_bytes(b"\r" * 2**20)
        await client.send_bytes(b"\r" * 2**20)
        assert (await client.read_reply()).code == 552
        assert await client.read_to_end() == b""
    assert taken == []


async def test_sizes_count_what_is_handed_on(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    async with open_client(app, max_message_size=6) as client:
        for body, code in ((b"a\nb\n", 250), (b"a\nbc\n", 552), (b"abcd\r\r\r\r\n", 250), (b"a\r\r\rbc\r\n", 552)):
            await start_data(client)
            await client.send_bytes(
                body.removesuffix(b"\n") + b"\r\n.\r\n" if body[-2:-1] != b"\r" else body + b".\r\n"
            )
            assert (await client.read_reply()).code == code, body
    assert taken == [b"a\r\nb\r\n", b"abcd\r\n"]


# --- legacy clients ---


@pytest.mark.parametrize("mode", ["reject", "normalize"])
async def test_a_device_that_ends_everything_with_lf(
    autojump_clock: trio.testing.MockClock, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, taken = noting_app()
    async with front(app, legacy_clients=LEGACY, bare_newline=mode) as there:
        client = await arrive(there)
        lines = b"HELO my printer\nMAIL FROM: root\r\r\nRCPT TO:<bob>\nRCPT TO:carol@example.com FOO=bar\nDATA\n"
        assert await answers(client, lines, 5) == [250, 250, 250, 250, 354]
        assert await answers(client, b"Subject: x\r\r\n\r\r\n..a\nb\n.\nQUIT\n", 2) == [250, 221]
        assert client.session.host_name_appears_as == "my"
    expected = ("root@mx.example", ["bob@mx.example", "carol@example.com"], b"Subject: x\r\n\r\n.a\r\nb\r\n")
    assert taken == [expected]
    assert not any("bare_newline" in line for line in logged(caplog, logging.INFO))


@pytest.mark.parametrize("address", [STRANGER, None, "2001:db8::1"])
async def test_nobody_else(autojump_clock: trio.testing.MockClock, address: str | None) -> None:
    app, taken = noting_app()
    async with front(app, legacy_clients=LEGACY) as there:
        client = await arrive(there, address)
        lines = (
            b"HELO my printer\r\nHELO \xc3\xa9\r\nHELO \xe9\r\nHELO x\r\nMAIL FROM:root\r\n"
            b"MAIL FROM:<a@x.example> A=b\r\n"
            b"MAIL FROM:<a@x.example>\r\nRCPT TO:<bob>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
        )
        assert await answers(client, lines, 10) == [501, 500, 500, 250, 501, 555, 250, 501, 250, 354]
        assert await answers(client, b"a\n.\nRSET\n\r\n.\r\n", 1) == [250]
    assert [body for _, _, body in taken] == [b"a\r\n.\r\nRSET\r\n\r\n"]


async def test_local_domain_comes_before_the_host_name(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = noting_app()
    async with front(app, legacy_clients=LEGACY, local_domain="Example.ORG") as there:
        client = await arrive(there, "fd00::1")
        lines = b"EHLO x\nMAIL FROM:<>\nRCPT TO:<Postmaster>\nDATA\n"
        assert await answers(client, lines, 4) == [250, 250, 250, 354]
        assert await answers(client, b".\n", 1) == [250]
    assert taken == [("", ["Postmaster@Example.ORG"], b"")]


@pytest.mark.parametrize("hello", [b"HELO b\xfcro nord", "EHLO b\xfcro".encode(), b"HELO b\xfcro\xff\x85"])
async def test_a_helo_that_is_not_ascii_is_escaped_in_the_log(
    autojump_clock: trio.testing.MockClock, hello: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_smtp")
    app, _ = mail_app()
    said: list[str] = []

    @app.on_helo
    async def note(ctx: HeloContext) -> None:
        said.append(ctx.domain)

    async with front(app, legacy_clients=LEGACY) as there:
        client = await arrive(there)
        assert await answers(client, hello + b"\r\nQUIT\r\n", 2) == [250, 221]
        assert await client.read_to_end() == b""
    assert said == ["b\xfcro" + ("\xff\x85" if b"\xff" in hello else "")]
    (line,) = [line for line in logged(caplog, logging.INFO) if "connection closed" in line]
    assert line.isascii()
    assert r"helo=b\xfcro" in line


async def test_a_helo_without_a_word_and_control_octets_are_refused_as_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with front(mail_app()[0], legacy_clients=LEGACY) as there:
        client = await arrive(there)
        lines = b"HELO\nHELO \x01\nHELO " + b"x" * 256 + b" y\nNOOP \xff\nMAIL FROM:<a\x00@x>\n"
        assert await answers(client, lines, 5) == [501, 500, 501, 500, 500]


async def test_the_address_counts_as_the_proxy_header_says(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    async with front(app, legacy_clients=LEGACY, proxy_protocol=[PROXY], bare_newline="reject") as there:
        header = "PROXY TCP4 {} 198.51.100.1 5000 25\r\n"
        client = await arrive(there, PROXY, header.format(HOME).encode())
        assert await answers(client, b"HELO x y\n", 1) == [250]
        client = await arrive(there, PROXY, header.format(STRANGER).encode())
        assert await answers(client, b"HELO x\n", 1) == [500]
    assert taken == []


async def test_the_address_counts_as_xclient_says_anew_each_time(autojump_clock: trio.testing.MockClock) -> None:
    app, taken = mail_app()
    trusted = [PROXY, HOME]
    async with front(app, legacy_clients=LEGACY, xclient=trusted, bare_newline="reject") as there:
        client = await arrive(there, PROXY)
        wire = b"EHLO x\r\nXCLIENT ADDR=192.168.7.9\r\nHELO x y\nMAIL FROM:a\nRCPT TO:b\nDATA\n"
        assert await answers(client, wire, 6) == [250, 220, 250, 250, 250, 354]
        assert await answers(client, b"a\n.\n", 1) == [250]
        # And back: the line that says so is the last that may end with LF.
        assert await answers(client, b"XCLIENT ADDR=203.0.113.7\nHELO x\n", 2) == [220, 500]
        assert await client.read_to_end() == b""
    assert taken == [b"a\r\n"]


async def test_another_framer_after_starttls_is_one_for_legacy_clients(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, taken = mail_app()
    async with front(app, legacy_clients=LEGACY, ssl_context=server_ssl_context, bare_newline="reject") as there:
        client = await arrive(there)
        await client.ehlo()
        await client.starttls(client_ssl_context)
        assert await answers(client, b"HELO x y\nMAIL FROM:a\nRCPT TO:b\nDATA\n", 4) == [250, 250, 250, 354]
        assert await answers(client, b"a\n.\n", 1) == [250]
    assert taken == [b"a\r\n"]


# --- recipients without a domain ---


@pytest.mark.parametrize("argument", ["<bob>", "<b.o.b>", '<"b o b">', "<bob> NOTIFY=NEVER"])
async def test_lmtp_takes_recipients_without_a_domain(autojump_clock: trio.testing.MockClock, argument: str) -> None:
    async with open_client(mail_app()[0], lmtp=True, dsn=True) as client:
        await client.command("LHLO x")
        await client.command("MAIL FROM:<a@example.org>")
        assert (await client.command(f"RCPT TO:{argument}")).code == 250
        (address,) = client.session.envelope.rcpt_to
        local_part = argument.partition(">")[0][1:]
        assert (address.address, address.local_part, address.domain) == (local_part, local_part, "")


@pytest.mark.parametrize(
    ("command", "code", "enhanced"),
    [("MAIL FROM:<root>", 501, "5.1.7"), ("RCPT TO:<bob>", 501, "5.1.3"), ("RCPT TO:<b@>", 501, "5.1.3")],
)
async def test_smtp_says_that_the_domain_is_missing(
    autojump_clock: trio.testing.MockClock, command: str, code: int, enhanced: str
) -> None:
    async with open_client(mail_app()[0]) as client:
        await (start_transaction(client) if command.startswith("RCPT") else client.ehlo())
        reply = await client.command(command)
        assert (reply.code, reply.enhanced) == (code, enhanced)
        assert ("domain is missing" in reply.text) is ("@" not in command)


@pytest.mark.parametrize("domain", ["example.com", "b\xfccher.example", "xn--bcher-kva.example"])
async def test_local_domain_completes_for_everybody(autojump_clock: trio.testing.MockClock, domain: str) -> None:
    async with open_client(mail_app()[0], local_domain=domain) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<root> SIZE=1")).code == 250
        assert (await client.command("RCPT TO:<bob>")).code == 250
        assert (await client.command("RCPT TO:<b..ob>")).code == 501
        assert (await client.command("RCPT TO:bob")).code == 501
        assert (await client.command("RCPT TO:<c@example.net>")).code == 250
        envelope = client.session.envelope
        assert envelope.mail_from is not None
        shown = domain if domain == "example.com" else "b\xfccher.example"
        assert (envelope.mail_from.address, envelope.mail_from.domain) == (f"root@{domain}", shown)
        assert [str(each) for each in envelope.rcpt_to] == [f"bob@{domain}", "c@example.net"]


async def test_lmtp_completes_senders_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(mail_app()[0], lmtp=True, local_domain="example.com") as client:
        wire = b"LHLO x\r\nMAIL FROM:<root>\r\nRCPT TO:<bob>\r\n"
        assert await answers(client, wire, 4) == [220, 250, 250, 250]
        envelope = client.session.envelope
        assert [str(envelope.mail_from), *map(str, envelope.rcpt_to)] == ["root@example.com", "bob"]


@pytest.mark.parametrize("value", ["", "a b", "[192.0.2.1]", "example.com.", "-a", "a..b", 5, "x" * 64, "a\u200bb"])
def test_a_local_domain_is_a_domain(value: Any) -> None:
    with pytest.raises(ValueError, match="local_domain"):
        Config(local_domain=value)


@pytest.mark.parametrize("value", ["192.168.0.0/16", ["printer"], 5])
def test_legacy_clients_are_networks(value: Any) -> None:
    with pytest.raises(ValueError, match="legacy_clients"):
        Config(legacy_clients=value)
