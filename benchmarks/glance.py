"""Draw speed and error at a glance, the picture of the README, from speed.md and errors.json.

`python benchmarks/glance.py` writes results/glance.png; report.py and accuracy.py do it, too.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from matplotlib.figure import Figure

RESULTS = pathlib.Path(__file__).parent / "results"
CASES = ("1,000,000 x 10", "16,384 x 1,008", "2,048 x 32,768", "512 x 128,256")
MODE = "value and gradient"
OURS = "xentfast"
COLOURS = {
    OURS: "tab:blue",
    "NumPy": "tab:gray",
    "torch": "tab:orange",
    "torch.compile": "tab:red",
    "jax": "tab:green",
    "tensorflow": "tab:olive",
    "scikit-learn": "tab:purple",
    "SciPy": "tab:brown",
}


def ratios(text: str) -> dict[str, dict[str, float]]:
    """Return for each case what the first table of speed.md says of each peer."""
    head: list[str] = []
    case, found = "", {}
    for line in text.splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            if found:  # the end of the first table
                break
        elif not head:
            head = cells
        else:
            case = cells[0] or case
            if cells[1] == MODE:
                pairs = zip(head, cells, strict=True)
                found[case] = {
                    name: float(cell)
                    for name, cell in pairs
                    if name in COLOURS and re.fullmatch(r"[\d.]+", cell)
                }
    return found


def draw_speed(axes: Any, found: dict[str, dict[str, float]]) -> None:
    axes.axvline(1, color=COLOURS[OURS], linewidth=3)
    for name in dict.fromkeys(name for case in CASES for name in found[case]):
        rows = [row for row, case in enumerate(CASES) if name in found[case]]
        times = [found[CASES[row]][name] for row in rows]
        axes.plot(times, rows, "o", color=COLOURS[name], label=name, markersize=8)
    axes.set(xscale="log", xlabel="times as long as xentfast", title="Time of loss and gradient")
    ticks = (1, 2, 5, 10, 20)
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_yticks(range(len(CASES)), CASES)
    axes.set_ylabel("rows x classes")
    axes.invert_yaxis()


def draw_errors(axes: Any, measured: dict[str, Any]) -> None:
    for name, values in measured["errors"]["float32"]["value"].items():
        ours = name == OURS
        axes.plot(
            measured["margins"],
            values,
            "o-",
            color=COLOURS[name],
            label=name,
            linewidth=3 if ours else 1.2,
            markersize=4,
        )
    axes.set(
        yscale="log",
        xlabel="lead of the right class, in logits",
        ylabel="relative error (1: no digit is right)",
        title="Error of the loss",
    )


def draw(folder: pathlib.Path = RESULTS) -> None:
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    speed = (folder / "speed.md").read_text(encoding="utf-8")
    draw_speed(left, ratios(speed))
    draw_errors(right, json.loads((RESULTS / "errors.json").read_text(encoding="utf-8")))
    known = {}
    for axes in (left, right):
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        known.values(), known.keys(), loc="outside lower center", ncols=len(known), frameon=False
    )
    machine = speed.split(", gcc")[0]
    figure.suptitle(f"Cross-entropy in float32, one thread, {machine}", fontsize="medium")
    figure.savefig(folder / "glance.png", dpi=150)


if __name__ == "__main__":
    draw()
