"""Coverage-guided fuzzing of everything that reads octets of strangers.

    python fuzz/fuzz.py TARGET [libFuzzer's options] [corpus directories]

Needs atheris and the extra `test`. The targets are the functions named `fuzz_...` here and in `client_targets.py`; each
states what must hold, whatever the input is. An input is a first octet (or two) that chooses, and the octets of the
stranger. `fuzz/run.sh` runs all of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["trio_smtp"]):
    from client_targets import fuzz_answers, fuzz_body, fuzz_client, fuzz_replies

    from tests.dialogue.driver import converse_with
    from tests.fuzz_configs import FUZZ_CONFIGS
    from tests.hostile.support import Mailbox, exchange, replies_in, run, watched_log
    from trio_smtp import AuthContext, Config, SMTPServer
    from trio_smtp.app.application import Phase
    from trio_smtp.app.session import Session
    from trio_smtp.dialogue.capabilities import Capabilities
    from trio_smtp.dialogue.service import Service
    from trio_smtp.protocol import commands, framing, proxy, sasl
    from trio_smtp.protocol.addresses import parse_path, split_path
    from trio_smtp.protocol.credentials import ScramSecret
    from trio_smtp.protocol.errors import ProtocolError, SMTPError
    from trio_smtp.protocol.parameters import parse_parameters

__all__ = ["fuzz_answers", "fuzz_body", "fuzz_client", "fuzz_replies"]

SECRET = {
    f"SCRAM-SHA-{bits}": ScramSecret.from_password("password", f"SCRAM-SHA-{bits}", iterations=4096, salt=b"s" * 16)
    for bits in (1, 256, 512)
}
CONFIGS = list(FUZZ_CONFIGS.values())
SYNTAXES = [
    Capabilities(config, {Phase.AUTH}).syntax(Session(secure=True, remote_address="192.0.2.1")) for config in CONFIGS
]


def _cuts(wire: bytes, size: int) -> Iterator[bytes]:
    return (wire[i : i + size] for i in range(0, len(wire), size))


def _framed(wire: bytes, size: int, *, normalize: bool) -> list[object]:
    """The events of a dialogue whose modes follow its lines, those of a body put together."""
    framer = framing.Framer(max_line=60, max_auth_line=90, max_data_line=70 if normalize else None, normalize=normalize)
    found: list[object] = []
    body = b""
    malformed = False
    for segment in _cuts(wire, size):
        framer.feed(segment)
        while True:
            try:
                event = framer.next_event()
            except ProtocolError as exc:
                found.append(exc.code)
                if exc.close:
                    return found
                continue
            if event is framing.NEED_DATA:
                # What cannot be handed on yet: half of an end mark, or less than a line.
                assert framer.pending <= 91, framer.pending
                break
            if isinstance(event, framing.Line):
                found.append(event.data)
                # In a SASL exchange only CRLF ends a line, and only its length is looked at.
                assert framer.sasl or b"\n" not in event.data
                framer.sasl = event.data[:4] == b"AUTH"
                if event.data == b"DATA":
                    framer.start_body()
                elif event.data[:5] == b"BDAT " and event.data[5:].isdigit():
                    framer.start_chunk(int(event.data[5:]))
            elif isinstance(event, framing.BodyChunk):
                assert not malformed
                assert 1 <= len(event.data) <= framing.MAX_CHUNK
                body += event.data
            elif isinstance(event, framing.MalformedBody):
                assert not malformed
                malformed = True
            else:
                found.append((None if malformed else body, malformed))
                body, malformed = b"", False
    return found


def fuzz_framing(data: bytes) -> None:
    """The events do not depend on how the octets were cut."""
    if data:
        normalize = bool(data[0] & 1)
        whole = _framed(data[1:], max(1, len(data)), normalize=normalize)
        assert whole == _framed(data[1:], 1, normalize=normalize)
        assert whole == _framed(data[1:], 1 + (data[0] >> 1) % 7, normalize=normalize)


def fuzz_commands(data: bytes) -> None:
    """One line is one command, or a ProtocolError with a well-formed reply."""
    if not data:
        return
    syntax = SYNTAXES[data[0] % len(SYNTAXES)]
    try:
        command = commands.parse_command(data[1:], syntax)
    except ProtocolError as exc:
        (reply,) = replies_in(exc.reply.encode(enhanced=True))
        assert 500 <= reply.code <= 555
    else:
        assert command.verb is syntax.verbs[command.name]
        if command.address is not None:
            assert not set(command.address.address) & set("\r\n\0")


def fuzz_addresses(data: bytes) -> None:
    """What was accepted is accepted again, means the same, and holds no control characters."""
    if not data:
        return
    strict = bool(data[0] & 1)
    text = data[1:].decode("utf-8", "surrogateescape")
    found = split_path(text, strict=strict)
    if found is None:
        return
    assert found[0] in text
    try:
        address = parse_path(found[0], code="5.1.3", strict=strict, postmaster=True)
    except ProtocolError:
        return
    assert address.address.isprintable(), address
    assert address.address in found[0]
    again = parse_path(address.address, code="5.1.3", strict=strict, postmaster=True)
    assert (again.local_part, again.domain) == (address.local_part, address.domain)


def fuzz_parameters(data: bytes) -> None:
    """Parameters of MAIL and RCPT: values or a ProtocolError."""
    if not data:
        return
    syntax = SYNTAXES[data[0] % len(SYNTAXES)]
    parsers = syntax.mail_parameters if data[0] & 128 else syntax.rcpt_parameters
    try:
        args, values = parse_parameters(
            " " + data[1:].decode("utf-8", "surrogateescape"), parsers, allow_unknown=syntax.allow_unknown_parameters
        )
    except ProtocolError as exc:
        assert exc.code in (501, 555)
    else:
        assert set(values) <= set(args)


def fuzz_sasl(data: bytes) -> None:
    """An exchange ends with credentials or a refusal, whatever is answered."""
    if not data:
        return
    names = [name for name in sasl.MECHANISMS if not name.endswith("-PLUS")]
    name = names[data[0] % len(names)]
    exchange_ = sasl.MECHANISMS[name].start(sasl.SASLContext("mx.example", b"certificate"))
    responses = iter(data[1:].split(b"\xff"))
    try:
        step = next(exchange_)
        while True:
            if isinstance(step, sasl.SecretNeeded):
                step = exchange_.send(SECRET[name] if data[0] & 128 else None)
            else:
                assert isinstance(step, bytes)
                step = exchange_.send(next(responses, b""))
    except StopIteration as stop:
        assert isinstance(stop.value.username, str)
        assert "\0" not in stop.value.username
        repr(stop.value)
    except SMTPError as exc:
        replies_in(exc.reply.encode(enhanced=True))
    finally:
        exchange_.close()


def fuzz_proxy(data: bytes) -> None:
    """A header or a ProxyError; never an octet is read that may belong to what follows."""
    reader = proxy.HeaderReader()
    position = 0
    while reader.header is None and position < len(data):
        wanted = reader.wanted
        assert 1 <= wanted <= 16 + 65_535
        try:
            reader.feed(data[position : position + wanted])
        except proxy.ProxyError:
            return
        position += wanted
    header = reader.header
    if header is not None:
        for end in (header.source, header.destination):
            assert end is None or (end[0].isprintable() and 0 <= end[1] <= 65_535)
        if header.version == 1:
            assert data[:position].count(b"\r\n") == 1


def _mail_server() -> Mailbox:
    box = Mailbox()

    @box.app.on_auth
    async def accept(ctx: AuthContext) -> None:
        if ctx.credentials.username != "no":
            ctx.accept()

    return box


def _check_dialogue(config: Config, wire: bytes, said: bytes, box: Mailbox) -> None:
    replies = replies_in(said)
    upper = wire.upper()
    most = wire.count(b"\n") + 2
    if config.lmtp:
        most += upper.count(b"RCPT") * (wire.count(b".\r\n") + upper.count(b"LAST"))
    assert len(replies) <= most
    assert all(reply.code not in (221, 421, 521) for reply in replies[:-1])
    for _, body in box.taken:
        assert config.max_message_size is None or len(body) <= config.max_message_size


def fuzz_dialogue(data: bytes) -> None:
    """A whole connection: well-formed replies, no more of them than commands, no internal error."""
    if len(data) < 2:
        return
    config = CONFIGS[data[0] % len(CONFIGS)]
    wire = data[2:]
    box = _mail_server()
    said = b""

    async def main() -> None:
        nonlocal said
        said = await exchange(SMTPServer(box.app, config), _cuts(wire, 1 + data[1]))

    with watched_log():
        run(main)
    _check_dialogue(config, wire, said, box)


_TO_THE_END = ExitStack()


@cache
def _shared() -> tuple[Mailbox, list[Service], list[logging.LogRecord]]:
    """What the sessions of `fuzz_converse` share: it costs more than a dialogue does, so it is made once."""
    box = _mail_server()
    errors = _TO_THE_END.enter_context(watched_log(logging.ERROR))
    return box, [Service(box.app, config) for config in CONFIGS], errors


def fuzz_converse(data: bytes) -> None:
    """The same of the dialogue alone, without an event loop: many times as many inputs a second."""
    if len(data) < 2:
        return
    box, services, errors = _shared()
    service = services[data[0] % len(services)]
    wire = data[2:]
    box.taken.clear()
    said = converse_with(service, _cuts(wire, 1 + data[1]))
    assert not errors, errors[0].getMessage()
    _check_dialogue(service.config, wire, said, box)


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): target for name, target in list(globals().items()) if name.startswith("fuzz_")
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py {'|'.join(TARGETS)} [options] [corpus directories]")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
