"""What a case should return, in long double, and what the errors of its results are relative to."""

from __future__ import annotations

from typing import Any

import numpy as np

from cases import REDUCTIONS, Array, Case, Inputs
from xentfast import reference

# Long double is no wider than float64 on some platforms; the reference then has errors of its own.
HAS_WIDER = np.finfo(np.longdouble).eps < 1e-18
ORACLE = np.longdouble if HAS_WIDER else np.float64
ALLOWANCE = 1 if HAS_WIDER else 2


def expect(case: Case, inputs: Inputs) -> dict[str, Any]:
    """Compute what `outputs` should be, in the widest dtype there is."""
    (first, *others), kwargs = inputs
    args = (first.astype(ORACLE), *others)
    if case.function == "is_distribution":
        kwargs = {"atol": np.sqrt(np.finfo(first.dtype).eps)}
    if not case.gradient:
        return {"result": getattr(reference, case.function)(*args, **kwargs)}
    both = getattr(reference, f"{case.function}_value_and_grad")
    each, gradient = both(*args, **kwargs, reduction="none")
    mean, of_mean = both(*args, **kwargs, reduction="mean")
    values = {"none": each, "sum": each.sum(), "mean": mean}
    gradients = {"none": gradient, "sum": gradient, "mean": of_mean}
    return {
        f"{name}, {r}": expected[r]
        for r in REDUCTIONS
        for expected, names in (
            (values, ("value", "value with gradient")),
            (gradients, ("gradient", "gradient with value")),
        )
        for name in names
    }


def scales_of(case: Case, inputs: Inputs, expected: dict[str, Any]) -> dict[str, Array]:
    """Return what errors are relative to: the expected number, unless that is a difference."""
    if not case.gradient:
        return {"result": scale_of_result(case, inputs, expected["result"])}
    gradients = {
        r: scale_of_gradient(case, inputs, r, expected[f"gradient, {r}"])
        if case.cancels
        else np.abs(expected[f"gradient, {r}"])
        for r in ("sum", "mean")
    }
    gradients["none"] = gradients["sum"]
    return {
        name: gradients[name.split(", ")[1]] if name.startswith("gradient") else np.abs(want)
        for name, want in expected.items()
    }


def scale_of_result(case: Case, inputs: Inputs, expected: Any) -> Array:
    """Return the size of what is added up to a result without gradient."""
    args = [a.astype(ORACLE) for a in inputs[0]]
    kwargs = inputs[1]
    if kwargs.get("normalize"):
        args = [a / a.sum(axis=1, keepdims=True) for a in args]
    nats = np.log(ORACLE(kwargs.get("base", np.e)))
    if case.function == "logsumexp":
        return np.maximum(np.abs(expected), np.abs(args[0]).max(axis=1))
    if case.function == "entropy" and kwargs.get("normalize"):
        return np.abs(expected) + 1 / nats  # a rounding of p before the logarithm
    if case.function == "kl_divergence":
        return size_of_divergence(*args) / nats
    if case.function == "js_divergence":
        p, q = args
        m = (p + q) / 2
        return (size_of_divergence(p, m) + size_of_divergence(q, m)) / 2 / nats
    return np.abs(np.asarray(expected))


def size_of_divergence(p: Array, q: Array) -> Array:
    """Return sum_j p_j (|log(p_j / q_j)| + 1): the terms' sizes, and of the rounding of p / q."""
    p, q = np.broadcast_arrays(p, q)
    ratio = np.divide(p, q, where=(p > 0) & (q > 0), out=np.ones_like(p))
    total: Array = (p * (np.abs(np.log(ratio)) + 1)).sum(axis=1)
    return total


def scale_of_gradient(case: Case, inputs: Inputs, reduction: str, expected: Array) -> Array:
    """Return the size of the terms of which each entry of a gradient is the difference.

    One of the two is a gradient in its own right: of the binary loss, that without the positive
    class; of (T + 2 z lse) p - t, that of probabilities of 1, which is -t.
    """
    (x, *others), kwargs = inputs
    kwargs = kwargs | {"reduction": reduction}
    if case.elementwise:
        kwargs |= {"pos_weight": 0}
        term = reference.binary_cross_entropy_grad(x.astype(ORACLE), *others, **kwargs)
    else:
        kwargs |= {"from_logits": False, "z_loss": 0}
        term = reference.cross_entropy_grad(np.ones(x.shape, ORACLE), *others, **kwargs)
    return np.abs(term) + np.abs(expected - term)
