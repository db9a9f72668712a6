"""docs/architecture.md: its pictures are those of the source as it is, and what it names exists."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from .test_architecture import MAX_ATTRIBUTES, MAX_FILE_LINES, MAX_FUNCTION_LINES
from .test_docs import DOCS, PAGES, ROOT

SCRIPT: dict[str, Any] = runpy.run_path(str(DOCS / "draw_architecture.py"))
PACKAGE: Path = SCRIPT["PACKAGE"]
TEXT = (DOCS / "architecture.md").read_text(encoding="utf-8")
WAYS: dict[str, list[Any]] = SCRIPT["ways"](TEXT)
MADE: dict[Path, str] = SCRIPT["files"]()


def defined(path: Path) -> set[str]:
    """The functions, classes and methods of a file, as ``function`` and ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_pictures_and_texts_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == MADE[path], "run python docs/draw_architecture.py"


def test_the_script_writes_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[Path, str] = {}
    monkeypatch.setattr(Path, "write_text", lambda path, content, encoding: written.update({path: content}))
    runpy.run_path(str(DOCS / "draw_architecture.py"), run_name="__main__")
    assert written == MADE


def test_there_is_no_other_picture_and_each_is_shown() -> None:
    pictures = {path for path in MADE if path.suffix == ".svg"}
    assert set((DOCS / "architecture").iterdir()) == pictures
    assert set(re.findall(r"!\[[^\]]{20,}\]\(architecture/(.*?)\)", TEXT)) == {path.name for path in pictures}


@pytest.mark.parametrize("path", [path for path in MADE if path.suffix == ".svg"], ids=lambda path: path.name)
def test_a_picture_is_well_formed_and_has_a_title(path: Path) -> None:
    root = ET.fromstring(MADE[path])
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    # GitHub shows a page of some 1,000 pixels: a wider picture would shrink its text.
    assert int(root.attrib["width"]) <= 1000
    assert "prefers-color-scheme:dark" in MADE[path]


def test_there_are_four_ways() -> None:
    assert set(WAYS) == {"A command line", "An octet of a message", "A reply", "A cancelled connection"}
    for stops in WAYS.values():
        assert 8 <= len(stops) <= 15


@pytest.mark.parametrize("way", WAYS)
def test_every_step_of_a_way_is_a_function_of_its_file(way: str) -> None:
    wrong = [
        f"{stop.file}: {name}"
        for stop in WAYS[way]
        for name in stop.names
        if not (PACKAGE / stop.file).exists() or name not in defined(PACKAGE / stop.file)
    ]
    assert wrong == []


def test_every_object_is_a_class_of_its_file() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| `([\w/]+\.py)` \|", TEXT, re.MULTILINE)
    assert len(rows) > 20
    wrong = [
        f"{file}: {name}"
        for names, file in rows
        for name in re.findall(r"\w+", names)
        if name not in defined(PACKAGE / file)
    ]
    assert wrong == []


def test_every_function_in_the_text_exists() -> None:
    everywhere = {name for path in PACKAGE.rglob("*.py") for name in defined(path)}
    named = set(re.findall(r"`((?:[A-Z]\w*\.)?[_a-z]\w+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))
    methods = {name for name in named if "." in name}
    assert len(methods) > 30
    assert methods - everywhere == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    """In architecture.md names are those inside the package; elsewhere from the root of the repository."""
    text = re.sub(
        r"```.*?```|<!-- begin: (?:dialogue|connection) -->.*?<!-- end", "", PAGES[page].read_text(), flags=re.DOTALL
    )
    folders = "|".join(path.name for path in [*ROOT.iterdir(), *PACKAGE.iterdir()] if path.is_dir())
    named = re.findall(rf"`((?:{folders})/[\w/.]*)`", text)
    wrong = [name for name in named if not (ROOT / name).exists() and not (PACKAGE / name).exists()]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_exists(page: str) -> None:
    def exists(name: str) -> bool:
        outer, _, inner = name.rpartition(".")
        return name in modules or (outer in modules and hasattr(importlib.import_module(outer), inner))

    modules = SCRIPT["modules"]()
    text = PAGES[page].read_text(encoding="utf-8")
    named = set(re.findall(r"\btrio_smtp(?:\.[A-Za-z_]+)+", text))
    assert [name for name in named if not exists(name)] == []


def test_the_limits_are_those_of_the_tests() -> None:
    assert f"at most {MAX_FILE_LINES} lines" in TEXT
    assert f"a function at most {MAX_FUNCTION_LINES}," in TEXT
    assert f"an object at most {MAX_ATTRIBUTES} attributes" in TEXT


def compiled() -> list[str]:
    """The modules that the compiled build compiles."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    return [path.removeprefix("/").removesuffix(".py").replace("/", ".") for path in hook["include"]]


def test_what_is_compiled_exists() -> None:
    assert set(compiled()) - set(SCRIPT["modules"]()) == set()


def test_the_page_about_the_compiled_build_names_a_compiled_module() -> None:
    named = set(re.findall(r"import (trio_smtp[\w.]+)", (DOCS / "compiled.md").read_text(encoding="utf-8")))
    assert len(named) == 1
    assert named <= set(compiled())
