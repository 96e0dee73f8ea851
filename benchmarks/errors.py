"""Measure how wrong loss and gradient are, by how sure the right class is, for installed peers.

`python benchmarks/errors.py` writes results/errors.json, from which the site and the README's
picture are drawn.
Each entry is the worst relative error of 1,000 rows of 10 classes, against long double. A result of
0 has an error of 1: no digit is right.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import glance
import xentfast
from xentfast import reference

Array: TypeAlias = npt.NDArray[Any]
Losses: TypeAlias = tuple[Array, Array | None]  # of each row, and their gradient

MARGINS = (0, 2, 5, 10, 15, 20, 30, 50, 80)
ROWS, CLASSES = 1000, 10


def ours(x: Array, y: Array) -> Losses:
    return xentfast.cross_entropy_value_and_grad(x, y, reduction="none")


def usual_numpy(x: Array, y: Array) -> Losses:
    rows = np.arange(len(y))
    d = x - x.max(axis=1, keepdims=True)
    e = np.exp(d)
    s = e.sum(axis=1, keepdims=True)
    gradient = e / s
    gradient[rows, y] -= 1
    return np.log(s[:, 0]) - d[rows, y], gradient


def torch(x: Array, y: Array) -> Losses:
    import torch

    logits = torch.from_numpy(x).requires_grad_()
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none")
    losses.sum().backward()
    return losses.detach().numpy(), logits.grad.numpy()


def optax(x: Array, y: Array) -> Losses:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    f = optax.softmax_cross_entropy_with_integer_labels
    return np.asarray(f(x, y)), np.asarray(jax.grad(lambda x: f(x, y).sum())(jax.numpy.array(x)))


def tensorflow(x: Array, y: Array) -> Losses:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    logits = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
    return losses.numpy(), tape.gradient(losses, logits).numpy()


def sklearn(x: Array, y: Array) -> Losses:
    from sklearn._loss import HalfMultinomialLoss

    loss = HalfMultinomialLoss(n_classes=x.shape[1])
    return loss.loss_gradient(y_true=y.astype(x.dtype), raw_prediction=x)


def scipy(x: Array, y: Array) -> Losses:
    from scipy.special import log_softmax

    return -log_softmax(x, axis=1)[np.arange(len(y)), y], None


PEERS: dict[str, tuple[str, Callable[[Array, Array], Losses]]] = {  # package and function
    "xentfast": ("xentfast", ours),
    "NumPy": ("numpy", usual_numpy),
    "torch": ("torch", torch),
    "optax": ("optax", optax),
    "tensorflow": ("tensorflow-cpu", tensorflow),
    "scikit-learn": ("scikit-learn", sklearn),
    "scipy": ("scipy", scipy),
}


def rows_ahead(margin: float, dtype: str) -> tuple[Array, Array]:
    """Return random rows in which the score of the label is the largest by just this much."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, CLASSES))
    y = rng.integers(0, CLASSES, ROWS)
    x[np.arange(ROWS), y] = -np.inf
    x[np.arange(ROWS), y] = x.max(axis=1) + margin
    return x.astype(dtype), y


def worst(found: Array | None, exact: Array) -> float | None:
    """Return the largest relative error, of the entries that a float of the dtype can hold."""
    if found is None:
        return None
    held = np.abs(exact) > np.finfo(found.dtype).tiny
    return float(np.max(np.abs(found[held] / exact[held] - 1)))


def main() -> None:
    errors: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    versions = {}
    for name, (package, _) in PEERS.items():
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(package)
    for dtype in ("float32", "float64"):
        for what in ("loss", "gradient"):
            errors.setdefault(dtype, {})[what] = {name: [] for name in versions}
        for margin in MARGINS:
            x, y = rows_ahead(margin, dtype)
            exact = reference.cross_entropy_value_and_grad(
                x.astype(np.longdouble), y, reduction="none"
            )
            for name in versions:
                results = zip(("loss", "gradient"), PEERS[name][1](x, y), exact, strict=True)
                for what, found, true in results:
                    errors[dtype][what][name].append(worst(found, true))
    text = json.dumps({"versions": versions, "margins": MARGINS, "errors": errors}, indent=1)
    (glance.RESULTS / "errors.json").write_text(text + "\n", encoding="utf-8")
    glance.draw()


if __name__ == "__main__":
    main()
