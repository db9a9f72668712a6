"""The exceptions that carry a reply."""

from __future__ import annotations

import pytest

from trio_smtp.protocol.commands import Verb
from trio_smtp.protocol.errors import ProtocolError, SMTPError
from trio_smtp.protocol.replies import Reply


@pytest.mark.parametrize(
    ("error", "reply", "temporary", "text"),
    [
        pytest.param(SMTPError("No"), Reply(550, "No"), False, "550 No", id="550 is usual"),
        pytest.param(SMTPError("Later", 451), Reply(451, "Later"), True, "451 Later", id="RFC 5321 4.2.1 4yz"),
        pytest.param(
            SMTPError("No", 550, "5.1.1"), Reply(550, "No", "5.1.1"), False, "550 5.1.1 No", id="RFC 3463 enhanced"
        ),
        pytest.param(SMTPError(["a", "b"], 554), Reply(554, ["a", "b"]), False, "554 a\nb", id="several lines"),
        pytest.param(
            SMTPError("x\r\n250 OK\0", 421), Reply(421, ["x", "250 OK?"]), True, "421 x\n250 OK?", id="cleaned"
        ),
    ],
)
def test_an_error_carries_its_reply(error: SMTPError, reply: Reply, temporary: bool, text: str) -> None:
    assert error.reply == reply
    assert (error.message, error.code, error.enhanced) == (reply.text, reply.code, reply.enhanced)
    assert error.temporary is temporary
    assert str(error) == text


@pytest.mark.parametrize("code", [200, 250, 334, 354, 399])
def test_a_refusal_is_4xx_or_5xx(code: int) -> None:
    with pytest.raises(ValueError, match=f"code must be a 4xx or 5xx reply code, not {code}"):
        SMTPError("x", code)


@pytest.mark.parametrize(("code", "enhanced"), [(600, None), (550, "4.0.0"), (550, "x")])
def test_the_reply_is_checked(code: int, enhanced: str | None) -> None:
    with pytest.raises(ValueError, match=r"code|class|enhanced"):
        SMTPError("x", code, enhanced)


def test_protocol_error() -> None:
    error = ProtocolError("Bad", 501, "5.5.4")
    assert isinstance(error, SMTPError)
    assert (error.counted, error.close, error.verb) == (True, False, None)
    assert error.reply == Reply(501, "Bad", "5.5.4")
    lenient = ProtocolError("Bad", 503, counted=False, close=True)
    assert (lenient.counted, lenient.close) == (False, True)
    lenient.verb = Verb.MAIL
    assert ProtocolError("Bad", 501).verb is None
