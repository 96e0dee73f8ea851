"""Plots of evaluations, with matplotlib, which is imported when one is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from xentfast import _exact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from xentfast._compare import Comparison
    from xentfast._evaluate import Evaluation

_FIRST, _SECOND, _GRID = "#2a6fbb", "#c8553d", "#dddddd"


def _figure() -> tuple[Figure, Axes, Axes]:
    """Return a figure of two axes, of no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plot needs matplotlib: pip install 'xentfast[plot]'") from None
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in left, right:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, left, right


def _distribution(axes: Axes, histogram: tuple[int, ...], what: str) -> None:
    """Draw a histogram of positive numbers, in percent of the rows for each octave."""
    found = [i for i, n in enumerate(histogram) if n]
    total = sum(histogram)
    axes.set(xscale="log", xlabel=what, ylabel="rows (% an octave)")
    axes.grid(axis="y", color=_GRID)
    if not found:
        return
    low, high = max(found[0], 1), min(found[-1], _exact.PLACES - 2)
    edges = np.array(_exact.EDGES[low : high + 2])
    counts = np.array(histogram[low : high + 1])
    if len(counts):  # places are not all of one part of an octave
        shares = 100 * counts / total / np.diff(np.log2(edges))
        axes.stairs(shares, edges, fill=True, color=_FIRST)
    outside = [
        f"{100 * n / total:.3g}% {side}"
        for n, side in (
            (histogram[0], f"below {_exact.EDGES[1]:.0e}"),
            (histogram[-1], "above 256"),
        )
        if n
    ]
    if outside:
        axes.set_title(", ".join(outside), fontsize="medium")


def evaluation(e: Evaluation) -> Figure:
    """Draw the reliability diagram and the distribution of the losses."""
    figure, left, right = _figure()
    found = e.reliability
    count, confidence, correct = found.count, found.confidence, found.correct
    edges, filled = np.linspace(0, 1, len(count) + 1), count > 0
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    left.bar(
        edges[:-1][filled], correct[filled], 1 / len(count), align="edge",
        color=_FIRST, edgecolor="white", label="correct",
    )  # fmt: skip
    left.plot(confidence[filled], correct[filled], ".", color=_SECOND, label="mean confidence")
    left.set(
        xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="share correct",
        title=f"calibration error {e.calibration_error:.3g}",
    )  # fmt: skip
    left.legend(framealpha=0.8, edgecolor="none", loc="upper left")  # over the bars
    _distribution(right, e._losses, "loss (nats)")
    if math.isfinite(e.loss) and e.loss > 0:
        right.axvline(e.loss, color=_SECOND, label=f"mean {e.loss:.4g}")
        right.legend(frameon=False)
    return figure


def comparison(c: Comparison) -> Figure:
    """Draw the distribution of KL over the rows, and its quantiles."""
    figure, left, right = _figure()
    _distribution(left, c._divergences, "KL(base, other) (nats)")
    if math.isfinite(c.kl) and c.kl > 0:
        left.axvline(c.kl, color=_SECOND, label=f"mean {c.kl:.3g}")
        left.legend(frameon=False)
    shares = np.array([1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9])
    found = np.array([c.kl_quantile(q / 100) for q in shares])
    drawn = np.isfinite(found) & (found > 0)
    right.plot(found[drawn], np.arange(len(shares))[drawn], "o", color=_FIRST)
    right.set(
        xscale="log", xlabel="KL(base, other) (nats)", ylabel="quantile (%)",
        yticks=range(len(shares)), yticklabels=[f"{q:g}" for q in shares],
        title=f"same class first: {100 * c.same_first:.4g}%",
    )  # fmt: skip
    right.grid(axis="x", color=_GRID)
    return figure
