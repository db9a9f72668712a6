"""Plays transcripts to a dialogue without an event loop; trio_smtp.testing.play explains their notation."""

from __future__ import annotations

import random
import re

from tests.dialogue.driver import Driver
from trio_smtp import App, Config, Session
from trio_smtp.dialogue.service import Service
from trio_smtp.testing.transcripts import Cut, _parse, _segments

__all__ = ["matches", "play_alone"]


def matches(line: str, pattern: str) -> bool:
    """Whether a line is the expected one, in which ``...`` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("..."))), line) is not None


def play_alone(app: App, transcript: str, config: Config, *, cut: Cut, seed: int, peer: str | None = None) -> None:
    """Play a transcript, and compare what is answered turn by turn."""
    session = Session(lmtp=config.lmtp)
    if peer is not None:
        session.remote_address, session.client_hostname = peer, f"[{peer}]"
    driver = Driver(Service(app, config), session)
    dice = random.Random(seed)
    said = driver.take()
    for turn in _parse(transcript):
        said += b"".join(driver.feed(segment) for segment in _segments(turn.sent, cut, dice))
        for number, expected in turn.expected:
            if expected == "<close>":
                assert driver.reason is not None, f"line {number}: the session goes on"
                continue
            octets, _, said = said.partition(b"\r\n")
            assert matches(octets.decode(), expected), f"line {number}: expected {expected!r}, not {octets!r}"
        assert said == b"", f"before line {turn.expected[-1][0] if turn.expected else 0}: {said!r} beside it"
    assert driver.leave() == b""
