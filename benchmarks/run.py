#!/usr/bin/env python3
"""The library against aiosmtpd and others: the same machine, the same client, interleaved rounds.

    python benchmarks/run.py [--cases a,b,...] [--servers trio_smtp,aiosmtpd,...] [--rounds N] [--output DIR]

Needs `pip install 'trio-smtp[bench]'`: aiosmtpd, trustme, matplotlib. Measures smtp-server (npm) and smtp-sink
(Postfix) too where they are installed; says what it leaves out, and why. A full run writes its table into
docs/benchmarks.md and its plots beside it; one of a few cases or servers prints it only, unless --output
says where to. Only 127.0.0.1 is used; every process that was started is ended, also on Ctrl-C. About two minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import durable
import report
from contenders import OURS, PEERS, ROOT, Contender, Missing, ours, ours_by_version, peer
from processes import Server, cores, open_files, peak_memory, run, running
from report import Figure, Row

LOAD = Path(__file__).resolve().with_name("load.py")
MIB = 1024 * 1024
LARGE = ["--connections", "1", "--size", str(10 * MIB)]
IDLE, GROWTH, IMPORTS = 1000, 50 * MIB, 20
#: Seconds for one run of the client beyond what it measures.
PATIENCE = 30.0
#: A client that is busier than the server, and from this share of its core on, is taken for the limit.
BUSY = 0.7
#: When neither was as busy as this, something else took the time.
DISTURBED = 0.85

CPU_PANEL = "CPU time of the server per message in µs: shorter is better"
SPEED_PANEL = "MB/s: longer is better"

Sample = dict[str, float]


class Case(NamedTuple):
    """A kind of load; one without arguments is measured in a way of its own."""

    title: str
    arguments: Sequence[str] = ()


CASES = {
    "a": Case("4 KiB, a new connection each", ["--new"]),
    "b": Case("4 KiB, connections used again", []),
    "c": Case("4 KiB, used again, pipelined", ["--pipelined"]),
    "gs": Case("4 KiB, a new connection and STARTTLS each", ["--new", "--starttls"]),
    "e": Case("10 MiB", LARGE),
    "eD": Case("10 MiB, a dot before each line", [*LARGE, "--dotted"]),
    "ebd": Case("10 MiB by BDAT", [*LARGE, "--bdat"]),
    "growth": Case("how far a 50 MiB message moves the peak of the memory"),
    "idle": Case(f"memory for each of {IDLE:,} idle connections"),
    "startup": Case("import, beyond trio's or asyncio's own"),
    "durable": Case("4 KiB into a Maildir on a disk, beside Postfix: a table and a plot of its own"),
}
LOADS = ("a", "b", "c", "gs", "e", "eD", "ebd")


class Failed(Exception):
    """A server failed a case."""


class Certificate(NamedTuple):
    """Paths: what the client trusts, and what the servers show."""

    ca: str
    chain: str
    key: str


@contextmanager
def certificate() -> Iterator[Certificate | None]:
    """An ECDSA certificate for localhost; None without trustme."""
    try:
        import trustme
    except ImportError:
        yield None
        return
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = ca.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    with tempfile.TemporaryDirectory() as name:
        paths = Certificate(*(str(Path(name) / file) for file in ("ca.pem", "cert.pem", "key.pem")))
        ca.cert_pem.write_to_path(paths.ca)
        issued.private_key_pem.write_to_path(paths.key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(paths.chain, append=True)
        yield paths


class Bench:
    """One run: the servers, the figures."""

    def __init__(self, contenders: list[Contender], files: Certificate | None, options: argparse.Namespace) -> None:
        self.contenders = contenders
        self.options = options
        self.samples: dict[tuple[str, str], list[Sample]] = {}
        self.notes: list[str] = []
        self.failures: list[str] = []
        self._files = files
        self._server_core: int | None
        self._client_core: int | None
        self._server_core, self._client_core = cores() or (None, None)

    def measure(self, cases: list[str]) -> None:
        """Measure these cases."""
        loads = [case for case in cases if case in LOADS]
        if "gs" in loads and self._files is None:
            loads.remove("gs")
            self.notes.append("gs is left out: pip install trustme.")
        if loads:
            self._rounds(loads)
        for case, measure in (("growth", self._growth), ("idle", self._idle)):
            for contender in self.contenders if case in cases else ():
                self._say(f"{case} {contender.name}")
                self._try(case, contender, partial(measure, contender))
        if "startup" in cases:
            self._say("startup")
            self._imports()
        if "durable" in cases and not self.options.python:
            durable.measure(self.options, self._say, self.failures)

    def _say(self, text: str) -> None:
        print(f"{text} ...", file=sys.stderr, flush=True)

    def _try(self, case: str, contender: Contender, measure: Callable[[], Sample | None]) -> None:
        try:
            sample = measure()
        except (Failed, OSError) as exc:
            self.failures.append(f"{contender.name} failed {case}: {exc}")
            return
        if sample is not None:
            self.samples.setdefault((case, contender.name), []).append(sample)

    def _running(self, contender: Contender) -> AbstractContextManager[Server]:
        files = [self._files.chain, self._files.key] if self._files and contender.takes_certificate else []
        return running([*contender.command, *files], self._server_core)

    def _rounds(self, cases: list[str]) -> None:
        """All servers run at once; each round has every case with every server, in an order that changes."""
        with ExitStack() as stack:
            servers: dict[str, Server] = {}
            for contender in list(self.contenders):
                try:
                    servers[contender.name] = stack.enter_context(self._running(contender))
                except OSError as exc:
                    self.failures.append(f"{contender.name} {exc}")
                    self.contenders.remove(contender)
            left_out: set[tuple[str, str]] = set()
            for turn in range(self.options.rounds):
                self._say(f"round {turn + 1} of {self.options.rounds}")
                for case in cases:
                    for contender in random.sample(self.contenders, len(self.contenders)):
                        if (case, contender.name) in left_out:
                            continue
                        before = len(self.samples.get((case, contender.name), ()))
                        self._try(case, contender, partial(self._load, case, servers[contender.name]))
                        if len(self.samples.get((case, contender.name), ())) == before:
                            left_out.add((case, contender.name))

    def _load(self, case: str, server: Server) -> Sample | None:
        arguments = list(CASES[case].arguments)
        if arguments[-1:] == ["--starttls"]:
            assert self._files is not None
            arguments.append(self._files.ca)
        if "--size" not in arguments:
            arguments += ["--warm-up", "0.1"]
        return self._client(server, *arguments, "--seconds", str(self.options.seconds))

    def _client(self, server: Server, *arguments: str) -> Sample | None:
        """Run the load client; None when the server does not offer what the case is about."""
        command = [sys.executable, str(LOAD), str(server.port), "--pid", str(server.pid), *arguments]
        try:
            finished = run(command, self._client_core, 2 * PATIENCE + float(self.options.seconds))
        except subprocess.TimeoutExpired as exc:
            raise Failed("the client hangs") from exc
        if finished.returncode:
            said = finished.stderr.strip().splitlines()
            raise Failed(said[-1] if said else f"the client ended with exit code {finished.returncode}")
        sample: Sample = json.loads(finished.stdout)
        return None if "unsupported" in sample else sample

    def _growth(self, contender: Contender) -> Sample | None:
        with self._running(contender) as server:
            self._client(server, "--connections", "1", "--messages", "20")
            before = peak_memory(server.pid)
            self._client(server, "--connections", "1", "--messages", "1", "--size", str(GROWTH))
            after = peak_memory(server.pid)
        return None if before is None or after is None else {"octets": after - before}

    def _idle(self, contender: Contender) -> Sample | None:
        with self._running(contender) as server:
            self._client(server, "--connections", "1", "--messages", "20")
            return self._client(server, "--idle", str(IDLE))

    def _imports(self) -> None:
        """Each in a process of its own, in turns; the first of each, which may compile, does not count."""
        for turn in range(IMPORTS + 1):
            for contender in self.contenders:
                if contender.startup is None:
                    continue
                finished = run(contender.startup, self._server_core, 60)
                finished.check_returncode()
                if turn:
                    base, own = map(float, finished.stdout.split())
                    self.samples.setdefault(("startup", contender.name), []).append({"base": base, "own": own})

    @property
    def disturbed(self) -> bool:
        """Whether neither our server nor its client was busy for most of the time."""
        shares = [
            max(one["server_cpu"], one["client_cpu"]) / one["seconds"]
            for (case, name), samples in self.samples.items()
            if case in LOADS and name.startswith(OURS)
            for one in samples
        ]
        return bool(shares) and statistics.median(shares) < DISTURBED

    def rows(self, cases: list[str]) -> list[Row]:
        """The medians."""
        rows: list[Row] = []
        for case in cases:
            found = {
                one.name: self.samples[case, one.name] for one in self.contenders if (case, one.name) in self.samples
            }
            if found:
                rows += _rows(case, found)
        return rows


def _median(samples: dict[str, list[Sample]], of: str, per: str = "", *, scale: float) -> dict[str, Figure]:
    return {
        name: Figure(statistics.median(one[of] / (one[per] if per else 1) for one in some) * scale)
        for name, some in samples.items()
    }


def _rows(case: str, samples: dict[str, list[Sample]]) -> list[Row]:
    title = CASES[case].title

    def row(unit: str, figures: dict[str, Figure], *, more: bool = False, panel: str | None = None) -> Row:
        return Row(case, title, unit, more, figures, panel)

    if case == "growth":
        # Next to nothing is no number to divide by.
        return [row("MiB", _median(samples, "octets", scale=1 / MIB))._replace(compared=False)]
    if case == "idle":
        return [row("KiB", _median(samples, "octets_each", scale=1 / 1024))]
    if case == "startup":
        both = {name: [{"all": one["base"] + one["own"]} for one in some] for name, some in samples.items()}
        return [row("CPU ms", _median(samples, "own", scale=1e3)), row("with it", _median(both, "all", scale=1e3))]
    limited = {
        name: statistics.median(one["client_cpu"] / max(one["server_cpu"], BUSY * one["seconds"]) for one in some) > 1
        for name, some in samples.items()
    }

    def speed(of: str, scale: float) -> dict[str, Figure]:
        return {
            name: figure._replace(at_least=limited[name])
            for name, figure in _median(samples, of, "seconds", scale=scale).items()
        }

    cpu = _median(samples, "server_cpu", "messages", scale=1e6)
    if "--size" in CASES[case].arguments:
        return [
            row("MB/s", speed("octets", 1e-6), more=True, panel=SPEED_PANEL),
            row("CPU ms", {name: Figure(figure.value / 1e3) for name, figure in cpu.items()}),
        ]
    return [row("CPU µs", cpu, panel=CPU_PANEL), row("messages/s", speed("messages", 1), more=True)]


def contenders(options: argparse.Namespace, notes: list[str]) -> list[Contender]:
    """What will be measured; notes get a line for what is not there."""
    if options.python:
        return ours_by_version(options.python)
    found: list[Contender] = []
    for name in options.servers:
        try:
            found.append(ours(sys.executable) if name == OURS else peer(name))
        except Missing as exc:
            if name == OURS:
                raise
            notes.append(f"{name} is left out: {exc}.")
            print(notes[-1], file=sys.stderr)
    return found


def finish(bench: Bench, options: argparse.Namespace) -> None:
    """Print the table, and write table and plot where they go."""
    rows = bench.rows(options.cases)
    names = [contender.name for contender in bench.contenders]
    if not rows:
        return
    compared = names[1:] if options.python else [name for name in names if name in ("aiosmtpd", "smtp-sink")]
    versions = [contender.version for contender in bench.contenders]
    how = f"Medians of {options.rounds} interleaved rounds of {options.seconds:g} s each" + (
        "; server and client on a core each." if cores() else "; server and client not bound to cores."
    )
    if bench.disturbed:
        bench.notes.append("Other processes took time meanwhile: compare CPU times, not messages/s and MB/s.")
    text = f"{report.table(rows, names, compared)}\n{report.summary(versions, how, bench.notes)}"
    print(text)
    if options.output is None:
        return
    print(
        f"wrote {report.write(options.output, 'interpreters' if options.python else 'servers', text)}", file=sys.stderr
    )
    if options.python or not any(row.panel for row in rows):
        return
    picture = options.output / "benchmarks.png"
    try:
        report.plot(rows, names, picture, f"{report.machine()}. {how}")
    except ImportError:
        print("no plot: pip install matplotlib", file=sys.stderr)
    else:
        print(f"wrote {picture}", file=sys.stderr)


def parse() -> argparse.Namespace:
    def names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
        def read(text: str) -> list[str]:
            wanted = text.split(",")
            if not set(wanted) <= set(allowed):
                raise argparse.ArgumentTypeError(f"choose from {','.join(allowed)}")
            return [name for name in allowed if name in wanted]

        return read

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["cases:", *(f"  {name:8} {case.title}" for name, case in CASES.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = (OURS, *PEERS)
    parser.add_argument("--cases", type=names(tuple(CASES)), metavar="a,b,...", help="default: all")
    parser.add_argument("--servers", type=names(every), metavar="A,B,...", help=f"of {','.join(every)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a load in a round (default: %(default)s)")
    parser.add_argument("--directory", metavar="DIR", help="on the disk for durable (default: that of temporary files)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where benchmarks.md and benchmarks.png are written")
    parser.add_argument(
        "--python", action="append", metavar="PATH", help="measure the library alone under this interpreter, and others"
    )
    options = parser.parse_args()
    if options.output is None and options.cases is None and options.servers is None:
        options.output = ROOT / "docs"
    options.cases = options.cases or list(CASES)
    options.servers = options.servers or list(every)
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    open_files(4 * IDLE)
    notes: list[str] = []
    try:
        with certificate() as files:
            bench = Bench(contenders(options, notes), files, options)
            bench.notes += notes
            bench.measure(options.cases)
    except Missing as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finish(bench, options)
    for failure in bench.failures:
        print(failure, file=sys.stderr)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
