"""Every digit at every margin: plain losses and gradients from index labels, against long double.

The margin of a row is how far its largest logit is above the next. What is promised holds for sets
with fused multiply-add and |logits| < 2**17; a subnormal result has one rounding more.
"""

from __future__ import annotations

import numpy as np
import pytest

import xentfast
from cases import DTYPES, FUSED_ISAS, Array
from oracle import ALLOWANCE, ORACLE

# In units of half the last place of 1.
PROMISED = {"float32": 6 * 2.0**-24, "float64": 10 * 2.0**-53}
WITHOUT_FMA = {"float32": 6e-6, "float64": 1e-14}
# From 0 to where exp is 0 as float32, finer where float32 becomes subnormal.
MARGINS = [0, 0.01, 0.5, *range(1, 104, 5), *np.arange(84, 104, 1.25).tolist()]
CLASSES = [2, 3, 10, 17, 112, 129, 513, 1_008, 4_097, 10_000]


def rows_with_margins(dtype: str, classes: int, base: float) -> tuple[Array, Array]:
    rng = np.random.default_rng(classes)
    x = rng.standard_normal((len(MARGINS), classes)) + base
    first = rng.integers(classes, size=len(x))
    rows = np.arange(len(x))
    x[rows, first] = -np.inf
    x[rows, first] = x.max(1) + MARGINS
    labels = np.where(rows % 2, first, rng.integers(classes, size=len(x)))
    return x.astype(dtype), labels


def exactly(x: Array, labels: Array) -> dict[str, Array]:
    """Work out everything with nothing cancelled: the largest logit's own term is held out."""
    wide, rows = x.astype(ORACLE), np.arange(len(x))
    e = np.exp(wide - wide.max(1, keepdims=True))
    ties = e == 1
    rest = np.where(ties, 0, e).sum(1) + (ties.sum(1) - 1)
    p = e / (1 + rest)[:, np.newaxis]
    gradient = p.copy()
    gradient[rows, labels] = -np.where(np.arange(x.shape[1]) == labels[:, np.newaxis], 0, p).sum(1)
    loss = np.log1p(rest) + (wide.max(1) - wide[rows, labels])
    return {"loss": loss, "gradient": gradient, "softmax": p}


def assert_digits(found: Array, expected: Array, bound: float, what: str) -> None:
    unit = np.finfo(found.dtype).smallest_subnormal
    error = np.abs(found.astype(ORACLE) - expected)
    allowed = ALLOWANCE * bound * np.abs(expected) + 0.51 * ORACLE(unit)
    worst = (error / allowed).argmax()
    place = np.unravel_index(worst, error.shape)
    assert error[place] <= allowed[place], f"{what}, {place}: {found[place]}, {expected[place]}"


@pytest.mark.parametrize("across", [False, True], ids=["along", "across"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_margin(isa: str, dtype: str, across: bool) -> None:
    bound = (PROMISED if isa in FUSED_ISAS else WITHOUT_FMA)[dtype]
    for classes in CLASSES:
        for base in (0, -311.7, 90_000):
            x, labels = rows_with_margins(dtype, classes, base)
            array = np.asfortranarray(x) if across else x
            loss, gradient = xentfast.cross_entropy_value_and_grad(array, labels, reduction="none")
            alone = xentfast.cross_entropy(array, labels, reduction="none")
            np.testing.assert_array_equal(alone, loss)
            found = {"loss": loss, "gradient": gradient, "softmax": xentfast.softmax(array)}
            for name, wanted in exactly(x, labels).items():
                assert_digits(found[name], wanted, bound, f"{name} of {classes} from {base}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, 100, 1_000, 5_000, 20_000])
def test_a_masked_class_changes_no_bit_of_the_others(isa: str, dtype: str, classes: int) -> None:
    """What is out of reach is computed in another form, which is the same for what is not."""
    x, labels = rows_with_margins(dtype, classes, 1.25)
    masked = np.hstack([x, np.full((len(x), 1), -np.inf, dtype)])
    found = xentfast.cross_entropy_value_and_grad(masked, labels, reduction="none")
    expected = xentfast.cross_entropy_value_and_grad(x, labels, reduction="none")
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1][:, :-1], expected[1])
    np.testing.assert_array_equal(found[1][:, -1], 0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_terms_far_below_the_label(isa: str, dtype: str) -> None:
    """A thousand terms that float32 can hardly hold add up to what it can."""
    x = np.array([[0, -80] + [-90] * 1_000], dtype)
    expected = np.exp(ORACLE(-80)) + 1_000 * np.exp(ORACLE(-90))
    loss, gradient = xentfast.cross_entropy_value_and_grad(x, [0], reduction="none")
    assert loss[0] == pytest.approx(float(expected), rel=4e-7 if dtype != "float64" else 2e-15)
    if dtype != "float16":
        assert_digits(gradient[0, 2:], np.full(1_000, np.exp(ORACLE(-90))), 4e-7, "gradient")
        assert_digits(xentfast.softmax(x)[0, 2:], np.exp(x[0, 2:].astype(ORACLE)), 4e-7, "softmax")
        assert_digits(xentfast.log_softmax(x)[0], x[0].astype(ORACLE) - expected, 4e-7, "logarithm")


def test_a_large_factor_brings_back_the_digits_of_a_tiny_term(isa: str) -> None:
    """Of the z-loss, and of a sample weight: both multiply what float32 could not hold alone."""
    x = np.array([[300, 207, 204]], np.float32)  # exp(-93), exp(-96)
    terms = np.exp(x.astype(ORACLE) - 300)[0, 1:]
    bound = PROMISED["float32"] if isa in FUSED_ISAS else WITHOUT_FMA["float32"]
    gradient = xentfast.cross_entropy_grad(x, [0], z_loss=1e6, reduction="sum")
    assert_digits(gradient[0, 1:], terms * (1 + 2e6 * 300), bound, "gradient of the z-loss")
    loss, gradient = xentfast.cross_entropy_value_and_grad(
        x, [0], sample_weight=[1e12], reduction="none"
    )
    assert_digits(loss, terms.sum(keepdims=True) * 1e12, bound, "weighted loss")
    assert_digits(gradient[0], np.array([-terms.sum(), *terms]) * 1e12, bound, "weighted gradient")
