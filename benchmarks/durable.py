"""The case "durable" of `run.py`: messages into a Maildir on a disk, synced before the 250 where the server does that.

All processes of a server count, and what a server still does after the last 250, as Postfix does. Server and client may
use every core: a server that syncs uses threads or processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import report
from contenders import HERE, OURS, Missing, ours, peer
from processes import Server, run, running
from report import Figure, Row

LOAD = HERE / "load.py"
TITLE = "4 KiB into a Maildir"
#: The handler that aiosmtpd has for a Maildir.
NO_PROMISE = "aiosmtpd Mailbox (syncs nothing)"
CONNECTIONS = (1, 20, 100)
#: Seconds of load in each round, at least: a disk has its moods.
SECONDS = 1.0
#: A server has done with its work when it took no CPU time for so many seconds.
QUIET, PATIENCE = 0.3, 30.0
#: Cores that other programs may take before the table says so.
QUIET_MACHINE = 0.1
MASTER = Path("/usr/lib/postfix/sbin/master")

SPEED_PANEL = "Messages/s into a Maildir: longer is better"
CPU_PANEL = "CPU time of all its processes per message in µs: shorter is better"
LATENCY_PANEL = "Milliseconds that 99 of 100 messages kept below: shorter is better"

Sample = dict[str, float]


class Contender(NamedTuple):
    """A server that stores messages below a directory."""

    name: str
    script: str
    version: str
    #: What its 250 means.
    promise: str


def _ours() -> Contender:
    return Contender(
        OURS, "trio_smtp_maildir.py", ours(sys.executable).version, "the file and its name in the Maildir are synced"
    )


def _postfix() -> Contender:
    if not MASTER.exists() or shutil.which("postconf") is None or os.geteuid() != 0:
        raise Missing("it needs root, and apt install postfix")
    version = subprocess.run(["postconf", "-h", "-d", "mail_version"], capture_output=True, text=True, check=True)
    return Contender(
        "Postfix",
        "postfix.py",
        f"Postfix {version.stdout.strip()}",
        "the file in the queue is synced; virtual delivers it to the Maildir meanwhile",
    )


def _aiosmtpd() -> Contender:
    return Contender(
        NO_PROMISE, "aiosmtpd_mailbox.py", peer("aiosmtpd").version, "**nothing is synced**: a power cut loses it"
    )


def contenders(notes: list[str]) -> list[Contender]:
    """What will be measured; notes get a line for what is not there."""
    found = [_ours()]
    for name, make in ((NO_PROMISE, _aiosmtpd), ("Postfix", _postfix)):
        try:
            found.append(make())
        except Missing as exc:
            notes.append(f"{name} is left out: {exc}.")
    return found


def cpu_of_all(pid: int) -> float:
    """CPU seconds of a process and of all that it has started, as /proc has them."""
    ticks: dict[int, tuple[int, int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        # Its parent; user and system time of itself, and of children that it has waited for.
        ticks[int(directory.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {pid}
    while more := {child for child, (parent, _) in ticks.items() if parent in family} - family:
        family |= more
    return sum(ticks[member][1] for member in family if member in ticks) / os.sysconf("SC_CLK_TCK")


def _settled_cpu(pid: int) -> float:
    """The same, once the server has done with what it does after the last 250."""
    limit, before = time.monotonic() + PATIENCE, -1.0
    while (now := cpu_of_all(pid)) != before and time.monotonic() < limit:
        before = now
        time.sleep(QUIET)
    return now


def _busy() -> float:
    """CPU seconds that all cores together were busy since the machine started."""
    user, nice, system, _idle, _wait, *rest = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _load(server: Server, connections: int, seconds: float) -> Sample:
    before, busy, start = _settled_cpu(server.pid), _busy(), time.perf_counter()
    command = [
        sys.executable,
        str(LOAD),
        str(server.port),
        "--connections",
        str(connections),
        "--seconds",
        str(seconds),
    ]
    finished = run(command, None, 2 * PATIENCE + seconds)
    if finished.returncode:
        raise OSError(finished.stderr.strip() or f"the client ended with exit code {finished.returncode}")
    sample: Sample = json.loads(finished.stdout)
    cpu = _settled_cpu(server.pid) - before
    others = (_busy() - busy - cpu - sample["client_cpu"]) / (time.perf_counter() - start)
    return {**sample, "all_cpu": cpu, "others": others}


def _rounds(
    found: list[Contender],
    directory: Path,
    options: argparse.Namespace,
    say: Callable[[str], None],
    failures: list[str],
) -> dict[tuple[int, str], list[Sample]]:
    """All servers run at once, and take turns in an order that changes; one that does not start is taken out."""
    samples: dict[tuple[int, str], list[Sample]] = {}
    with ExitStack() as stack:
        servers = {}
        for each in list(found):
            (own := directory / each.script.removesuffix(".py")).mkdir()
            command = [sys.executable, str(HERE / "servers" / each.script), "{port}", str(own)]
            try:
                servers[each.name] = stack.enter_context(running(command, None))
            except OSError as exc:
                failures.append(f"{each.name} {exc}")
                found.remove(each)
        for turn in range(options.rounds):
            say(f"durable, round {turn + 1} of {options.rounds}")
            for connections in CONNECTIONS:
                for each in random.sample(found, len(found)):
                    try:
                        sample = _load(servers[each.name], connections, max(options.seconds, SECONDS))
                    except (OSError, subprocess.SubprocessError) as exc:
                        failures.append(f"{each.name} failed durable: {exc}")
                    else:
                        samples.setdefault((connections, each.name), []).append(sample)
    return samples


def measure(options: argparse.Namespace, say: Callable[[str], None], failures: list[str]) -> None:
    """Measure and print the table; with `options.output` write it to the page, and draw the picture."""
    if not Path("/proc/self/stat").exists():
        failures.append("durable needs /proc")
        return
    notes: list[str] = []
    found = contenders(notes)
    # Removed at the end: a file system is slow where much was removed a moment ago.
    with tempfile.TemporaryDirectory(prefix="durable-", dir=options.directory) as name:
        directory = Path(name)
        directory.chmod(0o755)  # Postfix's own user must be able to get there
        samples = _rounds(found, directory, options, say, failures)
        disk = _file_system(directory)
    names = [each.name for each in found]
    rows = _rows(samples, names)
    if not rows:
        return
    how = (
        f"Medians of {options.rounds} interleaved rounds of {max(options.seconds, SECONDS):g} s each, on {disk};"
        " server and client not bound to cores."
    )
    notes[:0] = [f"What a 250 of {each.name} means: {each.promise}." for each in found]
    others = statistics.median(one["others"] for some in samples.values() for one in some)
    if others > QUIET_MACHINE:
        notes.append(
            f"Other programs took {others:.1f} cores meanwhile: believe the ratios of CPU time, not the rates."
        )
    text = f"{report.table(rows, names, names[1:])}\n{report.summary([each.version for each in found], how, notes)}"
    print(text)
    if options.output is None:
        return
    say(f"wrote {report.write(options.output, 'durable', text)}")
    try:
        report.plot(rows, names, options.output / "durable.png", f"{report.machine()}. {how}")
    except ImportError:
        say("no plot: pip install matplotlib")


def _file_system(directory: Path) -> str:
    """The kind of the file system that a directory is on."""
    kinds = {}
    for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, mounted, kind, *_ = line.split()
        kinds[mounted] = kind
    return next(kinds[str(place)] for place in (directory, *directory.parents) if str(place) in kinds)


def _rows(samples: dict[tuple[int, str], list[Sample]], names: Sequence[str]) -> list[Row]:
    def figures(connections: int, of: Callable[[Sample], float]) -> dict[str, Figure]:
        return {
            name: Figure(statistics.median(map(of, samples[connections, name])))
            for name in names
            if (connections, name) in samples
        }

    rows: list[Row] = []
    for connections in CONNECTIONS:
        case = f"{connections} connection{'s' * (connections > 1)}"
        speed = figures(connections, lambda one: one["messages"] / one["seconds"])
        latency = figures(connections, lambda one: one["latency_p99"] * 1e3)
        cpu = figures(connections, lambda one: one["all_cpu"] / one["messages"] * 1e6)
        rows += [
            Row(case, TITLE, "messages/s", True, speed, SPEED_PANEL),
            Row(case, TITLE, "p99 ms", False, latency, LATENCY_PANEL),
            Row(case, TITLE, "CPU µs", False, cpu, CPU_PANEL),
        ]
    return rows
