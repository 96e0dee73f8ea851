"""The worked examples, to their digits: 1e-12 in float64, 1e-6 in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xentfast
from examples import (
    BINARY_PREDICTED,
    BINARY_TRUE,
    CATEGORICAL_PREDICTED,
    CATEGORICAL_TRUE,
    SPARSE_PREDICTED,
    SPARSE_TRUE,
)

DIGITS = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture(params=DIGITS)
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def assert_digits(found: Any, expected: Any, dtype: str) -> None:
    assert np.asarray(found).dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=DIGITS[dtype], atol=0)


def test_is_distribution(dtype: str) -> None:
    assert not xentfast.is_distribution(np.array([0.5, 0.89, 0.6], dtype))
    assert xentfast.is_distribution(np.array([0.05, 0.89, 0.06], dtype))


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([9 / 10, 1 / 10], 0.3250829733914482),
        ([7 / 10, 3 / 10], 0.6108643020548935),
        ([1 / 2, 1 / 2], 0.6931471805599453),
    ],
)
def test_entropy(p: list[float], expected: float, dtype: str) -> None:
    assert_digits(xentfast.entropy(np.array(p, dtype)), expected, dtype)


def test_cross_entropy_of_two_distributions(dtype: str) -> None:
    true, estimated = [0.2, 0.3, 0.4, 0.1], [0.4, 0.4, 0.1, 0.1]
    found = xentfast.cross_entropy(
        np.array(estimated, dtype), np.array(true, dtype), from_logits=False
    )
    assert_digits(found, 1.6094379124341003, dtype)  # -sum t log p, in 40 digits, rounded


BINARY_PER_RECORD = [0.10536051565782628, 0.35667494393873245, 0.5108256237659907]
BINARY_MEAN = 0.3242870277875165


def test_binary_as_two_columns(dtype: str) -> None:
    p, t = np.array(BINARY_PREDICTED, dtype), np.array(BINARY_TRUE, dtype)
    per_record = xentfast.cross_entropy(p, t, from_logits=False, reduction="none")
    assert_digits(per_record, BINARY_PER_RECORD, dtype)
    assert_digits(xentfast.cross_entropy(p, t, from_logits=False), BINARY_MEAN, dtype)


@pytest.mark.parametrize("labels_dtype", ["float64", "int64", "bool"])
def test_binary_of_each_entry(dtype: str, labels_dtype: str) -> None:
    p, t = np.array(BINARY_PREDICTED, dtype), np.array(BINARY_TRUE, labels_dtype)
    each = xentfast.binary_cross_entropy(p, t, from_logits=False, reduction="none")
    assert_digits(each, np.repeat(BINARY_PER_RECORD, 2).reshape(3, 2), dtype)
    assert_digits(xentfast.binary_cross_entropy(p, t, from_logits=False), BINARY_MEAN, dtype)


def test_categorical(dtype: str) -> None:
    p, t = np.array(CATEGORICAL_PREDICTED, dtype), np.array(CATEGORICAL_TRUE, dtype)
    per_record = xentfast.cross_entropy(p, t, from_logits=False, reduction="none")
    expected = [0.10536051565782628, 0.11653381625595151, 0.06187540371808753]
    assert_digits(per_record, expected, dtype)
    assert_digits(xentfast.cross_entropy(p, t, from_logits=False), 0.09458991187728844, dtype)


def test_sparse_categorical(dtype: str) -> None:
    p = np.array(SPARSE_PREDICTED, dtype)
    found = xentfast.cross_entropy(p, SPARSE_TRUE, from_logits=False)
    assert_digits(found, 0.8892045040413961, dtype)


def test_float32_agrees_with_the_losses_written_by_hand() -> None:
    p = np.array(BINARY_PREDICTED, np.float32)
    t = np.array(BINARY_TRUE, np.float32)
    found = xentfast.cross_entropy(p, t, from_logits=False)
    assert found == pytest.approx(-np.sum(t * np.log(p)) / len(p), rel=1e-6)
    assert found == pytest.approx(0.32428703, rel=1e-7)

    p, t = np.array(CATEGORICAL_PREDICTED, np.float32), np.array(CATEGORICAL_TRUE, np.float32)
    found = xentfast.cross_entropy(p, t, from_logits=False)
    assert found == pytest.approx(-np.sum(t * np.log(p)) / len(p), rel=1e-6)
    assert found == pytest.approx(0.09458993, rel=1e-6)

    p, i = np.array(SPARSE_PREDICTED, np.float32), np.array(SPARSE_TRUE)
    found = xentfast.cross_entropy(p, i, from_logits=False)
    assert found == pytest.approx(np.mean(-np.log(p[np.arange(6), i])), rel=1e-6)
    assert found == pytest.approx(0.8892045, rel=1e-7)


def test_lists_are_float64() -> None:
    found = xentfast.cross_entropy(SPARSE_PREDICTED, SPARSE_TRUE, from_logits=False)
    assert_digits(found, 0.8892045040413961, "float64")
