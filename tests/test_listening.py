"""Listening sockets that several processes share."""

from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from trio_smtp import App, Config, SMTPServer
from trio_smtp.server.shared_sockets import SPREADS, Listening, listen, listen_all

from .socket_support import needs_ipv6


def opened(config: Config, workers: int = 2, **options: bool) -> Listening:
    return listen(SMTPServer(App(), config), workers, **options)


def test_where_connections_are_spread_each_worker_has_a_socket() -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        pytest.skip("no SO_REUSEPORT here")
    listening = opened(Config(port=0), 3, spread=True)
    sockets = [sock for (sock,) in listening.sockets]
    assert len({sock.fileno() for sock in sockets}) == 3
    assert len({sock.getsockname() for sock in sockets}) == 1
    assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in sockets)
    with pytest.raises(OSError, match="in use"):
        opened(Config(port=sockets[0].getsockname()[1]), spread=True)
    listening.close()
    listening.close()
    assert {sock.fileno() for sock in sockets} == {-1}


def test_elsewhere_they_share_one() -> None:
    listening = opened(Config(port=0, backlog=5), spread=False)
    (first,), (second,) = listening.sockets
    assert first is second
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    listening.close()


def test_both_families() -> None:
    needs_ipv6()
    listening = opened(Config(host=None, port=0))
    for own in listening.sockets:
        assert {sock.family for sock in own} == {socket.AF_INET, socket.AF_INET6}
        assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) for sock in own)
        (six,) = [sock for sock in own if sock.family == socket.AF_INET6]
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    listening.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, Any]) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(family, socket.SOCK_STREAM, 0, "", address) for family, address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


#: One that systems have a number for, and no sockets of.
NO_FAMILY = 12, ("127.0.0.1", 0)


def test_a_family_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, NO_FAMILY, (socket.AF_INET, ("127.0.0.1", 0)))
    listening = opened(Config(port=0))
    assert [len(own) for own in listening.sockets] == [1, 1]
    listening.close()


def test_no_family_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, NO_FAMILY)
    with pytest.raises(OSError, match=rf"\[Errno {errno.EAFNOSUPPORT}\]"):
        opened(Config(port=0))


def test_all_addresses_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        resolve_to(monkeypatch, (socket.AF_INET, address), (socket.AF_INET, taken.getsockname()))
        with pytest.raises(OSError, match="in use"):
            opened(Config())
    monkeypatch.undo()
    opened(Config(port=address[1])).close()


def test_a_unix_socket_is_one_for_all(tmp_path: Path) -> None:
    path = tmp_path / "smtp.sock"
    listening = opened(Config(unix_path=str(path), unix_mode=0o600))
    (first,), (second,) = listening.sockets
    assert first is second
    assert path.stat().st_mode & 0o777 == 0o600
    listening.close()
    assert not path.exists()
    assert first.fileno() == -1


def test_the_file_of_the_next_server_stays(tmp_path: Path) -> None:
    """Its inode may be the same one."""
    path = tmp_path / "smtp.sock"
    listening = opened(Config(unix_path=str(path)))
    listening.close()
    following = opened(Config(unix_path=str(path)))
    listening.close()
    assert path.exists()
    following.close()


def test_on_linux_connections_are_spread() -> None:
    assert SPREADS is sys.platform.startswith("linux")


def servers(*configs: Config) -> list[SMTPServer]:
    return [SMTPServer(App(), config) for config in configs]


def test_several_servers() -> None:
    both = servers(Config(port=0), Config(port=0))
    listening = listen_all(both, 2)
    assert [each.server for each in listening] == both
    for each in listening:
        each.close()


def test_all_servers_or_none(tmp_path: Path) -> None:
    path = tmp_path / "first"
    with pytest.raises(FileNotFoundError):
        listen_all(servers(Config(unix_path=str(path)), Config(unix_path=str(tmp_path / "no" / "x"))), 1)
    assert not path.exists()


def test_why_a_server_cannot_listen_is_explained(tmp_path: Path) -> None:
    class Explained(Exception):
        pass

    both = servers(Config(unix_path=str(tmp_path / "first")), Config(unix_path=str(tmp_path / "no" / "x")))
    with pytest.raises(Explained) as caught:
        listen_all(both, 1, explain=Explained)
    assert caught.value.args == (both[1], caught.value.__cause__)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert not (tmp_path / "first").exists()


def test_an_interrupt_is_not_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(socket, "getaddrinfo", interrupt)
    with pytest.raises(KeyboardInterrupt):
        listen_all(servers(Config(unix_path=str(tmp_path / "first")), Config()), 1, explain=lambda *_: RuntimeError())
    assert not (tmp_path / "first").exists()
