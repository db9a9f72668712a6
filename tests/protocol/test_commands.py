"""One line in, one Command out."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_smtp.protocol.commands import Command, Syntax, Verb, parse_command
from trio_smtp.protocol.errors import ParserCrashed, ProtocolError
from trio_smtp.protocol.parameters import (
    DSNRecipient,
    parse_auth,
    parse_body,
    parse_flag,
    parse_notify,
    parse_orcpt,
    parse_size,
)

VERBS = {verb.value: verb for verb in Verb if not verb.value.startswith("<")} | {"XFOO": Verb.EXTENSION}
FULL = Syntax(
    verbs=VERBS,
    mail_parameters={"SIZE": parse_size, "BODY": parse_body, "SMTPUTF8": parse_flag, "AUTH": parse_auth},
    rcpt_parameters={"NOTIFY": parse_notify, "ORCPT": parse_orcpt},
    chunking=True,
)
LENIENT = attrs.evolve(FULL, strict_addresses=False, allow_unknown_parameters=True)
BARE = Syntax(
    verbs={name: verb for name, verb in VERBS.items() if name not in ("LHLO", "EXPN", "STARTTLS", "XFOO")},
    disabled=frozenset({"EXPN", "STARTTLS"}),
)


def fault(line: bytes, syntax: Syntax) -> ProtocolError | None:
    try:
        parse_command(line, syntax)
    except ProtocolError as exc:
        return exc
    return None


# --- what is understood ---


@pytest.mark.parametrize(
    ("line", "command"),
    [
        pytest.param(b"EHLO client.example", Command(Verb.EHLO, "client.example", name="EHLO"), id="RFC 5321 4.1.1.1"),
        pytest.param(b"HELO [192.0.2.1]", Command(Verb.HELO, "[192.0.2.1]", name="HELO"), id="RFC 5321 4.1.3"),
        pytest.param(b"LHLO x", Command(Verb.LHLO, "x", name="LHLO"), id="RFC 2033 4.1"),
        pytest.param(b"ehlo x", Command(Verb.EHLO, "x", name="EHLO"), id="RFC 5321 2.4 any case"),
        pytest.param(b"EHLO  x \t ", Command(Verb.EHLO, "x", name="EHLO"), id="RFC 5321 4.1.1 white space at the end"),
        pytest.param(b"EHLO _!", Command(Verb.EHLO, "_!", name="EHLO"), id="one word is not checked further"),
        pytest.param(b"EHLO " + b"x" * 255, Command(Verb.EHLO, "x" * 255, name="EHLO"), id="RFC 5321 4.5.3.1.2"),
        pytest.param(b"DATA", Command(Verb.DATA, name="DATA"), id="RFC 5321 4.1.1.4"),
        pytest.param(b"data \t", Command(Verb.DATA, name="DATA"), id="DATA and white space"),
        pytest.param(b"RSET", Command(Verb.RSET, name="RSET"), id="RFC 5321 4.1.1.5"),
        pytest.param(b"QUIT", Command(Verb.QUIT, name="QUIT"), id="RFC 5321 4.1.1.10"),
        pytest.param(b"STARTTLS", Command(Verb.STARTTLS, name="STARTTLS"), id="RFC 3207 4"),
        pytest.param(b"NOOP", Command(Verb.NOOP, name="NOOP"), id="RFC 5321 4.1.1.9"),
        pytest.param(b"NOOP  a b", Command(Verb.NOOP, " a b", name="NOOP"), id="RFC 5321 4.1.1.9 with an argument"),
        pytest.param(b"HELP MAIL", Command(Verb.HELP, "MAIL", name="HELP"), id="RFC 5321 4.1.1.8"),
        pytest.param(b"VRFY Jones", Command(Verb.VRFY, "Jones", name="VRFY"), id="RFC 5321 4.1.1.6"),
        pytest.param(b"EXPN a b", Command(Verb.EXPN, "a b", name="EXPN"), id="RFC 5321 4.1.1.7"),
        pytest.param(
            "VRFY ü smtputf8".encode(), Command(Verb.VRFY, "ü", name="VRFY"), id="RFC 6531 3.7.4.2 the keyword behind"
        ),
        pytest.param(
            "EXPN ü b SMTPUTF8".encode(), Command(Verb.EXPN, "ü b", name="EXPN"), id="RFC 6531 3.7.4.2 several words"
        ),
        pytest.param(b"VRFY SMTPUTF8", Command(Verb.VRFY, "SMTPUTF8", name="VRFY"), id="a user of that name"),
        pytest.param(b"AUTH PLAIN", Command(Verb.AUTH, "PLAIN", name="AUTH"), id="RFC 4954 4"),
        pytest.param(b"AUTH PLAIN AGEAYg==", Command(Verb.AUTH, "PLAIN AGEAYg==", name="AUTH"), id="initial response"),
        pytest.param(b"AUTH  PLAIN  =", Command(Verb.AUTH, " PLAIN  =", name="AUTH"), id="AUTH and spaces"),
        pytest.param(b"BDAT 0", Command(Verb.BDAT, "0", size=0, name="BDAT"), id="RFC 3030 2 an empty chunk"),
        pytest.param(b"BDAT 1234567", Command(Verb.BDAT, "1234567", size=1_234_567, name="BDAT"), id="not the last"),
        pytest.param(b"BDAT 99 last", Command(Verb.BDAT, "99 last", size=99, last=True, name="BDAT"), id="RFC 3030 2"),
        pytest.param(
            b"BDAT " + b"9" * 20, Command(Verb.BDAT, "9" * 20, size=10**20 - 1, name="BDAT"), id="a chunk of any size"
        ),
        pytest.param(
            b"XCLIENT NAME=a PORT=[UNAVAILABLE]",
            Command(Verb.XCLIENT, "NAME=a PORT=[UNAVAILABLE]", values={"NAME": "a", "PORT": None}, name="XCLIENT"),
            id="XCLIENT_README",
        ),
        pytest.param(
            b"XFORWARD IDENT=a",
            Command(Verb.XFORWARD, "IDENT=a", values={"IDENT": "a"}, name="XFORWARD"),
            id="XFORWARD_README",
        ),
        pytest.param(
            "xfoo ü =".encode(), Command(Verb.EXTENSION, "ü =", name="XFOO"), id="RFC 5321 2.2.2 another verb"
        ),
    ],
)
def test_command(line: bytes, command: Command) -> None:
    assert parse_command(line, FULL) == command


@pytest.mark.parametrize(
    ("line", "address", "args", "values"),
    [
        pytest.param(b"MAIL FROM:<a@x>", "a@x", {}, {}, id="RFC 5321 4.1.1.2"),
        pytest.param(b"mail from:<a@x>", "a@x", {}, {}, id="RFC 5321 2.4 any case"),
        pytest.param(b"MAIL FROM: <a@x>", "a@x", {}, {}, id="RFC 5321 3.3 a space after the colon"),
        pytest.param(b"MAIL FROM:<>", "", {}, {}, id="RFC 5321 4.5.5 the null sender"),
        pytest.param(b"MAIL FROM:<> SIZE=0", "", {"SIZE": "0"}, {"SIZE": 0}, id="the null sender and parameters"),
        pytest.param(b"MAIL FROM:<@y:a@x>", "a@x", {}, {}, id="RFC 5321 4.1.1.2 a source route"),
        pytest.param(
            b"MAIL FROM:<a@x> size=7 body=8bitmime",
            "a@x",
            {"SIZE": "7", "BODY": "8bitmime"},
            {"SIZE": 7, "BODY": "8BITMIME"},
            id="RFC 5321 4.1.1.11",
        ),
        pytest.param(
            "MAIL FROM:<ü@x> SMTPUTF8".encode(), "ü@x", {"SMTPUTF8": True}, {"SMTPUTF8": True}, id="RFC 6531 3.4"
        ),
    ],
)
def test_mail(line: bytes, address: str, args: dict[str, Any], values: dict[str, Any]) -> None:
    command = parse_command(line, FULL)
    assert command.address is not None
    assert (command.verb, command.name, command.address.address) == (Verb.MAIL, "MAIL", address)
    assert (dict(command.address.args), dict(command.values)) == (args, values)


@pytest.mark.parametrize(
    ("line", "address", "dsn"),
    [
        pytest.param(b"RCPT TO:<a@x>", "a@x", None, id="RFC 5321 4.1.1.3"),
        pytest.param(b"rcpt to: <a@x>", "a@x", None, id="any case, a space"),
        pytest.param(b"RCPT TO:<Postmaster>", "Postmaster", None, id="RFC 5321 4.1.1.3 the postmaster"),
        pytest.param(b"RCPT TO:<@y,@z:a@x>", "a@x", None, id="RFC 5321 4.1.1.3 a source route"),
        pytest.param("RCPT TO:<ü@x>".encode(), "ü@x", None, id="RFC 6531 3.3"),
        pytest.param(b"RCPT TO:<a@x> NOTIFY=NEVER", "a@x", DSNRecipient(("NEVER",)), id="RFC 3461 4.1"),
        pytest.param(b"RCPT TO:<a@x> ORCPT=rfc822;b@y", "a@x", DSNRecipient((), ("rfc822", "b@y")), id="RFC 3461 4.2"),
    ],
)
def test_rcpt(line: bytes, address: str, dsn: DSNRecipient | None) -> None:
    command = parse_command(line, FULL)
    assert command.address is not None
    assert (command.verb, command.address.address, command.address.dsn) == (Verb.RCPT, address, dsn)
    assert command.address.values == command.values


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (b"MAIL FROM:a@x", "a@x"),
        (b"MAIL FROM: a..b@x SIZE=1 FOO=2", "a..b@x"),
        (b"RCPT TO:a@x_y FOO", "a@x_y"),
        (b"RCPT TO:postmaster", "postmaster"),
    ],
)
def test_lenient(line: bytes, address: str) -> None:
    command = parse_command(line, LENIENT)
    assert command.address is not None
    assert command.address.address == address
    assert fault(line, FULL) is not None


# --- what is not ---


@pytest.mark.parametrize(
    ("line", "code", "enhanced"),
    [
        pytest.param(b"", 500, "5.5.2", id="RFC 5321 4.1.1 an empty line"),
        pytest.param(b" \t ", 500, "5.5.2", id="white space"),
        pytest.param(b" NOOP", 500, "5.5.2", id="a space in front"),
        pytest.param(b"FOO", 500, "5.5.1", id="RFC 5321 4.2.4 an unknown verb"),
        pytest.param(b"FOO bar", 500, "5.5.1", id="an unknown verb and an argument"),
        pytest.param(b"NOOPX", 500, "5.5.1", id="more than a verb"),
        pytest.param(b"NOO", 500, "5.5.1", id="less than one"),
        pytest.param(b"<GREETING>", 500, "5.5.1", id="what is no verb to the wire"),
        pytest.param(b"NOOP\0", 500, "5.5.2", id="NUL"),
        pytest.param(b"NOOP\0x", 500, "5.5.2", id="NUL inside"),
        pytest.param(b"NOOP \x1b[31m", 500, "5.5.2", id="an escape sequence"),
        pytest.param(b"NOOP a\tb", 500, "5.5.2", id="a tab inside"),
        pytest.param(b"NOOP\ta", 500, "5.5.2", id="a tab after the verb"),
        pytest.param(b"NOOP a\rb", 500, "5.5.2", id="RFC 5321 2.3.8 a bare CR"),
        pytest.param(b"NOOP a\r", 500, "5.5.2", id="a bare CR at the end"),
        pytest.param(b"NOOP a\nb", 500, "5.5.2", id="RFC 5321 2.3.8 a bare LF"),
        pytest.param(b"NOOP \x7f", 500, "5.5.2", id="DEL"),
        pytest.param(b"MAIL FROM:<\xc3\xbc\x01@x> SMTPUTF8", 500, "5.5.2", id="a control character beside UTF-8"),
        pytest.param(b"MAIL FROM:<\xc3\xbc\x7f@x> SMTPUTF8", 500, "5.5.2", id="DEL beside UTF-8"),
        pytest.param(b"NOOP \xff", 500, "5.5.2", id="RFC 6531 3.1 no UTF-8"),
        pytest.param(b"MAIL FROM:<\xc0\xaf@x> SMTPUTF8", 500, "5.5.2", id="RFC 3629 3 an overlong form"),
        pytest.param(b"MAIL FROM:<\xed\xa0\x80@x> SMTPUTF8", 500, "5.5.2", id="RFC 3629 3 a surrogate"),
        pytest.param("ÄUTH x".encode(), 500, "5.5.2", id="RFC 5321 2.4 a verb that is not ASCII"),
        pytest.param("MA\u0131L FROM:<a@x> SMTPUTF8".encode(), 500, "5.5.2", id="a dotless i in a verb"),
        pytest.param("R\u017fET".encode(), 500, "5.5.2", id="a long s in a verb"),
        pytest.param("NOOP ü".encode(), 500, "5.5.2", id="RFC 6531 3.1 where no address is"),
        pytest.param("EHLO bücher.example".encode(), 500, "5.5.2", id="RFC 6531 3.7.1 a greeting in A-labels"),
        pytest.param("AUTH PLAIN ü".encode(), 500, "5.5.2", id="AUTH is ASCII"),
        pytest.param(b"EHLO", 501, "5.5.4", id="RFC 5321 4.1.1.1 no name"),
        pytest.param(b"HELO  ", 501, "5.5.4", id="spaces"),
        pytest.param(b"LHLO a b", 501, "5.5.4", id="two names"),
        pytest.param(b"EHLO " + b"x" * 256, 501, "5.5.4", id="RFC 5321 4.5.3.1.2 too long a name"),
        pytest.param(b"DATA x", 501, "5.5.4", id="DATA and an argument"),
        pytest.param(b"RSET x", 501, "5.5.4", id="RSET and an argument"),
        pytest.param(b"QUIT now", 501, "5.5.4", id="QUIT and an argument"),
        pytest.param(b"STARTTLS x", 501, "5.5.4", id="RFC 3207 4 STARTTLS and an argument"),
        pytest.param(b"VRFY", 501, "5.5.4", id="VRFY alone"),
        pytest.param(b"EXPN", 501, "5.5.4", id="EXPN alone"),
        pytest.param(b"VRFY  SMTPUTF8", 501, "5.5.4", id="RFC 6531 3.7.4.2 the keyword alone"),
        pytest.param("VRFY ü".encode(), 553, "5.6.7", id="RFC 6531 3.7.4.2 without the keyword"),
        pytest.param("VRFY ü \u017fMTPUTF8".encode(), 553, "5.6.7", id="a long s in the keyword"),
        pytest.param(b"AUTH", 501, "5.5.4", id="RFC 4954 4 no mechanism"),
        pytest.param(b"AUTH PLAIN a b", 501, "5.5.4", id="RFC 4954 4 three words"),
        pytest.param(b"BDAT", 521, "5.5.4", id="RFC 3030 2 no count"),
        pytest.param(b"BDAT x", 521, "5.5.4", id="no number"),
        pytest.param(b"BDAT -1", 521, "5.5.4", id="a negative number"),
        pytest.param(b"BDAT +1", 521, "5.5.4", id="a sign"),
        pytest.param(b"BDAT 1_0", 521, "5.5.4", id="Python's underscores"),
        pytest.param(b"BDAT 1 FIRST", 521, "5.5.4", id="another word"),
        pytest.param(b"BDAT 1 LAST x", 521, "5.5.4", id="a word too many"),
        pytest.param(b"BDAT 1LAST", 521, "5.5.4", id="no space"),
        pytest.param(b"BDAT " + b"1" * 21, 521, "5.5.4", id="twenty-one digits"),
        pytest.param(b"XCLIENT", 501, "5.5.4", id="XCLIENT alone"),
        pytest.param(b"XFORWARD LOGIN=x", 501, "5.5.4", id="XFORWARD and an attribute of XCLIENT"),
        pytest.param(b"MAIL", 501, "5.1.7", id="RFC 5321 4.1.1.2 MAIL alone"),
        pytest.param(b"MAIL <a@x>", 501, "5.1.7", id="no FROM:"),
        pytest.param(b"MAIL TO:<a@x>", 501, "5.1.7", id="TO:"),
        pytest.param(b"MAIL  FROM:<a@x>", 501, "5.1.7", id="two spaces"),
        pytest.param(b"MAIL FROM :<a@x>", 501, "5.1.7", id="a space before the colon"),
        pytest.param(b"MAIL FROM:", 501, "5.1.7", id="no path"),
        pytest.param(b"MAIL FROM:a@x", 501, "5.1.7", id="no brackets"),
        pytest.param(b"MAIL FROM:<a@x", 501, "5.1.7", id="half of the brackets"),
        pytest.param(b"MAIL FROM:<a>", 501, "5.1.7", id="RFC 5321 4.1.2 no mailbox"),
        pytest.param(b"MAIL FROM:<postmaster>", 501, "5.1.7", id="RFC 5321 4.1.1.3 the postmaster as sender"),
        pytest.param(b"MAIL FROM:< >", 501, "5.1.7", id="a space for a path"),
        pytest.param("MAIL FROM:<a\u202eb@x> SMTPUTF8".encode(), 501, "5.1.7", id="bidi in an address"),
        pytest.param("MAIL FROM:<a\x85b@x> SMTPUTF8".encode(), 501, "5.1.7", id="C1 in an address"),
        pytest.param(b"MAIL FROM:<a@x>SIZE=1", 501, "5.5.4", id="RFC 5321 4.1.1.2 no space before a parameter"),
        pytest.param(b"MAIL FROM:<a@x> SIZE=x", 501, "5.5.4", id="a bad value"),
        pytest.param(b"MAIL FROM:<a@x> SIZE=1 SIZE=1", 501, "5.5.4", id="a parameter twice"),
        pytest.param(b"MAIL FROM:<a@x> FOO", 555, "5.5.4", id="RFC 5321 4.1.1.11 an unknown parameter"),
        pytest.param(b"MAIL FROM:<a@x> NOTIFY=NEVER", 555, "5.5.4", id="RCPT's parameter"),
        pytest.param("MAIL FROM:<ü@x>".encode(), 553, "5.6.7", id="RFC 6531 3.5 no SMTPUTF8"),
        pytest.param("MAIL FROM:<@ü:a@x>".encode(), 553, "5.6.7", id="nor in a source route"),
        pytest.param(b"RCPT", 501, "5.1.3", id="RFC 5321 4.1.1.3 RCPT alone"),
        pytest.param(b"RCPT TO:<>", 501, "5.1.3", id="RFC 5321 4.1.1.3 the null path"),
        pytest.param(b"RCPT FROM:<a@x>", 501, "5.1.3", id="FROM:"),
        pytest.param(b"RCPT TO:<a>", 501, "5.1.3", id="no mailbox"),
        pytest.param(b"RCPT TO:<a@x> SIZE=1", 555, "5.5.4", id="MAIL's parameter"),
        pytest.param(b"RCPT TO:<a@x> NOTIFY=x", 501, "5.5.4", id="RFC 3461 4.1 a bad value"),
    ],
)
def test_fault(line: bytes, code: int, enhanced: str) -> None:
    error = fault(line, FULL)
    assert error is not None
    assert (error.code, error.enhanced) == (code, enhanced)
    assert error.counted is (code != 553)
    name = line.split(b" ")[0].decode(errors="replace").upper()
    assert error.verb is (None if code == 500 else VERBS[name])


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"BDAT 5\tLAST", id="a tab"),
        pytest.param(b"bdat 5\0", id="NUL"),
        pytest.param(b"BDAT\t5", id="a tab after the verb"),
        pytest.param(b"BDAT \xff", id="no UTF-8"),
        pytest.param("BDAT 5 ü".encode(), id="not ASCII"),
    ],
)
def test_a_bdat_that_cannot_be_read_closes(line: bytes) -> None:
    """RFC 3030 section 2: nobody knows where the octets that follow it end."""
    error = fault(line, FULL)
    assert error is not None
    assert (error.code, error.enhanced, error.close) == (521, "5.5.4", True)


@pytest.mark.parametrize("line", [b"BDATX\0", b"XBDAT 5\0", b"NOOP BDAT 5\0"])
def test_what_is_no_bdat_does_not(line: bytes) -> None:
    error = fault(line, FULL)
    assert error is not None
    assert (error.code, error.enhanced, error.close) == (500, "5.5.2", False)


def test_what_is_not_ascii_needs_smtputf8_in_parameters_too() -> None:
    error = fault("MAIL FROM:<a@x> FOO=ü".encode(), LENIENT)
    assert error is not None
    assert (error.code, error.enhanced, error.counted, error.verb) == (553, "5.6.7", False, Verb.MAIL)
    assert fault("MAIL FROM:<a@x> FOO=ü SMTPUTF8".encode(), LENIENT) is None


@pytest.mark.parametrize(
    ("line", "code", "enhanced"),
    [
        pytest.param(b"EXPN x", 502, "5.5.1", id="RFC 5321 4.2.4 switched off"),
        pytest.param(b"starttls", 502, "5.5.1", id="any case"),
        pytest.param(b"STARTTLS x", 502, "5.5.1", id="whatever its arguments"),
        pytest.param(b"LHLO x", 500, "5.5.1", id="not known here"),
        pytest.param(b"XFOO x", 500, "5.5.1", id="nobody's verb"),
        pytest.param(b"BDAT 5", 521, "5.5.1", id="chunking off"),
        pytest.param(b"BDAT x", 521, "5.5.1", id="chunking off, whatever its arguments"),
        pytest.param(b"MAIL FROM:<a@x> SIZE=1", 555, "5.5.4", id="no parameters at all"),
        pytest.param("MAIL FROM:<ü@x>".encode(), 553, "5.6.7", id="no SMTPUTF8"),
        pytest.param("MAIL FROM:<ü@x> SMTPUTF8".encode(), 555, "5.5.4", id="nor when it is asked for"),
        pytest.param("VRFY ü SMTPUTF8".encode(), 553, "5.6.7", id="nor for VRFY"),
    ],
)
def test_what_is_switched_off(line: bytes, code: int, enhanced: str) -> None:
    error = fault(line, BARE)
    assert error is not None
    assert (error.code, error.enhanced) == (code, enhanced)


def test_every_verb_is_parsed() -> None:
    """A verb that the machine knows and the parser does not would be a crash."""
    for name in VERBS:
        for argument in ("", " x", " <x>", " TO:<a@x>", " FROM:<a@x>", " 1"):
            line = f"{name}{argument}".encode()
            error = fault(line, FULL)
            assert error is None or error.verb is VERBS[name]


# --- anything at all ---

WORDS = [
    *VERBS,
    "FROM:",
    "TO:",
    "<",
    ">",
    "a@x",
    " ",
    " ",
    " ",
    "ü",
    "SIZE=1",
    "SMTPUTF8",
    "=",
    "\t",
    "\0",
    "NOTIFY=NEVER",
    "1",
]


@pytest.mark.parametrize(("line", "verb"), [(b"MAIL FROM:<a@b> X", Verb.MAIL), (b"RCPT TO:<a@b> X", Verb.RCPT)])
def test_a_parser_that_crashes(line: bytes, verb: Verb) -> None:
    crash = RuntimeError()

    def parse(value: str | bool) -> object:
        raise crash

    syntax = attrs.evolve(FULL, mail_parameters={"X": parse}, rcpt_parameters={"X": parse})
    with pytest.raises(ParserCrashed) as caught:
        parse_command(line, syntax)
    assert (caught.value.crash, caught.value.verb) == (crash, verb)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.tuples(st.sampled_from(sorted(VERBS)), st.text(max_size=20)).map(lambda pair: " ".join(pair).encode()),
        st.lists(st.sampled_from(WORDS), max_size=10).map(lambda words: "".join(words).encode()),
        st.text(max_size=16).map("MAIL FROM:<{}> SMTPUTF8".format).map(str.encode),
        st.text(max_size=16).map("RCPT TO:<a@{}>".format).map(str.encode),
    ),
    st.sampled_from([FULL, LENIENT, BARE]),
)
def test_any_octets_are_a_command_or_a_protocol_error(line: bytes, syntax: Syntax) -> None:
    error = fault(line, syntax)
    if error is not None:
        assert 500 <= error.code < 600
        assert error.enhanced is not None
        return
    command = parse_command(line, syntax)
    assert command.verb is syntax.verbs[command.name]
    assert (command.address is not None) == (command.verb in (Verb.MAIL, Verb.RCPT))
    assert not any(octet < 32 or octet == 127 for octet in command.argument.encode())


@settings(deadline=None)
@given(st.binary(max_size=20), st.integers(0, 20), st.sampled_from([*range(9), *range(10, 32), 127]))
def test_no_control_character_passes(line: bytes, place: int, octet: int) -> None:
    place = min(place, len(line))
    error = fault(b"NOOP " + line[:place] + bytes([octet]) + line[place:], FULL)
    assert error is not None
    assert (error.code, error.enhanced) == (500, "5.5.2")
