"""What a Redis that is away, slow or talks nonsense does to the delivery and to a consumer; no Redis is needed."""

from __future__ import annotations

import gc
import json
import logging
import re
import ssl
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.redis_support import NIL, PATIENCE, Answer, bulk, fake_redis
from trio_smtp import App, Config, DataContext, Reply
from trio_smtp.delivery import redis_stream as module
from trio_smtp.delivery._redis import RedisFailure, _Connection, parse_target
from trio_smtp.delivery._stream_entry import decode_envelope
from trio_smtp.delivery.redis_stream import _Writer, consume, redis_stream
from trio_smtp.testing import open_client

pytestmark = pytest.mark.filterwarnings(
    # coredis leaves the buffers of a connection that was never made to the garbage collector.
    "ignore:Unclosed <MemoryObject:ResourceWarning"
)
ID = bulk(b"1-0")
SMALL = b"Subject: small\r\n\r\ntext\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"line\r\n" * 20_000
QUEUED: dict[bytes, Answer] = {b"SET": b"+QUEUED\r\n", b"XADD": b"+QUEUED\r\n"}
ENVELOPE = {
    "version": 1,
    "sender": "",
    "recipients": [{"address": "b@example.com", "original": None, "parameters": {}}],
    "parameters": {"BODY": "8BITMIME"},
    "received": "2026-12-01T00:00:00Z",
    "session": {
        "id": "x-1",
        "address": None,
        "port": 25,
        "hostname": "unknown",
        "hostname_verified": False,
        "helo": None,
        "protocol": "ESMTPS",
        "secure": True,
        "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256"},
        "user": "u",
        "mechanism": "PLAIN",
    },
}


@pytest.fixture(scope="module", autouse=True)
def _buffers_are_collected_here() -> Iterator[None]:  # and not in the test of another file, which would fail
    yield
    gc.collect()


async def send(url: str, message: bytes = SMALL, **options: Any) -> Reply:
    app = App()
    app.use(redis_stream(url, "mail", **options))
    async with open_client(app) as client:
        await client.ehlo()
        return await client.send_message("a@example.org", ["b@example.com"], message)


@pytest.mark.parametrize(
    ("message", "answers", "code"),
    [
        pytest.param(SMALL, {b"XADD": ID}, 250, id="an id"),
        pytest.param(b" folded\r\n", {b"XADD": ID}, 250, id="a message that begins with a blank"),
        pytest.param(SMALL, {}, 451, id="OK in the place of an id"),
        pytest.param(SMALL, {b"XADD": b"?what\r\n"}, 451, id="no RESP"),
        pytest.param(SMALL, {b"XADD": b":x\r\n"}, 451, id="no number"),
        pytest.param(SMALL, {b"XADD": b"close"}, 451, id="closed"),
        pytest.param(SMALL, {b"HELLO": b"close"}, 451, id="closed at once"),
        pytest.param(SMALL, {b"HELLO": b"+OK\r\n"}, 451, id="an odd HELLO"),
        pytest.param(SMALL, {b"HELLO": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, 451, id="a web server"),
        pytest.param(SMALL, {b"HELLO": b"-ERR unknown command `HELLO`\r\n"}, 451, id="too old"),
        pytest.param(SMALL, {b"XADD": b"-OOM no memory\r\n"}, 452, id="full"),
        pytest.param(SMALL, {b"XADD": b"-MISCONF No space left on device\r\n"}, 452, id="the disk is full"),
        pytest.param(SMALL, {b"XADD": b"-LOADING wait\r\n"}, 451, id="loading"),
        pytest.param(SMALL, {b"XADD": b"-READONLY a replica\r\n"}, 451, id="a replica"),
        pytest.param(SMALL, {b"XADD": b"-NOPERM no\r\n"}, 451, id="not allowed"),
        pytest.param(SMALL, {b"XADD": b"-WRONGTYPE no\r\n"}, 451, id="another type"),
        pytest.param(LARGE, {**QUEUED, b"EXEC": b"*2\r\n+OK\r\n" + ID}, 250, id="in one MULTI"),
        pytest.param(LARGE, {**QUEUED, b"EXEC": b"*1\r\n+OK\r\n"}, 451, id="too few replies"),
        pytest.param(LARGE, {b"EXEC": b"*2\r\n+OK\r\n" + ID}, 451, id="not queued"),
        pytest.param(LARGE, {**QUEUED, b"EXEC": b"*2\r\n+OK\r\n-WRONGTYPE no\r\n"}, 451, id="a late error"),
        pytest.param(LARGE, {**QUEUED, b"SET": b"-OOM no\r\n", b"EXEC": b"-EXECABORT no\r\n"}, 452, id="refused"),
    ],
)
async def test_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, message: bytes, answers: dict[bytes, Answer], code: int
) -> None:
    async with fake_redis(tmp_path, answers) as fake:
        assert (await send(fake.url.replace("//", "//u:s3cret@"), message)).code == code
    warnings = [record for record in caplog.records if "cannot add the message" in record.getMessage()]
    assert len(warnings) == (code != 250)
    assert "s3cret" not in caplog.text
    assert "Traceback" not in caplog.text
    assert not any(record.name == "coredis" for record in caplog.records)


@pytest.mark.parametrize("answer", [b":0\r\n", b"+OK\r\n", b"-ERR no\r\n"])
async def test_wait(tmp_path: Path, answer: bytes) -> None:
    async with fake_redis(tmp_path, {b"XADD": ID, b"WAIT": answer}) as fake:
        assert (await send(fake.url, replicas=1)).code == 451
        assert [b"WAIT", b"1", b"1000"] in fake.heard
    (tmp_path / "fake.sock").unlink()
    async with fake_redis(tmp_path, {b"XADD": ID, b"WAIT": b":2\r\n"}) as fake:
        assert (await send(fake.url, replicas=2)).code == 250


async def test_a_redis_that_never_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fake_redis(tmp_path, {b"XADD": b""}) as fake:
        assert (await send(fake.url, timeout=0.1)).code == 451
    assert "no answer within 0.1 s" in caplog.text


async def test_a_connection_that_was_closed_meanwhile_is_replaced(tmp_path: Path) -> None:
    app = App()
    async with fake_redis(tmp_path, {b"XADD": ID + b"close"}) as fake:
        app.use(redis_stream(fake.url, "mail", trim=5))
        async with open_client(app) as client:
            await client.ehlo()
            for _ in range(3):
                assert (await client.send_message("a@example.org", ["b@example.com"], SMALL)).code == 250
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert fake.heard[-1][:5] == [b"XADD", b"mail", b"MAXLEN", b"~", b"5"]


async def test_a_connection_that_ends_before_it_is_used() -> None:
    class Link:
        def create_request(self, *_: object, **__: object) -> None:
            raise ConnectionResetError("gone")

    with pytest.raises(RedisFailure, match="gone"):
        await _Connection(Link(), trio.CancelScope()).send([(b"PING",)])


async def test_a_configuration_that_may_lose_mail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = {b"appendonly": b"no", b"appendfsync": b"always", b"maxmemory-policy": b"allkeys-lru"}

    def config(command: list[bytes]) -> bytes:
        return b"%1\r\n" + bulk(command[2], values[command[2]])

    async with fake_redis(tmp_path, {b"CONFIG": config, b"XADD": ID}) as fake:
        assert (await send(fake.url)).code == 250
    assert "may lose mail in a crash" in caplog.text
    assert "may evict mail" in caplog.text


async def test_recipients_who_were_refused_are_not_in_the_envelope(tmp_path: Path) -> None:
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        for recipient in ctx.recipients:
            if recipient.local_part == "no":
                ctx.reject_recipient(recipient, "Not here", 550)

    async with fake_redis(tmp_path, {b"XADD": ID}) as fake:
        app.use(redis_stream(fake.url, "mail"))
        async with open_client(app, Config(hostname="mx.example", lmtp=True)) as client:
            await client.command("LHLO client.example")
            for recipients in (["no@example.com"], ["no@example.com", "yes@example.com"]):
                await client.command("MAIL FROM:<>")
                for recipient in recipients:
                    await client.command(f"RCPT TO:<{recipient}>")
                await client.command("DATA")
                await client.send_bytes(SMALL + b".\r\n")
                assert [(await client.read_reply()).code for _ in recipients] == [550, 250][: len(recipients)]
        (added,) = [command for command in fake.heard if command[0] == b"XADD"]
    envelope = decode_envelope(added[added.index(b"envelope") + 1])
    assert [recipient.address for recipient in envelope.recipients] == ["yes@example.com"]
    assert (envelope.sender, envelope.session.protocol) == ("", "LMTP")


async def test_a_message_that_redis_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST", 1_048_576 + 10)
    async with fake_redis(tmp_path, {}) as fake:
        assert (await send(fake.url)).code == 552


async def test_without_the_lifespan() -> None:
    writer = _Writer(parse_target("redis://host"), "mail", inline=0, replicas=0, replica_timeout=1, trim=None)
    with pytest.raises(RuntimeError, match="lifespans are not entered"):
        await writer.add(b"", b"")


# The consumer


def entry(identity: bytes, *fields: bytes) -> bytes:
    return b"*2\r\n" + bulk(identity) + b"*%d\r\n" % len(fields) + bulk(*fields)


GOOD = entry(b"1-0", b"envelope", json.dumps(ENVELOPE).encode(), b"data", b"octets")
BODY = entry(b"1-0", b"envelope", json.dumps(ENVELOPE).encode(), b"body", b"key")


class Script:
    """Answers one after the other; the last one again and again."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def __call__(self, _: object) -> bytes:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def read(*entries: bytes) -> bytes:
    return b"%1\r\n" + bulk(b"mail") + b"*%d\r\n" % len(entries) + b"".join(entries)


CLAIMED = b"*3\r\n" + bulk(b"0-0") + b"*0\r\n*0\r\n"
REMOVED: dict[bytes, Answer] = {
    b"XADD": b"+QUEUED\r\n",
    b"XACK": b"+QUEUED\r\n",
    b"XDEL": b"+QUEUED\r\n",
    b"UNLINK": b"+QUEUED\r\n",
}


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({}, id="at once"),
        pytest.param({b"XREADGROUP": Script(b"close", NIL, read(GOOD))}, id="closed"),
        pytest.param({b"XREADGROUP": Script(b"-LOADING wait\r\n", NIL, read(GOOD))}, id="loading"),
        pytest.param({b"XREADGROUP": Script(b"-NOGROUP none\r\n", NIL, read(GOOD))}, id="no group"),
        pytest.param({b"XREADGROUP": Script(b"+what\r\n", NIL, read(GOOD))}, id="nonsense"),
        pytest.param({b"XREADGROUP": Script(read(b"*1\r\n+x\r\n"), NIL, read(GOOD))}, id="no entry"),
        pytest.param({b"XGROUP": Script(b"-ERR no\r\n", b"-BUSYGROUP there\r\n")}, id="a group that is there"),
        pytest.param({b"XAUTOCLAIM": Script(b"+what\r\n", CLAIMED)}, id="an odd claim"),
        pytest.param({b"XAUTOCLAIM": Script(b"-ERR no\r\n", CLAIMED)}, id="no claim"),
        pytest.param({b"XAUTOCLAIM": Script(b"*2\r\n" + bulk(b"1-1") + b"*1\r\n_\r\n", CLAIMED)}, id="none there"),
        pytest.param({b"XREADGROUP": Script(read(b"*2\r\n" + bulk(b"1-0") + b"_\r\n"), NIL, read(GOOD))}, id="deleted"),
        pytest.param(
            {b"XREADGROUP": Script(read(GOOD)), b"XPENDING": Script(b"+what\r\n", b"-ERR no\r\n", b"*0\r\n")},
            id="odd count",
        ),
        pytest.param(
            {b"XREADGROUP": Script(NIL, read(BODY)), b"GET": Script(b"-LOADING w\r\n", bulk(b"octets"))}, id="body"
        ),
    ],
)
async def test_the_consumer_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answers: dict[bytes, Answer]
) -> None:
    caplog.set_level(logging.INFO)
    removed = {b"XACK": b"+QUEUED\r\n", b"XDEL": b"+QUEUED\r\n", b"UNLINK": b"+QUEUED\r\n"}
    table: dict[bytes, Answer] = {b"XREADGROUP": Script(NIL, read(GOOD)), b"XAUTOCLAIM": CLAIMED, **removed, **answers}
    table[b"EXEC"] = lambda _: b"*%d\r\n:1\r\n:1\r\n" % 2 if b"GET" not in answers else b"*3\r\n:1\r\n:1\r\n:1\r\n"
    async with fake_redis(tmp_path, table) as fake:
        with trio.fail_after(PATIENCE):
            async with consume(fake.url, "mail", group="g", consumer="c") as mails:
                assert mails is aiter(mails)
                mail = await anext(mails)
                assert (mail.id, mail.data) == ("1-0", b"octets")
                await mail.ack()


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({b"XGROUP": b"-NOPERM no\r\n"}, "refused"),
        ({b"XREADGROUP": b"-WRONGTYPE no\r\n"}, "type"),
        ({b"HELLO": b"-WRONGPASS invalid\r\n"}, "refused"),
    ],
)
async def test_what_waiting_does_not_help(tmp_path: Path, answers: dict[bytes, Answer], kind: str) -> None:
    async with fake_redis(tmp_path, answers) as fake, consume(fake.url, "mail", group="g", consumer="c") as mails:
        with trio.fail_after(PATIENCE), pytest.raises(RedisFailure) as caught:
            await anext(mails)
    assert caught.value.kind == kind


async def test_dead_letters(tmp_path: Path) -> None:
    pending = b"*1\r\n*4\r\n" + bulk(b"1-0", b"c") + b":1\r\n:3\r\n"
    broken = [
        entry(b"1-0", b"a", b"b"),
        entry(b"1-0", b"envelope", b"{}", b"body", b"key"),
        entry(b"1-0", b"envelope", b"[", b"data", b"x"),
    ]
    script = Script(read(GOOD), read(GOOD), NIL, *map(read, broken), read(BODY))
    answers: dict[bytes, Answer] = {b"XREADGROUP": script, b"XAUTOCLAIM": CLAIMED, b"XPENDING": pending, **REMOVED}
    answers[b"EXEC"] = b"*2\r\n:1\r\n:1\r\n"
    answers[b"GET"] = Script(b"-WRONGTYPE no\r\n", bulk(b"octets"))
    async with fake_redis(tmp_path, answers) as fake:
        with trio.fail_after(PATIENCE):
            async with consume(fake.url, "mail", group="g", consumer="c", tries=2, delete=False) as mails:
                answers[b"EXEC"] = b"*2\r\n:1\r\n:1\r\n"
                assert (await anext(mails)).data == b"octets"
    reasons = [command[-1] for command in fake.heard if command[0] == b"XADD"]
    assert reasons == [
        *[b"given out 2 times and never acknowledged"] * 2,
        b"there is no data",
        b"its body is gone",
        b"the envelope is not JSON",
    ]


async def test_what_the_body_of_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    async with fake_redis(tmp_path, {}) as fake:
        with pytest.raises(KeyError):
            async with consume(fake.url, "mail", group="g", consumer="c"):
                raise KeyError


# Arguments


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://localhost", "must begin with"),
        ("redis://user:pa/ss@localhost", "cannot be read"),
        ("redis://:s3cret@localhost:99999", "cannot be read"),
        ("redis://localhost/x", "must be a number"),
        ("redis://localhost?ssl_cert_reqs=none", "other options"),
        ("redis://", "host is missing"),
        ("unix://host/path", "absolute path"),
        ("unix://", "absolute path"),
        ("unix:///path?db=", "must be a number"),
        ("unix:///path?x=1", "other options"),
    ],
)
def test_urls_that_are_none(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        redis_stream(url, "mail")
    assert "ss@" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_urls() -> None:
    target = parse_target("rediss://us%40er:s3cr%2Fet@[::1]/3")
    assert (target.name, target.options["password"], target.options["db"]) == ("rediss://[::1]:6379/3", "s3cr/et", 3)
    assert "s3cr" not in repr(target)
    assert target.options["ssl_context"].check_hostname
    assert target.clean("x s3cr/et\r\n" + "y" * 300) == "x ***  " + "y" * 193 + "..."
    assert parse_target("unix:///run/redis.sock?db=2").name == "unix:///run/redis.sock?db=2"
    context = ssl.create_default_context()
    assert parse_target("rediss://host", context).options["ssl_context"] is context
    with pytest.raises(ValueError, match="rediss://"):
        parse_target("redis://host", context)


@pytest.mark.parametrize(
    "options",
    [
        {"stream": ""},
        {"inline": -1},
        {"replicas": -1},
        {"connections": 0},
        {"trim": 0},
        {"timeout": 0},
        {"replica_timeout": 0},
    ],
)
def test_arguments_of_the_plugin(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        redis_stream("redis://localhost", **{"stream": "mail", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"stream": ""},
        {"group": ""},
        {"consumer": ""},
        {"claim_after": 0},
        {"timeout": 0},
        {"tries": 0},
        {"dead_letters": "mail"},
    ],
)
def test_arguments_of_consume(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        consume("redis://localhost", **{"stream": "mail", "group": "g", "consumer": "c", **options})


def test_without_coredis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coredis", None)
    with pytest.raises(ImportError, match=r"trio-smtp\[redis\]"):
        redis_stream("redis://localhost", "mail")


def test_an_old_coredis(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("coredis")
    old.__version__ = "5.7.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coredis", old)
    monkeypatch.setitem(sys.modules, "coredis.pool", old)
    with pytest.raises(ImportError, match=r"not 5\.7\.0"):
        redis_stream("redis://localhost", "mail")


# The envelope


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "version 2"),
        ({"sender": 1}, "sender is not of the type str"),
        ({"recipients": [1]}, "a recipient is not of the type dict"),
        ({"parameters": {"X": 1}}, "parameters"),
        ({"received": "now"}, "received is not a time"),
        ({"received": "2026-12-01"}, "no time zone"),
        ({"session": {**ENVELOPE["session"], "port": True}}, "port"),  # type: ignore[dict-item]
        ({"session": {**ENVELOPE["session"], "tls": {}}}, "version is not"),  # type: ignore[dict-item]
    ],
)
def test_envelopes_that_are_none(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        decode_envelope(json.dumps({**ENVELOPE, **change}).encode())
    assert decode_envelope(json.dumps(ENVELOPE).encode()).session.tls == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")


def test_the_page_shows_an_envelope_as_it_is() -> None:
    page = (Path(__file__).parent.parent / "docs" / "redis.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    envelope = decode_envelope(block.encode())
    assert envelope.recipients[0].parameters == {"NOTIFY": "NEVER"}
    assert envelope.session.user == "alice"
