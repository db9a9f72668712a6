"""Listeners on sockets that were handed over: those of a service manager, and open descriptors."""

from __future__ import annotations

import os
import re
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from trio_smtp import Config
from trio_smtp.cli import handed_over, main
from trio_smtp.cli.configuration.handed_over import SocketConfig, Source
from trio_smtp.cli.errors import CommandError
from trio_smtp.cli.handed_over import sockets_for, take_environment

from . import test_cli
from .test_cli import PATIENCE, Run, Running, assert_one_line
from .test_cli_workers import Ending

ROOT = Path(__file__).resolve().parent.parent
MESSAGE = b"Subject: hello\r\n\r\nIt works.\r\n"

in_a_directory_of_its_own = test_cli.in_a_directory_of_its_own
run = test_cli.run

#: Puts the sockets where they are expected, and becomes the command.
_LIKE_SYSTEMD = """
import fcntl, os, sys
names, given = sys.argv[1], [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2].split(",")]
for number, fd in enumerate(given, 3):
    os.dup2(fd, number)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": names}
os.execv(sys.executable, [sys.executable, "-m", "trio_smtp", *sys.argv[3:]])
"""


@contextmanager
def activated(sockets: dict[str, socket.socket], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as systemd starts it, with a socket of each name."""
    descriptors = [sock.fileno() for sock in sockets.values()]
    words = [sys.executable, "-c", _LIKE_SYSTEMD, ":".join(sockets), ",".join(map(str, descriptors)), *arguments]
    with subprocess.Popen(
        words,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.terminate()
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def send(client: smtplib.SMTP) -> None:
    client.sendmail("a@example.org", ["b@example.com"], MESSAGE)
    client.quit()


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "lmtp.sock"))
        sock.listen()
        yield sock


def of(name: str | None = None, fd: int | None = None, where: str = "") -> SocketConfig:
    return SocketConfig(source=Source(fd, name, where))


# As systemd starts it

_FILE = """
workers = {workers}
host = "*"
[[listen]]
listen = "systemd:mx"
[[listen]]
listen = "systemd:lmtp"
lmtp = true
[[listen]]
host = "127.0.0.1"
port = 0
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_sockets_by_their_names(workers: int, tcp: socket.socket, unix: socket.socket, tmp_path: Path) -> None:
    path, port = tmp_path / "lmtp.sock", tcp.getsockname()[1]
    Path("mail.toml").write_text(_FILE.format(workers=workers))
    with activated({"lmtp": unix, "mx": tcp}, "--config", "mail.toml") as process:
        send(smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE))  # waits in the backlog
        send(smtplib.LMTP(str(path), timeout=PATIENCE))
        code, out, err = ended(process)
    assert (code, err) == (0, "")
    assert f"Listening on 127.0.0.1:{port}\nListening on {path}\nListening on 127.0.0.1:" in out
    assert path.is_socket()
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 2


def test_all_sockets_for_one_listener(tcp: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(
        "import os\n"
        "from trio_smtp import App\n"
        "app = App()\n"
        "@app.on_rcpt_to\n"
        "async def refuse(ctx, call_next):\n"
        "    seen = [n for n in os.environ if n.startswith('LISTEN_')]\n"
        "    ctx.reject(f'{seen} {os.get_inheritable(3)} {os.get_inheritable(4)}', 550)\n"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        activated({"a": tcp, "b": other}, "seen:app", "--listen", "systemd") as process,
    ):
        for sock in (tcp, other):
            with smtplib.SMTP("127.0.0.1", sock.getsockname()[1], timeout=PATIENCE) as client:
                client.ehlo()
                client.mail("a@example.org")
                assert client.rcpt("b@example.com") == (550, b"5.7.1 [] False False")
        assert ended(process)[0] == 0


@pytest.mark.program("systemd-socket-activate")
def test_by_a_program_of_systemd(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    command = ["systemd-socket-activate", "-E", "PYTHONPATH", "--fdname=lmtp", "-l", str(path), sys.executable]
    command += ["-m", "trio_smtp", "--listen", "systemd:lmtp", "--lmtp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not path.is_socket() and time.monotonic() < deadline:
                time.sleep(0.01)
            send(smtplib.LMTP(str(path), timeout=PATIENCE))  # the program starts the command now
            code, out, _ = ended(process)
        finally:
            process.kill()
    assert (code, path.is_socket()) == (0, True)
    assert f"Listening on {path}\n" in out
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_connection_is_refused_while_it_restarts(workers: str, tcp: socket.socket, tmp_path: Path) -> None:
    refused: list[OSError] = []
    accepted: list[int] = []
    over = threading.Event()

    def keep_sending() -> None:
        while not over.is_set():
            try:
                client = smtplib.SMTP("127.0.0.1", tcp.getsockname()[1], timeout=PATIENCE)
            except smtplib.SMTPException:  # accepted, and told 421
                continue
            except OSError as error:
                refused.append(error)
                return
            with suppress(smtplib.SMTPException), client:  # 421 for the next command, QUIT included
                client.sendmail("a@example.org", ["b@example.com"], MESSAGE)
                accepted.append(1)

    senders = [threading.Thread(target=keep_sending) for _ in range(4)]
    for each in senders:
        each.start()
    counts: list[int] = []
    try:
        for _ in range(3):
            before = len(accepted)
            with activated({"mx": tcp}, "--listen", "systemd", "--workers", workers) as process:
                deadline = time.monotonic() + PATIENCE
                while len(accepted) < before + 20 and time.monotonic() < deadline:
                    time.sleep(0.01)
                if len(counts) == 2:
                    over.set()
                    for each in senders:
                        each.join(PATIENCE)
                assert ended(process)[::2] == (0, "")
            counts.append(len(accepted) - before)
    finally:
        over.set()
        tcp.close()
        for each in senders:
            each.join(PATIENCE)
    assert refused == []
    assert all(count >= 20 for count in counts)
    assert len(list((tmp_path / "mail" / "new").iterdir())) >= len(accepted)


# In this process


def test_a_descriptor(run: Run, tcp: socket.socket, tmp_path: Path) -> None:
    def during(running: Running) -> None:
        assert running.port() == tcp.getsockname()[1]
        send(smtplib.SMTP("127.0.0.1", tcp.getsockname()[1], timeout=PATIENCE))

    fd = os.dup(tcp.fileno())
    assert run(during, "--fd", str(fd)) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1


def test_a_descriptor_of_several_workers(tcp: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--fd", str(os.dup(tcp.fileno())), "--workers", "2"], system=Ending(2)) == 0
    assert f"Listening on 127.0.0.1:{tcp.getsockname()[1]}\n" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has Unix sockets without a file")
def test_a_unix_socket_without_a_file(run: Run) -> None:
    name = f"trio-smtp-sockets-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0" + name)
        sock.listen()

        def during(running: Running) -> None:
            running.line(f"^Listening on @{name}$")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect("\0" + name)
                assert client.recv(100).startswith(b"220 ")

        assert run(during, "--fd", str(os.dup(sock.fileno()))) == 0


def test_check_looks_at_what_was_handed_over(
    tcp: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", "--listen", "systemd:mx"]) == 0
    fd = os.dup(tcp.fileno())
    monkeypatch.setattr(handed_over, "_FIRST", fd)
    for name, code in (("imap", 1), ("mx", 0)):
        for key, value in {"PID": str(os.getpid()), "FDS": "1", "FDNAMES": "mx"}.items():
            monkeypatch.setenv(f"LISTEN_{key}", value)
        assert main(["--check", "--listen", f"systemd:{name}"]) == code
        assert "LISTEN_FDS" not in os.environ
    assert "listen systemd:imap: no socket of this name was handed over, but mx\n" in capsys.readouterr().err


# The variables

PID = str(os.getpid())


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, []),
        ({"LISTEN_FDS": "2"}, []),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, []),
        ({"LISTEN_PID": PID}, []),
        ({"LISTEN_PID": PID, "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, []),
        ({"LISTEN_PID": PID, "LISTEN_FDS": "2"}, ["unknown", "unknown"]),
        ({"LISTEN_PID": PID, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "mx:", "LISTEN_PIDFDID": "7"}, ["mx", ""]),
    ],
)
def test_the_variables(environ: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        first, second = sorted(stack.enter_context(socket.socket()).fileno() for _ in range(2))
        os.dup2(second, first + 1)
        monkeypatch.setattr(handed_over, "_FIRST", first)
        for fd in (first, first + 1):
            os.set_inheritable(fd, True)
        environ = environ | {"HOME": "/"}
        taken = take_environment(environ)
        assert taken == dict(zip((first, first + 1), names, strict=False))
        assert all(not os.get_inheritable(fd) for fd in taken)
        assert environ == {"HOME": "/"}
        if first + 1 != second:
            os.close(first + 1)


@pytest.mark.parametrize(
    ("count", "names", "text"),
    [
        ("two", None, "LISTEN_FDS must be a number of sockets, not 'two'"),
        ("-1", None, "LISTEN_FDS must be a number of sockets, not '-1'"),
        ("9999999", None, "LISTEN_FDS must be a number of sockets, not '9999999'"),
        ("2", "mx", "LISTEN_FDNAMES has 1 names, but LISTEN_FDS is 2"),
        ("1", None, "LISTEN_FDS is 1, but file descriptor 900001: Bad file descriptor"),
    ],
)
def test_variables_that_are_wrong(count: str, names: str | None, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handed_over, "_FIRST", 900_001)
    environ = {"LISTEN_PID": PID, "LISTEN_FDS": count} | ({} if names is None else {"LISTEN_FDNAMES": names})
    with pytest.raises(CommandError, match=f"^{re.escape(text)}$"):
        take_environment(environ)


# Mistakes


@pytest.mark.parametrize(
    ("configs", "given", "text"),
    [
        ([of()], {}, "listen systemd: no sockets were handed over to this process (LISTEN_PID, LISTEN_FDS): a .socket"),
        ([of("mx", where="f: ")], {3: "a", 4: "a", 5: "b"}, "f: listen systemd:mx: no socket of this name was handed"),
        ([of("a")], {3: "a", 4: "b", 5: "unknown"}, "no listener takes file descriptor 4 (b), file descriptor 5, and"),
        ([Config()], {3: "a"}, "no listener takes file descriptor 3 (a), and clients would wait there for ever"),
        ([of("a"), of(fd=3)], {3: "a"}, "fd 3: file descriptor 3 (a) is taken by another listener (listen systemd:a)"),
        ([of(fd=900_001)], {}, "fd 900001: file descriptor 900001 is no socket: Bad file descriptor"),
        ([of(fd=2**70)], {}, f"fd {2**70}: file descriptor {2**70} is no socket: "),
    ],
)
def test_what_cannot_be_taken(configs: list[Config], given: dict[int, str], text: str) -> None:
    with pytest.raises(CommandError, match=f"^{re.escape(text)}"), sockets_for(configs, given):
        pass


@pytest.mark.parametrize("kind", ["datagram", "not listening", "a file", "a pair"])
def test_sockets_that_cannot_be_served(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        if kind == "a file":
            fd = os.open(tmp_path, os.O_RDONLY)
            stack.callback(os.close, fd)
        elif kind == "a pair":
            one, other = socket.socketpair()
            stack.enter_context(other)
            fd = one.detach()
        else:
            made = socket.socket(type=socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
            fd = made.detach()
        text = "is no socket: " if kind == "a file" else "is no listening stream socket, of TCP or Unix"
        assert_one_line(["--fd", str(fd)], 1, f"fd {fd}: file descriptor {fd} {text}", capsys)


def test_a_system_that_does_not_tell_what_listens(monkeypatch: pytest.MonkeyPatch, tcp: socket.socket) -> None:
    monkeypatch.setattr(socket, "SO_ACCEPTCONN", -1)
    fd = os.dup(tcp.fileno())
    with sockets_for([Config(), of(fd=fd)], {}) as sockets:
        assert sockets[0] is None
        assert sockets[1] is not None
        assert [(each.fileno(), each.getblocking()) for each in sockets[1]] == [(fd, False)]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--listen", "inetd"], """listen must be "systemd" or "systemd:NAME", not 'inetd'"""),
        (["--listen", "systemd:"], """listen must be "systemd" or "systemd:NAME", not 'systemd:'"""),
        (["--listen", "systemd", "--port", "25"], "port contradicts listen, which takes sockets that are there"),
        (["--fd", "5", "--unix-mode", "660"], "unix_mode contradicts fd, which takes sockets that are there"),
        (["--fd", "5", "--listen", "systemd"], "fd contradicts listen, which takes sockets that are there"),
        (["--fd", "5", "--workers", "0x2", "--backlog", "5"], "backlog contradicts fd, which takes"),
        (["--listen", "systemd"], "listen systemd: no sockets were handed over to this process"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_line(arguments, 1 if arguments == ["--listen", "systemd"] else 2, text, capsys)


_A, _ALL, _FD, _PORT = 'listen = "systemd:a"', 'listen = "systemd"', "fd = 5", "port = 25"


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ((_A, _A), "listeners 1 and 2 both listen on the sockets systemd:a"),
        ((_PORT, _A, _ALL), "listeners 2 and 3 both listen on the sockets of systemd"),
        ((_FD, _FD), "listeners 1 and 2 both listen on file descriptor 5"),
        (("fd = 2",), "listener 1: fd must be a whole number of at least 3, not 2"),
        ((_A + "\n" + _PORT,), "listener 1: port contradicts listen"),
    ],
)
def test_mistakes_in_the_file(tables: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mail.toml").write_text("".join(f"[[listen]]\n{table}\n" for table in tables))
    assert_one_line(["--check", "--config", "mail.toml"], 2, text, capsys)


def test_listeners_that_do_not_meet(capsys: pytest.CaptureFixture[str]) -> None:
    tables = (_A, 'listen = "systemd:b"', _FD, "fd = 6", _PORT)
    Path("mail.toml").write_text('host = "*"\n' + "".join(f"[[listen]]\n{table}\n" for table in tables))
    assert main(["--check", "--config", "mail.toml"]) == 0
    assert capsys.readouterr().out == "mail.toml is right: 5 listeners\n"


def test_a_key_above_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mail.toml").write_text('listen = "systemd"\n')
    assert_one_line(["--config", "mail.toml"], 2, "belongs to one listener: move it below", capsys)
