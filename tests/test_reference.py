"""The reference itself: float64 against long double, and the interface it shares."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import xentfast
from cases import CASES, SHAPES, Array, Case
from compare import assert_close, outputs
from oracle import HAS_WIDER, expect, scales_of
from xentfast import reference


@pytest.mark.parametrize("name", reference.__all__)
def test_signatures_are_those_of_xentfast(name: str) -> None:
    public = inspect.signature(getattr(xentfast, name)).parameters.values()
    plain = inspect.signature(getattr(reference, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in plain] == [
        (p.name, p.kind, p.default) for p in public
    ]


def test_reference_has_every_loss() -> None:
    settings = {"set_num_threads", "get_num_threads", "num_threads", "show_config"}
    functions = {name for name in xentfast.__all__ if inspect.isfunction(getattr(xentfast, name))}
    assert set(reference.__all__) == functions - settings


@pytest.mark.skipif(not HAS_WIDER, reason="long double is no wider than float64 here")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_agrees_with_long_double(case: Case) -> None:
    for shape in SHAPES[::6]:
        inputs = case.inputs("float64", shape.pair)
        found, expected = outputs(reference, case, inputs), expect(case, inputs)
        scales = scales_of(case, inputs, expected)
        for name, want in expected.items():
            if case.function == "is_distribution":
                np.testing.assert_array_equal(found[name], want)
            else:
                assert np.asarray(want).dtype == np.longdouble
                assert np.asarray(found[name]).dtype == np.float64
                assert_close(found[name], want, 1e-14, 1e-305, f"{shape}, {name}", scales[name])


@pytest.mark.parametrize(
    ("logits", "loss"), [([20, 0, 0], 4.1223072363804074e-09), ([40, 0, 0], 8.496708510583178e-18)]
)
def test_confident_rows(logits: list[int], loss: float) -> None:
    value, gradient = reference.cross_entropy_value_and_grad(logits, 0)
    assert value == pytest.approx(loss, rel=1e-15, abs=0)
    np.testing.assert_allclose(gradient, [-loss, loss / 2, loss / 2], rtol=2e-8)


@pytest.mark.parametrize(
    ("labels", "ignore_index"),
    [
        (np.array([0, 1], np.uint8), -100),
        (np.array([0, 1], np.uint8), 256),
        (np.array([0, 1], np.uint64), -1),
        (np.array([0, 1], np.int64), 2**64),
    ],
)
def test_an_ignore_index_beyond_the_dtype_matches_nothing(labels: Array, ignore_index: int) -> None:
    found = reference.cross_entropy([[1, 2], [3, 5]], labels, ignore_index=ignore_index)
    assert found == reference.cross_entropy([[1, 2], [3, 5]], [0, 1])


@pytest.mark.parametrize("case", [c for c in CASES if c.gradient], ids=str)
def test_out_is_filled_and_returned(case: Case) -> None:
    args, kwargs = case.inputs("float32", (5, 4))
    for suffix, place in (("", np.zeros(())), ("_grad", np.zeros((5, 4)))):
        function = getattr(reference, case.function + suffix)
        assert function(*args, **kwargs, out=place) is place
        np.testing.assert_array_equal(place, function(*args, **kwargs))
    place = np.zeros((5, 4))
    _, gradient = getattr(reference, f"{case.function}_value_and_grad")(*args, **kwargs, out=place)
    assert gradient is place
    np.testing.assert_array_equal(
        place, getattr(reference, f"{case.function}_grad")(*args, **kwargs)
    )
