"""A mail made ready for one server: its commands as they are sent, and its message; nothing is sent yet."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .body import NewlinePolicy
from .commands import Parameters, mail_command, path_of, rcpt_command, recipients_of
from .content import Prepared, prepare
from .errors import ExtensionMissing
from .results import BodyType, Mail

__all__ = ["Ready", "check_chunking", "make_ready"]


def check_chunking(extensions: Mapping[str, str], *, wanted: bool) -> bool:
    """Returns `wanted`.

    Raises:
        ExtensionMissing: It is wanted, and the server lacks it.
    """
    if wanted and "CHUNKING" not in extensions:
        raise ExtensionMissing("CHUNKING", "the message is to go by BDAT")
    return wanted


@attrs.frozen
class Ready:
    """What is sent for one mail.

    Attributes:
        mail: The command MAIL.
        recipients: The command RCPT for each recipient, by its name, in order.
        message: The message.
        newlines: See `BodyWriter`.
        chunking: It goes by BDAT.
        ascii_only: The server lacks 8BITMIME, and nobody knows yet whether the message needs it.
    """

    mail: bytes
    recipients: Mapping[str, bytes]
    message: Prepared
    newlines: NewlinePolicy
    chunking: bool
    ascii_only: bool

    def in_one_go(self, most: int) -> bytes | None:
        """RSET, the commands, and the message by BDAT; None where it has more octets than `most`, or is not whole."""
        octets = self.message.octets
        if octets is None or len(octets) > most:
            return None
        size = b"BDAT %d LAST\r\n" % len(octets)
        return b"".join((b"RSET\r\n", self.mail, *self.recipients.values(), size, octets))


def make_ready(mail: Mail, extensions: Mapping[str, str], *, chunking: bool, newlines: NewlinePolicy = "crlf") -> Ready:
    """Write the commands of a mail, and make its message ready.

    Args:
        mail: The mail.
        extensions: What the server offers.
        chunking: By BDAT.
        newlines: See `BodyWriter`.

    Raises:
        ExtensionMissing: The server lacks what the message needs.
        BareNewline: `newlines` refuses the message.
        ValueError: An address or a parameter is not allowed.
    """
    binary = mail.body == "BINARYMIME"
    recipients = recipients_of(mail.recipients)
    paths = [path_of(mail.sender), *(path_of(recipient.address) for recipient in recipients)]
    utf8 = mail.smtputf8 or (mail.smtputf8 is None and not all(map(str.isascii, paths)))
    newlines = "keep" if binary else newlines
    message = prepare(mail.message, extensions, newlines=newlines, utf8=utf8)
    utf8 = utf8 or (mail.smtputf8 is None and message.utf8)
    body: BodyType | None = mail.body
    if body is None and message.eight_bit is not False:
        known = message.eight_bit is not None
        body = "8BITMIME" if known or "8BITMIME" in extensions else None
    parameters = Parameters(
        size=message.size,
        body=body,
        smtputf8=utf8,
        envid=mail.envid,
        ret=mail.ret,
        requiretls=mail.requiretls,
        others=mail.parameters,
    )
    lines = {str(each.address): rcpt_command(each, extensions, smtputf8=utf8) for each in recipients}
    return Ready(
        mail_command(mail.sender, parameters, extensions),
        lines,
        message,
        newlines,
        chunking=check_chunking(extensions, wanted=chunking or binary),
        ascii_only=body is None and message.eight_bit is None,
    )
