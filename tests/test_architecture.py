"""The house keeps its floors: who imports whom, how long a file is, what is public. Read from the source by ast."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import attrs
import pytest

import trio_smtp

PACKAGE = Path(trio_smtp.__file__).parent

#: Modules of each floor, by their names inside the package; a new file needs a place here.
#: "" is the package itself: what it re-exports comes from the three floors below it, and the top floor stands on that.
FLOORS = (
    "protocol protocol.* net net.* tls",
    "app app.*",
    "dialogue dialogue.* connection connection.* server server.*",
    "",
    "testing",
    "delivery delivery.* plugins plugins.*",
    "cli cli.*",
    "__main__",
)

#: Modules that need each other, whenever the imports run: each of a circle reaches all others of it. A circle may lose
#: modules or go, never grow, and no other may come; a module that is out of its circle has to go from here too.
CIRCLES = (
    (
        "connection.connection connection.ending connection.handshake connection.transfer connection.watch"
        " connection.wire dialogue.auth dialogue.front_ends dialogue.transaction dialogue.verbs server.server"
    ),
)

MAX_FILE_LINES = 480
MAX_FUNCTION_LINES = 65


@attrs.frozen
class Import:
    """One imported module, by its full name."""

    module: str
    line: int
    #: Runs when the importing module is imported: not in a function, not under TYPE_CHECKING.
    at_import: bool


@attrs.frozen
class Module:
    """One file of the package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that a relative import with one dot starts from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def load(path: Path) -> Module:
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return Module(".".join(parts), path, ast.parse(path.read_text(encoding="utf-8")))


MODULES = {module.name: module for module in map(load, sorted(PACKAGE.rglob("*.py")))}


def each_module() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", [pytest.param(module, id=name) for name, module in MODULES.items()])


def floor_of(name: str) -> int:
    inner = name.removeprefix("trio_smtp").removeprefix(".")
    for number, patterns in enumerate(FLOORS):
        if any(fnmatchcase(inner, pattern) for pattern in patterns.split(" ")):
            return number
    raise AssertionError(f"{name} stands on no floor: give it one in FLOORS")


def imported_names(module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.package.split(".")
        base = ".".join(package[: len(package) - node.level + 1] + ([node.module] if node.module else []))
    for alias in node.names:
        submodule = f"{base}.{alias.name}"
        yield submodule if submodule in MODULES else base


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(module: Module) -> Iterator[Import]:
    def walk(node: ast.AST, *, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported_names(module, node):
                yield Import(name, node.lineno, at_import)
        inner = (
            at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_type_checking(node)
        )
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import=inner)

    return walk(module.tree, at_import=True)


@each_module()
def test_a_floor_imports_only_from_its_own_and_those_below(module: Module) -> None:
    floor = floor_of(module.name)
    upward = [
        f"{module.path}:{found.line} imports {found.module}"
        for found in imports(module)
        if found.module in MODULES and floor_of(found.module) > floor
    ]
    assert upward == []


def test_nothing_imports_in_a_circle() -> None:
    graph = {
        name: {found.module for found in imports(module) if found.at_import and found.module in MODULES} - {name}
        for name, module in MODULES.items()
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        pytest.fail(f"a circle: {' <- '.join(exc.args[1])}")
    assert set(order) == set(MODULES)


def reached(name: str, graph: dict[str, set[str]]) -> set[str]:
    """All that a module imports, and what that imports, and so on."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def circles() -> set[frozenset[str]]:
    """The circles of modules, with the imports in functions and under TYPE_CHECKING."""
    graph = {
        name: {found.module for found in imports(module)} & {*MODULES} - {name} for name, module in MODULES.items()
    }
    reach = {name: reached(name, graph) for name in graph}
    return {frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]}


def test_no_circle_grows_and_none_is_new() -> None:
    listed = [{f"trio_smtp.{name}" for name in circle.split(" ")} for circle in CIRCLES]
    wrong = [" ".join(sorted(circle)) for circle in circles() if not any(circle <= other for other in listed)]
    assert wrong == []


@pytest.mark.parametrize("circle", CIRCLES)
def test_a_circle_that_is_smaller_now_is_listed_as_it_is(circle: str) -> None:
    assert frozenset(f"trio_smtp.{name}" for name in circle.split(" ")) in circles()


def test_the_ground_floor_does_no_io() -> None:
    ground = [module for name, module in MODULES.items() if name.startswith("trio_smtp.protocol")]
    assert len(ground) > 5
    wrong = [
        f"{module.path}:{found.line} imports {found.module}"
        for module in ground
        for found in imports(module)
        if found.module.partition(".")[0] in {"asyncio", "selectors", "socket", "ssl", "trio"}
    ]
    assert wrong == []


def test_plugins_and_deliveries_stand_on_the_public_api_alone() -> None:
    wrong = [
        f"{module.path}:{found.line} imports {found.module}"
        for name, module in MODULES.items()
        if name.startswith(("trio_smtp.plugins", "trio_smtp.delivery"))
        for found in imports(module)
        if found.module in MODULES and found.module != "trio_smtp" and not found.module.startswith(module.package)
    ]
    assert wrong == []


@each_module()
def test_no_file_and_no_function_outgrows_its_room(module: Module) -> None:
    lines = len(module.path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{module.path} has {lines} lines"
    long = [
        f"{module.path}:{node.lineno} {node.name}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_all_names_what_the_package_offers() -> None:
    offered = {
        alias.asname or alias.name
        for node in MODULES["trio_smtp"].tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    assert len(trio_smtp.__all__) == len(set(trio_smtp.__all__))
    assert set(trio_smtp.__all__) == {name for name in offered if not name.startswith("_")}


def documented_assignments(module: Module) -> Iterator[str]:
    """Names assigned at module level that a string follows, or a ``#:`` comment precedes."""
    lines = module.path.read_text(encoding="utf-8").splitlines()
    body = module.tree.body
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case _:
                continue
        match after:
            case ast.Expr(value=ast.Constant(value=str())):
                yield name
            case _ if lines[node.lineno - 2].startswith("#:"):
                yield name


@pytest.mark.parametrize("name", sorted(trio_smtp.__all__))
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(trio_smtp, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        return
    assert name in {found for module in MODULES.values() for found in documented_assignments(module)}


def test_importing_the_library_imports_nothing_slow_besides_trio() -> None:
    script = "import sys, attrs, trio; before = {*sys.modules}; import trio_smtp; print(*{*sys.modules} - before)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    imported = set(done.stdout.split())
    assert "trio_smtp.server.server" in imported
    assert imported.isdisjoint({"argparse", "email", "importlib.metadata", "tomllib", "trustme", "unittest"})
