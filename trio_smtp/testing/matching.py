"""Criteria: which message a test waits for, and what to say when none has come."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from trio_smtp.reading import Attachment

from .captured import CapturedMessage, CapturedSession

__all__ = [
    "Criteria",
    "Search",
    "TextFilter",
    "check",
    "matching",
    "missed",
    "nothing_came",
    "shown",
    "unwanted",
    "what_clients_did",
]

#: A text, a compiled pattern that is searched for, or a function that says yes or no.
TextFilter = str | re.Pattern[str] | Callable[[str], bool]
#: The same for an attachment: a glob for its name, a pattern for its name, or a function that takes the attachment.
AttachmentFilter = str | re.Pattern[str] | Callable[[Attachment], bool]

#: Messages that an error lists.
_MAX_LISTED = 20


class Criteria(TypedDict, total=False):
    """What a message must be like.

    Attributes:
        to: One of the envelope's recipients: a glob (``*``, ``?``, case does not count), a pattern, or a function.
        sender: The envelope's sender, likewise; ``""`` is the null sender.
        subject: The whole subject, a pattern that is searched for, or a function.
        text: Words that the text contains, a pattern that is searched for, or a function; the HTML's text where the
            message has no plain text.
        header: Fields by name, each as `subject`.
        attachment: One of the attachments: a glob for its name, a pattern for its name, or a function.
    """

    to: TextFilter
    sender: TextFilter
    subject: TextFilter
    text: TextFilter
    header: Mapping[str, TextFilter]
    attachment: AttachmentFilter


def matching(messages: Iterable[CapturedMessage], criteria: Criteria) -> CapturedMessage | None:
    """The first message that matches, or None."""
    for message in messages:
        if not missed(message, criteria):
            return message
    return None


class Search:
    """Looks again and again for a message while more come; each message is looked at once.

    Args:
        criteria: What the message must be like.
    """

    def __init__(self, criteria: Criteria) -> None:
        self._criteria = criteria
        self._seen = 0
        self._last: CapturedMessage | None = None

    def find(self, messages: Sequence[CapturedMessage]) -> CapturedMessage | None:
        """The first message that matches, or None.

        Args:
            messages: The messages of the last call and later ones, or others where `clear` was called meanwhile.
        """
        known = 0 < self._seen <= len(messages) and messages[self._seen - 1] is self._last
        new = messages[self._seen :] if known else messages
        self._seen = len(messages)
        self._last = messages[-1] if messages else None
        return matching(new, self._criteria)


def check(criteria: Criteria) -> None:
    """See to it that the criteria are ones, before anything is waited for.

    Raises:
        TypeError: A criterion is unknown, or is neither a string nor a pattern nor a function.
    """
    for name, wanted in criteria.items():
        if name not in Criteria.__annotations__:
            raise TypeError(f"{name} is no criterion: there are {', '.join(Criteria.__annotations__)}")
        if name == "header" and not isinstance(wanted, Mapping):
            raise TypeError(f"header must be a mapping of names to texts, not {wanted!r}")
        for each in wanted.values() if isinstance(wanted, Mapping) else (wanted,):
            if not (isinstance(each, str | re.Pattern) or callable(each)):
                raise TypeError(f"{name} must be a string, a compiled pattern or a function, not {each!r}")


def missed(message: CapturedMessage, criteria: Criteria) -> list[str]:
    """The criteria that a message does not meet, by name."""
    return [name for name, wanted in criteria.items() if not _meets(message, name, wanted)]


def _meets(message: CapturedMessage, name: str, wanted: Any) -> bool:
    match name:
        case "to":
            return any(_takes(wanted, each, _glob) for each in message.envelope.recipients)
        case "sender":
            return _takes(wanted, message.envelope.sender, _glob)
        case "subject":
            return _takes(wanted, message.subject, str.__eq__)
        case "text":
            return _takes(wanted, message.text or message.html_text, str.__contains__)
        case "header":
            return all(
                any(_takes(each, text, str.__eq__) for text in message.headers.get_all(field))
                for field, each in wanted.items()
            )
        case _ if isinstance(wanted, str | re.Pattern):
            return any(_takes(wanted, each, _glob) for each in message.attachments)
        case _:
            return any(wanted(each) for each in message.attachments.values())


def _takes(wanted: Any, text: str, compare: Callable[[str, str], bool]) -> bool:
    if isinstance(wanted, str):
        return compare(text, wanted)
    return bool(wanted.search(text) if isinstance(wanted, re.Pattern) else wanted(text))


def _glob(text: str, glob: str) -> bool:
    pattern = "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in glob)
    return re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL) is not None


# Errors


def shown(criteria: Criteria) -> str:
    """Criteria as they were written, in brackets."""
    return f" ({', '.join(f'{name}={wanted!r}' for name, wanted in criteria.items())})" if criteria else ""


def nothing_came(
    criteria: Criteria, timeout: float, messages: Sequence[CapturedMessage], sessions: Sequence[CapturedSession]
) -> str:
    """What to say when no message has matched in time: what came, and what each missed."""
    lines = [f"no message{shown(criteria)} came within {timeout:g} s; {_count(messages)}"]
    lines += [
        f"  {number}. {_summary(message)}: not the {', '.join(missed(message, criteria))}"
        for number, message in enumerate(messages[:_MAX_LISTED], 1)
    ]
    if len(messages) > _MAX_LISTED:
        lines.append(f"  and {len(messages) - _MAX_LISTED} more")
    if not messages:
        lines += what_clients_did(sessions)
    return "\n".join(lines)


def what_clients_did(sessions: Sequence[CapturedSession]) -> list[str]:
    """Lines that say how far the last clients came, where no message has come."""
    if not sessions:
        return ["  and no client has connected"]
    return [f"  a client from {_peer(each)}: {_progress(each)}" for each in sessions[-5:]]


def unwanted(criteria: Criteria, message: CapturedMessage) -> str:
    """What to say when a message has come that was not to come."""
    return f"a message{shown(criteria)} came: {_summary(message)}"


def _count(messages: Sequence[CapturedMessage]) -> str:
    return {0: "none came", 1: "one came:"}.get(len(messages), f"{len(messages)} came:")


def _summary(message: CapturedMessage) -> str:
    recipients = message.envelope.recipients
    more = f" and {len(recipients) - 3} more" if len(recipients) > 3 else ""
    names = ", ".join(f" {name}" for name in message.attachments)
    return (
        f"{message.subject[:100]!r} from <{message.envelope.sender}> to {', '.join(recipients[:3])}{more}"
        f"{', with' if names else ''}{names[:200]}"
    )


def _peer(session: CapturedSession) -> str:
    return f"{session.peer[0]}:{session.peer[1]}" if session.peer is not None else "memory"


def _progress(session: CapturedSession) -> str:
    end = f"the connection has ended ({session.ended})" if session.ended else "the connection is open"
    return f"{end}, the last refusal was {session.last_error!r}" if session.last_error else end
