"""An asyncio program that sends alarms from a queue, and goes on when the mail server does not."""

import asyncio
import os
from email.message import EmailMessage

import aiosmtplib


async def send(subject: str) -> None:
    """Send one alarm; ``SMTP_HOST`` and ``SMTP_PORT`` say where to."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "alarm@example.com", "ops@example.com"
    message.set_content(f"{subject}, please look.\n")
    await aiosmtplib.send(message, hostname=os.environ["SMTP_HOST"], port=int(os.environ["SMTP_PORT"]), timeout=2)


async def work(queue: asyncio.Queue[str], pause: float = 1) -> None:
    """Send what comes through the queue; what cannot be sent is tried again after a pause."""
    while True:
        subject = await queue.get()
        while True:
            try:
                await send(subject)
                break
            except (aiosmtplib.SMTPException, OSError):
                await asyncio.sleep(pause)
        queue.task_done()
