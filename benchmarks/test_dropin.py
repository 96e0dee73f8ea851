"""Each drop-in against the library it stands in for, through that library's own calls.

Both are timed in turn, as in test_speed.py, on the same arrays and in one thread unless --threads.
"""

from __future__ import annotations

import functools
import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from race import ROUNDS, SAMPLE, as_arrays, largest_difference
from speed_cases import Array
from test_speed import CLOCK

pytestmark = pytest.mark.filterwarnings("ignore")

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


@functools.lru_cache(maxsize=1)
def times_of(library: str, make: Callable[[Any], Call], rounds: int) -> dict[str, list[float]]:
    """Time both in turn, in seconds for a call, after comparing what they return."""
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    theirs = pytest.importorskip(library)
    ours = importlib.import_module(f"xentfast.dropin.{library.split('.')[0]}")
    calls = {"ours": make(ours), "theirs": make(theirs)}
    found, expected = (as_arrays(call()) for call in calls.values())
    for pair in zip(found, expected, strict=True):
        difference = largest_difference(*pair)
        assert difference <= AGREEMENT, f"{make.__name__} differs by {difference:.2g}"
    del found, expected
    seconds: dict[str, list[float]] = {who: [] for who in calls}
    for turn in range(rounds):
        for who in list(calls)[:: 1 if turn % 2 else -1]:
            spent, loops = 0.0, 0
            while spent < SAMPLE:
                start = time.perf_counter()
                calls[who]()
                spent, loops = spent + time.perf_counter() - start, loops + 1
            seconds[who].append(spent / loops)
    return seconds


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(
    ("library", "make", "who"),
    [
        pytest.param(*case, who, id=f"{case[0]}-{case[1].__name__}-{who}".replace(" ", "_"))
        for case in CASES
        for who in ("ours", "theirs")
    ],
)
def test_dropin(
    library: str, make: Callable[[Any], Call], who: str, benchmark: Any, threads: int
) -> None:
    rounds = ROUNDS if benchmark.enabled else 1
    seconds = times_of(library, make, rounds)[who]
    benchmark.group = f"{library} {make.__name__}, {threads} threads"
    benchmark.extra_info = {"library": library, "call": make.__name__, "contender": who}
    times = iter(seconds)
    benchmark.pedantic(CLOCK.advance, setup=lambda: ((next(times),), {}), rounds=rounds)
