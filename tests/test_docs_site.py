"""The site of docs/: every public name and every page has a place, links lead somewhere, what CI calls is there."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .golden_support import recorded
from .test_docs import DOCS, PAGES, ROOT

SITE: dict[str, Any] = runpy.run_path(str(DOCS / "site_pages.py"))
WRITTEN: dict[str, str] = dict(SITE["pages"]())
#: Pages in Markdown whose links people follow, also where there is no site.
MARKDOWN = [*PAGES.values(), *(ROOT / name for name in SITE["ROOT_PAGES"])]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that a forge gives to the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


# The reference


def described() -> set[str]:
    """The names that have an entry in the reference, or a page."""
    pages = "".join(text for name, text in WRITTEN.items() if name.startswith("reference/"))
    return set(re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", pages, re.MULTILINE))


def test_every_public_name_is_in_the_reference() -> None:
    offered = {f"{module}.{name}" for module in SITE["MODULES"] for name in importlib.import_module(module).__all__}
    assert len(offered) > 150
    assert (offered | set(recorded("public_face"))) - described() == set()


@pytest.mark.parametrize(
    "module",
    [
        "testing",
        "background",
        "client",
        "inbox",
        "reading",
        "tls",
        "delivery.maildir",
        "plugins.faults",
        "protocol.sasl",
    ],
)
def test_the_module_has_a_page(module: str) -> None:
    assert f"   trio_smtp.{module}\n" in WRITTEN["reference/index.rst"]
    assert f"automodule:: trio_smtp.{module}\n" in WRITTEN[f"reference/trio_smtp.{module}.rst"]


def test_every_constant_and_type_is_explained() -> None:
    pages = "".join(text for name, text in WRITTEN.items() if name.startswith("reference/"))
    assert re.findall(r"^\.\. py:data:: ([\w.]+)\n\n *$", pages, re.MULTILINE) == []


def test_a_table_of_a_docstring_is_one_of_the_site() -> None:
    made = SITE["with_tables"](["What:", "", "| a | b |", "|---|---|", "| 1 | |", "End."])
    head = [".. list-table::", "   :header-rows: 1", ""]
    assert made == ["What:", "", "", *head, "   * - a", "     - b", "   * - 1", "     - ", "", "End."]
    assert SITE["with_tables"](["No | table", ""]) == ["No | table", ""]


# The navigation, the examples, the links


def test_every_page_is_in_the_navigation() -> None:
    contents = SITE["navigation"]((DOCS / "README.md").read_text(encoding="utf-8"))
    places = {path.stem for path in DOCS.glob("*.md")} - {"README"}
    places |= {f"site/{name.lower().removesuffix('.md')}" for name in SITE["ROOT_PAGES"]}
    places |= {"site/reference/index", "site/examples/index"}
    listed = re.findall(r"^[\w/-]+$", contents, re.MULTILINE)
    assert set(listed) == places
    assert len(listed) == len(places), "a page has one place"


def test_a_page_that_is_added_to_the_list_gets_a_place() -> None:
    contents = SITE["navigation"]("# Documentation\n\n## Deliveries\n\n* [Into a Maildir](maildir.md): files.\n")
    assert contents == "```{toctree}\n:hidden:\n:caption: Deliveries\n\nmaildir\n```\n"


def test_every_program_of_the_examples_is_shown() -> None:
    for path in (ROOT / "examples").rglob("*.py"):
        name = path.relative_to(ROOT / "examples").parts[0].removesuffix(".py")
        assert path.read_text(encoding="utf-8").rstrip() in WRITTEN[f"examples/{name}.md"]
        assert f"{name} <{name}>" in WRITTEN["examples/index.md"]


def test_links_lead_to_the_pages_of_the_site() -> None:
    text = (
        "[a](../examples/auth.py) [b](../SECURITY.md#how-to-report) [c](inbox.md) [d](../benchmarks/run.py) [e](#f)\n"
    )
    relinked = SITE["relinked"](text + "```\n[a](../examples/auth.py)\n```\n", DOCS / "x.md", DOCS / "x.md")
    assert relinked == (
        "[a](site/examples/auth.md) [b](site/security.md#how-to-report) [c](inbox.md) d [e](#f)\n"
        "```\n[a](../examples/auth.py)\n```\n"
    )


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: path.name)
def test_links_lead_to_a_file_and_to_a_heading(page: Path) -> None:
    wrong = []
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if re.match("https?:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_the_check_of_a_built_site_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there">b</a><a href="https://example.com/x">c</a>')
    (tmp_path / "b.html").write_text('<p id="there"><img src="c.png">')
    command = [sys.executable, str(ROOT / ".ci" / "links.py"), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (1, "b.html: c.png\n")
    (tmp_path / "c.png").touch()
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    (tmp_path / "b.html").write_text("<p>")
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (1, "a.html: b.html#there\n")


def test_the_picture_of_the_state_machine_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "print_state_machine.py"))
    assert (DOCS / "state-machine.svg").read_text(encoding="utf-8") == script["picture"]()


# What the forge does


def test_workflows_and_hooks_call_what_is_there() -> None:
    files = [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".ci" / "run", ROOT / ".pre-commit-config.yaml"]
    called = {
        name for path in files for name in re.findall(r"(?<![\w/])((?:\.ci|tests)/[\w./]*\w)", path.read_text("utf-8"))
    }
    assert {".ci/run", ".ci/docs", ".ci/types", ".ci/forge", "tests/test_docs_site.py"} <= called
    assert [name for name in called if not (ROOT / name).exists()] == []


def test_the_steps_that_a_workflow_names_exist() -> None:
    steps = set(re.findall(r'step "([^"]+)"', (ROOT / ".ci" / "run").read_text("utf-8")))
    template = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text("utf-8")
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    (asked,) = re.findall(r"run: \.ci/run (.+)", workflow)
    (told,) = re.findall(r"`\.ci/run (.+?)`", template)
    named = {name or quoted for quoted, name in re.findall(r'"([^"]+)"|(\S+)', f"{asked} {told}")}
    assert len(named) > 4
    assert named - steps == set()


def test_only_the_steps_that_are_asked_for_run() -> None:
    command = ["bash", str(ROOT / ".ci" / "run"), "no such step"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "\nOf the 1 steps that were asked for, 0 exist.\n")


def test_every_python_is_tested_and_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    assert named == ["3.11", "3.12", "3.13", "3.14"]
    versions = ", ".join(f'"{each}"' for each in named)
    assert f"python: [{versions}]" in workflow
    assert re.search(r"runner: \[ubuntu-\S+, macos-\S+\]", workflow)


def test_nobody_is_invented() -> None:
    for name in ("CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"):
        assert re.findall(r"\S+@\S+\.\w+|https?://\S+", (ROOT / name).read_text("utf-8")) == []
