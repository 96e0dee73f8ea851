"""A quick comparison with NumPy on this machine: the cases, the baselines and the timing.

Two baselines, because either alone would mislead. `BASELINES` is what a person writes in NumPy for
just the case at hand, in the dtype of the input. `xentfast.reference` takes every option and works
in float64, so it is slower than anyone's own code; it is what the results are held against. On
demand the peers of `_peers` run in the same rounds.
"""

import importlib.metadata
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import xentfast
from xentfast import _peers, reference

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One line of the benchmark: a public function, the length of its rows and its dtype."""

    function: str
    classes: int
    dtype: str = "float32"

    @property
    def label(self) -> str:
        """The name of the function, short enough for a table."""
        return self.function.replace("_value_and_grad", " + grad")


@dataclass(frozen=True)
class Size:
    """How much work a benchmark is: entries in the first argument, and calls of each function."""

    elements: int
    repeats: int


@dataclass(frozen=True)
class Timing:
    """Median seconds of a call to each contender, and the bytes that xentfast reads.

    A peer that has no seconds has the reason in `left_out`.
    """

    case: Case
    shape: tuple[int, ...]
    bytes_read: int
    seconds: dict[str, float]
    left_out: dict[str, str]

    def ratio(self, name: str) -> float:
        """Return how many times as long as xentfast a contender takes."""
        return self.seconds[name] / self.seconds[OURS]


OURS, NUMPY, REFERENCE = "xentfast", "NumPy", "reference"
# Peers that are timed on demand, by the names of their packages.
PEERS = ("torch", "jax", "scipy", "scikit-learn", "numba")

# Few classes go through the panels of rows, many through whole rows; 32,768 is a small vocabulary.
CASES = (
    *(
        Case(function, classes)
        for classes in (10, 112, 1000, 32768)
        for function in ("cross_entropy", "cross_entropy_value_and_grad")
    ),
    Case("cross_entropy_value_and_grad", 1000, "float64"),
    Case("binary_cross_entropy", 1),
    Case("entropy", 1000),
    Case("softmax", 1000),
)

# 8 MiB of float32 are more than a core keeps to itself; the 2 MiB of a quick run may not be.
FULL = Size(elements=2**21, repeats=5)
QUICK = Size(elements=2**19, repeats=3)

# Largest difference from the reference, relative to the largest entry, that is still agreement.
AGREEMENT = {"float32": 1e-5, "float64": 1e-12}
PEERS_AGREEMENT = {"float32": 1e-4, "float64": 1e-10}  # some sum up in the dtype

# Long enough for the idle threads of the one before to leave the CPUs.
PAUSE = 0.01


class DisagreementError(Exception):
    """A result differs from the reference by more than rounding, so its time means nothing."""


def numpy_softmax(x: Array) -> Array:
    """Return the softmax of each row."""
    terms: Array = np.exp(x - x.max(axis=1, keepdims=True))
    terms /= terms.sum(axis=1, keepdims=True)
    return terms


def numpy_entropy(p: Array) -> Array:
    """Return the entropy of each row, where no entry is 0."""
    entropy: Array = -(p * np.log(p)).sum(axis=1)
    return entropy


def numpy_cross_entropy(logits: Array, labels: Array) -> Any:
    """Return the mean cross-entropy of class indices."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return np.mean(log_sums - shifted[np.arange(len(labels)), labels])


def numpy_cross_entropy_value_and_grad(logits: Array, labels: Array) -> tuple[Any, Array]:
    """Return the mean cross-entropy of class indices and its gradient."""
    rows = np.arange(len(labels))
    grad = logits - logits.max(axis=1, keepdims=True)
    at_labels = grad[rows, labels]
    np.exp(grad, out=grad)
    sums = grad.sum(axis=1)
    grad /= sums[:, None]
    grad[rows, labels] -= 1
    grad /= len(labels)
    return np.mean(np.log(sums) - at_labels), grad


def numpy_binary_cross_entropy(logits: Array, labels: Array) -> Any:
    """Return the mean binary cross-entropy."""
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    return np.mean(softplus - logits * labels)


BASELINES: dict[str, Callable[..., Any]] = {
    "cross_entropy": numpy_cross_entropy,
    "cross_entropy_value_and_grad": numpy_cross_entropy_value_and_grad,
    "binary_cross_entropy": numpy_binary_cross_entropy,
    "entropy": numpy_entropy,
    "softmax": numpy_softmax,
}


def make_inputs(case: Case, elements: int) -> tuple[Array, ...]:
    """Return the arguments of the case's function, with about `elements` entries in the first."""
    rng = np.random.default_rng(0)
    if case.function == "binary_cross_entropy":
        labels = rng.integers(0, 2, elements).astype(case.dtype)
        return (4 * rng.standard_normal(elements)).astype(case.dtype), labels
    rows = max(1, elements // case.classes)
    logits = (4 * rng.standard_normal((rows, case.classes))).astype(case.dtype)
    if case.function.startswith("cross_entropy"):
        return logits, rng.integers(0, case.classes, rows)
    return (numpy_softmax(logits) if case.function == "entropy" else logits,)


def widen(array: Array) -> Array:
    """Return floating input in the reference's own dtype, so that no conversion is timed."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def largest_difference(result: Any, expected: Any) -> float:
    """Return the largest difference between two results, relative to the largest entry expected."""
    if isinstance(expected, tuple):
        return max(map(largest_difference, result, expected))
    result = np.asarray(result.detach() if hasattr(result, "detach") else result)
    if result.shape != np.shape(expected):
        return float("inf")
    scale = float(np.max(np.abs(expected)))
    return float(np.max(np.abs(result - expected))) / scale


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long one call takes, with the release of its result left out."""
    start = time.perf_counter()
    result = call()
    stop = time.perf_counter()
    del result
    return stop - start


def installed_peers() -> dict[str, str]:
    """Return the peers that are installed, with their versions."""
    versions = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def run_case(case: Case, size: Size, peers: Sequence[str] = ()) -> Timing:
    """Time one case, a call of each contender in turn, and return the medians.

    Raises
    ------
    DisagreementError
        If a result differs from the reference's by more than rounding.
    """
    inputs = make_inputs(case, size.elements)
    wide_inputs = tuple(map(widen, inputs))
    calls: dict[str, Callable[[], Any]] = {
        OURS: partial(getattr(xentfast, case.function), *inputs),
        NUMPY: partial(BASELINES[case.function], *inputs),
        REFERENCE: partial(getattr(reference, case.function), *wide_inputs),
    }
    # The first call of each warms it up, too.
    expected = calls[REFERENCE]()
    for name, who in ((OURS, OURS), (NUMPY, "the NumPy baseline")):
        difference = largest_difference(calls[name](), expected)
        if not difference <= AGREEMENT[case.dtype]:
            raise DisagreementError(
                f"{case.function} of {who} must agree with the reference to "
                f"{AGREEMENT[case.dtype]:g} in {case.dtype}, got a difference of {difference:.2g}"
            )
    left_out = {}
    for name in peers:
        try:
            calls[name] = prepare_peer(name, case, inputs, expected)
        except _peers.NotOffered as reason:
            left_out[name] = str(reason)
    del expected

    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(size.repeats):
        for name, call in calls.items():
            if peers:
                time.sleep(PAUSE)
                call()  # wakes its threads, and fills the caches again
            times[name].append(seconds_of(call))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return Timing(case, inputs[0].shape, sum(a.nbytes for a in inputs), medians, left_out)


def prepare_peer(
    name: str, case: Case, inputs: tuple[Array, ...], expected: Any
) -> Callable[[], Any]:
    """Return a peer's call, which has been made once and agrees with the reference."""
    function = case.function.removesuffix("_value_and_grad")
    if function == "binary_cross_entropy":  # frameworks want its labels in the dtype of the logits
        inputs = (inputs[0], inputs[1].astype(inputs[0].dtype))
    problem = _peers.Problem(
        function, inputs, function != case.function, threads=xentfast.get_num_threads()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn of their own affairs
        try:
            call = _peers.PEERS[name](problem)
            difference = largest_difference(call(), expected)
        except _peers.NotOffered:
            raise
        except Exception as error:
            raise _peers.NotOffered(f"failed: {error}") from error
    if not difference <= PEERS_AGREEMENT[case.dtype]:
        raise _peers.NotOffered(f"differs from the reference by {difference:.2g}")
    return call


def run(size: Size, begin: Callable[[Case], None], peers: Sequence[str] = ()) -> Iterator[Timing]:
    """Run every case, each announced by a call of `begin`."""
    for case in CASES:
        begin(case)
        yield run_case(case, size, peers)
