"""Workers in processes of their own: shared ports, signals, deaths."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from .conftest import CertificateFiles
from .tls_support import der
from .worker_support import (
    PATIENCE,
    PID_APP,
    begin,
    command,
    connect,
    finish,
    python,
    send,
    taken_by,
    until,
)

#: In place of the command, for what it has no option for.
LIBRARY = """
import logging
from pid_app import app
from trio_smtp import Config, serve_workers

def say(sockets):
    print("Listening on 127.0.0.1:%d" % sockets[0].getsockname()[1], flush=True)

async def reload(server):
    print("reloaded", flush=True)

logging.basicConfig(level=logging.INFO)
raise SystemExit(serve_workers(app, Config(port=0), workers=1, started=say, reload=reload))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a server works, with an App that says which process took a message."""
    (tmp_path / "pid_app.py").write_text(PID_APP)
    (tmp_path / "library.py").write_text(LIBRARY)
    return tmp_path


def one_message(port: int) -> int:
    """Send one on a connection of its own; gives the process that took it."""
    with connect(port) as client:
        return taken_by(send(client))


def test_workers_share_a_port_and_a_signal_drains_them_all(directory: Path) -> None:
    with command(directory, "pid_app:app", "--workers", "2", "--port", "0") as server:
        assert server.line("^Serving") == "Serving pid_app:app (2 workers)"
        port = server.port()
        server.started(2)
        clients: dict[int, smtplib.SMTP] = {}

        def both_serve() -> bool:
            client = connect(port)
            if clients.setdefault(taken_by(send(client)), client) is not client:
                client.quit()
            return len(clients) == 2

        until(both_serve)
        assert set(clients) == set(server.workers.values())
        assert server.pid not in clients
        for client in clients.values():
            begin(client)
        server.signal()
        server.line("^Finishing")
        for pid, client in clients.items():
            assert taken_by(finish(client)) == pid
            assert client.getreply()[0] == 421
            client.close()
        assert server.wait() == 0
        assert server.rest_of_output() == []  # all of it was said once
        with pytest.raises(ConnectionRefusedError):
            connect(port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_reaches_every_process_drains_once(directory: Path, number: int) -> None:
    with command(directory, "pid_app:app", "--workers", "2", "--port", "0") as server:
        with connect(server.port()) as client:
            begin(client)
            server.started(2)
            os.killpg(server.pid, number)
            server.line("^Finishing")
            finish(client)
            assert client.getreply()[0] == 421
        assert server.wait() == 0


def test_a_worker_that_was_killed_is_replaced_and_nothing_accepted_is_lost(directory: Path) -> None:
    accepted = 0
    with command(directory, "--workers", "2", "--port", "0") as server:
        port = server.port()
        server.started(2)
        before = dict(server.workers)
        for _ in range(5):
            with connect(port) as client:
                send(client)
                accepted += 1
        os.kill(before[0], signal.SIGKILL)
        server.logged(rf"worker 0, process {before[0]}, was ended by signal 9; the next one starts in 0\.1 s$")
        for _ in range(5):
            with connect(port) as client:  # one that waits in the dead one's queue is served by the next one
                send(client)
                accepted += 1
        server.logged("worker 0 is process")
        assert server.workers[0] not in before.values()
        assert server.workers[1] == before[1]
        server.signal()
        assert server.wait() == 0
    assert len(list((directory / "mail" / "new").iterdir())) == accepted


def test_a_connection_in_the_queue_survives_its_worker(directory: Path) -> None:
    with python(directory, "library.py") as server:
        port = server.port()
        server.started(1)
        first = one_message(port)
        assert first == server.workers[0]
        os.kill(first, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as waiting:
            os.kill(first, signal.SIGKILL)
            assert waiting.recv(3) == b"220"
        assert one_message(port) != first
        server.signal()
        assert server.wait() == 0


def test_a_worker_can_be_told_to_make_way(directory: Path) -> None:
    with python(directory, "library.py") as server:
        with connect(server.port()) as client:
            first = taken_by(send(client))
            begin(client)
            os.kill(first, signal.SIGTERM)
            assert taken_by(finish(client)) == first
            assert client.getreply()[0] == 421
        server.logged(rf"worker 0, process {first}, exited with code 0; the next one starts")
        server.logged("worker 0 is process")
        server.signal()
        assert server.wait() == 0


def test_a_second_signal_stops_at_once(directory: Path) -> None:
    with command(directory, "--workers", "2", "--port", "0") as server:
        with connect(server.port()) as client:
            begin(client)
            server.signal()
            server.line("^Finishing")
            server.signal()
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.getreply()
        assert server.wait() == 128 + signal.SIGTERM
    assert list((directory / "mail" / "new").iterdir()) == []


def test_workers_drain_and_end_when_the_supervisor_was_killed(directory: Path) -> None:
    with command(directory, "pid_app:app", "--workers", "2", "--port", "0") as server:
        port = server.port()
        server.started(2)
        with connect(port) as client:
            begin(client)
            server.signal(signal.SIGKILL)
            assert server.wait() == -signal.SIGKILL
            server.logged("the supervisor is gone: draining")
            server.logged("the supervisor is gone: draining")
            finish(client)
            assert client.getreply()[0] == 421
        server.rest_of_output()  # it ends when the last worker has
        with pytest.raises(ConnectionRefusedError):
            connect(port)


# Listeners


def test_a_unix_socket_is_one_for_all_and_goes_with_the_supervisor(directory: Path) -> None:
    path = directory / "smtp.sock"
    with command(directory, "pid_app:app", "--workers", "2", "--unix-path", "smtp.sock", "--lmtp") as server:
        assert server.line("^Listening on (.*)") == str(path)
        server.started(2)
        with smtplib.LMTP(str(path)) as client:
            first = taken_by(send(client))
            os.kill(first, signal.SIGTERM)
            assert client.getreply()[0] == 421
        server.logged(f"process {first}, exited with code 0")
        server.logged("worker . is process")
        assert path.exists()
        with smtplib.LMTP(str(path)) as client:
            assert taken_by(send(client)) != first
        server.signal()
        assert server.wait() == 0
    assert not path.exists()


def test_listeners_with_tls_in_every_worker(directory: Path) -> None:
    (directory / "mail.toml").write_text(
        "workers = 2\nport = 0\ntls_self_signed = true\n[[listen]]\n[[listen]]\nimplicit_tls = true\n"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with command(directory, "pid_app:app", "--config", "mail.toml") as server:
        starttls = int(server.line(r"^Listening on 127\.0\.0\.1:(\d+) \(STARTTLS\)"))
        implicit = int(server.line(r"^Listening on 127\.0\.0\.1:(\d+) \(TLS\)"))
        server.started(2)
        seen: set[tuple[int, int]] = set()

        def every_worker_serves_both() -> bool:
            with connect(starttls) as client:
                client.starttls(context=context)
                seen.add((starttls, taken_by(send(client))))
            with smtplib.SMTP_SSL("127.0.0.1", implicit, timeout=PATIENCE, context=context) as client:
                seen.add((implicit, taken_by(send(client))))
            return len(seen) == 4

        until(every_worker_serves_both)
        assert {pid for _, pid in seen} == set(server.workers.values())
        server.signal()
        assert server.wait() == 0


def test_certificates_are_loaded_anew_in_every_worker_and_in_the_next(
    directory: Path, ca: trustme.CA, certificate_files: CertificateFiles, client_ssl_context: ssl.SSLContext
) -> None:
    cert, key = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(certificate_files.cert.read_bytes())
    key.write_bytes(certificate_files.key.read_bytes())
    newer = ca.issue_cert("localhost")

    def presented() -> tuple[int, bool]:
        with smtplib.SMTP_SSL("localhost", port, timeout=PATIENCE, context=client_ssl_context) as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            return taken_by(send(client)), client.sock.getpeercert(binary_form=True) == der(newer)

    files = ("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--implicit-tls")
    with command(directory, "pid_app:app", "--workers", "2", "--port", "0", *files) as server:
        port = server.port()
        server.started(2)
        assert presented()[1] is False
        cert.write_bytes(b"".join(blob.bytes() for blob in newer.cert_chain_pems))
        newer.private_key_pem.write_to_path(key)
        server.signal(signal.SIGHUP)
        server.line("^Loaded cert.pem anew")
        server.line("^Loaded cert.pem anew")
        seen: dict[int, bool] = {}

        def every_worker_was_asked() -> bool:
            pid, new = presented()
            seen[pid] = new
            return len(seen) == 2

        until(every_worker_was_asked)
        assert list(seen.values()) == [True, True]
        replaced = server.workers[0]
        os.kill(replaced, signal.SIGKILL)
        server.line("^Loaded cert.pem anew")
        server.logged("worker 0 is process")
        seen.clear()
        until(every_worker_was_asked)
        assert seen == dict.fromkeys(server.workers.values(), True)
        assert replaced not in seen
        server.signal()
        assert server.wait() == 0


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "who would share it"])
def test_a_port_in_use_is_one_line_before_any_worker_starts(directory: Path, shares: bool) -> None:
    with socket.socket() as taken:
        if shares:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with command(directory, "pid_app:app", "--workers", "2", "--port", str(port)) as server:
            assert server.wait() == 1
            assert server.rest_of_output() == []
            assert server.rest_of_log() == f"trio-smtp: cannot listen on 127.0.0.1:{port}: Address already in use"


def test_a_program_has_its_own_things_loaded_anew(directory: Path) -> None:
    with python(directory, "library.py") as server:
        with connect(server.port()) as client:
            first = taken_by(send(client))
        server.signal(signal.SIGHUP)
        server.line("^reloaded")
        os.kill(first, signal.SIGKILL)
        server.line("^reloaded")  # by the next one, before it serves
        server.signal(signal.SIGINT)
        assert server.wait() == 0
