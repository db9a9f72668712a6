"""What is left out of runs in other surroundings: it is there, it is marked, and enough remains."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .exhaustive import EXHAUSTIVE, is_exhaustive

TESTS = Path(__file__).parent
CI = TESTS.parent / ".ci" / "run"
#: Files of which nothing remains.
WHOLE = {file for file, names in EXHAUSTIVE.items() if "" in names}


def names_in(path: Path) -> list[str]:
    """The names of the test functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [function.name for function in functions if function.name.startswith("test_")]


@pytest.mark.parametrize("file", EXHAUSTIVE)
def test_each_name_is_that_of_a_test(file: str) -> None:
    names = names_in(TESTS / file)
    for beginning in EXHAUSTIVE[file]:
        assert any(name.startswith(beginning) for name in names), beginning


def test_the_marker_is_where_it_belongs(request: pytest.FixtureRequest) -> None:
    """Of all tests that are run together with this one."""
    for item in request.session.items:
        assert isinstance(item, pytest.Function)
        listed = is_exhaustive(item.path.relative_to(TESTS).as_posix(), item.originalname)
        assert (item.get_closest_marker("exhaustive") is not None) is listed, item.nodeid


def test_some_tests_of_each_file_remain() -> None:
    """Every part of the library has a file of tests, so every part is used in all surroundings."""
    for path in TESTS.rglob("test_*.py"):
        file = path.relative_to(TESTS).as_posix()
        remaining = [name for name in names_in(path) if not is_exhaustive(file, name)]
        assert bool(remaining) is (file not in WHOLE), file


def test_ci_leaves_them_out_in_other_surroundings_alone() -> None:
    if not CI.exists():
        pytest.skip("this is not the repository")
    lines = [line.strip() for line in CI.read_text(encoding="utf-8").splitlines()]
    assert sum('-m "not program and not exhaustive"' in line for line in lines) == 1
    assert any(line.startswith("tests main --cov --cov-append --cov-report= --cov-fail-under=0 ||") for line in lines)
