"""The benchmark of memory, with a message small enough for a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "memory.py"


def measure(*arguments: str) -> tuple[int, str]:
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.stderr == ""
    return finished.returncode, finished.stdout


def test_a_large_message_takes_next_to_no_memory() -> None:
    code, said = measure("--size", "32")
    assert code == 0, said
    assert re.search(r"^message +32\.0 MiB in [0-9.]+ s, hash right$", said, re.MULTILINE)
    assert re.search(r"^growth +[0-9.]+ MiB, must be less than 4: holds$", said, re.MULTILINE)


def test_the_exit_code_tells_when_it_does_not_hold() -> None:
    code, said = measure("--size", "1", "--most", "-1")
    assert code == 1
    assert "must be less than -1: DOES NOT HOLD" in said
