"""trio_smtp.plugins.metrics in one process: the page, the health checks, and who reads them badly."""

from __future__ import annotations

import importlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_smtp import App, AuthContext, Config, DataContext, SMTPError, SMTPServer
from trio_smtp.plugins.metrics import Check, Metrics, metrics, reachable
from trio_smtp.plugins.metrics.families import Values, render, total
from trio_smtp.plugins.metrics.process import Process

from .metrics_support import eventually, get, request, values, values_of
from .socket_support import connected, serving
from .support import BODY, send
from .tls_support import NAME


def app_with(plugin: Metrics) -> App:
    app = App()
    app.use(plugin)

    @app.on_data
    async def data(ctx: DataContext) -> None:
        with ctx.delivering("memory"):
            body = await ctx.stream.read()
            if body.startswith(b"refuse"):
                ctx.reject("No", int(body[7:10]))
            if body.startswith(b"crash"):
                raise RuntimeError("crash")

    return app


@asynccontextmanager
async def measured(**checks: Check) -> AsyncIterator[tuple[Metrics, SMTPServer]]:
    plugin = metrics("127.0.0.1:0", checks=checks)
    async with serving(app_with(plugin)) as server:
        yield plugin, server


async def test_the_page() -> None:
    async with measured() as (plugin, server):
        async with connected(server) as client:
            await client.ehlo()
            for body in (BODY, b"refuse 550", b"refuse 451", b"crash"):
                await send(client, body)
            status, page = await get(plugin, "/metrics")
            assert status == 200
            found = values_of(page)
            assert found["trio_smtp_connections"] == 1
            await client.quit()
        expected = {
            "trio_smtp_processes": 1,
            'trio_smtp_connections_total{outcome="accepted"}': 1,
            'trio_smtp_messages_total{outcome="accepted"}': 1,
            'trio_smtp_messages_total{outcome="refused"}': 3,
            "trio_smtp_message_bytes_total": len(BODY),
            "trio_smtp_message_seconds_count": 4,
            'trio_smtp_commands_total{verb="end",code="550"}': 1,
            'trio_smtp_handler_seconds_count{phase="on_data"}': 4,
            'trio_smtp_handler_seconds_bucket{phase="on_data",le="+Inf"}': 4,
            **{
                f'trio_smtp_delivery_seconds_count{{target="memory",outcome="{outcome}"}}': 1
                for outcome in ("accepted", "refused", "deferred", "failed")
            },
        }
        assert {name: found.get(name) for name in expected} == expected


async def test_what_was_served_before_counts_on() -> None:
    plugin = metrics("127.0.0.1:0")
    app = app_with(plugin)
    for connections in (1, 2):
        async with serving(app) as server:
            async with connected(server) as client:
                await client.quit()
            found = values_of((await get(plugin, "/metrics?x=1"))[1])
            assert found['trio_smtp_connections_total{outcome="accepted"}'] == connections


async def test_several_apps_share_a_page() -> None:
    plugin = metrics("127.0.0.1:0")
    async with (
        serving(app_with(plugin)) as one,
        serving(app_with(plugin)) as two,
        connected(one),
        connected(two),
    ):
        assert (await values(plugin))["trio_smtp_connections"] == 2


async def test_health() -> None:
    async with measured() as (plugin, server), connected(server) as client:
        assert await get(plugin, "/livez") == (200, "alive\n")
        assert await get(plugin, "/readyz") == (200, "ready\n")
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")  # so that the drain takes its time
        server.drain()
        assert await get(plugin, "/readyz") == (503, "draining\n")
        assert (await get(plugin, "/livez"))[0] == 200
        assert (await values(plugin))["trio_smtp_draining_processes"] == 1


async def test_a_target_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_smtp.plugins.metrics.process._BETWEEN_CHECKS", 0.1)
    up = trio.Event()

    async def check() -> bool:
        return up.is_set()

    async def raises() -> None:
        if not up.is_set():
            raise OSError("no route")

    with socket.create_server(("127.0.0.1", 0)) as target:
        async with measured(shop=check, other=raises, near=reachable(*target.getsockname()[:2])) as (plugin, _):

            async def near_is_up() -> bool:
                return bool((await values(plugin))['trio_smtp_target_up{target="near"}'])

            async def ready() -> bool:
                return await get(plugin, "/readyz") == (200, "ready\n")

            await eventually(near_is_up)
            assert await get(plugin, "/readyz") == (503, "target down: shop\n")
            found = await values(plugin)
            assert found['trio_smtp_target_up{target="shop"}'] == found['trio_smtp_target_up{target="other"}'] == 0
            up.set()
            await eventually(ready)


async def test_a_target_that_is_not_checked_yet() -> None:
    async with measured(slow=trio.sleep_forever) as (plugin, _):
        assert await get(plugin, "/readyz") == (503, "target not checked yet: slow\n")


# Whoever can reach the port


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"EHLO example.org\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000, 431),
    ],
)
async def test_what_is_no_request_for_a_page(octets: bytes, status: int) -> None:
    async with measured() as (plugin, _):
        assert (await request(plugin, octets)).startswith(f"HTTP/1.1 {status} ".encode())


async def test_head() -> None:
    async with measured() as (plugin, _):
        answer = await request(plugin, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert b"Content-Length: 6" in answer


async def test_a_client_that_says_nothing_and_one_that_resets() -> None:
    async with measured() as (plugin, _):
        assert await request(plugin, b"", then_end=True) == b""
        assert plugin.address is not None
        async with await trio.open_tcp_stream(*plugin.address) as stream:
            await stream.send_all(b"GET /met")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        assert (await get(plugin, "/livez"))[0] == 200


async def test_slow_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_smtp.plugins.metrics.http._SECONDS", 0.2)
    async with measured() as (plugin, _):
        assert await request(plugin, b"GET /metrics HTTP/1.1\r\n") == b""


async def test_too_many_connections() -> None:
    async with measured() as (plugin, _):
        assert plugin.address is not None
        streams = [await trio.open_tcp_stream(*plugin.address) for _ in range(32)]
        for stream in streams:
            await stream.send_all(b"GET ")
        with trio.fail_after(20):
            while True:
                try:
                    if await request(plugin, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") == b"":
                        break
                except trio.BrokenResourceError:
                    break  # closed before the request was read
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(20):
            while True:
                try:
                    if (await request(plugin, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200"):
                        break
                except trio.BrokenResourceError:
                    continue


async def test_a_page_that_crashes_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with measured() as (plugin, server):

        def crash(_: object) -> str:
            raise RuntimeError("crash")

        with monkeypatch.context() as patch:
            patch.setattr("trio_smtp.plugins.metrics.plugin.render", crash)
            assert await request(plugin, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert "the metrics' page cannot be made" in caplog.text
        async with connected(server) as client:
            await client.quit()


# Labels


async def test_labels_are_from_closed_sets() -> None:
    process = Process({})
    for n in range(60):
        with process.delivering(None, f"t{n}"):  # type: ignore[arg-type] # it does not look at the session
            pass
    targets = {key[1] for key in process.report().values if key[0] == "trio_smtp_delivery_seconds"}
    assert len(targets) == 51
    assert "other" in targets


async def test_a_cancelled_delivery() -> None:
    process = Process({})
    with trio.move_on_after(0):
        with process.delivering(None, "slow"):  # type: ignore[arg-type]
            await trio.sleep_forever()
    with pytest.raises(SMTPError), process.delivering(None, "slow"):  # type: ignore[arg-type]
        raise SMTPError("No", 550)
    assert {key for key in process.report().values if key[0] == "trio_smtp_delivery_seconds"} == {
        ("trio_smtp_delivery_seconds", "slow", "cancelled"),
        ("trio_smtp_delivery_seconds", "slow", "refused"),
    }


async def test_tls_and_auth(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    plugin = metrics("127.0.0.1:0")
    app = app_with(plugin)

    @app.on_auth
    async def auth(ctx: AuthContext) -> None:
        ctx.accept()

    async with serving(app, ssl_context=server_ssl_context) as server, connected(server) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, server_hostname=NAME)
        await client.ehlo()
        await client.command("AUTH PLAIN AGJvYgB4")
        found = await values(plugin)
        assert found['trio_smtp_tls_handshakes_total{outcome="completed",version="TLSv1.3"}'] == 1
        assert found['trio_smtp_auth_total{mechanism="PLAIN",outcome="accepted"}'] == 1


def test_a_target_is_up_where_all_processes_reach_it() -> None:
    up: list[Values] = [{("trio_smtp_target_up", "shop"): [float(n)]} for n in (1, 0, 1)]
    assert total(up) == {("trio_smtp_target_up", "shop"): [0]}


def test_labels_are_escaped() -> None:
    page = render({("trio_smtp_auth_total", 'a"b\\c\nd', "accepted"): [1]})
    assert 'trio_smtp_auth_total{mechanism="a\\"b\\\\c\\nd",outcome="accepted"} 1' in page.splitlines()


# Where it listens


@pytest.mark.parametrize(
    "listen", ["", "9464", "localhost", "localhost:", ":9464", "::1:9464", "h:99999", "h:x", "a b:1"]
)
def test_places_that_are_none(listen: str) -> None:
    with pytest.raises(ValueError, match="listen must be HOST:PORT"):
        metrics(listen)


def test_names_of_checks() -> None:
    with pytest.raises(ValueError, match="checks: a name has"):
        metrics(checks={"10.0.0.1:25": reachable("10.0.0.1", 25)})


@pytest.mark.parametrize("listen", ["localhost:0", "[::1]:0", "*:0"])
async def test_places(listen: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    plugin = metrics(listen)
    try:
        async with serving(app_with(plugin)):
            assert plugin.address is not None
            assert f":{plugin.address[1]}/metrics" in caplog.text
            async with await trio.open_tcp_stream(
                "127.0.0.1" if "*" in listen else listen[:-2].strip("[]"), plugin.address[1]
            ):
                pass
    except ExceptionGroup as group:
        if listen == "[::1]:0" and group.subgroup(OSError):
            pytest.skip("no IPv6 here")
        raise


async def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plugin = metrics(f"127.0.0.1:{taken.getsockname()[1]}")
        server = SMTPServer(app_with(plugin), Config(port=0, host="127.0.0.1"))
        with pytest.raises(OSError, match="metrics cannot listen on "):
            await server.serve_tcp()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h11", None)
    monkeypatch.delitem(sys.modules, "trio_smtp.plugins.metrics.http")
    with pytest.raises(ImportError, match=r"pip install 'trio-smtp\[metrics\]'"):
        importlib.import_module("trio_smtp.plugins.metrics.http")
