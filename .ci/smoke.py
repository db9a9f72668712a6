"""Starts the installed `trio-smtp` as README says, sends it mail, looks into the Maildir, and ends it with SIGTERM."""

import re
import signal
import smtplib
import subprocess
import sys
import tempfile
import threading
from email.message import EmailMessage
from pathlib import Path

#: Seconds for anything that waits: far more than a loaded machine needs.
PATIENCE = 30


def read_start(server: subprocess.Popen[str]) -> tuple[int, str]:
    """The port, and the command for a first message, out of the first lines."""
    assert server.stdout is not None
    lines: list[str] = []
    for line in server.stdout:
        print(f"  {line}", end="")
        lines.append(line.strip())
        if "smtplib" in line or line.strip().startswith("swaks "):
            break
    port = re.search(r"127\.0\.0\.1:(\d+)", "\n".join(lines))
    if port is None:
        raise SystemExit("the first lines do not say where it listens")
    return int(port[1]), lines[-1]


def send(port: int) -> None:
    """One message by smtplib."""
    message = EmailMessage()
    message["From"] = "alice@example.com"
    message["To"] = "bob@example.com"
    message["Subject"] = "smoke"
    message.set_content("It works.\n")
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.send_message(message)


def check(directory: Path) -> None:
    """Everything README promises of the server that stores mail."""
    program = Path(sys.executable).with_name("trio-smtp")
    server = subprocess.Popen([program, "--port", "0"], cwd=directory, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(PATIENCE, server.kill)
    watchdog.start()
    try:
        port, first_message = read_start(server)
        send(port)
        subprocess.run(first_message, shell=True, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE)
    finally:
        watchdog.cancel()
        server.kill()
        server.communicate()
    if code != 0:
        raise SystemExit(f"exit code {code} after SIGTERM")
    stored = [path.read_bytes() for path in (directory / "mail" / "new").iterdir()]
    if sorted(b"Subject: smoke\r\n" in octets for octets in stored) != [False, True]:
        raise SystemExit(f"the Maildir holds {stored}")
    print("  two messages sent, two messages in the Maildir")


with tempfile.TemporaryDirectory() as name:
    check(Path(name))
