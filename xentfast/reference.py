"""Every function of xentfast in plain NumPy: readable documentation and the oracle of the tests.

The names, arguments and results are those of `xentfast`, but everything is computed in float64
(in long double where the first argument is long double) and arguments are not checked beyond what
NumPy does. One row of logits x with label distribution t is worked out from

    m = max_j x_j,   d_j = x_j - m,   s' = sum of exp(d_j) without the maximum's own term,
    lse = m + log1p(s'),   T = sum_j t_j

so that nothing cancels: a loss of 1e-17 has all its digits. Arrays below are (..., classes), with
the class axis moved to the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_grad",
    "binary_cross_entropy_value_and_grad",
    "compare",
    "cross_entropy",
    "cross_entropy_grad",
    "cross_entropy_value_and_grad",
    "entropy",
    "evaluate",
    "is_distribution",
    "js_divergence",
    "js_divergence_value_and_grad",
    "kl_divergence",
    "kl_divergence_value_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_softmax",
    "logsumexp",
    "merge_shards",
    "shard_grad",
    "shard_loss",
    "shard_statistics",
    "softmax",
    "topk_kl_divergence",
    "topk_kl_divergence_value_and_grad",
]

Array: TypeAlias = NDArray[Any]
Value: TypeAlias = Any  # a NumPy scalar for one row or a reduced loss, else an array

_quiet = np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")


def _floating(x: ArrayLike) -> Array:
    """Convert to float64, unless it is long double."""
    array = np.asarray(x)
    return array if array.dtype == np.longdouble else array.astype(np.float64)


def _product(factor: Array, x: Array) -> Array:
    """Multiply; 0 where the factor is 0, even against inf."""
    return np.where(factor == 0, 0, factor * x)


def _fill(out: Array | None, result: Value) -> Value:
    if out is None:
        return result
    out[...] = result
    return out


# --- softmax and its statistics -------------------------------------------------------------------


class _Statistics(NamedTuple):
    d: Array  # (..., classes): x_j - m
    at_max: Array  # (..., classes): True at the first of the largest logits
    rest: Array  # (..., 1): s', the sum of exp(d_j) over all other places
    lse: Array  # (..., 1): m + log1p(s')


def _statistics(x: Array) -> _Statistics:
    """Work out each row's numbers: nan if it holds nan or +inf, or nothing but -inf."""
    m = x.max(axis=-1, keepdims=True)
    d = np.where(np.isfinite(m), x - m, np.nan)
    at_max = np.arange(x.shape[-1]) == x.argmax(axis=-1)[..., np.newaxis]
    rest = np.where(at_max, 0, np.exp(d)).sum(axis=-1, keepdims=True)
    rest = np.where(np.isfinite(m), rest, np.nan)
    return _Statistics(d, at_max, rest, m + np.log1p(rest))


@_quiet
def logsumexp(x: ArrayLike, *, axis: int = -1) -> Value:
    """Return log sum_j exp(x_j): +inf where a row holds it, -inf where it holds nothing else."""
    rows = np.moveaxis(_floating(x), axis, -1)
    m = rows.max(axis=-1)
    return np.where(np.isfinite(m), _statistics(rows).lse[..., 0], m)[()]


@_quiet
def log_softmax(x: ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Return x_j - lse, as d_j - log1p(s')."""
    row = _statistics(np.moveaxis(_floating(x), axis, -1))
    result: Array = _fill(out, np.moveaxis(row.d - np.log1p(row.rest), -1, axis))
    return result


@_quiet
def softmax(x: ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Return exp(d_j) / s."""
    row = _statistics(np.moveaxis(_floating(x), axis, -1))
    result: Array = _fill(out, np.moveaxis(np.exp(row.d) / (1 + row.rest), -1, axis))
    return result


# --- cross-entropy --------------------------------------------------------------------------------


def _from_logits(x: Array, t: Array, z_loss: float) -> tuple[Array, Array]:
    """Return the loss and the gradient of each row of logits.

    loss = T log1p(s') - sum_j t_j d_j + z lse^2
    g_j = (T + 2 z lse) exp(d_j) / s - t_j, which at the maximum's place, where exp(d_j) = 1 and
    s = 1 + s', is (T - t_j - t_j s' + 2 z lse) / s.
    """
    d, at_max, rest, lse = _statistics(x)
    total = t.sum(axis=-1, keepdims=True)
    losses = (
        total * np.log1p(rest)
        + _product(t, -d).sum(axis=-1, keepdims=True)
        + _product(np.asarray(z_loss), lse**2)
    )  # fmt: skip
    others = np.where(at_max, 0, t).sum(axis=-1, keepdims=True)  # T - t_j at the maximum
    gradient = np.where(
        at_max,
        (others - t * rest + 2 * z_loss * lse) / (1 + rest),
        (total + 2 * z_loss * lse) * np.exp(d) / (1 + rest) - t,
    )
    return losses[..., 0], gradient


def _probabilities(p: ArrayLike) -> Array:
    """Take what rounding left above 1 as 1, and what else is outside [0, 1] as nan."""
    array, x = np.asarray(p), _floating(p)
    computed = np.float32 if array.itemsize < 8 and array.dtype.kind not in "iu" else x.dtype
    most = 1 + 8 * np.finfo(computed).eps
    return np.where((x >= 0) & (x <= most), np.minimum(x, 1) + 0.0, np.nan)


def _from_probabilities(p: Array, t: Array) -> tuple[Array, Array]:
    """Return the loss -sum_j t_j log p_j and the gradient -t_j / p_j."""
    return _product(t, -np.log(p)).sum(axis=-1), _product(t, -1 / p)


def _reduce(losses: Array, gradient: Array, weight: Array, reduction: str) -> tuple[Value, Array]:
    """Reduce; a mean divides by the sum of the weights, and that of nothing is nan, gradient 0."""
    if reduction == "none":
        return losses[()], gradient
    if reduction == "sum":
        return losses.sum(), gradient
    if weight.sum() == 0:
        return losses.dtype.type(np.nan), np.zeros_like(gradient)
    return losses.sum() / weight.sum(), gradient / weight.sum()


@_quiet
def cross_entropy_value_and_grad(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[Value, Array]:
    """Return `cross_entropy` and its gradient, the place of which is `out`."""
    x = np.moveaxis(_floating(logits) if from_logits else _probabilities(logits), axis, -1)
    classes = x.shape[-1]
    labels = np.asarray(labels)
    w = np.ones(classes, x.dtype) if class_weight is None else np.asarray(class_weight, x.dtype)
    a = np.asarray(1 if sample_weight is None else sample_weight, x.dtype)
    if a.ndim == x.ndim and a.shape[axis] == 1:
        a = a.squeeze(axis)
    a = np.broadcast_to(a, x.shape[:-1])
    nothing = a == 0  # rows that count nothing, whatever they hold

    if np.issubdtype(labels.dtype, np.integer):
        ignored = np.broadcast_to(labels == ignore_index, labels.shape)
        t = (labels[..., np.newaxis] == np.arange(classes)).astype(x.dtype)
        weight = np.where(ignored, 0, a * (t * w).sum(axis=-1))
        if label_smoothing == z_loss == 0:
            nothing = nothing | (weight == 0)
    else:
        ignored = np.zeros(x.shape[:-1], bool)
        t = np.moveaxis(labels.astype(x.dtype), axis, -1)
        weight = a
    smoothing = x.dtype.type(label_smoothing)
    t = w * ((1 - smoothing) * t + smoothing / classes)

    losses, gradient = _from_logits(x, t, z_loss) if from_logits else _from_probabilities(x, t)
    nothing = nothing | ignored
    losses = np.where(nothing, 0, a * losses)
    gradient = np.where(nothing[..., np.newaxis], 0, a[..., np.newaxis] * gradient)
    value, gradient = _reduce(losses, gradient, weight, reduction)
    return value, _fill(out, np.moveaxis(gradient, -1, axis))


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Value:
    """Return -sum_j t_j log p_j, where t_j = w_j ((1 - eps) t0_j + eps / K), plus z lse^2.

    See `xentfast.cross_entropy` for the arguments, which are not checked here.
    """
    value, _ = cross_entropy_value_and_grad(
        logits, labels, axis=axis, from_logits=from_logits, class_weight=class_weight,
        sample_weight=sample_weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
        z_loss=z_loss, reduction=reduction,
    )  # fmt: skip
    return _fill(out, value)


def cross_entropy_grad(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """Return the gradient of `cross_entropy` with respect to its first argument."""
    _, gradient = cross_entropy_value_and_grad(
        logits, labels, axis=axis, from_logits=from_logits, class_weight=class_weight,
        sample_weight=sample_weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
        z_loss=z_loss, reduction=reduction, out=out,
    )  # fmt: skip
    return gradient


# --- cross-entropy of a linear layer --------------------------------------------------------------


def linear_cross_entropy_value_and_grad(
    inputs: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    chunk_bytes: int = 1 << 26,
    filter_eps: float | None = None,
) -> tuple[Value, tuple[Array, Array, Array | None]]:
    """Return `linear_cross_entropy` and its gradients: those of the two steps.

    With g the gradient with respect to the logits they are g weight, g^T inputs and the sum of g;
    an ignored row has no part in them. `filter_eps` skips nothing here.
    """
    x, w, y = _floating(inputs), _floating(weight), np.asarray(labels)
    if np.issubdtype(y.dtype, np.integer) and ignore_index is not None:
        x = np.where((y == ignore_index)[..., np.newaxis], 0, x)
    logits = x @ w.T if bias is None else x @ w.T + _floating(bias)
    value, g = cross_entropy_value_and_grad(
        logits, labels, class_weight=class_weight, sample_weight=sample_weight,
        ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss,
        reduction=reduction,
    )  # fmt: skip
    rows = g.reshape(-1, w.shape[0])
    of_weight = rows.T @ x.reshape(-1, w.shape[1])
    return value, (g @ w, of_weight, None if bias is None else rows.sum(axis=0))


def linear_cross_entropy(
    inputs: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    chunk_bytes: int = 1 << 26,
    filter_eps: float | None = None,
) -> Value:
    """Return `cross_entropy` of the logits inputs @ weight.T + bias.

    See `xentfast.linear_cross_entropy` for the arguments, which are not checked here.
    """
    value, _ = linear_cross_entropy_value_and_grad(
        inputs, weight, labels, bias, class_weight=class_weight, sample_weight=sample_weight,
        ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss,
        reduction=reduction,
    )  # fmt: skip
    return value


# --- cross-entropy of classes spread over workers -------------------------------------------------


def _place(labels: Array, first_class: int, classes: int) -> Array:
    """Return True where a class of a shard is the label: (..., classes)."""
    here: Array = labels[..., np.newaxis] == first_class + np.arange(classes)
    return here


def _ignored(merged: Array) -> Array:
    ignored: Array = (merged[0] == -np.inf) & (merged[2] == np.inf)
    return ignored


@_quiet
def shard_statistics(
    logits_part: ArrayLike,
    labels: ArrayLike,
    first_class: int,
    *,
    classes: int | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Array:
    """Return m, s' and the label's logit of each row of a shard of the classes, (3, ...).

    The logit is -inf where the label is elsewhere; an ignored row is -inf, 0, inf.
    """
    x, y = np.moveaxis(_floating(logits_part), axis, -1), np.asarray(labels)
    m = x.max(axis=-1)
    rest = np.where((x == -np.inf).all(axis=-1), 0, _statistics(x).rest[..., 0])
    label = np.where(_place(y, first_class, x.shape[-1]), x, -np.inf).max(axis=-1)
    numbers = np.stack([m, rest, label])
    numbers[:, y == ignore_index] = [[-np.inf], [0], [np.inf]]
    return numbers


@_quiet
def merge_shards(parts: Iterable[ArrayLike]) -> Array:
    """Return the numbers of whole rows: s' + sum (1 + s'_i) exp(m_i - M), s' of where M is."""
    numbers = np.stack([_floating(part) for part in parts])
    m, rest, label = numbers.swapaxes(0, 1)
    largest = m.max(axis=0)
    first = np.arange(len(m)).reshape(-1, *(1,) * (m.ndim - 1)) == m.argmax(axis=0)
    mass = (1 + rest) * np.exp(np.where(m == largest, 0, m - largest))
    total = np.where(first, rest, mass).sum(axis=0)
    nothing = (largest == -np.inf) & ~np.isnan(total)
    return np.stack([largest, np.where(nothing, 0, total), label.max(axis=0)])


def _shard_weights(sample_weight: ArrayLike | None, merged: Array) -> Array:
    a = np.asarray(1 if sample_weight is None else sample_weight, merged.dtype)
    return np.where(_ignored(merged), 0, np.broadcast_to(a, merged.shape[1:]))


@_quiet
def shard_loss(
    merged: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Value:
    """Return log1p(s') + M - x_label, plus z lse^2."""
    numbers = _floating(merged)
    weight = _shard_weights(sample_weight, numbers)
    m, rest, label = numbers
    log = np.where(np.isfinite(m), np.log1p(rest), np.nan)
    losses = log + (m - label) + _product(np.asarray(z_loss), (m + log) ** 2)
    losses = np.where(weight == 0, 0, weight * losses)
    return _reduce(losses, losses, weight, reduction)[0]


@_quiet
def shard_grad(
    logits_part: ArrayLike,
    labels: ArrayLike,
    first_class: int,
    merged: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """Return the gradient of `shard_loss` with respect to the logits of a shard."""
    x = np.moveaxis(_floating(logits_part), axis, -1)
    numbers = _floating(merged)
    weight = _shard_weights(sample_weight, numbers)
    t = _place(np.asarray(labels), first_class, x.shape[-1])
    m, rest, _ = (part[..., np.newaxis] for part in numbers)
    e = np.exp(np.where(np.isfinite(m), x - m, np.nan))
    pull = 2 * z_loss * (m + np.log1p(rest))
    gradient = weight[..., np.newaxis] * ((e - t) - t * rest + pull * e) / (1 + rest)
    gradient = np.where((weight == 0)[..., np.newaxis], 0, gradient)
    _, gradient = _reduce(weight, gradient, weight, reduction)
    result: Array = _fill(out, np.moveaxis(gradient, -1, axis))
    return result


# --- binary cross-entropy -------------------------------------------------------------------------


@_quiet
def binary_cross_entropy_value_and_grad(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    from_logits: bool = True,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[Value, Array]:
    """Return `binary_cross_entropy` and its gradient, the place of which is `out`."""
    x = _floating(logits) if from_logits else _probabilities(logits)
    smoothing = x.dtype.type(label_smoothing)
    t = np.asarray(labels, x.dtype)
    positive = (1 - smoothing) * t + smoothing / 2
    negative = (1 - smoothing) * (1 - t) + smoothing / 2
    if pos_weight is not None:
        positive = np.asarray(pos_weight, x.dtype) * positive
    a = np.asarray(1 if sample_weight is None else sample_weight, x.dtype)
    a = np.broadcast_to(a, x.shape)

    if from_logits:
        e = np.exp(-np.abs(x))
        sigmoid_abs, sigmoid_minus_abs = 1 / (1 + e), e / (1 + e)
        losses = _product(positive, np.maximum(-x, 0) + np.log1p(e)) + _product(
            negative, np.maximum(x, 0) + np.log1p(e)
        )
        gradient = negative * np.where(x < 0, sigmoid_minus_abs, sigmoid_abs) - positive * np.where(
            x < 0, sigmoid_abs, sigmoid_minus_abs
        )
    else:
        losses = _product(positive, -np.log(x)) + _product(negative, -np.log1p(-x))
        gradient = _product(positive, -1 / x) + _product(negative, 1 / (1 - x))
    counts = (a != 0) & (positive + negative != 0)
    losses, gradient = (np.where(counts, a * part, 0) for part in (losses, gradient))
    value, gradient = _reduce(losses, gradient, a, reduction)
    return value, _fill(out, gradient)


def binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    from_logits: bool = True,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Value:
    """Return -(q t log p + (1 - t) log(1 - p)) for each entry, where p = sigmoid(x).

    See `xentfast.binary_cross_entropy` for the arguments, which are not checked here.
    """
    value, _ = binary_cross_entropy_value_and_grad(
        logits, labels, from_logits=from_logits, pos_weight=pos_weight,
        sample_weight=sample_weight, label_smoothing=label_smoothing, reduction=reduction,
    )  # fmt: skip
    return _fill(out, value)


def binary_cross_entropy_grad(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    from_logits: bool = True,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """Return the gradient of `binary_cross_entropy` with respect to its first argument."""
    _, gradient = binary_cross_entropy_value_and_grad(
        logits, labels, from_logits=from_logits, pos_weight=pos_weight,
        sample_weight=sample_weight, label_smoothing=label_smoothing, reduction=reduction, out=out,
    )  # fmt: skip
    return gradient


# --- entropy and divergences ----------------------------------------------------------------------


def _distribution(p: Array, normalize: bool) -> Array:
    """Divide by the sum if asked for; nan where an entry is negative, 0 where it is -0."""
    p = np.where(p < 0, np.nan, p + 0.0)
    return p / p.sum(axis=-1, keepdims=True) if normalize else p


def _in_base(nats: Array, base: float | None) -> Value:
    return (nats if base is None else nats / np.log(nats.dtype.type(base)))[()]


def _kl(p: Array, q: Array) -> Array:
    """Sum p_j log(p_j / q_j): 0 where p = 0, inf where q = 0 < p, nan where either is nan."""
    log_ratio = np.log(p / q)
    beyond_range = np.isinf(log_ratio) & (q > 0)  # p / q overflowed
    log_ratio = np.where(beyond_range, np.log(p) - np.log(q), log_ratio)
    total: Array = np.where(np.isnan(q), q, _product(p, log_ratio)).sum(axis=-1)
    return total


@_quiet
def entropy(
    p: ArrayLike, *, axis: int = -1, base: float | None = None, normalize: bool = False
) -> Value:
    """Return -sum_j p_j log p_j, with 0 log 0 = 0."""
    rows = _distribution(np.moveaxis(_floating(p), axis, -1), normalize)
    return _in_base(_product(rows, -np.log(rows)).sum(axis=-1), base)


def _softmaxes(p: ArrayLike, q: ArrayLike, axis: int, temperature: float) -> tuple[Array, Array]:
    p, q = np.broadcast_arrays(_floating(p), _floating(q))
    t = p.dtype.type(temperature)
    return softmax(np.moveaxis(p, axis, -1) / t), softmax(np.moveaxis(q, axis, -1) / t)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b, rounded, and what that has lost."""
    total = a + b
    z = total - a
    return total, (a - (total - z)) + (b - z)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a * b, rounded, and what that has lost: the products of the halves are exact."""
    half = a.dtype.type(2) ** ((np.finfo(a.dtype).nmant + 2) // 2) + 1
    a1, b1 = (c - (c - x) for c, x in ((a * half, a), (b * half, b)))
    product, a2, b2 = a * b, a - a1, b - b1
    return product, a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)


def _exact_sum(rows: Array) -> tuple[Array, Array]:
    """Add up pairs and what is lost of each: the sum of each row, and what it lacks."""
    lost = np.zeros_like(rows)
    while rows.shape[-1] > 1:
        if rows.shape[-1] % 2:
            rows, lost = (np.concatenate([a, np.zeros_like(a[..., :1])], -1) for a in (rows, lost))
        rows, more = _two_sum(rows[..., ::2], rows[..., 1::2])
        lost = lost[..., ::2] + lost[..., 1::2] + more
    return _two_sum(rows, lost)


def _to_scale(p: Array, q: Array) -> tuple[Array, Array, Array]:
    """Return p, y = q sum(p) / sum(q) and y - p, the digits of which are kept."""
    (total, low), (other, other_low) = _exact_sum(p), _exact_sum(q)
    ratio = total / other
    product, lost = _two_product(ratio, other)
    rest = (((total - product) - lost + low) - ratio * other_low) / other
    y, lost = _two_product(*np.broadcast_arrays(q, ratio))
    return p, y, (y - p) + (lost + q * rest)


def _kl_terms(p: Array, q: Array, apart: Array) -> Array:
    """Return p (f - log1p(f)), f = (q - p) / p; near 0 log1p(f) is 2 atanh(s), s = f / (2 + f)."""
    f = apart / np.where(p == 0, 1, p)
    s = f / (2 + f)
    series = sum(s ** (2 * k + 1) / (2 * k + 1) for k in range(1, 20))
    terms = np.where(np.abs(f) < 0.4, p * (f * s - 2 * series), apart + p * np.log(p / q))
    return np.where(p == 0, q, terms)


def _js_terms(p: Array, q: Array, apart: Array) -> Array:
    """Return (p log(p / m) + q log(q / m)) / 2 by u = |p - q| / 2 m or by w = min(p, q) / m."""
    m = p / 2 + q / 2
    divisor = np.where(m == 0, 1, m)
    u, w = np.abs(apart / 2) / divisor, np.minimum(p, q) / divisor
    series = sum(u ** (2 * k) / (k * (2 * k - 1)) for k in range(1, 24))
    far = (2 - w) * np.log(2 - w) + _product(w, np.log(w))
    terms = m / 2 * np.where(u < 0.4, series, far)
    return np.where(np.isinf(m), np.nan, terms)


def _pair(p: ArrayLike, q: ArrayLike, axis: int) -> tuple[Array, Array]:
    p, q = np.broadcast_arrays(_floating(p), _floating(q))
    p, q = (_distribution(np.moveaxis(a, axis, -1), False) for a in (p, q))
    return p, q


def _js(p: Array, q: Array) -> Array:
    total: Array = _js_terms(p, q, q - p).sum(axis=-1)
    return total


def _divided(p: Array) -> Array:
    """Bring a row's sum near 1 by a power of two, so that products stay in range."""
    most = p.max(axis=-1, keepdims=True)
    exponent = np.where(np.isfinite(most), np.frexp(most)[1], 0)
    return np.ldexp(p, -exponent)


@_quiet
def kl_divergence(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    normalize: bool = False,
    from_logits: bool = False,
    temperature: float = 1.0,
) -> Value:
    """Return sum_j p_j log(p_j / q_j); where sums are equal, sum_j p_j (f - log1p(f)) of y_j - p_j.

    f is (y_j - p_j) / p_j: adding the sum of y - p, 0, leaves terms of second order.
    """
    if from_logits:
        return _in_base(_kl(*_softmaxes(p, q, axis, temperature)), base)
    p, q = _pair(p, q, axis)
    if not normalize:
        return _in_base(_kl(p, q), base)
    p, y, apart = _to_scale(_divided(p), _divided(q))
    return _in_base(_kl_terms(p, y, apart).sum(axis=-1) / p.sum(axis=-1), base)


@_quiet
def js_divergence(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    normalize: bool = False,
    from_logits: bool = False,
    temperature: float = 1.0,
) -> Value:
    """Return (KL(p, m) + KL(q, m)) / 2, where m = (p + q) / 2; no term of it is negative."""
    p, q = _softmaxes(p, q, axis, temperature) if from_logits else _pair(p, q, axis)
    if from_logits or not normalize:
        return _in_base(_js(p, q), base)
    p, y, apart = _to_scale(_divided(p), _divided(q))
    return _in_base(_js_terms(p, y, apart).sum(axis=-1) / p.sum(axis=-1), base)


def _weighed(
    losses: Array,
    gradient: Array,
    axis: int,
    sample_weight: ArrayLike | None,
    reduction: str,
    out: Array | None,
) -> tuple[Value, Array]:
    """Weigh rows and reduce; a row of weight 0 counts as nothing, whatever it holds."""
    a = np.asarray(1 if sample_weight is None else sample_weight, losses.dtype)
    a = np.broadcast_to(a, losses.shape)
    losses, gradient = _product(a, losses), _product(a[..., np.newaxis], gradient)
    value, gradient = _reduce(losses, gradient, a, reduction)
    return value, _fill(out, np.moveaxis(gradient, -1, axis))


@_quiet
def kl_divergence_value_and_grad(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    reverse: bool = False,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[Value, Array]:
    """Return KL(p, q) or KL(q, p) of logits, and its gradient with respect to those of q."""
    p, q = _softmaxes(p, q, axis, temperature)
    losses = _kl(q, p) if reverse else _kl(p, q)
    gradient = _product(q, np.log(q / p) - losses[..., np.newaxis]) if reverse else q - p
    return _weighed(losses, gradient / temperature, axis, sample_weight, reduction, out)


@_quiet
def js_divergence_value_and_grad(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[Value, Array]:
    """Return the Jensen-Shannon divergence of logits, and its gradient for those of q."""
    p, q = _softmaxes(p, q, axis, temperature)
    m = (p + q) / 2
    gradient = _product(q, np.log(q / m) - _kl(q, m)[..., np.newaxis]) / 2
    return _weighed(_js(p, q), gradient / temperature, axis, sample_weight, reduction, out)


@_quiet
def topk_kl_divergence_value_and_grad(
    indices: ArrayLike,
    probabilities: ArrayLike,
    logits: ArrayLike,
    *,
    axis: int = -1,
    rest: str = "renormalize",
    temperature: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[Value, Array]:
    """Return `topk_kl_divergence` and its gradient: the listed p are put into a row of zeros."""
    x = np.moveaxis(_floating(logits), axis, -1)
    given = np.moveaxis(np.asarray(probabilities, x.dtype), axis, -1)
    listed = np.where(given == 0, 0, np.moveaxis(np.asarray(indices), axis, -1))
    places = listed[..., np.newaxis] == np.arange(x.shape[-1])
    p = (_product(given[..., np.newaxis], places)).sum(axis=-2)
    q, known = softmax(x / x.dtype.type(temperature)), p != 0
    if rest == "class":
        left = np.maximum(1 - p.sum(axis=-1, keepdims=True), 0)
        share = np.where(known, 0, q).sum(axis=-1, keepdims=True)
        losses = _kl(np.append(p, left, axis=-1), np.append(np.where(known, q, 0), share, axis=-1))
        gradient = np.where(known, q - p, q - _product(left, q / share))
    else:
        p = p / p.sum(axis=-1, keepdims=True)
        losses, gradient = _kl(p, q), q - p
    return _weighed(losses, gradient / temperature, axis, sample_weight, reduction, out)


def topk_kl_divergence(
    indices: ArrayLike,
    probabilities: ArrayLike,
    logits: ArrayLike,
    *,
    axis: int = -1,
    rest: str = "renormalize",
    temperature: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Value:
    """Return KL(p, q), p of a few classes: what it leaves of 1 is divided among them, or a class.

    See `xentfast.topk_kl_divergence` for the arguments, which are not checked here.
    """
    return topk_kl_divergence_value_and_grad(
        indices, probabilities, logits, axis=axis, rest=rest, temperature=temperature,
        sample_weight=sample_weight, reduction=reduction,
    )[0]  # fmt: skip


def is_distribution(p: ArrayLike, *, axis: int = -1, atol: float | None = None) -> Value:
    """Return True where every entry is in [0, 1] and the sum is 1 within `atol`.

    Without `atol` that is the square root of the machine epsilon of the dtype that came.
    """
    array = np.asarray(p)
    if atol is None:
        floating = np.issubdtype(array.dtype, np.floating)
        epsilon = np.finfo(array.dtype if floating else np.float64).eps
        if array.dtype.name == "bfloat16":  # not NumPy's own
            epsilon = 2.0**-7
        atol = float(np.sqrt(epsilon))
    rows = np.moveaxis(_floating(array), axis, -1)
    inside = ((rows >= 0) & (rows <= 1)).all(axis=-1)
    return (inside & (np.abs(rows.sum(axis=-1) - 1) <= atol))[()]


# --- evaluation -----------------------------------------------------------------------------------


def _ranks(x: Array, labels: Array, ties: str) -> Array:
    """Count the logits above the label's, and those equal to it that win the tie."""
    own = np.take_along_axis(x, labels[..., np.newaxis], axis=-1)
    index, y = np.arange(x.shape[-1]), labels[..., np.newaxis]
    wins = {"lowest": index < y, "highest": index > y, "any": index < 0}[ties]
    ranks: Array = ((x > own) | ((x == own) & wins)).sum(axis=-1)
    return ranks


def _predictions(x: Array, labels: Array, ties: str) -> Array:
    """Return the first of the largest logits, or the last, or the label if it is one of them."""
    if ties == "highest":
        return np.asarray(x.shape[-1] - 1 - x[..., ::-1].argmax(axis=-1))
    first = x.argmax(axis=-1)
    return np.where(_ranks(x, labels, ties) == 0, labels, first) if ties == "any" else first


@_quiet
def evaluate(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    top_k: Iterable[int] = (1, 5),
    ties: str = "lowest",
    ignore_index: int | None = None,
    sample_weight: ArrayLike | None = None,
    bins: int = 15,
    per_row: Iterable[str] = (),
) -> Any:
    """Return what `xentfast.evaluate` reports, as attributes, and with `per_row` the arrays.

    The sums are rounded here, and nothing can be added.
    """
    x = np.moveaxis(_floating(logits), axis, -1)
    classes = x.shape[-1]
    labels = np.asarray(labels)
    counts = np.broadcast_to(labels != ignore_index, labels.shape)
    y = np.where(counts, labels, 0).astype(np.intp)
    t = np.arange(classes) == y[..., np.newaxis]

    if from_logits:
        d, at_max, rest, lse = _statistics(x)
        p = np.exp(d) / (1 + rest)
        loss = np.where(t, np.log1p(rest) - d, 0).sum(axis=-1)
        entropies = (np.log1p(rest) - _product(p, d).sum(axis=-1, keepdims=True))[..., 0]
        wrong = np.where(t & at_max, rest / (1 + rest), 1 - p)  # 1 - p of the label
        lse = lse[..., 0]
    else:
        p = _distribution(np.where(np.isfinite(x).all(axis=-1, keepdims=True), x, np.nan), False)
        loss = -np.log(np.where(t, p, 0).sum(axis=-1))
        entropies, wrong, lse = entropy(p), 1 - p, np.zeros(y.shape)
    brier = np.where(t, wrong, p) ** 2
    confidence = p.max(axis=-1)
    valid = ~np.isnan(p).any(axis=-1)
    rank = np.where(valid, _ranks(x, y, ties), classes)

    a = np.asarray(1 if sample_weight is None else sample_weight, x.dtype)
    labelled, a = counts, np.broadcast_to(a, y.shape)
    counts = labelled & (a > 0)
    a = a[counts]
    n, total = len(a), a.sum()

    def mean(values: Array) -> Value:
        return (a * values[counts]).sum() / total

    place = np.minimum(np.where(valid, confidence * bins, 0).astype(np.intp), bins - 1)
    in_bin = (place[counts] == np.arange(bins)[:, np.newaxis]) & valid[counts]  # (bins, rows)
    weight = (in_bin * a).sum(axis=-1)
    by_bin = SimpleNamespace(
        count=in_bin.sum(axis=-1),
        weight=weight,
        confidence=np.where(in_bin, a * confidence[counts], 0).sum(axis=-1) / weight,
        correct=(in_bin * a * (rank[counts] == 0)).sum(axis=-1) / weight,
    )
    gaps = np.where(weight > 0, np.abs(by_bin.correct - by_bin.confidence), 0)
    gaps = np.where(valid[counts].all(), gaps, np.nan)
    spread = (a**2 * (loss[counts] - mean(loss)) ** 2).sum()
    shares = {k: mean(valid & (rank < k)) for k in sorted({1, *top_k})}
    found = SimpleNamespace(
        count=n,
        weight=total,
        loss=mean(loss),
        loss_error=np.sqrt(np.float64(n) / (n - 1) * spread) / total if n > 1 else np.nan,
        perplexity=np.exp(mean(loss)),
        bits=mean(loss) / np.log(2),
        accuracy=shares[1],
        top_k=shares,
        mean_reciprocal_rank=mean(np.where(valid, 1 / (1 + rank), 0)),
        entropy=mean(entropies),
        brier=mean(brier.sum(axis=-1)),
        confidence=mean(confidence),
        reliability=by_bin,
        calibration_error=(weight * gaps).sum() / total,
        max_calibration_error=gaps.max(where=weight > 0, initial=0) if n else np.nan,
        invalid=n - int(valid[counts].sum()),
    )
    arrays = {
        "loss": np.where(labelled, loss, 0),
        "rank": np.where(labelled, rank, -1),
        "entropy": entropies,
        "confidence": confidence,
        "lse": lse,
        "predicted": np.where(valid, _predictions(x, y, ties), -1),
    }
    names = tuple(per_row)
    return (found, {name: arrays[name] for name in names}) if names else found


@_quiet
def compare(
    base: ArrayLike,
    other: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Any:
    """Return what `xentfast.compare` reports, as attributes."""
    a, b = (np.moveaxis(_floating(x), axis, -1) for x in (base, other))
    y = np.zeros(a.shape[:-1], np.intp) if labels is None else np.asarray(labels)
    counts = np.broadcast_to(y != ignore_index, y.shape)
    a, b, y = a[counts], b[counts], y[counts].astype(np.intp)
    p, q, n = softmax(a), softmax(b), len(y)
    valid = ~np.isnan(p + q).any(axis=-1)

    def numbers(name: str, values: Array) -> dict[str, Value]:
        error = values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        return {name: values.mean() if n else np.nan, f"{name}_error": error}

    def of_label(x: Array) -> Array:
        return np.asarray(np.take_along_axis(x, y[:, np.newaxis], axis=-1)[:, 0])

    change = of_label(q) - of_label(p)
    losses = [-of_label(log_softmax(x)) for x in (a, b)]
    same = valid & (a.argmax(axis=-1) == b.argmax(axis=-1))
    found = {
        "count": n,
        **numbers("kl", _kl(p, q)),
        **numbers("reverse_kl", _kl(q, p)),
        **numbers("js", _js(p, q)),
        **numbers("same_first", same.astype(p.dtype)),
        "labelled": 0 if labels is None else n,
    }
    squares = numbers("change_rms", change**2)
    rms = np.sqrt(squares["change_rms"])
    found |= (
        {
            **numbers("change", change),
            "change_rms": rms,
            "change_rms_error": squares["change_rms_error"] / (2 * rms or 1),
            **numbers("log_perplexity_ratio", losses[1] - losses[0]),
            "base_loss": numbers("", losses[0])[""],
            "other_loss": numbers("", losses[1])[""],
        }
        if labels is not None
        else {}
    )
    return SimpleNamespace(**found)
