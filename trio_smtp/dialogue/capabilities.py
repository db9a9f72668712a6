"""What a session offers now: EHLO lines, verbs and parameters, given the Config, the Session and the extensions.

The library's own extensions are written as a user's would be: an `Extension` each.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from functools import partial

from trio_smtp.app.application import Phase
from trio_smtp.app.config import Config
from trio_smtp.app.extension import VERBS, CommandHandler, Extension, clash, hello_line, is_offered
from trio_smtp.app.session import Session
from trio_smtp.protocol import parameters as p
from trio_smtp.protocol.commands import Syntax
from trio_smtp.protocol.exchange import Mechanism, SASLContext
from trio_smtp.protocol.networks import trusts
from trio_smtp.protocol.sasl import MECHANISMS
from trio_smtp.protocol.verbs import Verb
from trio_smtp.protocol.xclient import XCLIENT_ATTRIBUTES, XFORWARD_ATTRIBUTES

from .log import facts, logger

__all__ = ["Capabilities"]

#: What a client is told that says the other protocol's greeting: somebody gave it the wrong port.
_LMTP_HINTS = dict.fromkeys(("HELO", "EHLO"), "This is LMTP: send LHLO")
_SMTP_HINTS = {"LHLO": "This is SMTP: send EHLO"}


def _usable(mechanism: Mechanism, context: SASLContext, session: Session) -> bool:
    """Whether a mechanism, which may be a user's own, says so; not when asking fails, which is logged."""
    try:
        return mechanism.usable(context)
    except Exception:
        extra = facts(session, "usable failed")
        logger.exception("session=%s %s: usable failed", session.id, mechanism.name, extra=extra)
        return False


def _secure(session: Session) -> bool:
    return session.secure


def _release_limits(longest: int, _: Session) -> str:
    from datetime import UTC, datetime, timedelta  # for FUTURERELEASE alone

    until = datetime.now(UTC) + timedelta(seconds=longest)
    return f"{longest} {until:%Y-%m-%dT%H:%M:%SZ}"


def _chunking(config: Config) -> bool:
    return config.chunking and "BDAT" not in config.disabled_commands


def _built_in(config: Config) -> list[Extension]:
    """The library's own extensions that are switched on, in the order EHLO shows them."""
    chunking = _chunking(config)
    optional: list[tuple[bool, Extension]] = [
        (True, Extension(keyword="PIPELINING")),
        (True, _size(config)),
        (
            True,
            Extension(keyword="8BITMIME", mail_parameters={"BODY": partial(p.parse_body, binary=config.binarymime)}),
        ),
        (chunking, Extension(keyword="CHUNKING")),
        (chunking and config.binarymime, Extension(keyword="BINARYMIME")),
        (config.smtputf8, Extension(keyword="SMTPUTF8", mail_parameters={"SMTPUTF8": p.parse_flag})),
        (True, Extension(keyword="ENHANCEDSTATUSCODES")),
        (
            config.dsn,
            Extension(
                keyword="DSN",
                mail_parameters={"RET": p.parse_ret, "ENVID": p.parse_envid},
                rcpt_parameters={"NOTIFY": p.parse_notify, "ORCPT": p.parse_orcpt},
            ),
        ),
        (True, _limits(config)),
        (
            config.requiretls,
            Extension(keyword="REQUIRETLS", mail_parameters={"REQUIRETLS": p.parse_flag}, available=_secure),
        ),
    ]
    return [extension for switched_on, extension in optional if switched_on] + list(_about_delivery(config))


def _size(config: Config) -> Extension:
    return Extension(
        keyword="SIZE", argument=str(config.max_message_size or ""), mail_parameters={"SIZE": p.parse_size}
    )


def _limits(config: Config) -> Extension:
    limits = [f"RCPTMAX={config.max_recipients}"]
    if config.max_transactions is not None:
        limits.append(f"MAILMAX={config.max_transactions}")
    return Extension(keyword="LIMITS", argument=" ".join(limits))


def _about_delivery(config: Config) -> Iterator[Extension]:
    """What a client may ask about the time and the rank of a delivery."""
    if config.deliver_by is not None:
        parser = partial(p.parse_by, least=config.deliver_by)
        yield Extension(keyword="DELIVERBY", argument=str(config.deliver_by or ""), mail_parameters={"BY": parser})
    if config.mt_priority:
        profile = config.mt_priority if isinstance(config.mt_priority, str) else ""
        parsers = {"MT-PRIORITY": p.parse_mt_priority}
        yield Extension(keyword="MT-PRIORITY", argument=profile, mail_parameters=parsers)
    if config.future_release is not None:
        longest = config.future_release
        yield Extension(
            keyword="FUTURERELEASE",
            argument=partial(_release_limits, longest),
            mail_parameters={
                "HOLDFOR": partial(p.parse_hold_for, longest=longest),
                "HOLDUNTIL": partial(p.parse_hold_until, longest=longest),
            },
        )


class Capabilities:
    """What one server offers its sessions.

    Args:
        config: The server's Config.
        phases: Those that the App has handlers for: without `on_auth` nobody can check credentials.
        extensions: The App's own.

    Attributes:
        commands: The handlers of the extensions' verbs.
        enhanced: Enhanced status codes stand in replies.

    Raises:
        ValueError: One of them clashes with an extension of the library that is switched on.
    """

    def __init__(self, config: Config, phases: Container[Phase] = (), extensions: Iterable[Extension] = ()) -> None:
        self._config = config
        mechanisms = [MECHANISMS[each] if isinstance(each, str) else each for each in config.auth_mechanisms]
        offered = Phase.AUTH in phases and "AUTH" not in config.disabled_commands
        self._mechanisms = {mechanism.name: mechanism for mechanism in mechanisms if offered}
        self._expands = Phase.EXPN in phases
        built_in, users = _built_in(config), list(extensions)
        for each in users:
            clashing = [own.keyword for own in built_in if clash(own, each)]
            if clashing:
                raise ValueError(f"the extension {each.keyword} clashes with the library's own {', '.join(clashing)}")
        self._extensions = [*built_in, *users]
        self._conditional = [each for each in self._extensions if each.available is not None]
        # EHLO's lines, by whether TLS is active, where they depend on nothing else.
        self._constant = not (self._mechanisms or self._conditional or config.xclient or config.xforward) and not any(
            callable(each.argument) for each in self._extensions
        )
        self._constant_lines: dict[bool, list[str]] = {}
        self._syntaxes: dict[object, Syntax] = {}
        self.commands: dict[str, CommandHandler] = {
            name: handler for each in users for name, handler in each.commands.items()
        }
        self.enhanced: bool = "ENHANCEDSTATUSCODES" not in config.hide_extensions

    def starttls(self, session: Session) -> bool:
        """Whether STARTTLS would be accepted now."""
        config = self._config
        return config.ssl_context is not None and "STARTTLS" not in config.disabled_commands and not session.secure

    def sasl_context(self, session: Session, mechanism: str = "") -> SASLContext:
        """What a mechanism may know of this session."""
        tls = session.tls_options
        return SASLContext(
            self._config.hostname,
            tls.peer_certificate if tls else None,
            tls.server_certificate if tls else None,
            f"{mechanism}-PLUS" in self._mechanisms,
        )

    def mechanisms(self, session: Session) -> dict[str, Mechanism]:
        """The mechanisms this session may use now, or could if it had not authenticated already."""
        plaintext = self._config.allow_insecure_auth and not self._config.starttls_required
        if not self._mechanisms or not (session.secure or plaintext):
            return {}
        context = self.sasl_context(session)
        return {name: each for name, each in self._mechanisms.items() if _usable(each, context, session)}

    def auth_after_tls(self, session: Session) -> bool:
        """Whether TLS would make AUTH usable."""
        return bool(self._mechanisms) and self.starttls(session)

    def _unavailable(self, session: Session) -> frozenset[str]:
        return frozenset(each.keyword for each in self._conditional if not is_offered(each, session))

    def syntax(self, session: Session) -> Syntax:
        """What a line may say now."""
        key = (
            bool(self.mechanisms(session)),
            self._unavailable(session) if self._conditional else None,
            trusts(self._config.legacy_clients, session.remote_address),
        )
        syntax = self._syntaxes.get(key)
        if syntax is None:
            syntax = self._syntaxes[key] = self._build_syntax(*key)
        return syntax

    def _build_syntax(self, auth: bool, unavailable: frozenset[str] | None, legacy: bool) -> Syntax:
        config = self._config
        domain = config.local_domain or (config.hostname if legacy else None)
        extensions = [each for each in self._extensions if each.keyword not in (unavailable or ())]
        hints = _LMTP_HINTS if config.lmtp else _SMTP_HINTS
        unknown = set(hints) | {
            name for name, networks in (("XCLIENT", config.xclient), ("XFORWARD", config.xforward)) if not networks
        }
        # BDAT stays known: it is refused in a way of its own.
        disabled = set(config.disabled_commands) - {"BDAT"}
        if config.ssl_context is None:
            disabled.add("STARTTLS")
        mail = {name: parser for each in extensions for name, parser in each.mail_parameters.items()}
        if auth:
            mail["AUTH"] = p.parse_auth
        verbs = {name: verb for name, verb in VERBS.items() if name not in unknown | disabled}
        return Syntax(
            verbs=verbs | {name: Verb.EXTENSION for each in extensions for name in each.commands},
            disabled=frozenset(disabled),
            mail_parameters=mail,
            rcpt_parameters={name: parser for each in extensions for name, parser in each.rcpt_parameters.items()},
            strict_addresses=config.strict_addresses and not legacy,
            allow_unknown_parameters=legacy or config.unknown_parameters == "allow",
            chunking=_chunking(config),
            hints=hints,
            legacy=legacy,
            sender_domain=domain,
            recipient_domain="" if config.lmtp else domain,
        )

    def ehlo_lines(self, session: Session) -> list[str]:
        """The keyword lines of the reply to EHLO: only what would be accepted now (RFC 5321 section 4.1.1.1)."""
        if not self._constant:
            return self._lines(session)
        lines = self._constant_lines.get(session.secure)
        if lines is None:
            lines = self._constant_lines[session.secure] = self._lines(session)
        return lines.copy()  # handlers may edit theirs

    def _lines(self, session: Session) -> list[str]:
        config = self._config
        unavailable = self._unavailable(session)
        offered = [each for each in self._extensions if each.keyword not in unavailable]
        lines = [line for each in offered if (line := hello_line(each, session))]
        if self.starttls(session):
            lines.append("STARTTLS")
        mechanisms = self.mechanisms(session)
        if mechanisms and not session.authenticated:
            lines.append("AUTH " + " ".join(mechanisms))
        if session.secure or not config.starttls_required:
            if trusts(config.xclient, session.remote_address):
                lines.append("XCLIENT " + " ".join(XCLIENT_ATTRIBUTES))
            if trusts(config.xforward, session.remote_address):
                lines.append("XFORWARD " + " ".join(XFORWARD_ATTRIBUTES))
        if "HELP" not in config.disabled_commands:
            lines.append("HELP")
        hidden = config.hide_extensions
        return [line for line in lines if line.partition(" ")[0] not in hidden] if hidden else lines

    def help_lines(self, session: Session) -> list[str]:
        """The verbs that would be accepted in this session, for HELP: order alone is not looked at."""
        config, verbs = self._config, dict(self.syntax(session).verbs)
        refused = {
            "AUTH": session.authenticated or not self.mechanisms(session),
            "BDAT": not _chunking(config),
            "EXPN": not self._expands,
            "STARTTLS": session.secure,
            "XCLIENT": not trusts(config.xclient, session.remote_address),
            "XFORWARD": not trusts(config.xforward, session.remote_address),
        }
        return ["Commands:", " ".join(verb for verb in verbs if not refused.get(verb))]
