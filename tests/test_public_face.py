"""What programs import of the library stays: names, signatures, fields and their defaults, compared with a recording.

The recording, tests/golden/public_face.txt, has a section for each name. It says nothing of where a thing is defined: a
class that moves to another module is the same, as long as it can be imported from where it could be.

A change that is meant is recorded by ``RECORD_GOLDEN=1 python -m pytest tests/test_public_face.py``.
"""

from __future__ import annotations

import builtins
import enum
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio.testing

import trio_smtp
from trio_smtp import App, SMTPServer
from trio_smtp.testing import Client

from .golden_support import RECORDING, compare, recorded, write

#: Modules that offer what is in their ``__all__``, no more and no less.
EXACT = (
    "trio_smtp",
    "trio_smtp.client",
    "trio_smtp.delivery",
    "trio_smtp.delivery.lmtp",
    "trio_smtp.delivery.maildir",
    "trio_smtp.delivery.maildir_template",
    "trio_smtp.delivery.proxy",
    "trio_smtp.delivery.redis_stream",
    "trio_smtp.delivery.webhook",
    "trio_smtp.plugins",
    "trio_smtp.plugins.denylist",
    "trio_smtp.plugins.logger",
    "trio_smtp.plugins.metrics",
    "trio_smtp.plugins.password_file",
    "trio_smtp.plugins.received_loop",
    "trio_smtp.plugins.recipient_filter",
    "trio_smtp.plugins.sender_block",
    "trio_smtp.plugins.tracing",
    "trio_smtp.reading",
    "trio_smtp.testing",
    "trio_smtp.tls",
)
#: Modules that may come to offer more.
AT_LEAST = (
    "trio_smtp.protocol.addresses",
    "trio_smtp.protocol.commands",
    "trio_smtp.protocol.credentials",
    "trio_smtp.protocol.errors",
    "trio_smtp.protocol.framing",
    "trio_smtp.protocol.machine",
    "trio_smtp.protocol.parameters",
    "trio_smtp.protocol.proxy",
    "trio_smtp.protocol.replies",
    "trio_smtp.protocol.sasl",
    "trio_smtp.protocol.scram",
    "trio_smtp.protocol.values",
    "trio_smtp.protocol.xclient",
)
RECORDED = recorded("public_face")

#: Classes that set their attributes in ``__init__``: an object tells which there are.
OBJECTS: Mapping[str, Callable[[], object]] = {
    "App": App,
    "Client": lambda: Client(trio.testing.memory_stream_pair()[0]),
    "SMTPServer": lambda: SMTPServer(App()),
}


def names_of(module: str) -> list[str]:
    return sorted(importlib.import_module(module).__all__)


#: All that can be imported from somewhere.
OFFERED = {name for module in (*EXACT, *AT_LEAST) for name in names_of(module)}


# How a thing is written down


def bare(text: str) -> str:
    """An annotation or a repr without the modules that names come from."""
    text = re.sub(r"ForwardRef\('([^']*)'[^)]*\)", r"\1", text)
    text = re.sub(r"(?<![\w.])(?:trio_smtp(?:\.\w+)*|typing|types|collections\.abc|attrs?)\.(?=\w)", "", text)
    return re.sub(r"(?<![\w.])(?:\w+\.)+(\w+)", lambda match: match[1] if match[1] in OFFERED else match[0], text)


def annotation(value: object) -> str:
    return bare(value if isinstance(value, str) else inspect.formatannotation(value))


def value(thing: object) -> str:
    """A default or a constant."""
    if thing is attrs.NOTHING or type(thing).__name__ == "Factory":
        return "(made)"
    match thing:
        case enum.Enum():
            return f"{type(thing).__name__}.{thing.name}"
        case set() | frozenset():
            return "{" + ", ".join(sorted(map(value, thing))) + "}"
        case Mapping() if len(thing) > 0:
            return "{" + ", ".join(sorted(value(key) for key in thing)) + ": ...}"
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return thing.__name__
    text = repr(thing)
    return type(thing).__name__ if " at 0x" in text else bare(text)


@attrs.frozen(repr=False)
class Shown:
    """Stands in a signature for what it is to show."""

    text: str

    def __repr__(self) -> str:
        return self.text


def signature(function: Callable[..., object], *, returns: bool = True) -> str:
    found = inspect.signature(function)
    empty = inspect.Parameter.empty
    parameters = [
        parameter.replace(
            annotation=empty if parameter.annotation is empty else Shown(annotation(parameter.annotation)),
            default=empty if parameter.default is empty else Shown(value(parameter.default)),
        )
        for parameter in found.parameters.values()
    ]
    with_return = returns and found.return_annotation is not found.empty
    return str(
        found.replace(
            parameters=parameters,
            return_annotation=Shown(annotation(found.return_annotation)) if with_return else found.empty,
        )
    )


def method(name: str, function: Callable[..., object]) -> str:
    inner = inspect.unwrap(function)
    word = "async def" if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner) else "def"
    return f"{word} {name}{signature(function)}"


def member(name: str, thing: object) -> Iterator[str]:
    match thing:
        case property():
            assert thing.fget is not None
            settable = ", settable" if thing.fset is not None else ""
            yield f"property {name}{signature(thing.fget)}{settable}"
        case staticmethod() | classmethod():
            yield f"{type(thing).__name__} {method(name, thing.__func__)}"
        case _ if inspect.isfunction(thing):
            yield method(name, thing)
        case _ if not inspect.isdatadescriptor(thing):  # attrs makes one for each field
            yield f"{name} = {value(thing)}"


def field(found: attrs.Attribute[object]) -> str:
    default = "" if found.default is attrs.NOTHING else f" = {value(found.default)}"
    marks = [
        mark
        for mark, there in (
            ("not in init", not found.init),
            ("keyword only", found.kw_only),
            ("not compared", not found.eq),
            ("not shown", not found.repr),
        )
        if there
    ]
    return f"field {found.name}: {annotation(found.type)}{default}" + (f" ({', '.join(marks)})" if marks else "")


def public_bases(cls: type) -> str:
    """Those of its bases that a program can name."""
    named = {getattr(trio_smtp, name) for name in trio_smtp.__all__ if inspect.isclass(getattr(trio_smtp, name))}
    bases = [base for base in cls.__mro__[1:-1] if base in named or hasattr(builtins, base.__name__)]
    return f"({', '.join(base.__name__ for base in bases)})" if bases else ""


def of_class(cls: type) -> Iterator[str]:
    yield f"class {cls.__name__}{public_bases(cls)}"
    if issubclass(cls, enum.Enum):
        yield from (f"member {name} = {value_of.value!r}" for name, value_of in cls.__members__.items())
    elif inspect.isfunction(inspect.getattr_static(cls, "__init__")):
        yield f"call {signature(cls, returns=False)}"
    if attrs.has(cls):
        yield from (field(found) for found in attrs.fields(cls) if not found.name.startswith("_"))
    if (make := OBJECTS.get(cls.__name__)) is not None:
        yield from (f"attribute {name}" for name in sorted(vars(make())) if not name.startswith("_"))
    members: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] == "trio_smtp":
            members |= vars(base)
    for name, thing in sorted(members.items()):
        if not name.startswith("_") and not (issubclass(cls, enum.Enum) and name in cls.__members__):
            yield from member(name, thing)


def described(name: str, thing: Any) -> str:
    """A section: all that a program can see of a name."""
    if inspect.isclass(thing):
        found = [*of_class(thing)]
    elif inspect.isfunction(inspect.unwrap(thing)):
        found = [method(name, thing)]
    else:
        found = [f"{name} = {value(thing)}"]
    return "".join(f"{line}\n" for line in found)


def is_compiled(thing: object) -> bool:
    """In the compiled build some modules have no annotations, and nothing to tell a signature by."""
    file = getattr(sys.modules.get(getattr(thing, "__module__", "")), "__file__", None)
    return file is not None and not file.endswith(".py")


# The tests


def test_the_recording_is_written() -> None:
    if RECORDING:
        modules = {name: importlib.import_module(name) for name in (*EXACT, *AT_LEAST)}
        sections = {
            f"{module}.{name}": described(name, getattr(modules[module], name))
            for module in modules
            for name in names_of(module)
        }
        write("public_face", sections)
        RECORDED.clear()
        RECORDED.update(recorded("public_face"))
    assert len(RECORDED) > 100


@pytest.mark.parametrize("module", [*EXACT, *AT_LEAST])
def test_a_module_offers_what_it_offered(module: str) -> None:
    before = {name.rpartition(".")[2] for name in RECORDED if name.rpartition(".")[0] == module}
    now = set(names_of(module))
    assert before - now == set(), "names are gone"
    assert module in AT_LEAST or now - before == set(), "names are new"


@pytest.mark.parametrize("path", RECORDED)
def test_a_name_is_what_it_was(path: str) -> None:
    module, _, name = path.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    if not is_compiled(thing):
        compare(path, RECORDED[path], described(name, thing))


def test_the_package_offers_its_modules() -> None:
    found = {
        f"trio_smtp.{package}.{path.stem}"
        for package in ("delivery", "plugins")
        for path in (Path(trio_smtp.__file__).parent / package).glob("[!_]*.py")
    }
    assert found <= set(EXACT), "a new public module needs a place in EXACT"


def test_the_command_is_where_it_was() -> None:
    from trio_smtp.cli import main

    assert signature(main) == "(arguments: Sequence[str] | None = None, *, system: System | None = None) -> int"
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"trio-smtp": "trio_smtp.cli:main"}
