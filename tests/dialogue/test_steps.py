"""Steps come in the order that trio_smtp/dialogue/steps.py promises, and a dialogue may be closed at any of them."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import test_model as model
from tests.hostile.support import by_octet, watched_log
from trio_smtp import Config
from trio_smtp.dialogue.output import MAX_WAITING_OCTETS
from trio_smtp.dialogue.service import Service
from trio_smtp.dialogue.steps import (
    FLUSH,
    NEED_LINE,
    NEED_MORE,
    Ask,
    BeginChunks,
    Chunk,
    Drop,
    EndChunks,
    Leave,
    LookUp,
    Message,
    Pause,
    ShakeHands,
    Step,
)

from .delivery import HandlerWaits
from .driver import Driver
from .talk_support import CUTS, SSL_CONTEXT, Cut, Talk, driver_of, play, talk_app
from .test_converse import ENDINGS, TALKS, ready


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers of the talks crash on purpose."""
    caplog.set_level(logging.CRITICAL, "trio_smtp")


def check_order(steps: Sequence[Step], driver: Driver) -> None:
    """What the docstrings of steps.py promise.

    Args:
        steps: All the steps of a session.
        driver: Whose; the session has ended.
    """
    in_chunks = False
    before: Step | None = None
    for step in steps:
        if step is NEED_MORE:
            assert before in (NEED_LINE, NEED_MORE), "NEED_LINE starts the line's deadline"
        if isinstance(before, BeginChunks):
            assert isinstance(step, Chunk), "the first chunk was announced"
        if isinstance(before, Chunk) and before.reply is not None:
            assert isinstance(step, EndChunks), "the message was answered"
        if isinstance(step, BeginChunks):
            assert not in_chunks
            in_chunks = True
        elif isinstance(step, Chunk):
            assert in_chunks
        elif isinstance(step, EndChunks):
            assert in_chunks
            in_chunks = False
        elif isinstance(step, Message | ShakeHands | Leave):
            assert not in_chunks
        before = step
    assert not any(isinstance(step, Leave) for step in steps[:-1]), "nothing follows Leave"
    if isinstance(before, Leave):
        assert driver.reason == before.reason
    else:
        assert driver.reason != "quit"
    assert next(driver.steps, None) is None


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("talk", TALKS, ids=[talk.title for talk in TALKS])
def test_the_order_of_steps_in_the_talks(talk: Talk, cut: Cut) -> None:
    steps: list[Step] = []
    driver = driver_of(talk, steps.append)
    play(talk, driver, cut)
    driver.leave()
    check_order(steps, driver)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=model.STEPS, whole=st.booleans(), lmtp=st.booleans())
def test_the_order_of_steps_in_any_dialogue(steps: list[model.Step], whole: bool, lmtp: bool) -> None:
    hello = model.Step("hello", b"LHLO client.example" if lmtp else b"EHLO client.example")
    rules = model.Model(lmtp)
    wire = b"".join(rules.expect(step)[0] for step in [hello, *steps] if not rules.over)
    app, _ = model.model_app()
    service = Service(app, Config(hostname="mx.example", lmtp=lmtp, max_message_size=model.MAX_SIZE, max_errors=1000))
    seen: list[Step] = []
    with watched_log(logging.ERROR):
        driver = Driver(service, on_step=seen.append)
        for segment in [wire] if whole else by_octet(wire):
            driver.feed(segment)
        driver.leave()
    check_order(seen, driver)


def test_the_talks_have_every_step() -> None:
    seen: list[Step] = []
    for talk in TALKS:
        play(talk, driver_of(talk, seen.append), "turns")
    kinds = {type(step) for step in seen}
    assert {NEED_LINE, NEED_MORE} <= set(seen)
    assert kinds >= {Ask, LookUp, Pause, ShakeHands, Message, BeginChunks, Chunk, Drop, EndChunks, Leave}


def test_many_replies_are_flushed() -> None:
    commands = MAX_WAITING_OCTETS // len("250 2.0.0 OK\r\n") + 1
    waiting: list[int] = []
    flushed: list[Step] = []

    def note(step: Step) -> None:
        waiting.append(driver.dialogue.output.octets)
        if step is FLUSH:
            flushed.append(step)

    driver = driver_of(Talk("", ()))
    driver.on_step = note
    driver.feed(b"EHLO client.example\r\n")
    said = driver.feed(b"NOOP\r\n" * 2 * commands)
    assert len(flushed) == 2
    assert max(waiting) < MAX_WAITING_OCTETS + 100
    assert said == b"250 2.0.0 OK\r\n" * 2 * commands


# Closing


class Stop(BaseException):
    """The driver ends."""


def stopped_at(talk: Talk, number: int, cut: Cut) -> Driver | None:
    """The driver of a talk, ended at the step of that number behind the greeting; None: there are fewer steps."""
    left = number

    def count(step: Step) -> None:
        nonlocal left
        if left == 0:
            raise Stop
        left -= 1

    driver = driver_of(talk)
    driver.on_step = count
    try:
        play(talk, driver, cut)
    except Stop:
        return driver
    return None


@pytest.mark.parametrize("cut", ["turns", "whole"])
@pytest.mark.parametrize("talk", TALKS, ids=[talk.title for talk in TALKS])
def test_a_dialogue_may_be_closed_at_any_step(talk: Talk, cut: Cut) -> None:
    number = 0
    while (driver := stopped_at(talk, number, cut)) is not None:
        number += 1
        session, steps = driver.session, driver.steps
        assert driver.reason == "cancelled"
        assert session.authenticated or session.auth_mechanism is None
        steps.close()
        assert next(steps, None) is None
        driver.close()
        driver.take()  # what was sent before that step
        assert driver.leave() == b""
        assert driver.reason == "cancelled"


@pytest.mark.parametrize("octets", [b"", b"EHL", b"AUTH PLAIN\r\n", b"AUTH PLAIN\r\nAGE"])
def test_a_dialogue_may_be_closed_while_it_waits(octets: bytes) -> None:
    driver = driver_of(Talk("", (), config={"allow_insecure_auth": True}))
    driver.feed(b"EHLO client.example\r\n" + octets)
    assert driver.session.auth_mechanism == ("PLAIN" if octets.startswith(b"AUTH") else None)
    driver.close()
    driver.close()
    assert driver.session.auth_mechanism is None
    assert driver.reason == "cancelled"
    assert driver.feed(b"NOOP\r\n") == b""


@pytest.mark.parametrize("octets", [b"DATA\r\nHel", b"BDAT 5\r\nHel", b"BDAT 5\r\nHello", b"BDAT 5 LAST\r\nHel"])
def test_a_message_is_given_up_where_the_dialogue_is_closed(octets: bytes) -> None:
    driver = driver_of(Talk("", ()))
    driver.feed(b"".join(item for item in ready() if isinstance(item, bytes)) + octets)
    driver.close()
    assert driver.dialogue.service.stats.messages_incomplete == 1
    assert driver.session.data["taken"] == []


# What arrives at the wrong moment


def test_what_arrives_with_starttls_is_thrown_away() -> None:
    driver = driver_of(Talk("", (), config={"ssl_context": SSL_CONTEXT}))

    def look(step: Step) -> None:
        if isinstance(step, ShakeHands):  # before the 220 leaves
            assert driver.dialogue.framer.pending == 0
            assert driver.session.host_name_appears_as is None

    driver.on_step = look
    said = driver.feed(b"EHLO c\r\nSTARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@example.org>\r\nRCPT")
    assert said.endswith(b"220 2.0.0 Ready to start TLS\r\n")
    assert driver.session.host_name_appears_as is None
    assert driver.feed(b" TO:<b@example.com>\r\n") == b"500 Syntax error\r\n"
    assert driver.feed(b"EHLO c\r\n").startswith(b"250-mx.example\r\n")


@pytest.mark.parametrize("talk", [talk for talk in ENDINGS if talk.reason == "drained"], ids=lambda talk: talk.title)
def test_a_drain_is_said_once(talk: Talk) -> None:
    driver = driver_of(talk)
    play(talk, driver, "turns")
    assert driver.drain() == b""
    assert driver.leave() == b""
    assert driver.reason == "drained"


@pytest.mark.parametrize("announced", [b"BDAT 20000000\r\n", b"BDAT 20000000 LAST\r\n"])
def test_a_chunk_out_of_order_is_dropped_within_bounds(announced: bytes) -> None:
    driver = driver_of(Talk("", ()))
    driver.feed(b"EHLO client.example\r\n" + announced)
    said, block = b"", bytes(1_000_000)
    for _ in range(20):
        said += driver.feed(block)
    assert said == b"503 5.5.1 Need RCPT before BDAT\r\n"  # within twice max_message_size
    driver = driver_of(Talk("", (), config={"max_message_size": 1000}))
    driver.feed(b"EHLO client.example\r\n" + announced)
    said = b"".join(driver.feed(block) for _ in range(17))
    assert said == b"552 5.3.4 Message exceeds the maximum size\r\n"
    assert driver.reason == "abuse"


def test_a_handler_that_waits_is_an_error_of_the_test() -> None:
    app = talk_app()

    class Never:
        def __await__(self) -> Generator[str, None, None]:
            yield "for ever"

    @app.on_helo
    async def wait(ctx: object) -> None:
        await Never()

    driver = Driver(Service(app, Config(hostname="mx.example")))
    with pytest.raises(HandlerWaits, match="for ever"):
        driver.feed(b"EHLO client.example\r\n")
