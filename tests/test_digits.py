"""A classifier of handwritten digits, trained with these losses: the main job."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import xentfast
from cases import Array
from xentfast import reference

datasets = pytest.importorskip("sklearn.datasets")
optimize = pytest.importorskip("scipy.optimize")
threadpoolctl = pytest.importorskip("threadpoolctl")  # comes with scikit-learn

PENALTY = 1e-4  # without one the loss has its least value at infinity


@pytest.fixture(autouse=True)
def one_thread_for_products() -> Iterator[None]:
    """On a busy machine the BLAS's threads wait for each other longer than these products take."""
    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    """1,797 images of 8 x 8 pixels, with a column of ones for the bias, and their classes."""
    images, labels = datasets.load_digits(return_X_y=True)
    return np.column_stack([images / 16, np.ones(len(images))]), labels


def train(losses: ModuleType, images: Array, labels: Array) -> Any:
    """Fit a softmax classifier from zero, to the bottom."""

    def objective(weights: Array) -> tuple[float, Array]:
        w = weights.reshape(images.shape[1], 10)
        loss, gradient = losses.cross_entropy_value_and_grad(images @ w, labels)
        return (
            loss + PENALTY / 2 * (weights @ weights),
            (images.T @ gradient).ravel() + PENALTY * weights,
        )

    return optimize.minimize(
        objective,
        np.zeros(images.shape[1] * 10),
        method="L-BFGS-B",
        jac=True,
        options={"maxcor": 40, "maxiter": 1000, "ftol": 0, "gtol": 1e-8},
    )


def accuracy(weights: Array, images: Array, labels: Array) -> float:
    predicted = (images @ weights.reshape(images.shape[1], 10)).argmax(axis=1)
    return float(np.mean(predicted == labels))


def test_training_in_float64_agrees_with_the_reference(digits: tuple[Array, Array]) -> None:
    images, labels = digits
    found, expected = train(xentfast, images, labels), train(reference, images, labels)
    # The objective is strongly convex, so a small gradient means a loss near the least one.
    assert np.abs(found.jac).max() < 1e-6
    assert np.abs(expected.jac).max() < 1e-6
    assert found.fun == pytest.approx(expected.fun, rel=1e-9)
    assert found.fun < 0.2
    assert accuracy(found.x, images, labels) > 0.99


def test_training_in_float32_comes_near(digits: tuple[Array, Array]) -> None:
    """Logits in float32 stop the search where the loss no longer changes in float32."""
    images, labels = digits

    def objective(weights: Array) -> tuple[float, Array]:
        logits = (images @ weights.reshape(-1, 10)).astype(np.float32)
        loss, gradient = xentfast.cross_entropy_value_and_grad(logits, labels)
        assert loss.dtype == gradient.dtype == np.float32
        return (
            float(loss) + PENALTY / 2 * (weights @ weights),
            (images.T @ gradient).ravel() + PENALTY * weights,
        )

    start = np.zeros(images.shape[1] * 10)
    found = optimize.minimize(
        objective, start, method="L-BFGS-B", jac=True, options={"maxcor": 40, "gtol": 1e-5}
    )
    assert objective(start)[0] == pytest.approx(np.log(10), rel=1e-6)
    assert accuracy(found.x, images, labels) > 0.98


def test_ignored_images_do_not_teach(digits: tuple[Array, Array]) -> None:
    """Leaving images out by label, by weight, or from the array trains the same classifier."""
    images, labels = digits
    out = np.arange(len(labels)) % 3 == 0
    w = np.random.default_rng(0).normal(size=(images.shape[1], 10))
    kept = xentfast.cross_entropy_value_and_grad(images[~out] @ w, labels[~out])
    marked = xentfast.cross_entropy_value_and_grad(
        images @ w, np.where(out, -100, labels), ignore_index=-100
    )
    weighed = xentfast.cross_entropy_value_and_grad(images @ w, labels, sample_weight=~out)
    for loss, gradient in (marked, weighed):
        assert loss == pytest.approx(kept[0], rel=1e-14)
        np.testing.assert_allclose(gradient[~out], kept[1], rtol=1e-12, atol=1e-300)
        np.testing.assert_array_equal(gradient[out], np.zeros((out.sum(), 10)))
