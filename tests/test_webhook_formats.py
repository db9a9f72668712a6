"""The webhook's formats, read by those who take them: django-anymail's views, the verifier of Standard Webhooks.

The requests are checked once more by a definition of each signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shutil
import sys
import warnings
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import attrs
import django
import httpx2
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from standardwebhooks.webhooks import Webhook

from trio_smtp.delivery import _webhook_formats
from trio_smtp.delivery._webhook_formats import FORMATS, Posted
from trio_smtp.testing import open_client

from .corpus import MAILS, Mail
from .webhook_support import MESSAGE, SECRET, Application

RICH = (
    b'From: "Alice A." <alice@example.org>\r\nTo: Bob <bob+hash@example.com>, c@example.com\r\nCc: d@example.com\r\n'
    b"Reply-To: r@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@example.org>\r\n"
    b"Date: Tue, 01 Dec 2026 03:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>Hi</p>\r\n"
    b'--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename="a.pdf"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b--\r\n"
)
RECIPIENTS = ("bob+hash@example.com", "hidden@example.com")
PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = PRIVATE.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


async def posted(format: str, data: bytes = RICH, **options: Any) -> httpx2.Request:  # noqa: A002 - as the argument
    """The request that a message becomes."""
    application = Application()
    async with open_client(application.app(format=format, **options), peer=("192.0.2.7", 25)) as client:
        await client.ehlo()
        reply = await client.send_message("alice@example.org", RECIPIENTS, data)
    assert reply.code == 250
    return application.requests[0]


@pytest.fixture(scope="module")
def anymail() -> Any:
    """django-anymail's views of mail that was received, by name."""
    if not settings.configured:
        settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], USE_TZ=True, LOGGING_CONFIG=None)
        django.setup()
    from anymail.webhooks.mailgun import MailgunInboundWebhookView
    from anymail.webhooks.postal import PostalInboundWebhookView
    from anymail.webhooks.postmark import PostmarkInboundWebhookView
    from anymail.webhooks.sendgrid import SendGridInboundWebhookView

    public = PRIVATE.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    key = "".join(public.decode().splitlines()[1:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SendGrid's view says that it is no longer maintained
        return {
            "postmark": (PostmarkInboundWebhookView(), {}),
            "mailgun-mime": (MailgunInboundWebhookView(webhook_signing_key=SECRET), {}),
            "sendgrid-raw": (SendGridInboundWebhookView(), {}),
            "postal": (PostalInboundWebhookView(webhook_key=key), {"postal_key": PEM}),
        }


def taken(view: Any, request: httpx2.Request, **changed: str) -> list[Any]:
    """What a view makes of a request: its events, when it accepts the signature."""
    from django.test import RequestFactory

    fields = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
    content_type = fields.pop("HTTP_CONTENT_TYPE")
    wanted = RequestFactory().generic("POST", "/in", request.content, content_type, **{**fields, **changed})
    view.run_validators(wanted)
    return list(view.parse_events(wanted))


@pytest.mark.parametrize("format", ["postmark", "mailgun-mime", "sendgrid-raw", "postal"])
@pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailInsecureWebhookWarning")
@pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailNotSupportedWarning")
async def test_anymail_takes_it(format: str, anymail: Any) -> None:  # noqa: A002
    view, options = anymail[format]
    (event,) = taken(view, await posted(format, **options))
    message = event.message
    first = RECIPIENTS[0] if format == "sendgrid-raw" else ", ".join(RECIPIENTS)
    assert (message.envelope_sender, message.envelope_recipient) == ("alice@example.org", first)
    assert (message.subject, message.from_email.addr_spec) == ("Grüße", "alice@example.org")
    assert [each.addr_spec for each in message.to] == ["bob+hash@example.com", "c@example.com"]
    assert message.text.rstrip() == "Grüße"
    assert message.html.rstrip() == "<p>Hi</p>"
    assert [(each.get_filename(), each.get_content_bytes()) for each in message.attachments] == [("a.pdf", b"\0\1\2")]


@pytest.mark.parametrize("format", ["mailgun-mime", "postal"])
async def test_anymail_refuses_a_wrong_signature(format: str, anymail: Any) -> None:  # noqa: A002
    from anymail.exceptions import AnymailWebhookValidationFailure
    from anymail.webhooks.mailgun import MailgunInboundWebhookView

    view, options = anymail[format]
    changed: dict[str, str] = {}
    if format == "postal":
        changed["HTTP_X_POSTAL_SIGNATURE"] = base64.b64encode(bytes(256)).decode()
    else:
        view = MailgunInboundWebhookView(webhook_signing_key="another")
    request = await posted(format, **options)
    with pytest.raises(AnymailWebhookValidationFailure):
        taken(view, request, **changed)


@pytest.mark.parametrize("format", FORMATS)
async def test_the_verifier_of_standard_webhooks_takes_it(format: str) -> None:  # noqa: A002
    request = await posted(format)
    Webhook(SECRET).verify(request.content, dict(request.headers), json_parse=False)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(request.content + b" ", dict(request.headers), json_parse=False)


async def test_json_has_what_can_be_read() -> None:
    body = json.loads((await posted("json")).content)
    assert body["type"] == "message.received"
    message = body["data"]["message"]
    assert message.pop("headers")[4] == ["Subject", "Grüße"]
    assert message == {
        "subject": "Grüße",
        "date": "Tue, 01 Dec 2026 03:00:00 +0000",
        "message_id": "<1@example.org>",
        "from": ["alice@example.org"],
        "to": ["bob+hash@example.com", "c@example.com"],
        "cc": ["d@example.com"],
        "reply_to": ["r@example.org"],
        "text": "Grüße",
        "html": "<p>Hi</p>",
        "attachments": [{"name": "a.pdf", "content_type": "application/pdf", "size": 3, "content": "AAEC"}],
    }
    assert body["data"]["envelope"] == {"mail_from": "alice@example.org", "rcpt_to": list(RECIPIENTS)}


async def test_postmark_names_people() -> None:
    body = json.loads((await posted("postmark")).content)
    assert (body["FromName"], body["From"]) == ("Alice A.", "alice@example.org")
    assert body["ToFull"] == [
        {"Email": "bob+hash@example.com", "Name": "Bob", "MailboxHash": "hash"},
        {"Email": "c@example.com", "Name": "", "MailboxHash": ""},
    ]
    assert (body["MailboxHash"], body["ReplyTo"]) == ("hash", "r@example.org")
    assert body["Headers"][0] == {"Name": "Return-Path", "Value": "<alice@example.org>"}


async def test_mailguns_token_is_another_one_each_time() -> None:
    forms = [form(await posted("mailgun-mime")) for _ in range(2)]
    assert forms[0]["token"] != forms[1]["token"]
    for each in forms:
        signed = each["timestamp"] + each["token"]
        assert each["signature"].decode() == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()


def form(request: Any) -> dict[str, bytes]:
    """The fields of a form, their octets untouched."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    found = {}
    for part in request.content.split(b"--" + boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        found[head.partition(b'name="')[2].partition(b'"')[0].decode()] = value[:-2]
    return found


def octets_in(format: str, body: Any) -> bytes:  # noqa: A002
    """The message's octets in a body."""
    if format == "raw":
        return bytes(body.content)
    if format in ("mailgun-mime", "sendgrid-raw"):
        name = {"mailgun-mime": "body-mime", "sendgrid-raw": "email"}[format]
        return form(attrs.evolve(Made(body.content, {"content-type": body.content_type})))[name]
    value = json.loads(body.content)
    if format == "postmark":
        if "RawEmailBase64" not in value:
            return str(value["RawEmail"]).encode()
        return base64.b64decode(value["RawEmailBase64"])
    return base64.b64decode(value["data"]["raw"] if format == "json" else value["message"])


@attrs.frozen
class Made:
    """A body with its fields."""

    content: bytes
    headers: dict[str, str]


def made_of(octets: bytes) -> Posted:
    return Posted("msg_1", 0, "a@example.org", ("b@example.com",), octets, b"Trace: 1\r\n", {}, b"key")


@pytest.mark.parametrize("format", FORMATS)
def test_every_mail_is_in_every_format_octet_for_octet(format: str) -> None:  # noqa: A002
    # Forms have no more of the message than the others: some mails are enough for them.
    some = MAILS[::6] if format in ("mailgun-mime", "sendgrid-raw") else MAILS
    for mail in [*some, Mail("binary", bytes(range(256)) * 5)]:
        body = FORMATS[format](made_of(mail.octets))
        assert octets_in(format, body) == b"Trace: 1\r\n" + mail.octets, mail.name


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_read_is_posted(format: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: A002
    def fail(_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(_webhook_formats, "read_octets", fail)
    assert octets_in(format, FORMATS[format](made_of(MESSAGE))) == b"Trace: 1\r\n" + MESSAGE


def test_a_key_with_a_password_or_of_another_kind_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    from trio_smtp.delivery.webhook import webhook

    best = serialization.BestAvailableEncryption(b"pa55")
    encoding, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    other = ec.generate_private_key(ec.SECP256R1())
    for pem in (
        PRIVATE.private_bytes(encoding, pkcs8, best),
        other.private_bytes(encoding, pkcs8, serialization.NoEncryption()),
    ):
        with pytest.raises(ValueError, match="postal_key must be an RSA private key"):
            webhook("http://app.example/", secret=SECRET, format="postal", postal_key=pem)
    webhook("http://app.example/", secret=SECRET, format="postal", postal_key=PEM.decode())


def test_a_form_is_one_for_the_package_email() -> None:
    body = FORMATS["sendgrid-raw"](made_of(MESSAGE))
    whole = b"Content-Type: " + body.content_type.encode() + b"\r\n\r\n" + body.content
    parts = list(message_from_bytes(whole, policy=default).iter_parts())
    assert [part.get_param("name", header="content-disposition") for part in parts][-1] == "email"


PAGE = (Path(__file__).parents[1] / "docs" / "webhook.md").read_text("utf-8")


@pytest.mark.parametrize("language", ["python", "js"])
async def test_the_page_shows_how_to_verify(language: str, tmp_path: Path) -> None:
    (code,) = [
        block
        for block in re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        if "ours" in block.lower()
    ]
    request = await posted(
        "raw", b"Subject: \xff\r\n\r\n\r\n", secret=["whsec_" + base64.b64encode(bytes(32)).decode(), SECRET]
    )
    headers = dict(request.headers)
    late = {**headers, "webhook-timestamp": "1700000000"}
    rows = [(request.content, headers), (request.content + b" ", headers), (request.content, late), (b"", {})]
    if language == "python":
        namespace: dict[str, Any] = {}
        exec(compile(code, "webhook.md", "exec"), namespace)
        found = [namespace["is_ours"](content, given, SECRET) for content, given in rows]
    else:
        node = shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))
        if node is None:
            pytest.skip("node is not installed")
        given = json.dumps([[content.hex(), fields, SECRET] for content, fields in rows])
        calls = "([body, headers, secret]) => isOurs(Buffer.from(body, 'hex'), headers, secret)"
        script = tmp_path / "verify.mjs"
        script.write_text(f"{code}\nconsole.log(JSON.stringify({given}.map({calls})));\n", "utf-8")
        ran = await trio.run_process([node, str(script)], capture_stdout=True)
        found = json.loads(ran.stdout)
    assert found == [True, False, False, False]
