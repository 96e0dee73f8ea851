"""Worst relative errors of xentfast and of every peer that is installed, on the same inputs.

    python benchmarks/accuracy.py [FILE]

writes benchmarks/results/accuracy.md, and beside it errors.json, the errors of cross-entropy by how
far the label is ahead, from which the site and the README's picture are drawn. The right numbers
are those of `xentfast.reference` in long double, of the very same input. d = x - max; an error of a
gradient is relative to the entry itself, and what is below the smallest normal number of the
result's dtype is left out.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

import glance
import xentfast
from speed_cases import Array, dtype_of
from xentfast import reference

RESULTS = pathlib.Path(__file__).with_name("results") / "accuracy.md"
# What a library returns: the values, and the gradient of their sum where it has one.
Results: TypeAlias = dict[str, Any]

if np.finfo(np.longdouble).eps > 1e-18:
    sys.exit("long double is no wider than float64 here: there is nothing to measure with")


@dataclass(frozen=True)
class Case:
    """One line of the table: a function on some arrays. Index labels, or binary ones as floats."""

    function: str
    name: str
    dtype: str
    make: Callable[[np.random.Generator], tuple[Array, ...]]

    @functools.cached_property
    def args(self) -> tuple[Array, ...]:
        dtype = dtype_of(self.dtype)
        made = self.make(np.random.default_rng(0))
        return tuple(a if a.dtype.kind == "i" else a.astype(dtype) for a in made)

    @property
    def options(self) -> dict[str, Any]:
        return {"normalize": True} if self.function.endswith("divergence") else {}

    def of(self, module: Any, args: tuple[Array, ...]) -> Results:
        """Return the results of xentfast or of its reference."""
        f = getattr(module, self.function)
        if self.function not in LOSSES:
            return {"value": f(*args, **self.options)}
        value, gradient = getattr(module, f"{self.function}_value_and_grad")(
            *args, reduction="none"
        )
        return {"value": value, "gradient": gradient}


LOSSES = ("cross_entropy", "binary_cross_entropy")


# --- inputs ---------------------------------------------------------------------------------------


def margins(low: float, high: float, ahead: bool = False) -> Callable[..., tuple[Array, ...]]:
    """Rows with -high < d < -low but for the maximum; the label is anywhere, or at the maximum."""

    def make(rng: np.random.Generator) -> tuple[Array, ...]:
        x = -rng.uniform(low, high, (20_000, 100))
        row, at = np.arange(len(x)), rng.integers(x.shape[1], size=len(x))
        x[row, at] = 0
        x += rng.uniform(-10, 10, (len(x), 1))
        return x, at if ahead else rng.integers(x.shape[1], size=len(x))

    return make


def ahead_by(margin: float) -> Callable[..., tuple[Array, ...]]:
    """Rows of ten classes in which the label is ahead of the next by just so much."""

    def make(rng: np.random.Generator) -> tuple[Array, ...]:
        x, y = rng.standard_normal((1_000, 10)), rng.integers(10, size=1_000)
        rows = np.arange(len(x))
        x[rows, y] = -np.inf
        x[rows, y] = x.max(axis=1) + margin
        return x, y

    return make


def equal_logits(rng: np.random.Generator) -> tuple[Array, ...]:
    return np.full((2, 70_000), 2.5), np.array([0, 69_999])


def binary(high: float) -> Callable[..., tuple[Array, ...]]:
    def make(rng: np.random.Generator) -> tuple[Array, ...]:
        x = rng.uniform(-high, high, 1_000_000)
        return x, rng.integers(0, 2, x.size).astype(float)

    return make


def close(apart: float) -> Callable[..., tuple[Array, ...]]:
    """Distributions whose entries differ by about so much, relatively."""

    def make(rng: np.random.Generator) -> tuple[Array, ...]:
        p = rng.standard_exponential((1_000, 1_000)) + 0.1
        q = p * (1 + apart * rng.standard_normal(p.shape))
        return tuple(a / a.sum(axis=1, keepdims=True) for a in (p, q))

    return make


def _cases() -> Iterator[Case]:
    far = {"float64": 700}
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        most = far.get(dtype, 86)
        for high in (4, 16, most):
            yield Case("cross_entropy", f"\\|d\\| < {high}", dtype, margins(0, high))
        for low, high in ((4, 16), (16, most)):
            name = f"confident, {low} < \\|d\\| < {high}"
            yield Case("cross_entropy", name, dtype, margins(low, high, ahead=True))
        if dtype != "float64":
            yield Case("cross_entropy", "70,000 equal logits", dtype, equal_logits)
    for high in (4, 16, 86):
        yield Case("binary_cross_entropy", f"\\|x\\| < {high}", "float32", binary(high))
    yield Case("softmax", "\\|d\\| < 86", "float32", lambda rng: margins(0, 86)(rng)[:1])
    yield Case("log_softmax", "\\|d\\| < 16", "float32", lambda rng: margins(0, 16)(rng)[:1])
    for dtype, apart in (("float32", 1e-4), ("float64", 1e-8)):
        for function in ("kl_divergence", "js_divergence"):
            yield Case(function, f"{apart:g} apart", dtype, close(apart))


# --- who is measured ------------------------------------------------------------------------------


def normalised(a: Any) -> Any:
    """Return the rows of any library's array, each over its sum."""
    return a / a.sum(1)[:, None]


def _numpy(case: Case) -> Results:
    """Compute as a person writes it, in the dtype of the input."""
    x, *others = case.args
    rows = np.arange(len(x))
    if case.function == "binary_cross_entropy":
        (t,) = others
        e = np.exp(-np.abs(x))
        gradient = np.where(x < 0, e, 1) / (1 + e) - t
        return {"value": np.maximum(x, 0) - x * t + np.log1p(e), "gradient": gradient}
    if case.function in ("kl_divergence", "js_divergence"):
        p, q = (normalised(a) for a in (x, *others))
        if case.function == "kl_divergence":
            return {"value": (p * np.log(p / q)).sum(axis=1)}
        m = (p + q) / 2
        return {"value": ((p * np.log(p / m)).sum(axis=1) + (q * np.log(q / m)).sum(axis=1)) / 2}
    d = x - x.max(axis=1, keepdims=True)
    e = np.exp(d)
    s = e.sum(axis=1, keepdims=True)
    if case.function == "softmax":
        return {"value": e / s}
    if case.function == "log_softmax":
        return {"value": d - np.log(s)}
    (y,) = others
    gradient = e / s
    gradient[rows, y] -= 1
    return {"value": np.log(s)[:, 0] - d[rows, y], "gradient": gradient}


def _torch(case: Case) -> Results:
    torch: Any = importlib.import_module("torch")
    library = torch.nn.functional

    def tensor(a: Array) -> Any:
        if a.dtype.name == "bfloat16":
            return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(a)

    def array(a: Any) -> Array:
        a = a.detach()
        result: Array = (a.float() if a.dtype == torch.bfloat16 else a).numpy()
        return result

    x, *others = (tensor(a) for a in case.args)
    if case.function not in LOSSES:
        f = {
            "softmax": lambda: torch.softmax(x, 1),
            "log_softmax": lambda: torch.log_softmax(x, 1),
            "kl_divergence": lambda: library.kl_div(
                normalised(others[0]).log(), normalised(x), reduction="none"
            ).sum(1),
        }
        return {"value": array(f[case.function]())}
    x.requires_grad_()
    index = case.function == "cross_entropy"
    f = library.cross_entropy if index else library.binary_cross_entropy_with_logits
    value = f(x, *others, reduction="none")
    value.sum().backward()
    return {"value": array(value), "gradient": array(x.grad)}


def _jax(case: Case) -> Results:
    jax: Any = importlib.import_module("jax")
    optax: Any = importlib.import_module("optax")
    jax.config.update("jax_enable_x64", True)
    special = jax.scipy.special
    args = [jax.numpy.asarray(a) for a in case.args]
    if case.function not in LOSSES:
        f = {
            "softmax": jax.nn.softmax,
            "log_softmax": jax.nn.log_softmax,
            "kl_divergence": lambda p, q: special.rel_entr(normalised(p), normalised(q)).sum(1),
        }
        return {"value": np.asarray(jax.jit(f[case.function])(*args))}
    f = {
        "cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
        "binary_cross_entropy": optax.sigmoid_binary_cross_entropy,
    }[case.function]
    gradient = jax.jit(jax.grad(lambda x, y: f(x, y).sum()))(*args)
    return {"value": np.asarray(jax.jit(f)(*args)), "gradient": np.asarray(gradient)}


def _tensorflow(case: Case) -> Results:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tf: Any = importlib.import_module("tensorflow")
    nn, xlogy = tf.nn, tf.math.xlogy
    x, *others = (tf.constant(a) for a in case.args)
    if case.function not in LOSSES:
        p, q = (a / tf.reduce_sum(a, 1, keepdims=True) for a in (x, *(others or [x])))
        f = {
            "softmax": lambda: nn.softmax(x),
            "log_softmax": lambda: nn.log_softmax(x),
            "kl_divergence": lambda: tf.reduce_sum(xlogy(p, p / q), 1),
        }
        return {"value": f[case.function]().numpy()}
    loss = {
        "cross_entropy": nn.sparse_softmax_cross_entropy_with_logits,
        "binary_cross_entropy": nn.sigmoid_cross_entropy_with_logits,
    }[case.function]
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels=others[0], logits=x)
    return {"value": value.numpy(), "gradient": tape.gradient(value, x).numpy()}


def _scipy(case: Case) -> Results:
    special: Any = importlib.import_module("scipy.special")
    stats: Any = importlib.import_module("scipy.stats")
    distance: Any = importlib.import_module("scipy.spatial.distance")
    x, *others = case.args
    f: dict[str, Callable[[], Array]] = {
        "cross_entropy": lambda: -special.log_softmax(x, axis=1)[np.arange(len(x)), others[0]],
        "binary_cross_entropy": lambda: (
            -others[0] * special.log_expit(x) - (1 - others[0]) * special.log_expit(-x)
        ),
        "softmax": lambda: special.softmax(x, axis=1),
        "log_softmax": lambda: special.log_softmax(x, axis=1),
        "kl_divergence": lambda: stats.entropy(x, *others, axis=1),
        "js_divergence": lambda: distance.jensenshannon(x, *others, axis=1) ** 2,
    }
    return {"value": f[case.function]()}


def _sklearn(case: Case) -> Results:
    losses: Any = importlib.import_module("sklearn._loss")
    x, *others = case.args
    loss = {
        "cross_entropy": lambda: losses.HalfMultinomialLoss(n_classes=x.shape[1]),
        "binary_cross_entropy": losses.HalfBinomialLoss,
    }[case.function]()
    value, gradient = loss.loss_gradient(others[0].astype(x.dtype), x)
    return {"value": value, "gradient": gradient}


CONTENDERS: dict[str, tuple[str, Callable[[Case], Results]]] = {
    "xentfast": ("xentfast", lambda case: case.of(xentfast, case.args)),
    "torch": ("torch", _torch),
    "jax": ("jax", _jax),
    "tensorflow": ("tensorflow-cpu", _tensorflow),
    "SciPy": ("scipy", _scipy),
    "scikit-learn": ("scikit-learn", _sklearn),
    "NumPy": ("numpy", _numpy),
}


# --- errors and their table -----------------------------------------------------------------------


def worst(got: Any, want: Array) -> float | None:
    """Return the largest relative error where the right number is a normal one, or None."""
    got = np.asarray(got)
    tiny = np.longdouble(2.0**-14 if got.dtype == np.float16 else np.finfo(np.float32).tiny)
    if got.dtype == np.float64:
        tiny = np.longdouble(np.finfo(np.float64).tiny)
    counts = np.abs(want) >= tiny
    if not counts.any():
        return None
    wide = got.astype(np.longdouble)[counts]
    return float((np.abs(wide - want[counts]) / np.abs(want[counts])).max())


def number(error: float | None) -> str:
    """Return an error with two digits, in percent where that is easier to read."""
    if error is None:
        return ""
    if error < 1e-3:
        return f"{error:.1e}"
    if error < 1e-2:
        return f"{100 * error:.2f} %"
    return f"**{100 * error:.3g} %**" if error < 100 else f"**{error:.3g}**"


def measured(case: Case) -> dict[str, dict[str, float | None]]:
    """Return the errors by what is returned and by contender, but who has no such function."""
    wide = tuple(a if a.dtype.kind == "i" else a.astype(np.longdouble) for a in case.args)
    want = case.of(reference, wide)
    errors: dict[str, dict[str, float | None]] = {what: {} for what in want}
    for name, (_, run) in CONTENDERS.items():
        try:
            got = run(case)
        except (ImportError, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError):
            continue  # not installed, or not for this function or dtype
        for what, result in got.items():
            errors[what][name] = worst(result, want[what])
    return errors


def versions() -> dict[str, str]:
    found = {}
    for name, (package, _) in CONTENDERS.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table() -> str:
    names = list(versions())
    head = ["function", "input", "", *names]
    lines = [head, ["---"] * 3 + ["---:"] * len(names)]
    last = ""
    for case in _cases():
        title = f"`{case.function}`, {case.dtype}"
        for what, errors in measured(case).items():
            first = what == "value"
            cells = (number(errors[name]) if name in errors else "" for name in names)
            lines.append([title if title != last else "", case.name if first else "", what, *cells])
            last = title
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def by_margin() -> dict[str, Any]:
    """Return the errors of cross-entropy by dtype, by what is returned and by contender."""
    margins = (0, 2, 5, 10, 15, 20, 30, 50, 80)
    errors: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for dtype in ("float32", "float64"):
        for margin in margins:
            case = Case("cross_entropy", str(margin), dtype, ahead_by(margin))
            for what, found in measured(case).items():
                for name, error in found.items():
                    by_name = errors.setdefault(dtype, {}).setdefault(what, {})
                    by_name.setdefault(name, []).append(error)
    return {"versions": versions(), "margins": margins, "errors": errors}


def markdown() -> str:
    listed = ", ".join(f"{name} {version}" for name, version in versions().items())
    return (
        f"{listed}; xentfast with {xentfast.show_config()['isa']}.\n\n"
        "Worst relative error against long double on the same input, d = x - max; of a gradient "
        "relative to each entry; in bold where it is 1 % or more, and 100 % where a number that "
        "is not 0 came out as 0. Results below the smallest normal number are left out. Empty "
        "where a library has no such function, or nothing is left. A float16 result is itself "
        "rounded by up to 4.9e-4, a bfloat16 one by 0.39 %; losses of xentfast are float32 "
        "then.\n\n" + table() + "\n"
    )


def main() -> None:
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # peers warn of their own affairs
        text, errors = markdown(), json.dumps(by_margin(), indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.with_name("errors.json").write_text(errors + "\n", encoding="utf-8")
    glance.draw()


if __name__ == "__main__":
    main()
