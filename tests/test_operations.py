"""The server of docs/operations.md takes the listeners that a service manager hands it, and drains."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trio_smtp import Config
from trio_smtp.cli import main
from trio_smtp.server.supervisor import _MARGIN

ROOT = Path(__file__).resolve().parent.parent

#: Puts the listener where it is expected, and becomes the server.
_LIKE_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, sys.argv[2]])
"""


def test_the_server_with_socket_activation(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.DOTALL)
    assert code is not None
    script = tmp_path / "server.py"
    script.write_text(code[1], "utf-8")
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        process = subprocess.Popen(
            [sys.executable, "-c", _LIKE_SYSTEMD, str(listener.fileno()), str(script)],
            env={"LISTEN_FDS": "1", "STATE_DIRECTORY": str(tmp_path), "PYTHONPATH": str(ROOT)},
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                # Connections wait in the backlog until the server is there.
                with smtplib.SMTP("127.0.0.1", listener.getsockname()[1], timeout=30) as client:
                    client.sendmail("a@example.org", ["b@example.com"], b"Subject: hello\r\n\r\nIt works.\r\n")
                    process.send_signal(signal.SIGTERM)
                    status, text = client.getreply()
                assert (status, text) == (421, b"4.3.2 Service shutting down")
                _, errors = process.communicate(timeout=30)
            finally:
                process.kill()
    assert (process.returncode, errors) == (0, b"")
    (message,) = (tmp_path / "incoming" / "new").iterdir()
    assert message.read_bytes().endswith(b"Subject: hello\r\n\r\nIt works.\r\n")


def test_the_file_with_socket_activation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.DOTALL)
    assert text is not None
    (tmp_path / "server.toml").write_text(text[1], "utf-8")
    assert main(["--check", "--config", str(tmp_path / "server.toml")]) == 0
    assert "is right: 1 listener\n" in capsys.readouterr().out
    socket_unit = (ROOT / "packaging" / "systemd" / "trio-smtp.socket").read_text("utf-8")
    assert re.findall(r"^FileDescriptorName=(.*)$", socket_unit, re.MULTILINE) == re.findall('"systemd:(.*)"', text[1])


def test_the_service_manager_waits_for_the_end() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    section = text.partition("### How long the end may take")[2].partition("##")[0]
    seconds = [int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)]
    config = Config()
    assert seconds == [config.drain_timeout, _MARGIN, config.lifespan_timeout, 5]
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) == sum(seconds)
