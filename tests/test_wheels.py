"""The distributions: the workflow makes what the scripts check, and the scripts find what is wrong."""

from __future__ import annotations

import enum
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

import trio_smtp.protocol.framing

ROOT = Path(__file__).parent.parent
WORKFLOW = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")


def load() -> types.ModuleType:
    """The script that checks distributions."""
    spec = importlib.util.spec_from_file_location("wheels", ROOT / ".ci" / "wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT: Any = load()


def make(directory: Path, tag: str, *, without: str = "none", extra: str = "") -> Path:
    """Make a wheel with a tag."""
    names = [*(f"{module}.py" for module in SCRIPT.MODULES), "trio_smtp/py.typed", *extra.split()]
    if not tag.endswith("none-any"):
        names += [*(f"{module}.cpython-311-x.so" for module in SCRIPT.MODULES), "0__mypyc.cpython-311-x.so"]
    path = directory / f"trio_smtp-{SCRIPT.VERSION}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            if without not in name:
                archive.writestr(name, "")
    return path


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole release, where two compiled wheels are asked for."""
    monkeypatch.setattr(SCRIPT, "builds", lambda: {"cp311-manylinux_x86_64", "cp312-macosx_arm64"})
    (tmp_path / SCRIPT.SDIST).touch()
    for tag in (
        "py3-none-any",
        "cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64",
        "cp312-cp312-macosx_11_0_arm64",
    ):
        make(tmp_path, tag)
    return tmp_path


# The workflow


def test_each_architecture_that_is_asked_for_has_a_machine() -> None:
    options = SCRIPT.PROJECT["tool"]["cibuildwheel"]
    asked = {(platform, arch) for platform in ("linux", "macos") for arch in options[platform]["archs"]}
    machines = re.findall(r"- \{ runner: [\w.-]+, platform: (\w+), arch: (\w+) \}", WORKFLOW)
    assert sorted(machines) == sorted(asked)


def test_the_scripts_and_tests_that_are_named_exist() -> None:
    command = SCRIPT.PROJECT["tool"]["cibuildwheel"]["test-command"]
    named = re.findall(r"(?:\.ci|tests)/[\w./]+", command) + re.findall(r"\.ci/[\w./]+", WORKFLOW)
    assert ".ci/test_wheel" in named
    assert ".ci/wheels.py" in named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_what_publishes_may_do_nothing_else_and_runs_on_a_tag_alone() -> None:
    before, publish = WORKFLOW.split("\n  publish:\n")
    assert "id-token" not in before
    assert "needs: release" in publish
    assert "github.ref_type == 'tag'" in publish
    assert re.findall(r"uses: ([\w/-]+)", publish) == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]


# What is in a distribution


def test_a_whole_release_passes(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SCRIPT.main([str(whole), "--whole", "--tag", f"v{SCRIPT.VERSION}"])
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("tag", "identifier"),
    [
        ("cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64", "cp311-manylinux_x86_64"),
        ("cp314-cp314-manylinux_2_28_aarch64", "cp314-manylinux_aarch64"),
        ("cp312-cp312-musllinux_1_2_aarch64", "cp312-musllinux_aarch64"),
        ("cp313-cp313-macosx_10_13_x86_64", "cp313-macosx_x86_64"),
        ("cp313-cp313-macosx_11_0_arm64", "cp313-macosx_arm64"),
        ("cp311-cp311-linux_x86_64", "cp311-linux_x86_64"),
    ],
)
def test_a_name_tells_the_build(tag: str, identifier: str) -> None:
    assert SCRIPT.identifier(f"trio_smtp-{SCRIPT.VERSION}-{tag}.whl") == identifier


@pytest.mark.parametrize(
    "tag",
    [
        "cp311-cp312-linux_x86_64",
        "cp311-abi3-linux_x86_64",
        "py3-none-linux_x86_64",
        "cp311-cp311-win_amd64",
        "cp311-cp311-manylinux_2_17_x86_64.musllinux_1_2_x86_64",
    ],
)
def test_a_name_that_is_none_of_ours_is_refused(tag: str) -> None:
    with pytest.raises(SystemExit, match="not the name of a distribution"):
        SCRIPT.identifier(f"trio_smtp-{SCRIPT.VERSION}-{tag}.whl")


@pytest.mark.parametrize(
    ("tag", "without", "extra", "message"),
    [
        ("py3-none-any", "none", "trio_smtp/protocol/framing.cpython-311.so", r"wrong: \['trio_smtp/protocol/framing"),
        ("py3-none-any", "protocol/framing", "", r"without \['trio_smtp/protocol/framing'\]"),
        ("py3-none-any", "py.typed", "", "without"),
        ("cp311-cp311-linux_x86_64", "framing.cpython", "", r"wrong: \['trio_smtp/protocol/framing'\]"),
        ("cp311-cp311-linux_x86_64", "framing.py", "", r"without \['trio_smtp/protocol/framing'\]"),
        ("cp311-cp311-linux_x86_64", "__mypyc", "", "the library of the compiled code"),
    ],
)
def test_contents_that_are_not_those_of_the_name_are_refused(
    tmp_path: Path, tag: str, without: str, extra: str, message: str
) -> None:
    make(tmp_path, tag, without=without, extra=extra)
    with pytest.raises(SystemExit, match=message):
        SCRIPT.main([str(tmp_path)])


def test_a_release_that_lacks_a_file_or_has_one_too_many_is_refused(whole: Path) -> None:
    added = make(whole, "cp313-cp313-macosx_11_0_arm64")
    with pytest.raises(SystemExit, match=r"missing: \[\]; too many: \['cp313-macosx_arm64'\]"):
        SCRIPT.main([str(whole), "--whole"])
    added.unlink()
    (whole / SCRIPT.SDIST).unlink()
    with pytest.raises(SystemExit, match=r"missing: \['trio_smtp-.*\.tar\.gz'\]; too many: \[\]"):
        SCRIPT.main([str(whole), "--whole"])


def test_a_tag_of_another_version_is_refused(whole: Path) -> None:
    with pytest.raises(SystemExit, match=r"tag v99\.0\.0, and version"):
        SCRIPT.main([str(whole), "--whole", "--tag", "v99.0.0"])


# What is built and what is installed


@pytest.mark.parametrize(("value", "found"), [("1", "true"), ("0", "None"), ("", "None"), (None, "None")])
def test_the_backend_builds_pure_when_it_is_told_to(tmp_path: Path, value: str | None, found: str) -> None:
    # Stands for hatchling, which an environment for tests does without.
    (tmp_path / "hatchling").mkdir()
    (tmp_path / "hatchling" / "build.py").write_text("def build_wheel(): ...\n", encoding="utf-8")
    environment = {
        name: text for name, text in os.environ.items() if name not in {"TRIO_SMTP_PURE", "HATCH_BUILD_NO_HOOKS"}
    }
    environment |= {} if value is None else {"TRIO_SMTP_PURE": value}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT / "packaging")])
    code = "import os, backend; print(os.environ.get('HATCH_BUILD_NO_HOOKS'), callable(backend.build_wheel))"
    finished = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout.split() == [found, "True"]


def test_the_wheel_that_is_installed_is_told_from_the_other_kind() -> None:
    compiled = not str(trio_smtp.protocol.framing.__file__).endswith(".py")
    environment = os.environ | {"PYTHONPATH": str(Path(trio_smtp.__file__).parent.parent)}
    for kind in ("compiled", "pure"):
        command = [sys.executable, "-P", str(ROOT / ".ci" / "installed.py"), kind, str(ROOT / "pyproject.toml")]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (finished.returncode == 0) is (compiled == (kind == "compiled"))
        assert finished.stdout.startswith(f"{kind}: ") or finished.stderr.startswith(f"not {kind}: ")


def test_programs_can_derive_from_every_class_that_is_offered() -> None:
    offered: list[Any] = [getattr(trio_smtp, name) for name in trio_smtp.__all__]
    # An enumeration with members has no subclasses in Python either.
    classes = [each for each in offered if inspect.isclass(each) and not issubclass(each, enum.Enum)]
    derived: list[Any] = [types.new_class(each.__name__, (each,)) for each in classes]
    assert len(derived) > 40
    for each in derived:
        # A class of Python's own cannot derive from a compiled one: making an object fails, not the class.
        assert isinstance(each.__new__(each), each)
