"""``python -m trio_smtp.testing``."""

from __future__ import annotations

import re
import runpy
import signal
import smtplib
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook

from trio_smtp.testing.__main__ import _PrintingServer, main, printed
from trio_smtp.testing.captured import CapturedEnvelope, CapturedMessage, CapturedSession

from .support import HELLO

COMMAND = [sys.executable, "-m", "trio_smtp.testing"]


def test_it_prints_what_comes_until_ctrl_c() -> None:
    with subprocess.Popen([*COMMAND, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            first = process.stdout.readline().decode()
            match = re.fullmatch(r"Listening on 127\.0\.0\.1:(\d+); Ctrl-C ends\n", first)
            assert match is not None, first
            with smtplib.SMTP("127.0.0.1", int(match[1]), timeout=10) as client:
                client.login("bob", "geheim")
                client.sendmail("ann@example.com", ["bob@example.com", "carol@example.com"], HELLO)
            shown = b"".join(iter(process.stdout.readline, b"------------ END MESSAGE ------------\n")).decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()
    assert re.sub(r"peer: 127\.0\.0\.1:\d+", "peer: ...", shown) == (
        "---------- MESSAGE FOLLOWS ----------\npeer: ...\nuser: bob\nsender: <ann@example.com>\n"
        "recipient: <bob@example.com>\nrecipient: <carol@example.com>\n\n"
        "Subject: Hello\nFrom: ann@example.com\nTo: bob@example.com\n\nYour code is 123456.\n"
    )


def test_in_this_process(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    class Interrupted:
        def is_set(self) -> bool:
            return False

        def wait(self) -> None:
            first = capfdbinary.readouterr().out.decode()
            with smtplib.SMTP("127.0.0.1", int(first.partition(";")[0].rpartition(":")[2]), timeout=10) as client:
                client.sendmail("ann@example.com", ["bob@example.com"], HELLO)
            raise KeyboardInterrupt

    monkeypatch.setattr("trio_smtp.testing.__main__.threading", SimpleNamespace(Event=Interrupted))
    assert main(["127.0.0.1:0"]) == 0
    assert b"Your code is 123456.\n---" in capfdbinary.readouterr().out


def test_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["testing", "nowhere"])
    monkeypatch.delitem(sys.modules, "trio_smtp.testing.__main__")
    # Of an installed wheel pytest rewrites all modules, because it has a plugin: its loader is none that runpy takes.
    monkeypatch.setattr(
        sys, "meta_path", [each for each in sys.meta_path if not isinstance(each, AssertionRewritingHook)]
    )
    with pytest.raises(SystemExit):
        runpy.run_module("trio_smtp.testing", run_name="__main__", alter_sys=True)
    assert "'nowhere' is no [HOST:]PORT" in capsys.readouterr().err


def test_it_ends_when_nobody_reads_what_it_prints() -> None:
    with subprocess.Popen([*COMMAND, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            port = int(process.stdout.readline().decode().partition(";")[0].rpartition(":")[2])
            process.stdout.close()
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
                client.sendmail("ann@example.com", ["bob@example.com"], HELLO)
            assert process.wait(20) == 1
            assert process.stderr.read() == b"cannot print: Broken pipe\n"
        finally:
            process.kill()


def test_output_that_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        server = _PrintingServer("127.0.0.1", 0)
        patch.setattr("trio_smtp.testing.__main__._print", _refused)
        server.show("one")
        assert server.unread.is_set()
        server.show("two")
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr("trio_smtp.testing.__main__._PrintingServer", lambda **_: server)
            assert main(["0"]) == 1


def _refused(text: str) -> None:
    assert text == "one"
    raise BrokenPipeError(32, "Broken pipe")


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main([f":{port}"]) == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in capsys.readouterr().err


@pytest.mark.parametrize("address", ["x", "127.0.0.1:", "127.0.0.1:99999", "::x", "8025x", "٣"])
def test_addresses_that_are_none(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([address])
    assert "is no [HOST:]PORT" in capsys.readouterr().err


def test_octets_that_are_no_text_are_printed() -> None:
    envelope = CapturedEnvelope(sender="", recipients=["bob@example.com"])
    text = printed(CapturedMessage(b"Subject: \xff\r\n\r\nG\xc3\xbc", envelope, CapturedSession("1", None)))
    assert "peer: unknown\nsender: <>\n" in text
    assert "Subject: \\xff\n\nGü\n----" in text
