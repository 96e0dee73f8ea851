"""Turn what measure.py has measured into tables in Markdown and figures.

`python benchmarks/report.py FOLDER MEASURED` writes into the first folder speed.md, the figures,
and glance.png, which is the README's, from the files of the second.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import glance
from speed_cases import GROUPS

OURS, OUT, MEMORY = "xentfast", "xentfast out=", "memory"
COLOURS = {
    MEMORY: "black",
    OURS: "tab:blue",
    OUT: "tab:blue",
    "NumPy": "tab:gray",
    "torch": "tab:orange",
    "torch.compile": "tab:red",
    "jax": "tab:green",
    "tensorflow": "tab:olive",
    "scikit-learn": "tab:purple",
    "scipy": "tab:brown",
    "numba": "tab:pink",
}
PEERS = tuple(COLOURS)[3:]
MODES = {"value": "value", "value_and_grad": "value and gradient"}
Key: TypeAlias = tuple[str, str, str]  # group, case and mode
STYLE: dict[str, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@dataclass(frozen=True)
class Run:
    """The median seconds of all that was measured with one number of threads."""

    threads: int
    machine: dict[str, Any]
    facts: dict[Key, dict[str, Any]]
    seconds: dict[Key, dict[str, float]]  # by contender

    def of(self, group: str, mode: str | None = None) -> list[Key]:
        return [key for key in self.facts if key[0] == group and mode in (None, key[2])]

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' * (self.threads > 1)}"


def place(facts: dict[str, Any]) -> tuple[str, str]:
    return facts["group"], facts["case"]


def load(folder: pathlib.Path) -> list[Run]:
    """Read the files of a folder: runs by threads, and in each the cases as they are listed."""
    order = [(group, case.name) for group, cases in GROUPS.items() for case in cases]
    read = {path: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    known = [(path, facts) for path, facts in read.items() if place(facts) in order]
    runs: dict[int, Run] = {}
    for path, facts in sorted(known, key=lambda item: (order.index(place(item[1])), item[0])):
        run = runs.setdefault(facts["threads"], Run(facts["threads"], facts["machine"], {}, {}))
        if facts["machine"]["build"] != run.machine["build"]:
            sys.exit(f"{path} was measured with another build than others in {folder}")
        key = facts["group"], facts["case"], facts["mode"]
        run.facts[key] = facts
        run.seconds[key] = {
            name: statistics.median(seconds) for name, seconds in facts["seconds"].items()
        }
    return [runs[threads] for threads in sorted(runs)]


# --- tables ---------------------------------------------------------------------------------------


def table(run: Run) -> str:
    """Return a row for each case: our time, its share of what memory allows, the peers' ratios."""
    peers = [name for name in PEERS if any(name in run.seconds[key] for key in run.of("table"))]
    head = ["case", "", "ms", "ms, `out=`", "GB/s", "of memory", *peers]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for key in run.of("table"):
        seconds, size = run.seconds[key], run.facts[key]["bytes"]
        ours, best = seconds[OURS], seconds.get(OUT, seconds[OURS])
        lines.append(
            [
                key[1] if key[2] == "value" else "",
                MODES[key[2]],
                f"{1e3 * ours:.3g}",
                f"{1e3 * best:.3g}" if OUT in seconds else "",
                f"{size / best / 1e9:.1f}" if size else "",
                f"{seconds[MEMORY] / best:.0%}" if MEMORY in seconds else "",
                *(ratio(seconds[name] / ours) if name in seconds else "" for name in peers),
            ]
        )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def ratio(times: float) -> str:
    """Return a ratio with the digits that count, in bold where the peer is the faster one."""
    text = f"{times:.2f}" if times < 2 else f"{times:.1f}" if times < 10 else f"{times:.0f}"
    return f"**{text}**" if times < 1 else text


def markdown(runs: list[Run]) -> str:
    machine = runs[0].machine
    config = machine["xentfast"]
    versions = (f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        f"{machine['cpu']}, {config['isa']}, {config['compiler']}, "
        f"Python {machine['python']}, {', '.join(versions)}. Medians.",
        "A peer's column says how many times as long as xentfast it takes, both with a new array "
        "for a gradient; in bold where the peer is faster, and empty where it has no such function "
        "or another result. `of memory` is the time to read the input once, or to copy it where an "
        "array is written, over our time.",
    ]
    parts += [part for run in runs for part in (f"With {run}:", table(run))]
    return "\n\n".join(parts) + "\n"


# --- figures --------------------------------------------------------------------------------------


def short(number: float, _: object = None) -> str:
    """Return 1000 as 1k."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{suffix}"
    return f"{number:g}"


def logarithmic(axes: Any, xlabel: str, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=xlabel, title=title)
    axes.xaxis.set_major_formatter(short)
    axes.yaxis.set_major_formatter(short)


def by_case(axes: Any, keys: list[Key], xlabel: str, title: str) -> None:
    axes.set(xlabel=xlabel, title=title)
    axes.set_yticks(range(len(keys)), [case for _, case, _ in keys])
    axes.invert_yaxis()
    axes.grid(False, axis="y")


def legend(figure: Figure) -> None:
    """Put one legend for all panels beside them."""
    known = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside right center")


def draw_classes(run: Run) -> Figure:
    """Draw throughput over classes, a line for each contender and memory as the ceiling."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axes, (mode, title) in zip(panels, MODES.items(), strict=True):
        for name, colour in COLOURS.items():
            keys = [key for key in run.of("classes", mode) if name in run.seconds[key]]
            if not keys:
                continue
            ours = name in (OURS, OUT)
            axes.plot(
                [run.facts[key]["shape"][1] for key in keys],
                [run.facts[key]["bytes"] / run.seconds[key][name] / 1e9 for key in keys],
                label={MEMORY: "memory limit"}.get(name, name),
                color=colour,
                linestyle={MEMORY: ":", OUT: "--"}.get(name, "-"),
                linewidth=2.5 if ours else 1.5,
                marker="" if name == MEMORY else "o",
                markersize=3,
                zorder=3 if ours else 2,
            )
        logarithmic(axes, "classes", title)
    panels[0].set_ylabel("GB/s read and written")
    figure.suptitle(f"Cross-entropy in float32, {run}")
    return figure


def draw_sizes(runs: list[Run]) -> Figure:
    """Draw the time for an element over the size of the problem."""
    figure, _ = plt.subplots(1, len(runs), figsize=(5 * len(runs) + 1, 4.2), sharey=True)
    lines = (
        ("value", "value", OURS, "tab:blue", "-"),
        ("reading memory", "value", MEMORY, "tab:blue", ":"),
        ("value and gradient", "value_and_grad", OURS, "tab:red", "-"),
        ("value and gradient, out=", "value_and_grad", OUT, "tab:red", "--"),
        ("copying memory", "value_and_grad", MEMORY, "tab:red", ":"),
    )
    for axes, run in zip(figure.axes, runs, strict=True):
        for label, mode, name, colour, style in lines:
            points = [
                (run.facts[key]["elements"], run.seconds[key][name])
                for key in run.of("sizes", mode)
            ]
            axes.plot(
                [n for n, _ in points],
                [1e9 * seconds / n for n, seconds in points],
                label=label,
                color=colour,
                linestyle=style,
            )
        logarithmic(axes, "elements", str(run))
    figure.axes[0].set_ylabel("ns for an element")
    figure.suptitle("Cross-entropy in float32, rows of 1,008 classes")
    return figure


def draw_isas(run: Run) -> Figure:
    """Draw the speed of each instruction set against that of the weakest."""
    isas = run.machine["xentfast"]["isas_available"]
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), sharex=True)
    for axes, (mode, title) in zip(panels, MODES.items(), strict=True):
        keys = run.of("isas", mode)
        for i, name in enumerate(isas):
            speeds = [run.seconds[key][isas[0]] / run.seconds[key][name] for key in keys]
            rows = [row + 0.8 * ((i + 0.5) / len(isas) - 0.5) for row in range(len(keys))]
            bars = axes.barh(rows, speeds, height=0.8 / len(isas), label=name)
            axes.bar_label(bars, [f"{speed:.1f}" for speed in speeds], padding=2, fontsize="small")
        by_case(axes, keys, f"speed, {isas[0]} = 1", title)
    figure.suptitle(f"Instruction sets, {run}")
    return figure


def draw_threads(one: Run, more: Run) -> Figure:
    """Draw how many times as fast the same calls are with more threads."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 5.2), sharex=True)
    markers = {MEMORY: "|", OURS: "o", OUT: "D"}
    for axes, (mode, title) in zip(panels, MODES.items(), strict=True):
        keys = [key for key in one.of("table", mode) if key in more.facts]
        for name, marker in markers.items():
            rows = [row for row, key in enumerate(keys) if name in one.seconds[key]]
            axes.plot(
                [one.seconds[keys[row]][name] / more.seconds[keys[row]][name] for row in rows],
                rows,
                marker,
                label={MEMORY: "memory limit"}.get(name, name),
                color=COLOURS[name],
                fillstyle="none" if name == OUT else "full",
                markersize=12 if name == MEMORY else 6,
            )
        axes.axvline(1, color="0.6", linewidth=1, zorder=0)
        by_case(axes, keys, f"speed, {one} = 1", title)
    figure.suptitle(f"{more} against {one}")
    return figure


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    runs = load(pathlib.Path(sys.argv[2]))
    folder.joinpath("speed.md").write_text(markdown(runs), encoding="utf-8")
    mpl.rcParams.update(STYLE)
    figures = {f"classes-{run.threads}": draw_classes(run) for run in runs if run.of("classes")}
    if sized := [run for run in runs if run.of("sizes")]:
        figures["sizes"] = draw_sizes(sized)
    if runs[0].of("isas"):
        figures["instruction-sets"] = draw_isas(runs[0])
    if len(runs) > 1:
        figures["threads"] = draw_threads(runs[0], runs[-1])
    for name, figure in figures.items():
        legend(figure)
        figure.savefig(folder / f"{name}.png")
    glance.draw(folder)


if __name__ == "__main__":
    main()
