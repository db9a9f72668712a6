"""App: two shapes of handler, the chain they make, and what is refused when it is registered."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_smtp import (
    App,
    CallNext,
    CloseContext,
    ConnectContext,
    DataContext,
    MailFromContext,
    RcptToContext,
    Session,
    SMTPError,
    SMTPServer,
)
from trio_smtp.app.application import Phase, chains_of
from trio_smtp.testing import open_client

from .support import BODY, mail_app, send

DECORATORS = {
    "on_connect", "on_secure", "on_helo", "on_auth", "on_mail_from", "on_rcpt_to", "on_data_start", "on_data",
    "on_vrfy", "on_expn", "on_close", "on_command", "on_reply", "on_transaction_end",
}  # fmt: skip


def test_there_is_one_decorator_for_each_phase() -> None:
    assert {phase.value for phase in Phase} == DECORATORS
    assert {name for name in dir(App) if name.startswith("on_")} == DECORATORS


@pytest.mark.parametrize("name", sorted(DECORATORS))
async def test_a_decorator_returns_the_function_unchanged_and_registers_it_for_its_phase(name: str) -> None:
    app = App()
    seen: list[object] = []

    async def handler(ctx: object) -> None:
        seen.append(ctx)

    assert getattr(app, name)(handler) is handler
    assert list(chains_of(app)) == [Phase(name)]
    context = object()
    await chains_of(app)[Phase(name)](context)
    assert seen == [context]


async def test_handlers_run_in_the_order_of_registration_and_middleware_wraps_what_follows() -> None:
    app = App()
    steps: list[str] = []

    def add_filter(name: str) -> None:
        @app.on_connect
        async def f(ctx: ConnectContext) -> None:
            steps.append(name)

    def add_middleware(name: str) -> None:
        @app.on_connect
        async def m(ctx: ConnectContext, call_next: CallNext) -> None:
            steps.append(f"{name} in")
            await call_next()
            steps.append(f"{name} out")

    add_filter("1")
    add_middleware("2")
    add_filter("3")
    add_middleware("4")
    add_filter("5")
    async with open_client(app) as client:
        assert client.greeting.code == 220
    assert steps == ["1", "2 in", "3", "4 in", "5", "4 out", "2 out"]


async def test_a_middleware_at_the_end_of_the_chain_may_call_next() -> None:
    app = App()
    steps: list[str] = []

    @app.on_connect
    async def last(ctx: ConnectContext, call_next: CallNext) -> None:
        await call_next()
        steps.append("back")

    async with open_client(app):
        assert steps == ["back"]


async def test_a_middleware_that_does_not_call_next_ends_the_chain_and_accepts() -> None:
    app = App()
    reached: list[str] = []

    @app.on_mail_from
    async def trust(ctx: MailFromContext, call_next: CallNext) -> None:
        if ctx.address.domain != "trusted.example":
            await call_next()

    @app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        reached.append(ctx.address.address)
        ctx.reject("No")

    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<a@trusted.example>")).code == 250
        assert reached == []
        await client.command("RSET")
        assert (await client.command("MAIL FROM:<a@elsewhere.example>")).code == 550
        assert reached == ["a@elsewhere.example"]


async def test_calling_next_twice_is_a_runtime_error() -> None:
    app = App()
    runs: list[int] = []

    @app.on_connect
    async def twice(ctx: ConnectContext, call_next: CallNext) -> None:
        await call_next()
        await call_next()

    @app.on_connect
    async def count(ctx: ConnectContext) -> None:
        runs.append(1)

    with pytest.raises(RuntimeError, match="call_next"):
        await chains_of(app)[Phase.CONNECT](object())
    assert runs == [1]


async def test_a_middleware_sees_what_the_rest_of_the_chain_raised_and_may_decide_otherwise() -> None:
    app = App()

    @app.on_rcpt_to
    async def soften(ctx: RcptToContext, call_next: CallNext) -> None:
        try:
            await call_next()
        except SMTPError as exc:
            if exc.code == 550:
                ctx.reject(f"Later: {exc.message}", 450)
            raise

    @app.on_rcpt_to
    async def refuse(ctx: RcptToContext) -> None:
        ctx.reject("no", {"b": 550, "c": 553}[ctx.address.local_part])

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        reply = await client.command("RCPT TO:<b@example.com>")
        assert (reply.code, reply.text) == (450, "Later: no")
        assert (await client.command("RCPT TO:<c@example.com>")).code == 553
        assert client.session.envelope.rcpt_to == []


async def test_a_recipient_is_in_the_envelope_only_when_its_whole_chain_has_returned() -> None:
    app = App()
    counts: list[int] = []

    @app.on_rcpt_to
    async def around(ctx: RcptToContext, call_next: CallNext) -> None:
        await call_next()
        counts.append(len(ctx.session.envelope.rcpt_to))

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        await client.command("RCPT TO:<b@example.com>")
        await client.command("RCPT TO:<c@example.com>")
        assert counts == [0, 1]
        assert [r.address for r in client.session.envelope.rcpt_to] == ["b@example.com", "c@example.com"]


async def test_chains_that_run_at_the_same_time_do_not_meet() -> None:
    app = App()
    arrived: list[int] = []
    both = trio.Event()

    @app.on_connect
    async def wait_for_the_other(ctx: ConnectContext, call_next: CallNext) -> None:
        arrived.append(1)
        if len(arrived) == 2:
            both.set()
        await both.wait()
        await call_next()

    async def connect() -> None:
        async with open_client(app) as client:
            assert client.greeting.code == 220

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        nursery.start_soon(connect)
    assert arrived == [1, 1]


class Object:
    """Handlers that are methods and a callable object."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, ctx: object) -> None:
        self.seen.append("called")

    async def method(self, ctx: object, call_next: CallNext) -> None:
        self.seen.append("method")
        await call_next()

    async def with_more(self, prefix: str, ctx: object, *, suffix: str = "") -> None:
        self.seen.append(f"{prefix}{suffix}")

    @staticmethod
    async def static(ctx: object, call_next: CallNext, seen: list[str] | None = None) -> None:
        await call_next()


async def test_methods_partials_callable_objects_and_defaults_are_told_apart_by_what_is_left_to_give() -> None:
    app, handlers = App(), Object()
    app.on_connect(handlers.method)
    app.on_connect(handlers)
    app.on_connect(Object.static)
    app.on_connect(functools.partial(handlers.with_more, "partial", suffix="!"))
    await chains_of(app)[Phase.CONNECT](object())
    assert handlers.seen == ["method", "called", "partial!"]


async def no_parameters() -> None: ...
async def three(ctx: object, call_next: object, more: object) -> None: ...
async def keyword_only(ctx: object, *, more: object) -> None: ...
async def only_star(*args: object) -> None: ...
async def only_defaults(ctx: object = None) -> None: ...
def plain(ctx: object) -> None: ...
async def generator(ctx: object) -> Any:
    yield ctx


class Plain:
    def __call__(self, ctx: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        pytest.param(no_parameters, "wrong parameters", id="none"),
        pytest.param(three, "wrong parameters", id="three"),
        pytest.param(keyword_only, "wrong parameters", id="keyword-only"),
        pytest.param(only_star, "wrong parameters", id="*args"),
        pytest.param(only_defaults, "wrong parameters", id="defaults do not count"),
        pytest.param(plain, "not an async function", id="def"),
        pytest.param(generator, "not an async function", id="async generator"),
        pytest.param(Plain(), "not an async function", id="object with a plain __call__"),
        pytest.param(lambda ctx: None, "not an async function", id="lambda"),
        pytest.param("on_mail", "not a function", id="a string"),
        pytest.param(None, "not a function", id="None"),
    ],
)
def test_what_is_no_handler_is_an_error_at_once_that_says_what_to_write(handler: Any, complaint: str) -> None:
    app = App()
    with pytest.raises(TypeError, match=complaint) as info:
        app.on_rcpt_to(handler)
    assert "async def on_rcpt_to(ctx)" in str(info.value)
    assert "async def on_rcpt_to(ctx, call_next)" in str(info.value)
    assert getattr(handler, "__qualname__", repr(handler)) in str(info.value)
    assert Phase.RCPT_TO not in chains_of(app)


async def test_registering_after_serving_began_is_an_error_that_names_the_decorator() -> None:
    app, _ = mail_app()
    SMTPServer(app)

    async def late(ctx: DataContext) -> None: ...

    with pytest.raises(RuntimeError, match="on_data: register handlers before serving begins"):
        app.on_data(late)


async def test_use_lets_plugins_register_and_chains() -> None:
    app = App()
    order: list[str] = []

    def plugin(name: str) -> Callable[[App], None]:
        def register(to: App) -> None:
            @to.on_connect
            async def note(ctx: ConnectContext) -> None:
                order.append(name)

        return register

    assert app.use(plugin("one")).use(plugin("two")) is app
    await chains_of(app)[Phase.CONNECT](object())
    assert order == ["one", "two"]


async def test_state_is_what_the_handlers_of_one_app_share() -> None:
    app, other = App(), App()
    app.state.senders = []

    @app.on_mail_from
    async def keep(ctx: MailFromContext) -> None:
        app.state.senders.append(ctx.address.address)

    async with open_client(app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
    assert app.state.senders == ["a@example.org"]
    assert not hasattr(other.state, "senders")


async def test_one_app_is_served_under_several_configs_at_once() -> None:
    app, taken = mail_app()
    async with open_client(app, hostname="mx1.example") as one, open_client(app, hostname="mx2.example") as two:
        assert one.greeting.text.startswith("mx1.example ")
        assert two.greeting.text.startswith("mx2.example ")
        for client in (one, two):
            await client.ehlo()
            assert (await send(client)).code == 250
    assert taken == [BODY, BODY]


async def test_what_a_handler_raises_comes_out_of_the_chain() -> None:
    app = App()

    async def broken(ctx: object) -> None:
        raise LookupError("broken")

    handler: Callable[[Any], Awaitable[None]] = broken
    app.on_connect(handler)
    with pytest.raises(LookupError, match="broken"):
        await chains_of(app)[Phase.CONNECT](object())


# --- compiled chains ---


def test_chains_are_compiled_once() -> None:
    app, _ = mail_app()
    chains = chains_of(app)
    SMTPServer(app)
    assert chains_of(app) is chains


def test_a_phase_without_handlers_has_no_chain() -> None:
    assert chains_of(App()) == {}


def test_a_single_filter_is_its_own_chain() -> None:
    app = App()

    @app.on_connect
    async def alone(ctx: ConnectContext) -> None: ...

    assert chains_of(app)[Phase.CONNECT] is alone


async def test_a_chain_may_run_any_number_of_times() -> None:
    app = App()
    steps: list[str] = []

    @app.on_connect
    async def around(ctx: object, call_next: CallNext) -> None:
        await call_next()
        steps.append("around")

    @app.on_connect
    async def one(ctx: object) -> None:
        steps.append("one")

    chain = chains_of(app)[Phase.CONNECT]
    for _ in range(2):
        await chain(object())
    assert steps == ["one", "around"] * 2


Around = Callable[[CallNext], Awaitable[None]]


async def fails_at_once(call_next: CallNext) -> None:
    raise LookupError("at once")


async def fails_on_the_way_back(call_next: CallNext) -> None:
    await call_next()
    raise LookupError("on the way back")


async def fails_by_calling_twice(call_next: CallNext) -> None:
    await call_next()
    await call_next()


async def ends_the_chain(call_next: CallNext) -> None: ...


async def goes_on(call_next: CallNext) -> None:
    await call_next()


@pytest.mark.parametrize(
    ("around", "failures", "ran"),
    [
        (fails_at_once, ["at once"], ["first", "last"]),
        (fails_on_the_way_back, ["on the way back"], ["first", "last"]),
        (fails_by_calling_twice, ["call_next() was called twice"], ["first", "last"]),
        (ends_the_chain, [], ["first"]),
        (goes_on, [], ["first", "last"]),
    ],
)
async def test_what_a_middleware_of_on_close_raises_is_logged_and_the_rest_runs_once(
    around: Around, failures: list[str], ran: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    steps: list[str] = []

    @app.on_close
    async def first(ctx: CloseContext) -> None:
        steps.append("first")

    @app.on_close
    async def middleware(ctx: CloseContext, call_next: CallNext) -> None:
        await around(call_next)

    @app.on_close
    async def last(ctx: CloseContext) -> None:
        steps.append("last")

    session = Session()
    await chains_of(app)[Phase.CLOSE](CloseContext(session, "quit"))
    assert steps == ran
    assert caplog.messages == [f"session={session.id} on_close handler failed"] * len(failures)
    assert [str(record.exc_info and record.exc_info[1]) for record in caplog.records] == failures


async def test_what_comes_after_a_failed_handler_of_on_close_is_not_told_of_its_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()

    @app.on_close
    async def around(ctx: CloseContext, call_next: CallNext) -> None:
        raise LookupError("around")

    @app.on_close
    async def last(ctx: CloseContext) -> None:
        raise LookupError("last")

    await chains_of(app)[Phase.CLOSE](CloseContext(Session(), "quit"))
    failures = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(failure) for failure in failures] == ["around", "last"]
    assert failures[1] is not None
    assert failures[1].__context__ is None
