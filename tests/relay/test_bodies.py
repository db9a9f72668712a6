"""Messages octet for octet through a front and the next server, and in how much memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.support import Mailbox
from tests.corpus import CRLF, MAILS
from tests.corpus_support import is_strict, stuffed
from trio_smtp import Config
from trio_smtp.client.body import to_crlf

from .support import before, shown

SAMPLE = MAILS[::6]

WIDE = Config(hostname="front.example", max_message_size=None, binarymime=True)


def whole(message: bytes) -> bytes:
    """With a line end at its end, as DATA has it."""
    return message if message.endswith(CRLF) or not message else message + CRLF


async def test_by_data() -> None:
    """Bare newlines are put right by the front, as everywhere."""
    box = Mailbox()
    sent = [mail.octets for mail in SAMPLE if is_strict(mail.octets)]
    assert len(sent) > 50
    async with before(box.app, WIDE, WIDE) as front:
        for octets in sent:
            assert await front.begin("b@example.com") == [250, 250]
            assert await front.say("DATA") == [354]
            await front.client.send_bytes(stuffed(octets) + b".\r\n")
            assert (await front.client.read_reply()).code == 250
    assert box.messages == [whole(octets) for octets in sent]


@pytest.mark.parametrize("binary", [False, True])
async def test_by_bdat(binary: bool) -> None:
    """What DATA cannot carry is refused; a BINARYMIME message may be anything."""
    box = Mailbox()
    expected = []
    async with before(box.app, WIDE, WIDE) as front:
        for mail in SAMPLE:
            octets = mail.octets
            await front.client.ehlo()
            mime = " BODY=BINARYMIME" if binary else ""
            assert await front.say(f"MAIL FROM:<a@example.org>{mime}", "RCPT TO:<b@example.com>") == [250, 250]
            half = len(octets) // 2
            await front.client.send_bytes(b"BDAT %d\r\n%b" % (half, octets[:half]))
            reply = await front.client.read_reply()
            await front.client.send_bytes(b"BDAT %d LAST\r\n%b" % (len(octets) - half, octets[half:]))
            reply = await front.client.read_reply()
            if binary or is_strict(octets):
                assert reply.code == 250
                expected.append(octets if binary else whole(octets))
            else:
                assert shown(reply).startswith("550 5.6.0")
                assert to_crlf(octets) != octets
    assert box.messages == expected


def test_memory_does_not_depend_on_the_size() -> None:
    """16 MiB through a front of its own process move its peak by less than 4 MiB."""
    script = Path(__file__).parents[2] / "benchmarks" / "proxy.py"
    done = subprocess.run([sys.executable, str(script), "--memory", "16"], capture_output=True, text=True, check=True)
    (grown,) = re.findall(r"peak grew by (-?[0-9.]+) MiB", done.stdout)
    assert float(grown) < 4, done.stdout
