"""Evaluations: their numbers against the reference, and that they add up to the last bit."""

from __future__ import annotations

import io
import json
import math
import pickle
import sys
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xentfast
from cases import DTYPES, FUSED_ISAS, LARGE_SHAPES, Array
from compare import assert_same_bits
from layouts import Layout
from xentfast import Evaluation, _kernels, evaluate, reference
from xentfast._checks import BFLOAT16

PER_ROW = ("loss", "rank", "entropy", "confidence", "lse", "predicted")
FLOATING = ("loss", "entropy", "confidence", "lse")
NUMBERS = (
    "count", "weight", "loss", "loss_error", "perplexity", "bits", "accuracy",
    "mean_reciprocal_rank", "entropy", "brier", "confidence", "calibration_error",
    "max_calibration_error", "invalid",
)  # fmt: skip
TIES = ("lowest", "highest", "any")
BOUND = {"float32": 2e-6, "float64": 1e-14}
# Below and above a vector, the tile, a block, and a segment.
CLASSES = (1, 2, 3, 10, 17, 100, 128, 129, 513, 1000, 4096, 4097, 9001)


def rows_of(
    classes: int, dtype: str = "float32", rows: int = 37, step: float = 0.5
) -> tuple[Array, Array]:
    """Draw logits with many ties, and labels of which a third are the likeliest."""
    rng = np.random.default_rng([classes, rows])
    x = (np.round(rng.standard_normal((rows, classes)) * 6 / step) * step).astype(dtype)
    y = np.where(np.arange(rows) % 3 == 0, x.argmax(axis=1), rng.integers(classes, size=rows))
    return x, y


def state_of(found: Evaluation) -> Any:
    return found.to_dict()["state"]


def assert_agrees(found: Evaluation, wanted: Any, bound: float) -> None:
    for name in NUMBERS:
        got, want = getattr(found, name), getattr(wanted, name)
        scale = 1 + wanted.loss if name in ("perplexity", "loss_error") else 1
        assert got == pytest.approx(want, rel=bound * scale, abs=bound, nan_ok=True), name
    assert dict(found.top_k) == pytest.approx(wanted.top_k, rel=1e-15, nan_ok=True)
    for name, want in vars(wanted.reliability).items():
        got = getattr(found.reliability, name)
        np.testing.assert_allclose(got, want, rtol=bound, err_msg=name)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_numbers_are_those_of_the_reference(classes: int, dtype: str, ties: Any, isa: str) -> None:
    x, y = rows_of(classes, dtype)
    options: dict[str, Any] = {"ties": ties, "top_k": (3, 10), "per_row": PER_ROW}
    rng = np.random.default_rng(0)
    y[5::7] = -1
    for extra in ({}, {"sample_weight": rng.uniform(0, 3, 37)}, {"bins": 4}):
        found, arrays = evaluate(x, y, ignore_index=-1, **options, **extra)
        wanted, expected = reference.evaluate(x, y, ignore_index=-1, **options, **extra)
        # A row next to the edge of a bin may lie on either side of it.
        assert_agrees(found, wanted, BOUND[dtype])
        for name in ("rank", "predicted"):
            assert arrays[name].dtype == np.int64
            np.testing.assert_array_equal(arrays[name], expected[name])
        for name in FLOATING:
            assert arrays[name].dtype == dtype
            np.testing.assert_allclose(arrays[name], expected[name], BOUND[dtype], BOUND[dtype])


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 17, 129, 513, 4097])
def test_probabilities(classes: int, dtype: str, ties: Any, isa: str) -> None:
    x, y = rows_of(classes, dtype)
    p = xentfast.softmax(x)
    names = tuple(n for n in PER_ROW if n != "lse")
    options: dict[str, Any] = {"ties": ties, "from_logits": False, "per_row": names}
    found, arrays = evaluate(p, y, **options)
    wanted, expected = reference.evaluate(p, y, **options)
    assert_agrees(found, wanted, BOUND[dtype])
    for name in names:
        np.testing.assert_allclose(arrays[name], expected[name], BOUND[dtype], BOUND[dtype])


@pytest.mark.parametrize("classes", [2, 17, 129, 4097])
def test_sixteen_bits_are_widened(classes: int, isa: str) -> None:
    x, y = rows_of(classes)
    for half in np.float16, BFLOAT16:
        if half is np.float16:
            narrow: Array = x.astype(np.float16)
            wide = narrow.astype(np.float32)
        else:
            bits = x.view(np.uint32) >> 16
            narrow, wide = bits.astype(np.uint16).view(BFLOAT16), (bits << 16).view(np.float32)
        found, arrays = evaluate(narrow, y, per_row=PER_ROW)
        wanted, expected = evaluate(wide, y, per_row=PER_ROW)
        assert found == wanted
        for name in PER_ROW:
            assert_same_bits(arrays[name], expected[name], name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_are_those_of_cross_entropy(dtype: str, layout: Layout, isa: str) -> None:
    """To the last bit: at every margin, beyond where an exponential leaves its range too."""
    for classes in CLASSES:
        for margin in (0, 1, 20, 80, 95, 120, 700, 5000):
            x, y = rows_of(classes, dtype, 19, 2.0**-12)
            x[np.arange(19), y] += np.where(np.arange(19) % 2, margin, -margin)
            x[3] *= np.float32(2.0**18)
            inputs: Any = ((x, y), {"per_row": ("loss", "lse")})
            args, kwargs = layout.arrange(inputs)
            _found, arrays = evaluate(*args, **kwargs)
            losses = xentfast.cross_entropy(x, y, reduction="none")
            assert_same_bits(arrays["loss"], losses, f"{classes}, {margin}: loss")
            assert_same_bits(arrays["lse"], xentfast.logsumexp(x), f"{classes}, {margin}: lse")


def test_what_is_far_below_counts(isa: str) -> None:
    """Terms below exp(-88), all of which float32 holds, are in every number they decide."""
    for classes in (2, 17, 200, 5000):
        for gap in (90, 100):
            x = np.zeros((1, classes), np.float32)
            x[0, 0] = gap
            _, rows = evaluate(x, [0], per_row=("loss", "entropy", "confidence"))
            rest = (classes - 1) * math.exp(-gap)
            loss, entropy = float(rows["loss"][0]), float(rows["entropy"][0])
            assert loss == pytest.approx(rest, rel=1e-6, abs=2.0**-150)
            assert entropy == pytest.approx((1 + gap) * rest, rel=2e-6, abs=2.0**-149)


@pytest.mark.parametrize("dtype", DTYPES)
def test_confident_rows_keep_their_digits(dtype: str, isa: str) -> None:
    for classes, gap in ((3, 20), (3, 30), (200, 25), (5000, 30)):
        x = np.zeros((1, classes), dtype)
        x[0, classes // 2] = gap
        found = evaluate(x, [classes // 2])
        rest = (classes - 1) * math.exp(-gap)  # the odds of all others
        assert found.loss == pytest.approx(math.log1p(rest), rel=4e-6, abs=0)
        assert found.entropy == pytest.approx(
            math.log1p(rest) + gap * rest / (1 + rest), rel=4e-6, abs=0
        )
        brier = (rest**2 + rest * math.exp(-gap)) / (1 + rest) ** 2
        assert found.brier == pytest.approx(brier, rel=1e-5, abs=0)


# --- to the last bit ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ties", TIES)
def test_instruction_sets_agree(dtype: str, ties: Any) -> None:
    before = _kernels.get_isa()
    for classes in CLASSES:
        x, y = rows_of(classes, dtype, step=2.0**-12)
        found = []
        for name in FUSED_ISAS:
            _kernels.set_isa(name)
            found.append(evaluate(x, y, ties=ties, per_row=PER_ROW))
        _kernels.set_isa(before)
        for other, arrays in found[1:]:
            assert other == found[0][0]
            for name in PER_ROW:
                assert_same_bits(arrays[name], found[0][1][name], f"{classes}: {name}")


@pytest.mark.parametrize("ties", TIES)
def test_layouts_agree(layout: Layout, ties: Any, isa: str) -> None:
    for dtype in DTYPES:
        for classes in (1, 3, 17, 129, 513, 4097):
            inputs: Any = (rows_of(classes, dtype, 19, 2.0**-10), {"per_row": PER_ROW})
            (x, y), options = inputs
            expected, rows = evaluate(x, y, ties=ties, **options)
            args, kwargs = layout.arrange(inputs)
            found, arrays = evaluate(*args, ties=ties, **kwargs)
            assert found == expected
            for name in PER_ROW:
                assert_same_bits(arrays[name], rows[name], f"{layout.name}, {classes}: {name}")


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_threads_agree(shape: Any, threads: int) -> None:
    x, y = rows_of(shape.classes, "float32", shape.rows, 2.0**-10)
    weight = np.random.default_rng(0).random(shape.rows)
    found = evaluate(x, y, sample_weight=weight)
    before = xentfast.get_num_threads()
    xentfast.set_num_threads(1)
    assert found == evaluate(x, y, sample_weight=weight)
    xentfast.set_num_threads(before)


def test_panels_together_agree() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 40, 50)).astype(np.float32)
    y = rng.integers(12, size=(2, 40, 50))
    assert evaluate(x, y, axis=1) == evaluate(np.moveaxis(x, 1, -1).copy(), y)


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Array, Array, Array]]:
    """Draw rows, some of them without scores, and cut them."""
    rows, classes = draw(st.integers(0, 30)), draw(st.sampled_from((1, 3, 20, 130)))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    dtype = draw(st.sampled_from(DTYPES))
    x = (rng.standard_normal((rows, classes)) * 10.0 ** rng.integers(-9, 3)).astype(dtype)
    y = rng.integers(classes, size=rows)
    weight = rng.random(rows) * 10.0 ** rng.integers(-200, 200, rows)
    for value in draw(st.lists(st.sampled_from((np.nan, np.inf, -np.inf)), max_size=3)):
        if rows:
            x[rng.integers(rows), rng.integers(classes)] = value
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=4)))
    ends = [0, *cuts, rows]
    return [(x[a:b], y[a:b], weight[a:b]) for a, b in pairwise(ends)]


@settings(max_examples=80)
@given(batches(), st.randoms(use_true_random=False), st.booleans(), st.sampled_from(TIES))
def test_any_split_order_and_grouping_adds_up_to_the_last_bit(
    parts: list[tuple[Array, Array, Array]], random: Any, weighted: bool, ties: Any
) -> None:
    def of(x: Array, y: Array, w: Array) -> Evaluation:
        return evaluate(x, y, ties=ties, sample_weight=w if weighted else None)

    whole = of(*(np.concatenate(a) for a in zip(*parts, strict=True)))
    found = [of(*part) for part in parts]
    assert sum(found) == whole
    assert sum(found, Evaluation.empty(ties=ties)) == whole
    random.shuffle(found)
    while len(found) > 1:  # in any grouping
        i = random.randrange(len(found) - 1)
        found[i : i + 2] = [found[i] + found[i + 1]]
    assert found[0] == whole
    assert state_of(found[0]) == state_of(whole)
    assert hash(found[0]) == hash(whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_not_rounded(dtype: str) -> None:
    x, y = rows_of(10, dtype, 5000, 2.0**-10)
    x[::3] *= x.dtype.type(1e-3)
    found, arrays = evaluate(x, y, per_row=("loss", "entropy"))
    for name in "loss", "entropy":
        exact = sum((Fraction(float(v)) for v in arrays[name]), Fraction()) / len(y)
        assert getattr(found, name) == float(exact)
    losses = [Fraction(float(v)) for v in arrays["loss"]]
    mean = sum(losses, Fraction()) / len(y)
    variance = sum(((v - mean) ** 2 for v in losses), Fraction()) / (len(y) - 1) / len(y)
    assert found.loss_error == pytest.approx(math.sqrt(variance), rel=1e-15, abs=0)


def test_sums_over_the_whole_range_of_doubles() -> None:
    rng = np.random.default_rng(1)
    weight = rng.random(3000) * 10.0 ** rng.integers(-323, 308, 3000)
    p, y = np.full((3000, 2), 0.5), rng.integers(2, size=3000)
    found, arrays = evaluate(
        p, y, from_logits=False, sample_weight=weight, per_row=("loss",), bins=2
    )
    total = sum(map(Fraction, weight), Fraction())
    assert found.weight == float(total)
    losses = sum((Fraction(w * v) for w, v in zip(weight, arrays["loss"], strict=True)), Fraction())
    assert found.loss == float(losses / total)
    assert found.reliability.weight.tolist() == [0, float(total)]


def test_many_rows_of_one_sum_carry() -> None:
    x = np.zeros((200_000, 1))
    x[:] = 3
    found = evaluate(x, np.zeros(len(x), int), sample_weight=0.9999999999999999)
    assert found.weight == float(Fraction(0.9999999999999999) * len(x))
    assert found.reliability.confidence[-1] == 1


def test_equal_losses_have_no_error() -> None:
    x = np.tile(np.array([0.1, 0.2, 0.7]), (100, 1))
    assert evaluate(x, np.zeros(100, int)).loss_error == 0
    weight = np.linspace(0.1, 7, 100)
    assert evaluate(x, np.zeros(100, int), sample_weight=weight).loss_error < 1e-17


def test_weights_of_one_are_no_weights() -> None:
    x, y = rows_of(10)
    assert (
        evaluate(x, y) == evaluate(x, y, sample_weight=1) == evaluate(x, y, sample_weight=[1] * 37)
    )


# --- rows of every kind ---------------------------------------------------------------------------


def test_ties_by_hand(isa: str) -> None:
    for classes in (5, 200, 3000):
        x = np.zeros((1, classes), np.float32)
        x[0, [1, 2, 4]] = 3
        for label, ranks in ((1, (0, 2, 0)), (2, (1, 1, 0)), (4, (2, 0, 0))):
            for ties, rank in zip(TIES, ranks, strict=True):
                found, rows = evaluate(
                    x, [label], ties=ties, top_k=(2,), per_row=("rank", "predicted")
                )
                assert rows["rank"].tolist() == [rank]
                assert rows["predicted"].tolist() == [{"lowest": 1, "highest": 4}.get(ties, label)]
                assert found.accuracy == (rank == 0)
                assert found.top_k[2] == (rank < 2)
                assert found.mean_reciprocal_rank == 1 / (1 + rank)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [3, 200, 5000])
def test_rows_without_scores(classes: int, dtype: str, isa: str) -> None:
    x, y = rows_of(classes, dtype, 6)
    sound, sound_rows = evaluate(x[4:], y[4:], per_row=PER_ROW)
    x[0, 1], x[1, 1], x[2], x[3, 2] = np.nan, np.inf, -np.inf, np.nan
    found, rows = evaluate(x, y, per_row=PER_ROW)
    assert found.invalid == 4
    assert found.count == 6
    for name in ("loss", "loss_error", "perplexity", "entropy", "brier", "confidence",
                 "calibration_error", "max_calibration_error"):  # fmt: skip
        assert math.isnan(getattr(found, name)), name
    assert found.accuracy == sound.accuracy / 3
    assert found.mean_reciprocal_rank == pytest.approx(sound.mean_reciprocal_rank / 3)
    assert found.top_k[5] == sound.top_k[5] / 3
    assert found.reliability.count.sum() == 2
    assert rows["rank"][:4].tolist() == [classes] * 4
    assert rows["predicted"][:4].tolist() == [-1] * 4
    for name in PER_ROW:
        assert_same_bits(rows[name][4:], sound_rows[name], name)
        if name in ("loss", "entropy", "confidence"):
            assert np.isnan(rows[name][:4]).all()


def test_probabilities_that_are_none(isa: str) -> None:
    p = np.array([[0.5, 0.5], [-0.5, 1.5], [np.nan, 1], [np.inf, 0], [0, 1]])
    found, rows = evaluate(p, [0] * 5, from_logits=False, per_row=("loss", "rank"))
    assert found.invalid == 3
    assert rows["rank"].tolist() == [0, 2, 2, 2, 1]
    np.testing.assert_array_equal(rows["loss"], [np.log(2), np.nan, np.nan, np.nan, np.inf])


def test_a_masked_label(isa: str) -> None:
    for classes in (3, 200, 3000):
        x = np.zeros((2, classes))
        x[:, 1] = -np.inf
        found, rows = evaluate(x, [1, 0], per_row=PER_ROW)
        assert found.loss == found.perplexity == math.inf
        assert math.isnan(found.loss_error)
        assert found.invalid == 0
        assert rows["rank"].tolist() == [classes - 1, 0]
        assert found.entropy == pytest.approx(math.log(classes - 1))


def test_ignored_rows_do_not_count() -> None:
    x, y = rows_of(10)
    keep = np.arange(37) % 4 != 1
    y[~keep] = -100
    x[1] = np.nan
    found, rows = evaluate(x, y, ignore_index=-100, per_row=("loss", "rank"))
    assert found == evaluate(x[keep], y[keep])
    assert (rows["loss"][~keep] == 0).all()
    assert (rows["rank"][~keep] == -1).all()


def test_no_rows() -> None:
    found = evaluate(np.empty((0, 3)), np.empty(0, int))
    assert found == Evaluation.empty()
    assert found.count == found.weight == 0
    for name in set(NUMBERS) - {"count", "weight", "invalid"}:
        assert math.isnan(getattr(found, name)), name
    assert math.isnan(found.top_k[5])
    assert math.isnan(found.loss_quantile(0.5))
    repr(found), found._repr_html_(), json.dumps(found.to_dict(), allow_nan=False)


def test_one_row() -> None:
    found = evaluate([0.0, 1.0, 2.0], 2)
    assert found.count == 1
    assert math.isnan(found.loss_error)
    assert found.accuracy == 1


def test_weights_of_zero() -> None:
    x, y = rows_of(5)
    found = evaluate(x, y, sample_weight=0)
    assert found.count == 0
    assert found.weight == 0
    assert math.isnan(found.loss)
    assert math.isnan(found.accuracy)


def test_an_infinite_loss_is_one_in_every_sum(isa: str) -> None:
    found = evaluate(np.array([[0, -math.inf], [0, 1]], np.float32), [1, 0])
    sums = found.to_dict()["state"]["sums"]
    for name in "loss", "loss_square":
        assert sums[name][1:] == [1, 0, 0], name  # +inf, -inf and nan
    assert found.loss == math.inf


@pytest.mark.parametrize("classes", [3, 200])  # lanes across the rows, and along them
@pytest.mark.parametrize("module", [xentfast, xentfast.reference])
def test_a_row_of_weight_0_counts_nothing_whatever_it_holds(module: Any, classes: int) -> None:
    x = np.zeros((4, classes), np.float32)
    x[0, 0], x[1, 2], x[2, 1] = -math.inf, math.inf, math.nan
    y, weight = [0, 0, 0, 1], [0, 0, 0, 2]
    found, rows = module.evaluate(x, y, sample_weight=weight, per_row=("loss", "rank"))
    alone = module.evaluate(x[3:], y[3:], sample_weight=2)
    assert found.count == 1
    assert found.invalid == 0
    for name in "weight", "loss", "accuracy", "entropy", "brier", "confidence", "calibration_error":
        assert getattr(found, name) == getattr(alone, name)
    np.testing.assert_array_equal(rows["loss"], module.evaluate(x, y, per_row=("loss",))[1]["loss"])
    assert rows["loss"][0] == math.inf
    np.testing.assert_array_equal(rows["rank"][1:3], [classes, classes])
    if module is xentfast:
        assert found.loss_quantile(1) == alone.loss_quantile(1)
        assert found == alone


def test_logits_near_the_largest() -> None:
    for dtype in DTYPES:
        most = np.finfo(dtype).max
        found = evaluate(np.array([[most, -most], [most, 0], [-most, most]], dtype), [0, 0, 1])
        assert found.loss == 0
        assert found.accuracy == 1


# --- what is read ---------------------------------------------------------------------------------


def test_derived_numbers() -> None:
    x, y = rows_of(10)
    found = evaluate(x, y)
    assert found.perplexity == math.exp(found.loss)
    assert found.bits == found.loss / math.log(2)
    assert found.bits_per(100) == pytest.approx(found.bits * 37 / 100)
    assert found.accuracy == found.top_k[1]
    assert list(found.top_k) == [1, 5]


def test_quantiles_of_the_losses() -> None:
    x, y = rows_of(10, "float64", 5000, 2.0**-10)
    found, rows = evaluate(x, y, per_row=("loss",))
    for q in 0.01, 0.1, 0.5, 0.9, 0.99, 1:
        assert found.loss_quantile(q) == pytest.approx(np.quantile(rows["loss"], q), rel=0.15)
    assert evaluate([[0.0, -1e9]], [0]).loss_quantile(0.5) == 0
    assert evaluate([[0.0, -1e9]], [1]).loss_quantile(0.5) == math.inf


def test_scikit_learn_says_the_same() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = rows_of(7, "float64", 500)
    p = reference.softmax(x)
    highest, labels = evaluate(x, y, ties="highest", top_k=(2, 3)), np.arange(7)
    for k in 1, 2, 3:
        assert highest.top_k[k] == pytest.approx(
            metrics.top_k_accuracy_score(y, x, k=k, labels=labels)
        )
    assert highest.loss == pytest.approx(metrics.log_loss(y, p, labels=labels))
    _, rows = evaluate(x, y, per_row=("predicted",))
    assert evaluate(x, y).accuracy == pytest.approx(metrics.accuracy_score(y, rows["predicted"]))
    one_hot = y[:, np.newaxis] == labels
    assert evaluate(x, y).brier == pytest.approx(((p - one_hot) ** 2).sum(axis=1).mean())


def test_the_last_bin_is_closed() -> None:
    found = evaluate([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]], [0, 1, 1], from_logits=False, bins=4)
    assert found.reliability.count.tolist() == [0, 0, 1, 2]
    assert found.reliability.confidence[2:].tolist() == [0.5, 0.875]
    assert found.reliability.correct[2:].tolist() == [0, 1]
    assert found.calibration_error == (0.5 + 0.25) / 3
    assert found.max_calibration_error == 0.5


def test_json_and_pickle() -> None:
    x, y = rows_of(10)
    x[3, 1] = np.nan
    for found in (
        evaluate(x, y, bins=3, top_k=(2, 7), ties="any"),
        evaluate(x, y, sample_weight=np.linspace(0, 1e-300, 37)),
    ):
        text = json.dumps(found.to_dict(), allow_nan=False)
        assert Evaluation.from_dict(json.loads(text)) == found
        assert pickle.loads(pickle.dumps(found)) == found
    assert found.to_dict()["loss"] is None
    assert found.to_dict()["accuracy"] == found.accuracy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ties", "lower"),
        ("count", -1),
        ("count", True),
        ("top_k", [0]),
        ("hits", ["0x1p+0"]),
        ("hits", ["0x1p+0"] * 4),
        ("hits", [1, 2, 3]),
        ("hits", ["0x1p-1075"] * 3),
        ("hits", ["1p+0"] * 3),
        ("sums", {}),
        ("sums", []),
        ("bins", []),
        ("bins", [[1], ["0x1p+0"], ["0x1p+0"]]),
        ("bins", [[1], ["0x1p+0"], ["0x1p+0"], []]),
        ("losses", [0]),
        ("losses", None),
    ],
)
def test_states_that_are_none(name: str, value: Any) -> None:
    data = evaluate(*rows_of(10)).to_dict()
    data["state"][name] = value
    with pytest.raises(ValueError, match="data must be what to_dict returns, got "):
        Evaluation.from_dict(data)
    with pytest.raises(ValueError, match="data must be what to_dict returns, got "):
        Evaluation.from_dict({})


def test_repr() -> None:
    x, y = rows_of(10)
    found = evaluate(x, y)
    assert repr(found).startswith(f"<Evaluation of 37 rows: loss {found.loss:.6g} ± ")
    assert f"top-5 {found.top_k[5]:.4g}" in repr(found)
    assert f"<th>loss</th><td>{found.loss:.6g}</td>" in found._repr_html_()


def test_plot() -> None:
    pytest.importorskip("matplotlib")
    for found in (
        evaluate(*rows_of(10)),
        evaluate([[0.0, -1e9], [0.0, -1e9]], [0, 1], bins=1),
        Evaluation.empty(),
    ):
        figure = found.plot()
        figure.savefig(io.BytesIO())
        left, right = figure.axes
        assert left.get_xlabel() == "confidence"
        assert right.get_xlabel() == "loss (nats)"


def test_plot_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plot needs matplotlib: pip install 'xentfast\[plot\]'"):
        evaluate(*rows_of(10)).plot()


def test_it_is_immutable() -> None:
    found = evaluate(*rows_of(10))
    with pytest.raises(AttributeError):
        found.count = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.top_k[1] = 0.5  # type: ignore[index]


# --- what is refused ------------------------------------------------------------------------------


def test_evaluations_that_do_not_add_up() -> None:
    found = evaluate(*rows_of(10))
    for options, message in (
        ({"bins": 10}, r"bins of evaluations to add must agree, got 15, 10"),
        ({"top_k": (3,)}, r"top_k of evaluations to add must agree, got \(1, 5\), \(1, 3\)"),
        ({"ties": "any"}, r"ties of evaluations to add must agree, got lowest, any"),
    ):
        with pytest.raises(ValueError, match=message):
            found + evaluate(*rows_of(10), **options)
    for other in 1, 0.0, None, "a", False:
        with pytest.raises(TypeError, match="unsupported operand"):
            found + other


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": [0.0, 1.0]}, TypeError, "got float64: use .astype\\(int\\) for class indices"),
        ({"labels": np.eye(2)}, TypeError, "must have an integer dtype, got float64: use .argmax"),
        ({"labels": ["a", "b"]}, TypeError, "labels must have an integer dtype, got <U1$"),
        ({"labels": [0, 1, 1]}, ValueError, r"labels must have shape \(2,\), got \(3,\)"),
        ({"labels": [0, 2]}, ValueError, r"labels must be in \[0, 2\), got 2 at row 1"),
        ({"labels": [0, -1]}, ValueError, r"labels must be in \[0, 2\), got -1 at row 1"),
        ({"top_k": 5}, TypeError, "top_k must be a sequence of ints, got 5"),
        ({"top_k": (1.5,)}, TypeError, r"top_k must be a sequence of ints, got \(1.5,\)"),
        ({"top_k": (0,)}, ValueError, r"top_k must be >= 1 and below 2\*\*63, got 0"),
        ({"top_k": (2**63,)}, ValueError, r"top_k must be >= 1 and below 2\*\*63, got 92"),
        ({"ties": "first"}, ValueError, "ties must be 'lowest', 'highest' or 'any', got 'first'"),
        ({"ties": ["any"]}, ValueError, "ties must be 'lowest', 'highest' or 'any', got "),
        ({"bins": 0}, ValueError, r"bins must be in \[1, 1000\], got 0"),
        ({"bins": 1001}, ValueError, r"bins must be in \[1, 1000\], got 1001"),
        ({"bins": 1.5}, TypeError, "bins must be an int, got float"),
        ({"per_row": "loss"}, TypeError, "per_row must be a sequence of names, got str"),
        ({"per_row": None}, TypeError, "per_row must be a sequence of names, got NoneType"),
        ({"per_row": ("losses",)}, ValueError, "per_row must name some of loss, .*, got 'losses'"),
        ({"per_row": ([],)}, ValueError, r"per_row must name some of loss, .*, got \[\]"),
        (
            {"per_row": ("lse",), "from_logits": False},
            ValueError,
            "per_row must not name lse where from_logits is False, got 'lse'",
        ),
        ({"sample_weight": [1, -1]}, ValueError, "sample_weight must be finite and >= 0, got -1"),
        ({"sample_weight": [1] * 3}, ValueError, r"sample_weight must broadcast to shape"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index must be an int, got float"),
        ({"axis": 2}, ValueError, r"axis must be in \[-2, 2\), got 2"),
    ],
)
def test_messages(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"labels": [0, 1], **options}
    with pytest.raises(error, match=message):
        evaluate([[0.0, 1.0], [1.0, 0.0]], **arguments)


def test_messages_of_reading() -> None:
    found = evaluate(*rows_of(10))
    with pytest.raises(ValueError, match="n_bytes must be more than 0, got 0"):
        found.bits_per(0)
    with pytest.raises(ValueError, match="n_bytes must be finite and >= 0, got -1"):
        found.bits_per(-1)
    with pytest.raises(ValueError, match=r"q must be in \[0, 1\], got 2"):
        found.loss_quantile(2)
    with pytest.raises(TypeError, match="q must be a number, got str"):
        found.loss_quantile("0.5")  # type: ignore[arg-type]


def test_sums_do_not_run_over(isa: str) -> None:
    """Integers of 48 bits, a thousand of them in a place of a grid and sixteen places."""
    rows = 200_000
    x = np.zeros((rows, 2))
    x[:, 1] = -4000.0
    with xentfast.num_threads(1):
        assert evaluate(x, np.ones(rows, np.int64)).loss == 4000


def test_an_infinite_loss_times_a_weight_is_infinite(isa: str) -> None:
    x = np.zeros((40, 3))
    x[7, 1] = -np.inf
    weights = np.linspace(0.1, 0.9, 40)
    assert evaluate(x, np.ones(40, np.int64), sample_weight=weights).loss == math.inf
