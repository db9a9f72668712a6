"""Messages made by the API; release to a real relay; thumbnails; rules and chaos."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from PIL import Image

from trio_smtp import App, Config, DataContext, RcptToContext, SMTPServer, serve
from trio_smtp.inbox import Inbox
from trio_smtp.inbox.api.thumbnails import BLANK, thumbnail
from trio_smtp.inbox.composing import Draft, compose
from trio_smtp.inbox.relay import Relay, RelayError

from .support import mail, open_api, open_smtp, put

DRAFT: dict[str, Any] = {
    "From": {"Email": "alice@example.com", "Name": "Älice"},
    "To": [{"Email": "bob@example.com", "Name": "Bob"}],
    "Cc": [{"Email": "carl@example.com"}],
    "Bcc": ["eve@example.com"],
    "ReplyTo": [{"Email": "desk@example.com"}],
    "Subject": "Grüße\r\nX-Injected: 1",
    "Text": "Hello",
    "HTML": "<p>Hello <img src=cid:dot></p>",
    "Tags": ["one"],
    "Headers": {"X-Mine": "a\nb", "Message-ID": "<mine@example.com>"},
    "Attachments": [
        {"Content": "aGk=", "Filename": "a.txt"},
        {"Content": "data:image/png;base64,aGk=", "Filename": "b", "ContentType": "image/png", "ContentID": "dot"},
        {"Content": "aGk=", "Filename": "c", "ContentType": "message/rfc822"},
        {"Content": "aGk=", "ContentType": "nonsense"},
    ],
}


async def test_a_message_is_made_of_json(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        response = await api.post("/api/v1/send", json=DRAFT)
        assert response.status_code == 200
        shown = (await api.get(f"/api/v1/message/{response.json()['ID']}")).json()
        headers = (await api.get(f"/api/v1/message/{response.json()['ID']}/headers")).json()
        envelope = (await api.get(f"/api/v1/message/{response.json()['ID']}/envelope")).json()
    assert shown["From"] == {"Name": "Älice", "Address": "alice@example.com"}
    assert shown["Subject"] == "Grüße X-Injected: 1"
    assert "X-Injected" not in headers
    assert headers["X-Mine"] == ["a b"]
    assert shown["MessageID"] == "mine@example.com"
    assert (shown["Text"], shown["Tags"]) == ("Hello\n", ["one"])
    assert shown["Bcc"] == [{"Name": "", "Address": "eve@example.com"}]
    assert [(each["FileName"], each["ContentType"]) for each in shown["Attachments"]] == [
        ("a.txt", "text/plain"),
        ("c", "application/octet-stream"),
        ("", "application/octet-stream"),
    ]
    assert [(each["ContentID"], each["ContentType"]) for each in shown["Inline"]] == [("dot", "image/png")]
    assert envelope["Protocol"] == "HTTP"


async def test_little_is_enough(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        draft = {"From": {"Email": "jürgen@example.com"}, "Text": "🎉", "Bcc": None}
        assert (await api.post("/api/v1/send", json=draft)).status_code == 200
    row = inbox.store.page().rows[0]
    assert row.headline.sender is not None
    assert row.headline.sender.address == "jürgen@example.com"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"From": None}, "From is missing"),
        ({"From": "a@b.c"}, "From must be an object"),
        ({"From": {"Email": "nobody"}}, "invalid From address: nobody"),
        ({"From": {"Email": 5}}, "From: Email must be a string"),
        ({"To": [{"Email": "a b@c.d"}]}, "invalid To address"),
        ({"Bcc": ["x"]}, "invalid Bcc address: x"),
        ({"To": "x"}, "To must be a list"),
        ({"Bcc": ["a@b.c"] * 10_001}, "Bcc has more than 10,000 members"),
        ({"Subject": 5}, "Subject must be a string"),
        ({"Headers": {"Subject": "x"}}, 'cannot overwrite header: "Subject"'),
        ({"Headers": {"a b": "x"}}, "is no name of a header field"),
        ({"Headers": ["x"]}, "Headers must be an object"),
        ({"Headers": {f"X-{n}": "" for n in range(501)}}, "Headers has more than 500 members"),
        ({"Headers": {"Message-ID": ""}}, ""),
        ({"Attachments": [{"Content": "???"}]}, "error decoding base64 attachment"),
        ({"Attachments": ["x"]}, "Attachments must be an object"),
    ],
)
async def test_messages_that_cannot_be_made(inbox: Inbox, change: dict[str, Any], error: str) -> None:
    async with open_api(inbox) as api:
        response = await api.post("/api/v1/send", json={"From": {"Email": "a@example.com"}} | change)
    if error:
        assert response.status_code == 400
        assert error in response.json()["Error"]
    else:
        assert response.status_code in (200, 400)


async def test_bodies_of_send_that_are_no_drafts(inbox: Inbox) -> None:
    async with open_api(inbox, max_message_size=2000) as api:
        for body in (b"", b"[]", b"{"):
            response = await api.post("/api/v1/send", content=body)
            assert response.status_code == 400
            assert "Error" in response.json()
        large = {"From": {"Email": "a@example.com"}, "Text": "x" * 3000}
        response = await api.post("/api/v1/send", json=large)
        assert (response.status_code, list(response.json())) == (413, ["Error"])
        huge = {"From": {"Email": "a@example.com"}, "Text": "x" * 100_000}
        assert (await api.post("/api/v1/send", json=huge)).status_code == 413


def test_what_the_package_email_cannot_make_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft.from_json({"From": {"Email": "a@example.com"}})

    def fail(_: Draft) -> None:
        raise IndexError

    monkeypatch.setattr("trio_smtp.inbox.composing._message", fail)
    with pytest.raises(ValueError, match="error building message"):
        compose(draft)


# Release


@asynccontextmanager
async def open_relay(**options: Any) -> AsyncIterator[tuple[int, list[tuple[str, list[str], bytes]]]]:
    """A mail server that takes everything but what is for nobody@; gives its port, and what came."""
    app, came = App(), []

    @app.on_rcpt_to
    async def known(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject("No such user", 550)

    @app.on_auth
    async def log_in(ctx: Any) -> None:
        if ctx.credentials.validate_password("se:cret"):
            ctx.accept(ctx.credentials.username)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        sender = ctx.envelope.mail_from
        assert sender is not None
        came.append((sender.address, [each.address for each in ctx.envelope.rcpt_to], await ctx.stream.read()))

    async with trio.open_nursery() as nursery:
        server: SMTPServer = await nursery.start(serve, app, Config(port=0, allow_insecure_auth=True, **options))
        assert server.port is not None
        yield server.port, came
        nursery.cancel_scope.cancel()


async def test_release_to_a_real_server() -> None:
    async with open_relay(auth_required=True) as (port, came):
        with Inbox(relay=f"smtp://joe:se%3Acret@127.0.0.1:{port}?allow=*@example.com,b@other.example") as inbox:
            put(inbox, mail(Bcc="hidden@example.com"))
            async with open_api(inbox) as api:
                path = "/api/v1/message/latest/release"
                done = await api.post(path, json={"To": ["B@Example.com", "b@other.example"]})
                assert (done.status_code, done.text) == (200, "ok")
                assert (await api.post(path, json=["carl@example.com"])).status_code == 200
                for recipients, error in (
                    ([], "No valid addresses found"),
                    (["x"], "Invalid email address: x"),
                    (["a@elsewhere.example"], "does not match the allow list"),
                    (["nobody@example.com"], "nobody@example.com: 550"),
                    (["nobody@example.com", "bob@example.com"], "nobody@example.com: 550"),
                ):
                    response = await api.post(path, json={"To": recipients})
                    assert response.status_code == 400
                    assert error in response.text
                web = (await api.get("/api/v1/webui")).json()["MessageRelay"]
    assert came[0] == ("alice@example.com", ["B@Example.com", "b@other.example"], mail())
    assert len(came) == 3
    assert web["Enabled"] is True
    assert web["SMTPServer"] == f"127.0.0.1:{port}"


async def test_release_without_a_relay_or_a_server(inbox: Inbox) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        assert (await api.post("/api/v1/message/latest/release", json={"To": ["a@b.c"]})).status_code == 400
    relay = Relay(host="127.0.0.1", port=9)
    with pytest.raises(RelayError, match="SMTP error"):
        await trio.to_thread.run_sync(relay.send, "", ["a@example.com"], b"x")


async def test_release_inside_tls(server_ssl_context: Any, ca: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    def trusting() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(context)
        return context

    monkeypatch.setattr("ssl.create_default_context", trusting)
    async with open_relay(ssl_context=server_ssl_context, starttls_required=True) as (port, came):
        await trio.to_thread.run_sync(Relay.parse(f"smtp://localhost:{port}").send, "", ["a@example.com"], b"x\r\n")
    async with open_relay(ssl_context=server_ssl_context, implicit_tls=True) as (port, more):
        await trio.to_thread.run_sync(Relay.parse(f"smtps://localhost:{port}").send, "", ["a@example.com"], b"x\r\n")
    assert len(came) == len(more) == 1
    async with open_relay() as (port, _):
        needed = Relay.parse(f"smtp://localhost:{port}?starttls=required")
        with pytest.raises(RelayError, match="does not offer STARTTLS"):
            await trio.to_thread.run_sync(needed.send, "", ["a@example.com"], b"x\r\n")
        without = Relay.parse(f"smtp://localhost:{port}/?starttls=no")
        await trio.to_thread.run_sync(without.send, "", ["a@example.com"], b"x\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com",
        "http://x",
        "smtp://",
        "smtp://x:0",
        "smtp://x:y",
        "smtp://x/y",
        "smtp://x?y=1",
        "smtp://a:secret@x?starttls=maybe",
    ],
)
def test_relays_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="a relay is written") as caught:
        Relay.parse(url)
    assert "secret" not in str(caught.value)


def test_ports_of_relays() -> None:
    assert (Relay.parse("smtp://x").port, Relay.parse("smtps://x").port) == (25, 465)


# Thumbnails


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("size", [(10, 10), (400, 50), (2000, 1000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_thumbnails(size: tuple[int, int], kind: str) -> None:
    with Image.open(io.BytesIO(thumbnail(picture(*size, kind)))) as image:
        assert (image.format, image.size) == ("JPEG", (180, 120))
        middle = image.convert("RGB").getpixel((90, 60))
        assert isinstance(middle, tuple)
        assert middle[0] > 200
        assert middle[1] < 100


@pytest.mark.parametrize("content", [b"", b"no image", picture(10, 10)[:50], picture(1, 1).replace(b"IHDR", b"IHDX")])
def test_what_is_no_image_is_blank(content: bytes) -> None:
    assert thumbnail(content) == BLANK
    with Image.open(io.BytesIO(BLANK)) as image:
        assert (image.format, image.size) == ("JPEG", (180, 120))


def test_images_that_would_take_much_memory_are_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_smtp.inbox.api.thumbnails._MAX_PIXELS", 99)
    assert thumbnail(picture(10, 10)) == BLANK


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    content = picture(10, 10)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert thumbnail(content) == BLANK


async def test_thumbnails_by_the_api(inbox: Inbox) -> None:
    encoded = base64.b64encode(picture(500, 500))
    put(inbox, b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded)
    put(inbox, b"Content-Type: application/pdf\r\n\r\nx")
    async with open_api(inbox) as api:
        image = await api.get("/api/v1/message/latest/part/0/thumb?query=smaller:1m%20larger:500")
        other = await api.get("/api/v1/message/latest/part/0/thumb")
    assert image.headers["content-type"] == "image/jpeg"
    assert image.content != BLANK
    assert other.content == BLANK


# Rules


async def test_rules_are_edited(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        assert (await api.get("/api/v1/rules")).json() == []
        made = await api.post("/api/v1/rules", json='rcpt to=bob@* fail 451 "Later" times=1')
        (rule,) = made.json()
        assert (rule["at"], rule["act"], rule["code"], rule["to"], rule["hits"]) == ("rcpt", "fail", 451, "bob@*", 0)
        again = await api.put("/api/v1/rules", json=[rule, {"at": "end", "act": "reset"}])
        assert [each["line"] for each in again.json()] == ["rcpt to=bob@* fail text=Later times=1", "end reset"]
        async with open_smtp(inbox) as client:
            assert (await client.send_message("a@example.com", ["bob@example.com"], mail())).text == "Later"
        assert (await api.get("/api/v1/rules")).json()[0]["hits"] == 1
        assert (await api.delete(f"/api/v1/rules/{rule['id']}")).status_code == 200
        assert (await api.delete(f"/api/v1/rules/{rule['id']}")).status_code == 404
        assert (await api.delete("/api/v1/rules")).text == "ok"
        assert len(inbox.rules) == 0


@pytest.mark.parametrize("rule", [5, None, "nonsense", {"at": "rcpt"}, {"at": "x", "act": "fail"}, [], {"at": []}])
async def test_rules_that_are_none(inbox: Inbox, rule: object) -> None:
    async with open_api(inbox) as api:
        response = await api.post("/api/v1/rules", json=rule)
        assert (response.status_code, list(response.json())) == (400, ["Error"])
        assert (await api.put("/api/v1/rules", json=[rule])).status_code == 400
        assert (await api.put("/api/v1/rules", json={})).status_code == 400
        assert (await api.put("/api/v1/rules", json=["end reset"] * 1001)).status_code == 400


async def test_rules_that_only_python_can_say_are_shown(inbox: Inbox) -> None:
    rule = inbox.rules.fail("rcpt", to=lambda address: True)
    async with open_api(inbox) as api:
        (shown,) = (await api.get("/api/v1/rules")).json()
    assert shown == {"id": rule.id, "at": "rcpt", "act": "fail", "hits": 0, "line": None}


async def test_chaos_touches_its_own_rules_alone(inbox: Inbox) -> None:
    inbox.rules.reset("quit")
    usual = {
        "Authentication": {"ErrorCode": 535, "Probability": 0},
        "Recipient": {"ErrorCode": 451, "Probability": 0},
        "Sender": {"ErrorCode": 451, "Probability": 0},
    }
    async with open_api(inbox) as api:
        assert (await api.get("/api/v1/chaos")).json() == usual
        wanted = {"Sender": {"ErrorCode": 452, "Probability": 100}, "Recipient": {"ErrorCode": 550}}
        changed = await api.put("/api/v1/chaos", json=wanted)
        assert changed.json() == usual | {
            "Sender": {"ErrorCode": 452, "Probability": 100},
            "Recipient": {"ErrorCode": 550, "Probability": 0},
        }
        async with open_smtp(inbox) as client:
            assert (await client.command("MAIL FROM:<a@example.com>")).code == 452
        assert (await api.put("/api/v1/chaos", json={})).json() == usual
        assert len(inbox.rules) == 1
        malformed: list[object] = [
            {"Sender": {"ErrorCode": 200}},
            {"Sender": {"Probability": 101}},
            {"Sender": 5},
            {"Sender": {"Probability": True}},
            [],
        ]
        for bad in malformed:
            assert (await api.put("/api/v1/chaos", json=bad)).status_code == 400
