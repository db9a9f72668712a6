"""Draws the pictures of docs/architecture.md from the source, and writes what they show as text into that page.

Run it as ``python docs/draw_architecture.py`` after files or imports have moved. It writes docs/architecture/*.svg and
what stands between the page's ``<!-- begin: ... -->`` and ``<!-- end: ... -->``. The floors are those of FLOORS in
tests/test_architecture.py, what a folder or a file is for is the first paragraph of its docstring, and arrows are the
imports in the syntax trees. The pictures of the ways are drawn from the page's own numbered lists.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from html import escape
from importlib.util import find_spec
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PACKAGE = ROOT / "trio_smtp"
if not PACKAGE.exists():  # beside an installed package
    spec = find_spec("trio_smtp")
    assert spec is not None
    PACKAGE = Path(str(spec.origin)).parent
PAGE = DOCS / "architecture.md"
PICTURES = DOCS / "architecture"

#: Folders whose inside has a picture.
INSIDES = ("dialogue", "connection")
#: The folders that a way may pass, from the client's side to the program's.
LANES = ("net", "server", "connection", "dialogue", "protocol", "app")


@dataclass(frozen=True)
class Room:
    """A folder or a file: a box with a name and what it is for."""

    name: str
    floor: int
    purpose: str
    #: As it is shown: with a slash or an ending.
    label: str


@dataclass
class Plan:
    """Boxes, and which imports from which; an import that runs late, or for type checkers alone, is False."""

    rooms: list[Room]
    imports: dict[tuple[str, str], bool] = field(default_factory=dict)

    def note(self, importer: str, imported: str, *, at_import: bool) -> None:
        """Add an arrow; one that stands both ways counts as one that runs at import."""
        arrow = importer, imported
        self.imports[arrow] = self.imports.get(arrow, False) or at_import

    def imported_by(self, name: str) -> list[Room]:
        """What a box imports, in the order of the boxes."""
        return [room for room in self.rooms if (name, room.name) in self.imports]


@dataclass(frozen=True)
class Stop:
    """A step of a way: a function, or several of one file."""

    file: str
    names: tuple[str, ...]
    #: The way begins here too: nothing leads here from the step before.
    begins: bool
    #: The number of the step that follows, where it is not the next one.
    goes_on: int | None


# The source


def modules() -> dict[str, Path]:
    """The package's modules by their dotted names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The package's modules that a module imports, and whether that runs when it is imported itself."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                start = package[: len(package) - node.level + 1]
                base = ".".join(start + ([node.module] if node.module else []))
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield (submodule if submodule in known else base), at_import
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import and not late)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    return ((found, at_import) for found, at_import in walk(tree, at_import=True) if found in known)


def purpose(path: Path) -> str:
    """The first paragraph of a file's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("``", "`").rstrip(".")


def folder_of(module: str) -> str:
    """The folder of the package that a module is in, or the file at the top of it."""
    return [*module.split("."), "__init__"][1]


def floor_of(folder: str) -> int:
    """The number of a folder's floor, by the test that holds the code to it; the ground is 1."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    (floors,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"
    )
    inner = "" if folder == "__init__" else folder
    return next(
        number
        for number, patterns in enumerate(floors, 1)
        if any(fnmatchcase(inner, pattern) for pattern in patterns.split(" "))
    )


def house() -> Plan:
    """The folders of the package, from the top floor to the ground."""
    known = modules()
    files = {folder_of(name): path for name, path in sorted(known.items(), reverse=True)}
    rooms = [
        Room(folder, floor_of(folder), purpose(path), f"{folder}/" if path.parent != PACKAGE else path.name)
        for folder, path in sorted(files.items())
    ]
    plan = Plan(sorted(rooms, key=lambda room: -room.floor))
    for name, path in known.items():
        for found, at_import in imports(name, path, known):
            if folder_of(found) != folder_of(name):
                plan.note(folder_of(name), folder_of(found), at_import=at_import)
    return plan


def inside(folder: str) -> Plan:
    """The files of a folder; a file stands one floor above the highest one that it imports."""
    prefix = f"trio_smtp.{folder}."
    known = {name: path for name, path in modules().items() if name.startswith(prefix)}
    found = [
        (name.removeprefix(prefix), other.removeprefix(prefix), at_import)
        for name, path in known.items()
        for other, at_import in imports(name, path, known)
    ]
    graph: dict[str, set[str]] = {name.removeprefix(prefix): set() for name in known}
    for importer, imported, _ in found:
        graph[importer].add(imported)
    floors: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        floors[name] = 1 + max((floors[other] for other in graph[name]), default=0)
    rooms = [Room(name, floors[name], purpose(known[prefix + name]), f"{name}.py") for name in sorted(graph)]
    plan = Plan(sorted(rooms, key=lambda room: -room.floor))
    for importer, imported, at_import in found:
        plan.note(importer, imported, at_import=at_import)
    return plan


# The page


def ways(page: str) -> dict[str, list[Stop]]:
    """The ways of the page: a heading of the third level, and a numbered list of functions."""
    found: dict[str, list[Stop]] = {}
    chapter = page.partition("\n## Four ways\n")[2].partition("\n## ")[0]
    for heading, text in re.findall(r"^### (.*?)\n(.*?)(?=^### |\Z)", chapter, re.DOTALL | re.MULTILINE):
        found[heading] = []
        for step in re.split(r"^\d+\. ", text.partition("\n\n1. ")[2].partition("\n\n")[0], flags=re.MULTILINE):
            head = re.match(r"(or: )?`([\w/]+\.py)` ((?:`[\w.]+`(?:, )?)+):", step)
            assert head is not None, f"no `file` `name`: {step}"
            goes_on = re.search(r"\(on to (\d+)\)", step)
            names = tuple(re.findall(r"[\w.]+", head[3]))
            found[heading].append(Stop(head[2], names, head[1] is not None, int(goes_on[1]) if goes_on else None))
    return found


def slug(heading: str) -> str:
    """The name of a way's picture."""
    return "way-of-" + re.sub(r"\W+", "-", heading.lower()).removeprefix("an-").removeprefix("a-")


def as_text(plan: Plan) -> str:
    """What a picture of imports shows."""
    lines = ["| floor | | what it is for | imports |", "|---:|---|---|---|"]
    for room in plan.rooms:
        imported = ", ".join(f"`{other.label}`" for other in plan.imported_by(room.name))
        lines.append(f"| {room.floor} | `{room.label}` | {room.purpose} | {imported} |")
    return "\n".join(lines)


def with_texts(page: str, plans: Mapping[str, Plan]) -> str:
    """The page with what its pictures show."""
    for name, plan in plans.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{as_text(plan)}\n\n{end}{rest.partition(end)[2]}"
    return page


# Drawing

#: Colours of the arrows to a box, in light and in dark.
COLOURS = (
    ("#0969da", "#58a6ff"),
    ("#bc4c00", "#f0883e"),
    ("#1a7f37", "#56d364"),
    ("#8250df", "#bc8cff"),
    ("#bf3989", "#f778ba"),
    ("#7d5d00", "#d9b13b"),
)
STYLE = """\
text{font:12px system-ui,-apple-system,"Segoe UI","Noto Sans","DejaVu Sans",sans-serif;fill:#1f2328}
.code{font:600 13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.soft{fill:#59636e}.page{fill:#fff;stroke:#d1d9e0}.floor{fill:#f6f8fa}.box{fill:#fff;stroke:#818b98}
path{stroke-width:1.6}.out{stroke:#818b98;fill:none}.late{fill:#fff;stroke-width:1.6}.number{font-weight:600;fill:#fff}
"""
DARK = """\
text{fill:#f0f6fc}.soft{fill:#9198a1}.page{fill:#0d1117;stroke:#3d444d}.floor{fill:#151b23}.box{fill:#0d1117;stroke:#656c76}
.out{stroke:#656c76}.late{fill:#151b23}.number{fill:#0d1117}
"""


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A picture on a ground of its own, which is dark where the reader's system is."""
    light, dark = (
        "".join(
            f".s{number}{{stroke:{colour[scheme]};fill:none}}.f{number}{{fill:{colour[scheme]}}}"
            for number, colour in enumerate(COLOURS)
        )
        for scheme in (0, 1)
    )
    size = f'width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}{light}@media(prefers-color-scheme:dark){{{DARK}{dark}}}</style>",
        f'<rect class="page" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    return "\n".join([*lines, *parts, "</svg>\n"])


#: Measures of a plan: where boxes begin, their width, the distance of lanes, of boxes, and of the picture's edge.
LEFT, BOX, LANE, GAP, PAD = 64, 470, 20, 10, 14
EDGE = LEFT + BOX


class Layout:
    """Where the boxes of a plan stand, below each other, and the lanes beside them."""

    def __init__(self, plan: Plan) -> None:
        self.texts = {room.name: textwrap.wrap(room.purpose.replace("`", ""), 70) for room in plan.rooms}
        self.heights = {name: 30 + 16 * len(text) for name, text in self.texts.items()}
        self.tops: dict[str, int] = {}
        self.floors: dict[int, list[str]] = {}
        below = PAD
        for room in plan.rooms:
            if room.floor not in self.floors:
                below += GAP
            self.floors.setdefault(room.floor, []).append(room.name)
            self.tops[room.name] = below
            below += self.heights[room.name] + GAP
        imported = [room.name for room in plan.rooms if any(other == room.name for _, other in plan.imports)]
        self.lanes = {name: EDGE + 26 + LANE * number for number, name in enumerate(imported)}
        self.width = max(self.lanes.values()) + 28
        self.height = below + PAD - GAP // 2


def draw_plan(plan: Plan, title: str) -> str:
    """Boxes below each other on their floors; beside them a lane for each box that is imported.

    The line that leaves a box to the right meets the lane of each box that it imports with a dot. The lane goes down to
    the imported box and ends there in an arrow.
    """
    layout = Layout(plan)
    parts = [*floors_in(layout), *arrows_in(plan, layout), *boxes_in(plan, layout)]
    return svg(layout.width, layout.height, title, parts)


def floors_in(layout: Layout) -> Iterator[str]:
    """The grounds of the floors, with their numbers."""
    width = layout.width - 2 * PAD
    for floor, names in layout.floors.items():
        top = layout.tops[names[0]] - GAP // 2
        height = layout.tops[names[-1]] + layout.heights[names[-1]] + GAP // 2 - top
        yield f'<rect class="floor" x="{PAD}" y="{top}" width="{width}" height="{height}" rx="6"/>'
        yield f'<text class="soft" x="{PAD + 25}" y="{top + height // 2 + 4}" text-anchor="middle">{floor}</text>'


def arrows_in(plan: Plan, layout: Layout) -> Iterator[str]:
    """The lines that leave the boxes, then the lanes, then the dots where they meet."""
    dots = []
    for room in plan.rooms:
        if others := plan.imported_by(room.name):
            far = max(layout.lanes[other.name] for other in others)
            yield f'<path class="out" d="M{EDGE} {layout.tops[room.name] + 15}H{far}"/>'
    for number, (name, x) in enumerate(layout.lanes.items()):
        colour, foot = number % len(COLOURS), layout.tops[name] + layout.heights[name] - 13
        ys = {room.name: layout.tops[room.name] + 15 for room in plan.rooms if (room.name, name) in plan.imports}
        yield f'<path class="s{colour}" d="M{x} {min(ys.values())}V{foot - 8}q0 8-8 8H{EDGE + 8}"/>'
        yield f'<path class="f{colour}" d="M{EDGE + 1} {foot}l9-5v10z"/>'
        for importer, y in ys.items():
            kind = f'f{colour}" r="4.5' if plan.imports[importer, name] else f's{colour} late" r="4'
            dots.append(f'<circle cx="{x}" cy="{y}" class="{kind}"/>')
    yield from dots


def boxes_in(plan: Plan, layout: Layout) -> Iterator[str]:
    """The boxes, each with a name and what it is for."""
    for room in plan.rooms:
        top, height = layout.tops[room.name], layout.heights[room.name]
        yield f'<rect class="box" x="{LEFT}" y="{top}" width="{BOX}" height="{height}" rx="5"/>'
        yield f'<text class="code" x="{LEFT + 12}" y="{top + 19}">{escape(room.label)}</text>'
        for number, line in enumerate(layout.texts[room.name]):
            yield f'<text class="soft" x="{LEFT + 12}" y="{top + 36 + 16 * number}">{escape(line)}</text>'


def together(names: Sequence[str]) -> str:
    """The names of a step; one of the same class as the name before is shown without it."""
    classes = [name.rpartition(".")[0] for name in names]
    return ", ".join(
        name.removeprefix(of) if of == before else name
        for name, of, before in zip(names, classes, ["", *classes], strict=False)
    )


def draw_way(stops: Sequence[Stop], title: str) -> str:
    """A lane for each folder, a numbered stop for each step, and the step's functions beside it."""
    lanes = [lane for lane in LANES if any(stop.file.startswith(f"{lane}/") for stop in stops)]
    step, row, top = 96, 32, 64
    places = {lane: 60 + step * number for number, lane in enumerate(lanes)}
    right, bottom = 60 + step * len(lanes) - 28, top + row * len(stops)
    points = [(places[stop.file.partition("/")[0]], top + row * number) for number, stop in enumerate(stops)]
    parts = []
    for lane, x in places.items():
        parts.append(f'<rect class="floor" x="{x - 43}" y="14" width="86" height="{bottom - 22}" rx="6"/>')
        parts.append(f'<text x="{x}" y="34" text-anchor="middle">{lane}/</text>')
    for number, (x, y) in enumerate(points[:-1]):
        follower = stops[number].goes_on
        if follower is not None:  # around the circles in between
            to, below = points[follower - 1]
            parts.append(f'<path class="out" d="M{x} {y}C{x + 44} {y + 24} {to + 44} {below - 24} {to} {below}"/>')
        elif not stops[number + 1].begins:
            to, below = points[number + 1]
            parts.append(f'<path class="out" d="M{x} {y}C{x} {y + 18} {to} {below - 18} {to} {below}"/>')
    longest = 0
    for number, (stop, (x, y)) in enumerate(zip(stops, points, strict=True), 1):
        colour, names = LANES.index(stop.file.partition("/")[0]), together(stop.names)
        parts.append(f'<circle class="f{colour}" cx="{x}" cy="{y}" r="11"/>')
        parts.append(f'<text class="number" x="{x}" y="{y + 4}" text-anchor="middle">{number}</text>')
        parts.append(
            f'<text x="{right}" y="{y + 4}" class="code">{escape(names)}'
            f'<tspan class="soft" font-weight="400" dx="10">{stop.file}</tspan></text>'
        )
        longest = max(longest, 8 * (len(names) + len(stop.file)) + 10)
    return svg(right + longest + 20, bottom + 6, title, parts)


def files() -> dict[Path, str]:
    """Every file that is made here, and what stands in it."""
    page = PAGE.read_text(encoding="utf-8")
    plans = {"floors": house()} | {folder: inside(folder) for folder in INSIDES}
    titles = {"floors": "The folders of trio_smtp, and which imports from which"}
    titles |= {folder: f"The files of {folder}/, and which imports from which" for folder in INSIDES}
    return {
        **{PICTURES / f"{name}.svg": draw_plan(plan, titles[name]) for name, plan in plans.items()},
        **{PICTURES / f"{slug(way)}.svg": draw_way(stops, way) for way, stops in ways(page).items()},
        PAGE: with_texts(page, plans),
    }


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
