"""Extensions of users' own: keywords, parameters, verbs, and for whom they are there."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import pytest

from tests.support import BODY, logged, mail_app, status
from trio_smtp import (
    App,
    AuthContext,
    CommandContext,
    Config,
    Extension,
    Reply,
    Session,
    SMTPServer,
)
from trio_smtp.app.extension import is_offered
from trio_smtp.testing import Client, open_client


def colour(value: str | bool) -> str:
    if value not in ("RED", "BLUE"):
        raise ValueError("needs RED or BLUE")
    return str(value).lower()


async def etrn(ctx: CommandContext) -> None:
    if not ctx.argument:
        ctx.reject("ETRN needs a domain", 501, enhanced="5.5.4")
    ctx.session.data["etrn"] = ctx.verb, ctx.argument
    ctx.reply = Reply(253, f"Pending messages for {ctx.argument} started")


XCOLOUR = Extension(
    keyword="xcolour",
    argument="RED BLUE",
    mail_parameters={"xcolour": colour},
    rcpt_parameters={"XSHADE": int},
)
ETRN = Extension(keyword="ETRN", commands={"etrn": etrn})


async def test_parameters_of_ones_own() -> None:
    app, _ = mail_app()
    app.extend(XCOLOUR).extend(ETRN)
    async with open_client(app) as client:
        lines = (await client.ehlo()).lines
        assert lines[-3:] == ("XCOLOUR RED BLUE", "ETRN", "HELP")
        reply = await client.command("MAIL FROM:<a@example.org> XCOLOUR=GREEN")
        assert (status(reply), reply.text) == ((501, "5.5.4"), "XCOLOUR: needs RED or BLUE")
        assert status(await client.command("MAIL FROM:<a@example.org> XCOLOUR")) == (501, "5.5.4")
        assert status(await client.command("MAIL FROM:<a@example.org> XSHADE=3")) == (555, "5.5.4")
        assert (await client.command("MAIL FROM:<a@example.org> xcolour=RED SIZE=5")).code == 250
        assert client.session.envelope.values == {"XCOLOUR": "red", "SIZE": 5}
        assert status(await client.command("RCPT TO:<b@example.com> XSHADE=x")) == (501, "5.5.4")
        assert (await client.command("RCPT TO:<b@example.com> XSHADE=3")).code == 250
        assert client.session.envelope.rcpt_to[0].values == {"XSHADE": 3}
        assert client.session.envelope.rcpt_to[0].args == {"XSHADE": "3"}


async def test_a_verb_of_ones_own() -> None:
    app, _ = mail_app()
    app.extend(ETRN)
    async with open_client(app) as client:
        assert (await client.command("etrn early.example")).code == 253  # before EHLO; the handler may look
        await client.ehlo()
        reply = await client.command("Etrn example.com")
        assert (status(reply), reply.text) == ((253, "2.0.0"), "Pending messages for example.com started")
        assert client.session.data["etrn"] == ("ETRN", "example.com")
        assert status(await client.command("ETRN")) == (501, "5.5.4")
        assert "ETRN" in (await client.command("HELP")).text
        await client.command("MAIL FROM:<a@example.org>")
        assert (await client.command("ETRN example.com")).code == 253
        await client.command("RCPT TO:<b@example.com>")
        await client.send_bytes(b"ETRN a.example\r\nBDAT 1\r\nxETRN b.example\r\nBDAT 0 LAST\r\n")
        assert [(await client.read_reply()).code for _ in range(4)] == [253, 250, 253, 250]


async def test_a_verbs_handler_may_crash_refuse_or_close(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(ctx: CommandContext) -> None:
        if ctx.argument == "close":
            ctx.disconnect("Enough")
        if ctx.argument == "refuse":
            ctx.reject()
        raise RuntimeError("secret")

    app, _ = mail_app()
    app.extend(Extension(keyword="XCRASH", commands={"XCRASH": handle}))
    async with open_client(app) as client:
        await client.ehlo()
        assert status(await client.command("XCRASH")) == (451, "4.3.0")
        assert (await client.command("XCRASH refuse")).code == 550
        assert (await client.command("XCRASH close")).code == 421
        assert await client.read_to_end() == b""
    assert [line for line in logged(caplog) if "XCRASH handler failed" in line]


async def test_an_object_or_a_partial_may_handle_a_verb() -> None:
    class Handler:
        async def __call__(self, ctx: CommandContext) -> None:
            ctx.reply = Reply(250, "object")

    async def named(name: str, ctx: CommandContext) -> None:
        ctx.reply = Reply(250, name)

    app, _ = mail_app()
    app.extend(Extension(keyword="XV", commands={"XOBJECT": Handler(), "XPARTIAL": partial(named, "partial")}))
    async with open_client(app) as client:
        assert (await client.command("XOBJECT")).text == "object"
        assert (await client.command("XPARTIAL")).text == "partial"


async def test_before_tls_and_where_it_is_hidden(server_ssl_context: ssl.SSLContext) -> None:
    app, _ = mail_app()
    app.extend(ETRN)
    changes: dict[str, Any] = {
        "ssl_context": server_ssl_context,
        "starttls_required": True,
        "hide_extensions": {"ETRN"},
    }
    async with open_client(app, **changes) as client:
        assert "ETRN" not in (await client.ehlo()).lines
        assert status(await client.command("ETRN example.com")) == (530, "5.7.0")


async def test_an_argument_may_depend_on_the_session() -> None:
    app, _ = mail_app()
    app.extend(Extension(keyword="XHELO", argument=lambda session: session.host_name_appears_as or ""))
    async with open_client(app) as client:
        assert "XHELO one.example" in (await client.ehlo("one.example")).lines
        assert "XHELO two.example" in (await client.ehlo("two.example")).lines


async def test_an_extension_may_be_there_for_some(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    app, _ = mail_app()

    @app.on_auth
    async def accept(ctx: AuthContext) -> None:
        ctx.accept(ctx.credentials.username)

    for name, available in (
        ("XSECURE", lambda session: session.secure),
        ("XUSER", lambda session: session.user == "boss"),
    ):
        app.extend(
            Extension(
                keyword=name,
                available=available,
                mail_parameters={name: str},
                rcpt_parameters={f"{name}-R": str},
                commands={name: etrn},
            )
        )

    async def offered(client: Client) -> list[tuple[bool, int, int]]:
        """Of each: whether EHLO shows it, and what its verb and its parameter are answered with."""
        lines = (await client.ehlo()).lines
        found = []
        for name in ("XSECURE", "XUSER"):
            verb = (await client.command(f"{name} x")).code
            found.append((name in lines, verb, (await client.command(f"MAIL FROM:<a@example.org> {name}=1")).code))
            await client.command("RSET")
        return found

    no, yes = (False, 500, 555), (True, 253, 250)
    async with open_client(app, ssl_context=server_ssl_context, max_errors=50) as client:
        assert await offered(client) == [no, no]
        await client.starttls(client_ssl_context, "mx.example.com")
        assert await offered(client) == [yes, no]
        await client.auth_plain("boss", "x")
        assert await offered(client) == [yes, yes]


async def test_an_available_that_crashes_costs_only_the_extension(caplog: pytest.LogCaptureFixture) -> None:
    def crash(session: Session) -> bool:
        raise RuntimeError("no")

    app, _ = mail_app()
    app.extend(Extension(keyword="XCRASH", available=crash, commands={"XCRASH": etrn}))
    async with open_client(app) as client:
        assert "XCRASH" not in (await client.ehlo()).lines
        assert (await client.command("XCRASH x")).code == 500
        assert (await client.send_message("a@example.org", ["b@example.com"], BODY)).code == 250
    assert any("XCRASH: available failed" in line for line in logged(caplog))


def test_without_a_condition_an_extension_is_there_for_all() -> None:
    assert is_offered(ETRN, Session())


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"keyword": ""}, id="no keyword"),
        pytest.param({"keyword": "X COLOUR"}, id="a space"),
        pytest.param({"keyword": "-X"}, id="a hyphen first"),
        pytest.param({"keyword": "X\r\n250-AUTH"}, id="a line end"),
        pytest.param({"keyword": "X", "mail_parameters": {"X=": str}}, id="an equals sign in a parameter"),
        pytest.param({"keyword": "X", "rcpt_parameters": {"": str}}, id="an empty parameter"),
        pytest.param({"keyword": "X", "commands": {"X Y": etrn}}, id="a space in a verb"),
        pytest.param({"keyword": "X", "commands": {"quit": etrn}}, id="a verb of the library's"),
        pytest.param({"keyword": "X", "commands": {"XCLIENT": etrn}}, id="another"),
        pytest.param({"keyword": "starttls"}, id="STARTTLS"),
        pytest.param({"keyword": "AUTH"}, id="AUTH"),
        pytest.param({"keyword": "HELP"}, id="HELP"),
        pytest.param({"keyword": "X", "mail_parameters": {"AUTH": str}}, id="MAIL AUTH="),
    ],
)
def test_what_is_no_extension(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be letters, digits and hyphens|the library's own"):
        Extension(**fields)


def not_async(ctx: CommandContext) -> None:
    return


@pytest.mark.parametrize("handler", [not_async, None, 5, "etrn"])
def test_a_verbs_handler_is_an_async_function(handler: Any) -> None:
    with pytest.raises(TypeError, match="XV: write `async def handler"):
        Extension(keyword="X", commands={"XV": handler})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"keyword": "XCOLOUR"}, id="the keyword"),
        pytest.param({"keyword": "X", "mail_parameters": {"XCOLOUR": str}}, id="a parameter of MAIL"),
        pytest.param({"keyword": "X", "rcpt_parameters": {"xshade": str}}, id="a parameter of RCPT"),
        pytest.param({"keyword": "X", "commands": {"XPAINT": etrn}}, id="a verb"),
    ],
)
def test_two_extensions_must_not_clash(other: dict[str, Any]) -> None:
    app = App().extend(XCOLOUR).extend(Extension(keyword="XPAINT", commands={"XPAINT": etrn}))
    with pytest.raises(ValueError, match="is there already"):
        app.extend(Extension(**other))
    app.extend(Extension(keyword="X", mail_parameters={"XSHADE": str}))  # of MAIL, the other is RCPT's


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"keyword": "PIPELINING"}, {}),
        ({"keyword": "X", "mail_parameters": {"SIZE": str}}, {}),
        ({"keyword": "X", "rcpt_parameters": {"NOTIFY": str}}, {"dsn": True}),
        ({"keyword": "DSN"}, {"dsn": True}),
    ],
)
def test_an_extension_must_not_clash_with_the_librarys(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    app, _ = mail_app()
    app.extend(Extension(**fields))
    with pytest.raises(ValueError, match="clashes with the library's own"):
        SMTPServer(app, Config(**changes))


async def test_what_is_switched_off_may_be_ones_own() -> None:
    app, _ = mail_app()
    app.extend(Extension(keyword="DSN", rcpt_parameters={"NOTIFY": str}))
    app.extend(Extension(keyword="CHUNKING"))
    async with open_client(app, chunking=False) as client:
        lines = (await client.ehlo()).lines
        assert lines[-3:] == ("DSN", "CHUNKING", "HELP")
        await client.command("MAIL FROM:<a@example.org>")
        assert (await client.command("RCPT TO:<b@example.com> NOTIFY=WHATEVER")).code == 250
        assert client.session.envelope.rcpt_to[0].values == {"NOTIFY": "WHATEVER"}
        assert (await client.command("BDAT 5")).code == 521


def test_extensions_are_added_before_serving() -> None:
    app, _ = mail_app()
    SMTPServer(app)
    with pytest.raises(RuntimeError, match="before serving begins"):
        app.extend(ETRN)
