"""The page about tests of code that sends mail, and the example projects: every test in them is run by pytest."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .support import needs
from .test_plugin import Project

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "testing-mail.md"
README = ROOT / "README.md"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


BLOCKS = python_blocks(PAGE) + [code for code in python_blocks(README) if "mailserver" in code]

#: Plugins that the page's tests are for.
PLUGINS = {"asyncio": "pytest_asyncio", "trio": "pytest_trio"}


def imported(code: str) -> set[str]:
    """The first parts of the names of all modules that a block imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def run(directory: Path, *args: str, plugins: tuple[str, ...]) -> str:
    project = Project(directory)
    done = subprocess.run(
        project.command("-W", "default", *args, plugins=plugins),
        cwd=directory,
        env=project.environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{directory}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_is_a_test_or_a_fixture() -> None:
    assert len(BLOCKS) > 10
    assert [code for code in BLOCKS if "def test_" not in code and "@pytest.fixture" not in code] == []


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page(number: int, tmp_path: Path) -> None:
    code = BLOCKS[number]
    plugins = tuple(name for name in PLUGINS if f"pytest.mark.{name}" in code)
    wanted = imported(code) | {PLUGINS[name] for name in plugins}
    if "TestClient" in code:
        wanted.add("httpx")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if "def test_" not in code:  # a fixture for somebody else's plugin
        code += '\n\n@pytest.fixture\ndef settings():\n    return type("Settings", (), {})()\n'
        code += "\n\ndef test_it(mailbox, settings):\n    assert str(mailbox.port) in str(vars(settings))\n"
    (tmp_path / "test_block.py").write_text(code, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    out = run(tmp_path, "-W", "ignore::pytest.PytestConfigWarning", plugins=plugins)
    assert " passed" in out


@pytest.mark.parametrize(
    ("name", "plugins", "passed"),
    [
        pytest.param("django_shop", (), 4, marks=needs("django")),
        pytest.param("asyncio_alarm", ("asyncio",), 3, marks=needs("aiosmtplib", "pytest_asyncio")),
    ],
)
def test_an_example_project(name: str, plugins: tuple[str, ...], passed: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / name, tmp_path / name)
    assert f"{passed} passed" in run(tmp_path / name, plugins=plugins)


def test_every_example_project_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        "asyncio_alarm",
        "django_shop",
        "haproxy_redis",  # by tests/test_redis_machines.py
    }
