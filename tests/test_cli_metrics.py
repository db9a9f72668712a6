"""``trio-smtp --metrics HOST:PORT``."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from trio_smtp.cli import main

from .test_metrics_workers import metrics_port, page_of
from .worker_support import PID_APP, command


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_pages_are_there(workers: str, tmp_path: Path) -> None:
    (tmp_path / "pid_app.py").write_text(PID_APP)
    arguments = ("pid_app:app", "--port", "0", "--workers", workers, "--metrics", "127.0.0.1:0")
    with command(tmp_path, *arguments) as server:
        assert page_of(metrics_port(server), "/livez") == (200, "alive\n")
        server.port()
        server.signal()
        assert server.wait() == 0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
def test_a_place_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", "--metrics", "9464"]) == 2
    assert capsys.readouterr().err.startswith("trio-smtp: metrics: listen must be HOST:PORT")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_place_that_is_taken(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--port", "0", "--host", "127.0.0.1", "--workers", workers, "--metrics", place]) == 1
    assert capsys.readouterr().err == f"trio-smtp: metrics: metrics cannot listen on {place}: Address already in use\n"


@pytest.mark.usefixtures("here")
def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **more: Any) -> Any:
        if host == "nobody.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert main(["--port", "0", "--host", "127.0.0.1", "--metrics", "nobody.invalid:1"]) == 1
    said = capsys.readouterr().err
    assert "metrics: metrics cannot listen on nobody.invalid:1: Name or service not known\n" in said


@pytest.mark.usefixtures("here")
def test_without_the_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h11", None)
    for module in ("http", "plugin"):
        monkeypatch.delitem(sys.modules, f"trio_smtp.plugins.metrics.{module}", raising=False)
    monkeypatch.delitem(sys.modules, "trio_smtp.plugins.metrics", raising=False)
    assert main(["--port", "0", "--metrics", "127.0.0.1:0"]) == 1
    assert "metrics: metrics need the extra metrics: pip install 'trio-smtp[metrics]'" in capsys.readouterr().err
