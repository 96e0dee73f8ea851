"""Who is timed: xentfast, what memory allows, plain NumPy and every peer that is installed.

Each contender takes a case and a mode, prepares the input in its own type and returns a call
without arguments; where it has nothing for the case it skips, with the reason. A gradient is always
one of the mean, in a fresh array that is released with the result.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import pytest

import xentfast
from speed_cases import Array, SpeedCase
from xentfast import _kernels, reference

Call: TypeAlias = Callable[[], Any]
Prepare: TypeAlias = Callable[[SpeedCase, str], Call]


def threads() -> int:
    """Return the number of threads for all: the CPUs this process is pinned to."""
    return len(os.sched_getaffinity(0))


@functools.lru_cache(maxsize=1)
def inputs_of(case: SpeedCase) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """Make the arguments once for all contenders of a case."""
    return case.inputs()


def name_of(case: SpeedCase, mode: str) -> str:
    return case.function + ("_value_and_grad" if mode == "value_and_grad" else "")


def _table(case: SpeedCase, **losses: Callable[..., Any]) -> Callable[..., Any]:
    """Choose a peer's loss for the case."""
    name = "dense" if case.dense else case.function
    if name not in losses or not case.from_logits:
        pytest.skip(f"has no {name}" + ("" if case.from_logits else " from probabilities"))
    return losses[name]


# --- ourselves, and what memory allows ------------------------------------------------------------


def ours(case: SpeedCase, mode: str) -> Call:
    args, options = inputs_of(case)
    return functools.partial(getattr(xentfast, name_of(case, mode)), *args, **options)


def ours_out(case: SpeedCase, mode: str) -> Call:
    """Write into an array that has been touched before."""
    if not case.writes(mode):
        pytest.skip("writes no array")
    return functools.partial(ours(case, mode), out=np.zeros_like(inputs_of(case)[0][0]))


def ours_on(isa: str) -> Prepare:
    def prepare(case: SpeedCase, mode: str) -> Call:
        if isa not in _kernels.available_isas():
            pytest.skip(f"{isa} does not run on this machine")
        run, usual = ours(case, mode), _kernels.get_isa()

        def call() -> Any:
            _kernels.set_isa(isa)
            try:
                return run()
            finally:
                _kernels.set_isa(usual)

        return call

    return prepare


def memory(case: SpeedCase, mode: str) -> Call:
    """Read all of the input once; where an array is written, copy into one touched before.

    NumPy's maximum of 32-bit integers takes little more than the reading, and its loops release the
    GIL, so that each thread has a part.
    """
    if not case.from_logits:
        pytest.skip("most of the input is not looked at")
    first, *others = (a.reshape(-1).view(np.int32) for a in inputs_of(case)[0])
    parts = threads() if first.nbytes > 2**20 else 1
    work: list[Call] = [part.max for a in others for part in np.array_split(a, parts)]
    if case.writes(mode):
        target = np.zeros_like(first)
        pairs = zip(np.array_split(target, parts), np.array_split(first, parts), strict=True)
        work += [functools.partial(np.copyto, *pair) for pair in pairs]
    else:
        work += [part.max for part in np.array_split(first, parts)]
    if parts == 1:
        return lambda: [task() for task in work] and None
    pool = ThreadPoolExecutor(parts)
    return lambda: [task.result() for task in [pool.submit(f) for f in work]] and None


# --- NumPy ----------------------------------------------------------------------------------------


def numpy_cross_entropy(x: Array, y: Array, axis: int, wants_gradient: bool) -> Any:
    """Compute as a person would for just this case, in the dtype of x, or float32 for a half."""
    d = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    d = d - d.max(axis=axis, keepdims=True)
    dense = y.ndim == x.ndim
    at = y if dense else np.expand_dims(y, axis)
    by_label = (d * y).sum(axis=axis) if dense else np.take_along_axis(d, at, axis).squeeze(axis)
    np.exp(d, out=d)
    sums = d.sum(axis=axis, keepdims=True)
    value = np.mean(np.log(sums).squeeze(axis) - by_label)
    if not wants_gradient:
        return value
    d /= sums
    if dense:
        d -= y
    else:
        np.put_along_axis(d, at, np.take_along_axis(d, at, axis) - 1, axis)
    d /= by_label.size
    return value, d.astype(x.dtype, copy=False)


def numpy_binary(x: Array, t: Array, wants_gradient: bool) -> Any:
    e = np.exp(-np.abs(x))
    value = np.mean(np.maximum(x, 0) - x * t + np.log1p(e))
    if not wants_gradient:
        return value
    return value, (np.where(x < 0, e, 1) / (1 + e) - t) / x.size


def numpy_softmax(x: Array, axis: int, log: bool) -> Array:
    d = x - x.max(axis=axis, keepdims=True)
    if log:
        d -= np.log(np.exp(d).sum(axis=axis, keepdims=True))
    else:
        np.exp(d, out=d)
        d /= d.sum(axis=axis, keepdims=True)
    return d


def plain_numpy(case: SpeedCase, mode: str) -> Call:
    args, _ = inputs_of(case)
    gradient = mode == "value_and_grad"
    if not case.from_logits:
        if gradient:
            pytest.skip("nobody writes it")
        rows = np.arange(case.shape[0])
        return lambda: -np.mean(np.log(args[0][rows, args[1]]))
    f = {
        "cross_entropy": lambda x, y: numpy_cross_entropy(x, y, case.axis, gradient),
        "binary_cross_entropy": lambda x, t: numpy_binary(x, t, gradient),
        "entropy": lambda p: -(p * np.log(p)).sum(axis=case.axis),
        "kl_divergence": lambda p, q: (p * np.log(p / q)).sum(axis=case.axis),
        "softmax": lambda x: numpy_softmax(x, case.axis, log=False),
        "log_softmax": lambda x: numpy_softmax(x, case.axis, log=True),
    }[case.function]
    return functools.partial(f, *args)


def numpy_reference(case: SpeedCase, mode: str) -> Call:
    args, options = inputs_of(case)
    if args[0].size > 2**27:
        pytest.skip("takes too much memory in float64")
    wide = [a if a.dtype.kind in "iub" else a.astype(np.float64) for a in args]
    return functools.partial(getattr(reference, name_of(case, mode)), *wide, **options)


# --- frameworks -----------------------------------------------------------------------------------


def _torch_tensor(torch: Any, a: Array) -> Any:
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16).clone()
    return torch.from_numpy(a).clone()


def torch_with(compiled: bool) -> Prepare:
    def prepare(case: SpeedCase, mode: str) -> Call:
        torch: Any = pytest.importorskip("torch")
        if compiled and not shutil.which(os.environ.get("CXX", "g++")):
            pytest.skip("needs a compiler of C++")
        torch.set_num_threads(threads())
        library = torch.nn.functional
        axis = case.axis

        def cross_entropy(x: Any, y: Any) -> Any:
            return library.cross_entropy(x.T if axis == 0 else x, y)  # wants them second

        f = _table(
            case,
            cross_entropy=cross_entropy,
            dense=cross_entropy,
            binary_cross_entropy=library.binary_cross_entropy_with_logits,
            entropy=lambda p: torch.special.entr(p).sum(axis),
            kl_divergence=lambda p, q: library.kl_div(q.log(), p, reduction="none").sum(axis),
            softmax=lambda x: torch.softmax(x, axis),
            log_softmax=lambda x: torch.log_softmax(x, axis),
        )
        if compiled:
            torch.compiler.reset()  # a new shape is not to make it compile for all shapes
            f = torch.compile(f)
        args = [_torch_tensor(torch, a) for a in inputs_of(case)[0]]
        if mode == "value":
            return functools.partial(f, *args)
        x = args[0].requires_grad_()

        def forward_and_backward() -> Any:
            loss = f(*args)
            loss.backward()
            gradient, x.grad = x.grad, None
            return loss, gradient

        return forward_and_backward

    return prepare


def jax_jit(case: SpeedCase, mode: str) -> Call:
    jax: Any = pytest.importorskip("jax")
    optax: Any = pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    special = jax.scipy.special
    index_loss = optax.softmax_cross_entropy_with_integer_labels
    f = _table(
        case,
        cross_entropy=lambda x, y: index_loss(x, y, axis=case.axis).mean(),
        dense=lambda x, y: optax.softmax_cross_entropy(x, y).mean(),
        binary_cross_entropy=lambda x, y: optax.sigmoid_binary_cross_entropy(x, y).mean(),
        entropy=lambda p: special.entr(p).sum(case.axis),
        kl_divergence=lambda p, q: special.rel_entr(p, q).sum(case.axis),
        softmax=functools.partial(jax.nn.softmax, axis=case.axis),
        log_softmax=functools.partial(jax.nn.log_softmax, axis=case.axis),
    )
    run = jax.jit(jax.value_and_grad(f) if mode == "value_and_grad" else f)
    args = [jax.numpy.array(a) for a in inputs_of(case)[0]]
    return lambda: jax.block_until_ready(run(*args))


def tensorflow(case: SpeedCase, mode: str) -> Call:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tf: Any = pytest.importorskip("tensorflow")
    if case.axis != -1:
        pytest.skip("wants the classes last")
    nn, xlogy, mean = tf.nn, tf.math.xlogy, tf.reduce_mean
    index_loss = nn.sparse_softmax_cross_entropy_with_logits
    f = _table(
        case,
        cross_entropy=lambda x, y: mean(index_loss(labels=y, logits=x)),
        dense=lambda x, y: mean(nn.softmax_cross_entropy_with_logits(labels=y, logits=x)),
        binary_cross_entropy=lambda x, y: mean(
            nn.sigmoid_cross_entropy_with_logits(labels=y, logits=x)
        ),
        entropy=lambda p: -tf.reduce_sum(xlogy(p, p), -1),
        kl_divergence=lambda p, q: tf.reduce_sum(xlogy(p, p / q), -1),
        softmax=nn.softmax,
        log_softmax=nn.log_softmax,
    )

    def value_and_grad(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = f(x, y)
        return loss, tape.gradient(loss, x)

    run = tf.function(value_and_grad if mode == "value_and_grad" else f)
    return functools.partial(run, *(tf.constant(a) for a in inputs_of(case)[0]))


# --- libraries ------------------------------------------------------------------------------------


def _rows_of(case: SpeedCase) -> tuple[Array, ...]:
    """Return the arguments, where they are what these libraries take."""
    if case.axis != -1:
        pytest.skip("wants the classes last")
    if case.dtype not in ("float32", "float64"):
        pytest.skip(f"does not take {case.dtype}")
    return inputs_of(case)[0]


def sklearn(case: SpeedCase, mode: str) -> Call:
    """Time the losses of its linear models and trees, and log_loss for probabilities."""
    losses: Any = pytest.importorskip("sklearn._loss")
    args = _rows_of(case)
    if not case.from_logits and mode == "value":
        classes = np.arange(case.shape[-1])
        return functools.partial(
            pytest.importorskip("sklearn.metrics").log_loss, args[1], args[0], labels=classes
        )
    loss = _table(
        case,
        cross_entropy=functools.partial(losses.HalfMultinomialLoss, n_classes=case.shape[-1]),
        binary_cross_entropy=losses.HalfBinomialLoss,
    )()
    count = case.shape[0]
    given = {
        "raw_prediction": args[0],
        "y_true": args[1].astype(args[0].dtype),
        "n_threads": threads(),
    }
    if mode == "value":
        return functools.partial(loss, **given)
    mean = np.full(count, 1 / count, args[0].dtype)  # its gradient is that of the weighted sum

    def value_and_grad() -> Any:
        values, gradient = loss.loss_gradient(**given, sample_weight=mean)
        return values.sum(), gradient

    return value_and_grad


def scipy(case: SpeedCase, mode: str) -> Call:
    special: Any = pytest.importorskip("scipy.special")
    args = _rows_of(case)
    if mode == "value_and_grad":
        pytest.skip("has no gradients")
    rows = np.arange(case.shape[0])

    def binary(x: Array, t: Array) -> Any:
        return -np.mean(t * special.log_expit(x) + (1 - t) * special.log_expit(-x))

    f = _table(
        case,
        cross_entropy=lambda x, y: -special.log_softmax(x, axis=-1)[rows, y].mean(),
        dense=lambda x, y: -(y * special.log_softmax(x, axis=-1)).sum(axis=-1).mean(),
        binary_cross_entropy=binary,
        entropy=lambda p: special.entr(p).sum(axis=-1),
        kl_divergence=lambda p, q: special.rel_entr(p, q).sum(axis=-1),
        softmax=functools.partial(special.softmax, axis=-1),
        log_softmax=functools.partial(special.log_softmax, axis=-1),
    )
    return functools.partial(f, *args)


@functools.cache
def _numba_loops() -> dict[str, Callable[..., Any]]:
    numba: Any = pytest.importorskip("numba")
    numba.set_num_threads(threads())
    prange = numba.prange

    @numba.njit(parallel=True)
    def cross_entropy(x: Array, y: Array, gradient: Array) -> float:
        n, classes = x.shape
        total = 0.0
        for i in prange(n):
            m = x[i, 0]
            for j in range(1, classes):
                m = max(m, x[i, j])
            s = 0.0
            for j in range(classes):
                s += math.exp(x[i, j] - m)
            total += math.log(s) + m - x[i, y[i]]
            if gradient.size:
                for j in range(classes):
                    gradient[i, j] = math.exp(x[i, j] - m) / (s * n)
                gradient[i, y[i]] -= 1 / n
        return total / n

    @numba.njit(parallel=True)
    def binary_cross_entropy(x: Array, t: Array, gradient: Array) -> float:
        total = 0.0
        for i in prange(x.size):
            e = math.exp(-abs(x[i]))
            total += max(x[i], 0) - x[i] * t[i] + math.log1p(e)
            if gradient.size:
                gradient[i] = ((e if x[i] < 0 else 1) / (1 + e) - t[i]) / x.size
        return total / x.size

    @numba.njit(parallel=True)
    def entropy(p: Array, result: Array) -> Array:
        for i in prange(p.shape[0]):
            s = 0.0
            for j in range(p.shape[1]):
                s -= p[i, j] * math.log(p[i, j])
            result[i] = s
        return result

    return locals()


def numba(case: SpeedCase, mode: str) -> Call:
    """Time the obvious loops."""
    args = _rows_of(case)
    f = _table(case, **_numba_loops())
    x = args[0]
    if case.function == "entropy":
        return lambda: f(x, np.empty(x.shape[0], x.dtype))
    if mode == "value":
        return lambda: f(*args, np.empty((0,) * x.ndim, x.dtype))

    def value_and_grad() -> Any:
        gradient = np.empty_like(x)
        return f(*args, gradient), gradient

    return value_and_grad


PEERS: dict[str, Prepare] = {
    "NumPy": plain_numpy,
    "reference": numpy_reference,
    "torch": torch_with(compiled=False),
    "torch.compile": torch_with(compiled=True),
    "jax": jax_jit,
    "tensorflow": tensorflow,
    "scikit-learn": sklearn,
    "scipy": scipy,
    "numba": numba,
}
OURS: dict[str, Prepare] = {"memory": memory, "xentfast": ours, "xentfast out=": ours_out}
ISAS: dict[str, Prepare] = {isa: ours_on(isa) for isa in _kernels.built_isas()}
CONTENDERS = OURS | PEERS | ISAS


def contenders_of(case: SpeedCase, mode: str) -> Iterator[str]:
    """Name the contenders of a case."""
    if case.group == "isas":
        yield from ISAS
    elif case.group == "options":
        yield from ("xentfast", "reference")
    else:
        yield from (name for name in OURS if name != "xentfast out=" or case.writes(mode))
        if case.group != "sizes":
            yield from PEERS
