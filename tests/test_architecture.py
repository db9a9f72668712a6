"""The house keeps its floors: who imports whom, how long a file is, what is public. Read from the source by ast."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeGuard

import attrs
import pytest

import trio_smtp

PACKAGE = Path(trio_smtp.__file__).parent

#: Modules of each floor, by their names inside the package; a new folder needs a place here. A floor stands on those
#: above it in this list, so a folder imports only from them. "" is the package itself, with what it re-exports.
FLOORS = (
    "protocol protocol.* net net.* tls",
    "app app.* reading reading.*",
    "dialogue dialogue.*",
    "connection connection.*",
    "server server.*",
    "",
    "client client.*",
    "delivery delivery.* plugins plugins.*",
    "background background.* testing testing.* inbox inbox.*",
    "cli cli.*",
    "__main__",
)
#: On the ground three wings stand side by side: none imports from another.
WINGS = ("protocol", "net", "tls")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_ATTRIBUTES = 15
#: Records that are the public contract: what handlers see of a session, and what an operator may set.
RECORDS = frozenset({"Config", "Session"})


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


def is_type_checking(node: ast.AST) -> TypeGuard[ast.If]:
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


def test_the_wings_of_the_ground_floor_do_not_know_each_other() -> None:
    def wing(name: str) -> str:
        return name.removeprefix("trio_smtp").removeprefix(".").partition(".")[0]

    across = [
        f"{module.path}:{found.line} imports {found.module}"
        for name, module in MODULES.items()
        if wing(name) in WINGS
        for found in imports(module)
        if found.module in MODULES and wing(found.module) != wing(name)
    ]
    assert across == []


def test_nothing_imports_in_a_circle() -> None:
    """Imports in functions and those for type checkers count: a circle that is hidden at run time is still one."""
    graph = {
        name: {found.module for found in imports(module) if found.module in MODULES} - {name}
        for name, module in MODULES.items()
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        pytest.fail(f"a circle: {' <- '.join(exc.args[1])}")
    assert set(order) == set(MODULES)


def in_folder(folder: str) -> list[Module]:
    found = [module for name, module in MODULES.items() if name.startswith(f"trio_smtp.{folder}.")]
    assert len(found) > 5
    return found


def test_the_dialogue_never_waits() -> None:
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    wrong = [
        f"{module.path}:{node.lineno} waits"
        for module in in_folder("dialogue")
        for node in ast.walk(module.tree)
        if isinstance(node, waiting)
    ]
    wrong += [
        f"{module.path}:{found.line} imports {found.module}"
        for module in in_folder("dialogue")
        for found in imports(module)
        if found.module.partition(".")[0] in {"asyncio", "selectors", "socket", "ssl", "trio"}
    ]
    assert wrong == []


def attributes(node: ast.ClassDef) -> set[str]:
    """What an object of the class holds: slots, annotated fields, and what its methods store on self."""
    found: set[str] = set()
    for each in node.body:
        match each:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if "ClassVar" not in ast.unparse(kind):
                found.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=names)):
                found |= {str(name.value) for name in names if isinstance(name, ast.Constant)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and ast.unparse(inner.value) == "self":
            found.add(inner.attr)
    return {name for name in found if name != "__weakref__"}


@each_module()
def test_no_object_has_more_attributes_than_a_reader_can_hold(module: Module) -> None:
    large = {
        node.name: sorted(attributes(node))
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and node.name not in RECORDS and len(attributes(node)) > MAX_ATTRIBUTES
    }
    assert large == {}


#: Where something may store on an object that it has not made, as ``object.attribute``.
STORES = {
    # a message's body, which both ends of its channel hold, and the sender that a handler rewrites
    "app": r"_?body\.\w+|envelope\.mail_from",
    # likewise, and an answer in a step's slot
    "connection": r"_?body\.\w+|(step|ask)\.(reply|accepted|recipients|octets|began|secret|refusal|info)",
    # the facts of the session: nothing but the dialogue writes them
    "dialogue": r"_?session\.\w+",
    # a worker's place, which is a row of the supervisor's own
    "server": r"place\.\w+",
    # counters, the reply that a handler may change, and what trio and ssl are told by an attribute
    "": r"_?stats\.\w+|ctx\.reply|(scope|limit|_whole)\.deadline|scope\.shield"
    r"|context\.(sni_callback|verify_mode|sslobject_class)|sslobj\.context",
}


def made_here(function: ast.AST) -> set[str]:
    """Names that a function binds to what it has made or caught: those objects are its own."""
    found: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[*targets], value=ast.Call()):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call()):
                found.add(name)
            case ast.ExceptHandler(name=str(name)):
                found.add(name)
            case ast.withitem(optional_vars=ast.Name(id=name)):
                found.add(name)
    return found


def foreign_stores(module: Module) -> Iterator[ast.Attribute]:
    for function in ast.walk(module.tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            own = {"self", "cls"} | made_here(function)
            for node in ast.walk(function):
                match node:
                    case ast.Attribute(value=value, attr=attr, ctx=ast.Store() | ast.Del()):
                        if ast.unparse(value) not in own and not attr.startswith("__"):
                            yield node


@each_module()
def test_nobody_stores_on_the_attributes_of_another_object(module: Module) -> None:
    folder = module.name.removeprefix("trio_smtp").removeprefix(".").partition(".")[0]
    allowed = re.compile("|".join(pattern for where, pattern in STORES.items() if where in ("", folder)))
    wrong = {
        f"{module.path}:{node.lineno} {ast.unparse(node)}"
        for node in foreign_stores(module)
        if not allowed.fullmatch(".".join(ast.unparse(node).split(".")[-2:]))
    }
    assert wrong == set()


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


def test_the_inbox_stands_on_the_public_api_and_on_plugins() -> None:
    mine = [module for name, module in MODULES.items() if f"{name}.".startswith("trio_smtp.inbox.")]
    assert len(mine) > 5
    wrong = [
        f"{module.path}:{found.line} imports {found.module}"
        for module in mine
        for found in imports(module)
        if found.module in MODULES
        and found.module not in ("trio_smtp", "trio_smtp.reading")
        and not f"{found.module}.".startswith(("trio_smtp.inbox.", "trio_smtp.plugins."))
    ]
    assert wrong == []


def test_the_client_stands_on_the_public_api_and_the_protocol_alone() -> None:
    wrong = [
        f"{module.path}:{found.line} imports {found.module}"
        for module in in_folder("client")
        for found in imports(module)
        if found.module in MODULES and not re.match(r"trio_smtp($|\.(protocol|client)($|\.))", found.module)
    ]
    assert wrong == []


def test_plugins_and_deliveries_stand_on_the_public_api_alone() -> None:
    wrong = [
        f"{module.path}:{found.line} imports {found.module}"
        for name, module in MODULES.items()
        if name.startswith(("trio_smtp.plugins", "trio_smtp.delivery"))
        for found in imports(module)
        if found.module in MODULES
        and found.module not in ("trio_smtp", "trio_smtp.client", "trio_smtp.reading")
        and not found.module.startswith(module.package)
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
    late = [inner for node in MODULES["trio_smtp"].tree.body if is_type_checking(node) for inner in node.body]
    offered = {
        alias.asname or alias.name
        for node in [*MODULES["trio_smtp"].tree.body, *late]
        if isinstance(node, ast.ImportFrom) and node.module not in {"__future__", "typing"}
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
