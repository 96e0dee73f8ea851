"""The table of what is timed: functions, shapes and dtypes, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import xentfast

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class SpeedCase:
    """One public function on one array. A group is timed with the same contenders."""

    name: str
    function: str
    shape: tuple[int, ...]
    why: str
    dtype: str = "float32"
    axis: int = -1
    dense: bool = False
    from_logits: bool = True
    gradient: bool = True  # where there is one
    group: str = "table"
    made_by: Any = None  # the case of the tests that makes the arguments, else they are made here

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def modes(self) -> tuple[str, ...]:
        both = self.gradient and hasattr(xentfast, f"{self.function}_value_and_grad")
        return ("value", "value_and_grad") if both else ("value",)

    def writes(self, mode: str) -> bool:
        """Whether an array of the shape of the logits is written."""
        return mode == "value_and_grad" or self.function in ("softmax", "log_softmax")

    def scaled(self, scale: float) -> SpeedCase:
        """Return the case with a part of its rows."""
        shape = list(self.shape)
        first = 1 if self.axis == 0 else 0
        shape[first] = max(1, round(shape[first] * scale))
        return replace(self, shape=tuple(shape))

    def inputs(self) -> tuple[tuple[Array, ...], dict[str, Any]]:
        """Make the arguments: logits as of a network in training, distributions without zeros."""
        if self.made_by:
            inputs: tuple[tuple[Array, ...], dict[str, Any]]
            inputs = self.made_by.inputs(self.dtype, self.shape)
            return inputs
        rng = np.random.default_rng(0)
        dtype = dtype_of(self.dtype)
        options = {} if self.function == "binary_cross_entropy" else {"axis": self.axis}
        if self.function in ("entropy", "kl_divergence"):
            count = 1 + (self.function == "kl_divergence")
            made = (_distributions(rng, self.shape, self.axis) for _ in range(count))
            return tuple(p.astype(dtype) for p in made), options
        if self.from_logits:
            x = rng.standard_normal(self.shape, np.float64 if dtype.itemsize == 8 else np.float32)
            x *= 4
        else:
            x, options = _distributions(rng, self.shape), {"from_logits": False}
        x = x.astype(dtype, copy=False)
        if self.function != "cross_entropy":
            # Frameworks want binary labels in the dtype of the logits.
            binary = self.function == "binary_cross_entropy"
            return (x, *([rng.integers(0, 2, self.shape).astype(dtype)] if binary else [])), options
        if self.dense:
            return (x, _distributions(rng, self.shape).astype(dtype)), options
        classes = self.shape[self.axis]
        lead = self.shape[:-1] if self.axis == -1 else np.delete(self.shape, self.axis)
        return (x, rng.integers(classes, size=lead)), options


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype; bfloat16 is that of ml_dtypes, which frameworks know too."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _distributions(rng: np.random.Generator, shape: tuple[int, ...], axis: int = -1) -> Array:
    p = rng.standard_exponential(shape, np.float32) + np.float32(1e-3)
    p /= p.sum(axis=axis, keepdims=True, dtype=np.float64)
    return p


MIDDLING, LONG = (16_384, 1_008), (2_048, 32_768)
ACROSS = "many classes, far apart in memory"

TABLE = (
    SpeedCase("1,000,000 x 10", "cross_entropy", (1_000_000, 10), "the digits: short rows"),
    SpeedCase("131,072 x 112", "cross_entropy", (131_072, 112), "a hundred classes"),
    SpeedCase("16,384 x 1,008", "cross_entropy", MIDDLING, "a classifier of images"),
    SpeedCase("2,048 x 32,768", "cross_entropy", LONG, "a small vocabulary: a row fills L2"),
    SpeedCase("512 x 128,256", "cross_entropy", (512, 128_256), "the vocabulary of a large model"),
    SpeedCase("256 x 1,008", "cross_entropy", (256, 1_008), "a batch: inside the caches"),
    SpeedCase("8 x 32,768", "cross_entropy", (8, 32_768), "inside the caches, in long rows"),
    SpeedCase("2 x 128,256", "cross_entropy", (2, 128_256), "inside the caches, in longer ones"),
    SpeedCase("32 x 10", "cross_entropy", (32, 10), "what a call costs"),
    SpeedCase(
        "8 x 150 x 512 x 512, axis 1",
        "cross_entropy",
        (8, 150, 512, 512),
        "segmentation of images: the classes far apart in memory",
        axis=1,
    ),
    SpeedCase("3,072 x 1,024, axis 0", "cross_entropy", (3_072, 1_024), ACROSS, axis=0),
    SpeedCase("50,257 x 256, axis 0", "cross_entropy", (50_257, 256), ACROSS, axis=0),
    SpeedCase("softmax, 3,072 x 1,024, axis 0", "softmax", (3_072, 1_024), ACROSS, axis=0),
    SpeedCase("entropy, 50,257 x 256, axis 0", "entropy", (50_257, 256), ACROSS, axis=0),
    SpeedCase("dense labels, 16,384 x 1,008", "cross_entropy", MIDDLING, "two arrays", dense=True),
    SpeedCase("float64, 16,384 x 1,008", "cross_entropy", MIDDLING, "NumPy's own", "float64"),
    SpeedCase("float16, 16,384 x 1,008", "cross_entropy", MIDDLING, "half the bytes", "float16"),
    SpeedCase("float16, 2,048 x 32,768", "cross_entropy", LONG, "the same in long rows", "float16"),
    SpeedCase("bfloat16, 16,384 x 1,008", "cross_entropy", MIDDLING, "half the bytes", "bfloat16"),
    SpeedCase("bfloat16, 2,048 x 32,768", "cross_entropy", LONG, "in long rows", "bfloat16"),
    SpeedCase(
        "from probabilities, 16,384 x 1,008",
        "cross_entropy",
        MIDDLING,
        "the input of metrics: one entry of a row is looked at",
        from_logits=False,
    ),
    SpeedCase("binary, 10,000,000", "binary_cross_entropy", (10_000_000,), "no rows at all"),
    SpeedCase("entropy, 2,048 x 32,768", "entropy", LONG, "a logarithm for each entry"),
    SpeedCase(
        "KL, 2,048 x 32,768",
        "kl_divergence",
        LONG,
        "a logarithm and two arrays; the gradient is one of logits",
        gradient=False,
    ),
    SpeedCase("softmax, 16,384 x 1,008", "softmax", MIDDLING, "reads and writes"),
    SpeedCase("log_softmax, 16,384 x 1,008", "log_softmax", MIDDLING, "reads and writes"),
)

# Every switch of the kernels from short to long rows lies between two of these.
CLASSES = tuple(
    SpeedCase(
        f"{classes:,} classes",
        "cross_entropy",
        (2**23 // classes, classes),
        "the same number of elements, 32 MiB: more than the caches of a core",
        group="classes",
    )
    for classes in (2, 4, 8, 10, 16, 32, 64, 112, 256, 1024, 4096, 16384, 65536, 262144)
)

SIZES = tuple(
    SpeedCase(
        f"{1008 * rows:,} elements",
        "cross_entropy",
        (rows, 1_008),
        "from what a call costs to what memory gives",
        group="sizes",
    )
    for rows in (1, 4, 10, 32, 99, 313, 992, 3137, 9921, 31373, 99206)
)

ISAS = tuple(
    replace(case, group="isas")
    for case in TABLE
    if case.name.endswith((" x 10", "x 112", "x 1,008", "x 32,768", "binary, 10,000,000"))
    and not case.dense
    and case.from_logits
    and case.elements > 2**16  # choosing a set takes as long as a small call
)

GROUPS = {"table": TABLE, "classes": CLASSES, "sizes": SIZES, "isas": ISAS}
