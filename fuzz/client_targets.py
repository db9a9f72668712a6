"""The targets of `fuzz.py` that are about the client: what a server says to it, and what it sends."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import trio
import trio.testing

from tests.hostile.support import run
from trio_smtp import Reply
from trio_smtp.client import Client, DeliveryError, DeliveryFailed, Mail, Password, SendResult, connect
from trio_smtp.client.body import BodyWriter, to_crlf
from trio_smtp.client.errors import BadReply
from trio_smtp.client.extensions import parse_extensions
from trio_smtp.client.replies import ReplyParser
from trio_smtp.client.sasl import make_exchange
from trio_smtp.client.sending import Commands, send_steps
from trio_smtp.protocol.framing import NEED_DATA, BodyChunk, Framer

__all__ = ["fuzz_answers", "fuzz_body", "fuzz_client", "fuzz_replies"]

RECIPIENTS = {"b@example.com": b"RCPT b\r\n", "c@example.com": b"RCPT c\r\n"}
MESSAGE = b"Subject: fuzz\r\n\r\nx\r\n"
OFFERS = b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME\r\n"
MECHANISMS = ("SCRAM-SHA-512-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN")


def _pieces(wire: bytes, size: int) -> Iterator[bytes]:
    return (wire[i : i + size] for i in range(0, len(wire), size))


def _parsed(wire: bytes, size: int) -> list[Reply | None]:
    """The replies in these octets; None at the end: they are none."""
    parser = ReplyParser(max_line=100, max_lines=5, max_octets=300)
    found: list[Reply | None] = []
    for piece in _pieces(wire, size):
        parser.feed(piece)
        try:
            while (reply := parser.next_reply()) is not None:
                found.append(reply)
        except BadReply:
            return [*found, None]
        assert parser.pending <= 300 + size
    return found


def fuzz_replies(data: bytes) -> None:
    """Replies do not depend on how their octets were cut, show nothing odd, and lead a message to an end that fits."""
    if not data:
        return
    wire = data[1:]
    replies = _parsed(wire, 1)
    # A bound is passed at another octet where more octets come at once; what came before is the same.
    for size in (2 + data[0] % 7, len(data)):
        others = _parsed(wire, size)
        assert others == replies or replies[-1] is None
    answers = [reply for reply in replies if reply is not None]
    for reply in answers:
        assert not any(
            unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in reply.text.replace("\n", "")
        ), reply
        for keyword in parse_extensions(reply):
            assert re.fullmatch(r"[A-Z0-9][A-Z0-9-]*", keyword)
    _check_steps(data[0], answers)


def _check_steps(choice: int, answers: list[Reply]) -> None:
    """Drive one message; a server that says nothing more says 421 without an end."""
    steps = send_steps(
        b"MAIL\r\n", RECIPIENTS, pipelining=bool(choice & 1), chunking=bool(choice & 2), lmtp=bool(choice & 4)
    )
    said, sent_body, step = iter(answers), False, next(steps)
    final: list[Reply] = []
    try:
        for _ in range(20):
            count = len(step.lines) if isinstance(step, Commands) else step.replies
            final = [next(said, Reply(421, "bye")) for _ in range(count)]
            sent_body = sent_body or not (isinstance(step, Commands) or step.empty)
            step = steps.send(final)
    except StopIteration as done:
        result: SendResult = done.value
        assert sent_body
        assert result.accepted
        assert {*result.accepted} | {*result.refused} == {*RECIPIENTS}
        assert all(200 <= reply.code < 300 and reply in final for reply in result.accepted.values())
        assert all(reply.code >= 400 for reply in result.refused.values())
    except DeliveryError as error:
        assert not isinstance(error, DeliveryFailed) or error.uncertain is (error.phase == "end")
    else:
        raise AssertionError("a message without an end")


def fuzz_body(data: bytes) -> None:
    """What is sent after DATA is one message for any server: lines end with CRLF, and only its end is an end mark."""
    if not data:
        return
    message, size = data[1:], 1 + data[0] % 9
    writer = BodyWriter()
    sent = b"".join(map(writer.feed, _pieces(message, size))) + writer.end()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", sent)
    assert sent == b".\r\n" or (b"\r\n" + sent).find(b"\r\n.\r\n") == len(sent) - 3
    framer = Framer(max_line=100, max_auth_line=100, max_data_line=None, normalize=False)
    framer.start_body()
    framer.feed(sent)
    read = b""
    while (event := framer.next_event()) is not NEED_DATA:
        read += event.data if isinstance(event, BodyChunk) else b""
    mended = to_crlf(message)
    assert read == (mended if not mended or mended.endswith(b"\r\n") else mended + b"\r\n")
    chunks = BodyWriter("keep", dots=False)
    assert b"".join(map(chunks.feed, _pieces(message, size))) + chunks.end() == message


def fuzz_answers(data: bytes) -> None:
    """A client's side of SASL answers any challenge, or says that it is wrong; no answer has the password as it is."""
    if not data:
        return
    name = MECHANISMS[data[0] % len(MECHANISMS)]
    given = Password("user", "the password", mechanisms=(name,))
    exchange = make_exchange(given, [name], plaintext=True, binding=b"digest", server=("mx", 25))
    assert exchange is not None
    for challenge in data[1:].split(b"\xff"):
        try:
            answer = exchange.respond(challenge)
        except ValueError:
            return
        assert name in ("PLAIN", "LOGIN") or b"the password" not in answer
        assert not (name.startswith("SCRAM") and exchange.complete)  # nobody guesses the server's proof


def fuzz_client(data: bytes) -> None:
    """A whole session: the client comes to an end, and what it says of a message is what it can know."""
    if len(data) < 2:
        return
    way, lmtp = data[0] % 4, bool(data[0] & 128)
    heard = b""
    results: list[SendResult | DeliveryError] = []

    async def serve(stream: trio.abc.Stream) -> None:
        nonlocal heard
        async with stream:
            await stream.send_all(b"220 mx\r\n")
            for fragment in [OFFERS, *data[1:].split(b"\xff")]:
                more = await stream.receive_some()
                heard += more
                if not more:
                    return
                await stream.send_all(fragment)

    async def talk(client: Client) -> None:
        mail = Mail("a@example.org", [*RECIPIENTS], MESSAGE)
        if way & 1:
            results.extend(await client.send_many([mail] * 3, chunking=bool(way & 2)))
            assert len(results) == 3
        else:
            results.append(await client.send(mail.sender, mail.recipients, MESSAGE, chunking=bool(way & 2)))

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()

        async def open_stream() -> trio.abc.Stream:
            return ours

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs)
            try:
                url = "lmtp://mx" if lmtp else "smtp://mx"
                async with connect(url, tls="none", open_stream=open_stream) as client:
                    await talk(client)
            except DeliveryError as error:
                results.append(error)
            except trio.BrokenResourceError:
                raise AssertionError("an error that is not of the client") from None
            nursery.cancel_scope.cancel()

    run(main)
    ends = heard.count(b" LAST\r\n" + MESSAGE if way & 2 else MESSAGE + b".\r\n")
    assert sum(isinstance(result, SendResult) for result in results) <= ends
    certain = [each for each in results if isinstance(each, DeliveryFailed) and not each.uncertain]
    assert len(certain) <= len(results) - ends
