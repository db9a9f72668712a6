"""The webhook: what is posted, how it is signed, and what a client is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import sys
from typing import Any

import httpx2
import pytest
import trio

from trio_smtp import Address, App, Config, DataContext, RcptToContext
from trio_smtp.delivery.webhook import webhook
from trio_smtp.testing import Client, open_client

from .webhook_support import KEY, MESSAGE, SECRET, URL, Application


async def send(client: Client, *recipients: str, data: bytes = MESSAGE, sender: str = "a@example.org") -> Any:
    await client.ehlo()
    return await client.send_message(sender, recipients or ("b@example.com",), data)


def refusals() -> list[tuple[Any, int, str, str]]:
    """What the application answers, what the client is told, and what the log says."""
    later = (451, "4.3.0")
    rows = [(status, 250, "2.0.0", "") for status in (200, 201, 202, 204, 206, 299)]
    rows += [(status, 550, "5.7.1", "") for status in (406, 410, 415, 422)]
    rows += [(413, 552, "5.3.4", "")]
    statuses = (301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503, 504, 599, 999)
    rows += [(status, *later, f"the answer was {status}") for status in statuses]
    errors = [
        (httpx2.ConnectError("refused"), "ConnectError: refused"),
        (httpx2.ConnectTimeout(""), "ConnectTimeout"),
        (httpx2.ReadTimeout(""), "ReadTimeout"),
        (httpx2.PoolTimeout(""), "PoolTimeout"),
        (httpx2.RemoteProtocolError("bad \x1b[31m\r\nline é"), r"RemoteProtocolError: bad \x1b[31m\r\nline \xe9"),
        (httpx2.ProxyError("x" * 5000), "ProxyError: " + "x" * 200),
        (OSError(24, "Too many open files"), "OSError: [Errno 24] Too many open files"),
    ]
    return rows + [(error, *later, why) for error, why in errors]


@pytest.mark.parametrize(("answer", "code", "enhanced", "why"), refusals(), ids=lambda value: str(value)[:30])
async def test_what_a_client_is_told(
    answer: Any, code: int, enhanced: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    application = Application(answer)
    async with open_client(application.app("http://user:pa55@app.example:8000/in?token=t0ken")) as client:
        reply = await send(client)
        session = client.session.id
    assert (reply.code, reply.enhanced) == (code, enhanced)
    if code == 250:
        assert reply.text == f"Queued as {application.requests[0].headers['webhook-id']}"
    place = "http://app.example:8000"
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert found == ([f"session={session} cannot post the message to {place}: {why}"] if why else [])
    assert "pa55" not in caplog.text
    assert "t0ken" not in caplog.text
    assert "pa55" not in str(application.requests[0].url)
    assert application.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:pa55").decode()


async def test_other_statuses_refuse() -> None:
    application = Application(lambda request: httpx2.Response(404 if b"gone@" in request.content else 422))
    async with open_client(application.app(refuse={404}, format="raw")) as client:
        assert (await send(client, "gone@example.com")).code == 550
        assert (await send(client)).code == 451


async def test_nothing_of_an_answer_gets_to_the_client() -> None:
    application = Application(lambda _: httpx2.Response(422, text="evil\r\n250 OK", headers={"x": "y"}))
    async with open_client(application.app()) as client:
        assert (await send(client)).text == "Message refused by the application"


async def test_the_fields_of_standard_webhooks() -> None:
    application = Application()
    second = bytes(range(32))
    secrets = ["whsec_" + base64.b64encode(second).decode().rstrip("="), SECRET]
    async with open_client(application.app(secret=secrets, headers={"X-Key": "k"})) as client:
        await send(client)
    (request,) = application.requests
    names = request.headers
    signed = b"%b.%b.%b" % (names["webhook-id"].encode(), names["webhook-timestamp"].encode(), request.content)
    expected = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in (second, KEY)]
    assert names["webhook-signature"] == " ".join(f"v1,{each}" for each in expected)
    assert names["x-key"] == "k"
    assert names["content-type"] == "application/json"
    assert "authorization" not in names


async def test_a_message_that_is_sent_again_has_its_id() -> None:
    """The id is that of what the client sent: neither fields nor rewritten addresses change it."""
    application = Application(500)
    app = App()

    @app.on_rcpt_to
    async def rewrite(ctx: RcptToContext) -> None:
        ctx.address = Address.parse(f"{len(application.requests)}@rewritten.example")

    @app.on_data
    async def add(ctx: DataContext) -> None:
        ctx.add_field("X-Count", str(len(application.requests)))

    app.use(webhook(URL, secret=SECRET, transport=application.transport))
    variants: list[dict[str, Any]] = [
        {},
        {},
        {"data": MESSAGE + b"more\r\n"},
        {"sender": "c@example.org"},
        {"sender": ""},
    ]
    async with open_client(app) as client:
        for variant in variants:
            await send(client, **variant)
        await send(client, "b@example.com", "c@example.com")
        await send(client, "c@example.com", "b@example.com")
    first, again, *others = [request.headers["webhook-id"] for request in application.requests]
    assert first == again
    assert len({first, *others}) == len(variants) - 1 + 2
    data = json.loads(application.requests[1].content)["data"]
    assert data["envelope"] == {"mail_from": "a@example.org", "rcpt_to": ["1@rewritten.example"]}
    raw = base64.b64decode(data["raw"])
    assert raw.startswith(b"Return-Path: <a@example.org>\r\nX-Original-To: b@example.com\r\nDelivered-To: 1@")
    assert raw.endswith(b"X-Count: 1\r\n" + MESSAGE)
    digest = hashlib.sha256(b"13:a@example.org13:b@example.com\n" + MESSAGE).hexdigest()
    assert first == f"msg_{digest}"


async def test_no_value_of_the_envelope_ends_a_header_field() -> None:
    """A handler's own Address may hold anything; SMTPUTF8 addresses are percent-encoded UTF-8."""
    application = Application()
    app = App()
    odd = {"b@example.com": "x\r\nwebhook-id: forged\0@example.com", "c@example.com": "d\udc80@example.com"}

    @app.on_rcpt_to
    async def rewrite(ctx: RcptToContext) -> None:
        if (text := odd.get(ctx.address.address)) is not None:
            ctx.address = Address(text, text.partition("@")[0], "example.com")

    app.use(webhook(URL, secret=SECRET, format="raw", transport=application.transport))
    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<jörg@bücher.example> SMTPUTF8".encode())).code == 250
        for recipient in (*odd, '"a, b%"@example.com'):
            assert (await client.command(f"RCPT TO:<{recipient}>")).code == 250
        await client.command("DATA")
        await client.send_bytes(MESSAGE + b".\r\n")
        assert (await client.read_reply()).code == 250
    headers = application.requests[0].headers
    assert headers["x-envelope-from"] == "j%C3%B6rg@b%C3%BCcher.example"
    recipients = "x%3F%3Fwebhook-id%3A%20forged%3F@example.com, d%3F@example.com, %22a%2C%20b%25%22@example.com"
    assert headers["x-envelope-to"].replace("?", "%3F") == recipients
    assert headers["webhook-id"].startswith("msg_")


async def test_lmtp_recipients_that_were_refused_are_left_out() -> None:
    application = Application()
    app = App()

    @app.on_data
    async def refuse(ctx: DataContext) -> None:
        for recipient in ctx.recipients:
            if recipient.local_part.startswith("no"):
                ctx.reject_recipient(recipient, "No")

    app.use(webhook(URL, secret=SECRET, transport=application.transport))
    config = Config(hostname="mx.example", lmtp=True)
    async with open_client(app, config) as client:
        await client.command("LHLO client.example")
        for recipients, codes in (
            (["no1@example.com", "b@example.com"], [550, 250]),
            (["no1@example.com", "no2@example.com"], [550, 550]),
        ):
            await client.command("MAIL FROM:<a@example.org>")
            for recipient in recipients:
                await client.command(f"RCPT TO:<{recipient}>")
            await client.command("DATA")
            await client.send_bytes(MESSAGE + b".\r\n")
            assert [(await client.read_reply()).code for _ in recipients] == codes
    (request,) = application.requests
    assert json.loads(request.content)["data"]["envelope"]["rcpt_to"] == ["b@example.com"]


async def test_a_message_without_trace_fields_and_one_that_begins_with_a_blank() -> None:
    application = Application()
    for trace in (True, False):
        async with open_client(application.app(format="raw", trace=trace)) as client:
            await send(client, data=b" folded\r\n\r\nbody\r\n")
    traced, plain = [request.content for request in application.requests]
    assert plain == b" folded\r\n\r\nbody\r\n"
    assert traced.startswith(b"Return-Path: <a@example.org>\r\nDelivered-To: b@example.com\r\nReceived: ")
    assert traced.endswith(b"\r\n\r\n" + plain)


async def test_the_session_is_told() -> None:
    application = Application()
    async with open_client(application.app(), peer=("192.0.2.7", 1234)) as client:
        client.session.user = "us\udc80er"
        await send(client)
        assert json.loads(application.requests[0].content)["data"]["session"] == {
            "id": client.session.id,
            "remote_address": "192.0.2.7",
            "client_hostname": "[192.0.2.7]",
            "helo": "client.example",
            "user": "us?er",
            "secure": False,
            "authenticated": False,
            "smtp_utf8": False,
        }


async def test_the_time_is_over(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, _: httpx2.Request) -> httpx2.Response:
            await trio.sleep_forever()
            raise AssertionError

    app = App()
    app.use(webhook(URL, secret=SECRET, transport=Silent(), total_timeout=7))
    async with open_client(app) as client:
        start = trio.current_time()
        assert (await send(client)).code == 451
        assert trio.current_time() - start == pytest.approx(7)
    assert "no answer within 7 s" in caplog.text


async def test_an_answer_that_never_ends_has_come(autojump_clock: trio.testing.MockClock) -> None:
    """The status decides; its body has a second, and nothing that fails in it matters."""

    class Endless(httpx2.AsyncByteStream):
        def __init__(self, kind: str) -> None:
            self._kind = kind
            self.sent = 0
            self.closed = False

        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> bytes:
            await trio.lowlevel.checkpoint()
            if self._kind == "silent":
                await trio.sleep_forever()
            if self._kind == "broken":
                raise httpx2.ReadError("gone")
            self.sent += 10_000
            return b"x" * 10_000

        async def aclose(self) -> None:
            self.closed = True

    for kind in ("silent", "broken", "endless"):
        stream = Endless(kind)
        application = Application(lambda _, stream=stream: httpx2.Response(200, stream=stream))  # type: ignore[misc]
        async with open_client(application.app()) as client:
            assert (await send(client)).code == 250
        assert stream.closed
        assert stream.sent <= 80_000


async def test_a_large_message_is_put_into_its_format_by_a_thread() -> None:
    application = Application()
    large = MESSAGE + b"x" * 70 + b"\r\n"
    large += b"y" * 70 + b"\r\n" * 2000
    large += (b"z" * 70 + b"\r\n") * 3000
    async with open_client(application.app()) as client:
        assert (await send(client, data=large)).code == 250
    data = json.loads(application.requests[0].content)["data"]
    assert base64.b64decode(data["raw"]).endswith(large)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://app.example/"}, "url must begin"),
        ({"url": "http:///in"}, "url must begin"),
        ({"url": "http://u:pa55@[::1/"}, "url cannot be read"),
        ({"url": "http://u:pa55@host:99999/"}, "url cannot be read"),
        ({"url": "http://host/#pa55"}, "url must be printable"),
        ({"url": "http://höst/"}, "url must be printable"),
        ({"url": "http://host/a b"}, "url must be printable"),
        ({"secret": []}, "secret: at least one"),
        ({"secret": "pa55"}, "secret must be 'whsec_'"),
        ({"secret": "whsec_pa55"}, "secret must be 'whsec_'"),
        ({"secret": "whsec_!pa55"}, "secret must be 'whsec_'"),
        ({"secret": "whsec_é"}, "secret must be 'whsec_'"),
        ({"format": "xml"}, "format must be one of json, raw, postmark, mailgun-mime, sendgrid-raw, postal"),
        ({"refuse": {200}}, "refuse must be"),
        ({"max_connections": 0}, "max_connections must be"),
        ({"connect_timeout": 0}, "connect_timeout must be"),
        ({"read_timeout": -1}, "read_timeout must be"),
        ({"total_timeout": float("inf")}, "total_timeout must be"),
        ({"postal_key": "pa55"}, "postal_key is for the format postal"),
        ({"postal_key": "pa55", "format": "postal"}, "postal_key must be an RSA"),
        ({"headers": {"a b": "c"}}, "headers: 'a b'"),
        ({"headers": {"Webhook-Id": "c"}}, "headers: 'Webhook-Id'"),
        ({"headers": {"X-Key": "pa55\r\n"}}, "headers: the value of 'X-Key'"),
        ({"url": "http://u@host/", "headers": {"Authorization": "pa55"}}, "headers: 'Authorization'"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_and_no_secret_shown(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("[", r"\[")) as caught:
        webhook(**{"url": URL, "secret": SECRET, **options})
    assert "pa55" not in str(caught.value)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"format": "postal", "postal_key": "x"}
    for module, options in (("httpx2", {}), ("cryptography.hazmat.primitives", key)):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module, None)
            with pytest.raises(ImportError, match=r"pip install 'trio-smtp\[webhook\]'"):
                webhook(URL, secret=SECRET, **options)  # type: ignore[arg-type]


async def test_without_a_lifespan_a_message_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    from trio_smtp.delivery import _webhook_http

    target = _webhook_http.parse_target("https://[::1]:8443/in?x=y")
    assert (target.url, target.name) == ("https://[::1]:8443/in?x=y", "https://[::1]:8443")
    poster = _webhook_http.Poster(target, 1, 1, 1, 1, None, False, None)
    with pytest.raises(RuntimeError, match="lifespans"):
        await poster.post(b"", {})
    assert "8443/in" not in repr(target)


def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from trio_smtp.delivery._webhook_http import environment_proxy, parse_target

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    target = parse_target("https://app.example/")
    assert environment_proxy(target) is None
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    assert environment_proxy(target) == "http://all:1"
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert environment_proxy(target) == "http://proxy:3128"
    monkeypatch.setenv("no_proxy", "app.example")
    assert environment_proxy(target) is None


async def test_secrets_are_in_no_log_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    application = Application(500)
    async with open_client(application.app("http://u:pa55@app.example/t0ken")) as client:
        assert (await send(client)).code == 451
    text = caplog.text
    assert SECRET not in text
    assert "pa55" not in text
    assert "t0ken" not in text
