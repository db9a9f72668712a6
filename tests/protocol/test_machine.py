"""The order of things: every state and every verb against a table written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.protocol.commands import Verb
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.machine import TRANSITIONS, Machine, State

# A dot is 503. From RFC 5321 section 4.1.4, RFC 3207 section 4, RFC 4954 section 4, RFC 3030 section 2, and the READMEs
# of XCLIENT and XFORWARD.
EXPECTED = """
                  CONNECTED  GREETED    READY      AUTH   MAIL   RCPT   DATA   BDAT   TLS      CLOSED
HELO              .          READY      READY      .      READY  READY  .      READY  .        .
EHLO              .          READY      READY      .      READY  READY  .      READY  .        .
LHLO              .          READY      READY      .      READY  READY  .      READY  .        .
MAIL              .          .          MAIL       .      .      .      .      .      .        .
RCPT              .          .          .          .      RCPT   RCPT   .      .      .        .
DATA              .          .          .          .      .      DATA   .      .      .        .
BDAT              .          .          .          .      .      BDAT   .      BDAT   .        .
RSET              .          GREETED    READY      .      READY  READY  .      READY  .        .
NOOP              .          GREETED    READY      .      MAIL   RCPT   .      BDAT   .        .
HELP              .          GREETED    READY      .      MAIL   RCPT   .      BDAT   .        .
VRFY              .          GREETED    READY      .      MAIL   RCPT   .      BDAT   .        .
EXPN              .          GREETED    READY      .      MAIL   RCPT   .      BDAT   .        .
QUIT              .          GREETED    READY      .      MAIL   RCPT   .      BDAT   .        .
EXTENSION         .          GREETED    READY      .      MAIL   RCPT   .      BDAT   .        .
STARTTLS          .          TLS        TLS        .      .      .      .      .      .        .
AUTH              .          .          AUTH       .      .      .      .      .      .        .
XCLIENT           .          CONNECTED  CONNECTED  .      .      .      .      .      .        .
XFORWARD          .          GREETED    READY      .      .      .      .      .      .        .
GREETING          GREETED    .          .          .      .      .      .      .      .        .
END_OF_AUTH       .          .          .          READY  .      .      .      .      .        .
END_OF_DATA       .          .          .          .      .      .      READY  READY  .        .
HANDSHAKE         .          .          .          .      .      .      .      .      GREETED  .
"""


def expected() -> dict[tuple[State, Verb], State | None]:
    header, *lines = EXPECTED.strip("\n").splitlines()
    states = [State[name] for name in header.split()]
    table: dict[tuple[State, Verb], State | None] = {}
    for line in lines:
        name, *cells = line.split()
        for state, cell in zip(states, cells, strict=True):
            table[state, Verb[name]] = None if cell == "." else State[cell]
    return table


TABLE = expected()
CELLS = [pytest.param(*pair, after, id=f"{pair[0].name}-{pair[1].name}") for pair, after in TABLE.items()]
UNCONDITIONAL = (Verb.END_OF_AUTH, Verb.END_OF_DATA)


def machine_in(state: State, *, lmtp: bool = False) -> Machine:
    machine = Machine(lmtp=lmtp)
    machine.state = state
    return machine


def fault(machine: Machine, verb: Verb) -> tuple[int, str | None, bool] | None:
    """What `check` says: code, enhanced code, whether it counts; None when the verb may come."""
    try:
        machine.check(verb)
    except ProtocolError as exc:
        return exc.code, exc.enhanced, exc.counted
    return None


def walk(*steps: tuple[Verb, int], lmtp: bool = False) -> Machine:
    """A machine that was greeted and was answered these codes, whether or not the verbs may come."""
    machine = Machine(lmtp=lmtp)
    for verb, code in ((Verb.GREETING, 220), (Verb.EHLO, 250), *steps):
        machine.advance(verb, code)
    return machine


MAIL_OK, RCPT_OK = (Verb.MAIL, 250), (Verb.RCPT, 250)
MAIL_NO, RCPT_NO = (Verb.MAIL, 550), (Verb.RCPT, 550)


# --- the table ---


def test_the_table_is_whole() -> None:
    assert set(TABLE) == {(state, verb) for state in State for verb in Verb}
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(("state", "verb", "after"), CELLS)
def test_cell(state: State, verb: Verb, after: State | None) -> None:
    machine = machine_in(state)
    if after is None:
        assert fault(machine, verb) == (503, "5.5.1", True)
    else:
        assert fault(machine, verb) is None
    assert machine.state is state  # to check is not to move
    if after is not None:
        machine.advance(verb, 250)
        assert machine.state is after


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
def test_a_refusal_leaves_the_state_alone(state: State) -> None:
    """But for the end of an exchange or a message, which is the end whatever the reply."""
    for verb in Verb:
        if verb in UNCONDITIONAL and TABLE[state, verb] is None:
            continue  # no exchange or message is there to end
        for code in (452, 503, 550):
            machine = machine_in(state)
            machine.advance(verb, code)
            assert machine.state is (TABLE[state, verb] if verb in UNCONDITIONAL else state), verb


@pytest.mark.parametrize("code", [221, 421, 521])
@pytest.mark.parametrize("verb", list(Verb), ids=lambda verb: verb.name)
def test_the_last_word(verb: Verb, code: int) -> None:
    """RFC 5321 sections 3.8 and 4.1.1.10, RFC 7504 section 2: in any state, to anything."""
    for state in State:
        machine = machine_in(state)
        machine.advance(verb, code)
        assert machine.state is State.CLOSED
        assert machine.closed


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
def test_what_the_states_say(state: State) -> None:
    machine = machine_in(state)
    assert machine.in_transaction is (state.name in ("MAIL", "RCPT", "DATA", "BDAT"))
    assert machine.closed is (state is State.CLOSED)
    machine.close()
    assert machine.state is State.CLOSED


def test_a_session() -> None:
    machine = Machine()
    assert machine.state is State.CONNECTED
    for verb, code, state in (
        (Verb.GREETING, 220, State.GREETED),
        (Verb.EHLO, 250, State.READY),
        (Verb.STARTTLS, 220, State.TLS),
        (Verb.HANDSHAKE, 220, State.GREETED),
        (Verb.EHLO, 250, State.READY),
        (Verb.AUTH, 334, State.AUTH),
        (Verb.END_OF_AUTH, 535, State.READY),
        (Verb.MAIL, 250, State.MAIL),
        (Verb.RCPT, 550, State.MAIL),
        (Verb.RCPT, 251, State.RCPT),
        (Verb.RCPT, 452, State.RCPT),
        (Verb.DATA, 354, State.DATA),
        (Verb.END_OF_DATA, 250, State.READY),
        (Verb.MAIL, 250, State.MAIL),
        (Verb.RCPT, 250, State.RCPT),
        (Verb.BDAT, 250, State.BDAT),
        (Verb.BDAT, 552, State.BDAT),
        (Verb.END_OF_DATA, 552, State.READY),
        (Verb.QUIT, 221, State.CLOSED),
    ):
        machine.check(verb)
        machine.advance(verb, code)
        assert machine.state is state, verb


# --- what it says, and whether it counts ---


@pytest.mark.parametrize(
    ("state", "verb", "message"),
    [
        (State.GREETED, Verb.MAIL, "Send HELO or EHLO first"),
        (State.GREETED, Verb.AUTH, "Send EHLO first"),
        (State.GREETED, Verb.RCPT, "Need MAIL before RCPT"),
        (State.READY, Verb.RCPT, "Need MAIL before RCPT"),
        (State.READY, Verb.DATA, "Need RCPT before DATA"),
        (State.MAIL, Verb.DATA, "Need RCPT before DATA"),
        (State.MAIL, Verb.BDAT, "Need RCPT before BDAT"),
        (State.MAIL, Verb.MAIL, "Not inside a transaction"),
        (State.RCPT, Verb.STARTTLS, "Not inside a transaction"),
        (State.RCPT, Verb.AUTH, "Not inside a transaction"),
        (State.BDAT, Verb.MAIL, "Not inside a transaction"),
        (State.BDAT, Verb.DATA, "Not inside a transaction"),
        (State.BDAT, Verb.RCPT, "Not inside a transaction"),
        (State.CONNECTED, Verb.NOOP, "Bad sequence of commands"),
        (State.CLOSED, Verb.QUIT, "Bad sequence of commands"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_messages(state: State, verb: Verb, message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        machine_in(state).check(verb)
    assert caught.value.message == message


COUNTED, FORGIVEN = (503, "5.5.1", True), (503, "5.5.1", False)
NO_RECIPIENTS = (554, "5.5.1", False)


@pytest.mark.parametrize(
    ("steps", "verb", "smtp", "lmtp"),
    [
        pytest.param((), Verb.RCPT, COUNTED, COUNTED, id="RCPT without MAIL"),
        pytest.param((), Verb.DATA, COUNTED, COUNTED, id="DATA without MAIL"),
        pytest.param((MAIL_OK,), Verb.DATA, COUNTED, COUNTED, id="RFC 5321 3.3 no recipient was tried"),
        pytest.param((MAIL_OK,), Verb.BDAT, COUNTED, COUNTED, id="no recipient was tried, BDAT"),
        pytest.param(((Verb.RCPT, 503),), Verb.DATA, COUNTED, COUNTED, id="a recipient without MAIL was not tried"),
        pytest.param((MAIL_NO,), Verb.RCPT, FORGIVEN, FORGIVEN, id="RFC 2920 3.1 RCPT after a refused MAIL"),
        pytest.param((MAIL_NO,), Verb.DATA, FORGIVEN, FORGIVEN, id="RFC 2920 3.1 DATA after a refused MAIL"),
        pytest.param((MAIL_NO,), Verb.BDAT, FORGIVEN, FORGIVEN, id="BDAT after a refused MAIL"),
        pytest.param((MAIL_NO,), Verb.STARTTLS, None, None, id="STARTTLS after a refused MAIL"),
        pytest.param((MAIL_NO, (Verb.RCPT, 503)), Verb.DATA, NO_RECIPIENTS, FORGIVEN, id="MAIL and RCPT refused"),
        pytest.param((MAIL_OK, RCPT_NO), Verb.DATA, NO_RECIPIENTS, FORGIVEN, id="RFC 5321 3.3, RFC 2033 4.2"),
        pytest.param((MAIL_OK, RCPT_NO, RCPT_NO), Verb.BDAT, NO_RECIPIENTS, FORGIVEN, id="all refused, BDAT"),
        pytest.param((MAIL_OK, RCPT_NO), Verb.MAIL, COUNTED, COUNTED, id="a nested MAIL is no pipelined one"),
        pytest.param((MAIL_OK, RCPT_NO), Verb.AUTH, COUNTED, COUNTED, id="nor is AUTH"),
        pytest.param((MAIL_OK, RCPT_NO, RCPT_OK), Verb.DATA, None, None, id="one of two refused"),
        pytest.param((MAIL_OK, (Verb.MAIL, 503)), Verb.DATA, COUNTED, COUNTED, id="a nested MAIL refuses no sender"),
        pytest.param((MAIL_NO, MAIL_OK), Verb.DATA, COUNTED, COUNTED, id="MAIL begins anew"),
        pytest.param((MAIL_OK, RCPT_NO, (Verb.RSET, 250)), Verb.DATA, COUNTED, COUNTED, id="RSET begins anew"),
        pytest.param(
            (MAIL_OK, RCPT_NO, (Verb.RSET, 501)), Verb.DATA, NO_RECIPIENTS, FORGIVEN, id="a bad RSET does not"
        ),
        pytest.param((MAIL_OK, RCPT_NO, (Verb.EHLO, 250)), Verb.DATA, COUNTED, COUNTED, id="EHLO begins anew"),
        pytest.param((MAIL_OK, RCPT_NO, (Verb.HELO, 250)), Verb.DATA, COUNTED, COUNTED, id="HELO begins anew"),
        pytest.param((MAIL_OK, RCPT_NO, (Verb.LHLO, 250)), Verb.DATA, COUNTED, COUNTED, id="LHLO begins anew"),
        pytest.param((MAIL_OK, RCPT_NO, (Verb.NOOP, 250)), Verb.DATA, NO_RECIPIENTS, FORGIVEN, id="NOOP does not"),
        pytest.param(
            (MAIL_NO, (Verb.XCLIENT, 220), (Verb.GREETING, 220)), Verb.RCPT, COUNTED, COUNTED, id="XCLIENT does"
        ),
        pytest.param(
            (MAIL_NO, (Verb.STARTTLS, 220), (Verb.HANDSHAKE, 220)), Verb.RCPT, COUNTED, COUNTED, id="TLS does"
        ),
        pytest.param(
            (MAIL_OK, RCPT_NO, RCPT_OK, (Verb.DATA, 354), (Verb.END_OF_DATA, 550)),
            Verb.DATA,
            COUNTED,
            COUNTED,
            id="the end of a message does, whatever the reply",
        ),
        pytest.param(
            (MAIL_OK, RCPT_NO, RCPT_OK, (Verb.BDAT, 250)),
            Verb.DATA,
            FORGIVEN,
            FORGIVEN,
            id="RFC 3030 3 DATA after BDAT",
        ),
        pytest.param((MAIL_OK, RCPT_OK, (Verb.BDAT, 250)), Verb.DATA, COUNTED, COUNTED, id="with all recipients taken"),
        pytest.param(
            (MAIL_OK, RCPT_OK, (Verb.BDAT, 250), (Verb.RCPT, 503)), Verb.DATA, COUNTED, COUNTED, id="a late recipient"
        ),
    ],
)
def test_what_a_pipelining_client_could_not_know(
    steps: tuple[tuple[Verb, int], ...],
    verb: Verb,
    smtp: tuple[int, str | None, bool] | None,
    lmtp: tuple[int, str | None, bool] | None,
) -> None:
    assert fault(walk(*steps), verb) == smtp
    assert fault(walk(*steps, lmtp=True), verb) == lmtp


# --- any order ---


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Verb)), st.sampled_from([220, 250, 354, 421, 450, 503, 550])), max_size=30),
    st.booleans(),
)
def test_any_order_ends_in_a_state_of_the_table(steps: list[tuple[Verb, int]], lmtp: bool) -> None:
    machine, state = Machine(lmtp=lmtp), State.CONNECTED
    for verb, code in steps:
        after = TABLE[state, verb]
        found = fault(machine, verb)
        assert (found is None) == (after is not None)
        if found is not None:
            assert found[0] == 503 or verb in (Verb.DATA, Verb.BDAT)
            machine.advance(verb, found[0]) if verb not in UNCONDITIONAL else None
        else:
            machine.advance(verb, code)
            if code == 421:
                state = State.CLOSED
            elif code < 400 or verb in UNCONDITIONAL:
                assert after is not None
                state = after
        assert machine.state is state
