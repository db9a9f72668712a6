"""Mailbox: the messages that have come, for any thread and any event loop, and waiting for one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, Unpack

import trio

from .captured import CapturedMessage, CapturedSession
from .failing import Failing
from .loops import trio_token
from .matching import Criteria, Search, check, matching, nothing_came, unwanted, what_clients_did

__all__ = ["Mailbox"]


class _Event(Protocol):
    def set(self) -> object: ...

    async def wait(self) -> object: ...


class Mailbox(Failing):
    """What has come to a server, and the failures that it has been told to make. Any thread may use it."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._messages: list[CapturedMessage] = []
        self._sessions: list[CapturedSession] = []
        # What is called when a message has come, for those who wait in an event loop.
        self._wakers: list[Callable[[], object]] = []
        # Sessions of an earlier generation were there before `clear`: what they send is dropped.
        self._generation = 0

    # Filled by the server

    def _begin(self, session: CapturedSession) -> int:
        """A client has connected; returns the generation that its messages belong to."""
        with self._changed:
            self._sessions.append(session)
            return self._generation

    def _store(self, message: CapturedMessage, generation: int) -> None:
        """A message has come; one of an earlier generation is dropped."""
        with self._changed:
            if generation != self._generation:
                return
            self._messages.append(message)
            self._changed.notify_all()
            wakers = list(self._wakers)
        for wake in wakers:
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                wake()

    def _forget(self) -> None:
        """Forget all; what open sessions still send is dropped."""
        with self._changed:
            self._generation += 1
            self._messages.clear()
            self._sessions.clear()
        self.rules.clear()

    # Read by tests

    def _check(self) -> None:
        """Raises RuntimeError where there are no messages to be had."""

    @property
    def messages(self) -> list[CapturedMessage]:
        """The messages that have come, in order; a list of the caller's own."""
        self._check()
        with self._changed:
            return list(self._messages)

    @property
    def sessions(self) -> list[CapturedSession]:
        """The connections, in order, those that have ended as well; a list of the caller's own."""
        self._check()
        with self._changed:
            return list(self._sessions)

    @property
    def transcript(self) -> str:
        """The dialogues of all connections, an empty line between two; secrets are masked."""
        return "\n".join(session.transcript for session in self.sessions)

    def latest(self) -> CapturedMessage:
        """Get the message that came last.

        Raises:
            AssertionError: None has come; the text tells of the clients that have connected.
        """
        messages = self.messages
        if not messages:
            raise AssertionError("\n".join(["no message has come", *what_clients_did(self.sessions)]))
        return messages[-1]

    def only(self) -> CapturedMessage:
        """Get the one message that has come.

        Raises:
            AssertionError: More than one have come, and the text lists them; or none, and the text tells of the clients
                that have connected.
        """
        messages = self.messages
        if len(messages) != 1:
            lines = [f"  {message!r}" for message in messages[:20]] or what_clients_did(self.sessions)
            raise AssertionError("\n".join([f"{len(messages)} messages have come, not one", *lines]))
        return messages[0]

    def clear(self) -> None:
        """Forget the messages, and the sessions that have ended. Rules stay, and so do connections."""
        self._check()
        with self._changed:
            self._messages.clear()
            self._sessions[:] = [session for session in self._sessions if session.ended is None]

    # Waiting in an event loop

    async def wait_for_async(self, *, timeout: float = 5, **criteria: Unpack[Criteria]) -> CapturedMessage:
        """Wait for a message in an event loop of asyncio or Trio; one that is there already counts.

        Args:
            timeout: Seconds.
            criteria: What it must be like; see `Criteria`.

        Returns:
            The first message that matches.

        Raises:
            AssertionError: None has come; the text lists what came, and what each missed.
            TypeError: A criterion is unknown.
        """
        found = await self._arrival(timeout, criteria)
        if found is None:
            raise AssertionError(self._nothing_came(criteria, timeout))
        return found

    async def wait_for_none_async(self, *, within: float = 0.5, **criteria: Unpack[Criteria]) -> None:
        """Wait in an event loop of asyncio or Trio, and see to it that no such message comes, or is there already.

        Args:
            within: Seconds.
            criteria: What it must not be like; see `Criteria`.

        Raises:
            AssertionError: One has come.
            TypeError: A criterion is unknown.
        """
        found = await self._arrival(within, criteria)
        if found is not None:
            raise AssertionError(unwanted(criteria, found))

    async def _arrival(self, timeout: float, criteria: Criteria) -> CapturedMessage | None:
        check(criteria)
        if trio_token() is not None:
            with trio.move_on_after(timeout), self._woken(trio.Event) as event:
                return await self._look(event, criteria)
            return matching(self.messages, criteria)
        try:
            async with asyncio.timeout(timeout):
                with self._woken(asyncio.Event) as event:
                    return await self._look(event, criteria)
        except TimeoutError:
            return matching(self.messages, criteria)

    async def _look(self, event: Callable[[], _Event], criteria: Criteria) -> CapturedMessage:
        search = Search(criteria)
        while True:
            arrival = event()
            found = search.find(self.messages)
            if found is not None:
                return found
            await arrival.wait()

    @contextmanager
    def _woken(self, make: Callable[[], _Event]) -> Iterator[Callable[[], _Event]]:
        """Gives a function that makes an event, which is set when the next message comes."""
        events: list[_Event] = []

        def renew() -> _Event:
            events[:] = [make()]
            return events[0]

        def set_event() -> None:
            for event in events:
                event.set()

        wake = _waker(set_event)
        with self._changed:
            self._wakers.append(wake)
        try:
            yield renew
        finally:
            with self._changed:
                self._wakers.remove(wake)

    def _nothing_came(self, criteria: Criteria, timeout: float) -> str:
        return nothing_came(criteria, timeout, self.messages, self.sessions)

    # Waiting in a thread

    def _wait(self, timeout: float, criteria: Criteria) -> CapturedMessage | None:
        check(criteria)
        deadline = time.monotonic() + timeout
        search = Search(criteria)
        while True:
            with self._changed:
                messages = list(self._messages)
            found = search.find(messages)  # without the lock: the server goes on
            if found is not None:
                return found
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                if messages == self._messages:
                    self._changed.wait(left)


def _waker(function: Callable[[], object]) -> Callable[[], object]:
    """A function for any thread that has another one called in the event loop which runs now."""
    token = trio_token()
    if token is None:
        loop = asyncio.get_running_loop()
        return lambda: loop.call_soon_threadsafe(function)

    def wake() -> None:
        if trio_token() is token:
            function()  # at once, also under a clock that jumps
        else:
            token.run_sync_soon(function)

    return wake
