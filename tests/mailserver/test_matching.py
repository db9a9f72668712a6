"""Search: looks for a message while more come."""

from __future__ import annotations

from trio_smtp.testing.captured import CapturedEnvelope, CapturedMessage, CapturedSession
from trio_smtp.testing.matching import Search


def message(subject: str) -> CapturedMessage:
    envelope = CapturedEnvelope(sender="a@example.com", recipients=["b@example.com"])
    return CapturedMessage(f"Subject: {subject}\r\n\r\n".encode(), envelope, CapturedSession("1", None))


def test_each_message_is_looked_at_once() -> None:
    seen: list[str] = []

    def is_nine(subject: str) -> bool:
        seen.append(subject)
        return subject == "9"

    search = Search({"subject": is_nine})
    messages: list[CapturedMessage] = []
    assert search.find(messages) is None
    for number in range(9):
        messages.append(message(str(number)))
        assert search.find(messages) is None
        assert search.find(messages) is None
    messages.append(message("9"))
    assert search.find(messages) is messages[-1]
    assert seen == [str(number) for number in range(10)]


def test_messages_that_come_after_others_were_cleared_are_looked_at() -> None:
    search = Search({"subject": "wanted"})
    assert search.find([message("1"), message("2")]) is None
    wanted = message("wanted")
    assert search.find([wanted, message("3")]) is wanted
    search = Search({"subject": "wanted"})
    assert search.find([message("1"), message("2")]) is None
    assert search.find([wanted]) is wanted
    assert search.find([]) is None
    assert search.find([wanted]) is wanted
