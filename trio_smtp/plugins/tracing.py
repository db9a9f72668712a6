"""Spans for OpenTelemetry: of each session, each transaction and each delivery. Needs the extra `otel`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trio_smtp import (
    App,
    CallNext,
    CloseContext,
    ConnectContext,
    DataContext,
    MailFromContext,
    Plugin,
    Session,
    SMTPError,
    TransactionEndContext,
)

try:
    from opentelemetry.trace import (
        Span,
        SpanKind,
        StatusCode,
        Tracer,
        TracerProvider,
        get_tracer,
        set_span_in_context,
        use_span,
    )
except ImportError as _error:
    raise ImportError("tracing needs the extra otel: pip install 'trio-smtp[otel]'") from _error

__all__ = ["tracing"]

#: Where a session and an envelope keep their span.
_KEY = "trio_smtp.plugins.tracing"
#: Reasons for the end of a session that are nobody's fault.
_GOOD_ENDS = frozenset({"quit", "drained"})


def tracing(tracer_provider: TracerProvider | None = None) -> Plugin:
    """Make spans of sessions, transactions and deliveries; register it first, so that it sees what the others do.

    A session's span has its transactions below it, and a transaction's span its deliveries (`DataContext.delivering`).
    The transaction's span is current while handlers of `on_mail_from` and `on_data` run, so that spans of theirs are
    below it. No span holds a sender, a recipient or a text of the client's.

    Args:
        tracer_provider: Makes the tracer; None: the global one, which `opentelemetry.trace.set_tracer_provider` sets.
            Without an SDK nothing is recorded.

    Returns:
        A plugin.

    Example:
        >>> app.use(tracing())
    """

    def install(app: App) -> None:
        spans = _Spans(get_tracer("trio_smtp", tracer_provider=tracer_provider))
        app.on_connect(spans.connect)
        app.on_mail_from(spans.mail_from)
        app.on_data(spans.data)
        app.on_transaction_end(spans.end_transaction)
        app.on_close(spans.close)
        app.watch_deliveries(spans.deliver)

    return install


class _Spans:
    """The handlers of a plugin."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def connect(self, ctx: ConnectContext, call_next: CallNext) -> None:
        session = ctx.session
        if _KEY not in session.data:  # XCLIENT brings a session here again
            span = self._tracer.start_span("smtp.session", kind=SpanKind.SERVER)
            span.set_attribute("network.protocol.name", "lmtp" if session.lmtp else "smtp")
            span.set_attribute("smtp.session.id", session.id)
            session.data[_KEY] = span
        with _noting(_span_of(session.data)):
            await call_next()

    async def mail_from(self, ctx: MailFromContext, call_next: CallNext) -> None:
        envelope = ctx.envelope
        above = set_span_in_context(_span_of(ctx.session.data))
        span = self._tracer.start_span("smtp.transaction", context=above, kind=SpanKind.SERVER)
        try:
            with _noting(span), _current(span):
                await call_next()
        except BaseException:
            span.end()
            raise
        envelope.data[_KEY] = span

    async def data(self, ctx: DataContext, call_next: CallNext) -> None:
        span = _span_of(ctx.envelope.data)
        span.set_attribute("smtp.recipients", len(ctx.recipients))
        with _current(span):
            try:
                with _noting(span):
                    await call_next()
                span.set_attribute("smtp.status_code", ctx.reply.code)
            finally:
                span.set_attribute("smtp.message.size", ctx.stream.byte_length)

    async def end_transaction(self, ctx: TransactionEndContext) -> None:
        span = _span_of(ctx.envelope.data)
        span.set_attribute("smtp.transaction.end", ctx.reason)
        if ctx.reason == "lost":
            _note_error(span, "lost")
        span.end()

    async def close(self, ctx: CloseContext) -> None:
        session = ctx.session
        span = _span_of(session.data)
        # Here, because PROXY and XCLIENT say late who the client is.
        for name, value in (
            ("network.peer.address", session.remote_address),
            ("network.peer.port", session.remote_port),
            ("tls.protocol.version", session.tls.version if session.tls is not None else None),
        ):
            if value is not None:
                span.set_attribute(name, value)
        span.set_attribute("smtp.session.end", ctx.reason)
        if ctx.reason not in _GOOD_ENDS:
            _note_error(span, ctx.reason)
        span.end()

    @contextmanager
    def deliver(self, _: Session, target: str) -> Iterator[None]:
        attributes = {"smtp.delivery.target": target}
        span = self._tracer.start_span(f"smtp.delivery {target}", kind=SpanKind.CLIENT, attributes=attributes)
        try:
            with _noting(span), _current(span):
                yield
        finally:
            span.end()


def _span_of(data: dict[str, object]) -> Span:
    span = data[_KEY]
    assert isinstance(span, Span)
    return span


@contextmanager
def _current(span: Span) -> Iterator[None]:
    """Spans that are made inside are below this one. What is raised may hold addresses, and is not recorded."""
    with use_span(span, record_exception=False, set_status_on_exception=False):
        yield


@contextmanager
def _noting(span: Span) -> Iterator[None]:
    """Note what is raised inside: the code of a refusal, or the class of another exception."""
    try:
        yield
    except SMTPError as refusal:
        span.set_attribute("smtp.status_code", refusal.reply.code)
        _note_error(span, str(refusal.reply.code))
        raise
    except BaseException as error:
        _note_error(span, type(error).__qualname__)
        raise


def _note_error(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
