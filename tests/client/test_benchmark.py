"""The comparison with smtplib runs, and shows what pipelining is for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "client.py"


def test_many_messages_take_a_fraction_of_smtplib_s_time() -> None:
    command = [sys.executable, str(SCRIPT), "--messages", "60", "--rounds", "1", "--delay", "0.003"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = dict(re.findall(r"^(\S+) .* ([0-9.]+) times smtplib$", done.stdout, re.MULTILINE))
    assert list(found) == ["smtplib", "send", "send_many", "send_many(chunking=True)"]
    assert float(found["send_many(chunking=True)"]) > 5
    assert "60 messages, best of 1" in done.stdout


def test_there_may_be_no_relay() -> None:
    command = [sys.executable, str(SCRIPT), "--messages", "5", "--rounds", "1", "--delay", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "5 messages, best of 1" in done.stdout
