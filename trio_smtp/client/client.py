"""`Client`: one session with a server."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Self, Unpack, final

import trio

from trio_smtp import Address, Reply

from .burst import send_burst
from .commands import Parameters, mail_command
from .driver import Sending
from .errors import DeliveryError, DeliveryFailed, DeliveryRefused
from .extensions import without_requiretls
from .hello import attributes_command, is_hello_name, say, say_hello
from .ready import Ready, check_chunking, make_ready
from .results import Content, EnvelopeOptions, Mail, Recipients, SendResult, TransactionOptions
from .sending import RSET, Commands
from .transaction import Transaction
from .wire import Wire

__all__ = ["Client"]


@final
class Client:
    """A session with a server, made by `connect`. One task at a time may use it.

    Attributes:
        extensions: What the server offers: keywords in upper case, and what stands behind each.
        tls: The version of TLS, such as ``"TLSv1.3"``, or None.
        lmtp: The protocol is LMTP: a message has a reply for each recipient.

    Error handling:
        Whatever goes wrong between the two sides, a cancellation included, closes the connection (`usable` tells).
        What the server refuses in order does not.
    """

    __slots__ = ("_busy", "_wire", "extensions", "lmtp", "tls")

    def __init__(self, wire: Wire, extensions: Mapping[str, str], *, tls: str | None, lmtp: bool) -> None:
        self.extensions: Mapping[str, str] = extensions
        self.tls: str | None = tls
        self.lmtp: bool = lmtp
        self._wire = wire
        self._busy = False

    @property
    def usable(self) -> bool:
        """The session can go on."""
        return not self._wire.broken

    @property
    def stream(self) -> trio.abc.Stream:
        """The stream to the server, encrypted where the session is."""
        return self._wire.stream

    @contextmanager
    def _use(self) -> Iterator[None]:
        if self._busy:
            raise trio.BusyResourceError("another task uses this client")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def send(
        self, sender: str | Address, recipients: Recipients, message: Content, **options: Unpack[EnvelopeOptions]
    ) -> SendResult:
        """Send one message.

        Args:
            sender: The reverse-path, without brackets; ``""`` is the null sender.
            recipients: One or several addresses, or `Recipient`.
            message: Octets; a message of the package `email` (its Bcc is left out); a `SpooledMessage`; or an async
                iterable of octets, which is read as fast as the server takes it, and not before the server wants it.
            options: See `EnvelopeOptions`.

        Returns:
            Who has it, and who has not.

        Raises:
            DeliveryRefused: Nobody has it.
            DeliveryFailed: There was no answer; ``uncertain`` where somebody may have it.
            ExtensionMissing: The server lacks what the message needs. Nothing was sent, but for an iterable.
            BareNewline: See `EnvelopeOptions`.
            ValueError: An address or a parameter is not allowed.
        """
        mail = Mail(
            sender,
            recipients,
            message,
            body=options.get("body"),
            smtputf8=options.get("smtputf8"),
            envid=options.get("envid"),
            ret=options.get("ret"),
            requiretls=options.get("requiretls", False),
            parameters=options.get("parameters", {}),
        )
        chunking, newlines = options.get("chunking", False), options.get("newlines", "crlf")
        with self._use():
            sending = self._sending(make_ready(mail, self.extensions, chunking=chunking, newlines=newlines))
            async with self._tidy():
                await sending.begin()
                await sending.go_on()
                result = await sending.finish()
        if isinstance(result, DeliveryError):
            raise result
        return result

    def _sending(self, ready: Ready) -> Sending:
        return Sending(self._wire, ready, pipelining="PIPELINING" in self.extensions, lmtp=self.lmtp)

    async def send_many(
        self, mails: Iterable[Mail] | AsyncIterable[Mail], *, chunking: bool = False
    ) -> list[SendResult | DeliveryError]:
        """Send many messages, the commands of each on the heels of the message before it.

        Args:
            mails: The messages. Of an iterable that is not async, several may leave together; out of an async one each
                leaves when it comes, whenever the next one does.
            chunking: Send them by BDAT. Where the server offers PIPELINING too, many messages go out in one go, before
                the replies to the first are read (RFC 3030 section 4.2).

        Returns:
            What became of each, in order: what `send` would return or raise. Once the connection is lost, those behind
            it are a `DeliveryFailed` that is not uncertain.

        Raises:
            BareNewline: A message has a CR or LF alone, see `send`.
            ValueError: An address or a parameter is not allowed. The connection is closed, because the messages before
                may not have been answered; so it is with whatever `mails`, or a message's own iterable, raises.

        RFC: RFC 2920 section 3.1: the end of a message may be followed by the commands of the next.
        """
        results: list[SendResult | DeliveryError] = []
        at_once = isinstance(mails, AsyncIterable)
        with self._use():
            async with self._tidy():
                if chunking and {"CHUNKING", "PIPELINING"} <= self.extensions.keys():
                    each = _Each(mails)
                    return await send_burst(self._wire, self.extensions, each, lmtp=self.lmtp, at_once=at_once)
                before: Sending | None = None
                async for mail in _Each(mails):
                    before, sent = await self._follow(before, mail, chunking=chunking, soon=not at_once)
                    results += sent
                if before is not None:
                    results.append(await _outcome(before.finish()))
        return results

    async def _follow(
        self, before: Sending | None, mail: Mail, *, chunking: bool, soon: bool
    ) -> tuple[Sending | None, list[SendResult | DeliveryError]]:
        """Send a message behind another.

        Args:
            before: The other, or None.
            mail: The message.
            chunking: By BDAT.
            soon: See `Sending.go_on`.

        Returns:
            The message, where it waits for its reply, and what became of the one before, and of this one.
        """
        results: list[SendResult | DeliveryError] = []
        follows = before is not None and "PIPELINING" in self.extensions
        if before is not None and not follows:
            results.append(await _outcome(before.finish()))
        failure: DeliveryError | None = None
        sending: Sending | None = None
        try:
            sending = self._sending(make_ready(mail, self.extensions, chunking=chunking))
            await sending.begin(follows=follows)
        except DeliveryError as error:
            sending, failure = None, error
        if before is not None and follows:
            results.append(await _outcome(before.finish()))
        if sending is not None:
            try:
                await sending.go_on(soon=soon)
            except DeliveryError as error:
                sending, failure = None, error
        if failure is not None:
            results.append(failure)
        return sending, results

    def transaction(self, sender: str | Address, **options: Unpack[TransactionOptions]) -> Transaction:
        """A transaction step by step, as an async context manager: MAIL is sent when it is entered.

        Args:
            sender: The reverse-path, without brackets; ``""`` is the null sender.
            options: See `TransactionOptions`.

        Raises:
            DeliveryRefused: By entering it: MAIL was refused.
            DeliveryFailed: By entering it: there was no answer.
            ExtensionMissing: By calling this: the server lacks what a parameter needs.
            ValueError: By calling this: a value is not allowed.
        """
        body = options.get("body")
        wanted = Parameters(
            size=options.get("size"),
            body=body,
            smtputf8=options.get("smtputf8") or False,
            envid=options.get("envid"),
            ret=options.get("ret"),
            requiretls=options.get("requiretls", False),
            others=options.get("parameters", {}),
        )
        binary = body == "BINARYMIME"
        line = mail_command(sender, wanted, self.extensions)
        return Transaction(
            self._wire,
            self._use,
            line,
            self.extensions,
            lmtp=self.lmtp,
            smtputf8=b" SMTPUTF8" in line,
            chunking=check_chunking(self.extensions, wanted=options.get("chunking", False) or binary),
            newlines=options.get("newlines", "keep" if binary else "crlf"),
        )

    async def xforward(self, attributes: Mapping[str, str | None]) -> Reply:
        """Tell the server where the next message came from, for its log (XFORWARD).

        Args:
            attributes: By name, such as ``ADDR``; those that the server does not take are left out. None, and what is
                longer than 200 octets or not printable ASCII, is sent as not available.

        Returns:
            The reply.

        Raises:
            ExtensionMissing: The server does not offer XFORWARD.
            DeliveryFailed: There was no answer.
        """
        with self._use():
            async with self._tidy():
                return await say(self._wire, attributes_command("XFORWARD", attributes, self.extensions), "xforward")

    async def xclient(self, attributes: Mapping[str, str | None], *, hello: str) -> None:
        """Tell the server for which client this session speaks (XCLIENT); the session begins anew, and EHLO follows.

        Args:
            attributes: See `xforward`.
            hello: What EHLO says: the client's own word.

        Raises:
            ExtensionMissing: The server does not offer XCLIENT.
            DeliveryRefused: The server refused, in the phase ``"xclient"`` or ``"hello"``: the session is of no use.
            DeliveryFailed: There was no answer.
            ValueError: `hello` is not one word of printable ASCII.
        """
        if not is_hello_name(hello):
            raise ValueError(f"hello must be one word of printable ASCII, not {hello!r}")
        line = attributes_command("XCLIENT", attributes, self.extensions)
        with self._use():
            async with self._tidy():
                reply = await say(self._wire, line, "xclient")
                if reply.code >= 400:
                    raise DeliveryRefused(reply, phase="xclient")
                if reply.code != 220:
                    raise DeliveryFailed("xclient", f"the server answered with code {reply.code}")
                extensions = await say_hello(self._wire, hello, lmtp=self.lmtp)
        self.extensions = extensions if self.tls is not None else without_requiretls(extensions)

    async def reset(self) -> Reply:
        """Say RSET; returns the reply.

        Raises:
            DeliveryFailed: There was no answer, or the session has ended.
        """
        with self._use():
            async with self._tidy():
                (reply,) = await self._wire.exchange(RSET)
        return reply

    async def quit(self) -> None:
        """Say QUIT, and close the connection; a server that does not answer is not waited for long."""
        wire = self._wire
        try:
            if self.usable and not self._busy:
                with trio.move_on_after(wire.timeouts.quit):
                    await wire.exchange(Commands((b"QUIT\r\n",), ("quit",)))
        except DeliveryFailed:
            pass
        finally:
            await wire.close()

    async def aclose(self) -> None:
        """Close the connection without a word."""
        await self._wire.close()

    @asynccontextmanager
    async def _tidy(self) -> AsyncIterator[None]:
        """Close the connection after anything that leaves it half used."""
        try:
            with self._wire.guarded():
                yield
        finally:
            if not self.usable:
                await self._wire.close()


async def _outcome(finishing: Awaitable[SendResult | DeliveryError]) -> SendResult | DeliveryError:
    try:
        return await finishing
    except DeliveryError as error:
        return error


@final
class _Each:
    """The mails, whatever kind of iterable they are in; an async generator would be one more thing to close."""

    def __init__(self, mails: Iterable[Mail] | AsyncIterable[Mail]) -> None:
        self._mails = aiter(mails) if isinstance(mails, AsyncIterable) else iter(mails)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Mail:
        if isinstance(self._mails, AsyncIterator):
            return await anext(self._mails)
        try:
            return next(self._mails)
        except StopIteration:
            raise StopAsyncIteration from None
