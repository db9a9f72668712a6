"""Real clients, each of which sends one message: what came of it, in one line."""

from __future__ import annotations

import asyncio
import os
import smtplib
import ssl
import subprocess
from functools import partial
from pathlib import Path

import aiosmtplib
import attrs
import trio

SENDER, RECIPIENT = "ann@example.org", "bob@example.com"
MESSAGE = (
    b"From: ann@example.org\r\nTo: bob@example.com\r\nSubject: Hi\r\n\r\nHello\r\n" + b"0123456789abcde\r\n" * 20_000
)


@attrs.frozen
class Call:
    """How a client is to send.

    Attributes:
        port: Where to.
        ca_file: Whom it trusts.
        tls: By STARTTLS.
        auth: As ann.
        patience: Seconds that the client waits for a reply.
    """

    port: int
    ca_file: Path
    tls: bool = False
    auth: bool = False
    patience: int = 20

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


def _outcome(exc: Exception) -> str:
    """The error that a client in Python raises, and the code that it heard."""
    code = getattr(exc, "smtp_code", None) or getattr(exc, "code", None)
    recipients = getattr(exc, "recipients", None)
    if isinstance(recipients, dict):
        code = recipients[RECIPIENT][0]
    elif isinstance(recipients, list):
        code = recipients[0].code
    if isinstance(exc, ssl.SSLCertVerificationError):
        code = exc.verify_message
    return f"{type(exc).__name__} {code}" if code else type(exc).__name__


def _with_smtplib(call: Call) -> str:
    try:
        with smtplib.SMTP("localhost", call.port, "client.example", timeout=call.patience) as client:
            if call.tls:
                client.starttls(context=call.context())
            if call.auth:
                client.login("ann", "secret")
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)
    except (smtplib.SMTPException, OSError) as exc:
        return _outcome(exc)
    return "sent"


async def with_smtplib(call: Call, directory: Path) -> str:
    return await trio.to_thread.run_sync(_with_smtplib, call)


def _with_aiosmtplib(call: Call) -> str:
    send = partial(
        aiosmtplib.send,
        MESSAGE,
        sender=SENDER,
        recipients=[RECIPIENT],
        hostname="localhost",
        port=call.port,
        local_hostname="client.example",
        start_tls=call.tls,
        tls_context=call.context() if call.tls else None,
        username="ann" if call.auth else None,
        password="secret" if call.auth else None,
        timeout=call.patience,
    )

    async def run() -> str:
        try:
            await send()
        except (aiosmtplib.SMTPException, OSError, ValueError) as exc:
            return _outcome(exc)
        return "sent"

    return asyncio.run(run())


async def with_aiosmtplib(call: Call, directory: Path) -> str:
    return await trio.to_thread.run_sync(_with_aiosmtplib, call)


async def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(60):
        return await trio.run_process(
            command,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            stdin=MESSAGE,
            cwd=directory,
            env=_node_environment(),
        )


async def with_curl(call: Call, directory: Path) -> str:
    command = [
        "curl",
        "--disable",
        "-sS",
        "--max-time",
        str(call.patience),
        "--url",
        f"smtp://localhost:{call.port}/client.example",
    ]
    command += ["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file", "-", "-w", "%{response_code}"]
    if call.tls:
        command += ["--ssl-reqd", "--cacert", str(call.ca_file)]
    if call.auth:
        command += ["--user", "ann:secret"]
    done = await _run(command, directory)
    return f"exit {done.returncode}, {done.stdout.decode()}" if done.returncode else "sent"


def has_nodemailer() -> bool:
    """Whether node finds nodemailer, where Debian puts it or where NODE_PATH says."""
    look = ["node", "-e", "require('nodemailer')"]
    return not subprocess.run(look, check=False, capture_output=True, env=_node_environment()).returncode


def _node_environment() -> dict[str, str]:
    return os.environ | {"NODE_PATH": os.pathsep.join([os.environ.get("NODE_PATH", ""), "/usr/share/nodejs"])}


async def with_nodemailer(call: Call, directory: Path) -> str:
    command = ["node", str(Path(__file__).with_name("send.js")), str(call.port), str(call.ca_file)]
    command += ["tls" * call.tls, "auth" * call.auth, str(call.patience * 1000), SENDER, RECIPIENT]
    done = await _run(command, directory)
    assert not done.returncode, done.stderr.decode()
    return done.stdout.decode().strip()


async def with_swaks(call: Call, directory: Path) -> str:
    command = ["swaks", "--server", "localhost", "--port", str(call.port), "--from", SENDER, "--to", RECIPIENT]
    command += ["--helo", "client.example", "--data", "-", "--timeout", str(call.patience)]
    if call.tls:
        command += ["--tls", "--tls-verify", "--tls-ca-path", str(call.ca_file)]
    if call.auth:
        command += ["--auth", "PLAIN", "--auth-user", "ann", "--auth-password", "secret"]
    done = await _run(command, directory)
    return f"exit {done.returncode}" if done.returncode else "sent"
