"""Whether the distributions in a directory are what their names say: ``wheels.py DIRECTORY [--whole] [--tag v1.2.3]``.

A whole release is the source distribution, the pure wheel, and each compiled wheel that ``[tool.cibuildwheel]`` in
pyproject.toml asks for. A tag, when it is not empty, must name the version in pyproject.toml.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION: str = PROJECT["project"]["version"]
MODULES: list[str] = [
    path.strip("/").removesuffix(".py")
    for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]
]
SDIST, PURE = f"trio_smtp-{VERSION}.tar.gz", f"trio_smtp-{VERSION}-py3-none-any.whl"

#: A compiled wheel: one version of CPython, and one or more tags of a platform with one architecture.
COMPILED = re.compile(
    rf"trio_smtp-{re.escape(VERSION)}-(?P<python>cp3\d+)-(?P=python)"
    r"-(?P<system>manylinux|musllinux|macosx|linux)\w*?(?P<machine>x86_64|aarch64|arm64)(?:\.(?P=system)\w+(?P=machine))*\.whl"
)


def identifier(name: str) -> str:
    """What cibuildwheel calls the build of a compiled wheel: ``cp311-manylinux_x86_64``."""
    found = COMPILED.fullmatch(name)
    if found is None:
        raise SystemExit(f"{name}: not the name of a distribution of version {VERSION}")
    return "{python}-{system}_{machine}".format(**found.groupdict())


def builds() -> set[str]:
    """The builds that cibuildwheel makes, on all platforms together."""
    options = PROJECT["tool"]["cibuildwheel"]
    found: set[str] = set()
    for platform in ("linux", "macos"):
        command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform]
        archs = ["--archs", ",".join(options[platform]["archs"])]
        found.update(
            subprocess.run([*command, *archs, ROOT], check=True, capture_output=True, text=True).stdout.split()
        )
    return found


def check_contents(wheel: Path) -> None:
    """A compiled wheel has each module as C and as Python; a pure one has no C at all."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = [module for module in MODULES if f"{module}.py" not in names]
    extensions = [name for name in names if name.endswith((".so", ".pyd"))]
    if wheel.name == PURE:
        wrong = extensions
    else:
        wrong = [module for module in MODULES if not any(name.startswith(f"{module}.") for name in extensions)]
        # The code itself is in one library beside the package.
        wrong += ["the library of the compiled code"] * (not any("__mypyc." in name for name in extensions))
    if missing or wrong or "trio_smtp/py.typed" not in names:
        raise SystemExit(f"{wheel.name}: without {missing}, and wrong: {wrong}")


def main(arguments: list[str] | None = None) -> None:
    """Check each file, whether all are there, and the tag."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--tag", default="")
    asked = parser.parse_args(arguments)
    if asked.tag not in {"", f"v{VERSION}"}:
        raise SystemExit(f"tag {asked.tag}, and version {VERSION} in pyproject.toml")
    files = sorted(asked.directory.iterdir())
    found = {file.name if file.name in {SDIST, PURE} else identifier(file.name) for file in files}
    for file in files:
        if file.suffix == ".whl":
            check_contents(file)
        print(f"{file.stat().st_size:>9} {file.name}")
    if asked.whole:
        wanted = {SDIST, PURE, *builds()}
        if found != wanted:
            raise SystemExit(f"missing: {sorted(wanted - found)}; too many: {sorted(found - wanted)}")


if __name__ == "__main__":
    main()
