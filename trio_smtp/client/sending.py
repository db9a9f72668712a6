"""What is sent for one message, in which order, and what the replies mean: a generator that never waits.

`send_steps` yields what is to be sent next and is sent the replies. Whoever drives it does the I/O.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Literal

import attrs

from trio_smtp import Reply

from .errors import DeliveryFailed, DeliveryRefused
from .results import SendResult

__all__ = ["RSET", "Body", "Commands", "Steps", "outcome", "positive", "send_steps"]

#: So many commands go out before their replies are read: neither side's buffers fill up.
MOST_COMMANDS = 100


@attrs.frozen
class Commands:
    """Send these lines in one go, and read a reply to each.

    Attributes:
        lines: Each with its CRLF.
        phases: What each line is, for time limits and errors.
    """

    lines: tuple[bytes, ...]
    phases: tuple[str, ...]


@attrs.frozen
class Body:
    """Send the message and its end, and read the replies.

    Attributes:
        replies: How many come.
        empty: Send the end mark alone: the server takes no recipient, and waits for a message all the same.
    """

    replies: int
    empty: bool = False


#: The generator of one message.
Steps = Generator[Commands | Body, Sequence[Reply], SendResult]
RSET = Commands((b"RSET\r\n",), ("rset",))


def positive(phase: str, reply: Reply, wanted: Literal[2, 3] = 2) -> bool:
    """Whether a reply says yes.

    Args:
        phase: What it answers.
        reply: The reply.
        wanted: The class of a yes.

    Raises:
        DeliveryFailed: It says neither yes nor no, so that client and server do not mean the same.
    """
    if reply.code >= 400:
        return False
    if reply.code // 100 != wanted or (wanted == 3 and reply.code != 354):
        raise DeliveryFailed(phase, f"the server answered with code {reply.code}", uncertain=phase == "end")
    return True


def send_steps(mail: bytes, recipients: Mapping[str, bytes], *, pipelining: bool, chunking: bool, lmtp: bool) -> Steps:
    """The steps of one message.

    Args:
        mail: The command MAIL.
        recipients: The command RCPT for each.
        pipelining: Commands may be sent before the replies to earlier ones are there (RFC 2920).
        chunking: The message goes out by BDAT, and without DATA (RFC 3030).
        lmtp: Each recipient has its own reply at the end (RFC 2033).

    Raises:
        DeliveryRefused: Nobody has the message.
        DeliveryFailed: The server's replies make no sense.
    """
    waiting = [("mail", mail), *(("rcpt", line) for line in recipients.values())]
    if not chunking:
        waiting.append(("data", b"DATA\r\n"))
    most = MOST_COMMANDS if pipelining else 1
    replies: list[Reply] = []
    while waiting:
        batch, waiting = waiting[:most], waiting[most:]
        if batch[0][0] == "data" and not any(reply.code < 400 for reply in replies[1:]):
            break
        replies += yield Commands(tuple(line for _, line in batch), tuple(phase for phase, _ in batch))
        if replies[0].code >= 400:
            break
    begun, to_rcpt = replies[0], dict(zip(recipients, replies[1:], strict=False))
    to_data = replies[len(recipients) + 1] if len(replies) == len(recipients) + 2 else None
    taken = [name for name, reply in to_rcpt.items() if positive("rcpt", reply)] if positive("mail", begun) else []
    refused = {name: reply for name, reply in to_rcpt.items() if reply.code >= 400}
    open_ = to_data is not None and positive("data", to_data, 3)
    if not taken and open_:
        if lmtp:
            raise DeliveryFailed("data", "the server takes a message for no recipient")
        yield Body(1, empty=True)
    if begun.code >= 400:
        yield RSET
        raise DeliveryRefused(begun, phase="mail")
    if not taken:
        if not open_:
            yield RSET
        raise DeliveryRefused([*to_rcpt.values()][-1], refused, phase="rcpt")
    if to_data is not None and not open_:
        yield RSET
        raise DeliveryRefused(to_data, refused, phase="data")
    final = yield Body(len(taken) if lmtp else 1)
    if chunking and all(reply.code >= 400 for reply in final):
        yield RSET  # a chunk before the last may be what was refused (RFC 3030 section 2)
    return outcome(taken, refused, final)


def outcome(taken: Sequence[str], refused: Mapping[str, Reply], final: Sequence[Reply]) -> SendResult:
    """What the replies to the message mean.

    Args:
        taken: The recipients that RCPT was taken for.
        refused: The replies to the others.
        final: One reply to the message, or one for each recipient in `taken`.

    Raises:
        DeliveryRefused: Nobody has the message.
        DeliveryFailed: A reply says neither yes nor no.
    """
    if len(final) == 1 and positive("end", final[0]):  # most messages
        return SendResult(final[0], dict.fromkeys(taken, final[0]), dict(refused))
    each = dict(zip(taken, final if len(final) == len(taken) else [*final] * len(taken), strict=True))
    accepted = {name: reply for name, reply in each.items() if positive("end", reply)}
    if not accepted:
        # One reply stands for all in SMTP: then the recipients are not what was refused.
        own = each if len(final) > 1 else {}
        raise DeliveryRefused(final[-1], {**refused, **own}, phase="end")
    return SendResult(
        next(iter(accepted.values())), accepted, {**refused, **{n: r for n, r in each.items() if n not in accepted}}
    )
