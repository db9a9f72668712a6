"""serve_workers, up to where processes are forked: those are in test_workers_real.py."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from trio_smtp import App, Config, serve_workers
from trio_smtp.server.workers import make_supervisor

from .supervisor_support import ENDS, FakeSystem


def ended_at_once(workers: int) -> FakeSystem:
    """A system on which a signal comes when the workers have started, and these end."""
    system = FakeSystem()
    system.at(1, ENDS)
    for pid in range(1, workers + 1):
        system.dies(2, pid, 0)
    return system


def test_serving_several_configs() -> None:
    opened: list[socket.socket] = []
    configs = [Config(port=0), Config(port=0, lmtp=True)]
    supervisor = make_supervisor(App(), configs, workers=3, started=opened.extend, system=ended_at_once(3))
    assert [each.server.config for each in supervisor.listening] == configs
    assert supervisor.workers == 3
    assert opened == []
    assert supervisor.run() == 0
    assert opened == [each.sockets[0][0] for each in supervisor.listening]


def test_serving_sockets_of_somebody_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        supervisor = make_supervisor(App(), workers=2, sockets=[given], system=ended_at_once(2))
        (listening,) = supervisor.listening
        assert listening.server.config == Config()
        assert listening.sockets == [[given], [given]]
        assert supervisor.run() == 0
        assert given.fileno() == -1


def test_all_listeners_or_none(tmp_path: Path) -> None:
    first = tmp_path / "first"
    with pytest.raises(FileNotFoundError):
        serve_workers(App(), [Config(unix_path=str(first)), Config(unix_path=str(tmp_path / "no" / "x"))], workers=1)
    assert not first.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"workers": 1, "config": []}, "0 Configs: there must be one"),
        ({"workers": 1, "config": [Config(), Config()], "sockets": []}, "2 Configs: .* one alone where sockets"),
    ],
)
def test_arguments_that_mean_nothing(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        serve_workers(App(), **arguments)


async def test_not_inside_an_event_loop() -> None:
    with pytest.raises(RuntimeError, match=r"in place of trio\.run, not inside it"):
        serve_workers(App(), workers=1)


def test_not_in_another_thread() -> None:
    raised: list[RuntimeError] = []

    def serve() -> None:
        try:
            serve_workers(App(), workers=1)
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(60)
    assert "main thread" in str(raised[0])


def test_not_where_nothing_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(RuntimeError, match=r"needs os\.fork"):
        serve_workers(App(), workers=1)


def test_only_apps_are_served() -> None:
    with pytest.raises(TypeError, match="app must be an App"):
        serve_workers(None, workers=1)  # type: ignore[arg-type]
