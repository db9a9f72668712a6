"""The dialogue driven whole, without an event loop: one table of talks, each with its octets cut in four ways.

The replies were written by hand, from the RFCs and docs. After a talk that goes on a NOOP is answered, also when its
octets come with those before it; after a session's end it is not.
"""

from __future__ import annotations

import logging

import attrs
import pytest

from tests.sasl_support import b64, oauthbearer, plain, xoauth2

from .driver import TLS
from .talk_support import (
    CUTS,
    DRAIN,
    LEAVE,
    SSL_CONTEXT,
    TLS_BEGINS,
    Cut,
    Talk,
    bare_app,
    closed_app,
    cram_answer,
    driver_of,
    name_is,
    play,
    scram_final,
    scram_first,
    scram_last,
    strict_app,
    time_is,
    wait,
)

BANNER = "220 mx.example ESMTP"
HELLO = (BANNER, b"EHLO client.example\r\n", "250-mx.example", "250 ENHANCEDSTATUSCODES")
AGAIN = HELLO[1:]
SENDER_OK, RECIPIENT_OK, OK, BYE = "250 2.1.0 Sender OK", "250 2.1.5 Recipient OK", "250 2.0.0 OK", "221 2.0.0 Bye"
GO, TAKEN = "354 End data with <CR><LF>.<CR><LF>", "250 2.0.0 Message accepted"
FIVE, TOO_LARGE = "250 2.0.0 5 octets received", "552 5.3.4 Message exceeds the maximum size"
DRAINED, NOT_INSIDE = "421 4.3.2 Service shutting down", "503 5.5.1 Not inside a transaction"
CANCELLED, WRONG = "501 5.7.0 Authentication cancelled", "535 5.7.8 Authentication credentials invalid"
LOGGED_IN, CONTINUE = "235 2.7.0 Authentication successful", "334 "


def sender(local_part: str = "a") -> tuple[bytes, str]:
    return b"MAIL FROM:<%s@example.org>\r\n" % local_part.encode(), SENDER_OK


def recipient(local_part: str = "b") -> tuple[bytes, str]:
    return b"RCPT TO:<%s@example.com>\r\n" % local_part.encode(), RECIPIENT_OK


def ready(local_part: str = "a") -> tuple[bytes | str, ...]:
    """Everything up to the message of a sender."""
    return *HELLO, *sender(local_part), *recipient()


MESSAGE = (b"DATA\r\n", GO, b"Hello\r\n.\r\n", TAKEN)

VERBS = [
    Talk("nothing is said", (BANNER,), behind="250 OK"),
    Talk("nobody is greeted", ("554 Not today",), app=closed_app, reason="refused"),
    Talk("the client leaves at once", (BANNER, LEAVE), reason="lost"),
    Talk("HELO", (BANNER, b"HELO c\r\n", "250 mx.example", b"MAIL FROM:<>\r\n", "250 Sender OK"), behind="250 OK"),
    Talk("EHLO", HELLO),
    Talk(
        "EHLO shows what there is",
        (BANNER, b"EHLO c\r\n", "250-mx.example", "250-PIPELINING", "250-SIZE 33554432", "250-8BITMIME",
         "250-CHUNKING", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES", "250-LIMITS RCPTMAX=1000", "250 HELP"),
        config={"hide_extensions": ()}, app=bare_app,
    ),
    Talk("LHLO is not SMTP", (BANNER, b"LHLO c\r\n", "500 This is SMTP: send EHLO"), behind="250 OK"),
    Talk("MAIL needs a HELO", (BANNER, b"MAIL FROM:<>\r\n", "503 Send HELO or EHLO first"), behind="250 OK"),
    Talk("MAIL in a transaction", (*HELLO, *sender(), sender()[0], NOT_INSIDE)),
    Talk("EHLO ends a transaction", (*ready(), *AGAIN, *recipient()[:1], "503 5.5.1 Need MAIL before RCPT")),
    Talk(
        "a refused EHLO changes nothing", (*HELLO, *sender(), b"HELO refused.example\r\n", "550 Not you",
         name_is("client.example"), *recipient(), *MESSAGE), delivered=(b"Hello\r\n",),
    ),
    Talk("RSET ends a transaction", (*ready(), b"RSET\r\n", OK, b"DATA\r\n", "503 5.5.1 Need RCPT before DATA")),
    Talk(
        "a refused MAIL, pipelined", (*HELLO, *sender("refused")[:1], "550 5.7.1 No mail from you",
         *recipient()[:1], "503 5.5.1 Need MAIL before RCPT", b"DATA\r\n", "554 5.5.1 no valid recipients"),
    ),
    Talk(
        "refused recipients, pipelined", (*HELLO, *sender(), *recipient("unknown")[:1], "550 5.1.1 No such user",
         b"DATA\r\n", "554 5.5.1 no valid recipients"),
    ),
    Talk("MAIL closes", (*HELLO, *sender("bye")[:1], "421 4.7.0 Go away"), reason="refused"),
    Talk("MAIL's handler crashes", (*HELLO, *sender("crash")[:1], "451 4.3.0 Requested action aborted: ...")),
    Talk(
        "a declared size", (*HELLO, b"MAIL FROM:<> SIZE=41\r\n", "552 5.3.4 Message size exceeds the limit"),
        config={"max_message_size": 40},
    ),
    Talk(
        "too many recipients", (*ready(), *recipient()[:1], "452 4.5.3 Too many recipients", *MESSAGE),
        config={"max_recipients": 1}, delivered=(b"Hello\r\n",),
    ),
    Talk(
        "too many transactions", (*ready(), *MESSAGE, sender()[0], "421 4.7.0 Too many transactions ..."),
        config={"max_transactions": 1}, delivered=(b"Hello\r\n",), reason="refused",
    ),
    Talk("NOOP", (*HELLO, b"NOOP\r\n", OK, b"noop whatever\r\n", OK)),
    Talk("HELP", (*HELLO, b"HELP\r\n", "214-2.0.0 Commands:", "214 2.0.0 HELO EHLO MAIL RCPT DATA ...")),
    Talk(
        "VRFY and EXPN", (*HELLO, b"VRFY bob\r\n", "250 2.1.5 OK", b"VRFY eve\r\n", "550 5.7.1 Not known here",
         b"EXPN bob\r\n", "250 2.1.5 OK", b"VRFY\r\n", "501 5.5.4 VRFY needs an argument"),
    ),
    Talk(
        "VRFY and EXPN without handlers", (*HELLO, b"VRFY bob\r\n", "252 2.5.0 Cannot verify; try delivering",
         b"EXPN bob\r\n", "502 5.5.1 Command not implemented"), app=bare_app,
    ),
    Talk("an extension's verb", (*HELLO, b"XECHO twice\r\n", "250 2.0.0 You said twice")),
    Talk("QUIT", (*HELLO, b"QUIT\r\n", BYE), reason="quit"),
    Talk("QUIT at once", (BANNER, b"QUIT\r\n", "221 Bye"), reason="quit"),
    Talk("QUIT in a transaction", (*ready(), b"QUIT\r\n", BYE), reason="quit"),
    Talk("no such verb", (*HELLO, b"XYZZY\r\n", "500 5.5.1 Command not recognized")),
    Talk("a disabled verb", (*HELLO, b"VRFY b\r\n", "502 5.5.1 ..."), config={"disabled_commands": ["VRFY"]}),
    Talk("half a line", (*HELLO, b"NOO", LEAVE), reason="lost"),
]  # fmt: skip

DATA = [
    Talk("DATA", (*ready(), *MESSAGE), delivered=(b"Hello\r\n",)),
    Talk("DATA, empty", (*ready(), b"DATA\r\n", GO, b".\r\n", TAKEN), delivered=(b"",)),
    Talk(
        "DATA that looks like commands and end marks",
        (*ready(), b"DATA\r\n", GO, b"..\r\nQUIT\r\n. \r\n...\r\nRSET\r\n.\r\n", TAKEN),
        delivered=(b".\r\nQUIT\r\n \r\n..\r\nRSET\r\n",),
    ),
    Talk("two messages", (*ready(), *MESSAGE, *sender(), *recipient(), *MESSAGE), delivered=(b"Hello\r\n",) * 2),
    Talk("DATA needs recipients", (*HELLO, *sender(), b"DATA\r\n", "503 5.5.1 Need RCPT before DATA")),
    Talk("refused at its start", (*ready("nothing"), b"DATA\r\n", "554 5.0.0 Transaction refused")),
    Talk("no on_data", (*ready(), b"DATA\r\n", "554 5.3.5 This server takes no mail"), app=bare_app),
    Talk("refused at its end", (*ready(), b"DATA\r\n", GO, b"Spam\r\n.\r\n", "554 5.7.1 No spam")),
    Talk(
        "refused at its first octets, and read on", (*ready("early"), b"DATA\r\n", GO, b"NOOP\r\nQUIT\r\n.\r\n",
         "554 5.7.1 Not this", *sender(), *recipient(), *MESSAGE), delivered=(b"Hello\r\n",),
    ),
    Talk("never read", (*ready("unread"), b"DATA\r\n", GO, b"Hello\r\n.\r\n", "451 4.3.0 Message not taken")),
    Talk("the stream is closed", (*ready("closed"), b"DATA\r\n", GO, b"Hello\r\n.\r\n", "451 4.3.0 Message not taken")),
    Talk("closes", (*ready("end"), b"DATA\r\n", GO, b"Hello\r\n.\r\n", "421 4.7.0 Enough"), reason="refused"),
    Talk(
        "too large", (*ready(), b"DATA\r\n", GO, b"12345678\r\nQUIT\r\n.\r\n", TOO_LARGE),
        config={"max_message_size": 9},
    ),
    Talk(
        "malformed", (*ready(), b"DATA\r\n", GO, b"a\n.\nQUIT\r\n.\r\n", "550 5.6.0 Message refused: an LF without CR"),
        config={"bare_newline": "reject"},
    ),
    Talk("mended", (*ready(), b"DATA\r\n", GO, b"a\n.\nQUIT\r\n.\r\n", TAKEN), delivered=(b"a\r\n.\r\nQUIT\r\n",)),
    Talk("cut off", (*ready(), b"DATA\r\n", GO, b"Hello\r\n", LEAVE), reason="lost", incomplete=1),
]  # fmt: skip

BDAT = [
    Talk("BDAT LAST", (*ready(), b"BDAT 5 LAST\r\nHello", TAKEN), delivered=(b"Hello",)),
    Talk("BDAT 0 LAST", (*ready(), b"BDAT 0 LAST\r\n", TAKEN), delivered=(b"",)),
    Talk(
        "chunks", (*ready(), b"BDAT 5\r\nQUIT\n", FIVE, b"NOOP\r\n", OK, b"BDAT 5\r\n\r\n.\r\n", FIVE,
         b"VRFY bob\r\n", "250 2.1.5 OK", b"BDAT 0 LAST\r\n", TAKEN), delivered=(b"QUIT\n\r\n.\r\n",),
    ),
    Talk(
        "between chunks", (*ready(), b"BDAT 5\r\nHello", FIVE, sender()[0], NOT_INSIDE, recipient()[0], NOT_INSIDE,
         b"DATA\r\n", NOT_INSIDE, b"XYZZY\r\n", "500 5.5.1 Command not recognized", b"BDAT 1 LAST\r\n!", TAKEN),
        delivered=(b"Hello!",),
    ),
    Talk("out of order, and read", (*HELLO, b"BDAT 6\r\nQUIT\r\n", "503 5.5.1 Need RCPT before BDAT")),
    Talk("refused, last", (*ready("nothing"), b"BDAT 6 LAST\r\nQUIT\r\n", "554 5.0.0 Transaction refused", *sender())),
    Talk(
        "the first chunk is refused, so are the others",
        (*ready("nothing"), *(b"BDAT 6\r\nQUIT\r\n", "554 5.0.0 Transaction refused") * 2, b"NOOP\r\n", OK,
         b"BDAT 6 LAST\r\nQUIT\r\n", "554 5.0.0 Transaction refused", *sender()),
    ),
    Talk(
        "the first chunk is refused, and RSET",
        (*ready("nothing"), b"BDAT 5\r\nHello", "554 5.0.0 Transaction refused", b"RSET\r\n", OK, *sender()),
    ),
    Talk("no on_data", (*ready(), b"BDAT 5\r\nHello", "554 5.3.5 This server takes no mail"), app=bare_app),
    Talk(
        "refused in the middle", (*ready("early"), b"BDAT 5\r\nHello", "554 5.7.1 Not this", b"BDAT 6\r\nQUIT\r\n",
         "554 5.7.1 Not this", b"BDAT 1 LAST\r\n!", "554 5.7.1 Not this", *sender()),
    ),
    Talk("refused at the last", (*ready(), b"BDAT 4\r\nSpam", "250 ...", b"BDAT 0 LAST\r\n", "554 5.7.1 No spam")),
    Talk(
        "refused in the middle, and EHLO",
        (*ready("early"), b"BDAT 5\r\nHello", "554 5.7.1 Not this", *AGAIN, *sender(), *recipient(), *MESSAGE),
        delivered=(b"Hello\r\n",),
    ),
    Talk("never read", (*ready("unread"), b"BDAT 5\r\nHello", "451 4.3.0 Message not taken", b"RSET\r\n", OK)),
    Talk("closes in the middle", (*ready("end"), b"BDAT 5\r\nHello", "421 4.7.0 Enough"), reason="refused"),
    Talk(
        "too large in the middle",
        (*ready(), b"BDAT 5\r\nHello", FIVE, b"BDAT 5\r\nHello", TOO_LARGE, b"BDAT 5 LAST\r\nHello", TOO_LARGE,
         *sender()),
        config={"max_message_size": 9},
    ),
    Talk(
        "too large at the last", (*ready(), b"BDAT 5\r\nHello", FIVE, b"BDAT 5 LAST\r\nHello", TOO_LARGE, *sender()),
        config={"max_message_size": 9},
    ),
    Talk("given up by RSET", (*ready(), b"BDAT 5\r\nHello", FIVE, b"RSET\r\n", OK, *sender()), incomplete=1),
    Talk("given up by EHLO", (*ready(), b"BDAT 5\r\nHello", FIVE, *AGAIN, *sender()), incomplete=1),
    Talk("given up by QUIT", (*ready(), b"BDAT 5\r\nHello", FIVE, b"QUIT\r\n", BYE), reason="quit", incomplete=1),
    Talk("given up by leaving", (*ready(), b"BDAT 5\r\nHello", FIVE, LEAVE), reason="lost", incomplete=1),
    Talk("half a first chunk", (*ready(), b"BDAT 5\r\nHel", LEAVE), reason="lost", incomplete=1),
    Talk("half a last chunk", (*ready(), b"BDAT 5 LAST\r\nHel", LEAVE), reason="lost", incomplete=1),
    Talk(
        "given up, and another", (*ready(), b"BDAT 5\r\nHello", FIVE, b"RSET\r\n", OK, *sender(), *recipient(),
         b"BDAT 5\r\nWorld", FIVE, b"BDAT 1 LAST\r\n!", TAKEN), delivered=(b"World!",), incomplete=1,
    ),
    Talk("its size is unknown", (*ready(), b"BDAT many\r\n", "521 5.5.4 Syntax: BDAT ..."), reason="refused"),
    Talk("it is unreadable", (*ready(), b"BDAT \0\r\n", "521 5.5.4 Syntax: BDAT octets [LAST]"), reason="abuse"),
    Talk(
        "its size is unknown, in the middle",
        (*ready(), b"BDAT 5\r\nHello", FIVE, b"BDAT many\r\n", "521 5.5.4 Syntax: BDAT octets [LAST]"),
        reason="refused", incomplete=1,
    ),
    Talk("not offered", (*ready(), b"BDAT 5\r\n", "521 5.5.1 ..."), config={"chunking": False}, reason="refused"),
    Talk(
        "BINARYMIME needs it", (*HELLO, b"MAIL FROM:<> BODY=BINARYMIME\r\n", SENDER_OK, *recipient(),
         b"DATA\r\n", "503 5.5.1 BINARYMIME needs BDAT", b"BDAT 3 LAST\r\n\0\n\r", TAKEN),
        config={"binarymime": True}, delivered=(b"\0\n\r",),
    ),
]  # fmt: skip

LMTP = [
    Talk("LHLO", (BANNER, b"EHLO c\r\n", "500 This is LMTP: send LHLO", b"LHLO c\r\n", *HELLO[2:])),
    Talk("all refused", (*HELLO, *sender(), *recipient("unknown")[:1], "550 ...", b"DATA\r\n", "503 ...")),
    Talk(
        "DATA has a reply for each", (*ready(), *recipient("full"), *recipient("c"), *MESSAGE,
         "452 4.2.2 Mailbox full", TAKEN, *sender()), delivered=(b"Hello\r\n",),
    ),
    Talk(
        "BDAT has them at the last", (*ready(), *recipient("full"), b"BDAT 5\r\nHello", FIVE, b"BDAT 0 LAST\r\n", TAKEN,
         "452 4.2.2 Mailbox full", *sender()), delivered=(b"Hello",),
    ),
    Talk(
        "a refusal is for all", (*ready("early"), *recipient("c"), b"BDAT 5\r\nHello", "554 5.7.1 Not this",
         b"BDAT 0 LAST\r\n", *("554 5.7.1 Not this",) * 2, *sender()),
    ),
    Talk(
        "closes for all", (*ready("end"), *recipient("c"), b"DATA\r\n", GO, b"a\r\n.\r\n", *("421 ...",) * 2),
        reason="refused",
    ),
]  # fmt: skip
LMTP = [attrs.evolve(talk, title=f"LMTP: {talk.title}", config={"lmtp": True}, items=tuple(
    b"LHLO client.example\r\n" if item == AGAIN[0] else item for item in talk.items)) for talk in LMTP]  # fmt: skip

MECHANISMS = ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "EXTERNAL", "SCRAM-SHA-256"]
CERTIFIED = attrs.evolve(TLS, peer_certificate=b"certificate")
STARTTLS = (b"STARTTLS\r\n", "220 2.0.0 Ready to start TLS", TLS_BEGINS)
ALICE, EVE = plain("alice", "secret").encode(), plain("eve", "secret").encode()
WHY = "334 " + b64('{"status": "401", "schemes": "bearer"}')

AUTH = [
    Talk("PLAIN", (*HELLO, b"AUTH PLAIN %s\r\n" % ALICE, LOGGED_IN, b"AUTH PLAIN\r\n", "503 5.5.1 Already ...")),
    Talk("PLAIN, asked", (*HELLO, b"auth plain\r\n", CONTINUE, b"%s\r\n" % ALICE, LOGGED_IN)),
    Talk("PLAIN, wrong", (*HELLO, b"AUTH PLAIN %s\r\n" % EVE, WRONG, b"AUTH PLAIN %s\r\n" % ALICE, LOGGED_IN)),
    Talk("PLAIN, malformed", (*HELLO, b"AUTH PLAIN YQ==\r\n", "501 5.5.2 Malformed PLAIN response")),
    Talk("PLAIN, not base64", (*HELLO, b"AUTH PLAIN\r\n", CONTINUE, b"!\r\n", "501 5.5.2 Not valid base64")),
    Talk("PLAIN, empty", (*HELLO, b"AUTH PLAIN =\r\n", "501 5.5.2 Malformed PLAIN response")),
    Talk("PLAIN, cancelled", (*HELLO, b"AUTH PLAIN\r\n", CONTINUE, b"*\r\n", CANCELLED)),
    Talk(
        "lines are commands again", (*HELLO, b"AUTH PLAIN\r\n", CONTINUE, b"*\r\n", CANCELLED,
         b"NOOP " + b"x" * 3000 + b"\r\n", "500 5.5.2 Line too long", b"NOOP\nQUIT\r\n", "500 5.5.2 A line ends ..."),
        reason="abuse", config={"bare_newline": "reject"},
    ),
    Talk(
        "a bare LF, refused", (*HELLO, b"AUTH PLAIN\r\n", CONTINUE, b"AGEAYg==\n", "500 5.5.2 A line ends ..."),
        reason="abuse", config={"bare_newline": "reject"},
    ),
    Talk("PLAIN, and gone", (*HELLO, b"AUTH PLAIN\r\n", CONTINUE, b"QUIT", LEAVE), reason="lost"),
    Talk(
        "LOGIN", (*HELLO, b"AUTH LOGIN\r\n", f"334 {b64('Username:')}", b64("alice").encode() + b"\r\n",
         f"334 {b64('Password:')}", b64("secret").encode() + b"\r\n", LOGGED_IN),
    ),
    Talk(
        "LOGIN, cancelled", (*HELLO, b"AUTH LOGIN %s\r\n" % b64("alice").encode(), f"334 {b64('Password:')}",
         b"*\r\n", CANCELLED, *sender()),
    ),
    Talk("CRAM-MD5", (*HELLO, b"AUTH CRAM-MD5\r\n", "334 ...", cram_answer("alice", "secret"), LOGGED_IN)),
    Talk("CRAM-MD5, wrong", (*HELLO, b"AUTH CRAM-MD5\r\n", "334 ...", cram_answer("alice", "wrong"), WRONG)),
    Talk("CRAM-MD5 begins", (*HELLO, b"AUTH CRAM-MD5 YQ==\r\n", "501 5.5.2 CRAM-MD5 takes no initial response")),
    Talk("XOAUTH2", (*HELLO, b"AUTH XOAUTH2 %s\r\n" % xoauth2("alice", "secret").encode(), LOGGED_IN)),
    Talk("XOAUTH2, why not", (*HELLO, b"AUTH XOAUTH2 %s\r\n" % xoauth2("alice", "old").encode(), WHY, b"\r\n", WRONG)),
    Talk("OAUTHBEARER", (*HELLO, b"AUTH OAUTHBEARER %s\r\n" % oauthbearer("alice", "secret").encode(), LOGGED_IN)),
    Talk(
        "OAUTHBEARER, why not",
        (*HELLO, b"AUTH OAUTHBEARER %s\r\n" % oauthbearer("alice", "old").encode(), WHY, b"AQ==\r\n", WRONG),
    ),
    Talk("EXTERNAL needs a certificate", (*HELLO, b"AUTH EXTERNAL =\r\n", "504 5.5.4 Unrecognized ...")),
    Talk(
        "EXTERNAL", (*HELLO, *STARTTLS, *AGAIN, b"AUTH EXTERNAL =\r\n", LOGGED_IN),
        config={"ssl_context": SSL_CONTEXT}, tls=CERTIFIED,
    ),
    Talk("SCRAM", (*HELLO, scram_first("alice"), "334 ...", scram_final, "334 ...", scram_last, LOGGED_IN)),
    Talk("SCRAM, wrong", (*HELLO, scram_first("alice", "wrong"), "334 ...", scram_final, WRONG)),
    Talk("SCRAM, nobody", (*HELLO, scram_first("eve"), "334 ...", scram_final, WRONG)),
    Talk("SCRAM, cancelled", (*HELLO, scram_first("alice"), "334 ...", b"*\r\n", CANCELLED, *sender())),
    Talk("SCRAM, the look-up refuses", (*HELLO, scram_first("later"), "454 4.7.0 The users cannot be looked up")),
    Talk("SCRAM, the look-up crashes", (*HELLO, scram_first("crash"), "454 4.7.0 Requested action aborted: ...")),
    Talk("a temporary failure", (*HELLO, b"AUTH PLAIN %s\r\n" % plain("later", "x").encode(), "454 4.7.0 Not now")),
    Talk("no such mechanism", (*HELLO, b"AUTH NTLM\r\n", "504 5.5.4 Unrecognized authentication mechanism")),
    Talk("in a transaction", (*ready(), b"AUTH PLAIN\r\n", NOT_INSIDE)),
    Talk("after HELO", (BANNER, b"HELO c\r\n", "250 ...", b"AUTH PLAIN %s\r\n" % ALICE, "235 ..."), behind="250 OK"),
    Talk("before EHLO", (BANNER, b"AUTH PLAIN\r\n", "503 Send EHLO first"), behind="250 OK"),
    Talk("nobody can say", (*HELLO, b"AUTH PLAIN\r\n", "502 5.5.1 Command not implemented"), app=bare_app),
    Talk(
        "before TLS", (*HELLO, b"AUTH PLAIN\r\n", "538 5.7.11 Encryption required for authentication"),
        config={"allow_insecure_auth": False, "ssl_context": SSL_CONTEXT},
    ),
    Talk(
        "too many failures", (*HELLO, b"AUTH PLAIN %s\r\n" % EVE, WRONG, time_is(1), b"AUTH PLAIN %s\r\n" % EVE,
         "421 4.7.0 Too many failed authentications", time_is(3)),
        config={"max_auth_failures": 2, "auth_failure_delay": 1}, reason="abuse",
    ),
    Talk(
        "required", (*HELLO, sender()[0], "530 5.7.0 Authentication required", b"BDAT 6\r\nQUIT\r\n",
         "530 5.7.0 Authentication required", b"AUTH PLAIN %s\r\n" % ALICE, LOGGED_IN, *sender()),
        config={"auth_required": True},
    ),
    Talk(
        "required, and nothing else comes", (*HELLO, b"NOOP\r\n", OK, b"NOOP\r\n", "421 4.7.0 Too many commands ..."),
        config={"auth_required": True, "max_unauthenticated_commands": 2}, reason="abuse",
    ),
]  # fmt: skip
AUTH = [attrs.evolve(talk, title=f"AUTH: {talk.title}", config={"allow_insecure_auth": True,
    "auth_mechanisms": MECHANISMS} | dict(talk.config)) for talk in AUTH]  # fmt: skip

TLS_TALKS = [
    Talk("STARTTLS", (*HELLO, *STARTTLS, *AGAIN, b"STARTTLS\r\n", "503 5.5.1 TLS is active already")),
    Talk(
        "what was said before is forgotten",
        (*HELLO, b"AUTH PLAIN %s\r\n" % ALICE, LOGGED_IN, *STARTTLS, sender()[0], "503 Send HELO or EHLO first",
         *AGAIN, b"AUTH PLAIN %s\r\n" % ALICE, LOGGED_IN, *sender()), config={"allow_insecure_auth": True},
    ),
    Talk("in a transaction", (*HELLO, *sender(), b"STARTTLS\r\n", NOT_INSIDE)),
    Talk("an argument", (*HELLO, b"STARTTLS now\r\n", "501 5.5.4 STARTTLS takes no argument")),
    Talk("at once", (*HELLO, b"STARTTLS\r\n", "503 5.5.1 TLS is active already"), config={"implicit_tls": True}),
    Talk(
        "at once, and on_secure refuses", ("550 Not this cipher",),
        config={"implicit_tls": True}, app=strict_app, reason="refused",
    ),
    Talk("the handshake fails", (*HELLO, *STARTTLS[:2]), tls=None, reason="tls"),
    Talk(
        "on_secure refuses", (*HELLO, *STARTTLS, b"EHLO c\r\n", "550 Not this cipher"),
        app=strict_app, reason="refused",
    ),
    Talk(
        "on_secure refuses, after a line that is too long",
        (*HELLO, *STARTTLS, b"x" * 3000 + b"\r\n", "500 Line too long", b"EHLO c\r\n", "550 Not this cipher"),
        app=strict_app, reason="refused",
    ),
    Talk(
        "required",
        (*HELLO, sender()[0], "530 5.7.0 Must issue a STARTTLS command first", *STARTTLS, *AGAIN, *sender()),
        config={"starttls_required": True},
    ),
    Talk("not offered", (*HELLO, b"STARTTLS\r\n", "502 5.5.1 Command not implemented"), config={"ssl_context": None}),
]  # fmt: skip
TLS_TALKS = [attrs.evolve(talk, title=f"TLS: {talk.title}", config={"ssl_context": SSL_CONTEXT} | dict(talk.config))
    for talk in TLS_TALKS]  # fmt: skip

FRONT_ENDS = [
    Talk("unknown", (*HELLO, b"XCLIENT NAME=x\r\n", "500 5.5.1 Command not recognized"), config={"xclient": ()}),
    Talk("not trusted", (*HELLO, b"XCLIENT NAME=x\r\n", "550 5.7.0 Insufficient authorization"), peer="192.0.2.2"),
    Talk(
        "XCLIENT begins anew", (*HELLO, b"XCLIENT ADDR=198.51.100.1 NAME=c\r\n", BANNER, sender()[0],
         "503 Send HELO or EHLO first", *AGAIN, b"XCLIENT NAME=x\r\n", "550 5.7.0 Insufficient authorization"),
    ),
    Talk("XCLIENT in a transaction", (*ready(), b"XCLIENT NAME=x\r\n", NOT_INSIDE)),
    Talk("LOGIN", (*HELLO, b"XCLIENT LOGIN=alice\r\n", BANNER, *AGAIN, b"AUTH PLAIN\r\n", "503 5.5.1 Already ...")),
    Talk(
        "LOGIN, refused", (*HELLO, b"XCLIENT LOGIN=eve\r\n", "535 Authentication credentials invalid"),
        reason="refused",
    ),
    Talk("malformed", (*HELLO, b"XCLIENT ADDR=x\r\n", "501 5.5.4 ...", b"XFORWARD\r\n", "501 5.5.4 ...")),
    Talk("XFORWARD", (*HELLO, b"XFORWARD NAME=x ADDR=198.51.100.1\r\n", OK, *sender())),
]  # fmt: skip
FRONT_ENDS = [attrs.evolve(talk, title=f"front end: {talk.title}", peer=talk.peer or "192.0.2.1", config={
    "xclient": ["192.0.2.1"], "xforward": ["192.0.2.1"], "allow_insecure_auth": True} | dict(talk.config))
    for talk in FRONT_ENDS]  # fmt: skip

ENDINGS = [
    Talk("drain: greeted", (BANNER, DRAIN, "421 Service shutting down"), reason="drained"),
    Talk("drain: half a line", (*HELLO, b"NOO", DRAIN, DRAINED), reason="drained"),
    Talk(
        "drain: in AUTH", (*HELLO, b"AUTH PLAIN\r\n", CONTINUE, DRAIN, DRAINED),
        reason="drained", config={"allow_insecure_auth": True},
    ),
    Talk(
        "drain: after MAIL", (*HELLO, *sender(), DRAIN, *recipient(), *MESSAGE, DRAINED),
        reason="drained", delivered=(b"Hello\r\n",),
    ),
    Talk("drain: after RCPT", (*ready(), DRAIN, *MESSAGE, DRAINED), reason="drained", delivered=(b"Hello\r\n",)),
    Talk(
        "drain: in DATA", (*ready(), b"DATA\r\n", GO, b"Hel", DRAIN, b"lo\r\n.\r\n", TAKEN, DRAINED),
        reason="drained", delivered=(b"Hello\r\n",),
    ),
    Talk(
        "drain: in a chunk", (*ready(), b"BDAT 5\r\nHel", DRAIN, b"lo", FIVE, b"BDAT 0 LAST\r\n", TAKEN, DRAINED),
        reason="drained", delivered=(b"Hello",),
    ),
    Talk(
        "drain: between chunks", (*ready(), b"BDAT 5\r\nHello", FIVE, DRAIN, b"BDAT 0 LAST\r\n", TAKEN, DRAINED),
        reason="drained", delivered=(b"Hello",),
    ),
    Talk(
        "drain: given up", (*ready(), b"BDAT 5\r\nHello", FIVE, DRAIN, b"RSET\r\n", OK, DRAINED),
        reason="drained", incomplete=1,
    ),
    Talk(
        "drain: a refused chunk",
        (*ready("early"), b"BDAT 1\r\na", "554 ...", DRAIN, b"BDAT 0 LAST\r\n", "554 ...", DRAINED),
        reason="drained",
    ),
    Talk("drain: QUIT", (*ready(), DRAIN, b"QUIT\r\n", BYE), reason="quit"),
    Talk(
        "drain: after TLS", (*HELLO, *STARTTLS, DRAIN, "421 Service shutting down"),
        reason="drained", config={"ssl_context": SSL_CONTEXT},
    ),
    Talk(
        "errors", (*HELLO, b"X\r\n", "500 ...", b"RCPT\r\n", "501 ...", b"DATA\r\n", "421 4.7.0 Too many errors"),
        config={"max_errors": 3}, reason="abuse",
    ),
    Talk(
        "errors before a message count no more", (*HELLO, b"X\r\n", "500 ...", *sender(), *recipient(), *MESSAGE,
         b"X\r\n", "500 ...", b"X\r\n", "421 4.7.0 Too many errors"), config={"max_errors": 2}, reason="abuse",
        delivered=(b"Hello\r\n",),
    ),
    Talk(
        "errors in SASL",
        (*HELLO, b"AUTH PLAIN *\r\n", "501 ...", b"AUTH PLAIN\r\n", CONTINUE, b"*\r\n", "421 4.7.0 Too many errors",
    ),
        config={"max_errors": 2, "allow_insecure_auth": True}, reason="abuse"),
    Talk(
        "errors take time",
        (*HELLO, b"X\r\n", "500 ...", b"X\r\n", "500 ...", time_is(0), b"X\r\n", "500 ...", time_is(5)),
        config={"error_delay": 5},
    ),
    Talk(
        "patience", (*HELLO, wait(119), b"NOOP\r\n", OK, wait(2), b"NOOP\r\n", OK, "421 4.4.2 No message for too long"),
        config={"command_timeout": 10}, reason="timeout", behind=None,
    ),
    Talk(
        "patience: a message renews it",
        (*HELLO, wait(119), *sender(), *recipient(), *MESSAGE, wait(119), b"NOOP\r\n", OK),
        config={"command_timeout": 10}, delivered=(b"Hello\r\n",),
    ),
    Talk(
        "patience: slow chunks", (*ready(), b"BDAT 5\r\nHello", FIVE, wait(121), b"NOOP\r\n", OK,
         "421 4.4.2 No message for too long"),
        config={"command_timeout": 10}, reason="timeout", behind=None, incomplete=1,
    ),
    Talk(
        "patience: chunks that come",
        (*ready(), b"BDAT 12100\r\n" + b"x" * 12100, "250 ...", wait(121), b"NOOP\r\n", OK,
         b"BDAT 0 LAST\r\n", TAKEN), config={"command_timeout": 10}, delivered=(b"x" * 12100,),
    ),
    Talk("a TLS ClientHello", (BANNER, b"\x16\x03\x01\r\n"), reason="abuse"),
    Talk("a TLS ClientHello, later", (BANNER, b"NOOP\r\n", "250 OK", b"\x16\r\n", "500 Control ..."), behind="250 OK"),
    Talk("HTTP", (BANNER, b"GET / HTTP/1.1\r\n", "421 This is a mail server"), reason="abuse"),
    Talk("HTTP, later", (BANNER, b"NOOP\r\n", "250 OK", b"GET / HTTP/1.1\r\n", "500 Command ..."), behind="250 OK"),
    Talk(
        "eight bits", (BANNER, b"\xff\xfe\r\n", "500 Invalid UTF-8", b"H\xc3\x89LO\r\n", "500 Syntax error"),
        behind="250 OK",
    ),
    Talk("a long line", (*HELLO, b"NOOP " + b"x" * 2048 + b"\r\n", "500 5.5.2 Line too long")),
    Talk("a bare LF", (*HELLO, b"NOOP\nQUIT\n", OK, "221 2.0.0 Bye"), reason="quit"),
    Talk(
        "a bare LF, refused", (*HELLO, b"NOOP\nQUIT\r\n", "500 5.5.2 A line ends with CRLF, never with LF alone"),
        reason="abuse", config={"bare_newline": "reject"},
    ),
    Talk(
        "a bare LF after BDAT, refused", (*ready(), b"BDAT 5\n", "500 5.5.2 A line ends ..."),
        reason="abuse", config={"bare_newline": "reject"},
    ),
    Talk("a line without an end", (*HELLO, b"x" * 70_000, "500 5.5.2 Line without an end"), reason="abuse"),
]  # fmt: skip

#: All of them.
TALKS = [
    *VERBS,
    *(attrs.evolve(talk, title=f"DATA: {talk.title}") for talk in DATA),
    *(attrs.evolve(talk, title=f"BDAT: {talk.title}") for talk in BDAT),
    *LMTP,
    *AUTH,
    *TLS_TALKS,
    *FRONT_ENDS,
    *ENDINGS,
]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("talk", TALKS, ids=[talk.title for talk in TALKS])
def test_talk(talk: Talk, cut: Cut, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio_smtp")
    driver = driver_of(talk)
    play(talk, driver, cut)
    assert driver.reason == talk.reason
    if driver.reason is None:
        assert driver.leave() == b""
    assert driver.session.data["taken"] == list(talk.delivered)
    assert driver.dialogue.service.stats.messages_incomplete == talk.incomplete
    assert driver.session.authenticated or driver.session.auth_mechanism is None
