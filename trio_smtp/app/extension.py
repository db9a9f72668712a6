"""Extension: an SMTP service extension of a program's own (RFC 5321 section 2.2)."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from trio_smtp.protocol.commands import Verb
from trio_smtp.protocol.parameters import ParameterParser
from trio_smtp.protocol.values import ShowsFields

from .hooks import CommandContext
from .session import Session

__all__ = ["VERBS", "CommandHandler", "Extension", "clash", "hello_line", "is_offered"]

#: Answers a verb of an extension.
CommandHandler = Callable[[CommandContext], Awaitable[None]]

_logger = logging.getLogger("trio_smtp")

#: The verbs of the library by name.
VERBS: Mapping[str, Verb] = {verb.value: verb for verb in Verb if not verb.value.startswith("<")}
#: Keywords that EHLO shows without an `Extension`; a program's own may not use them.
_RESERVED = frozenset({"STARTTLS", "AUTH", "HELP", "XCLIENT", "XFORWARD"})
# Seldom used: re compiles the pattern when it is, and keeps it.
_KEYWORD = r"[A-Z0-9][A-Z0-9-]*"


def _upper(keyword: str) -> str:
    return keyword.upper()


def _upper_keys(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType({key.upper(): value for key, value in mapping.items()})


def _keywords(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    for word in [value] if isinstance(value, str) else value:
        if not re.fullmatch(_KEYWORD, word):
            raise ValueError(f"{attribute.name}: {word!r} must be letters, digits and hyphens")


@attrs.frozen(kw_only=True, repr=False)
class Extension(ShowsFields):
    """An SMTP service extension: what EHLO says of it, its parameters, its verbs (RFC 5321 section 2.2).

    Register it with `App.extend`. Parsed values stand in ``envelope.values`` (MAIL) and ``address.values`` (RCPT).

    Attributes:
        keyword: The EHLO keyword.
        argument: What follows it: a string, or a function of the session.
        mail_parameters: Parsers of MAIL's parameters by name. A parser takes the value as sent (True where it has none)
            and returns what is kept. A ValueError it raises is answered by 501 with the error's text, an SMTPError by
            its reply.
        rcpt_parameters: The same for RCPT.
        commands: Handlers of verbs of its own: ``async (ctx: CommandContext)``.
        available: Called with the session at connect, after TLS and after AUTH: whether the extension is offered from
            then on. None: always.

    Raises:
        ValueError: A keyword is malformed, or a keyword, parameter or verb is one of the library's own.
        TypeError: A verb's handler is not an async function.

    RFC: RFC 5321 section 2.2.2.
    """

    keyword: str = attrs.field(converter=_upper, validator=_keywords)
    argument: str | Callable[[Session], str] = ""
    mail_parameters: Mapping[str, ParameterParser] = attrs.field(
        factory=dict, converter=_upper_keys, validator=_keywords
    )
    rcpt_parameters: Mapping[str, ParameterParser] = attrs.field(
        factory=dict, converter=_upper_keys, validator=_keywords
    )
    commands: Mapping[str, CommandHandler] = attrs.field(factory=dict, converter=_upper_keys, validator=_keywords)
    available: Callable[[Session], bool] | None = None

    def __attrs_post_init__(self) -> None:
        taken = sorted(set(self.commands) & set(VERBS) | {self.keyword, *self.mail_parameters} & _RESERVED)
        if taken:
            raise ValueError(f"{self.keyword}: {', '.join(taken)} is the library's own")
        for name, handler in self.commands.items():
            # The handler may be an object whose `__call__` is async.
            if not (inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)):
                raise TypeError(f"commands: {name}: write `async def handler(ctx)`, not {handler!r}")


def clash(one: Extension, other: Extension) -> bool:
    """Whether the two have a keyword, a parameter or a verb in common."""
    return (
        one.keyword == other.keyword
        or bool(set(one.commands) & set(other.commands))
        or bool(set(one.mail_parameters) & set(other.mail_parameters))
        or bool(set(one.rcpt_parameters) & set(other.rcpt_parameters))
    )


def is_offered(extension: Extension, session: Session) -> bool:
    """Whether the session may use the extension now. False when `Extension.available` raises; that is logged."""
    if extension.available is None:
        return True
    try:
        return extension.available(session)
    except Exception:
        _logger.exception("session=%s %s: available failed", session.id, extension.keyword)
        return False


def hello_line(extension: Extension, session: Session) -> str:
    """The line that EHLO shows. Empty when the function `Extension.argument` raises; that is logged."""
    argument = extension.argument
    try:
        text = argument if isinstance(argument, str) else argument(session)
    except Exception:
        _logger.exception("session=%s %s: argument failed", session.id, extension.keyword)
        return ""
    return f"{extension.keyword} {text}".rstrip()
