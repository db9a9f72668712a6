"""What a shop made with Django sends: a confirmation with a code, and an invoice that the books get a copy of."""

import smtplib

from django.core.mail import EmailMultiAlternatives

#: How often a mail is tried that the server defers.
TRIES = 3


def confirm(address: str, code: str) -> None:
    """Send the code that confirms an address."""
    mail = EmailMultiAlternatives("Confirm your address", f"Your code is {code}.", to=[address])
    mail.attach_alternative(f"<p>Your code is <b>{code}</b>.</p>", "text/html")
    _send(mail)


def invoice(address: str, number: int, pdf: bytes) -> None:
    """Send an invoice."""
    mail = EmailMultiAlternatives(f"Invoice {number}", "Thank you!", to=[address], bcc=["books@shop.example"])
    mail.attach(f"invoice-{number}.pdf", pdf, "application/pdf")
    _send(mail)


def _send(mail: EmailMultiAlternatives) -> None:
    for left in reversed(range(TRIES)):
        try:
            mail.send()
        except smtplib.SMTPRecipientsRefused as refused:
            deferred = all(400 <= code < 500 for code, _ in refused.recipients.values())
            if not deferred or not left:
                raise
        else:
            return
