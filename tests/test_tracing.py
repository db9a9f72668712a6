"""trio_smtp.plugins.tracing, seen by OpenTelemetry's in-memory exporter."""

from __future__ import annotations

import importlib
import ssl
import sys
from collections.abc import Mapping

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from trio_smtp import App, ConnectContext, DataContext, MailFromContext
from trio_smtp.plugins.tracing import tracing
from trio_smtp.testing import open_client

from .socket_support import connected, serving
from .support import BODY, send
from .tls_support import NAME


class Traced:
    """An App with the plugin, and what was exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.app = App()
        self.app.use(tracing(provider))
        tracer = provider.get_tracer("tests")

        @self.app.on_mail_from
        async def mail(ctx: MailFromContext) -> None:
            if ctx.address.address == "refused@example.org":
                ctx.reject("No", 553)

        @self.app.on_data
        async def data(ctx: DataContext) -> None:
            with ctx.delivering("memory"), tracer.start_as_current_span("inner"):
                body = await ctx.stream.read()
                if body.startswith(b"refuse"):
                    ctx.reject("No", 550)
                if body.startswith(b"crash"):
                    raise LookupError("alice@example.org is not there")

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def text(self) -> str:
        """All that the plugin's own spans hold."""
        spans = self._exporter.get_finished_spans()
        return "".join(span.to_json() for span in spans if span.name.startswith("smtp."))


def facts(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return dict(span.attributes)


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


async def test_a_session_with_a_message(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    traced = Traced()
    async with serving(traced.app, ssl_context=server_ssl_context) as server, connected(server) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, server_hostname=NAME)
        await client.ehlo()
        assert (await send(client, BODY)).code == 250
        await client.quit()
        with trio.fail_after(20):
            await client.read_to_end()
        await trio.testing.wait_all_tasks_blocked()
    session, transaction = traced.only("smtp.session"), traced.only("smtp.transaction")
    delivery, inner = traced.only("smtp.delivery memory"), traced.only("inner")
    assert [parent(span) for span in (session, transaction, delivery, inner)] == [
        None,
        own(session),
        own(transaction),
        own(delivery),
    ]
    found = dict(facts(session))
    assert len(str(found.pop("smtp.session.id"))) == 32
    assert isinstance(found.pop("network.peer.port"), int)
    assert found == {
        "network.peer.address": "127.0.0.1",
        "network.protocol.name": "smtp",
        "smtp.session.end": "quit",
        "tls.protocol.version": "TLSv1.3",
    }
    assert facts(transaction) == {
        "smtp.status_code": 250,
        "smtp.recipients": 1,
        "smtp.message.size": len(BODY),
        "smtp.transaction.end": "accepted",
    }
    assert facts(delivery) == {"smtp.delivery.target": "memory"}
    assert session.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("body", "kind", "status"), [(b"refuse", "550", 550), (b"crash", "LookupError", None)], ids=["refusal", "crash"]
)
async def test_what_fails(body: bytes, kind: str, status: int | None) -> None:
    traced = Traced()
    async with open_client(traced.app) as client:
        await client.ehlo()
        await send(client, body)
        await client.quit()
    transaction, delivery = traced.only("smtp.transaction"), traced.only("smtp.delivery memory")
    for span in (transaction, delivery):
        assert facts(span)["error.type"] == kind
        assert facts(span).get("smtp.status_code") == status
        assert span.status.status_code is StatusCode.ERROR
        assert not span.events
    assert facts(transaction)["smtp.transaction.end"] == "refused"


async def test_no_span_says_who_writes_to_whom() -> None:
    traced = Traced()
    async with open_client(traced.app) as client:
        await client.ehlo()
        for body in (BODY, b"refuse", b"crash"):
            await send(client, body)
        await client.quit()
    text = traced.text()
    assert text.count("smtp.transaction.end") == 3
    assert "@" not in text
    assert "Subject" not in text


async def test_a_sender_who_is_refused() -> None:
    traced = Traced()
    async with open_client(traced.app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<refused@example.org>")
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RSET")
        await client.quit()
    refused, reset = traced.spans("smtp.transaction")
    assert facts(refused) == {"error.type": "553", "smtp.status_code": 553}
    assert facts(reset) == {"smtp.transaction.end": "reset"}


async def test_a_client_that_is_lost() -> None:
    traced = Traced()
    async with serving(traced.app) as server:
        async with connected(server) as client:
            await client.ehlo()
            await client.command("MAIL FROM:<a@example.org>")
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert facts(traced.only("smtp.transaction"))["error.type"] == "lost"
    assert facts(traced.only("smtp.session"))["error.type"] == "lost"


async def test_a_client_that_is_refused() -> None:
    traced = Traced()

    @traced.app.on_connect
    async def refuse(ctx: ConnectContext) -> None:
        ctx.reject("No")

    async with serving(traced.app) as server, connected(server) as client:
        await client.read_to_end()
    found = facts(traced.only("smtp.session"))
    assert (found["smtp.status_code"], found["error.type"]) == (550, "refused")


async def test_xclient_goes_on_with_the_session() -> None:
    traced = Traced()
    async with serving(traced.app, xclient=("127.0.0.1",)) as server, connected(server) as client:
        await client.ehlo()
        await client.command("XCLIENT ADDR=192.0.2.1")
        await client.ehlo()
        await client.quit()
        await client.read_to_end()
        await trio.testing.wait_all_tasks_blocked()
    assert facts(traced.only("smtp.session"))["network.peer.address"] == "192.0.2.1"


async def test_without_an_sdk_mail_is_taken() -> None:
    app = App()
    app.use(tracing())
    app.on_data(_take)
    async with open_client(app) as client:
        await client.ehlo()
        assert (await send(client, BODY)).code == 250


async def _take(ctx: DataContext) -> None:
    await ctx.stream.discard()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    monkeypatch.delitem(sys.modules, "trio_smtp.plugins.tracing")
    with pytest.raises(ImportError, match=r"pip install 'trio-smtp\[otel\]'"):
        importlib.import_module("trio_smtp.plugins.tracing")
