"""Whether the trio_smtp that is installed here is the wheel that was meant: ``installed.py compiled|pure PYPROJECT``.

compiled: each module that pyproject.toml names for the compiler is an extension module. pure: none is.
"""

import importlib
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

kind, pyproject = sys.argv[1:]
project = tomllib.loads(Path(pyproject).read_text(encoding="utf-8"))
names = [
    path.strip("/").removesuffix(".py").replace("/", ".")
    for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]
]
files = [str(importlib.import_module(name).__file__) for name in names]
wrong = [file for file in files if file.endswith(tuple(EXTENSION_SUFFIXES)) is not (kind == "compiled")]
if wrong or not files or kind not in {"compiled", "pure"}:
    raise SystemExit(f"not {kind}: {wrong}")
print(f"{kind}: {', '.join(names)}")
