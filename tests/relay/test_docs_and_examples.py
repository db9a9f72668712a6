"""The code of docs/proxy.md and docs/lmtp.md serves, and the examples do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_smtp
from tests.client.support import Mailbox, in_memory
from tests.conftest import CertificateFiles
from tests.test_examples import load
from trio_smtp import App, Config
from trio_smtp.testing import open_client

from .support import LMTP, MAIL, Front
from .test_lmtp import quotas

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in ("proxy", "lmtp")
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.fixture
def next_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have connections opened to a listener in memory."""

    def use(listener: Any) -> None:
        async def connect(*where: Any) -> trio.abc.Stream:
            return await listener.connect(peer=("127.0.0.1", 5))  # type: ignore[no-any-return]

        monkeypatch.setattr(trio, "open_tcp_stream", connect)
        monkeypatch.setattr(trio, "open_unix_socket", connect)

    return use


@pytest.mark.parametrize("code", BLOCKS)
async def test_the_pages(code: str, next_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    lmtp = "delivery.lmtp" in code
    runs: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(trio_smtp, "run", lambda *arguments: runs.append(arguments))
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(code, "page", "exec"), namespace)
    box = Mailbox()
    async with in_memory(quotas(box) if lmtp else box.app, lmtp=lmtp) as listener:
        next_server(listener)
        async with open_client(namespace["app"], Config(hostname="front.example")) as client:
            front = Front(client, namespace["app"])
            recipients = ("full@example.com", "b@example.com") if "on_refused" in code else ("b@example.com",)
            await front.begin(*recipients)
            assert (await front.data())[0].startswith("250")
    assert len(box.messages) == 1
    assert ("full@example.com has not got" in capsys.readouterr().out) is ("on_refused" in code)
    assert len(runs) == ("__main__" in code)


async def test_tls_front(next_server: Any, certificate_files: CertificateFiles) -> None:
    box, module = Mailbox(), load("tls_front")
    app: App = module.app
    config: Config = module.make_config([str(certificate_files.cert), str(certificate_files.key)])
    assert config.starttls_required
    async with in_memory(box.app, xforward=("127.0.0.1",)) as listener:
        next_server(listener)
        async with open_client(app, Config(hostname="front.example", allow_insecure_auth=True)) as client:
            front = Front(client, module.app)
            assert await front.begin("b@elsewhere.example", "b@example.com") == [250, 550, 250]
            await front.data()
            assert (await client.auth_plain("alice@example.com", "wrong")).code == 535
            assert (await client.auth_plain("alice@example.com", "correct horse battery staple")).code == 235
            assert await front.begin("b@elsewhere.example") == [250, 250]
            await front.data()
    assert [message.endswith(MAIL) for message in box.messages] == [True, True]


async def test_lmtp_behind_postfix(next_server: Any) -> None:
    box = Mailbox()
    app: App = load("lmtp_behind_postfix").app
    async with in_memory(quotas(box), lmtp=True) as listener:
        next_server(listener)
        async with open_client(app, LMTP) as client:
            front = Front(client, app)  # type: ignore[arg-type]
            await front.begin("b@example.com", "full@example.com")
            replies = await front.data(b"List-Id: <x>\r\n\r\nHello\r\n", replies=2)
            assert [reply[:3] for reply in replies] == ["250", "452"]
    (message,) = box.messages
    assert b"X-Bulk: yes\r\n" in message
