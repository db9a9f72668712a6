"""The pytest plugin: inside this run, and in runs of pytest of their own, beside the plugins of other projects."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import trio_smtp
import trio_smtp_pytest
from tests.support import COMPILED
from trio_smtp.testing import MailServer

from .support import HELLO, needs, send

ROOT = Path(trio_smtp.__file__).parent.parent

#: Where the package is installed, the entry point loads the plugin.
PLUGIN = (
    []
    if any(each.value == "trio_smtp_pytest" for each in importlib.metadata.entry_points(group="pytest11"))
    else ["-p", "trio_smtp_pytest"]
)
#: Plugins that are installed here and have nothing to do with a run, unless it asks for one of them.
OTHERS = ("asyncio", "anyio", "trio", "localserver", "smtpd", "xdist", "hypothesispytest", "pytest_cov")

HEAD = """
import os, re, smtplib, socket, threading, time
import pytest
from trio_smtp.testing import MailServer

def send(server, to="bob@example.com", subject="Hello"):
    with smtplib.SMTP(server.host, server.port, timeout=10) as client:
        client.sendmail("ann@example.com", [to], f"Subject: {subject}\\r\\n\\r\\nHi\\r\\n")
"""


@attrs.frozen
class Project:
    """A project of its own with one file of tests."""

    directory: Path

    def command(self, *args: str, plugins: tuple[str, ...] = ()) -> list[str]:
        blocked = [word for name in OTHERS if name not in plugins for word in ("-p", f"no:{name}")]
        own = [] if "no:trio_smtp" in args else PLUGIN
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *blocked, *own, "-W", "error", *args]

    def write(self, tests: str, ini: str = "") -> None:
        (self.directory / "test_it.py").write_text(HEAD + textwrap.dedent(tests))
        (self.directory / "pytest.ini").write_text(f"[pytest]\n{ini}\n")

    def environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, tests: str, *args: str, ini: str = "", plugins: tuple[str, ...] = (), **outcome: int) -> str:
        """Run the tests, and see that the outcome is the wanted one and that nothing was left behind."""
        self.write(tests, ini)
        done = subprocess.run(
            self.command(*args, plugins=plugins),
            cwd=self.directory,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        assert done.stderr == "", done.stdout + done.stderr
        assert "warning" not in last, done.stdout
        found = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
        assert found == outcome, done.stdout
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# Inside this run


def test_the_fixture(mailserver: MailServer) -> None:
    send(mailserver)
    assert mailserver.only().raw == HELLO


def test_the_fixture_is_as_new(mailserver: MailServer, mailserver_session: MailServer) -> None:
    assert mailserver.messages == []
    assert mailserver is mailserver_session


@pytest.mark.mailserver(tls="starttls", hostname="marked.test")
def test_the_marker(mailserver: MailServer, mailserver_session: MailServer) -> None:
    assert mailserver.client_ssl_context.check_hostname
    assert mailserver.port != mailserver_session.port


def test_the_factory(mailserver_factory: Callable[..., MailServer], mailserver: MailServer) -> None:
    first, second = mailserver_factory(), mailserver_factory(lmtp=True)
    assert len({first.port, second.port, mailserver.port}) == 3
    send(first)
    assert (len(first.messages), len(second.messages), len(mailserver.messages)) == (1, 0, 0)


def test_servers_of_a_process_that_was_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = trio_smtp_pytest._Servers()  # noqa: SLF001
    server = servers.get({})
    assert servers.get({}) is server
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        servers.clean(server)  # nothing: the server is the parent's
        child = servers.get({})
        assert child is not server
        servers.stop()
    send(server)
    assert len(server.messages) == 1
    server.stop()


def test_a_server_that_cannot_be_made_as_new_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def crashed() -> None:
        raise RuntimeError("the server has crashed")

    servers = trio_smtp_pytest._Servers()  # noqa: SLF001
    server = servers.get({})
    with monkeypatch.context() as patch:
        patch.setattr(server, "start_over", crashed)
        with pytest.raises(RuntimeError, match="has crashed"):
            servers.clean(server)
    with pytest.raises(ConnectionRefusedError):
        send(server)
    servers.clean(server)
    send(server)
    assert server.only().raw == HELLO
    servers.stop()


def test_a_marker_with_a_value_is_wrong(project: Project) -> None:
    out = project.run(
        """
        @pytest.mark.mailserver("starttls")
        def test_one(mailserver): ...
        """,
        error=1,
    )
    assert "takes names, such as tls='starttls', not 'starttls'" in out


def test_a_marker_of_this_run_with_a_value(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.mailserver("starttls"))
    with pytest.raises(pytest.UsageError, match="takes names"):
        request.getfixturevalue("mailserver")


def test_the_functions_that_pytest_calls() -> None:
    class Config:
        def __init__(self) -> None:
            self.stash = pytest.Stash()
            self.lines: list[tuple[str, str]] = []

        def addinivalue_line(self, name: str, line: str) -> None:
            self.lines.append((name, line))

    config: Any = Config()
    trio_smtp_pytest.pytest_unconfigure(config)
    trio_smtp_pytest.pytest_configure(config)
    assert config.lines[0][0] == "markers"
    servers = config.stash[trio_smtp_pytest._SERVERS]  # noqa: SLF001
    server = servers.get({})
    trio_smtp_pytest.pytest_unconfigure(config)
    with pytest.raises(ConnectionRefusedError):
        send(server)


def test_the_entry_point_is_declared() -> None:
    pyproject = ROOT / "pyproject.toml"
    if not pyproject.exists():
        pytest.skip("beside an installed package")
    found = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    assert found["project"]["entry-points"]["pytest11"] == {"trio_smtp": "trio_smtp_pytest"}
    assert "trio_smtp_pytest" in found["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_importing_the_plugin_imports_neither_trio_nor_the_library() -> None:
    script = """
import sys, time
import pytest
before, started = set(sys.modules), time.perf_counter()
import trio_smtp_pytest
took = time.perf_counter() - started
new = set(sys.modules) - before
assert not {name for name in new if name.partition(".")[0] in ("trio", "trio_smtp", "asyncio", "email", "attr")}, new
print(took)
"""
    run = [sys.executable, "-c", script]
    took = [
        float(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout)
        for _ in range(3)
    ]
    assert min(took) < 0.005


# Runs of their own


def test_sync_tests_one_after_the_other(project: Project) -> None:
    project.run(
        """
        held = []

        @pytest.fixture(scope="session")
        def app(mailserver_session):
            return mailserver_session.env()

        def test_send(mailserver, app):
            assert app["SMTP_PORT"] == str(mailserver.port)
            mailserver.fail(at="rcpt", to="bob@*", code=451, times=1)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                send(mailserver)
            send(mailserver)
            assert mailserver.wait_for(to="bob@example.com", timeout=5).text == "Hi\\n"

        def test_connections_are_left_open(mailserver):
            assert mailserver.messages == []
            held.append(smtplib.SMTP(mailserver.host, mailserver.port, timeout=10))
            held.append(socket.create_connection((mailserver.host, mailserver.port)))  # reads nothing
            held[1].sendall(b"EHLO x\\r\\nMAIL FROM:<a@x>\\r\\nRCPT TO:<b@x>\\r\\nDATA\\r\\nSubject: late\\r\\n")
            mailserver.delay("mail", 100)

        def test_nothing_of_them_comes(mailserver):
            with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
                held[0].sendmail("a@example.com", ["b@example.com"], "x")
            try:
                held[1].sendall(b".\\r\\n")
            except ConnectionError:
                pass
            send(mailserver, subject="mine")
            assert mailserver.only().subject == "mine"
            mailserver.wait_for_none(subject="late", within=0.1)
            for each in held:
                each.close()

        def test_one_that_fails_in_the_middle(mailserver):
            held.append(smtplib.SMTP(mailserver.host, mailserver.port, timeout=10))
            mailserver.fail("mail")
            assert False

        def test_after_it(mailserver):
            assert list(mailserver.rules) == [] and mailserver.sessions == []
            send(mailserver)
            held.pop().close()

        @pytest.mark.mailserver(auth={"bob": "secret"})
        def test_marked(mailserver):
            global first
            first = mailserver.port
            assert "bob:secret@" in mailserver.url

        @pytest.mark.mailserver(auth={"bob": "secret"})
        def test_marked_alike_has_the_same_server(mailserver):
            assert mailserver.port == first

        def test_threads():
            assert [each.name for each in threading.enumerate()].count("trio_smtp BackgroundServer") == 2
        """,
        passed=7,
        failed=1,
    )


def test_a_server_that_a_test_stops_or_that_crashes_is_there_for_the_next_test(project: Project) -> None:
    out = project.run(
        """
        import trio

        def test_it_is_down(mailserver):
            mailserver.stop()
            with pytest.raises(ConnectionRefusedError):
                send(mailserver)

        def test_it_is_there(mailserver, mailserver_session):
            send(mailserver)
            assert mailserver_session.only().subject == "Hello"

        def test_it_crashes(mailserver, mailserver_factory):
            async def crash():
                raise OSError("no more")

            def spawn(server):
                server._server.call(trio.lowlevel.spawn_system_task, crash)

            spawn(mailserver)
            other, another = mailserver_factory(), mailserver_factory()
            spawn(another)

        def test_it_is_there_again(mailserver):
            send(mailserver)
            assert mailserver.only().subject == "Hello"
            assert [each.name for each in threading.enumerate()].count("trio_smtp BackgroundServer") == 1
        """,
        passed=4,
        error=1,
    )
    assert "TrioInternalError" in out


def test_the_server_starts_at_first_use_and_no_thread_is_left(project: Project) -> None:
    (project.directory / "conftest.py").write_text(
        textwrap.dedent("""
        import threading
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_unconfigure(config):
            assert [each.name for each in threading.enumerate()] == ["MainThread"]
        """)
    )
    project.run(
        """
        def test_first():
            assert threading.active_count() == 1

        def test_second(mailserver):
            assert threading.active_count() == 2
        """,
        passed=2,
    )


@needs("pytest_asyncio")
def test_beside_pytest_asyncio(project: Project) -> None:
    project.run(
        """
        import asyncio

        async def test_it(mailserver: MailServer):
            async with asyncio.TaskGroup() as tasks:
                wait = tasks.create_task(mailserver.wait_for_async(to="bob@*"))
                tasks.create_task(asyncio.to_thread(send, mailserver))
            assert wait.result().subject == "Hello"

        async def test_next(mailserver):
            assert mailserver.messages == []
            with pytest.raises(AssertionError, match="await mailserver.wait_for_async"):
                mailserver.wait_for(timeout=0.01)
        """,
        ini="asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function",
        plugins=("asyncio",),
        passed=2,
    )


@needs("anyio")
def test_beside_anyio(project: Project) -> None:
    project.run(
        """
        import anyio, anyio.to_thread

        @pytest.mark.anyio
        async def test_it(mailserver, anyio_backend):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, send, mailserver)
                assert (await mailserver.wait_for_async(to="bob@*")).subject == "Hello"
            await mailserver.wait_for_none_async(to="carol@*", within=0.01)
        """,
        plugins=("anyio",),
        passed=2,
    )


@needs("pytest_trio")
def test_beside_pytest_trio(project: Project) -> None:
    project.run(
        """
        import trio

        async def test_it(mailserver, nursery):
            nursery.start_soon(trio.to_thread.run_sync, send, mailserver)
            assert (await mailserver.wait_for_async(to="bob@*")).subject == "Hello"

        async def test_in_memory(trio_mailserver, autojump_clock):
            async with trio_mailserver.client() as client:
                await client.ehlo()
                await client.send_message("a@example.com", ["b@example.com"], b"Subject: x\\r\\n\\r\\n")
            assert trio_mailserver.only().subject == "x"
            await trio_mailserver.wait_for_none_async(to="c@*", within=1000)
        """,
        ini="trio_mode = true",
        plugins=("trio",),
        passed=2,
    )


@needs("xdist")
def test_with_xdist(project: Project) -> None:
    project.run(
        """
        @pytest.mark.parametrize("n", range(20))
        def test_it(mailserver, n):
            assert mailserver.messages == []
            send(mailserver, to=f"p{n}@example.com")
            assert mailserver.only().envelope.recipients == [f"p{n}@example.com"]
        """,
        "-n",
        "2",
        plugins=("xdist",),
        passed=20,
    )


@needs("smtpdfix", "pytest_localserver")
def test_beside_smtpdfix_and_pytest_localserver(project: Project) -> None:
    project.write(
        """
        def test_it(mailserver, smtpd, smtpserver):
            send(mailserver)
            assert mailserver.only().subject == "Hello"
            with smtplib.SMTP(smtpd.hostname, smtpd.port) as client:
                client.sendmail("a@example.com", ["b@example.com"], "Subject: x\\r\\n\\r\\n")
            assert len(smtpd.messages) == 1 and len(mailserver.messages) == 1
            assert mailserver.port not in (smtpd.port, smtpserver.addr[1])
        """
    )
    command = project.command("-W", "default", plugins=("smtpd", "localserver"))  # they have warnings of their own
    done = subprocess.run(
        command,
        cwd=project.directory,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_switched_off(project: Project) -> None:
    out = project.run("def test_it(mailserver): ...", "-p", "no:trio_smtp", error=1)
    assert "fixture 'mailserver' not found" in out
    project.run("def test_it(): ...", "-p", "no:trio_smtp", passed=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_test_that_forks(project: Project) -> None:
    project.run(
        """
        pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

        def test_it(mailserver):
            pid = os.fork()
            if not pid:
                try:
                    send(mailserver, subject="of the child")
                    with pytest.raises(RuntimeError, match="forked"):
                        mailserver.messages
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert mailserver.only().subject == "of the child"

        def test_a_child_that_runs_to_its_end(mailserver):
            pid = os.fork()
            if not pid:
                return  # goes through the fixture's end, and that of pytest
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            send(mailserver)

        def test_next(mailserver):
            if "child" not in os.environ.get("WHO", ""):
                send(mailserver)
                assert mailserver.only().subject == "Hello"
        """,
        "-s",
        passed=3,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_pytest_at_once(project: Project) -> None:
    project.write(
        """
        def test_it(mailserver):
            with socket.create_connection((mailserver.host, mailserver.port)):
                open("ready", "w").close()
                mailserver.wait_for(timeout=300)
        """
    )
    with subprocess.Popen(
        project.command(),
        cwd=project.directory,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not (project.directory / "ready").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.1)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            assert time.monotonic() - started < 5
        finally:
            process.kill()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, out.decode()
    assert b"KeyboardInterrupt" in out
    assert err == b""


@pytest.mark.skipif(COMPILED, reason="coverage imports the package twice; compiled modules keep the first Trio")
@needs("pytest_cov")
def test_beside_pytest_cov_the_library_is_measured_from_its_first_line(project: Project) -> None:
    out = project.run(
        """
        def test_it(mailserver):
            send(mailserver)
        """,
        "--cov=trio_smtp.testing.captured",
        "--cov-report=term-missing",
        plugins=("pytest_cov",),
        passed=1,
    )
    (line,) = [each for each in out.splitlines() if "captured.py" in each]
    missing = {int(number) for number in re.findall(r"\b\d+\b", line.partition("%")[2])}
    assert min(missing) > 40, "imports and the head of the first class were measured"


TYPED = """
from collections.abc import Callable

import pytest

from trio_smtp.testing import Attachment, CapturedMessage, MailServer, TrioMailServer

@pytest.mark.mailserver(tls="starttls")
def test_it(mailserver: MailServer, mailserver_factory: Callable[..., MailServer]) -> None:
    mailserver.fail(at="rcpt", to="bob@*", code=451, times=1)
    mail: CapturedMessage = mailserver.wait_for(to="bob@example.com", timeout=5)
    code: str = mail.code()
    recipients: list[str] = mail.envelope.recipients
    found: dict[str, Attachment] = mail.attachments
    reveal_type(mailserver.messages)
    mailserver.wait_for(subjekt="x")
    mailserver.fail(at="nowhere")
"""


@needs("basedpyright")
def test_annotations_are_types_for_pyright(tmp_path: Path) -> None:
    (tmp_path / "test_typed.py").write_text(TYPED)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(ROOT)]})
    )
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson", "test_typed.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    found = [each["message"] for each in json.loads(done.stdout)["generalDiagnostics"]]
    assert len(found) == 3, done.stdout
    assert found[0] == 'Type of "mailserver.messages" is "list[CapturedMessage]"'
    assert 'No parameter named "subjekt"' in found[1]
    assert "nowhere" in found[2]


@needs("mypy")
def test_annotations_are_types(tmp_path: Path) -> None:
    (tmp_path / "test_typed.py").write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path), "test_typed.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout
    assert 'Revealed type is "list[trio_smtp.testing.captured.CapturedMessage]"' in lines[0].replace("builtins.", "")
    assert 'Unexpected keyword argument "subjekt"' in lines[1]
    assert "\"Literal['nowhere']\"" in lines[3]


def test_no_thread_of_these_tests_is_a_hindrance() -> None:
    assert all(each.daemon for each in threading.enumerate() if each.name == "trio_smtp BackgroundServer")
