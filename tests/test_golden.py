"""What a user sees of the library stays: the octets on the wire and the lines of the log, compared with recordings.

Each case is a client whose octets are played to a server in memory three times: in one piece, turn by turn, and octet
by octet. Time is virtual. What was seen stands in tests/golden, a file for each group and a section for each case:
``S:`` is what the server said, the rest is the log from DEBUG on, and what the handlers printed.

A change that is meant is recorded by ``RECORD_GOLDEN=1 python -m pytest tests/test_golden.py``; the diff of
tests/golden is then what to review.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from trio_smtp import App, AuthContext, Config

from . import test_extension_transcripts as extension_transcripts
from . import test_transcripts as smtp_transcripts
from .fuzz_configs import FUZZ_CONFIGS
from .golden_support import HANDSHAKE, RECORDING, Case, compare, observed, recorded, write
from .hostile.support import Mailbox
from .test_examples import ALICE, EXAMPLES, load

ROOT = Path(__file__).parent.parent
T = TypeVar("T")


def config(**fields: Any) -> Config:
    return Config(**{"hostname": "mx.example"} | fields)


# The transcripts

_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}


def unescape(text: str) -> bytes:
    def meant(match: re.Match[str]) -> bytes:
        return bytes.fromhex(match[1]) if match[1] else _ESCAPES[match[2]].encode()

    wire, end = b"", 0
    for match in re.finditer(r"\\(?:x([0-9A-Fa-f]{2})|([rnt0\\]))", text):
        wire += text[end : match.start()].encode() + meant(match)
        end = match.end()
    return wire + text[end:].encode()


def turns_of(transcript: str) -> tuple[bytes, ...]:
    """What the client of a transcript says between the replies."""
    turns = [b""]
    for line in transcript.splitlines():
        if line.startswith("S:") and turns[-1]:
            turns.append(b"")
        elif line.startswith(("C:", "C=")):
            turns[-1] += unescape(line[2:].removeprefix(" ")) + (b"\r\n" if line.startswith("C:") else b"")
    return tuple(turn for turn in turns if turn)


def smtp_transcript_cases() -> dict[str, Case]:
    cases = {}
    for path in smtp_transcripts.TRANSCRIPTS:
        transcript = path.read_text(encoding="utf-8")
        fields = smtp_transcripts.config_of(transcript)

        def app(auth: bool = "allow_insecure_auth" in fields) -> App:
            return smtp_transcripts.transcript_app(auth=auth)

        cases[path.stem] = Case(app, config(**fields), turns_of(transcript))
    return cases


def extension_transcript_cases() -> dict[str, Case]:
    cases = {}
    for path in sorted(extension_transcripts.TRANSCRIPTS.glob("*.txt")):
        transcript = path.read_text(encoding="utf-8")
        fields, peer = extension_transcripts.config_of(transcript), extension_transcripts.peer_of(transcript)
        cases[path.stem] = Case(extension_transcripts.make_app, config(**fields), turns_of(transcript), peer)
    return cases


# What fuzzing begins with


def fuzz_app() -> App:
    app = Mailbox().app

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        if ctx.credentials.username != "no":
            ctx.accept()

    return app


#: More of what the configs offer than the seeds ask for.
EXTENSIONS = b"""\
EHLO x
AUTH CRAM-MD5
YSAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMA==
MAIL FROM:<a@b.example> HOLDFOR=60 BY=100;R MT-PRIORITY=3 RET=HDRS ENVID=QQ+2B X-OTHER=1
RCPT TO:<c@d.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c@d.example
XCLIENT NAME=x
BDAT 5 LAST
HelloQUIT
"""


def fuzz_cases() -> dict[str, Case]:
    seeds = {path.name: path.read_bytes()[2:] for path in sorted((ROOT / "fuzz" / "seeds" / "dialogue").iterdir())}
    seeds["extensions"] = EXTENSIONS.replace(b"\n", b"\r\n")
    return {
        f"{seed} ({name})": Case(fuzz_app, fields, tuple(wire.splitlines(keepends=True)))
        for name, fields in FUZZ_CONFIGS.items()
        for seed, wire in seeds.items()
    } | {
        "extensions (everything, trusted)": Case(
            fuzz_app, FUZZ_CONFIGS["everything"], tuple(seeds["extensions"].splitlines(keepends=True)), "192.0.2.1"
        )
    }


# The examples

MESSAGE = (b"DATA\r\n", b"Subject: Hello\r\n\r\n..\r\nIt works.\r\n.\r\n")


def lines(*texts: str) -> tuple[bytes, ...]:
    return tuple(text.encode() + b"\r\n" for text in texts)


def transaction(sender: str, *recipients: str) -> tuple[bytes, ...]:
    """From MAIL to the end of a message."""
    return lines(f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)) + MESSAGE


def example(name: str) -> Callable[[], App]:
    def app() -> App:
        made = load(name).app
        assert isinstance(made, App)
        return made

    return app


def example_cases() -> dict[str, Case]:
    hello, bye = lines("EHLO client.example"), lines("QUIT")
    bob, carol, eve = "bob@example.com", "carol@example.com", "eve@elsewhere.example"
    log_in = "AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAGNvcnJlY3QgaG9yc2UgYmF0dGVyeSBzdGFwbGU="
    auth = [*transaction(ALICE, bob), *lines("AUTH PLAIN AGFsaWNlAHdyb25n", "NOOP alice wrong", log_in)]
    auth += [*transaction(eve, bob), *transaction(ALICE, bob)]
    starttls = [*hello, *transaction(ALICE, bob), *lines("STARTTLS"), HANDSHAKE, *hello, *transaction(ALICE, bob)]
    encrypted = config(ssl_context=load("starttls").load_context([]), starttls_required=True)
    cases = {
        "smallest": Case(example("smallest"), config(), (*hello, *transaction(ALICE, bob, carol), *bye)),
        "domain_filter": Case(
            example("domain_filter"),
            config(),
            (*hello, *transaction(ALICE, eve), *lines("RSET"), *transaction(ALICE, bob, eve), *bye),
        ),
        "auth": Case(example("auth"), config(auth_required=True, allow_insecure_auth=True), (*hello, *auth, *bye)),
        "starttls": Case(example("starttls"), encrypted, (*starttls, *bye)),
        "memory_channel": Case(example("memory_channel"), config(), (*hello, *transaction("", bob), *bye)),
        "test_my_handlers": Case(
            example("test_my_handlers"), config(), (*lines("HELO me"), *transaction(ALICE, carol, "bob@x"), *bye)
        ),
    }
    # These write files, need a next server, or run a loop of their own; tests/test_examples.py, tests/relay and
    # tests/test_background_docs.py run them.
    others = {"resources", "spool", "smarthost", "gateway", "tls_front", "lmtp_behind_postfix", "inside_asyncio"}
    assert {*cases, *others} == {path.stem for path in EXAMPLES.glob("*.py")}
    return cases


# Clients that fall silent, and handlers that fail


def silence_cases() -> dict[str, Case]:
    start = lines("EHLO client.example", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>")
    ends = {
        "at once": (),
        "after EHLO": start[:1],
        "in a line": (b"EHLO cli",),
        "after RCPT": start,
        "after DATA": (*start, b"DATA\r\n"),
        "in a message": (*start, b"DATA\r\n", b"Subject: half\r\n"),
        "in a chunk": (*start, b"BDAT 10\r\nhalf"),
        "after a chunk": (*start, b"BDAT 4\r\nhalf"),
        "in AUTH": (*start[:1], b"AUTH PLAIN\r\n"),
    }
    return {name: Case(fuzz_app, config(allow_insecure_auth=True), turns, silent=True) for name, turns in ends.items()}


def failing_app(phase: str) -> App:
    app = fuzz_app()

    async def fail(ctx: object) -> None:
        raise LookupError("nothing there")

    getattr(app, phase)(fail)
    return app


def failure_cases() -> dict[str, Case]:
    log_in = lines("EHLO client.example", "AUTH PLAIN AGEAYg==", "VRFY b")
    turns = (*log_in, *transaction("a@example.org", "b@example.com"), *lines("QUIT"))
    phases = ("connect", "helo", "auth", "mail_from", "rcpt_to", "data_start", "data", "vrfy", "close")
    return {
        f"on_{phase}": Case(partial(failing_app, f"on_{phase}"), config(allow_insecure_auth=True), turns)
        for phase in phases
    }


GROUPS = {
    "smtp_transcripts": smtp_transcript_cases(),
    "extension_transcripts": extension_transcript_cases(),
    "fuzz_seeds": fuzz_cases(),
    "examples": example_cases(),
    "silence": silence_cases(),
    "failures": failure_cases(),
}


async def run_here(function: Callable[..., T], *args: object, limiter: object = None) -> T:
    """Stands in for a thread: virtual time would not wait for one."""
    await trio.lowlevel.checkpoint()
    return function(*args)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize(("group", "name"), [(group, name) for group, cases in GROUPS.items() for name in cases])
def test_what_is_seen_is_what_was_recorded(group: str, name: str) -> None:
    sections, now = recorded(group), observed(GROUPS[group][name])
    if RECORDING:
        sections[name] = now
        write(group, {case: sections[case] for case in GROUPS[group] if case in sections})
    compare(f"{group}: {name}", recorded(group).get(name), now)


@pytest.mark.parametrize("group", GROUPS)
def test_the_recordings_are_of_these_cases(group: str) -> None:
    assert list(recorded(group)) == list(GROUPS[group])
