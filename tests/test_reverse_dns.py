"""Reverse DNS with forward confirmation: what is believed, how long it may take, and whose threads it takes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.peer_support import PROXY, front
from tests.support import Stopwatch, mail_app
from trio_smtp import ConnectContext, Session
from trio_smtp.net.reverse_dns import leads_back, name_of

Address = tuple[Any, ...]


class Resolver(trio.abc.HostnameResolver):
    """Answers from two tables; names and addresses that are in neither are unknown."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.addresses: dict[str, list[str]] = {}
        self.delay = 0.0
        self.asked: list[str] = []

    async def getnameinfo(self, sockaddr: Address, flags: int) -> tuple[str, str]:
        assert flags & socket.NI_NAMEREQD
        self.asked.append(sockaddr[0])
        await trio.sleep(self.delay)
        if sockaddr[0] not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.names[sockaddr[0]], "0"

    async def getaddrinfo(  # noqa: PLR0917 - trio's signature
        self,
        host: bytes | None,
        port: object,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, Any, int, str, Any]]:
        assert host is not None
        self.asked.append(host.decode())
        await trio.sleep(self.delay)
        if host.decode() not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in self.addresses[host.decode()]]


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


def use(resolver: Resolver) -> None:
    """For this run of trio."""
    trio.socket.set_custom_hostname_resolver(resolver)


async def look_up(address: str | None = PROXY, **fields: Any) -> Session:
    """Connect; returns the session as `on_connect` saw it."""
    app, _ = mail_app()
    seen: list[Session] = []

    @app.on_connect
    async def note(ctx: ConnectContext) -> None:
        seen.append(ctx.session)

    async with front(app, **{"reverse_dns": True} | fields) as there:
        client = await there.connect(address)
        assert (await client.read_reply()).code == 220
    return seen[0]


def found(session: Session) -> tuple[str, bool]:
    return session.client_hostname, session.client_hostname_verified


async def test_a_name_that_leads_back(resolver: Resolver) -> None:
    use(resolver)
    resolver.names[PROXY] = "mail.example.com"
    resolver.addresses["mail.example.com"] = ["203.0.113.1", PROXY]
    assert found(await look_up()) == ("mail.example.com", True)
    assert resolver.asked == [PROXY, "mail.example.com"]


@pytest.mark.parametrize("addresses", [None, [], ["203.0.113.1"]])
async def test_a_name_that_does_not_lead_back(addresses: list[str] | None, resolver: Resolver) -> None:
    use(resolver)
    resolver.names[PROXY] = "mail.example.com"
    if addresses is not None:
        resolver.addresses["mail.example.com"] = addresses
    assert found(await look_up()) == ("mail.example.com", False)


async def test_no_name(resolver: Resolver) -> None:
    use(resolver)
    assert found(await look_up()) == (f"[{PROXY}]", False)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "[203.0.113.1]",
        "203.0.113.1",
        "1",
        "mail.example.1",
        "mail.example.0x7f",
        "0x7f000001",
        "a b",
        "a\r\nX-Evil: yes",
        "evil(comment",
        "b\xfccher.example",
        "a" * 256,
    ],
)
async def test_what_is_no_name_is_not_believed(name: str, resolver: Resolver) -> None:
    use(resolver)
    resolver.names[PROXY] = name
    assert found(await look_up()) == (f"[{PROXY}]", False)
    assert resolver.asked == [PROXY]


@pytest.mark.parametrize("name", ["mail-1.example.com", "a_b.example", "mail.example.com.", "4.3.2.1.dsl.example", "x"])
async def test_names_of_every_kind(name: str, resolver: Resolver) -> None:
    use(resolver)
    resolver.names[PROXY] = name
    resolver.addresses[name] = [PROXY]
    assert found(await look_up()) == (name, True)


async def test_a_label_that_is_too_long_is_no_crash(resolver: Resolver) -> None:
    """The codec that names pass through refuses it in a way of its own."""
    use(resolver)
    resolver.names[PROXY] = "a" * 64 + ".example"
    resolver.addresses["a" * 64 + ".example"] = [PROXY]
    name, _ = found(await look_up())
    assert name == "a" * 64 + ".example"


async def test_off_nobody_is_asked(resolver: Resolver) -> None:
    use(resolver)
    assert found(await look_up(reverse_dns=False)) == (f"[{PROXY}]", False)
    assert found(await look_up(None)) == ("unknown", False)
    assert resolver.asked == []


async def test_the_address_behind_a_proxy_is_looked_up(resolver: Resolver) -> None:
    use(resolver)
    resolver.names["203.0.113.9"] = "client.example"
    resolver.addresses["client.example"] = ["203.0.113.9"]
    app, _ = mail_app()
    async with front(app, reverse_dns=True, proxy_protocol=["192.0.2.0/24"]) as there:
        client = await there.connect(first=b"PROXY TCP4 203.0.113.9 198.51.100.1 1 25\r\n")
        assert (await client.read_reply()).code == 220
        assert found(client.session) == ("client.example", True)
    assert resolver.asked == ["203.0.113.9", "client.example"]


@pytest.mark.parametrize(("delay", "name"), [(2.0, f"[{PROXY}]"), (1.0, "mail.example.com")])
async def test_it_never_takes_longer_than_its_time(
    delay: float,
    name: str,
    resolver: Resolver,
    autojump_clock: trio.testing.MockClock,
) -> None:
    use(resolver)
    resolver.names[PROXY] = "mail.example.com"
    resolver.addresses["mail.example.com"] = [PROXY]
    resolver.delay = delay  # of each of the two look-ups
    watch = Stopwatch()
    session = await look_up(reverse_dns_timeout=1.5, command_timeout=1)
    assert 1.5 <= watch.seconds <= 1.6
    # A name that was found in time is kept; what could not be confirmed in time is not verified.
    assert found(session) == (name, False)


async def test_both_in_time(resolver: Resolver, autojump_clock: trio.testing.MockClock) -> None:
    use(resolver)
    resolver.names[PROXY] = "mail.example.com"
    resolver.addresses["mail.example.com"] = [PROXY]
    resolver.delay = 0.7
    assert found(await look_up()) == ("mail.example.com", True)


async def test_the_resolver_stays_set(resolver: Resolver) -> None:
    use(resolver)
    await look_up()
    assert trio.socket.set_custom_hostname_resolver(None) is resolver


# --- The system's resolver, in threads ---


def fake_system(monkeypatch: pytest.MonkeyPatch, names: dict[str, str], addresses: dict[str, str]) -> list[str]:
    """Replaces the socket module's functions; returns the names of the threads they ran in."""
    threads: list[str] = []

    def getnameinfo(sockaddr: Address, flags: int) -> tuple[str, str]:
        threads.append(threading.current_thread().name)
        assert flags == socket.NI_NAMEREQD
        if sockaddr[0] not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return names[sockaddr[0]], "0"

    def getaddrinfo(host: str, port: object, **hints: int) -> list[Address]:
        threads.append(threading.current_thread().name)
        assert (port, hints) == (None, {"type": socket.SOCK_STREAM})
        if host == "broken.example":
            raise UnicodeError("label empty or too long")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[host], 0))]

    monkeypatch.setattr(socket, "getnameinfo", getnameinfo)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return threads


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mail.example", ("mail.example", True)),
        ("other.example", ("other.example", False)),
        ("broken.example", ("broken.example", False)),
        (None, (f"[{PROXY}]", False)),
    ],
)
async def test_the_systems_resolver(
    name: str | None, expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {} if name is None else {PROXY: name}
    threads = fake_system(monkeypatch, names, {"mail.example": PROXY, "other.example": "203.0.113.1"})
    assert found(await look_up(reverse_dns_timeout=60)) == expected
    assert len(threads) == (1 if name is None else 2)
    assert threading.current_thread().name not in threads


class Hanging:
    """The system's resolver hangs in every look-up until it is released, and then knows no name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        self._look_ups = threading.Semaphore(0)
        monkeypatch.setattr(socket, "getnameinfo", self._hang)

    def _hang(self, sockaddr: Address, flags: int) -> tuple[str, str]:
        self._look_ups.release()
        assert self.release.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    def begun(self) -> int:
        """How many look-ups have begun since this was asked last."""
        count = 0
        while self._look_ups.acquire(blocking=False):
            count += 1
        return count


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """Released in any case when the test ends."""
    there = Hanging(monkeypatch)
    yield there
    there.release.set()


async def give_up(looks: int) -> None:
    """Look up so many addresses at once, and give up soon."""
    with trio.move_on_after(0.1):
        async with trio.open_nursery() as nursery:
            for _ in range(looks):
                nursery.start_soon(name_of, PROXY)


async def test_its_threads_are_apart_from_everybody_elses(hanging: Hanging) -> None:
    """All its threads hang, and neither deliveries nor further clients are held up."""
    app, _ = mail_app()
    async with front(app, reverse_dns=True, reverse_dns_timeout=0.1) as there:
        clients = [await there.connect() for _ in range(15)]
        for client in clients:
            assert (await client.read_reply()).code == 220
        assert {session.client_hostname for session in there.server.sessions} == {f"[{PROXY}]"}
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        assert await trio.to_thread.run_sync(lambda: "a delivery") == "a delivery"
        assert hanging.begun() == 10


async def test_a_thread_can_be_used_again_when_its_look_up_has_ended(hanging: Hanging) -> None:
    await give_up(20)
    assert hanging.begun() == 10
    await give_up(5)
    assert hanging.begun() == 0
    hanging.release.set()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(name_of, PROXY)
    assert hanging.begun() == 20


def test_each_run_has_threads_of_its_own(hanging: Hanging) -> None:
    trio.run(give_up, 20)
    assert hanging.begun() == 10
    trio.run(give_up, 1)
    assert hanging.begun() == 1


# --- The two look-ups by themselves ---


async def test_name_of(resolver: Resolver) -> None:
    use(resolver)
    resolver.names |= {"192.0.2.1": "mail.example.com", "2001:db8::1": "a b"}
    assert await name_of("192.0.2.1") == "mail.example.com"
    assert await name_of("2001:db8::1") is None
    assert await name_of("192.0.2.2") is None


async def test_leads_back(resolver: Resolver) -> None:
    use(resolver)
    resolver.addresses["mail.example.com"] = ["192.0.2.1", "2001:db8::1"]
    assert await leads_back("mail.example.com", "2001:db8::1")
    assert not await leads_back("mail.example.com", "192.0.2.2")
    assert not await leads_back("unknown.example.com", "192.0.2.1")
