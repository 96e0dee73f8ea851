"""The other libraries that are timed beside this one, each where it is installed.

Each peer takes a problem, prepares the arguments in its own type and returns a call without
arguments, whose result is a value, an array, or with a gradient both. A gradient is always one of
the mean, in a fresh array. What a peer does not have is `NotOffered`, with the reason.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Call: TypeAlias = Callable[[], Any]
Peer: TypeAlias = "Callable[[Problem], Call]"


class NotOffered(Exception):  # noqa: N818
    """A peer is not installed, or has nothing for the problem."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A public function with its arguments, and for how many threads."""

    function: str
    args: tuple[Array, ...]
    gradient: bool = False
    axis: int = -1
    from_logits: bool = True
    threads: int = 1

    @property
    def loss(self) -> str:
        """The function, told apart by the kind of labels."""
        dense = self.function == "cross_entropy" and self.args[1].ndim == self.args[0].ndim
        return "dense" if dense else self.function


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotOffered(f"no {name}: {error}") from None


def _choose(problem: Problem, **losses: Callable[..., Any]) -> Callable[..., Any]:
    """Choose a peer's loss for the problem."""
    if problem.loss not in losses or not problem.from_logits:
        from_what = "" if problem.from_logits else " from probabilities"
        raise NotOffered(f"has no {problem.loss}{from_what}")
    return losses[problem.loss]


def _torch_tensor(torch: Any, a: Array) -> Any:
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16).clone()
    return torch.from_numpy(a).clone()


def torch_with(compiled: bool) -> Peer:
    """Return the peer, eager or compiled."""

    def prepare(problem: Problem) -> Call:
        torch: Any = _import("torch")
        if compiled and not shutil.which(os.environ.get("CXX", "g++")):
            raise NotOffered("needs a compiler of C++")
        torch.set_num_threads(problem.threads)
        library = torch.nn.functional
        axis = problem.axis

        def cross_entropy(x: Any, y: Any) -> Any:
            return library.cross_entropy(x.T if axis == 0 else x, y)  # wants them second

        f = _choose(
            problem,
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
        args = [_torch_tensor(torch, a) for a in problem.args]
        if not problem.gradient:
            return functools.partial(f, *args)
        x = args[0].requires_grad_()

        def forward_and_backward() -> Any:
            loss = f(*args)
            loss.backward()
            gradient, x.grad = x.grad, None
            return loss, gradient

        return forward_and_backward

    return prepare


def jax_jit(problem: Problem) -> Call:
    jax: Any = _import("jax")
    optax: Any = _import("optax")
    jax.config.update("jax_enable_x64", problem.args[0].dtype == np.float64)
    special = jax.scipy.special
    index_loss = optax.softmax_cross_entropy_with_integer_labels
    f = _choose(
        problem,
        cross_entropy=lambda x, y: index_loss(x, y, axis=problem.axis).mean(),
        dense=lambda x, y: optax.softmax_cross_entropy(x, y).mean(),
        binary_cross_entropy=lambda x, y: optax.sigmoid_binary_cross_entropy(x, y).mean(),
        entropy=lambda p: special.entr(p).sum(problem.axis),
        kl_divergence=lambda p, q: special.rel_entr(p, q).sum(problem.axis),
        softmax=functools.partial(jax.nn.softmax, axis=problem.axis),
        log_softmax=functools.partial(jax.nn.log_softmax, axis=problem.axis),
    )
    run = jax.jit(jax.value_and_grad(f) if problem.gradient else f)
    args = [jax.numpy.array(a) for a in problem.args]
    return lambda: jax.block_until_ready(run(*args))


def tensorflow(problem: Problem) -> Call:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tf: Any = _import("tensorflow")
    if problem.axis != -1:
        raise NotOffered("wants the classes last")
    nn, xlogy, mean = tf.nn, tf.math.xlogy, tf.reduce_mean
    index_loss = nn.sparse_softmax_cross_entropy_with_logits
    f = _choose(
        problem,
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

    run = tf.function(value_and_grad if problem.gradient else f)
    return functools.partial(run, *(tf.constant(a) for a in problem.args))


def _rows_of(problem: Problem, any_axis: bool = False) -> tuple[Array, ...]:
    """Return the arguments, where they are what these libraries take."""
    if problem.axis != -1 and not any_axis:
        raise NotOffered("wants the classes last")
    dtype = problem.args[0].dtype.name
    if dtype not in ("float32", "float64"):
        raise NotOffered(f"does not take {dtype}")
    return problem.args


def sklearn(problem: Problem) -> Call:
    """Time the losses of its linear models and trees, and log_loss for probabilities."""
    losses: Any = _import("sklearn._loss")
    args = _rows_of(problem)
    count, classes = len(args[0]), args[0].shape[-1]
    if not problem.from_logits and not problem.gradient:
        return functools.partial(
            _import("sklearn.metrics").log_loss, args[1], args[0], labels=np.arange(classes)
        )
    loss = _choose(
        problem,
        cross_entropy=functools.partial(losses.HalfMultinomialLoss, n_classes=classes),
        binary_cross_entropy=losses.HalfBinomialLoss,
    )()
    given = {
        "raw_prediction": args[0],
        "y_true": args[1].astype(args[0].dtype),
        "n_threads": problem.threads,
    }
    if not problem.gradient:
        return functools.partial(loss, **given)
    mean = np.full(count, 1 / count, args[0].dtype)  # its gradient is that of the weighted sum

    def value_and_grad() -> Any:
        values, gradient = loss.loss_gradient(**given, sample_weight=mean)
        return values.sum(), gradient

    return value_and_grad


def scipy(problem: Problem) -> Call:
    special: Any = _import("scipy.special")
    args, axis = _rows_of(problem, any_axis=problem.function != "cross_entropy"), problem.axis
    if problem.gradient:
        raise NotOffered("has no gradients")
    rows = np.arange(len(args[0]))

    def binary(x: Array, t: Array) -> Any:
        return -np.mean(t * special.log_expit(x) + (1 - t) * special.log_expit(-x))

    f = _choose(
        problem,
        cross_entropy=lambda x, y: -special.log_softmax(x, axis=-1)[rows, y].mean(),
        dense=lambda x, y: -(y * special.log_softmax(x, axis=-1)).sum(axis=-1).mean(),
        binary_cross_entropy=binary,
        entropy=lambda p: special.entr(p).sum(axis),
        kl_divergence=lambda p, q: special.rel_entr(p, q).sum(axis),
        softmax=functools.partial(special.softmax, axis=axis),
        log_softmax=functools.partial(special.log_softmax, axis=axis),
    )
    return functools.partial(f, *args)


@functools.cache
def _numba_loops() -> dict[str, Callable[..., Any]]:
    numba: Any = _import("numba")
    prange = numba.prange

    @numba.njit(parallel=True)
    def cross_entropy(x: Array, y: Array, gradient: Array) -> Any:
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
    def binary_cross_entropy(x: Array, t: Array, gradient: Array) -> Any:
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

    return {
        "cross_entropy": cross_entropy,
        "binary_cross_entropy": binary_cross_entropy,
        "entropy": entropy,
    }


def numba(problem: Problem) -> Call:
    """Time the obvious loops."""
    args = _rows_of(problem)
    f = _choose(problem, **_numba_loops())
    _import("numba").set_num_threads(problem.threads)
    x = args[0]
    if problem.function == "entropy":
        return lambda: f(x, np.empty(x.shape[0], x.dtype))
    if not problem.gradient:
        return lambda: f(*args, np.empty((0,) * x.ndim, x.dtype))

    def value_and_grad() -> Any:
        gradient = np.empty_like(x)
        return f(*args, gradient), gradient

    return value_and_grad


PEERS: dict[str, Peer] = {
    "torch": torch_with(compiled=False),
    "torch.compile": torch_with(compiled=True),
    "jax": jax_jit,
    "tensorflow": tensorflow,
    "scikit-learn": sklearn,
    "scipy": scipy,
    "numba": numba,
}
