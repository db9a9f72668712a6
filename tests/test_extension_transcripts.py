"""The transcripts of extensions, LMTP and trusted peers, each in four cuts."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from trio_smtp import App, DataContext, RcptToContext
from trio_smtp.testing import Cut, play

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def make_app() -> App:
    """Knows all users but one; one's mailbox is full."""
    app = App()

    @app.on_rcpt_to
    async def known(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject("No such user", 550, enhanced="5.1.1")

    @app.on_data
    async def take(ctx: DataContext) -> None:
        await ctx.stream.discard()
        if ctx.session.lmtp:
            for recipient in ctx.envelope.rcpt_to:
                if recipient.local_part == "full":
                    ctx.reject_recipient(recipient, "Mailbox full", 452, enhanced="4.2.2")

    return app


def config_of(transcript: str) -> dict[str, Any]:
    """The fields of Config that a transcript's head names: ``# Config: lmtp=True``."""
    line = re.search(r"^# Config: (.*)$", transcript, re.MULTILINE)
    call = ast.parse(f"f({line[1] if line else ''})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def peer_of(transcript: str) -> str | None:
    """Where the client comes from: ``# Peer: 192.0.2.10``."""
    line = re.search(r"^# Peer: (.*)$", transcript, re.MULTILINE)
    return None if line is None else line[1]


@pytest.mark.parametrize("cut", ["whole", "line", "octet", "random"])
@pytest.mark.parametrize("name", ["lmtp", "bdat", "dsn", "xclient", "xforward", "limits"])
async def test_transcript(name: str, cut: Cut, autojump_clock: trio.testing.MockClock) -> None:
    transcript = (TRANSCRIPTS / f"{name}.txt").read_text()
    address = peer_of(transcript)
    peer = None if address is None else (address, 4711)
    await play(make_app(), transcript, cut=cut, seed=9422, peer=peer, **config_of(transcript))
