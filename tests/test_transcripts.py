"""The transcripts of the protocol itself, each in four cuts: how the octets arrive must never matter."""

from __future__ import annotations

import ast
import logging
import random
import re
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from trio_smtp import App, AuthContext, MailFromContext, RcptToContext
from trio_smtp.testing import Cut, play

from .support import mail_app

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts" / "smtp").glob("*.txt"))
#: All that EHLO shows by default, but ENHANCEDSTATUSCODES.
HIDDEN = frozenset({"PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "SMTPUTF8", "LIMITS", "AUTH", "HELP"})


def transcript_app(*, auth: bool) -> App:
    """The App that transcripts/README.md describes."""
    app, _ = mail_app()

    @app.on_mail_from
    async def sender(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "refused":
            ctx.reject("No mail from you", 550, enhanced="5.7.1")

    @app.on_rcpt_to
    async def recipient(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "unknown":
            ctx.reject("No such user", 550, enhanced="5.1.1")

    async def check(ctx: AuthContext) -> None:
        if ctx.credentials.username == "alice" and ctx.credentials.validate_password("secret"):
            ctx.accept("alice")

    if auth:
        app.on_auth(check)
    return app


def config_of(transcript: str) -> dict[str, Any]:
    """The fields of Config that a transcript names: ``# Config: max_errors=3``."""
    line = re.search(r"^# Config: (.*)$", transcript, re.MULTILINE)
    call = ast.parse(f"f({line[1] if line else ''})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {"hide_extensions": HIDDEN} | {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) > 35


@pytest.mark.parametrize("cut", ["whole", "line", "octet", "random"])
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
async def test_transcript(path: Path, cut: Cut, autojump_clock: MockClock) -> None:
    transcript = path.read_text(encoding="utf-8")
    changes = config_of(transcript)
    seed = random.SystemRandom().randrange(2**32)
    logging.getLogger(__name__).warning("seed=%d", seed)  # shown when the test fails
    await play(transcript_app(auth="allow_insecure_auth" in changes), transcript, cut=cut, seed=seed, **changes)
