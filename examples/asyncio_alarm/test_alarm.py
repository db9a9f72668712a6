"""Tests of the alarms: ``pytest examples/asyncio_alarm`` with aiosmtplib and pytest-asyncio installed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import alarm
import pytest

from trio_smtp.testing import MailServer


@asynccontextmanager
async def working() -> AsyncIterator[asyncio.Queue[str]]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    worker = asyncio.create_task(alarm.work(queue, pause=0.01))
    yield queue
    await queue.join()
    worker.cancel()


@pytest.fixture(autouse=True)
def where(mailserver: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in mailserver.env().items():
        monkeypatch.setenv(name, text)


@pytest.mark.asyncio
async def test_an_alarm_is_sent(mailserver: MailServer) -> None:
    async with working() as queue:
        queue.put_nowait("Disk full")
        mail = await mailserver.wait_for_async(to="ops@*", subject="Disk full")
        assert mail.text == "Disk full, please look.\n"


@pytest.mark.asyncio
async def test_alarms_go_on_after_a_failure(mailserver: MailServer) -> None:
    mailserver.fail(at="connect", code=421, times=1)
    mailserver.reset(at="data", times=1)
    async with working() as queue:
        queue.put_nowait("Disk full")
        queue.put_nowait("Fan broken")
        await mailserver.wait_for_async(subject="Fan broken")
    assert [mail.subject for mail in mailserver.messages] == ["Disk full", "Fan broken"]


@pytest.mark.asyncio
async def test_an_alarm_whose_reply_is_lost_comes_twice(mailserver: MailServer) -> None:
    mailserver.disconnect(at="end", before_reply=True, times=1)
    async with working() as queue:
        queue.put_nowait("Disk full")
    assert [mail.subject for mail in mailserver.messages] == ["Disk full", "Disk full"]
