"""The table and the plot of `run.py`, and how they get into a page."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: Of Okabe and Ito, which colour-blind readers tell apart; ours first.
COLOURS = ("#0072B2", "#E69F00", "#7F7F7F", "#009E73", "#56B4E9", "#D55E00", "#CC79A7")
PAGE = "benchmarks.md"


class Figure(NamedTuple):
    """A median."""

    value: float
    #: The client was busy all the time: the server could have taken more.
    at_least: bool = False


class Row(NamedTuple):
    """What one case says of all servers, in one unit."""

    case: str
    title: str
    unit: str
    more_is_better: bool
    figures: dict[str, Figure]
    #: The plot's panel that shows it, if any.
    panel: str | None = None
    compared: bool = True


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{'≥ ' if figure.at_least else ''}{number(figure.value)}"


def _times(row: Row, ours: str, peer: str) -> str:
    """How many times better ours is."""
    mine, other = row.figures.get(ours), row.figures.get(peer)
    if not row.compared or mine is None or other is None or min(mine.value, other.value) <= 0 or other.at_least:
        return "-"
    times = mine.value / other.value if row.more_is_better else other.value / mine.value
    return f"{'≥ ' if mine.at_least else ''}{number(times)}"


def table(rows: Sequence[Row], servers: Sequence[str], compared: Sequence[str]) -> str:
    """A Markdown table: a row for each figure, a column for each server, and how many times better the first one is."""
    heads = ["case", "figure", *servers, *(f"times better than {peer}" for peer in compared)]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    last = ""
    for row in rows:
        title = "" if row.case == last else f"{row.case}: {row.title}"
        last = row.case
        cells = [_cell(row.figures.get(server)) for server in servers]
        lines.append([title, row.unit, *cells, *(_times(row, servers[0], peer) for peer in compared)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine() -> str:
    """What it was measured on."""
    model = platform.processor() or platform.machine()
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1] if found else model
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def summary(versions: Sequence[str], how: str, notes: Sequence[str]) -> str:
    """What stands under the table."""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [f"Measured on {date}: {machine()}.", f"{'; '.join(versions)}.", how, *notes]
    return "".join(f"* {line}\n" for line in lines)


def write(directory: Path, block: str, text: str) -> Path:
    """Put the text between the block's markers in the directory's page; one that has none gets them at its end."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / PAGE
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    begin, end = f"<!-- begin: {block} -->\n", f"<!-- end: {block} -->\n"
    if begin not in page or end not in page:
        page += f"\n{begin}{end}" if page else f"{begin}{end}"
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
    return path


def plot(rows: Sequence[Row], servers: Sequence[str], path: Path, footer: str) -> None:
    """Draw horizontal bars on a logarithmic scale, a panel for each kind of figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    panels = list(dict.fromkeys(row.panel for row in rows if row.panel))
    heights = [0.6 + len(servers) * 0.24 * sum(row.panel == panel for row in rows) for panel in panels]
    figure, axes = plt.subplots(
        len(panels), 1, squeeze=False, figsize=(9, 0.8 + sum(heights)), gridspec_kw={"height_ratios": heights}
    )
    colours = dict(zip(servers, COLOURS * (1 + len(servers) // len(COLOURS)), strict=False))
    for panel, axis in zip(panels, axes[:, 0], strict=True):
        _draw(axis, [row for row in rows if row.panel == panel], colours)
        axis.set_title(panel, loc="left", fontsize=11)
    handles = [Patch(color=colour, label=server) for server, colour in colours.items()]
    figure.legend(handles=handles, loc="upper left", ncols=len(servers), frameon=False, fontsize=10)
    figure.text(0.012, 0.008, footer, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.025, 1, 0.96))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw(axis: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """One panel: a group of bars for each row, the first on top."""
    values = [figure.value for row in rows for figure in row.figures.values() if figure.value > 0]
    least, most = min(values) / 2, max(values) * 2.2
    height = 0.8 / len(colours)
    for i, row in enumerate(rows):
        for j, (server, colour) in enumerate(colours.items()):
            figure, place = row.figures.get(server), i + (j - (len(colours) - 1) / 2) * height
            if figure is None:
                axis.text(least * 1.03, place, "not offered", va="center", fontsize=7, color="#777777")
                continue
            axis.barh(place, max(figure.value, least), height * 0.92, color=colour)
            axis.text(figure.value * 1.03, place, _cell(figure), va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(least, most)
    axis.set_yticks(range(len(rows)), [f"{row.case}: {row.title}" for row in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.45, -0.55)
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter("")  # it would label them where there is less than a decade
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
