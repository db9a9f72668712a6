"""What a session offers now: the EHLO lines, the verbs, the parameters; given the Config and the Session."""

from __future__ import annotations

from functools import lru_cache

from .config import Config
from .protocol.commands import Syntax, Verb
from .protocol.parameters import ParameterParser, parse_auth, parse_body, parse_flag, parse_size
from .protocol.sasl import MECHANISMS, Mechanism, SASLContext
from .session import Session

__all__ = ["Offer"]

_VERBS = {verb.value: verb for verb in Verb if not verb.value.startswith("<")}


class Offer:
    """What one server offers its sessions.

    Args:
        config: The server's Config.
        auth: The App can check credentials.
    """

    def __init__(self, config: Config, *, auth: bool) -> None:
        self._config = config
        mechanisms = [MECHANISMS[each] if isinstance(each, str) else each for each in config.auth_mechanisms]
        offered = auth and "AUTH" not in config.disabled_commands
        self._mechanisms = {mechanism.name: mechanism for mechanism in mechanisms if offered}
        self._syntax = lru_cache(maxsize=None)(self._build_syntax)
        #: Enhanced status codes stand in replies.
        self.enhanced = "ENHANCEDSTATUSCODES" not in config.hide_extensions

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
        if not self._mechanisms or not (session.secure or self._config.allow_insecure_auth):
            return {}
        context = self.sasl_context(session)
        return {name: mechanism for name, mechanism in self._mechanisms.items() if mechanism.usable(context)}

    def auth_after_tls(self, session: Session) -> bool:
        """Whether TLS would make AUTH usable."""
        return bool(self._mechanisms) and self.starttls(session)

    def syntax(self, session: Session) -> Syntax:
        """What a line may say now."""
        return self._syntax(bool(self.mechanisms(session)))

    def _build_syntax(self, auth: bool) -> Syntax:
        config = self._config
        unknown = {"LHLO"}
        disabled = set(config.disabled_commands)
        if config.ssl_context is None:
            disabled.add("STARTTLS")
        mail: dict[str, ParameterParser] = {"SIZE": parse_size, "BODY": parse_body}
        if config.smtputf8:
            mail["SMTPUTF8"] = parse_flag
        if auth:
            mail["AUTH"] = parse_auth
        return Syntax(
            verbs={name: verb for name, verb in _VERBS.items() if name not in unknown | disabled},
            disabled=frozenset(disabled),
            mail_parameters=mail,
            strict_addresses=config.strict_addresses,
            allow_unknown_parameters=config.unknown_parameters == "allow",
        )

    def ehlo_lines(self, session: Session) -> list[str]:
        """The keyword lines of the reply to EHLO: only what would be accepted now (RFC 5321 section 4.1.1.1)."""
        config = self._config
        size = config.max_message_size
        lines = ["PIPELINING", "SIZE" if size is None else f"SIZE {size}", "8BITMIME"]
        if config.smtputf8:
            lines.append("SMTPUTF8")
        lines.append("ENHANCEDSTATUSCODES")
        if self.starttls(session):
            lines.append("STARTTLS")
        mechanisms = self.mechanisms(session)
        if mechanisms and not session.authenticated:
            lines.append("AUTH " + " ".join(mechanisms))
        if "HELP" not in config.disabled_commands:
            lines.append("HELP")
        hidden = config.hide_extensions
        return [line for line in lines if line.partition(" ")[0] not in hidden] if hidden else lines

    def help_lines(self) -> list[str]:
        """The verbs, for HELP."""
        return ["Commands:", " ".join(self._build_syntax(False).verbs)]
