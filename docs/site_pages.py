"""The pages of the site that no file of docs/ holds: the reference, the examples, and the files at the root.

docs/conf.py writes them into docs/site/ before Sphinx reads the pages; nothing there is kept in the repository.

* reference/: a page for each public module, from its ``__all__``. What two modules offer has its text in the first.
* examples/: a page for each program of examples/.
* changelog.md and its like: the files at the root, for people who have the site alone.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio_smtp

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
#: Where the pages are written; git ignores it.
SITE = DOCS / "site"

#: The floors that programs do not import from: what they offer is what trio_smtp itself offers.
INTERNAL = frozenset(("app", "cli", "connection", "dialogue", "net", "server"))
#: Packages whose modules are public as well, each with names of its own.
OPEN = frozenset(("delivery", "plugins"))
#: What programs may use of trio_smtp.protocol.
PROTOCOL = (
    "addresses",
    "commands",
    "credentials",
    "errors",
    "framing",
    "machine",
    "parameters",
    "proxy",
    "replies",
    "sasl",
    "scram",
    "values",
    "xclient",
)

#: Files at the root that are pages of the site, in the order of the navigation.
ROOT_PAGES = ("CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md")


# The reference


def public_modules() -> list[str]:
    """The modules that programs import from, trio_smtp first."""
    found = ["trio_smtp"]
    for module in pkgutil.iter_modules(trio_smtp.__path__):
        if module.name in INTERNAL or module.name.startswith("_"):
            continue
        name = f"trio_smtp.{module.name}"
        found.append(name)
        if module.name == "protocol":
            found += [f"{name}.{each}" for each in PROTOCOL]
        if module.name in OPEN:
            inner = pkgutil.iter_modules(importlib.import_module(name).__path__)
            found += [f"{name}.{each.name}" for each in inner if not each.name.startswith("_")]
    return [name for name in found if hasattr(importlib.import_module(name), "__all__")]


def said_of(name: str) -> str:
    """The ``#:`` comment of a constant or a type, in the file that has it."""
    module, _, last = name.rpartition(".")
    own = module.rpartition(".")[2]
    package = Path(str(importlib.import_module(module).__file__)).parent
    files = sorted(package.rglob("*.py"), key=lambda file: file.stem != own)
    for file in files:
        if match := re.search(
            rf"((?:^#: .*\n)+)(?:\w+, )*{last}\b[^\n]*=", file.read_text(encoding="utf-8"), re.MULTILINE
        ):
            return match[1].replace("#: ", "").replace("\n", " ").strip()
    return ""


#: Those that have a page, in its order.
MODULES = public_modules()


@dataclass
class Reference:
    """Writes a page for each module, and knows what has been told already."""

    #: The name that an object is described under, by the object's id.
    told: dict[int, str] = field(default_factory=dict)

    def page(self, module: str) -> str:
        """A page in reStructuredText."""
        found = importlib.import_module(module)
        lines = [module, "=" * len(module), "", f".. automodule:: {module}", "   :no-members:", ""]
        for name in sorted(found.__all__, key=lambda name: (name.islower(), name)):
            thing = getattr(found, name)
            if f"{module}.{name}" in MODULES:  # a plugin has the name of its module, and is told there
                lines += [f"* :py:obj:`{name} <{module}.{name}.{name}>`", ""]
            else:
                lines += [*self.entry(f"{module}.{name}", thing), ""]
        return "\n".join(lines)

    def entry(self, name: str, thing: object) -> Iterator[str]:
        """The directive for a name."""
        has_text = inspect.isclass(thing) or inspect.isroutine(thing)
        if has_text and id(thing) in self.told:
            yield from (f".. py:data:: {name}", "", f"   The same as :py:obj:`{self.told[id(thing)]}`.")
            return
        self.told[id(thing)] = name
        if inspect.isclass(thing):
            yield f".. auto{'exception' if issubclass(thing, BaseException) else 'class'}:: {name}"
            yield "   :members:"
            if any(base is not object and not base.__name__.startswith("_") for base in thing.__bases__):
                yield "   :show-inheritance:"
        elif inspect.isroutine(thing):
            yield f".. autofunction:: {name}"
        else:
            yield from (f".. py:data:: {name}", "", f"   {said_of(name)}")


def with_tables(lines: list[str]) -> list[str]:
    """A docstring whose tables, written as Markdown, are reStructuredText's."""
    made: list[str] = []
    rows: list[list[str]] = []
    for line in [*lines, ""]:
        if re.fullmatch(r"\s*\|.*\|\s*", line):
            rows.append([cell.strip() for cell in line.strip()[1:-1].split("|")])
            continue
        if rows:
            indent = " " * (len(made[-1]) - len(made[-1].lstrip())) if made else ""
            made += ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
            for row in rows:
                if any(cell.strip("-: ") for cell in row):
                    made += [
                        f"{indent}   {mark} - {cell}" for mark, cell in zip("*" + " " * len(row), row, strict=False)
                    ]
            made.append("")
            rows = []
        made.append(line)
    return made[:-1]


# Files of the repository as pages


def about(paths: list[Path]) -> str:
    """What a program, or the first of a folder that is no test, says of itself, without the full stop at its end."""
    programs = [path for path in paths if path.suffix == ".py"]
    first = next((path for path in programs if not path.name.startswith(("conftest", "test_"))), programs[0])
    return (
        (ast.get_docstring(ast.parse(first.read_text(encoding="utf-8"))) or first.stem).partition("\n")[0].rstrip(".")
    )


def example_files() -> list[Path]:
    """Every program of examples/, those of a folder in the order of their names."""
    kept = {".html", ".ini", ".py", ".toml", ".txt"}
    return sorted(path for path in (ROOT / "examples").rglob("*") if path.suffix in kept and path.stat().st_size > 0)


def example_pages() -> Iterator[tuple[str, str]]:
    """A page for each file at the top of examples/, and one for each folder."""
    pages: dict[str, list[Path]] = {}
    for path in example_files():
        pages.setdefault(path.relative_to(ROOT / "examples").parts[0].removesuffix(".py"), []).append(path)
    for name, paths in pages.items():
        lines = [f"# {name}", "", f"{about(paths)}.", ""]
        for path in paths:
            where = path.relative_to(ROOT).as_posix()
            language = "python" if path.suffix == ".py" else "text"
            lines += [f"`{where}`", "", f"````{language}", path.read_text(encoding="utf-8").rstrip(), "````", ""]
        yield f"examples/{name}.md", "\n".join(lines)
    names = "\n".join(f"{name} <{name}>" for name in sorted(pages))
    listed = "".join(f"* [{name}]({name}.md): {about(pages[name])}.\n" for name in sorted(pages))
    yield "examples/index.md", f"# Examples\n\n{listed}\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"


def place_on_site(target: Path) -> str | None:
    """The page, below docs/, that shows a file or a folder of the repository; None where there is none."""
    inside = target.relative_to(ROOT).as_posix()
    if inside in ("README.md", "docs", "docs/README.md"):
        return "README.md"
    if inside in ROOT_PAGES:
        return f"site/{inside.lower()}"
    if inside == "examples":
        return "site/examples/index.md"
    if inside.startswith("examples/"):
        return f"site/examples/{inside.split('/')[1].removesuffix('.py')}.md"
    if inside.startswith("docs/") and target.suffix in (".md", ".png", ".svg"):
        return inside.removeprefix("docs/")
    return None


def relinked(text: str, source: Path, page: Path) -> str:
    """The Markdown of `source` with links that lead where they lead from `page`, a path in docs/.

    A link to what the site does not show becomes its text alone.
    """

    def link(match: re.Match[str]) -> str:
        mark, label, target = match[1], match[2], match[3]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        name, hash_, anchor = target.partition("#")
        place = place_on_site((source.parent / name).resolve())
        if place is None:
            return label
        to = Path(os.path.relpath(DOCS / place, page.parent)).as_posix()
        return f"{mark}[{label}]({to}{hash_}{anchor})"

    outside = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    pattern = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
    return "".join(part if part.startswith("```") else pattern.sub(link, part) for part in outside)


# All of it


def pages() -> Iterator[tuple[str, str]]:
    """Names below docs/site/, and what is written there."""
    reference = Reference()
    for module in MODULES:
        yield f"reference/{module}.rst", reference.page(module)
    head = "Reference\n=========\n\nWhat each public module offers.\n\n.. toctree::\n   :maxdepth: 1\n\n"
    yield "reference/index.rst", head + "".join(f"   {module}\n" for module in MODULES)
    yield from example_pages()
    for name in ROOT_PAGES:
        source = ROOT / name
        if source.exists():
            yield name.lower(), relinked(source.read_text(encoding="utf-8"), source, SITE / name.lower())


def write() -> None:
    """Write what changed, and remove what is no longer a page: Sphinx reads anew only what is new."""
    made = {SITE / name: text for name, text in pages()}
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in SITE.rglob("*.*"):
        if path not in made:
            path.unlink()


def navigation(text: str) -> str:
    """The contents for the side of the site: each section of docs/README.md with the pages that its list links."""
    groups = []
    seen = {"README.md"}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        caption, _, body = section.partition("\n")
        entries = ["site/reference/index"] if caption == "Reference" else []
        for name in re.findall(r"\]\(([^)#:]+)\)", "".join(re.findall(r"^\* .*$", body, re.MULTILINE))):
            place = place_on_site((DOCS / name).resolve())
            if place is not None and place not in seen:
                seen.add(place)
                entries.append(place.rpartition(".")[0])
        if entries:
            listed = "\n".join(entries)
            groups.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n")
    return "\n".join(groups)
