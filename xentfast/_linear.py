"""Cross-entropy of a linear layer whose outputs, the logits, are held for a chunk of rows only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _cross_entropy
from xentfast._checks import Array, Reduction

CHUNK_BYTES = 1 << 26
# Classes that filter_eps keeps or skips together.
_FILTER_CLASSES = 256
# Chunks of no whole number of panels would leave a part of one in each.
_PANEL = 16
# Rows of a matrix that a BLAS packs at a time, or more.
_DEPTH = 512
# The first logits lie in the weight's gradient if that takes so many times the rows of a chunk.
# Products of 768 rows took 0.7 of the time of those of 120, with 128,256 classes and two threads;
# at less than twice the rows the loss across the classes costs what the products gain.
_WITHIN = 2


def linear_cross_entropy(
    inputs: npt.ArrayLike,
    weight: npt.ArrayLike,
    labels: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    chunk_bytes: int = CHUNK_BYTES,
    filter_eps: float | None = None,
) -> Any:
    """`cross_entropy` of the logits ``inputs @ weight.T + bias``, without an array of them.

    Parameters
    ----------
    inputs : array_like, floating, shape (..., D), of 1 to 7 dimensions
        What the layer is given: float16, bfloat16 (of ml_dtypes), float32 or float64.
    weight : array_like, shape (K, D), of the dtype of `inputs`
        A row for each class.
    labels : array_like
        Class indices of shape (...), of any integer dtype, or distributions of shape (..., K).
    bias : array_like, shape (K,), of the dtype of `inputs`, optional
        What is added to the logits.
    class_weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction
        As in `cross_entropy`. Rows with the ignored label are left out of all products.
    chunk_bytes : int, positive
        The most memory that is taken beside the arguments and the gradients, if that is enough for
        one row. The value depends on it by the rounding of the products alone.
    filter_eps : float in [0, 1], optional
        Of no effect on the value: see `linear_cross_entropy_value_and_grad`.

    Returns
    -------
    scalar or ndarray
        Of the dtype of `inputs`, but float32 for 16 bits; summed in double precision.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    The products are those of NumPy's BLAS, 16 bits widened to float32 piece by piece; its threads
    are its own, and may round differently by their number. Those of `set_num_threads` never show.
    """
    return evaluate(
        inputs, weight, labels, bias, class_weight, sample_weight, ignore_index, label_smoothing,
        z_loss, reduction, chunk_bytes, filter_eps, (False, False, False),
    )[0]  # fmt: skip


def linear_cross_entropy_value_and_grad(
    inputs: npt.ArrayLike,
    weight: npt.ArrayLike,
    labels: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    chunk_bytes: int = CHUNK_BYTES,
    filter_eps: float | None = None,
) -> tuple[Any, tuple[Array, Array, Array | None]]:
    """`linear_cross_entropy` and its gradients with respect to inputs, weight and bias.

    The arguments, and what is raised, are those of `linear_cross_entropy`.

    Parameters
    ----------
    filter_eps : float in [0, 1], optional
        Of each chunk of rows, the runs of 256 classes are skipped in the gradients of inputs and
        weight where no gradient with respect to a logit, before the mean's division, is larger
        than this; without weights that is where no row has its label and the softmax is nowhere
        larger. An entry ``[i, d]`` of the inputs' gradient is off by at most ``filter_eps sum_k
        |weight[k, d]|``, one ``[k, d]`` of the weight's by ``filter_eps sum_i |inputs[i, d]|``,
        both divided by what the mean is. By default nothing is skipped.

    Returns
    -------
    (value, (inputs_gradient, weight_gradient, bias_gradient))
        The value of `linear_cross_entropy`, which is rounded otherwise where the products are, and
        gradients of the arguments' shapes and dtypes, the last of them None without a bias. With
        "none" they are those of the sum.

    Notes
    -----
    For 16 bits the weight's gradient is summed in float32, in an array of its shape that is held
    until all is done, beside what `chunk_bytes` counts. Where a chunk is small, the logits of the
    first rows, up to D, lie in the array of the weight's gradient and are overwritten by it.
    """
    return evaluate(
        inputs, weight, labels, bias, class_weight, sample_weight, ignore_index, label_smoothing,
        z_loss, reduction, chunk_bytes, filter_eps, (True, True, bias is not None),
    )  # fmt: skip


# --- products -------------------------------------------------------------------------------------


class Products:
    """The products of a chunk by NumPy's BLAS, which has float32 and float64."""

    def dtype(self, dtype: Any) -> Any:
        """Return what a dtype is multiplied in."""
        return _checks.computed(dtype)

    def takes(self, a: Array) -> bool:
        """Tell whether an array is read in place."""
        return a.dtype == self.dtype(a.dtype) and a.flags.forc and a.flags.aligned

    def multiply(self, a: Array, b: Array, out: Array) -> None:
        """Write a b."""
        np.matmul(a, b, out=out)

    def add(self, a: Array, out: Array) -> None:
        """Add to all rows, or to each its own."""
        np.add(out, a, out=out)

    def add_product(self, a: Array, b: Array, out: Array, room: Array) -> None:
        """Add a^T b by way of some rows of it: NumPy's product cannot add."""
        for first in range(0, len(out), len(room)):
            part = out[first : first + len(room)]
            product = room[: len(part)]
            np.matmul(a[:, first : first + len(room)].T, b, out=product)
            part += product

    def column_sums(self, a: Array) -> Array:
        """Return the sum of the rows."""
        sums: Array = np.ones(len(a), a.dtype) @ a
        return sums


_NUMPY = Products()


def _widen(a: Array, out: Array) -> Array:
    """Copy into an array of the same dtype, or from 16 bits to float32."""
    if a.dtype == out.dtype or a.dtype == np.float16:
        out[...] = a
    else:  # bfloat16: the upper half
        bits = out.view(np.uint32)
        bits[...] = a.view(np.uint16)
        bits <<= 16
    return out


def _narrow(a: Array, out: Array) -> None:
    """Copy into an array of the same dtype, or round float32 to 16 bits."""
    if a.dtype == out.dtype or out.dtype == np.float16:
        out[...] = a
    else:
        bits = a.view(np.uint32)
        halves = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        out.view(np.uint16)[...] = np.where(np.isnan(a), np.uint16(0x7FC0), halves)


# --- rows and chunks ------------------------------------------------------------------------------


class _Rows:
    """The rows of an array (..., n), of which only those asked for are copied."""

    def __init__(self, a: Array) -> None:
        self.lead = a.shape[:-1]
        flat = a.ndim <= 2 or a.flags.c_contiguous
        self.rows = a.reshape(math.prod(self.lead), a.shape[-1]) if flat else None
        self.all = a

    def __getitem__(self, rows: Any) -> Array:
        if self.rows is not None:
            found: Array = self.rows[rows]
            return found
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop)
        found = self.all[np.unravel_index(rows, self.lead)]
        return found


def _rows_of_chunk(rows: int, row_bytes: int, chunk_bytes: int) -> int:
    """Return how many rows to take at once, about as many each time."""
    most = max(1, chunk_bytes // row_bytes)
    chunks = max(1, -(-rows // most))
    even = -(-rows // chunks)
    return min(-(-even // _PANEL) * _PANEL, most)


def _large_runs(gradient: Array, least: float) -> list[tuple[int, int]]:
    """Return the classes, in runs, where some entry is larger than the least or is nan."""
    runs: list[tuple[int, int]] = []
    classes = gradient.shape[1]
    for first in range(0, classes, _FILTER_CLASSES):
        end = min(first + _FILTER_CLASSES, classes)
        block = gradient[:, first:end]
        if block.max() <= least and block.min() >= -least:
            continue
        if runs and runs[-1][1] == first:
            first = runs.pop()[0]
        runs.append((first, end))
    return runs


class _Layer:
    """The layer's arguments, the buffers of a chunk, and its gradients."""

    def __init__(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        products: Products,
        wanted: Sequence[bool],
        filtered: bool,
        rows: int,
        row_bytes: int,
        chunk_bytes: int,
        chunk_rows: int | None,
    ) -> None:
        classes, features = weight.shape
        dtype = np.dtype(products.dtype(x.dtype))
        self.weight, self.products, self.dtype = weight, products, dtype
        self.rows, self.all_rows = _Rows(x), math.prod(x.shape[:-1])
        self.direct = products.takes(weight)
        self.bias = None if bias is None else _widen(bias, np.empty(classes, dtype))
        # A 16th for classes of the weight, of its gradient or of logits that lie in it, a 32nd for
        # what the BLAS packs of as many, up to _DEPTH rows deep; the rest for rows.
        at_once = chunk_bytes // 16 // (max(features, _DEPTH) * dtype.itemsize)
        self.step = min(max(1, at_once), classes)
        row_bytes += 3 * features * dtype.itemsize
        room = chunk_bytes - 3 * chunk_bytes // 32
        inputs, weights, biases = wanted
        self.count, self.within = rows, 0
        self.size = chunk_rows or _rows_of_chunk(rows, row_bytes + classes * dtype.itemsize, room)
        most = min(rows, features, room // row_bytes)
        if weights and not (filtered or chunk_rows) and most >= _WITHIN * self.size:
            self.within = most
            self.size = _rows_of_chunk(rows - most, row_bytes + classes * dtype.itemsize, room)
        self.logits: Array | None = None
        self.part = np.empty((self.step, features), dtype)
        self.of_bias = np.zeros(classes) if biases else None
        self.of_weight = self.of_inputs = None
        self.begun = filtered
        if weights:
            self.of_weight = (np.zeros if filtered else np.empty)(weight.shape, dtype)
        if inputs:
            self.of_inputs = np.empty(x.shape, x.dtype)
            if rows < self.all_rows:
                self.of_inputs.view(f"u{x.itemsize}").fill(0)

    def chunks(self) -> Iterator[slice]:
        """Return the rows that are taken at once."""
        if self.within:
            yield slice(0, self.within)
        for first in range(self.within, self.count, max(1, self.size)):
            yield slice(first, min(first + self.size, self.count))

    def place(self, rows: int) -> Array:
        """Return where the logits of a chunk go, first in the weight's gradient, still unused."""
        if self.within and self.of_weight is not None and not self.begun:
            return self.of_weight[:, :rows].T
        if self.logits is None:
            self.logits = np.empty((min(self.size, self.count), len(self.weight)), self.dtype)
        return self.logits[:rows]

    def take(self, rows: Any) -> Array:
        """Return rows of the inputs as they are multiplied."""
        x = self.rows[rows]
        if x.dtype == self.dtype:
            return np.ascontiguousarray(x)
        return _widen(x, np.empty(x.shape, self.dtype))

    def blocks(self, runs: list[tuple[int, int]], narrow: bool) -> list[tuple[int, int]]:
        """Return runs of classes as they are multiplied at once."""
        if self.direct and not narrow:
            return runs
        return [
            (first, min(first + self.step, end))
            for start, end in runs
            for first in range(start, end, self.step)
        ]

    def weights(self, first: int, end: int) -> Array:
        """Return the weights of some classes as they are multiplied."""
        part = self.weight[first:end]
        return part if self.direct else _widen(part, self.part[: end - first])

    def forward(self, x: Array) -> Array:
        """Return the logits."""
        logits = self.place(len(x))
        for first, end in self.blocks([(0, logits.shape[1])], narrow=True):
            self.products.multiply(x, self.weights(first, end).T, logits[:, first:end])
        if self.bias is not None:
            self.products.add(self.bias, logits)
        return logits

    def backward(self, x: Array, rows: Any, gradient: Array, least: float | None) -> None:
        """Take the gradient with respect to the logits of a chunk."""
        products = self.products
        if self.of_bias is not None:
            self.of_bias += products.column_sums(gradient)
        runs = [(0, gradient.shape[1])] if least is None else _large_runs(gradient, least)
        if self.of_inputs is not None:
            blocks = self.blocks(runs, narrow=False)
            product = np.empty(x.shape, self.dtype) if blocks else np.zeros(x.shape, self.dtype)
            other = np.empty_like(product) if len(blocks) > 1 else product
            for first, end in blocks:
                at = product if first == runs[0][0] else other
                products.multiply(gradient[:, first:end], self.weights(first, end), at)
                if at is not product:
                    products.add(other, product)
            self.put(rows, product)
        if self.of_weight is not None:
            for first, end in runs if self.begun else self.blocks(runs, narrow=True):
                of_run, g = self.of_weight[first:end], gradient[:, first:end]
                if self.begun:
                    products.add_product(g, x, of_run, self.part)
                elif self.within:  # where the logits are
                    room = self.part[: end - first, : len(x)]
                    room[...] = g.T
                    products.multiply(room, x, of_run)
                else:
                    products.multiply(g.T, x, of_run)
            self.begun = True

    def put(self, rows: Any, product: Array) -> None:
        """Store the gradient of rows of the inputs."""
        assert self.of_inputs is not None
        flat = self.of_inputs.reshape(self.all_rows, -1)
        if isinstance(rows, slice):
            _narrow(product, flat[rows])
        elif flat.dtype == product.dtype:
            flat[rows] = product
        else:
            halves = np.empty(product.shape, flat.dtype)
            _narrow(product, halves)
            flat[rows] = halves

    def gradients(self) -> tuple[Any, Any, Any]:
        """Return all gradients, in the arguments' dtype."""
        of_weight, of_bias = self.of_weight, self.of_bias
        if of_weight is not None:
            if not self.begun:  # no rows
                of_weight.view(f"u{of_weight.itemsize}").fill(0)
            if self.weight.dtype != self.dtype:
                sums, of_weight = of_weight, np.empty(self.weight.shape, self.weight.dtype)
                for first in range(0, len(sums), self.step):
                    _narrow(sums[first : first + self.step], of_weight[first : first + self.step])
        if of_bias is not None:
            computed = of_bias.astype(_checks.computed(self.weight.dtype))
            of_bias = np.empty(len(of_bias), self.weight.dtype)
            _narrow(computed, of_bias)
        return self.of_inputs, of_weight, of_bias


# --- the loss -------------------------------------------------------------------------------------


def _same_dtype(name: str, a: Array, x: Array) -> None:
    if _checks.kind(a) != _checks.kind(x):
        raise TypeError(f"{name} must have the dtype of inputs, {x.dtype}, got {a.dtype}")


def _bytes(value: Any) -> int:
    count = _checks.integer("chunk_bytes", value)
    if count < 1:
        raise ValueError(f"chunk_bytes must be positive, got {value}")
    return count


def _over_total(weights: Any, total: float) -> Any:
    """Divide by the sum of what counts, which may be subnormal."""
    return np.minimum(np.divide(weights, total), np.finfo(np.float64).max)


@np.errstate(all="ignore")
def evaluate(
    inputs: npt.ArrayLike,
    weight: npt.ArrayLike,
    labels: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    class_weight: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    reduction: Reduction,
    chunk_bytes: int,
    filter_eps: float | None,
    wanted: tuple[bool, bool, bool],
    products: Products = _NUMPY,
    chunk_rows: int | None = None,
    row_factor: Array | None = None,
) -> tuple[Any, Any]:
    """Return the value and the gradients that are wanted, of inputs, weight and bias.

    With a factor of any sign for each row the gradients are those of the sum of the losses, after
    the mean's division, times these; the value is of no use then.
    """
    x, w = _checks.real("inputs", inputs), _checks.real("weight", weight)
    if not 1 <= x.ndim <= _checks.MOST_AXES:
        raise ValueError(f"inputs must have 1 to {_checks.MOST_AXES} dimensions, got {x.ndim}")
    if not x.shape[-1]:
        raise ValueError(f"inputs must have at least one feature, got shape {x.shape}")
    if w.ndim != 2 or w.shape[1] != x.shape[-1] or not len(w):
        rule = f"(K, {x.shape[-1]}) with K >= 1"
        raise ValueError(f"weight must have shape {rule}, got {w.shape}")
    _same_dtype("weight", w, x)
    b = None if bias is None else _checks.real("bias", bias)
    if b is not None:
        if b.shape != w.shape[:1]:
            raise ValueError(f"bias must have shape {w.shape[:1]}, got {b.shape}")
        _same_dtype("bias", b, x)
    lead, classes = x.shape[:-1], len(w)
    logits = np.broadcast_to(np.zeros((), x.dtype), (*lead, classes))  # their shape and dtype
    y, dense = _checks.labels_of(labels, logits, len(lead))
    skip = _checks.ignored(ignore_index, y, dense)
    smoothing = _checks.number("label_smoothing", label_smoothing, 0, 1)
    zeta = _checks.number("z_loss", z_loss, 0, math.inf)
    _checks.reduction_of(reduction)
    chunk_bytes = _bytes(chunk_bytes)
    eps = None if filter_eps is None else _checks.number("filter_eps", filter_eps, 0, 1)
    weights = by_class = None
    if sample_weight is not None:
        weights = _checks.sample_weight_of(sample_weight, lead, np.float64, -1)
        _checks.bounded("sample_weight", weights, np.float64)
        weights = weights.astype(np.float64).ravel()
    if class_weight is not None:
        by_class = _checks.class_weight_of(class_weight, logits, len(lead))

    kept, count = None, math.prod(lead)
    counts_nothing = np.zeros(count, bool) if weights is None else weights == 0
    if not dense:
        y = y.copy()  # what is checked is what is used
        _checks.within(y, classes, skip)
        if skip is not None:
            counts_nothing |= (y == skip).ravel()
        if by_class is not None and smoothing == zeta == 0:
            counts_nothing[~counts_nothing] = by_class[y.ravel()[~counts_nothing]] == 0
    if counts_nothing.any():
        kept = np.flatnonzero(~counts_nothing)
        count = len(kept)
    of_rows = _Rows(y if dense else y[..., np.newaxis])
    total: float = 1.0
    if reduction == "mean":
        everyone = slice(0, count) if kept is None else kept
        counts = np.ones(count) if weights is None else weights[everyone]
        if by_class is not None and not dense:
            counts = counts * by_class.astype(np.float64)[of_rows[everyone][:, 0]]
        total = float(counts.sum())
    if weights is not None:
        weights = _over_total(weights, total) if total else weights
    elif total not in (0, 1):
        weights = np.broadcast_to(_over_total(1.0, total), math.prod(lead))
    negative = None
    if row_factor is not None:
        weights = np.abs(row_factor) if weights is None else weights * np.abs(row_factor)
        negative = row_factor < 0

    row_bytes = classes * y.itemsize if dense else 0
    layer = _Layer(
        x, w, b, products, wanted, eps is not None, count if total else 0, row_bytes, chunk_bytes,
        chunk_rows,
    )  # fmt: skip
    dtype = _checks.computed(x.dtype)
    losses = np.zeros(math.prod(lead), dtype) if reduction == "none" else None
    loss = 0.0
    for chunk in layer.chunks():
        rows: Any = chunk if kept is None else kept[chunk]
        part = layer.take(rows)
        logits = layer.forward(part)
        each = None if losses is None else np.empty(len(part), dtype)
        of_chunk, *_ = _cross_entropy.run(
            logits,
            1,
            of_rows[rows] if dense else of_rows[rows][:, 0],
            dense,
            by_class,
            None if weights is None else weights[rows],
            None,
            smoothing,
            zeta,
            True,
            False,
            each,
            logits if any(wanted) else None,
        )
        loss += of_chunk
        if losses is not None:
            losses[rows] = each
        if negative is not None:
            bits = logits.view(f"u{logits.itemsize}")
            bits ^= negative[rows, np.newaxis] * bits.dtype.type(1 << (8 * bits.itemsize - 1))
        if any(wanted):
            layer.backward(part, rows, logits, None if eps is None else eps / (total or 1))
    if reduction == "mean" and not total:
        loss = math.nan
    if losses is not None:
        losses = losses.reshape(lead)
    return _checks.result(loss, 1.0, reduction, dtype, losses, None), layer.gradients()
