"""What is reported of a model, in one pass over its logits: check, call, keep the sums."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _exact, _kernels
from xentfast._checks import Array
from xentfast._exact import ONE, Sum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Ties: TypeAlias = Literal["lowest", "highest", "any"]

_KERNELS = _checks.by_dtype(_kernels.evaluate)
_TIES = ("lowest", "highest", "any")  # xf_ties of src/rows/rows.h
_SUMS = (  # the enum of src/loops/evaluate.pxi
    "loss", "entropy", "brier", "reciprocal_rank", "loss_square", "weight_square", "weight_loss",
)  # fmt: skip
_PER_ROW = ("loss", "rank", "entropy", "confidence", "lse", "predicted")
_MOST_BINS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Rows by their confidence: bin i of n holds those in [i / n, (i + 1) / n), the last 1 too.

    Attributes
    ----------
    count : ndarray of int64, (n,)
        Rows in each bin.
    weight : ndarray of float64, (n,)
        The sum of their weights.
    confidence : ndarray of float64, (n,)
        The weighted mean of their confidence, nan in an empty bin.
    correct : ndarray of float64, (n,)
        The weighted share of those whose label came first, nan in an empty bin.
    """

    count: Array
    weight: Array
    confidence: Array
    correct: Array


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """What `evaluate` reports: small, immutable, and added with ``+``.

    The sum of evaluations is, to the last bit, the evaluation of all their rows at once, whatever
    the split, the order and the grouping, for its sums over rows are not rounded; means are rounded
    once, when they are read. So ``sum(evaluate(x, y) for x, y in batches)`` evaluates a stream, and
    any engine may add what its workers return. The zero element is `empty`, or the 0 of `sum`.

    Every mean is weighted by `sample_weight`. A row that holds nan, +inf, or -inf alone makes all
    of them nan but those of the rank, for which it counts as the worst.

    Attributes
    ----------
    ties : {"lowest", "highest", "any"}
        Which of equal logits comes first: see `evaluate`.
    count : int
        Rows, without those ignored and those of weight 0.
    """

    ties: Ties
    count: int
    _cuts: tuple[int, ...]  # the k of top-k, ascending, 1 among them
    _hits: tuple[int, ...]  # weight of the ranks below each cut, not below the one before; the rest
    _sums: tuple[Sum, ...]
    _bins: tuple[tuple[int, ...], ...]  # count, weight, confidence, correct of each
    _losses: tuple[int, ...]  # histogram

    @classmethod
    def empty(
        cls, *, top_k: Iterable[int] = (1, 5), ties: Ties = "lowest", bins: int = 15
    ) -> Evaluation:
        """Return the evaluation of no rows, which added to another changes nothing.

        Parameters
        ----------
        top_k, ties, bins
            As of `evaluate`.
        """
        cuts = _cuts_of(top_k)
        _ties_of(ties)
        none = (0,) * _bins_of(bins)
        return cls(
            ties, 0, cuts, (0,) * (len(cuts) + 1), (Sum(),) * len(_SUMS), (none,) * 4,
            (0,) * _exact.PLACES,
        )  # fmt: skip

    # --- adding ---

    def __add__(self, other: object) -> Evaluation:
        if type(other) is int and other == 0:  # where sum() begins
            return self
        if not isinstance(other, Evaluation):
            return NotImplemented
        for name in ("bins", "top_k", "ties"):
            mine, theirs = self._option(name), other._option(name)
            if mine != theirs:
                raise ValueError(f"{name} of evaluations to add must agree, got {mine}, {theirs}")
        add = _exact.add_all
        return Evaluation(
            self.ties,
            self.count + other.count,
            self._cuts,
            add(self._hits, other._hits),
            add(self._sums, other._sums),
            tuple(add(a, b) for a, b in zip(self._bins, other._bins, strict=True)),
            add(self._losses, other._losses),
        )

    __radd__ = __add__

    def _option(self, name: str) -> Any:
        options = {"bins": len(self._bins[0]), "top_k": self._cuts, "ties": self.ties}
        return options[name]

    # --- reading ---

    @property
    def _weight(self) -> int:
        return sum(self._hits)

    def _sum(self, name: str) -> Sum:
        return self._sums[_SUMS.index(name)]

    @property
    def weight(self) -> float:
        """The sum of the sample weights; `count` without them."""
        return _exact.ratio(self._weight, ONE)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood, in nats; nan of no rows."""
        return self._sum("loss").over(self._weight)

    @property
    def loss_error(self) -> float:
        """Standard error of `loss`; nan of less than two rows.

        ``sqrt(n / (n - 1) sum w^2 (l - loss)^2) / sum w``, rounded once: nothing cancels.
        """
        return _exact.standard_error(
            self.count,
            self._sum("loss"),
            self._sum("loss_square"),
            self._weight,
            self._sum("weight_square"),
            self._sum("weight_loss"),
        )

    @property
    def perplexity(self) -> float:
        """``exp(loss)``."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def bits(self) -> float:
        """`loss` in bits."""
        return self.loss / math.log(2)

    def bits_per(self, n_bytes: float) -> float:
        """Return the bits of all rows' losses over the bytes (or what else) that they encode.

        Parameters
        ----------
        n_bytes : float
            How many, more than 0.
        """
        n = _checks.number("n_bytes", n_bytes, 0, math.inf)
        if n == 0:
            raise ValueError(f"n_bytes must be more than 0, got {n_bytes}")
        return self._sum("loss").over(ONE) / math.log(2) / n

    @property
    def accuracy(self) -> float:
        """Share of the rows whose label comes first."""
        return self.top_k[1]

    @property
    def top_k(self) -> Mapping[int, float]:
        """For each k, 1 among them, the share of the rows with the label in the top k."""
        below, shares = 0, {}
        for k, hits in zip(self._cuts, self._hits, strict=False):
            below += hits
            shares[k] = _exact.ratio(below, self._weight)
        return MappingProxyType(shares)

    @property
    def mean_reciprocal_rank(self) -> float:
        """Mean of ``1 / (1 + rank)``, where the rank of a label that comes first is 0."""
        return self._sum("reciprocal_rank").over(self._weight)

    @property
    def entropy(self) -> float:
        """Mean entropy of the predicted distributions, in nats."""
        return self._sum("entropy").over(self._weight)

    @property
    def brier(self) -> float:
        """Mean of ``sum_j (p_j - t_j)^2``, t the label: between 0 and 2."""
        return self._sum("brier").over(self._weight)

    @property
    def invalid(self) -> int:
        """Rows that have no scores, as they hold nan, +inf, or -inf alone."""
        return self.count - sum(self._bins[0])

    @property
    def confidence(self) -> float:
        """Mean of the largest probability."""
        return math.nan if self.invalid else _exact.ratio(sum(self._bins[2]), self._weight)

    @property
    def reliability(self) -> Reliability:
        """The rows by their confidence."""
        counts, weights, confidences, corrects = self._bins
        return Reliability(
            np.array(counts, np.int64),
            np.array([_exact.ratio(w, ONE) for w in weights]),
            np.array([_exact.ratio(c, w) for c, w in zip(confidences, weights, strict=True)]),
            np.array([_exact.ratio(c, w) for c, w in zip(corrects, weights, strict=True)]),
        )

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean over rows of the gap of their bin, see below."""
        gaps = sum(abs(c - f) for f, c in zip(self._bins[2], self._bins[3], strict=True))
        return math.nan if self.invalid else _exact.ratio(gaps, self._weight)

    @property
    def max_calibration_error(self) -> float:
        """The largest gap between a bin's mean confidence and its share of correct rows."""
        _, *sums = self._bins
        gaps = [_exact.ratio(abs(c - f), w) for w, f, c in zip(*sums, strict=True) if w]
        return math.nan if self.invalid or not gaps else max(gaps)

    def loss_quantile(self, q: float) -> float:
        """Return a quantile of the rows' losses, from a histogram with four places to an octave.

        Parameters
        ----------
        q : float
            In [0, 1]; weights do not count.
        """
        return _exact.quantile(self._losses, _checks.number("q", q, 0, 1))

    # --- showing ---

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: the numbers to read (None for nan and inf), and the sums."""
        numbers = {name: _exact.finite(value) for name, value in _numbers(self).items()}
        return {
            "count": self.count,
            **numbers,
            "top_k": {str(k): _exact.finite(share) for k, share in self.top_k.items()},
            "state": {
                "ties": self.ties,
                "count": self.count,
                "top_k": list(self._cuts),
                "hits": [_exact.encode(n) for n in self._hits],
                "sums": {n: s.to_list() for n, s in zip(_SUMS, self._sums, strict=True)},
                "bins": [list(self._bins[0]), *([*map(_exact.encode, b)] for b in self._bins[1:])],
                "losses": list(self._losses),
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation of which `to_dict` made `data`, by its "state"."""
        try:
            state = data["state"]
            ties, cuts = state["ties"], _cuts_of(state["top_k"])
            _ties_of(ties)
            counts, *sums = state["bins"]
            found = cls(
                ties,
                _exact.natural(state["count"]),
                cuts,
                tuple(map(_exact.decode, state["hits"])),
                tuple(Sum.from_list(state["sums"][name]) for name in _SUMS),
                (tuple(map(_exact.natural, counts)), *(tuple(map(_exact.decode, b)) for b in sums)),
                tuple(map(_exact.natural, state["losses"])),
            )
            zero = cls.empty(top_k=cuts, ties=ties, bins=len(counts))
            return found + zero  # whose zips see that all lengths agree
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"data must be what to_dict returns, got {error!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Evaluation.from_dict, ({"state": self.to_dict()["state"]},)

    def __repr__(self) -> str:
        shares = ", ".join(f"top-{k} {share:.4g}" for k, share in self.top_k.items() if k > 1)
        return (
            f"<Evaluation of {self.count:,} rows: loss {self.loss:.6g} ± {self.loss_error:.2g}, "
            f"perplexity {self.perplexity:.6g}, accuracy {self.accuracy:.4g}"
            f"{', ' if shares else ''}{shares}, entropy {self.entropy:.4g}, "
            f"Brier {self.brier:.4g}, calibration error {self.calibration_error:.2g}>"
        )

    def _repr_html_(self) -> str:
        rows = {"count": f"{self.count:,}"}
        rows |= {name: f"{value:.6g}" for name, value in _numbers(self).items()}
        rows |= {f"top {k}": f"{share:.6g}" for k, share in self.top_k.items()}
        cells = (f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in rows.items())
        return f"<table>{''.join(cells)}</table>"

    def plot(self) -> Figure:
        """Draw the reliability diagram and the distribution of the losses.

        Returns
        -------
        matplotlib.figure.Figure
            Of two axes, not shown. It needs matplotlib: ``pip install 'xentfast[plot]'``.
        """
        from xentfast import _plot

        return _plot.evaluation(self)


def _numbers(e: Evaluation) -> dict[str, float]:
    names = (
        "weight", "loss", "loss_error", "perplexity", "bits", "accuracy", "mean_reciprocal_rank",
        "entropy", "brier", "confidence", "calibration_error", "max_calibration_error",
    )  # fmt: skip
    return {name: getattr(e, name) for name in names}


def _cuts_of(top_k: object) -> tuple[int, ...]:
    """Return the k, ascending, 1 among them."""
    try:
        cuts = {operator.index(k) for k in top_k}  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(f"top_k must be a sequence of ints, got {top_k!r}") from None
    for k in cuts:
        if not 1 <= k < 2**63:
            raise ValueError(f"top_k must be >= 1 and below 2**63, got {k}")
    return tuple(sorted(cuts | {1}))


def _ties_of(ties: object) -> int:
    if ties not in _TIES:
        raise ValueError(f"ties must be 'lowest', 'highest' or 'any', got {ties!r}")
    return _TIES.index(ties)


def _bins_of(bins: object) -> int:
    n = _checks.integer("bins", bins)
    if not 1 <= n <= _MOST_BINS:
        raise ValueError(f"bins must be in [1, {_MOST_BINS}], got {n}")
    return n


def _per_row_of(per_row: object, from_logits: bool) -> tuple[str, ...]:
    if isinstance(per_row, str) or not isinstance(per_row, Iterable):
        raise TypeError(f"per_row must be a sequence of names, got {type(per_row).__name__}")
    names = tuple(per_row)
    for name in names:
        if name not in _PER_ROW:
            raise ValueError(f"per_row must name some of {', '.join(_PER_ROW)}, got {name!r}")
    if "lse" in names and not from_logits:
        raise ValueError("per_row must not name lse where from_logits is False, got 'lse'")
    return names


@overload
def evaluate(  # type: ignore[overload-overlap]
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    top_k: Iterable[int] = (1, 5),
    ties: Ties = "lowest",
    ignore_index: int | None = None,
    sample_weight: npt.ArrayLike | None = None,
    bins: int = 15,
    per_row: tuple[()] = (),
) -> Evaluation: ...


@overload
def evaluate(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    top_k: Iterable[int] = (1, 5),
    ties: Ties = "lowest",
    ignore_index: int | None = None,
    sample_weight: npt.ArrayLike | None = None,
    bins: int = 15,
    per_row: Iterable[str],
) -> tuple[Evaluation, dict[str, Array]]: ...


def evaluate(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    top_k: Iterable[int] = (1, 5),
    ties: Ties = "lowest",
    ignore_index: int | None = None,
    sample_weight: npt.ArrayLike | None = None,
    bins: int = 15,
    per_row: Iterable[str] = (),
) -> Evaluation | tuple[Evaluation, dict[str, Array]]:
    """Loss, accuracy, top-k, ranks, entropy, Brier score and calibration in one pass.

    Parameters
    ----------
    logits : array_like, floating, of 1 to 7 dimensions
        Logits, or probabilities if not `from_logits`, along `axis`: float16, bfloat16 (of
        ml_dtypes), float32 or float64; integers and lists are taken as float64. Probabilities are
        taken as they are.
    labels : array_like, integer
        Class indices, of the shape of `logits` without `axis`.
    axis : int
        The class axis.
    from_logits : bool
        Whether `logits` are logits.
    top_k : sequence of int
        Each k >= 1 to report; 1 is always among them.
    ties : {"lowest", "highest", "any"}
        Of equal logits the lowest class index comes first, as for `numpy.argmax` and
        ``torch.argmax`` on a CPU; or the highest, as for scikit-learn's `top_k_accuracy_score`; or
        the label itself. ``torch.topk`` leaves it open.
    ignore_index : int, optional
        A label whose rows do not count, whatever they hold.
    sample_weight : array_like, optional
        A finite weight >= 0 for each row, of the labels' shape, or a scalar. A row of weight 0 does
        not count, whatever it holds; arrays of `per_row` have its numbers.
    bins : int
        Bins of the reliability histogram, in [1, 1000].
    per_row : sequence of str
        Arrays to return as well, of the labels' shape: "loss", "entropy", "confidence", "lse" (of
        the dtype of `logits`, float32 for 16 bits), "rank" and "predicted" (int64).

    Returns
    -------
    Evaluation
        With `per_row` a pair of it and a dict of the arrays. A row without scores has nan, rank
        K (the number of classes) and the class -1; an ignored row has the loss 0 and the rank -1.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    The rank of a label is the number of logits above its own, and of those equal to it that come
    first: one comparison for each logit gives every k, and nothing is sorted. With the maximum held
    out as in `cross_entropy`, the Brier score and the entropy of a confident row keep their digits.
    """
    x, at = _checks.rows_of_classes("logits", logits, axis)
    y = _checks.index_labels_of(labels, x, at)
    skip = _checks.ignored(ignore_index, y, False)
    shape, dtype = _checks.lead_shape(x, at), _checks.computed(x.dtype)
    cuts, order, n = _cuts_of(top_k), _ties_of(ties), _bins_of(bins)
    names = _per_row_of(per_row, from_logits)
    weights = None
    if sample_weight is not None:
        weights = _checks.sample_weight_of(sample_weight, shape, np.float64)
    rows = {
        name: np.empty(shape, np.int64 if name in ("rank", "predicted") else dtype)
        for name in names
    }
    sums, numbers, bad_label, bad_weight = _KERNELS(x.dtype)(
        _checks.rows(x, at),
        _checks.kind(x),
        _checks.lead(y),
        _checks.kind(y),
        None if weights is None else _checks.lead(weights),
        _checks.kind(weights),
        skip if skip is None or skip < 2**63 else skip - 2**64,
        from_logits,
        np.array(cuts),
        order,
        n,
        *(_checks.lead(rows[name]) if name in rows else None for name in _PER_ROW),
    )
    if bad_label:
        _checks.fail_label(y, x.shape[at], skip)
    if bad_weight and weights is not None:
        _checks.fail_weight("sample_weight", weights, np.float64)
    found = _evaluation(ties, cuts, n, sums, numbers, weights is not None)
    return (found, rows) if names else found


def _evaluation(
    ties: Ties,
    cuts: tuple[int, ...],
    bins: int,
    sums: list[tuple[int, int, int, int]],
    numbers: list[int],
    weighted: bool,
) -> Evaluation:
    """Sort what the kernel returns, which has no sums of weights where all are 1."""
    hits = len(cuts) + 1
    count, kept = sum(numbers[:hits]), [Sum(*s) for s in sums[: len(_SUMS)]]
    binned, corrects = numbers[hits:][:bins], numbers[hits + bins :][:bins]
    exact = [s[0] for s in sums[len(_SUMS) :]]
    confidences, exact = tuple(exact[:bins]), exact[bins:]
    rest = [tuple(exact[:hits]), tuple(exact[hits:][:bins]), tuple(exact[hits + bins :])]
    if not weighted:
        kept[_SUMS.index("weight_square")] = Sum(count * ONE)
        kept[_SUMS.index("weight_loss")] = kept[_SUMS.index("loss")]
        rest = [tuple(n * ONE for n in part) for part in (numbers[:hits], binned, corrects)]
    by_hit, weights, correct = rest
    return Evaluation(
        ties,
        count,
        cuts,
        by_hit,
        tuple(kept),
        (tuple(binned), weights, confidences, correct),
        tuple(numbers[hits + 2 * bins :]),
    )
