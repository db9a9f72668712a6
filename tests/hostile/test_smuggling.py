"""SMTP smuggling: what looks like an end of data and is none, at every cut, with commands behind it.

RFC 5321 section 4.1.1.4: the data ends with CRLF . CRLF and with nothing else.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal

import pytest
import trio.testing

from trio_smtp import Config, SMTPServer

from .support import Mailbox, by_octet, cut_at, exchange, replies_in, watched_log

#: Each has been taken for the end of data by some server.
LOOK_ALIKES = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CR": b"\r\n.\r",
    "CR.LF": b"\r.\n",
    "LF.CR": b"\n.\r",
    "LF.CR.LF": b"\n.\r.\n",
    "LFCR.CRLF": b"\n\r.\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRLFCR.CRLF": b"\r\n\r.\r\n",
    "CRLF.NUL.CRLF": b"\r\n.\0\r\n",
    "CRLFNUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.space": b"\r\n. \r\n",
    "CRLF.tab": b"\r\n.\t\r\n",
    "CRLF.VT": b"\r\n.\v\r\n",
    "CRLF..CRLF": b"\r\n..\r\n",
    "CRLF space.CRLF": b"\r\n .\r\n",
    "CRLF.NEL": "\r\n.\u0085\r\n".encode(),
    "CRLF.LS": "\u2028.\u2028\r\n".encode(),
    "fullwidth dot": "\r\n\uff0e\r\n".encode(),
    "CRCRLF.CRLF without LF": b"\r\r\r.\r\r\r",
    "dot at the message's start, LF": b"",
}

PRELUDE = b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
HEAD = b"Subject: x\r\n\r\nbefore"
FOLLOWERS = (
    b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nHa",
    b"RSET\r\nQUIT",
    b"BDAT 4 LAST\r\nevil",
)
END = b"\r\n.\r\n"


def message(name: str, follower: bytes) -> tuple[bytes, int]:
    """The body on the wire, end mark included, and where the look-alike stands in it."""
    if not LOOK_ALIKES[name]:
        return b".\n" + follower + END, 0
    return HEAD + LOOK_ALIKES[name] + follower + END, len(HEAD)


def bare(body: bytes) -> bool:
    return re.search(rb"\r(?!\n)|(?<!\r)\n", body) is not None


def stored(wire: bytes, mode: str) -> bytes:
    """What a handler is given, by the definition: dots unstuffed at the start of lines, bare CRs and LFs mended."""
    text = wire.removesuffix(b".\r\n")
    lines = re.split(rb"\r*\n", text) if mode == "normalize" else text.split(b"\r\n")
    unstuffed = [line if line == b"." else line.removeprefix(b".") for line in lines]
    return b"\r\n".join(line.replace(b"\r", b" ") if mode == "normalize" else line for line in unstuffed)


@pytest.mark.parametrize("mode", ["reject", "normalize"])
@pytest.mark.parametrize("follower", FOLLOWERS, ids=["transaction", "commands", "chunk"])
@pytest.mark.parametrize("name", LOOK_ALIKES)
async def test_nothing_but_the_end_mark_ends_a_message(
    autojump_clock: trio.testing.MockClock, name: str, follower: bytes, mode: Literal["reject", "normalize"]
) -> None:
    wire, place = message(name, follower)
    malformed = mode == "reject" and bare(wire)
    expected = [220, 250, 250, 250, 354, 550 if malformed else 250, 221]
    around = range(len(PRELUDE) + place - 2, len(PRELUDE) + place + len(LOOK_ALIKES[name]) + 3)
    whole = PRELUDE + wire + b"QUIT\r\n"
    ways = [[whole], [PRELUDE, wire, b"QUIT\r\n"], [PRELUDE, *by_octet(wire), b"QUIT\r\n"]]
    # One cut and two cuts around the look-alike, and cuts in the real end mark.
    ways += [cut_at(whole, cut) for cut in around]
    ways += [cut_at(whole, len(PRELUDE), cut, cut + 1) for cut in around]
    ways += [cut_at(whole, len(PRELUDE), len(PRELUDE + wire) - back) for back in range(1, 5)]
    for segments in ways:
        box = Mailbox()
        with watched_log():
            said = await exchange(SMTPServer(box.app, Config(hostname="mx.example", bare_newline=mode)), segments)
        assert [reply.code for reply in replies_in(said)] == expected, segments
        assert box.bodies == ([] if malformed else [stored(wire, mode)]), segments
        for envelope, _ in box.taken:
            assert envelope.mail_from is not None
            assert (envelope.mail_from.address, [str(to) for to in envelope.rcpt_to]) == (
                "a@example.org",
                ["b@example.com"],
            )


async def test_the_end_mark_itself_at_every_cut(autojump_clock: trio.testing.MockClock) -> None:
    """The other side of the table: what is an end of data is always taken for one, and commands go on behind it."""
    second = PRELUDE.removeprefix(b"EHLO x\r\n") + b"second\r\n.\r\nQUIT\r\n"
    for body in (HEAD + END, b".\r\n", b"\r\n.\r\n", b"..\r\n.\r\n"):
        whole = PRELUDE + body + second
        for cut in range(len(PRELUDE) - 2, len(PRELUDE) + len(body) + 3):
            for further in (0, 1, 2, 4):
                box = Mailbox()
                with watched_log():
                    said = await exchange(
                        SMTPServer(box.app, Config(hostname="mx.example")), cut_at(whole, cut, cut + further)
                    )
                codes = [reply.code for reply in replies_in(said)]
                assert codes == [220, 250, 250, 250, 354, 250, 250, 250, 354, 250, 221]
                assert box.bodies == [stored(body, "reject"), b"second\r\n"]


@pytest.mark.parametrize("mode", ["reject", "normalize"])
async def test_a_chunk_is_counted_and_never_searched(
    autojump_clock: trio.testing.MockClock, mode: Literal["reject", "normalize"]
) -> None:
    for name in LOOK_ALIKES:
        wire, _ = message(name, FOLLOWERS[0])
        whole = PRELUDE.removesuffix(b"DATA\r\n") + b"BDAT %d LAST\r\n" % len(wire) + wire + b"QUIT\r\n"
        for segments in ([whole], list(by_octet(whole))):
            box = Mailbox()
            with watched_log():
                said = await exchange(SMTPServer(box.app, Config(hostname="mx.example", bare_newline=mode)), segments)
            assert [reply.code for reply in replies_in(said)] == [220, 250, 250, 250, 250, 221]
            assert box.bodies == [wire]


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        (b"NOOP\nRSET\nQUIT\r\n", [250, 250, 221]),
        (b"\nQUIT\r\n", [500, 221]),
        (b"NOOP \n.\nQUIT\r\n", [250, 500, 221]),
    ],
)
@pytest.mark.parametrize("mode", ["reject", "normalize"])
async def test_a_bare_lf_between_commands(
    autojump_clock: trio.testing.MockClock, line: bytes, codes: list[int], mode: Literal["reject", "normalize"]
) -> None:
    """Where it is refused nothing behind it is read; where it is taken it ends a line, as in the clear to see."""
    for segments in ([line], list(by_octet(line))):
        with watched_log():
            config = Config(hostname="mx.example", bare_newline=mode)
            said = await exchange(SMTPServer(Mailbox().app, config), segments)
        assert [reply.code for reply in replies_in(said)] == [220, *(codes if mode == "normalize" else [500])]


@pytest.mark.parametrize("mode", ["reject", "normalize"])
async def test_what_is_stored_smuggles_nothing_into_the_next_server(
    autojump_clock: trio.testing.MockClock, mode: Literal["reject", "normalize"]
) -> None:
    """Whoever sends the message on stuffs its dots: no look-alike, of whatever kind, is left in front of any server."""
    for name, follower in itertools.product(LOOK_ALIKES, FOLLOWERS):
        wire, _ = message(name, follower)
        box = Mailbox()
        with watched_log():
            await exchange(
                SMTPServer(box.app, Config(hostname="mx.example", bare_newline=mode)), [PRELUDE + wire + b"QUIT\r\n"]
            )
        for body in box.bodies:
            assert not bare(body)
            relayed = re.sub(rb"(?m)^\.", b"..", body)
            assert not re.search(rb"(?:\A|[\r\n])\.[\r\n]", relayed)
