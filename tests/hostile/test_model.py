"""The protocol against a small model of RFC 5321, 2033 and 3030: any commands, in any order, cut anywhere.

The model below was written from the RFCs and knows nothing of the library. It says which codes each command may be
answered with and which messages are delivered; a server that takes a body line for a command, loses a reply when the
mode changes, or answers twice differs from it.

Each dialogue is held in two ways: by a server under Trio, and by the dialogue alone, without an event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dialogue.driver import converse_with
from trio_smtp import App, Config, DataContext, MailFromContext, RcptToContext, SMTPServer
from trio_smtp.dialogue.service import Service

from .support import cut_at, exchange, replies_in, run, watched_log

#: Small, so that messages too large are found.
MAX_SIZE = 600

#: Lines of a message that look like something else.
LINES = (
    b"",
    b".",
    b"..",
    b". ",
    b".\t.",
    b"QUIT",
    b"RSET",
    b".QUIT",
    b"MAIL FROM:<evil@example.org>",
    b"RCPT TO:<victim@example.com>",
    b"DATA",
    b"BDAT 3 LAST",
    b"EHLO evil.example",
    b"250 2.0.0 OK",
    b"Subject: hello",
    b"x" * 200,
    "Grüße".encode(),
)


@attrs.frozen
class Step:
    """What a client says: a line, and for a message its octets."""

    kind: str
    line: bytes
    body: bytes = b""
    last: bool = False


@attrs.define
class Model:
    """RFC 5321's sequencing, as a person would write it down.

    `expect` is given a step and returns the octets the client sends and, for each reply, the codes it may have.
    """

    lmtp: bool
    greeted: bool = False
    sender: bool = False
    recipients: int = 0
    tried: bool = False
    chunks: list[bytes] | None = None
    failed: bool = False
    over: bool = False
    delivered: list[bytes] = attrs.field(factory=list)

    def reset(self) -> None:
        self.sender, self.recipients, self.tried, self.chunks, self.failed = False, 0, False, None, False

    def expect(self, step: Step) -> tuple[bytes, list[set[int]]]:
        wire = step.line + b"\r\n"
        return getattr(self, f"_{step.kind}")(step, wire)  # type: ignore[no-any-return]

    def _fixed(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        # An error whatever the state, or something that is always answered alike.
        return wire, [{int(code) for code in reply.split(b"/")} for reply in step.body.split(b"+")]

    def _bad_rcpt(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        self.tried = True
        return wire, [{501}]

    def _hello(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        if (step.line[:1] == b"L") != self.lmtp:
            return wire, [{500}]
        self.greeted = True
        self.reset()
        return wire, [{250}]

    def _rset(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        self.reset()
        return wire, [{250}]

    def _quit(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        self.over = True
        return wire, [{221}]

    def _mail(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        if not self.greeted or self.sender:
            return wire, [{503}]
        if step.body:
            return wire, [{int(step.body)}]
        self.reset()
        self.sender = True
        return wire, [{250}]

    def _rcpt(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        self.tried = True
        if not self.sender or self.chunks is not None:
            return wire, [{503}]
        if step.body:
            return wire, [{int(step.body)}]
        self.recipients += 1
        return wire, [{250}]

    def _nobody(self) -> list[set[int]]:
        # RFC 5321 section 3.3 lets a server say either; RFC 2033 section 4.2 only the one.
        return [{503} if self.lmtp or not self.tried else {503, 554}]

    def _finish(self, body: bytes) -> list[set[int]]:
        code = 250
        if len(body) > MAX_SIZE:
            code = 552
        elif body.startswith(b"Subject: hello"):
            code = 554  # the handler refuses these when it has read them
        else:
            self.delivered.append(body)
        replies = [{code}] * (self.recipients if self.lmtp else 1)
        self.reset()
        return replies

    def _data(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        if self.chunks is not None:
            return wire, [{503}]
        if not self.recipients:
            return wire, self._nobody()
        stuffed = b"".join(b"." + line if line.startswith(b".") else line for line in step.body.splitlines(True))
        return wire + stuffed + b".\r\n", [{354}, *self._finish(step.body)]

    def _bdat(self, step: Step, wire: bytes) -> tuple[bytes, list[set[int]]]:
        wire += step.body
        if not self.recipients:
            return wire, self._nobody()
        self.chunks = [*(self.chunks or []), step.body]
        body = b"".join(self.chunks)
        if step.last:
            return wire, self._finish(body)
        self.failed = self.failed or len(body) > MAX_SIZE
        return wire, [{552 if self.failed else 250}]


BODIES = st.lists(st.sampled_from(LINES), max_size=8).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
CHUNKS = st.one_of(BODIES, st.binary(max_size=80), st.binary(min_size=MAX_SIZE + 1, max_size=MAX_SIZE + 5))

MAIL = [Step("mail", b"MAIL FROM:<a@example.org>"), Step("mail", b"mail from: <> BODY=8BITMIME SIZE=20")]
RCPT = [Step("rcpt", b"RCPT TO:<%s>" % to) for to in (b"b@example.com", b"@relay.example:c@example.com", b"Postmaster")]
DATA = BODIES.map(lambda body: Step("data", b"DATA", body))
BDAT = CHUNKS.map(lambda body: Step("bdat", b"BDAT %d" % len(body), body))
BDAT_LAST = CHUNKS.map(lambda body: Step("bdat", b"BDAT %d LAST" % len(body), body, last=True))

#: What is answered without leading anywhere, and mistakes.
OTHERS = [
    Step("mail", b"MAIL FROM:<refused@example.org>", b"550"),
    Step("rcpt", b"RCPT TO:<refused@example.com>", b"550"),
    Step("mail", b"MAIL FROM:<a@example.org> SIZE=601", b"552"),
    Step("rset", b"RSET"),
    Step("rset", b"rset \t "),
    Step("fixed", b"NOOP", b"250"),
    Step("fixed", b"NOOP DATA", b"250"),
    Step("fixed", b"HELP", b"214"),
    Step("fixed", b"VRFY somebody", b"252"),
    Step("fixed", b"RSET now", b"501"),
    Step("fixed", b"QUIT now", b"501"),
    Step("fixed", b"DATA now", b"501"),
    Step("fixed", b"MAIL FROM:<a@example.org> NONSENSE=1", b"555"),
    Step("fixed", b"MAIL FROM:<a@@example.org>", b"501"),
    Step("bad_rcpt", b"RCPT TO:<>"),
    Step("bad_rcpt", b"RCPT TO:nobody"),
    Step("fixed", b"STARTTLS", b"502"),
    Step("fixed", b"AUTH PLAIN", b"502/503"),
    Step("fixed", b"EXPN list", b"502"),
    Step("fixed", b"NONSENSE", b"500"),
    Step("fixed", b"", b"500"),
    Step("fixed", b"NOOP\0", b"500"),
    Step("fixed", b"NOOP \xff", b"500"),
    Step("fixed", b"NOOP\nXYZZY", b"250+500"),
    Step("fixed", b"NOOP\0QUIT", b"500"),
    Step("fixed", b"NOOP\rQUIT", b"500"),
    Step("fixed", b"NOOP " + b"QUIT " * 2000, b"500"),
    *(Step("hello", name + b" client.example") for name in (b"EHLO", b"HELO", b"LHLO")),
]

#: A whole transaction, with or without something in the way of it.
TRANSACTIONS = st.builds(
    lambda sender, recipients, odd, place, chunks, end: [
        *(steps := [sender, *recipients, *chunks])[: (cut := place % (len(steps) + 1))],
        *odd,
        *steps[cut:],
        end,
    ],
    st.sampled_from(MAIL),
    st.lists(st.sampled_from(RCPT), min_size=1, max_size=3),
    st.lists(st.sampled_from(OTHERS), max_size=1),
    st.integers(0, 10),
    st.lists(BDAT, max_size=2),
    st.one_of(DATA, BDAT_LAST),
)
STEPS = st.lists(
    st.one_of(
        TRANSACTIONS,
        st.sampled_from([*OTHERS, *MAIL, *RCPT, Step("quit", b"QUIT")]).map(lambda step: [step]),
        st.one_of(DATA, BDAT, BDAT_LAST).map(lambda step: [step]),
    ),
    min_size=2,
    max_size=8,
).map(lambda groups: [step for group in groups for step in group])


def model_app() -> tuple[App, list[bytes]]:
    app = App()
    delivered: list[bytes] = []

    @app.on_mail_from
    async def sender(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "refused":
            ctx.reject()

    @app.on_rcpt_to
    async def recipient(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "refused":
            ctx.reject()

    @app.on_data
    async def message(ctx: DataContext) -> None:
        body = await ctx.stream.read()
        if body.startswith(b"Subject: hello"):
            ctx.reject("no greetings", 554)
        delivered.append(body)

    return app, delivered


#: Holds a dialogue: segments in, all that the server said out.
Talk = Callable[[App, Config, Sequence[bytes]], bytes]


def through_trio(app: App, config: Config, segments: Sequence[bytes]) -> bytes:
    server = SMTPServer(app, config)
    said = b""

    async def main() -> None:
        nonlocal said
        said = await exchange(server, segments)

    run(main)
    assert server.sessions == []
    return said


def through_driver(app: App, config: Config, segments: Sequence[bytes]) -> bytes:
    return converse_with(Service(app, config), segments)


in_both_ways = pytest.mark.parametrize("talk", [through_trio, through_driver])


@in_both_ways
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=STEPS,
    cuts=st.lists(st.integers(0, 4000), max_size=12),
    lmtp=st.booleans(),
    in_order=st.sampled_from([True, True, True, False]),
)
def test_any_dialogue_goes_as_the_model_says(
    talk: Talk, steps: list[Step], cuts: list[int], lmtp: bool, in_order: bool
) -> None:
    model = Model(lmtp)
    if in_order:
        # So that most dialogues come to a transaction.
        steps = [Step("hello", b"LHLO client.example" if lmtp else b"EHLO client.example"), *steps]
    wire, expected = b"", [{220}]
    for step in steps:
        if not model.over:
            octets, codes = model.expect(step)
            wire += octets
            expected += codes
    app, delivered = model_app()
    config = Config(hostname="mx.example", lmtp=lmtp, max_message_size=MAX_SIZE, max_errors=1000)
    with watched_log(logging.ERROR):
        said = talk(app, config, cut_at(wire, *cuts))
    codes_said = [reply.code for reply in replies_in(said)]
    assert len(codes_said) == len(expected), (codes_said, expected)
    assert all(code in allowed for code, allowed in zip(codes_said, expected, strict=True)), (codes_said, expected)
    assert delivered == model.delivered


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"EHLO x\r\n",
            b"LHLO x\r\n",
            b"MAIL FROM:<a@b.example>\r\n",
            b"RCPT TO:<a@b.example>\r\n",
            b"DATA\r\n",
            b"\r\n.\r\n",
            b".\r\n",
            b"\n.\n",
            b"\r.\r",
            b"BDAT 7\r\n",
            b"BDAT 2 LAST\r\n",
            b"BDAT 99999999999999999999\r\n",
            b"AUTH PLAIN AGEAYg==\r\n",
            b"AUTH LOGIN\r\n",
            b"YQ==\r\n",
            b"*\r\n",
            b"STARTTLS\r\n",
            b"RSET\r\n",
            b"QUIT\r\n",
            b"XCLIENT ADDR=1.2.3.4\r\n",
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"a" * 3000,
            b"\r\n",
            b"\r",
            b"\n",
        ]
    ),
)


@in_both_ways
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(PIECES, max_size=30),
    cuts=st.lists(st.integers(0, 2000), max_size=10),
    normalize=st.booleans(),
    lmtp=st.booleans(),
)
def test_any_octets_are_answered_by_well_formed_replies(
    talk: Talk, pieces: list[bytes], cuts: list[int], normalize: bool, lmtp: bool
) -> None:
    wire = b"".join(pieces)
    app, _ = model_app()
    config = Config(hostname="mx.example", lmtp=lmtp, bare_newline="normalize" if normalize else "reject")
    with watched_log(logging.ERROR):
        said = talk(app, config, cut_at(wire, *cuts))
    replies = replies_in(said)
    # A line ends with LF at the least; beside one reply for each there are the greeting, and a last 421 or 5xx.
    most = wire.count(b"\n") + 2
    if lmtp:
        most += wire.count(b"RCPT TO:") * (wire.count(b".\r\n") + wire.count(b"LAST"))
    assert len(replies) <= most
    assert all(reply.code not in (221, 421, 521) for reply in replies[:-1])
