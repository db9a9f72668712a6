"""Delivery into a Redis stream, and reading from it: against redis-server."""

from __future__ import annotations

import gc
import logging
import re
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.corpus import MAILS
from tests.corpus_support import is_strict
from tests.redis_support import PATIENCE, Redis, running_redis
from trio_smtp import App, Reply
from trio_smtp.delivery.redis_stream import Mail, RedisFailure, consume, redis_stream
from trio_smtp.testing import Client, open_client

from .conftest import CertificateFiles

pytestmark = [
    pytest.mark.program("redis-server", "redis-cli"),
    # coredis leaves the buffers of a connection that was never made to the garbage collector.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]
SMALL = b"Subject: small\r\n\r\n.text\r\n"


@pytest.fixture(scope="module", autouse=True)
def _buffers_are_collected_here() -> Iterator[None]:  # and not in the test of another file, which would fail
    yield
    gc.collect()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    async with running_redis(tmp_path) as running:
        yield running


def app_for(url: str, **options: object) -> App:
    app = App()
    app.use(redis_stream(url, "mail", **options))  # type: ignore[arg-type]
    return app


@asynccontextmanager
async def opened(app: App) -> AsyncIterator[Client]:
    async with open_client(app) as client:
        await client.ehlo()
        yield client


async def send(client: Client, message: bytes = SMALL) -> Reply:
    return await client.send_message("a@example.org", ["b@example.com"], message)


async def store(url: str, *messages: bytes) -> list[str]:
    """Store messages; their ids."""
    async with opened(app_for(url)) as client:
        replies = [await send(client, message) for message in messages]
    assert [reply.code for reply in replies] == [250] * len(messages)
    return [reply.lines[0].removeprefix("Queued as ") for reply in replies]


async def take(url: str, count: int, *, ack: bool = True, consumer: str = "one", **options: object) -> list[Mail]:
    """Read so many mails."""
    found: list[Mail] = []
    with trio.fail_after(PATIENCE):
        async with consume(url, "mail", group="g", consumer=consumer, **options) as mails:  # type: ignore[arg-type]
            async for mail in mails:
                found.append(mail)
                if ack:
                    await mail.ack()
                if len(found) == count:
                    break
    return found


async def test_every_message_comes_out_octet_for_octet(redis: Redis) -> None:
    whole = [mail.octets if mail.octets.endswith(b"\r\n") else mail.octets + b"\r\n" for mail in MAILS]
    wanted = [octets for octets in whole if is_strict(octets)]
    assert len(wanted) > 100
    ids = await store(redis.url, *wanted)
    mails = await take(redis.url, len(wanted))
    assert [mail.id for mail in mails] == ids
    for mail, octets in zip(mails, wanted, strict=True):
        head = re.match(
            rb"Return-Path: <a@example.org>\r\nDelivered-To: b@example.com\r\nReceived: .*\r\n(\t.*\r\n)*", mail.data
        )
        assert head is not None
        separator = b"\r\n" if octets.startswith((b" ", b"\t")) else b""
        assert mail.data[len(head[0]) :] == separator + octets
    assert await redis.cli("XLEN", "mail") == "0"


async def test_a_large_body_has_a_key_of_its_own_until_it_is_acknowledged(redis: Redis) -> None:
    message = b"Subject: large\r\n\r\n" + b"line\r\n" * 20_000
    await store(redis.url, message)
    assert (await redis.cli("KEYS", "mail:body:*")).startswith("mail:body:")
    (mail,) = await take(redis.url, 1)
    assert mail.data.endswith(message)
    assert mail.tries == 1
    assert mail.envelope.sender == "a@example.org"
    assert [each.address for each in mail.envelope.recipients] == ["b@example.com"]
    assert await redis.cli("KEYS", "mail:body:*") == ""


async def test_what_was_not_acknowledged_comes_first_after_a_restart(redis: Redis) -> None:
    first, second = await store(redis.url, SMALL, SMALL)
    assert [mail.id for mail in await take(redis.url, 1, ack=False)] == [first]
    again = await take(redis.url, 2)
    assert [(mail.id, mail.tries) for mail in again] == [(first, 2), (second, 1)]


async def test_another_consumer_claims_what_a_dead_one_held(redis: Redis) -> None:
    (held,) = await store(redis.url, SMALL)
    await take(redis.url, 1, ack=False, consumer="dead")
    (mail,) = await take(redis.url, 1, consumer="alive", claim_after=0.05)
    assert (mail.id, mail.tries) == (held, 2)


async def test_dead_letters_keep_everything(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    poison = b"Subject: poison\r\n\r\n" + b"line\r\n" * 20_000
    (dead,) = await store(redis.url, poison)
    for _ in range(2):
        await take(redis.url, 1, ack=False, tries=2)
    (alive,) = await store(redis.url, SMALL)
    assert [mail.id for mail in await take(redis.url, 1, tries=2)] == [alive]
    letter = await redis.cli("XRANGE", "mail:dead", "-", "+")
    for part in (dead, "a@example.org", "mail:body:", "given out 2 times and never acknowledged"):
        assert part in letter
    assert await redis.cli("XLEN", "mail") == "0"
    assert await redis.cli("KEYS", "mail:body:*") != ""
    assert "goes to 'mail:dead'" in caplog.text


async def test_malformed_entries_do_not_stop_the_consumer(redis: Redis) -> None:
    await redis.cli("XADD", "mail", "*", "envelope", "{}", "data", "x")
    await redis.cli("XADD", "mail", "*", "other", "x")
    await redis.cli("XADD", "mail", "*", "envelope", "{}", "body", "gone")
    await redis.cli("SADD", "aset", "x")
    await redis.cli("XADD", "mail", "*", "envelope", "{}", "body", "aset")
    (mail,) = await store(redis.url, SMALL)
    assert [each.id for each in await take(redis.url, 1)] == [mail]
    letters = await redis.cli("XRANGE", "mail:dead", "-", "+")
    for reason in ("version None of the envelope is not known", "there is no data", "its body is gone"):
        assert reason in letters
    assert await redis.cli("XLEN", "mail:dead") == "4"


async def test_an_entry_that_was_deleted_while_it_was_pending_is_passed_over(redis: Redis) -> None:
    first, second = await store(redis.url, SMALL, SMALL)
    await take(redis.url, 1, ack=False)
    await redis.cli("XDEL", "mail", first)
    assert [mail.id for mail in await take(redis.url, 1)] == [second]


async def test_several_consumers_share_the_mail(redis: Redis) -> None:
    ids = await store(redis.url, *[SMALL] * 20)
    found: list[str] = []

    async def work(name: str) -> None:
        async with consume(redis.url, "mail", group="g", consumer=name) as mails:
            async for mail in mails:
                found.append(mail.id)
                await mail.ack()
                if len(found) == len(ids):
                    nursery.cancel_scope.cancel()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(work, f"consumer{number}")
    assert sorted(found) == sorted(ids)


async def test_several_groups_read_everything(redis: Redis) -> None:
    ids = await store(redis.url, SMALL)
    for group in ("index", "archive"):
        async with consume(redis.url, "mail", group=group, consumer="c", delete=False) as mails:
            mail = await mails.__anext__()
            await mail.ack()
            await mail.ack()
            assert [mail.id] == ids


async def test_a_consumer_that_is_cancelled_while_it_waits_goes_on(redis: Redis) -> None:
    async with consume(redis.url, "mail", group="g", consumer="c", claim_after=30) as mails:
        with trio.move_on_after(0.2) as scope:
            await mails.__anext__()
        assert scope.cancelled_caught
        (stored,) = await store(redis.url, SMALL)
        with trio.fail_after(PATIENCE):
            held = await mails.__anext__()
            assert held.id == stored
            with trio.move_on_after(0.2):
                await mails.__anext__()
            # What is held here is not given out again as this consumer's own.
            (other,) = await store(redis.url, SMALL)
            assert (await mails.__anext__()).id == other


async def test_redis_is_killed_and_comes_back(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with (
        opened(app_for(redis.url)) as client,
        consume(redis.url, "mail", group="g", consumer="c") as mails,
    ):
        assert (await send(client)).code == 250
        mail = await mails.__anext__()
        await redis.kill()
        assert (await send(client)).code == 451
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mail.ack)
            await trio.sleep(0.05)
            await redis.start()
        reply = await send(client)
        assert reply.code == 250
        with trio.fail_after(PATIENCE):
            assert (await mails.__anext__()).id in reply.lines[0]
    assert "answers again" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_redis_that_hangs_is_waited_for_no_longer_than_the_timeout(redis: Redis) -> None:
    async with opened(app_for(redis.url, timeout=0.3, connections=2)) as client:
        assert (await send(client)).code == 250
        await redis.kill(signal.SIGSTOP)
        try:
            for _ in range(3):  # more than there are connections: none is lost
                assert (await send(client)).code == 451
        finally:
            await redis.kill(signal.SIGCONT)
        await redis.cli("CLIENT", "PAUSE", "300", "WRITE")
        assert (await send(client)).code == 451
        with trio.fail_after(PATIENCE):
            while (await send(client)).code != 250:  # noqa: ASYNC110 - a program
                await trio.sleep(0.05)


async def test_a_full_redis(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(app_for(redis.url, inline=10_000)) as client:
        await redis.cli("CONFIG", "SET", "maxmemory", "1")
        for message in (SMALL, b"x\r\n" * 5_000):
            reply = await send(client, message)
            assert (reply.code, reply.enhanced) == (452, "4.3.1")
        assert caplog.text.count("OOM") == 2
        await redis.cli("CONFIG", "SET", "maxmemory", "0")
        assert (await send(client)).code == 250
        assert await redis.cli("KEYS", "mail:body:*") == ""


async def test_a_key_of_another_type_leaves_no_body_behind(redis: Redis) -> None:
    await redis.cli("SET", "mail", "x")
    async with opened(app_for(redis.url, inline=10)) as client:
        assert (await send(client)).code == 451
    assert await redis.cli("KEYS", "mail:body:*") == ""
    with pytest.raises(RedisFailure, match="wrong kind of value"):
        await take(redis.url, 1)


async def test_a_password_that_is_wrong_or_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_redis(tmp_path, "--requirepass", "s3cret") as redis:
        right, wrong = (redis.url.replace("unix://", f"unix://:{secret}@") for secret in ("s3cret", "wr0ng"))
        async with opened(app_for(right)) as client:
            assert (await send(client)).code == 250
        for url in (wrong, redis.url):
            async with opened(app_for(url)) as client:
                assert (await send(client)).code == 451
            with pytest.raises(RedisFailure, match="unix://"):
                await take(url, 1)
        assert (await take(right, 1))[0].tries == 1
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


async def test_a_user_who_may_not_see_the_configuration(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    await redis.cli("ACL", "SETUSER", "front", "on", ">pw", "~mail*", "+xadd", "+set", "+multi", "+exec", "+unlink")
    url = redis.url.replace("unix://", "unix://front:pw@")
    async with opened(app_for(url)) as client:
        assert (await send(client)).code == 250
    assert "may lose" not in caplog.text


async def test_it_warns_of_a_redis_that_may_lose_mail(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    await store(redis.url, SMALL)
    assert "may" not in caplog.text
    await redis.cli("CONFIG", "SET", "appendfsync", "everysec")
    await redis.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await store(redis.url, SMALL)
    assert "may lose mail in a crash" in caplog.text
    assert "may evict mail" in caplog.text


async def test_replicas(redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"replicas": 1, "replica_timeout": 0.2, "inline": 10_000}
    async with opened(app_for(redis.url, **options)) as client:
        for message in (SMALL, b"x\r\n" * 5_000):
            assert (await send(client, message)).code == 451
        assert "only 0 of 1 replicas have" in caplog.text
    # A replica needs a port of its primary's.
    with trio.socket.socket() as free:
        await free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    await redis.cli("CONFIG", "SET", "port", str(port))
    async with running_redis(tmp_path, "--replicaof", f"127.0.0.1 {port}", name="replica") as replica:
        with trio.fail_after(PATIENCE):
            while "master_link_status:up" not in await replica.cli("INFO", "replication"):  # noqa: ASYNC110 - a program
                await trio.sleep(0.05)
        async with opened(app_for(redis.url, **{**options, "replica_timeout": 5.0})) as client:
            for message in (SMALL, b"x\r\n" * 5_000):
                assert (await send(client, message)).code == 250
        assert await replica.cli("XLEN", "mail") == "4"


async def test_trimming_drops_the_oldest(redis: Redis) -> None:
    async with opened(app_for(redis.url, trim=1, inline=0)) as client:
        for _ in range(250):
            assert (await send(client)).code == 250
    assert int(await redis.cli("XLEN", "mail")) < 250
    assert await redis.cli("KEYS", "mail:body:*") == ""


async def test_a_group_that_vanishes_is_made_again(redis: Redis) -> None:
    async with consume(redis.url, "mail", group="g", consumer="c") as mails:
        (first,) = await store(redis.url, SMALL)
        assert (await mails.__anext__()).id == first
        await redis.cli("FLUSHALL")
        (second,) = await store(redis.url, SMALL)
        with trio.fail_after(PATIENCE):
            assert (await mails.__anext__()).id == second


async def test_the_rights_that_the_page_names_are_enough(redis: Redis) -> None:
    page = (Path(__file__).parent.parent / "docs" / "redis.md").read_text(encoding="utf-8")
    writer, reader = (re.findall(r"\+[a-z]+", rights) for rights in re.findall(r"`((?:\+[a-z]+ ?){5,})`", page))
    for name, rights in (("writer", writer), ("reader", reader)):
        await redis.cli("ACL", "SETUSER", name, "on", ">pw", "~mail", "~mail:*", *rights)
    written, read = (redis.url.replace("unix://", f"unix://{name}:pw@") for name in ("writer", "reader"))
    await redis.cli("XADD", "mail", "*", "other", "x")
    large = b"line\r\n" * 20_000
    ids = await store(written, SMALL, large)
    await take(read, 1, ack=False)
    assert [mail.id for mail in await take(read, 2)] == ids
    assert await redis.cli("XLEN", "mail:dead") == "1"


async def test_tls_and_a_certificate_that_is_not_trusted(
    tmp_path: Path, certificate_files: CertificateFiles, ca_file: Path, client_ssl_context: ssl.SSLContext
) -> None:
    with trio.socket.socket() as free:
        await free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ["--tls-port", port, "--tls-cert-file", str(certificate_files.cert), "--tls-auth-clients", "no"]
    options += ["--tls-key-file", str(certificate_files.key), "--tls-ca-cert-file", str(ca_file), "--bind", "127.0.0.1"]
    async with running_redis(tmp_path, *options):
        url = f"rediss://127.0.0.1:{port}"
        async with opened(app_for(url, ssl_context=client_ssl_context)) as client:
            assert (await send(client)).code == 250
        assert len(await take(url, 1, ssl_context=client_ssl_context)) == 1
        async with opened(app_for(url)) as client:
            assert (await send(client)).code == 451
