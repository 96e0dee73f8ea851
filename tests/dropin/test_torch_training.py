"""What people met who train and evaluate with torch's losses, tried on the drop-in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

import xentfast.dropin.torch as dropin  # noqa: E402

close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def both(*args: Any, **options: Any) -> list[tuple[Any, Any]]:
    """Return loss and gradient of the drop-in and of torch."""
    found = []
    for module in (dropin, functional):
        x = args[0].detach().requires_grad_()
        loss = module.cross_entropy(x, *args[1:], **options)
        found.append((loss, torch.autograd.grad(loss.sum(), x)[0]))
    return found


def test_next_token_of_a_slice() -> None:
    """Neither the slice nor its transpose is copied by the caller."""
    logits, tokens = torch.randn(3, 9, 20), torch.randint(20, (3, 9))
    close(*both(logits[:, :-1].transpose(1, 2), tokens[:, 1:]))
    close(*both(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))
    close(*both(logits[0, :-1], tokens[0, 1:]))
    close(*both(logits[:, 0], tokens[:, 0]))  # rows far apart


def test_a_batch_without_labels() -> None:
    ours, theirs = both(torch.randn(4, 10), torch.full((4,), -100))
    assert ours[0].isnan()
    assert theirs[0].isnan()
    assert not ours[1].any()


def test_large_vocabulary_in_bfloat16() -> None:
    x, y = torch.randn(3, 128_256).bfloat16(), torch.randint(128_256, (3,))
    (loss, gradient), (expected, _) = both(x, y)
    close(loss, expected, rtol=1e-2, atol=0)
    wide = both(x.double(), y)[1]
    close(loss.double(), wide[0], rtol=2**-8, atol=0)
    close(gradient.double(), wide[1], rtol=2**-8, atol=1e-30)


def test_more_elements_than_an_int_has() -> None:
    x = torch.zeros(1, 2**16, dtype=torch.bfloat16).expand(2**15 + 1, -1)
    assert x.numel() > 2**31
    y = torch.zeros(len(x), dtype=torch.int64)
    y[-1] = 2**16 - 1
    loss = dropin.cross_entropy(x, y, reduction="none")
    close(loss[-2:], torch.full((2,), 11.0903548890).bfloat16())


def test_smoothing_with_weights_and_ignored_rows() -> None:
    x, y, weight = torch.randn(8, 5, 3), torch.randint(5, (8, 3)), torch.rand(5)
    y[::2, 1] = -100
    for reduction in ("mean", "sum", "none"):
        close(*both(x, y, weight=weight, label_smoothing=0.3, reduction=reduction))


@pytest.mark.parametrize("shape", [(4, 10), (40, 500)], ids=str)
def test_gradient_accumulation(shape: tuple[int, int]) -> None:
    x, y = torch.randn(shape), torch.randint(shape[1], shape[:1])
    found = []
    for module in (dropin, functional):
        leaf = x.clone().requires_grad_()
        for part in range(8):
            (module.cross_entropy(leaf * (part + 1), y) / 8).backward()
        found.append(leaf.grad)
    close(*found)


def test_retained_graph() -> None:
    x, y = torch.randn(4, 10, requires_grad=True), torch.randint(10, (4,))
    loss = dropin.cross_entropy(x, y)
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    close(x.grad, 2 * first)


def test_deterministic_mode() -> None:
    x, y = torch.randn(40, 10), torch.randint(10, (40,))
    expected = both(x, y)[0]
    torch.use_deterministic_algorithms(True)
    try:
        for found in (both(x, y)[0], both(x, y)[0]):
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
    finally:
        torch.use_deterministic_algorithms(False)


class Losses(Dataset[Any]):
    """Samples whose loss is part of them, as those that are mined for hard ones."""

    def __init__(self) -> None:
        self.x, self.y = torch.randn(12, 600), torch.randint(600, (12,))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        x = self.x[i : i + 1].clone().requires_grad_()
        loss = dropin.cross_entropy(x, self.y[i : i + 1])
        loss.backward()
        large = torch.zeros(600, 600)  # enough for threads
        return loss.detach(), x.grad[0], dropin.cross_entropy(large, torch.arange(600))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_data_loader(workers: int) -> None:
    """Forked after threads were started here."""
    data = Losses()
    dropin.cross_entropy(torch.zeros(600, 600), torch.arange(600))
    loss, gradient, even = next(iter(DataLoader(data, batch_size=12, num_workers=workers)))
    theirs = functional.cross_entropy(data.x, data.y, reduction="none")
    close(loss, theirs)
    assert gradient.shape == data.x.shape
    close(even, torch.full((12,), 6.396929655))


def batches(sizes: tuple[int, ...]) -> Iterator[Any]:
    for n in sizes:
        yield torch.randn(n, 8), torch.randint(10, (n,))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_step_of_any_batch_size() -> None:
    """One graph for the first size, one for all others; the model is that of torch's loss."""
    graphs = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(graph, inputs)

    ours = torch.nn.Linear(8, 10)
    theirs = copy.deepcopy(ours)
    torch.compiler.reset()
    step = torch.compile(
        lambda x, y: dropin.cross_entropy(ours(x), y), fullgraph=True, backend=backend
    )
    for x, y in batches((5, 7, 9, 32, 33, 64)):
        for model, loss in ((ours, step(x, y)), (theirs, functional.cross_entropy(theirs(x), y))):
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= p.grad
    close(list(ours.parameters()), list(theirs.parameters()))
    assert graphs <= 2
