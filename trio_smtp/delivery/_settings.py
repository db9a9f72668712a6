"""How mail is passed on: what `proxy` and `lmtp` are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import attrs

from trio_smtp import Address, DataContext, Reply, Session
from trio_smtp.client import Options, Pool, Timeouts

from ._announcing import Announce, proxy_header

__all__ = ["Mixed", "OnRefused", "RelayOptions", "Settings"]

#: What a client of SMTP, which has one reply for all recipients, is told where one has the message and another has not.
Mixed = Literal["split", "accept", "retry"]
#: Awaited with the recipients that have not got a message that was accepted, and why.
OnRefused = Callable[[Mapping[Address, Reply], DataContext], Awaitable[None]]

#: Each below `Config.handler_timeout`, so that the client is told what happened.
_TIMEOUTS = Timeouts(
    connect=30, tls=30, greeting=60, command=60, mail=120, rcpt=120, data=120, block=120, end=300, quit=2
)


class RelayOptions(Options, total=False):
    """What `proxy` and `lmtp` take besides the URL; all of it may be left out.

    What `trio_smtp.client.connect` takes may be given too, and means the same. Only `timeouts` are shorter: 30 seconds
    to connect, 120 for an answer, 300 for the answer to a message. Keep them below `Config.handler_timeout`, which ends
    the client's session.

    Attributes:
        announce: How the next server is told of the client. ``"xforward"``: for its log, where it offers XFORWARD.
            ``"xclient"``: instead of our address; it must offer XCLIENT. ``"proxy"``: by a header of the PROXY
            protocol, version 1, which it must expect. With the last two each client has a connection of its own. None,
            the default: not at all.
        received: Put a Received field in front of the message (default: on). Without it nothing ends a loop.
        patience: Seconds for everything up to the reply to MAIL, the wait for a free connection included; then 451
            (default: 120).
        size: Connections to the next server (default: 100). Each transaction has one from MAIL to its end.
        idle: A connection that was not used for so many seconds is not used again (default: 30).
        max_messages: A connection that had so many transactions is closed (default: 100).
        tls: ``"required"``, ``"opportunistic"`` or ``"none"`` (default: required for smtp://, opportunistic for lmtp://,
            none for a Unix socket).
        auth: What logs in at the next server; nobody by default.
        insecure_auth: Log in without TLS, too (default: off).
        local_hostname: What EHLO says; by default the address literal of our end.
    """

    announce: Announce | None
    received: bool
    patience: float
    size: int
    idle: float
    max_messages: int


@attrs.frozen(kw_only=True)
class Settings:
    """How mail is passed on; what each means stands at `RelayOptions` and `lmtp`.

    Attributes:
        url: The next server.
        name: Of the delivery, for the log.
        protocol: What the next server speaks.
        given: What the program has chosen.
        mixed: See `lmtp`.
        on_refused: See there.
    """

    url: str = attrs.field(repr=False)
    name: str
    protocol: Literal["smtp", "lmtp"]
    given: RelayOptions = attrs.field(repr=False)
    mixed: Mixed = "accept"
    on_refused: OnRefused | None = None

    @property
    def announce(self) -> Announce | None:
        """See `RelayOptions`."""
        return self.given.get("announce")

    @property
    def received(self) -> bool:
        """See `RelayOptions`."""
        return self.given.get("received", True)

    @property
    def patience(self) -> float:
        """See `RelayOptions`."""
        return self.given.get("patience", 120)

    @property
    def place(self) -> str:
        """The next server, without the user and the password of its URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def own_session(self) -> bool:
        """A session with the next server speaks for one client alone."""
        return self.announce in ("xclient", "proxy")

    def make_pool(self, session: Session | None = None) -> Pool:
        """A pool of sessions; for one client where it is given."""
        given: dict[str, Any] = {"timeouts": _TIMEOUTS, "size": 100, **self.given}
        for name in ("announce", "received", "patience"):
            given.pop(name, None)
        if session is not None:
            given["size"] = 1
            if self.announce == "proxy":
                given["preface"] = proxy_header(session)
        return Pool(self.url, **given)

    def check(self) -> None:
        """Raise what is wrong.

        Raises:
            ValueError: A setting is not allowed; the text names it.
            TypeError: There is no such setting.
        """
        unknown = sorted(self.given.keys() - RelayOptions.__optional_keys__)
        if unknown:
            raise TypeError(
                f"{self.name} takes no {unknown[0]!r}; it takes {', '.join(sorted(RelayOptions.__optional_keys__))}"
            )
        scheme = self.url.partition("://")[0]
        schemes = ("smtp", "smtps", "smtp+unix") if self.protocol == "smtp" else ("lmtp", "lmtp+unix")
        if scheme not in schemes:
            raise ValueError(f"url: {self.name} takes {', '.join(f'{each}://' for each in schemes)}")
        if self.announce not in (None, "xclient", "xforward", "proxy"):
            raise ValueError(f"announce must be 'xclient', 'xforward', 'proxy' or None, not {self.announce!r}")
        if self.mixed not in ("split", "accept", "retry"):
            raise ValueError(f"mixed must be 'split', 'accept' or 'retry', not {self.mixed!r}")
        if not self.patience > 0:
            raise ValueError(f"patience must be a number of seconds above 0, not {self.patience!r}")
        if self.announce == "xclient" and ("@" in urlsplit(self.url).netloc or self.given.get("auth")):
            raise ValueError(
                "announce='xclient' begins the session anew: neither auth nor a user in the URL outlives it"
            )
        if "preface" in self.given:
            raise ValueError("preface: announce='proxy' makes it")
        self.make_pool()  # raises here what is wrong with the rest
