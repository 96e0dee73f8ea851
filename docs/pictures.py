"""The pictures of the guide, the same in each language: what differs is the text that is given.

A picture is SVG within the page, so that its text has the page's font and its lines the page's
colour, light or dark, and it says in `alt` what there is to see.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK = "#010203"  # stands for the colour of the page's text
BLUE, ORANGE, GREEN = "#2878bd", "#d66b00", "#2a8f4a"
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "figure.constrained_layout.use": True,
    "figure.figsize": (5.6, 3.1),
    "font.size": 11,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Picture:
    """A figure of one panel, and the sentence that stands for it."""

    def __init__(self, alt: str, xlabel: str = "", ylabel: str = "", **options: Any) -> None:
        mpl.rcParams.update(STYLE)
        self.alt = alt
        self.figure = Figure()
        self.axes = self.figure.subplots()
        self.axes.set(xlabel=xlabel, ylabel=ylabel, **options)

    def plot(self, x: Any, y: Any, colour: str, label: str = "", **options: Any) -> None:
        self.axes.plot(x, y, color=colour, label=label or None, **options)

    def points(self, x: Any, y: Any, texts: Sequence[str], colour: str) -> None:
        """Mark points, each with a text beside it."""
        self.axes.plot(x, y, "o", color=colour)
        for place, text in zip(zip(x, y, strict=True), texts, strict=True):
            self.axes.annotate(text, place, (7, 5), textcoords="offset points")

    def bars(self, names: Sequence[str], heights: dict[str, Sequence[float]]) -> None:
        """Draw a group of bars for each name, a bar in it for each entry of `heights`."""
        places, width = np.arange(len(names)), 0.8 / len(heights)
        for i, (label, values) in enumerate(heights.items()):
            at = places + width * (i + 0.5) - 0.4
            colour = (BLUE, ORANGE, GREEN)[i]
            bars = self.axes.bar(at, values, 0.9 * width, color=colour, label=label)
            self.axes.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=9, padding=2)
        self.axes.set_xticks(places, names)
        self.axes.grid(False, axis="x")
        self.axes.margins(y=0.12)

    def percent(self) -> None:
        """Write both axes in percent."""
        for axis in (self.axes.xaxis, self.axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))

    def _repr_html_(self) -> str:
        if self.axes.get_legend_handles_labels()[0]:
            self.axes.legend()
        file = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": self.alt}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the reader's fonts have it
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = file.getvalue()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        alt = html.escape(self.alt)
        return re.sub(
            r"<svg ", f'<svg class="picture" role="img" aria-label="{alt}" ', svg, count=1
        )
