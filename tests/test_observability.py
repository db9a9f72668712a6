"""The dashboard, the alert rules, docs/metrics.md and Debian's Prometheus speak of the metrics that there are."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trio_smtp import Histogram
from trio_smtp.plugins.metrics.families import FAMILIES, Family, render
from trio_smtp.testing import open_client

from .support import send as send_body
from .test_metrics_workers import APP, metrics_port, page_of
from .worker_support import PATIENCE, command, connect, send, until

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "packaging" / "observability" / "alerts.yml"
DASHBOARD = ROOT / "packaging" / "observability" / "grafana-dashboard.json"
PAGE = ROOT / "docs" / "metrics.md"
BY_NAME = {family.name: family for family in FAMILIES}


def dashboard_expressions() -> list[str]:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def rule_expressions() -> list[str]:
    """The expressions of the rules: a line, or the lines below ``>-``."""
    found = re.findall(r"^ +expr: (?:>-\n)?(.*?)\n +for:", RULES.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [" ".join(text.split()) for text in found]


EXPRESSIONS = [*dashboard_expressions(), *rule_expressions()]


def families_in(expression: str) -> Iterator[Family]:
    for name in re.findall(r"trio_smtp_\w+", expression):
        family = BY_NAME.get(name) or BY_NAME[re.sub("_(bucket|sum|count)$", "", name)]
        assert (family.kind == "histogram") == (name not in BY_NAME)
        yield family


def test_there_are_expressions() -> None:
    assert len(dashboard_expressions()) >= 13
    assert len(rule_expressions()) == RULES.read_text("utf-8").count("alert:") >= 9


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_name_metrics_and_labels_that_there_are(expression: str) -> None:
    families = list(families_in(expression))
    assert families or expression.startswith("up")
    labels = {label for family in families for label in family.labels} | {"instance", "le", "job"}
    used = {name for names in re.findall(r"by \(([^)]*)\)", expression) for name in re.split(r",\s*", names)}
    used |= set(re.findall(r"[{,](\w+)(?:=~|!=|=)", expression))
    assert used <= labels
    counters = [family for family in families if family.kind == "counter"]
    assert not counters or "rate(" in expression


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {family.name for expression in dashboard_expressions() for family in families_in(expression)}
    assert shown == set(BY_NAME)


def test_the_table_of_the_page_is_what_the_endpoint_gives() -> None:
    rows = re.findall(r"^\| `(trio_smtp_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    listed = [(name, kind, tuple(labels.split(",")) if labels else ()) for name, labels, kind in rows]
    assert listed == [(family.name, family.kind, family.labels) for family in FAMILIES]
    given = re.findall(r"^# TYPE (\w+) (\w+)$", render({}), re.MULTILINE)
    assert given == [(name, kind) for name, kind, _ in listed]


def every_sample() -> str:
    """A page on which each metric has a value."""
    size = len(Histogram.bounds) + 2
    return render(
        {(family.name, *family.labels): [1.0] * (size if family.kind == "histogram" else 1) for family in FAMILIES}
    )


@pytest.mark.program("promtool")
def test_promtool_is_content() -> None:
    for page in (render({}), every_sample()):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=page, text=True, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    subprocess.run(["promtool", "check", "rules", str(RULES)], check=True, capture_output=True, timeout=60)


# Prometheus


CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: trio_smtp
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.program("prometheus")
def test_prometheus_scrapes_two_workers(tmp_path: Path) -> None:
    (tmp_path / "measured.py").write_text(APP)
    with command(tmp_path, "measured:app", "--workers", "2", "--port", "0") as server:
        port, page = server.port(), metrics_port(server)
        for _ in range(4):
            with connect(port) as client:
                send(client)
        accepted = 'trio_smtp_messages_total{outcome="accepted"} 4'
        until(lambda: accepted in page_of(page)[1].splitlines(), tries=10_000)
        config, web = tmp_path / "prometheus.yml", free_port()
        config.write_text(CONFIG.format(rules=RULES, port=page))
        arguments = [
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{web}",
        ]
        with (tmp_path / "prometheus.log").open("wb") as log:
            prometheus = subprocess.Popen(["prometheus", *arguments], stdout=log, stderr=log)
            try:
                look_at(web)
            finally:
                prometheus.send_signal(signal.SIGTERM)
                prometheus.wait(PATIENCE)


def look_at(web: int) -> None:
    """Wait for the values, and ask for each expression of the dashboard and the rules."""

    def ask(expression: str) -> list[Any]:
        url = f"http://127.0.0.1:{web}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        result: list[Any] = found["data"]["result"]
        return result

    def scraped() -> bool:
        try:
            return bool(ask('trio_smtp_messages_total{outcome="accepted"} == 4'))
        except OSError:
            time.sleep(0.1)
            return False

    deadline = time.monotonic() + PATIENCE
    while not scraped():
        assert time.monotonic() < deadline
    assert [value["value"][1] for value in ask("trio_smtp_processes")] == ["2"]
    assert [value["value"][1] for value in ask("trio_smtp_delivery_seconds_count")] == ["4"]
    for expression in EXPRESSIONS:
        ask(expression.replace("$__rate_interval", "1m").replace("$instance", ".*"))


# The programs of the page


async def test_the_recipe_for_structlog(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program = next(
        text
        for text in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        if "structlog" in text
    )
    root, ours = logging.getLogger(), logging.getLogger("trio_smtp")
    monkeypatch.setattr(root, "handlers", [])
    before = root.level
    namespace: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(program, str(PAGE), "exec", dont_inherit=True), namespace)
        async with open_client(namespace["app"]) as client:
            await client.ehlo()
            await send_body(client)
            await client.quit()
    finally:
        root.setLevel(before)
    assert ours.level == logging.NOTSET
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    message = next(line for line in lines if line["event"] == "message")
    assert message["level"] == "info"
    assert message["text"].startswith(f"session={message['session']} ")
    assert "timestamp" in message
