"""Time each drop-in and the library it stands in for, through that library's own calls.

`python benchmarks/dropins.py [--threads N]` prints a table. Both take turns, on the same arrays,
after their results have been compared.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from race import ROUNDS, Entrant, as_arrays, in_turn, largest_difference, pin
from speed_cases import Array

Call = Callable[[], Any]

ROWS, CLASSES = 16_384, 1_008
# Keras and scikit-learn sum float32 in float32.
AGREEMENT = 2e-4


@functools.cache
def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, CLASSES), np.float32) * np.float32(2)
    p = np.exp(x)
    p /= p.sum(axis=1, keepdims=True)
    q = rng.random(ROWS * 64, np.float32)
    y = rng.integers(CLASSES, size=ROWS)
    one_hot = np.zeros_like(x)
    one_hot[np.arange(ROWS), y] = 1
    binary = rng.integers(0, 2, len(q))
    z = np.log(q / (1 - q) + np.float32(1e-6))
    return {"x": x, "p": p, "y": y, "one_hot": one_hot, "q": q, "z": z, "binary": binary}


def of(name: str, function: str, *args: str, **options: Any) -> Callable[[Any], Call]:
    """Return what makes the call of a module's function, or of a method of a loss made there."""

    def make(module: Any) -> Call:
        f = module
        for part in function.split("."):
            f = getattr(f() if isinstance(f, type) else f, part)
        if isinstance(f, type):
            f = f(**options)
            return functools.partial(f, *(arrays()[a] for a in args))
        return functools.partial(f, *(arrays()[a] for a in args), **options)

    make.__name__ = name
    return make


def half(method: str, loss: str = "HalfMultinomialLoss") -> Callable[[Any], Call]:
    def make(module: Any) -> Call:
        many = loss == "HalfMultinomialLoss"
        x, y = arrays()["x" if many else "z"], arrays()["y" if many else "binary"]
        f = getattr(module, loss)(**({"n_classes": CLASSES} if many else {}))
        n_threads = len(os.sched_getaffinity(0))
        return functools.partial(getattr(f, method), y.astype(x.dtype), x, n_threads=n_threads)

    make.__name__ = f"{loss}.{method}"
    return make


KERAS, SPECIAL, METRICS, LOSS = "keras.losses", "scipy.special", "sklearn.metrics", "sklearn._loss"
CASES = [
    (KERAS, of("binary", "BinaryCrossentropy", "binary", "q")),
    (KERAS, of("binary, logits", "BinaryCrossentropy", "binary", "z", from_logits=True)),
    (KERAS, of("categorical", "CategoricalCrossentropy", "one_hot", "p")),
    (
        KERAS,
        of("categorical, logits", "CategoricalCrossentropy", "one_hot", "x", from_logits=True),
    ),
    (KERAS, of("sparse", "SparseCategoricalCrossentropy", "y", "p")),
    (KERAS, of("sparse, logits", "SparseCategoricalCrossentropy", "y", "x", from_logits=True)),
    (KERAS, of("KL", "KLDivergence", "one_hot", "p")),
    ("scipy.stats", of("entropy", "entropy", "p", axis=1)),
    (SPECIAL, of("logsumexp", "logsumexp", "x", axis=1)),
    (SPECIAL, of("softmax", "softmax", "x", axis=1)),
    (SPECIAL, of("log_softmax", "log_softmax", "x", axis=1)),
    (SPECIAL, of("entr", "entr", "p")),
    (SPECIAL, of("kl_div", "kl_div", "one_hot", "p")),
    (SPECIAL, of("rel_entr", "rel_entr", "one_hot", "p")),
    ("scipy.spatial.distance", of("jensenshannon", "jensenshannon", "p", "one_hot", axis=1)),
    (METRICS, of("log_loss", "log_loss", "y", "p", labels=range(CLASSES))),
    (METRICS, of("log_loss, binary", "log_loss", "binary", "q")),
    (LOSS, half("loss")),
    (LOSS, half("loss_gradient")),
    (LOSS, half("gradient_hessian")),
    (LOSS, half("gradient_proba")),
    (LOSS, half("loss_gradient", "HalfBinomialLoss")),
    (LOSS, half("gradient_hessian", "HalfBinomialLoss")),
]


def race(library: str, make: Callable[[Any], Call], rounds: int = ROUNDS) -> dict[str, Entrant]:
    """Time both in turn, after comparing what they return."""
    ours = importlib.import_module(f"xentfast.dropin.{library.split('.')[0]}")
    modules = {"ours": ours, "theirs": importlib.import_module(library)}
    entrants = {who: Entrant(make(module)) for who, module in modules.items()}
    found, expected = (as_arrays(entrant.call()) for entrant in entrants.values())
    for pair in zip(found, expected, strict=True):
        difference = largest_difference(*pair)
        if not difference <= AGREEMENT:
            raise ValueError(f"{library} {make.__name__} differs by {difference:.2g}")
    in_turn(list(entrants.values()), rounds)
    return entrants


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=1, help="for everyone (default: 1)")
    pin(parser, parser.parse_args().threads)
    warnings.simplefilter("ignore")
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    print("| library | call | ours, ms | theirs, ms | theirs / ours |")
    print("| --- | --- | ---: | ---: | ---: |")
    for library, make in CASES:
        name = f"| {library} | {make.__name__} |"
        try:
            times = {who: entrant.median for who, entrant in race(library, make).items()}
        except ImportError as problem:
            print(f"{name} {problem} | | |")
            continue
        ours, theirs = 1e3 * times["ours"], 1e3 * times["theirs"]
        print(f"{name} {ours:.3g} | {theirs:.3g} | {theirs / ours:.3g} |", flush=True)


if __name__ == "__main__":
    main()
