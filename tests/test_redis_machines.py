"""Several front ends behind HAProxy over one Redis, whose parts are killed, drained and replaced: nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.program("redis-server", "haproxy")


def test_ten_kills(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak_redis.py"), "--directory", str(tmp_path)]
    done = subprocess.run(
        [*command, "--kills", "10", "--senders", "1", "--seed", "6"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 of them missing" in done.stdout
    # One was killed, one was drained and replaced, and Redis was restarted.
    assert "redis killed" in done.stdout
    assert "drained" in done.stdout
