"""Handlers of the log that fail for want of descriptors: sessions, accepting and deliveries go on, and stderr is quiet.

As in test_nth_oserror.py: the n-th record cannot be written, for every n, until a run passes without an n-th record.
"""

from __future__ import annotations

import errno
import io
import logging
import logging.handlers
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from tests.support import BODY, send
from trio_smtp import App, Config, DataContext, RcptToContext, SMTPServer
from trio_smtp.net.steady_log import SteadyHandler, SteadyLogger, steady_loggers
from trio_smtp.plugins import logger as log_phases
from trio_smtp.testing import Client, MemoryListener, open_client

from .process_support import ROOT


@attrs.define(eq=False)
class Failing:
    """Counts records; the n-th cannot be written, and with `lasting` none after it can."""

    n: int
    lasting: bool
    error: Exception = attrs.field(factory=lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    records: list[str] = attrs.field(factory=list)

    def note(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())
        count = len(self.records)
        if count == self.n or (self.lasting and 0 < self.n <= count):
            raise self.error


class Raising(logging.Handler):
    """As a `WatchedFileHandler` does that cannot open its file: the error comes out of the call that logs."""

    def __init__(self, failing: Failing) -> None:
        super().__init__()
        self._failing = failing

    def emit(self, record: logging.LogRecord) -> None:
        self._failing.note(record)


@contextmanager
def handled_by(handler: logging.Handler, level: int = logging.DEBUG) -> Iterator[None]:
    logger = logging.getLogger("trio_smtp")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # pytest's handler would have its say as well
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
        logger.setLevel(before[0])


class Tired(trio.abc.Listener[trio.abc.Stream]):
    """Has no descriptors at the first call."""

    def __init__(self) -> None:
        self._tired = True
        self._listener = MemoryListener()
        self.connect = self._listener.connect

    async def accept(self) -> trio.abc.Stream:
        if self._tired:
            self._tired = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


def app_of() -> App:
    app = App()

    @app.on_rcpt_to
    async def pick(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "nobody":
            ctx.reject("No such user")
        if ctx.address.local_part == "crash":
            raise KeyError("crash")

    @app.on_data
    async def take(ctx: DataContext) -> None:
        message = await ctx.spool()
        assert await message.read()
        await ctx.stream.discard()

    return app


LINES = (
    "EHLO client.example",
    "RUBBISH",
    "MAIL FROM:<a@example.org>",
    "RCPT TO:<nobody@example.com>",
    "RCPT TO:<crash@example.com>",
    "RCPT TO:<b@example.com>",
    "DATA",
)


async def dialogue() -> list[int]:
    """The codes that two clients hear, one of which there is no place for."""
    listener = Tired()
    codes: list[int] = []
    async with trio.open_nursery() as nursery:
        server = SMTPServer(app_of(), Config(max_connections=1))
        await nursery.start(server.serve_listeners, [listener])
        client = Client(await listener.connect())
        codes.append((await client.read_reply()).code)
        other = Client(await listener.connect())
        codes.append((await other.read_reply()).code)
        await other.aclose()
        codes += [(await client.command(line)).code for line in LINES]
        codes.append((await client.command(BODY.decode() + ".")).code)
        codes.append((await client.command("QUIT")).code)
        await client.aclose()
        server.drain()
    assert (server.stats.messages_accepted, server.stats.connections_open) == (1, 0)
    return codes


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
async def test_a_record_that_cannot_be_written_changes_no_reply(
    lasting: bool, autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    with handled_by(Raising(whole := Failing(0, False))):
        expected = await dialogue()
    assert expected == [220, 421, 250, 500, 250, 550, 451, 250, 354, 250, 221]
    for needed in ("accepting pauses", "refused: ", "handler failed", "message from", "connection closed"):
        assert any(needed in record for record in whole.records)
    n = 0
    while True:
        n += 1
        with handled_by(Raising(failing := Failing(n, lasting))):
            assert await dialogue() == expected
        if len(failing.records) < n:
            break
        assert len(failing.records) == len(whole.records), failing.records
    assert n == len(whole.records) + 1
    assert "Logging error" not in capfd.readouterr().err


async def test_the_plugin_that_logs_each_phase_refuses_nothing() -> None:
    """Its logger is the program's own, and need not be a steady one."""
    log = logging.Logger("mail")  # noqa: LOG001 - one without handlers above it
    log.addHandler(Raising(failing := Failing(1, lasting=True)))
    app = App().use(log_phases(log))
    taken: list[bytes] = []

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append(await ctx.stream.read())

    async with open_client(app) as client:
        assert (await client.ehlo()).code == 250
        assert (await send(client)).code == 250
        assert (await client.quit()).code == 221
    assert taken == [BODY]
    assert [record.split()[1] for record in failing.records] == ["connect", "EHLO", "MAIL", "RCPT", "message", "close"]


async def test_another_error_of_a_handler_is_a_mistake_that_shows() -> None:
    steady_loggers()
    with handled_by(Raising(Failing(1, False, ValueError("a mistake")))), pytest.raises(ValueError, match="a mistake"):
        logging.getLogger("trio_smtp").error("text")


def test_loggers_below_it_are_steady_as_well_and_a_class_of_the_program_stays() -> None:
    class Own(logging.Logger):
        pass

    below = logging.getLogger("trio_smtp_test.below")
    beside = logging.getLogger("trio_smtp_testing")
    before = logging.getLoggerClass()
    logging.setLoggerClass(Own)
    try:
        own = logging.getLogger("trio_smtp_test.own")
    finally:
        logging.setLoggerClass(before)
    steady_loggers("trio_smtp_test")
    classes = [type(each) for each in (logging.getLogger("trio_smtp_test"), below, own, beside)]
    assert classes == [SteadyLogger, SteadyLogger, Own, logging.Logger]


def test_a_file_that_cannot_be_opened_again_after_a_rotation_loses_records_alone(tmp_path: Path) -> None:
    steady_loggers()
    logger = logging.getLogger("trio_smtp")
    file = tmp_path / "log" / "mail.log"
    file.parent.mkdir()
    handler = logging.handlers.WatchedFileHandler(file)
    with handled_by(handler):
        logger.error("one")
        file.unlink()
        file.parent.rmdir()
        logger.error("two")
        file.parent.mkdir()
        logger.error("three")
        text = file.read_text("utf-8")
    handler.close()
    assert text == "three\n"


class Importing(logging.Formatter):
    """Fails with what it is given, as a formatter does that imports a module when there is no descriptor for it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def format(self, record: logging.LogRecord) -> str:
        raise self._error


@pytest.mark.parametrize(
    ("error", "reported"),
    [(OSError(errno.EMFILE, ""), False), (ImportError("traceback"), False), (TypeError("not enough arguments"), True)],
    ids=["descriptors", "import", "mistake"],
)
def test_the_handler_of_run_and_of_the_command_is_silent_where_the_system_refuses(
    error: Exception, reported: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = SteadyHandler(written := io.StringIO())
    handler.setFormatter(Importing(error))
    with handled_by(handler):
        logging.getLogger("trio_smtp").error("text")
    assert written.getvalue() == ""
    assert ("Logging error" in capsys.readouterr().err) is reported


WITHOUT_DESCRIPTORS = """
import logging, os, resource, sys
from trio_smtp import App, SMTPServer
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
logging.getLogger().addHandler(handler)
SMTPServer(App())
known = set(sys.modules)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    os.open(os.devnull, os.O_RDONLY)
except OSError as exc:
    logging.getLogger("trio_smtp").error("accepting pauses: %s", exc.strerror)
    try:
        raise ExceptionGroup("many", [exc, KeyError("key")]) from NameError("name", name="name")
    except ExceptionGroup:
        logging.getLogger("trio_smtp").exception("handler failed")
print("imported:", *sorted(set(sys.modules) - known))
"""


def test_a_record_is_formatted_without_a_descriptor() -> None:
    pytest.importorskip("resource", reason="limits of descriptors are a matter of POSIX")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    for line in ("accepting pauses: Too many open files", "KeyError: 'key'", "NameError: name", "imported:\n"):
        assert line in done.stdout
