"""`trio-smtp check`: whether a server answers."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trio_smtp import App, Config
from trio_smtp.background import BackgroundServer
from trio_smtp.cli import main

from .conftest import CertificateFiles


@contextmanager
def serving(config: Config | None = None) -> Iterator[str]:
    with BackgroundServer(App(), config or Config(port=0)) as server:
        yield f"127.0.0.1:{server.port}"


def test_a_server_that_serves(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as place:
        assert main(["check", place]) == 0
        assert re.fullmatch(rf"smtp://{place} serves \(.*PIPELINING.*\)\n", capsys.readouterr().out)
        assert main(["check", "-q", place.partition(":")[2]]) == 0
        assert capsys.readouterr().out == ""


def test_lmtp(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Config(port=0, lmtp=True)) as place:
        assert main(["check", "--lmtp", place]) == 0
        assert main(["check", place]) == 1
    assert "lmtp://" in capsys.readouterr().out


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_tls(
    tls: str,
    server_ssl_context: ssl.SSLContext,
    certificate_files: CertificateFiles,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(Config(port=0, ssl_context=server_ssl_context, implicit_tls=tls == "implicit")) as place:
        assert main(["check", f"--tls={tls}", "--no-verify", place]) == 0
        assert ", TLSv1.3)" in capsys.readouterr().out
        assert main(["check", f"--tls={tls}", place]) == 1
        assert "certificate" in capsys.readouterr().err
    assert main(["check", f"--tls={tls}", "--ca", "nope.pem", place]) == 1
    assert capsys.readouterr().err == "trio-smtp: cannot use nope.pem: No such file or directory\n"


def test_a_server_that_does_not_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert main(["check", "--timeout", "0.2", str(port)]) == 1
        assert re.search(r"^trio-smtp: smtp://127\.0\.0\.1:\d+: .*0\.2 seconds", capsys.readouterr().err)
    assert main(["check", f"[::1]:{port}"]) == 1
    assert "trio-smtp: smtp://[::1]:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["x"], [], ["25", "--timeout", "0"], ["25", "--timeout", "x"], ["25", "--tls", "x"]])
def test_mistakes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check", *words])
    assert capsys.readouterr().err.startswith("trio-smtp check: ")


def test_a_host_that_cannot_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a/b:25"]) == 2
    assert "a/b" in capsys.readouterr().err


def test_why_a_server_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert main(["check", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err.endswith(f"all attempts to connect to 127.0.0.1:{port} failed: Connection refused\n")


def test_a_server_without_starttls(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as place:
        assert main(["check", "--tls=starttls", place]) == 1
        assert capsys.readouterr().err == f"trio-smtp: smtp://{place}: the server does not offer STARTTLS\n"
