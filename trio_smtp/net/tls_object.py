"""What trio's SSLStream does with a TLS connection's SSLObject, made better where a mail server needs it.

`SSLContext.sslobject_class` is the documented place for a class of one's own. SSLStream calls the methods of that
object, so two things can be mended in it:

* SSLStream hands on one TLS record for each pass of the scheduler. `read` looks for more records that have come, and
  gives all that fit. Clients that write a record for each line (PHPMailer) then cost no more passes than others. A look
  that finds nothing costs more than the read of a command, so `read` then waits eight calls before it looks again.
* SSLStream drops the alert of a handshake that fails. Inside `shaking_hands`, `do_handshake` notes the error and
  returns, so that SSLStream sends what OpenSSL has written; the caller looks at the error afterwards.
"""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["Handshake", "improve", "shaking_hands"]

#: What OpenSSL says of a stream that ended.
_END_OF_STREAM = (ssl.SSLEOFError, ssl.SSLSyscallError)
#: A look for further records that found none is not repeated in so many calls.
_CALLS_WITHOUT_LOOK = 8


class Handshake:
    """One handshake, as its SSLObject sees it.

    Attributes:
        error: What it failed with, where that is known.
        failed: The stream is of no use.
    """

    __slots__ = ("_waits", "error", "failed")

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.failed: bool = False
        self._waits = 0

    def wait(self) -> None:
        """It waits for the client."""
        self._waits += 1

    def break_off(self, error: BaseException | None) -> None:
        """It failed; the first error counts."""
        self.error = self.error or error
        self.failed = True

    @property
    def nothing_came(self) -> bool:
        """The client closed the connection, or reset it, before its first octet."""
        garbage = isinstance(self.error, ssl.SSLError) and not isinstance(self.error, _END_OF_STREAM)
        return self.failed and self._waits == 1 and not garbage


_handshakes: weakref.WeakKeyDictionary[trio.lowlevel.Task, Handshake] = weakref.WeakKeyDictionary()


@contextmanager
def shaking_hands() -> Iterator[Handshake]:
    """Watch the handshake that this task makes inside the block.

    A handshake that fails with an error of TLS returns then as if it had succeeded, after its alert was sent. The
    caller must look at `Handshake.failed`, and close the stream where it is true. Handshakes of other tasks raise as
    ever.
    """
    task = trio.lowlevel.current_task()
    _handshakes[task] = handshake = Handshake()
    try:
        yield handshake
    finally:
        del _handshakes[task]


def _watched() -> Handshake | None:
    try:
        return _handshakes.get(trio.lowlevel.current_task())
    except RuntimeError:  # the context serves other programs too, and this handshake is in no task
        return None


class _SSLObject(ssl.SSLObject):
    """See the head of this file."""

    _failed = False
    _kept: ssl.SSLError | None = None
    # So many calls of `read` give one record each before one looks for more.
    _calls_to_look = 0

    def do_handshake(self) -> None:
        handshake = _watched()
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            if handshake is not None:
                handshake.wait()
            raise
        except ssl.SSLError as exc:
            if handshake is None:
                raise
            handshake.break_off(exc.with_traceback(None))  # its traceback holds this frame: a cycle
            self._failed = True

    def version(self) -> str | None:
        # SSLStream keeps back what a TLS 1.3 handshake ends with (session tickets) until something else is sent. Here
        # that is the alert, and nothing else will be sent.
        return None if self._failed else super().version()

    def read(  # type: ignore[override]  # typeshed's overloads say the same
        self,
        len: int = 1024,  # noqa: A002 - the standard library's name
        buffer: bytearray | None = None,
    ) -> bytes | int:
        if buffer is not None:
            return super().read(len, buffer)
        if self._kept is not None:
            kept, self._kept = self._kept, None
            raise kept
        data = super().read(len)
        if self._calls_to_look:
            self._calls_to_look -= 1
            return data
        return self._read_more(data, len)

    def _read_more(self, data: bytes, most: int) -> bytes:
        """Read the records that have come behind this one, until `most` octets are there."""
        records = [data]
        left = most - len(data)
        try:
            while left > 0 and data:
                records.append(data := super().read(left))
                left -= len(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._kept = exc.with_traceback(None)  # raised by the next call, after the caller had what came before
        if len(records) > 1:
            return b"".join(records)
        self._calls_to_look = _CALLS_WITHOUT_LOOK
        return data


def improve(context: ssl.SSLContext) -> None:
    """Have connections of this context read several records at a time, and send the alert of a failed handshake.

    A context that has a class of its own for SSLObjects is left as it is. A second call does nothing.

    Args:
        context: Any context.
    """
    if context.sslobject_class is ssl.SSLObject:
        context.sslobject_class = _SSLObject
