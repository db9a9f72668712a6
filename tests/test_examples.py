"""Every example runs as a script, and does what it says."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import runpy
import smtplib
import sqlite3
import ssl
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

import trio_smtp
from tests.socket_support import port_of
from trio_smtp import Config, SMTPServer
from trio_smtp.testing import Client, open_client

from .conftest import CertificateFiles
from .webhook_support import SECRET as WEBHOOK_SECRET
from .webhook_support import answering, read_request

EXAMPLES = Path(__file__).parent.parent / "examples"
SERVERS = (
    "smallest",
    "domain_filter",
    "auth",
    "starttls",
    "resources",
    "memory_channel",
    "spool",
    "smarthost",
    "tls_front",
    "gateway",
)
#: Run in tests/relay: it listens on a Unix socket, and speaks LMTP.
ELSEWHERE = ("lmtp_behind_postfix",)
MESSAGE = b"Subject: Hello\r\n\r\nIt works.\r\n"
ALICE = "alice@example.com"


def load(name: str) -> ModuleType:
    """The example as a module of its own, with fresh state."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Script = Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Run an example as a script up to its `trio.run`, or the library's `run`; gives what that is to run."""

    def run(name: str, *arguments: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        runs: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", [f"{name}.py", *arguments])
            patched.setattr(trio, "run", lambda function, *args: runs.append((function, args)))
            patched.setattr(trio_smtp, "run", lambda *args: runs.append((trio_smtp.serve, args)))
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        (only,) = runs
        return only

    return run


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SERVERS, *ELSEWHERE, "inside_asyncio", "test_my_handlers"}


@pytest.mark.parametrize("name", SERVERS)
async def test_it_serves_as_a_script(
    name: str, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function, (*arguments, config) = script(name)
    assert isinstance(config, Config)
    async with trio.open_nursery() as nursery:
        server: SMTPServer = await nursery.start(function, *arguments, attrs.evolve(config, port=0))

        def greet() -> int:
            with smtplib.SMTP("127.0.0.1", port_of(server), timeout=30) as client:
                return client.ehlo()[0]

        assert await trio.to_thread.run_sync(greet) == 250
        server.drain()


async def test_the_readme_shows_a_server_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "App()" in code]
    runs: list[tuple[Any, ...]] = []
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(trio_smtp, "run", lambda *args: runs.append(args))
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    ((app, config),) = runs
    async with open_client(app, config) as client:
        await client.ehlo()
        refused = await client.send_message(ALICE, ["bob@elsewhere.example"], MESSAGE)
        assert (refused.code, refused.enhanced) == (550, "5.7.1")
        await client.command("RSET")
        for _ in range(2):  # two messages of one connection are two
            assert (await client.send_message(ALICE, ["bob@example.com"], MESSAGE)).code == 250
        await client.command(f"MAIL FROM:<{ALICE}>")
        await client.command("RCPT TO:<bob@example.com>")
        await client.command("DATA")
        await client.send_bytes(b"Subject: half")
    stored = [path.read_bytes() for path in Path("mail").rglob("*") if path.is_file()]
    assert [message.endswith(MESSAGE) for message in stored] == [True, True]  # and half a message is none


def test_the_readme_names_every_example() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(examples/(\w+)\.py\)", readme)) == {path.stem for path in EXAMPLES.glob("*.py")}


async def test_smallest(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_client(load("smallest").app) as client:
        await client.ehlo()
        assert (await client.send_message(ALICE, ["bob@example.com", "carol@example.com"], MESSAGE)).code == 250
    assert capsys.readouterr().out == f"{len(MESSAGE)} octets for 2 recipients\n"


async def test_domain_filter(capsys: pytest.CaptureFixture[str]) -> None:
    module = load("domain_filter")
    async with open_client(module.app) as client:
        await client.ehlo()
        refused = await client.send_message(ALICE, ["bob@elsewhere.example"], MESSAGE)
        assert (refused.code, refused.enhanced) == (550, "5.7.1")
        await client.command("RSET")
        assert (await client.send_message(ALICE, ["bob@EXAMPLE.net", "eve@elsewhere.example"], MESSAGE)).code == 250
    assert capsys.readouterr().out == "{'refused': 2, 'accepted': 1}\n"


async def test_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = (
        b'Content-Type: application/octet-stream; name="x"\r\nContent-Disposition: attachment; filename="A.EXE"\r\n'
    )
    large = MESSAGE + b"0123456789\r\n" * 100_000  # in a temporary file
    async with open_client(load("spool").app) as client:
        await client.ehlo()
        refused = await client.send_message(ALICE, ["bob@example.com"], program + MESSAGE)
        assert (refused.code, refused.enhanced, refused.text) == (550, "5.7.1", "Programs are not taken")
        for body in (MESSAGE, large):  # two messages of one connection are two
            assert (await client.send_message(ALICE, ["bob@example.com"], body)).code == 250
        await client.command(f"MAIL FROM:<{ALICE}>")
        await client.command("RCPT TO:<bob@example.com>")
        await client.command("DATA")
        await client.send_bytes(b"Subject: half")
    stored = sorted((path.read_bytes() for path in Path("mail").rglob("*") if path.is_file()), key=len)
    assert len(stored) == 2  # and half a message is none
    for message, body in zip(stored, (MESSAGE, large), strict=True):
        field = b"X-Checksum: sha256=%s\r\n" % hashlib.sha256(body).hexdigest().encode()
        assert message.endswith(field + body)


async def test_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = load("resources")
    async with open_client(module.app) as client:
        await client.ehlo()
        for _ in range(2):  # two messages of one connection are two
            assert (await client.send_message(ALICE, ["bob@example.com"], MESSAGE)).code == 250
        await client.command(f"MAIL FROM:<{ALICE}>")
        await client.command("RCPT TO:<bob@example.com>")
        await client.command("DATA")
        await client.send_bytes(b"Subject: half")
    with closing(sqlite3.connect("mail.db")) as database:  # and half a message is none
        assert database.execute("SELECT * FROM mail").fetchall() == [(ALICE, MESSAGE)] * 2


async def test_resources_are_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    autojump_clock: trio.testing.MockClock,
) -> None:
    monkeypatch.chdir(tmp_path)
    async with load("resources").app.running():
        await trio.sleep(90)
    assert capsys.readouterr().out == "0 messages taken, 0 refused\n"


async def test_auth(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("auth")
    _, (_, config) = script("auth")
    async with open_client(module.app, config) as client:
        await client.ehlo()
        assert (await client.command(f"MAIL FROM:<{ALICE}>")).code == 530
        assert (await client.auth_plain(ALICE, "wrong")).code == 535
        assert (await client.auth_plain("nobody@example.com", "wrong")).code == 535
        assert not client.session.authenticated
        assert (await client.auth_plain(ALICE, "correct horse battery staple")).code == 235
        assert client.session.user == ALICE
        assert (await client.command("MAIL FROM:<bob@example.com>")).code == 553
        assert (await client.send_message(ALICE, ["bob@example.com"], MESSAGE)).code == 250
    assert capsys.readouterr().out == f"a message of {ALICE}\n"


async def test_starttls_with_a_certificate(
    script: Script,
    certificate_files: CertificateFiles,
    client_ssl_context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, (app, config) = script("starttls", str(certificate_files.cert), str(certificate_files.key))
    async with open_client(app, config) as client:
        await client.ehlo()
        assert (await client.command(f"MAIL FROM:<{ALICE}>")).code == 530
        await client.starttls(client_ssl_context, "localhost")
        await client.ehlo()
        assert (await client.send_message(ALICE, ["bob@example.com"], MESSAGE)).code == 250
    assert capsys.readouterr().out.startswith("a message over TLSv1.3, TLS_")


async def test_starttls_without_files_makes_a_certificate(
    script: Script, ca: trustme.CA, client_ssl_context: ssl.SSLContext
) -> None:
    _, (app, config) = script("starttls")
    async with open_client(app, config) as client:
        await client.ehlo()
        with pytest.raises(trio.BrokenResourceError) as refused:
            await client.starttls(client_ssl_context, "localhost")
        assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)


async def test_memory_channel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("memory_channel")
    begin = trio.Event()

    async def work_later(messages: trio.MemoryReceiveChannel[Any], work: Callable[..., Any] = module.work) -> None:
        await begin.wait()
        await work(messages)

    monkeypatch.setattr(module, "HELD", 1)
    monkeypatch.setattr(module, "work", work_later)
    async with open_client(module.app) as client, trio.open_nursery() as nursery:
        await client.ehlo()
        assert (await client.send_message(ALICE, ["bob@example.com"], MESSAGE)).code == 250
        # The channel is full now: the next message is not accepted before the worker begins.
        nursery.start_soon(second_message, client)
        await trio.testing.wait_all_tasks_blocked()
        assert client.session.transaction == 1
        begin.set()
        await trio.testing.wait_all_tasks_blocked()
        assert client.session.transaction == 2
    out = capsys.readouterr().out
    assert out == (
        f"{len(MESSAGE)} octets from <{ALICE}> for bob@example.com\n"
        f"{len(MESSAGE)} octets from <> for bob@example.com, carol@example.com\n"
    )


async def second_message(client: Client) -> None:
    await client.send_message("", ["bob@example.com", "carol@example.com"], MESSAGE)


async def test_memory_channel_ends_after_what_the_worker_still_holds(capsys: pytest.CaptureFixture[str]) -> None:
    module = load("memory_channel")
    async with trio.open_nursery() as nursery:
        server: SMTPServer = await nursery.start(trio_smtp.serve, module.app, Config(port=0))

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port_of(server), timeout=30) as client:
                client.sendmail(ALICE, "bob@example.com", MESSAGE)

        await trio.to_thread.run_sync(send)
        server.drain()
    assert capsys.readouterr().out == f"{len(MESSAGE)} octets from <{ALICE}> for bob@example.com\n"


async def test_test_my_handlers(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    main, arguments = script("test_my_handlers")
    await main(*arguments)
    assert capsys.readouterr().out.count(": ok\n") == 3


async def test_gateway(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it posts is signed by the secret that it shows, or by that of the environment."""
    from standardwebhooks.webhooks import Webhook

    taken: list[tuple[bytes, dict[str, str]]] = []

    async def serve(stream: trio.SocketStream) -> None:
        head, _, body = (await read_request(stream)).partition(b"\r\n\r\n")
        taken.append((body, dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with answering(serve) as port:
        monkeypatch.setenv("WEBHOOK_URL", f"http://127.0.0.1:{port}/inbound")
        monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
        for _ in range(2):
            async with open_client(load("gateway").app) as client:
                await client.ehlo()
                refused = await client.send_message(ALICE, ["bob@elsewhere.example"], MESSAGE)
                assert refused.code == 550
                await client.command("RSET")
                assert (await client.send_message(ALICE, ["bob@example.com"], MESSAGE)).code == 250
            monkeypatch.setenv("WEBHOOK_SECRET", WEBHOOK_SECRET)
    shown = capsys.readouterr().out.split()[-1]
    for secret, (body, headers) in zip((shown, WEBHOOK_SECRET), taken, strict=True):
        assert Webhook(secret).verify(body, headers)["data"]["message"]["subject"] == "Hello"
