"""The asyncio example and the Django command of the documentation do what they say, as programs of their own."""

from __future__ import annotations

import re
import signal
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

import trio_smtp

ROOT = Path(__file__).parent.parent
MESSAGE = b"From: alice@example.com\r\nSubject: Hi\r\n\r\nHello\r\n"


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        cwd=Path(trio_smtp.__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.sendmail("alice@example.com", ["bob@example.com"], MESSAGE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_asyncio_example_works_until_a_signal_comes(number: signal.Signals, tmp_path: Path) -> None:
    code = (ROOT / "examples" / "inside_asyncio.py").read_text(encoding="utf-8")
    script = tmp_path / "inside_asyncio.py"
    script.write_text(code.replace("port=8025", "port=0"), encoding="utf-8")
    with start(str(script)) as running:
        assert running.stdout is not None
        port = int(re.fullmatch(r"listening on smtp://127\.0\.0\.1:(\d+)\n", running.stdout.readline())[1])  # type: ignore[index]
        for _ in range(20):
            send(port)
        running.send_signal(number)
        out, errors = running.communicate(timeout=60)
    # On a busy machine asyncio remarks on a step that took long.
    unexpected = [line for line in errors.splitlines() if not line.startswith("Executing <")]
    assert (running.returncode, unexpected) == (0, [])
    assert out == 20 * "alice@example.com: Hi\n"


DJANGO = """
import smtplib, sys
from django.conf import settings
from trio_smtp.background import BackgroundServer
import trio_smtp

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[2]}})
import django
django.setup()
from django.db import connection, models

class Mail(models.Model):
    recipient = models.TextField()
    message = models.BinaryField()

    class Meta:
        app_label = "mail"

with connection.schema_editor() as editor:
    editor.create_model(Mail)

served = []
trio_smtp.run = lambda *args: served.append(args)
names = {"__name__": "command"}
exec(compile(open(sys.argv[1]).read(), "command.py", "exec"), names)

def receive(*, recipients, message, **more):
    if recipients == ["refuse@example.com"]:
        raise LookupError("no such customer")
    Mail.objects.create(recipient=recipients[0], message=message)

names["mail_received"].connect(receive)
with BackgroundServer(names["app"]) as server, smtplib.SMTP(server.host, server.port) as client:
    client.sendmail("alice@example.com", ["bob@example.com"], b"Subject: Hi\\r\\n\\r\\nHello\\r\\n")
    try:
        client.sendmail("alice@example.com", ["refuse@example.com"], b"Subject: Hi\\r\\n\\r\\nHello\\r\\n")
    except smtplib.SMTPDataError as exc:
        print(exc.smtp_code)
print(Mail.objects.get().recipient)
from django.core.management import call_command
call_command(names["Command"](), port=2525)
print(served[0][1].port)
connection.close()
"""


def test_the_django_command_stores_mail_by_models(tmp_path: Path) -> None:
    pytest.importorskip("django")
    page = (ROOT / "docs" / "background.md").read_text(encoding="utf-8")
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "BaseCommand" in code)
    command = tmp_path / "command.py"
    command.write_text(block, encoding="utf-8")
    # Django itself warns of nothing here; its database connections of worker threads are closed by their threads' end.
    with start("-W", "default::ResourceWarning", "-c", DJANGO, str(command), str(tmp_path / "db")) as running:
        out, errors = running.communicate(timeout=60)
    assert out == "451\nbob@example.com\n2525\n", errors
