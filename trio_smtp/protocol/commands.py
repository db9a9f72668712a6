"""One line in, one Command out (RFC 5321 section 4.1), or a ProtocolError that carries its reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from .addresses import Address, common_path, parse_path, split_path
from .dsn import DSNRecipient
from .errors import ParserCrashed, ProtocolError
from .parameters import ParameterParser, parse_parameters
from .values import ShowsFields
from .verbs import Verb
from .xclient import parse_attributes
from .xtext import upper_ascii

__all__ = ["Command", "Syntax", "Verb", "parse_command"]


@attrs.define(repr=False)
class Command(ShowsFields):
    """One parsed command line.

    Attributes:
        verb: The verb.
        argument: What follows the verb and a space, as sent.
        address: The path of MAIL or RCPT; its ``args`` are the parameters as sent.
        values: The parsed values of the known parameters.
        size: The octets of a BDAT chunk.
        last: The chunk is the message's last.
        name: The verb as it is written, for the verbs of extensions.
    """

    verb: Verb
    argument: str = ""
    address: Address | None = None
    values: Mapping[str, object] = MappingProxyType({})
    size: int = 0
    last: bool = False
    name: str = ""


@attrs.frozen(kw_only=True, repr=False)
class Syntax(ShowsFields):
    """What a line may say in this session, now.

    Attributes:
        verbs: The verbs that may come, by name in upper case.
        disabled: Names of verbs that are switched off: 502 instead of 500.
        mail_parameters: Parsers of MAIL's parameters.
        rcpt_parameters: Parsers of RCPT's parameters.
        strict_addresses: Hold to RFC 5321's grammar.
        allow_unknown_parameters: Accept parameters that have no parser.
        chunking: BDAT is offered.
        hints: Texts of the 500 for some verbs that are not known here, by name in upper case.
        legacy: HELO may say several words, of which the first counts, and what is not ASCII.
        sender_domain: Completes a sender without a domain; None: one is refused.
        recipient_domain: The same for a recipient; ``""``: one is taken as it is.
    """

    verbs: Mapping[str, Verb]
    disabled: frozenset[str] = frozenset()
    mail_parameters: Mapping[str, ParameterParser] = MappingProxyType({})
    rcpt_parameters: Mapping[str, ParameterParser] = MappingProxyType({})
    strict_addresses: bool = True
    allow_unknown_parameters: bool = False
    chunking: bool = False
    hints: Mapping[str, str] = MappingProxyType({})
    legacy: bool = False
    sender_domain: str | None = None
    recipient_domain: str | None = None


def parse_command(line: bytes, syntax: Syntax) -> Command:
    """Read one command line.

    Args:
        line: The line without its end.
        syntax: What is known and switched on in this session.

    Raises:
        ProtocolError: 500 for control characters, stray non-ASCII octets and unknown verbs, 501 for bad arguments,
            502 for a disabled verb, 553 for a non-ASCII sender without SMTPUTF8, 555 for an unknown parameter;
            or the reply of the `SMTPError` that a parameter's parser raised.
        ParserCrashed: A parameter's parser raised anything else but ValueError.

    RFC: RFC 5321 sections 4.1.1 and 2.4.
    """
    bare = _BARE.get(line)
    if bare is not None and syntax.verbs.get(bare.name) is bare.verb:
        return bare
    try:
        text = line.rstrip(b" \t").decode()
    except UnicodeDecodeError:
        if not (syntax.legacy and _HELLO.match(line)):
            raise _unreadable(line, "Invalid UTF-8") from None
        text = line.rstrip(b" \t").decode("latin-1")
    ascii_only = text.isascii()
    if not (text.isprintable() if ascii_only else all(char >= " " and char != "\x7f" for char in text)):
        raise _unreadable(line, "Control characters are not allowed")
    sent, _, argument = text.partition(" ")
    name = sent.upper()
    # The upper case of a dotless i is an ASCII I: a word with one is not that verb.
    verb = syntax.verbs.get(name) if ascii_only or sent.isascii() else None
    if verb is None:
        if not name or not ascii_only:
            raise ProtocolError("Syntax error", 500, "5.5.2")
        if name in syntax.disabled:
            raise ProtocolError("Command not implemented", 502, "5.5.1")
        raise ProtocolError(syntax.hints.get(name, "Command not recognized"), 500, "5.5.1")
    if not ascii_only and verb not in _UTF8_VERBS and not (syntax.legacy and verb in _HELLO_VERBS):
        raise _unreadable(line, "Non-ASCII characters are not allowed here")
    try:
        command = _PARSERS[verb](verb, argument, syntax)
    except (ProtocolError, ParserCrashed) as exc:
        exc.verb = verb
        raise
    command.name = name
    return command


def _unreadable(line: bytes, message: str) -> ProtocolError:
    if _BDAT.match(line):  # the end of the chunk that follows cannot be known
        return ProtocolError("Syntax: BDAT octets [LAST]", 521, "5.5.4", close=True)
    return ProtocolError(message, 500, "5.5.2")


def _anything(verb: Verb, argument: str, syntax: Syntax) -> Command:
    return Command(verb, argument)


def _nothing(verb: Verb, argument: str, syntax: Syntax) -> Command:
    if argument:
        raise ProtocolError(f"{verb.value} takes no argument", 501, "5.5.4")
    return Command(verb)


def _hello(verb: Verb, argument: str, syntax: Syntax) -> Command:
    argument = argument.strip(" ")
    if syntax.legacy:
        argument = argument.partition(" ")[0]
    if not argument or " " in argument or len(argument) > 255:
        raise ProtocolError(f"{verb.value} needs one host name or address literal", 501, "5.5.4")
    return Command(verb, argument)


def _mail(verb: Verb, argument: str, syntax: Syntax) -> Command:
    text = argument[5:] if argument[:5].upper() == "FROM:" else ""
    common = common_path(text)
    if common is not None:
        return Command(verb, argument, common)
    found = split_path(text, strict=syntax.strict_addresses)
    if found is None:
        raise ProtocolError("Syntax: MAIL FROM:<address>", 501, "5.1.7")
    path, rest = found
    args, values = parse_parameters(rest, syntax.mail_parameters, allow_unknown=syntax.allow_unknown_parameters)
    if not path:
        address = Address("", "", "", args)
    else:
        address = parse_path(path, code="5.1.7", strict=syntax.strict_addresses, domain=syntax.sender_domain, args=args)
    if not argument.isascii() and "SMTPUTF8" not in values:
        raise ProtocolError("A non-ASCII address needs SMTPUTF8", 553, "5.6.7", counted=False)
    return Command(verb, argument, address, values)


def _rcpt(verb: Verb, argument: str, syntax: Syntax) -> Command:
    text = argument[3:] if argument[:3].upper() == "TO:" else ""
    common = common_path(text)
    if common is not None:
        return Command(verb, argument, common)
    found = split_path(text, strict=syntax.strict_addresses)
    if found is None or not found[0]:
        raise ProtocolError("Syntax: RCPT TO:<address>", 501, "5.1.3")
    path, rest = found
    args, values = parse_parameters(rest, syntax.rcpt_parameters, allow_unknown=syntax.allow_unknown_parameters)
    dsn = None
    if "NOTIFY" in values or "ORCPT" in values:
        dsn = DSNRecipient(values.get("NOTIFY", ()), values.get("ORCPT"))  # type: ignore[arg-type]
    address = parse_path(
        path,
        code="5.1.3",
        strict=syntax.strict_addresses,
        postmaster=True,
        domain=syntax.recipient_domain,
        args=args,
        values=values,
        dsn=dsn,
    )
    return Command(verb, argument, address, values)


def _verify(verb: Verb, argument: str, syntax: Syntax) -> Command:
    words = argument.split(" ")
    # RFC 6531 section 3.7.4.2: the keyword may stand behind the string.
    asked_utf8 = len(words) > 1 and upper_ascii(words[-1]) == "SMTPUTF8" and "SMTPUTF8" in syntax.mail_parameters
    if asked_utf8:
        argument = " ".join(words[:-1])
    if not argument.strip(" "):
        raise ProtocolError(f"{verb.value} needs an argument", 501, "5.5.4")
    if not argument.isascii() and not asked_utf8:
        raise ProtocolError("A non-ASCII address needs SMTPUTF8", 553, "5.6.7", counted=False)
    return Command(verb, argument)


def _auth(verb: Verb, argument: str, syntax: Syntax) -> Command:
    if not 1 <= len(argument.split()) <= 2:
        raise ProtocolError("Syntax: AUTH mechanism [initial response]", 501, "5.5.4")
    return Command(verb, argument)


def _bdat(verb: Verb, argument: str, syntax: Syntax) -> Command:
    """RFC 3030 section 2. Without the size the end of the chunk cannot be known: 521 closes the connection."""
    if not syntax.chunking:
        raise ProtocolError("Chunking is not offered", 521, "5.5.1")
    match = _CHUNK.fullmatch(argument)
    if match is None:
        raise ProtocolError("Syntax: BDAT octets [LAST]", 521, "5.5.4")
    return Command(verb, argument, size=int(match[1]), last=match[2] is not None)


def _attributes(verb: Verb, argument: str, syntax: Syntax) -> Command:
    return Command(verb, argument, values=parse_attributes(argument, verb.value))


_BDAT = re.compile(rb"BDAT\b", re.IGNORECASE)
_HELLO = re.compile(rb"(?:HELO|EHLO|LHLO) ", re.IGNORECASE)
_CHUNK = re.compile(r"([0-9]{1,20})(?: +(LAST))? *", re.IGNORECASE)

_PARSERS: Mapping[Verb, Callable[[Verb, str, Syntax], Command]] = {
    Verb.HELO: _hello,
    Verb.EHLO: _hello,
    Verb.LHLO: _hello,
    Verb.MAIL: _mail,
    Verb.RCPT: _rcpt,
    Verb.DATA: _nothing,
    Verb.RSET: _nothing,
    Verb.NOOP: _anything,
    Verb.HELP: _anything,
    Verb.VRFY: _verify,
    Verb.EXPN: _verify,
    Verb.QUIT: _nothing,
    Verb.STARTTLS: _nothing,
    Verb.AUTH: _auth,
    Verb.BDAT: _bdat,
    Verb.XCLIENT: _attributes,
    Verb.XFORWARD: _attributes,
    Verb.EXTENSION: _anything,
}
#: Lines of a verb alone, as nearly all clients write them: one object for all of them.
_BARE: Mapping[bytes, Command] = {
    verb.value.encode(): Command(verb, name=verb.value)
    for verb in (Verb.DATA, Verb.RSET, Verb.NOOP, Verb.QUIT, Verb.STARTTLS)
}
_HELLO_VERBS = frozenset({Verb.HELO, Verb.EHLO, Verb.LHLO})
_UTF8_VERBS = frozenset({Verb.MAIL, Verb.RCPT, Verb.VRFY, Verb.EXPN, Verb.EXTENSION})
