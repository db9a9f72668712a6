"""The modules that pyproject.toml names for the compiler are compiled in the trio_smtp that is installed here."""

import importlib
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
names = [
    path.strip("/").removesuffix(".py").replace("/", ".")
    for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]
]
files = [str(importlib.import_module(name).__file__) for name in names]
interpreted = [file for file in files if not file.endswith(tuple(EXTENSION_SUFFIXES))]
if interpreted or not files:
    raise SystemExit(f"not compiled: {interpreted}")
print(f"compiled: {', '.join(names)}")
