"""How two models differ on the same rows: check, call, keep the sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _exact, _kernels
from xentfast._exact import ONE, Sum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUMS = (  # the enum of src/loops/pairs.pxi
    "kl", "kl_square", "reverse_kl", "reverse_kl_square", "js", "js_square", "change",
    "change_square", "change_fourth", "ratio", "ratio_square", "base_loss", "other_loss",
)  # fmt: skip
_NUMBERS = (
    "kl", "kl_error", "reverse_kl", "reverse_kl_error", "js", "js_error", "same_first",
    "same_first_error", "change", "change_error", "change_rms", "change_rms_error",
    "log_perplexity_ratio", "log_perplexity_ratio_error", "base_loss", "other_loss",
)  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """What `compare` reports: small, immutable, and added with ``+``.

    As of `Evaluation`, the sum of comparisons is to the last bit the comparison of all their rows
    at once, means are rounded once, when they are read, and the zero element is `empty`, or the 0
    of `sum`. Each mean ``name`` has its standard error ``name_error``, nan of less than two rows.
    What needs labels is nan without them. Rows that hold nan, +inf, or -inf alone make all means
    nan but that of `same_first`, for which they count as different.

    Attributes
    ----------
    count : int
        Rows, without those ignored.
    labelled : int
        Those that came with a label.
    """

    count: int
    labelled: int
    _same: int
    _sums: tuple[Sum, ...]
    _divergences: tuple[int, ...]  # histogram of KL

    @classmethod
    def empty(cls) -> Comparison:
        """Return the comparison of no rows, which added to another changes nothing."""
        return cls(0, 0, 0, (Sum(),) * len(_SUMS), (0,) * _exact.PLACES)

    def __add__(self, other: object) -> Comparison:
        if type(other) is int and other == 0:  # where sum() begins
            return self
        if not isinstance(other, Comparison):
            return NotImplemented
        return Comparison(
            self.count + other.count,
            self.labelled + other.labelled,
            self._same + other._same,
            _exact.add_all(self._sums, other._sums),
            _exact.add_all(self._divergences, other._divergences),
        )

    __radd__ = __add__

    def _sum(self, name: str) -> Sum:
        return self._sums[_SUMS.index(name)]

    def _mean(self, name: str, count: int) -> float:
        return self._sum(name).over(count * ONE)

    def _error(self, name: str, square: str, count: int) -> float:
        return _exact.standard_error(count, self._sum(name), self._sum(square))

    @property
    def kl(self) -> float:
        """Mean of ``KL(base, other)``, in nats."""
        return self._mean("kl", self.count)

    @property
    def kl_error(self) -> float:
        """Standard error of `kl`."""
        return self._error("kl", "kl_square", self.count)

    @property
    def reverse_kl(self) -> float:
        """Mean of ``KL(other, base)``, in nats."""
        return self._mean("reverse_kl", self.count)

    @property
    def reverse_kl_error(self) -> float:
        """Standard error of `reverse_kl`."""
        return self._error("reverse_kl", "reverse_kl_square", self.count)

    @property
    def js(self) -> float:
        """Mean Jensen-Shannon divergence, in nats: between 0 and ln 2."""
        return self._mean("js", self.count)

    @property
    def js_error(self) -> float:
        """Standard error of `js`."""
        return self._error("js", "js_square", self.count)

    @property
    def same_first(self) -> float:
        """Share of the rows where the same class comes first, the lowest of equal ones."""
        return _exact.ratio(self._same, self.count)

    @property
    def same_first_error(self) -> float:
        """Standard error of `same_first`."""
        if self.count < 2:
            return math.nan
        different = self.count - self._same
        return math.sqrt(self._same * different / (self.count**2 * (self.count - 1)))

    @property
    def change(self) -> float:
        """Mean of what the label's probability is more in the other than in the base."""
        return self._mean("change", self.labelled)

    @property
    def change_error(self) -> float:
        """Standard error of `change`."""
        return self._error("change", "change_square", self.labelled)

    @property
    def change_rms(self) -> float:
        """Root of the mean square of that change."""
        return math.sqrt(self._mean("change_square", self.labelled))

    @property
    def change_rms_error(self) -> float:
        """Standard error of `change_rms`, that of the mean square over twice the root."""
        error = self._error("change_square", "change_fourth", self.labelled)
        return error / (2 * self.change_rms) if self.change_rms else error

    @property
    def log_perplexity_ratio(self) -> float:
        """Log of the other's perplexity over the base's: the mean of the losses' differences."""
        return self._mean("ratio", self.labelled)

    @property
    def log_perplexity_ratio_error(self) -> float:
        """Standard error of `log_perplexity_ratio`, of the differences row by row."""
        return self._error("ratio", "ratio_square", self.labelled)

    @property
    def base_loss(self) -> float:
        """Mean negative log-likelihood of the labels in the base, in nats."""
        return self._mean("base_loss", self.labelled)

    @property
    def other_loss(self) -> float:
        """Mean negative log-likelihood of the labels in the other, in nats."""
        return self._mean("other_loss", self.labelled)

    def kl_quantile(self, q: float) -> float:
        """Return a quantile of KL over the rows, from a histogram with four places to an octave.

        Parameters
        ----------
        q : float
            In [0, 1].
        """
        return _exact.quantile(self._divergences, _checks.number("q", q, 0, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: the numbers to read (None for nan and inf), and the sums."""
        return {
            "count": self.count,
            "labelled": self.labelled,
            **{name: _exact.finite(getattr(self, name)) for name in _NUMBERS},
            "state": {
                "count": self.count,
                "labelled": self.labelled,
                "same": self._same,
                "sums": {n: s.to_list() for n, s in zip(_SUMS, self._sums, strict=True)},
                "divergences": list(self._divergences),
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """Return the comparison of which `to_dict` made `data`, by its "state"."""
        try:
            state = data["state"]
            found = cls(
                _exact.natural(state["count"]),
                _exact.natural(state["labelled"]),
                _exact.natural(state["same"]),
                tuple(Sum.from_list(state["sums"][name]) for name in _SUMS),
                tuple(map(_exact.natural, state["divergences"])),
            )
            return found + cls.empty()  # whose zips see that all lengths agree
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"data must be what to_dict returns, got {error!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Comparison.from_dict, ({"state": self.to_dict()["state"]},)

    def __repr__(self) -> str:
        labels = (
            f", log perplexity ratio {self.log_perplexity_ratio:.4g}"
            f" ± {self.log_perplexity_ratio_error:.2g}, change {self.change_rms:.4g} rms"
        )
        return (
            f"<Comparison of {self.count:,} rows: KL {self.kl:.6g} ± {self.kl_error:.2g}, "
            f"reverse {self.reverse_kl:.6g}, Jensen-Shannon {self.js:.6g}, "
            f"same first {self.same_first:.4g}{labels if self.labelled else ''}>"
        )

    def _repr_html_(self) -> str:
        rows = {"count": f"{self.count:,}", "labelled": f"{self.labelled:,}"}
        rows |= {name: f"{getattr(self, name):.6g}" for name in _NUMBERS}
        cells = (f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in rows.items())
        return f"<table>{''.join(cells)}</table>"

    def plot(self) -> Figure:
        """Draw the distribution of KL over the rows, and its quantiles.

        Returns
        -------
        matplotlib.figure.Figure
            Of two axes, not shown. It needs matplotlib: ``pip install 'xentfast[plot]'``.
        """
        from xentfast import _plot

        return _plot.comparison(self)


def compare(
    base: npt.ArrayLike,
    other: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Comparison:
    """Compare two models' logits on the same rows: what quantising or pruning has changed.

    Parameters
    ----------
    base, other : array_like, floating, of one shape of 1 to 7 dimensions
        Logits along `axis`: float16, bfloat16 (of ml_dtypes), float32 or float64, not of one dtype
        perforce; integers and lists are taken as float64. Computed in float64 if one of them is.
    labels : array_like, integer, optional
        Class indices, of the shape of `base` without `axis`.
    axis : int
        The class axis.
    ignore_index : int, optional
        A label whose rows do not count, whatever they hold.

    Returns
    -------
    Comparison
        KL both ways, Jensen-Shannon, how often the same class comes first and, with labels, the
        change of their probability and the log of the perplexities' ratio.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    Each row of the two is read from memory once, and divergences are sums of terms that are not
    negative, made from the differences of the logits: equal rows give 0, and close ones keep their
    digits.
    """
    a, at = _checks.rows_of_classes("base", base, axis)
    b = _checks.real("other", other)
    if b.shape != a.shape:
        raise ValueError(f"other must have base's shape {a.shape}, got {b.shape}")
    y, skip = None, None
    if labels is not None:
        y = _checks.index_labels_of(labels, a, at)
        skip = _checks.ignored(ignore_index, y, False)
    elif ignore_index is not None:
        raise ValueError(f"ignore_index must be None without labels, got {ignore_index}")
    view = _checks.rows(a, at)
    sums, numbers, bad_label = _kernels.compare(
        view,
        _checks.kind(a),
        _checks.rows(b, at),
        _checks.kind(b),
        _checks.kind_of(np.result_type(_checks.computed(a.dtype), _checks.computed(b.dtype))),
        None if y is None else _checks.lead(y),
        _checks.kind(y),
        skip if skip is None or skip < 2**63 else skip - 2**64,
        view.shape,
    )
    if bad_label and y is not None:
        _checks.fail_label(y, a.shape[at], skip)
    count, same, labelled, *histogram = numbers
    return Comparison(count, labelled, same, tuple(Sum(*s) for s in sums), tuple(histogram))
