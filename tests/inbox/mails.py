"""Messages as an inbox for development sees them, for pictures and for tests of the pages."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

from PIL import Image, ImageDraw

__all__ = ["order", "plain", "welcome"]


def plain(subject: str, text: str, *, sender: str, to: str = "bob@example.com", tags: str = "") -> bytes:
    """A message of plain text."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, to, subject
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = f"<{abs(hash(subject)):x}@shop.example>"
    if tags:
        mail["X-Tags"] = tags
    mail.set_content(text)
    return mail.as_bytes()


def welcome() -> bytes:
    """HTML with a picture inside it, and one from elsewhere."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Cc"] = (
        "Northwind Shop <hello@shop.example>",
        "Bob <bob@example.com>",
        "sales@shop.example",
    )
    mail["Subject"] = "Welcome to Northwind, please confirm your address"
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Reply-To"] = "help@shop.example"
    mail["Message-ID"] = "<welcome-4711@shop.example>"
    mail["X-Tags"] = "signup"
    mail.set_content("Hello Bob,\n\nconfirm your address: https://shop.example/confirm?token=4711\n\nNorthwind\n")
    mail.add_alternative(
        """<!doctype html><body style="margin:0;background:#f3f4f6;font-family:Helvetica,Arial,sans-serif">
<table role="presentation" width="100%"><tr><td align="center" style="padding:28px 12px">
<table role="presentation" style="width:100%;max-width:560px;background:#fff;border-radius:12px;padding:32px">
<tr><td><img src="cid:logo" width="140" height="36" alt="Northwind"></td></tr>
<tr><td style="padding-top:20px;font-size:24px;font-weight:bold;color:#111">Hello Bob, good to see you</td></tr>
<tr><td style="padding:12px 0 24px;font-size:16px;line-height:1.55;color:#444">One click, and your account is ready.
The link is good for an hour.</td></tr>
<tr><td><a href="https://shop.example/confirm?token=4711"
style="background:#0f766e;color:#fff;padding:13px 22px;border-radius:8px;text-decoration:none;
font-size:16px">Confirm my address</a></td></tr>
<tr><td style="padding-top:28px;font-size:13px;color:#888">You did not ask for this? Then do nothing.
<img src="https://track.example/open.gif" width="1" height="1" alt=""></td></tr>
</table></td></tr></table></body>""",
        subtype="html",
    )
    html = mail.get_payload()[1]  # type: ignore[index]
    html.add_related(_logo(), maintype="image", subtype="png", cid="<logo>")  # type: ignore[union-attr]
    mail.add_attachment(b"%PDF-1.7 terms\n" * 900, maintype="application", subtype="pdf", filename="terms of use.pdf")
    mail.add_attachment("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", subtype="calendar", filename="first steps.ics")
    return mail.as_bytes()


def order(number: int) -> bytes:
    """A message about an order; each number gives another."""
    chance = random.Random(number)
    sender = chance.choice(("Northwind Shop <orders@shop.example>", "Billing <billing@shop.example>"))
    to = chance.choice(("bob@example.com", "carla+invoices@example.com", "Dana <dana@example.net>"))
    what = chance.choice(
        ("Your order {} is on its way", "Invoice {}", "Order {}: thank you", "We could not charge your card ({})")
    )
    text = chance.choice(
        (
            "The parcel comes tomorrow between 9 and 12. You can follow it on our site.",
            "Thank you for buying from us. The invoice is attached as a PDF.",
            "Two items are sent today, the third follows when it is in stock again.",
        )
    )
    return plain(what.format(number), text, sender=sender, to=to, tags=chance.choice(("", "", "orders", "billing")))


def _logo() -> bytes:
    image = Image.new("RGB", (280, 72), "#ffffff")
    draw = ImageDraw.Draw(image)
    draw.ellipse((4, 8, 60, 64), fill="#0f766e")
    draw.polygon(((32, 16), (42, 44), (32, 38), (22, 44)), fill="#ffffff")
    draw.rectangle((78, 24, 270, 34), fill="#0f766e")
    draw.rectangle((78, 42, 220, 50), fill="#99c7c2")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
