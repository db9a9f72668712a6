"""What is sent for one message in which order, and what the replies mean: tables without I/O."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp import Reply
from trio_smtp.client.errors import DeliveryError, DeliveryFailed, DeliveryRefused
from trio_smtp.client.results import SendResult
from trio_smtp.client.sending import MOST_COMMANDS, Commands, send_steps

TWO = {"b": b"RCPT b\r\n", "c": b"RCPT c\r\n"}


def run(
    replies: Sequence[int],
    *,
    recipients: dict[str, bytes] | None = None,
    pipelining: bool = True,
    chunking: bool = False,
    lmtp: bool = False,
    whole: bool = True,
) -> tuple[list[str], SendResult | DeliveryError]:
    """Drive the steps with codes as replies; returns what was sent, and what became of the message."""
    steps = send_steps(
        b"MAIL\r\n", TWO if recipients is None else recipients, pipelining=pipelining, chunking=chunking, lmtp=lmtp
    )
    codes = iter(replies)
    sent: list[str] = []
    result: SendResult | DeliveryError
    try:
        step = next(steps)
        while True:
            if isinstance(step, Commands):
                sent.append(" ".join(line.decode().split()[0] for line in step.lines))
                count = len(step.lines)
            else:
                sent.append("end" if step.empty else f"body {step.replies}")
                count = step.replies
            step = steps.send([Reply(next(codes), "x") for _ in range(count)])
    except StopIteration as done:
        result = done.value
    except DeliveryError as error:
        result = error
    assert not whole or next(codes, None) is None
    return sent, result


ALL_AT_ONCE = "MAIL RCPT RCPT DATA"


@pytest.mark.parametrize(
    ("replies", "options", "sent", "accepted", "refused"),
    [
        ([250, 250, 250, 354, 250], {}, [ALL_AT_ONCE, "body 1"], "bc", ""),
        ([250, 251, 252, 354, 250], {}, [ALL_AT_ONCE, "body 1"], "bc", ""),
        ([250, 250, 550, 354, 250], {}, [ALL_AT_ONCE, "body 1"], "b", "c"),
        ([250, 250, 250, 354, 250], {"pipelining": False}, ["MAIL", "RCPT", "RCPT", "DATA", "body 1"], "bc", ""),
        ([250, 250, 250, 250], {"chunking": True}, ["MAIL RCPT RCPT", "body 1"], "bc", ""),
        ([250, 250, 250, 354, 250, 250], {"lmtp": True}, [ALL_AT_ONCE, "body 2"], "bc", ""),
        ([250, 250, 250, 354, 452, 250], {"lmtp": True}, [ALL_AT_ONCE, "body 2"], "c", "b"),
        ([250, 450, 250, 354, 250], {"lmtp": True}, [ALL_AT_ONCE, "body 1"], "c", "b"),
    ],
)
def test_messages_that_are_taken(
    replies: list[int], options: dict[str, bool], sent: list[str], accepted: str, refused: str
) -> None:
    steps, result = run(replies, **options)  # type: ignore[arg-type]
    assert steps == sent
    assert isinstance(result, SendResult)
    assert (set(result.accepted), set(result.refused)) == (set(accepted), set(refused))
    assert result.reply.code == 250


@pytest.mark.parametrize(
    ("replies", "options", "sent", "phase", "outcome"),
    [
        ([550, 503, 503, 503, 250], {}, [ALL_AT_ONCE, "RSET"], "mail", (550, "")),
        ([550, 503, 503, 354, 554, 250], {}, [ALL_AT_ONCE, "end", "RSET"], "mail", (550, "")),
        ([550, 250], {"pipelining": False}, ["MAIL", "RSET"], "mail", (550, "")),
        ([250, 550, 450, 503, 250], {}, [ALL_AT_ONCE, "RSET"], "rcpt", (450, "bc")),
        ([250, 550, 450, 354, 554], {}, [ALL_AT_ONCE, "end"], "rcpt", (450, "bc")),
        ([250, 550, 450, 250], {"pipelining": False}, ["MAIL", "RCPT", "RCPT", "RSET"], "rcpt", (450, "bc")),
        ([250, 550, 450, 250], {"chunking": True}, ["MAIL RCPT RCPT", "RSET"], "rcpt", (450, "bc")),
        ([250, 250, 450, 451, 250], {}, [ALL_AT_ONCE, "RSET"], "data", (451, "c")),
        ([250, 250, 450, 354, 552], {}, [ALL_AT_ONCE, "body 1"], "end", (552, "c")),
        ([250, 250, 250, 354, 552, 451], {"lmtp": True}, [ALL_AT_ONCE, "body 2"], "end", (451, "bc")),
        ([250, 250, 250, 552, 250], {"chunking": True}, ["MAIL RCPT RCPT", "body 1", "RSET"], "end", (552, "")),
    ],
)
def test_messages_that_are_refused(
    replies: list[int], options: dict[str, bool], sent: list[str], phase: str, outcome: tuple[int, str]
) -> None:
    code, refused = outcome
    steps, result = run(replies, **options)  # type: ignore[arg-type]
    assert steps == sent
    assert isinstance(result, DeliveryRefused)
    assert (result.phase, result.reply.code, set(result.refused)) == (phase, code, set(refused))


@pytest.mark.parametrize(
    ("replies", "options", "phase", "uncertain"),
    [
        ([354, 250, 250, 354], {}, "mail", False),
        ([250, 354, 250, 354], {}, "rcpt", False),
        ([250, 250, 250, 250], {}, "data", False),
        ([250, 250, 250, 334], {}, "data", False),
        ([250, 250, 250, 354, 354], {}, "end", True),
        ([250, 550, 550, 354], {"lmtp": True}, "data", False),
    ],
)
def test_replies_that_make_no_sense(replies: list[int], options: dict[str, bool], phase: str, uncertain: bool) -> None:
    _, result = run(replies, **options)  # type: ignore[arg-type]
    assert isinstance(result, DeliveryFailed)
    assert (result.phase, result.uncertain) == (phase, uncertain)


def test_many_recipients_go_in_several_groups() -> None:
    many = {f"r{n}": b"RCPT\r\n" for n in range(MOST_COMMANDS + 50)}
    sent, result = run([250] * (len(many) + 1) + [354, 250], recipients=many)
    assert [step.count(" ") + 1 for step in sent] == [MOST_COMMANDS, 52, 2]
    assert isinstance(result, SendResult)
    # DATA is alone in its group, and nobody was taken
    many = {f"r{n}": b"RCPT\r\n" for n in range(MOST_COMMANDS - 1)}
    sent, result = run([250] + [550] * len(many) + [250], recipients=many)
    assert sent[1:] == ["RSET"]
    assert isinstance(result, DeliveryRefused)


@given(
    st.lists(st.sampled_from([220, 250, 251, 334, 354, 421, 450, 550]), min_size=30, max_size=30),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_whatever_the_replies_are(codes: list[int], pipelining: bool, chunking: bool, lmtp: bool) -> None:
    sent, result = run(codes, pipelining=pipelining, chunking=chunking, lmtp=lmtp, whole=False)
    if isinstance(result, SendResult):
        assert result.accepted
        assert set(result.accepted) | set(result.refused) == set(TWO)
        assert sent[-1].startswith("body")
    elif isinstance(result, DeliveryRefused):
        assert result.reply.code >= 400
    else:
        assert isinstance(result, DeliveryFailed)
        assert result.uncertain is (result.phase == "end")


def test_errors_show_little_of_what_a_server_says() -> None:
    error = DeliveryRefused(Reply(550, ["a", "b\x1b[2J"], "5.7.1"), phase="mail")
    assert str(error) == "mail: the server said 550 5.7.1 a / b?[2J"
    assert len(str(DeliveryRefused(Reply(550, "x" * 2000), phase="mail"))) < 250
    assert str(DeliveryRefused(Reply(535, "AUTH PLAIN c2VjcmV0"), phase="auth")) == "auth: the server said 535"
    assert "may have been delivered" in str(DeliveryFailed("end", "gone", uncertain=True))
