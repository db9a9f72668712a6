"""MailServer with real clients in threads and event loops, on loopback."""

from __future__ import annotations

import asyncio
import logging.handlers
import os
import re
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_smtp.testing
from trio_smtp.testing import MailServer
from trio_smtp.testing.certificates import _remove, certificates

from .support import HELLO, needs, send


@pytest.fixture(scope="module")
def shared() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def server(shared: MailServer) -> MailServer:
    shared.start_over()
    return shared


def in_background(function: Callable[..., object], *args: object, after: float = 0.1) -> threading.Timer:
    timer = threading.Timer(after, function, args)
    timer.start()
    return timer


# What comes


def test_a_message_is_there_when_the_client_has_its_reply(server: MailServer) -> None:
    send(server)
    mail = server.only()
    assert mail.raw == HELLO
    assert mail.envelope.sender == "ann@example.com"
    assert mail.envelope.recipients == ["bob@example.com"]
    assert mail.envelope.parameters == {"SIZE": str(len(HELLO))}
    assert mail.envelope.recipient_parameters == [{}]
    assert mail.session.peer is not None
    assert mail.session.peer[0] == "127.0.0.1"
    assert mail.session.helo
    assert (mail.session.tls, mail.session.user, mail.session.password) == (None, None, None)
    assert server.latest() is mail
    assert server.wait_for() is mail
    assert mail.code() == "123456"


def test_parameters_as_they_were_sent(server: MailServer) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=10) as client:
        options = ["BODY=8BITMIME", "RET=HDRS", "ENVID=x"]
        client.sendmail("a@example.com", ["b@example.com"], HELLO, options, ["NOTIFY=NEVER"])
    envelope = server.only().envelope
    assert {"BODY": "8BITMIME", "RET": "HDRS", "ENVID": "x"}.items() <= envelope.parameters.items()
    assert envelope.recipient_parameters == [{"NOTIFY": "NEVER"}]


def test_nothing_and_too_much_are_errors(server: MailServer) -> None:
    with pytest.raises(AssertionError, match="no message has come"):
        server.latest()
    with pytest.raises(AssertionError, match=r"^0 messages have come, not one\n  and no client has connected$"):
        server.only()
    send(server)
    send(server)
    with pytest.raises(AssertionError, match=r"2 messages have come, not one\n  <CapturedMessage 'Hello'"):
        server.only()
    assert len(server.messages) == 2
    server.messages.clear()
    assert len(server.messages) == 2


def test_where_none_has_come_the_error_tells_of_the_clients(server: MailServer) -> None:
    server.fail("rcpt", 550, "No such user")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(server)
    for read in (server.only, server.latest):
        with pytest.raises(AssertionError, match=r"\n  a client from 127.*the last refusal was '550 No such user'$"):
            read()


def test_clear_keeps_connections_and_rules(server: MailServer) -> None:
    send(server)
    server.delay("end", 0.001)
    with smtplib.SMTP(server.host, server.port, timeout=10) as client:
        server.clear()
        assert server.messages == []
        assert len(server.rules) == 1
        client.sendmail("a@example.com", ["b@example.com"], HELLO)
    assert len(server.messages) == 1
    assert [session.helo is None for session in server.sessions] == [False]


def test_the_transcript_has_what_was_said_and_no_secret(server: MailServer) -> None:
    with smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=10) as client:
        client.user, client.password = "bob", "geheim"
        client.ehlo()
        client.auth("LOGIN", client.auth_login, initial_response_ok=False)
        client.sendmail("ann@example.com", ["bob@example.com"], HELLO)
        client.docmd("FOO secret")
    server.wait_for(timeout=0)
    deadline = time.monotonic() + 5
    while server.sessions[0].ended is None and time.monotonic() < deadline:
        time.sleep(0.01)
    text = re.sub(r"(?m)^S: 250-.*\n", "", server.transcript)
    text = text.replace("C: mail FROM", "C: mail from").replace("C: rcpt TO", "C: rcpt to")  # Python's version decides
    assert text == (
        "S: 220 mailserver.test ESMTP\nC: ehlo client.example\nS: 250 HELP\n"
        "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: ***\nS: 334 UGFzc3dvcmQ6\nC: ***\n"
        "S: 235 2.7.0 Authentication successful\n"
        f"C: mail from:<ann@example.com> size={len(HELLO)}\nS: 250 2.1.0 Sender OK\n"
        "C: rcpt to:<bob@example.com>\nS: 250 2.1.5 Recipient OK\n"
        "C: data\nS: 354 End data with <CR><LF>.<CR><LF>\n"
        f"C: ({len(HELLO)} octets of a message)\nS: 250 2.0.0 Message accepted\n"
        "C: (unrecognized, 10 octets)\nS: 500 5.5.1 Command not recognized\n"
        "C: QUIT\nS: 221 2.0.0 Bye\n-- the connection has ended: quit\n"
    )
    assert "geheim" not in text
    assert "secret" not in text
    assert server.only().transcript == server.transcript
    assert server.sessions[0].last_error == "500 Command not recognized"


def test_a_reply_in_whose_place_something_else_is_sent(server: MailServer) -> None:
    server.garbage("mail", times=1)
    with socket.create_connection((server.host, server.port), timeout=10) as client:
        client.sendall(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        deadline = time.monotonic() + 5
        while "\\xff" not in server.transcript and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "S: \\x00\\xff no reply at all \\xfe\n" in server.transcript


# Waiting


def test_a_wait_ends_when_the_message_comes(server: MailServer) -> None:
    timer = in_background(send, server)
    started = time.monotonic()
    mail = server.wait_for(to="bob@*", subject=re.compile("^Hel"), timeout=30)
    assert time.monotonic() - started < 20
    assert mail.subject == "Hello"
    timer.join()


def test_a_wait_that_fails_says_what_came(server: MailServer) -> None:
    send(server)
    in_background(send, server, HELLO, "carol@example.com", after=0.02).join()
    with pytest.raises(AssertionError) as caught:
        server.wait_for(to="dave@*", timeout=0.1)
    assert "1. 'Hello' from <ann@example.com> to bob@example.com: not the to" in str(caught.value)
    assert "2. 'Hello' from <ann@example.com> to carol@example.com: not the to" in str(caught.value)
    assert "event loop" not in str(caught.value)


def test_a_message_that_comes_while_others_are_looked_at(server: MailServer) -> None:
    send(server, HELLO, "carol@example.com")
    started = time.monotonic()

    def wanted(recipient: str) -> bool:
        if len(server.messages) == 1:
            send(server)
        return recipient == "bob@example.com"

    assert server.wait_for(to=wanted, timeout=60).envelope.recipients == ["bob@example.com"]
    assert time.monotonic() - started < 30


def test_a_criterion_that_is_none_is_an_error_at_once(server: MailServer) -> None:
    wrong: Any = {"subjekt": "Hello"}
    with pytest.raises(TypeError, match="subjekt is no criterion: there are to, sender, subject"):
        server.wait_for(timeout=60, **wrong)
    with pytest.raises(TypeError, match="subjekt is no criterion"):
        server.wait_for_none(within=60, **wrong)
    with pytest.raises(TypeError, match="subjekt is no criterion"):
        asyncio.run(server.wait_for_async(timeout=60, **wrong))


def test_waiting_for_nothing(server: MailServer) -> None:
    server.wait_for_none(within=0.05)
    send(server)
    server.wait_for_none(to="carol@*", within=0.05)
    with pytest.raises(AssertionError, match=r"a message \(to='bob@\*'\) came: 'Hello'"):
        server.wait_for_none(to="bob@*", within=5)


def test_many_threads_send_and_wait(server: MailServer) -> None:
    with ThreadPoolExecutor(16) as pool:
        waits = [pool.submit(server.wait_for, to=f"p{n}@*", timeout=30) for n in range(8)]
        for n in range(8):
            pool.submit(send, server, HELLO, f"p{n}@example.com")
        assert sorted(wait.result().envelope.recipients[0] for wait in waits) == [f"p{n}@example.com" for n in range(8)]


def test_waiting_in_asyncio(server: MailServer) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            wait = tasks.create_task(server.wait_for_async(to="bob@*", timeout=30))
            none = tasks.create_task(server.wait_for_none_async(to="carol@*", within=0.2))
            tasks.create_task(asyncio.to_thread(send, server))
        assert wait.result().subject == "Hello"
        assert none.done()
        with pytest.raises(AssertionError, match="not the to"):
            await server.wait_for_async(to="carol@*", timeout=0.05)
        with pytest.raises(AssertionError, match="a message came"):
            await server.wait_for_none_async()

    asyncio.run(main())


def test_an_event_loop_that_has_ended_hinders_nobody(server: MailServer) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # of a task that never ends
    wait = loop.create_task(server.wait_for_async())
    loop.run_until_complete(asyncio.wait([wait], timeout=0.01))
    loop.close()
    send(server)
    assert server.only().subject == "Hello"
    assert not wait.done()


async def test_waiting_in_trio(server: MailServer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.to_thread.run_sync, partial(send, server)))
        mail = await server.wait_for_async(to="bob@*", timeout=30)
    assert mail.subject == "Hello"
    await server.wait_for_none_async(to="carol@*", within=0.05)
    with pytest.raises(AssertionError, match="not the to"):
        await server.wait_for_async(to="carol@*", timeout=0.05)


def test_a_wait_that_holds_its_own_event_loop_up_says_so(server: MailServer) -> None:
    async def main() -> None:
        with pytest.raises(AssertionError, match="wait_for_async"):
            server.wait_for(timeout=0.01)
        with pytest.raises(AssertionError, match="that says nothing"):
            server.wait_for_none(within=0.01)

    asyncio.run(main())
    trio.run(main)


# Isolation


def test_connections_of_the_test_before_are_reset_and_what_they_send_is_dropped(server: MailServer) -> None:
    server.fail("mail")
    client = smtplib.SMTP(server.host, server.port, timeout=10)
    waiting = socket.create_connection((server.host, server.port), timeout=10)
    half = socket.create_connection((server.host, server.port), timeout=10)
    half.sendall(b"EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nSubject: late\r\n")
    server.start_over()
    assert (server.messages, server.sessions, list(server.rules)) == ([], [], [])
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        client.sendmail("ann@example.com", ["bob@example.com"], HELLO)
    with pytest.raises(ConnectionError):  # noqa: PT012 - the reset may come at either
        for _ in range(100):
            half.sendall(b"\r\n.\r\n")
            time.sleep(0.01)
    send(server)
    assert server.only().subject == "Hello"
    for each in (client, waiting, half):
        each.close()


def test_a_message_of_an_earlier_generation_is_dropped(server: MailServer) -> None:
    send(server)
    mail = server.only()
    generation = server._generation  # noqa: SLF001
    server.start_over()
    server._store(mail, generation)  # noqa: SLF001 - as a slow handler would
    assert server.messages == []


def test_a_rule_that_holds_a_connection_for_long_does_not_hold_the_next_test_up(server: MailServer) -> None:
    server.delay("connect", 300)
    with socket.create_connection((server.host, server.port), timeout=10):
        server.delay("helo", 300)
        started = time.monotonic()
        server.start_over()
        assert time.monotonic() - started < 5


# Start and end


def test_no_thread_and_no_port_is_left() -> None:
    before = set(threading.enumerate())
    with MailServer() as server:
        client = socket.create_connection((server.host, server.port), timeout=10)
        assert set(threading.enumerate()) > before
        send(server)
    assert set(threading.enumerate()) == before
    assert len(server.messages) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=10)
    client.close()
    server.stop()


def test_a_port_in_use_and_a_second_start() -> None:
    with MailServer() as server:
        with pytest.raises(OSError, match="in use"), MailServer(port=server.port):
            pass
        with pytest.raises(RuntimeError, match="one block"):
            server.start()


def test_a_server_that_was_stopped_refuses_and_starts_again_at_its_port() -> None:
    with MailServer() as server:
        url = server.url
        send(server)
        server.stop()
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            send(server)
        assert len(server.messages) == 1
        assert server.start().url == url
        send(server)
        assert len(server.messages) == 2
        server.stop()
        server.start_over()
        assert server.url == url
        assert server.messages == []
        send(server)
    with pytest.raises(RuntimeError, match="has ended"):
        server.start_over()


def test_before_the_start_there_is_nothing() -> None:
    server = MailServer()
    with pytest.raises(RuntimeError, match="not started: write `with MailServer"):
        _ = server.port
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.messages
    server.stop()


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_async_blocks(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        async with MailServer() as server:
            send(server)
            assert (await server.wait_for_async()).subject == "Hello"

    before = set(threading.enumerate())
    run(main() if run is asyncio.run else main)
    assert {each for each in threading.enumerate() if "BackgroundServer" in each.name} <= before


def test_an_async_block_that_is_cancelled_leaves_no_thread() -> None:
    async def main() -> None:
        async with MailServer():
            await asyncio.sleep(60)

    async def cancelled() -> None:
        for after in (0, 0.001, 0.2):
            task = asyncio.create_task(main())
            await asyncio.sleep(after)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    before = set(threading.enumerate())
    asyncio.run(cancelled())
    assert {each for each in threading.enumerate() if "BackgroundServer" in each.name} <= before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_after_a_fork_the_child_sends_and_the_parent_captures(server: MailServer) -> None:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert server.url.startswith("smtp://")
            assert server.env()
            send(server)
            for forbidden in (lambda: server.messages, server.clear, server.wait_for, server.start_over):
                with pytest.raises(RuntimeError, match="forked"):
                    forbidden()
            server.stop()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert server.only().subject == "Hello"


def test_in_a_process_that_was_forked(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        assert server.port
        with pytest.raises(RuntimeError, match="forked"):
            server.latest()
        for change in (server.fail, server.reset):
            with pytest.raises(RuntimeError, match="add rules, in the parent"):
                change("mail")
        server.stop()
        server.__exit__(None, None, None)
        _remove(certificates().directory, 1)
    assert certificates().ca_file.exists()
    send(server)


# Options


def test_any_credentials_are_taken_and_noted(server: MailServer) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=10) as client:
        client.login("bob", "geheim")
        client.sendmail("a@example.com", ["b@example.com"], HELLO)
    session = server.only().session
    assert (session.user, session.password, session.mechanism) == ("bob", "geheim", "PLAIN")


def test_credentials_that_are_checked() -> None:
    with MailServer(auth={"bob": "secret"}, auth_mechanisms=("PLAIN", "CRAM-MD5", "XOAUTH2")) as server:
        assert server.url.startswith("smtp://bob:secret@")
        for mechanism in ("PLAIN", "CRAM-MD5"):
            with smtplib.SMTP(server.host, server.port, timeout=10) as client:
                client.ehlo()
                client.user, client.password = "bob", "secret"
                method = client.auth_plain if mechanism == "PLAIN" else client.auth_cram_md5
                assert client.auth(mechanism, method)[0] == 235
            with smtplib.SMTP(server.host, server.port, timeout=10) as client:
                client.ehlo()
                client.user, client.password = "bob", "wrong"
                method = client.auth_plain if mechanism == "PLAIN" else client.auth_cram_md5
                with pytest.raises(smtplib.SMTPAuthenticationError):
                    client.auth(mechanism, method)
        with smtplib.SMTP(server.host, server.port, timeout=10) as client:
            client.ehlo()
            token = "user=bob\x01auth=Bearer secret\x01\x01"
            assert client.auth("XOAUTH2", lambda challenge=None: token if challenge is None else "")[0] == 235
        with smtplib.SMTP(server.host, server.port, timeout=10) as client, pytest.raises(smtplib.SMTPException):
            client.login("nobody", "secret")
        assert [session.user for session in server.sessions] == ["bob", None, "bob", None, "bob", None]
        assert server.sessions[4].password == "secret"


def test_no_auth() -> None:
    with MailServer(auth=None) as server, smtplib.SMTP(server.host, server.port, timeout=10) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        assert "@" not in server.url
        assert server.env()["SMTP_USER"] == ""


def test_starttls_with_a_certificate_that_is_checked() -> None:
    with MailServer(tls="starttls") as server:
        for host in ("127.0.0.1", "localhost"):
            with smtplib.SMTP(host, server.port, timeout=10) as client:
                client.starttls(context=server.client_ssl_context)
                client.login("bob", "geheim")
                client.sendmail("a@example.com", ["b@example.com"], HELLO)
        assert server.messages[0].session.tls is not None
        assert "-- TLSv1.3\n" in server.transcript
        server.bad_certificate("expired", times=1)
        with (
            smtplib.SMTP("localhost", server.port, timeout=10) as client,
            pytest.raises(ssl.SSLCertVerificationError, match="expired"),
        ):
            client.starttls(context=server.client_ssl_context)
        server.no_starttls()
        with (
            smtplib.SMTP("localhost", server.port, timeout=10) as client,
            pytest.raises(smtplib.SMTPNotSupportedError),
        ):
            client.starttls(context=server.client_ssl_context)


def test_implicit_tls_and_the_authority_as_a_file() -> None:
    with MailServer(tls="implicit") as server:
        assert server.url.startswith("smtps://")
        context = ssl.create_default_context(cafile=server.ca_file)
        with smtplib.SMTP_SSL(server.host, server.port, context=context, timeout=10) as client:
            client.sendmail("a@example.com", ["b@example.com"], HELLO)
        assert server.only().session.tls is not None
        assert server.env()["SSL_CERT_FILE"] == str(server.ca_file)
        assert str(server.port) in str(server.django_settings())


def test_without_tls_there_is_no_authority(server: MailServer) -> None:
    for wanted in ("ca_file", "client_ssl_context"):
        with pytest.raises(RuntimeError, match="has no TLS"):
            getattr(server, wanted)


def test_tls_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    certificates.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'trio-smtp\[testing\]'"):
        MailServer(tls="starttls")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tls": "yes"}, "tls must be"),
        ({"auth": "bob"}, "auth must be"),
        ({"auth": ("bob", "secret")}, "auth must be"),
        ({"max_recipients": 0}, "max_recipients"),
        ({"unix_path": "socket"}, "listens on a TCP port"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MailServer(**options)


def test_names_that_are_unknown(server: MailServer) -> None:
    with pytest.raises(TypeError, match=r"starttls is no option: there are tls, auth, lmtp, and of Config host, port"):
        MailServer(starttls=True)
    unknown: Any = {"tims": 1}
    with pytest.raises(TypeError, match=r"tims is unknown; a rule may have to, sender, user, peer, times"):
        server.fail("rcpt", **unknown)


def test_lmtp() -> None:
    with MailServer(lmtp=True) as server:
        assert server.url.startswith("lmtp://")
        server.fail("end", 550, to="carol@*")
        with smtplib.LMTP(server.host, server.port) as client:
            client.sendmail("a@example.com", ["bob@example.com"], HELLO)
            with pytest.raises(smtplib.SMTPDataError):
                client.sendmail("a@example.com", ["carol@example.com"], HELLO)
        assert server.only().envelope.recipients == ["bob@example.com"]


def test_ipv6_in_a_url() -> None:
    try:
        with MailServer(host="::1") as server:
            assert server.url == f"smtp://user:password@[::1]:{server.port}"
    except OSError:
        pytest.skip("no IPv6 here")


# Failures, as a program meets them: each act is tested in tests/faults


def test_a_message_that_was_taken_and_is_sent_again(server: MailServer) -> None:
    rule = server.disconnect("end", before_reply=True, times=1)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(server)
    assert len(server.messages) == 1
    send(server)
    assert len(server.messages) == 2
    assert rule.hits == 1
    assert "-- the connection has ended: aborted" in server.sessions[0].transcript


def test_a_message_that_was_refused_has_not_come(server: MailServer) -> None:
    server.fail(at="end", code=451, text="Later", times=1)
    with pytest.raises(smtplib.SMTPDataError):
        send(server)
    assert server.messages == []
    with pytest.raises(AssertionError, match="the last refusal was '451 Later'"):
        server.wait_for(timeout=0.01)


def test_every_act_has_a_method(server: MailServer) -> None:
    rules = [
        server.fail("rcpt", 550, "No", enhanced="5.1.1", to="x@*"),
        server.delay("mail", 0.1),
        server.disconnect("quit"),
        server.reset("helo", times=1),
        server.throttle("body", 1000),
        server.rate_limit("mail", 5, 60),
        server.greylist(5),
        server.garbage("data"),
        server.truncate("end"),
        server.no_starttls(),
        server.bad_certificate("wrong-host"),
        server.close_after(100),
    ]
    assert list(server.rules) == rules
    names = ["fail", "delay", "disconnect", "reset", "throttle", "rate_limit", "greylist", "garbage", "truncate"]
    assert [rule.act.name for rule in rules] == [*names, "no_starttls", "bad_certificate", "close_after"]


# Other senders


def test_the_handler_of_logging(server: MailServer) -> None:
    handler = logging.handlers.SMTPHandler(
        (server.host, server.port), "app@example.com", ["ops@example.com"], "It broke", credentials=("user", "password")
    )
    logger = logging.getLogger("tests.mailserver")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.error("disk full")
    finally:
        logger.removeHandler(handler)
    mail = server.wait_for(to="ops@example.com", subject="It broke", text="disk full")
    assert mail.session.user == "user"


@needs("aiosmtplib")
def test_aiosmtplib(server: MailServer) -> None:
    import aiosmtplib

    async def main() -> None:
        sending = aiosmtplib.send(
            HELLO, sender="a@example.com", recipients=["b@example.com"], hostname=server.host, port=server.port
        )
        async with asyncio.TaskGroup() as tasks:
            wait = tasks.create_task(server.wait_for_async(to="b@*"))
            tasks.create_task(sending)
        assert wait.result().subject == "Hello"

    asyncio.run(main())


def test_names_that_are_late_and_names_that_are_not_there() -> None:
    assert set(trio_smtp.testing.__all__) <= {*dir(trio_smtp.testing), *trio_smtp.testing._LATE}  # noqa: SLF001
    for name in trio_smtp.testing.__all__:
        assert getattr(trio_smtp.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = trio_smtp.testing.Nothing


def test_the_file_of_the_authority_goes_with_the_process(tmp_path: Path) -> None:
    script = "from trio_smtp.testing.certificates import certificates as c; print(c().ca_file, c().ca_file.exists())"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    path, existed = out.split()
    assert existed == "True"
    assert not Path(path).exists()
    directory = tmp_path / "certificates"
    directory.mkdir()
    _remove(directory, os.getpid())
    assert not directory.exists()


def test_a_client_that_talks_before_the_greeting_is_no_session() -> None:
    with MailServer(greeting_delay=0.5) as server, socket.create_connection((server.host, server.port)) as client:
        client.sendall(b"EHLO x\r\n")
        assert client.makefile("rb").readline().startswith(b"421 ")
        assert server.sessions == []


def test_a_connection_that_is_greeted_anew_is_one_session() -> None:
    with MailServer(xclient=["127.0.0.1"], auth={"bob": "secret"}) as server:
        with smtplib.SMTP(server.host, server.port, timeout=10) as client:
            client.ehlo()
            assert client.docmd("XCLIENT", "ADDR=192.0.2.1 LOGIN=bob")[0] == 220
            client.ehlo()
            client.sendmail("a@example.com", ["b@example.com"], HELLO)
        assert [session.user for session in server.sessions] == ["bob"]
