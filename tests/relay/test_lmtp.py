"""`lmtp` before the library's own LMTP server, and before servers with a script: a verdict for each recipient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.client.support import Lines, Mailbox, Script
from trio_smtp import Address, App, Config, DataContext, RcptToContext, Reply
from trio_smtp.delivery.lmtp import Mixed, lmtp

from .support import LMTP, MAIL, before, before_scripts, shown

BACK = Config(hostname="mx.example", lmtp=True, dsn=True)
FULL = "452 4.2.2 Mailbox full"


def quotas(box: Mailbox) -> App:
    """Takes a message, but for recipients whose mailboxes are full."""

    @box.app.on_data
    async def judge(ctx: DataContext) -> None:
        for recipient in ctx.recipients:
            if recipient.local_part.startswith("full"):
                ctx.reject_recipient(recipient, "Mailbox full", 452, enhanced="4.2.2")
            elif recipient.local_part.startswith("over"):
                ctx.reject_recipient(recipient, "Over quota", 552, enhanced="5.2.2")

    return box.app


async def test_an_lmtp_front_is_exact() -> None:
    box = Mailbox()
    async with before(quotas(box), BACK, LMTP) as front:
        assert await front.begin("b@example.com", "full@example.com", "c@example.com") == [250] * 4
        assert await front.data(replies=3) == ["250 2.0.0 Message accepted", FULL, "250 2.0.0 Message accepted"]
        assert await front.begin("over@example.com", "full@example.com") == [250] * 3
        assert await front.data(replies=2) == ["552 5.2.2 Over quota", FULL]
    assert box.messages == [MAIL] * 2
    assert (front.relay.stats.accepted, front.relay.stats.refused) == (1, 1)


async def test_one_recipient_at_a_time() -> None:
    box = Mailbox()
    async with before(quotas(box), BACK) as front:
        assert await front.begin("b@example.com", "c@example.com") == [250, 250, 452]
        assert await front.data() == ["250 2.0.0 Message accepted"]
        assert await front.begin("full@example.com") == [250, 250]
        assert await front.data() == [FULL]
        reply = await front.client.command("RCPT TO:<x@example.com>")
        assert reply.code == 503
    assert [len(envelope.rcpt_to) for envelope, _ in box.taken] == [1, 1]


@pytest.mark.parametrize(
    ("mixed", "recipients", "answer", "told"),
    [
        ("accept", ("b", "full", "over"), "250 2.0.0 Message accepted", {"full": 452, "over": 552}),
        ("accept", ("b", "c"), "250 2.0.0 Message accepted", {}),
        ("accept", ("full", "full2"), FULL, {}),
        ("accept", ("over", "full"), FULL, {}),
        ("accept", ("over", "over2"), "552 5.2.2 Over quota", {}),
        ("retry", ("b", "over"), "451 4.3.0 Not all recipients could be served", {}),
        ("retry", ("b", "c"), "250 2.0.0 Message accepted", {}),
        ("retry", ("over", "over2"), "552 5.2.2 Over quota", {}),
    ],
)
async def test_one_reply_for_several_verdicts(
    mixed: Mixed, recipients: tuple[str, ...], answer: str, told: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    box = Mailbox()
    seen: dict[str, int] = {}

    async def on_refused(refused: Mapping[Address, Reply], ctx: DataContext) -> None:
        assert ctx.stream.finished
        seen.update({recipient.local_part: reply.code for recipient, reply in refused.items()})

    async with before(quotas(box), BACK, mixed=mixed, on_refused=on_refused if told else None) as front:
        assert await front.begin(*(f"{name}@example.com" for name in recipients)) == [250] * (len(recipients) + 1)
        assert await front.data() == [answer]
    assert seen == told
    if mixed == "accept":
        assert all(
            f"<{name}@example.com> has not got the message: {code}" in caplog.text for name, code in told.items()
        )


async def test_without_on_refused_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    async with before(quotas(Mailbox()), BACK, mixed="accept") as front:
        await front.begin("b@example.com", "full@example.com")
        assert await front.data() == ["250 2.0.0 Message accepted"]
    assert "<full@example.com> has not got the message: 452" in caplog.text


async def test_on_refused_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def on_refused(refused: Mapping[Address, Reply], ctx: DataContext) -> None:
        raise LookupError("no database")

    async with before(quotas(Mailbox()), BACK, mixed="accept", on_refused=on_refused) as front:
        await front.begin("b@example.com", "full@example.com")
        assert await front.data() == ["250 2.0.0 Message accepted"]
    assert "on_refused failed" in caplog.text
    assert "no database" in caplog.text


@pytest.mark.parametrize("front_config", [LMTP, None])
async def test_recipients_that_handlers_have_added(front_config: Config | None, caplog: Any) -> None:
    """Nobody but the log, and `on_refused`, can be told of theirs."""
    box, app = Mailbox(), App()
    told: list[str] = []

    @app.on_data
    async def add(ctx: DataContext) -> None:
        ctx.envelope.rcpt_to.append(Address.parse("full@example.com"))

    async def on_refused(refused: Mapping[Address, Reply], ctx: DataContext) -> None:
        told.extend(map(str, refused))

    async with before(quotas(box), BACK, front_config, app=app, on_refused=on_refused) as front:
        await front.begin("b@example.com")
        assert await front.data() == ["250 2.0.0 Message accepted"]
    assert told == ["full@example.com"]
    assert "<full@example.com> has not got the message: 452" in caplog.text


async def test_recipients_that_handlers_have_refused() -> None:
    box, app = Mailbox(), App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        for recipient in ctx.recipients:
            if recipient.local_part.startswith("no"):
                ctx.reject_recipient(recipient, "Not this one", 550)

    async with before(box.app, BACK, LMTP, app=app) as front:
        await front.begin("no@example.com", "b@example.com")
        replies = await front.data(replies=2)
        assert [reply[:3] for reply in replies] == ["550", "250"]
        await front.begin("no@example.com", "no2@example.com")
        replies = await front.data(replies=2)
        assert [reply[:3] for reply in replies] == ["550", "550"]
    ((envelope, _),) = box.taken
    assert [str(each) for each in envelope.rcpt_to] == ["b@example.com"]


@pytest.mark.parametrize("others", [(), ("d@example.com",)])
async def test_recipients_that_are_refused_when_the_transaction_is_begun_anew(others: tuple[str, ...]) -> None:
    """Each is told so; the others get the message."""
    box, app = Mailbox(), App()
    asked: list[str] = []

    @box.app.on_rcpt_to
    async def once(ctx: RcptToContext) -> None:
        asked.append(ctx.address.local_part)
        if asked.count("c") > 1 and ctx.address.local_part == "c":
            ctx.reject("Gone meanwhile", 550, enhanced="5.1.1")

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        ctx.reject_recipient(ctx.recipients[0], "Not this one", 550)

    async with before(box.app, BACK, LMTP, app=app) as front:
        await front.begin("b@example.com", "c@example.com", *others)
        replies = await front.data(replies=2 + len(others))
        assert replies[1] == "550 5.1.1 Gone meanwhile"
        assert [reply[:3] for reply in replies] == ["550", "550", *["250"] * len(others)]
    assert [str(each) for envelope, _ in box.taken for each in envelope.rcpt_to] == [*others]


def ends_with(*replies: bytes) -> Script:
    """An LMTP server that answers a message with these octets, and is gone."""

    async def serve(stream: Any) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        while (line := await lines.next()) is not None:
            if line == b"DATA":
                await stream.send_all(b"354 go\r\n")
                while await lines.next() != b".":
                    pass
                await stream.send_all(b"".join(replies))
                return
            await stream.send_all(b"250 ok\r\n")

    return serve


@pytest.mark.parametrize(
    ("replies", "codes", "uncertain"),
    [
        ((b"250 ok\r\n", b"550 no\r\n"), ["250", "550", "451"], 1),
        ((b"250 ok\r\n",), ["250", "451", "451"], 1),
        ((), ["451", "451", "451"], 1),
        ((b"250 ok\r\n", b"nonsense\r\n"), ["250", "451", "451"], 1),
        ((b"250 ok\r\n", b"421 bye\r\n"), ["250", "451", "451"], 0),
        ((b"550 no\r\n", b"354 what\r\n"), ["550", "451", "451"], 1),
        ((b"421 bye\r\n",), ["451", "451", "451"], 0),
        ((b"250 ok\r\n", b"521 no\r\n", b"450 later\r\n"), ["250", "451", "450"], 0),
    ],
)
async def test_a_connection_that_breaks_between_two_verdicts(
    replies: tuple[bytes, ...], codes: list[str], uncertain: int, autojump_clock: Any
) -> None:
    """Whoever has the message by then is told so."""
    names = ("b@example.com", "c@example.com", "d@example.com")
    async with before_scripts(ends_with(*replies), front_config=LMTP, to_lmtp=True) as front:
        assert await front.begin(*names) == [250] * 4
        assert [reply[:3] for reply in await front.data(replies=3)] == codes
        assert (await front.client.command("NOOP")).code == 250
        assert shown(await front.client.command("MAIL FROM:<a@example.org>")).startswith("451 4.4.1")
    assert front.relay.stats.uncertain == uncertain
    assert front.relay.stats.failed == uncertain + 1


@pytest.mark.parametrize(
    ("url", "options", "names"),
    [("smtp://mx", {}, "url"), ("lmtp://mx", {"mixed": "some"}, "mixed"), ("lmtp+unix:relative", {}, "url")],
)
def test_arguments_that_are_not_allowed(url: str, options: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        lmtp(url, **options)
