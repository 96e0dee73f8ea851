"""The drop-in's linear_cross_entropy against PyTorch's."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

import xentfast.dropin.torch as dropin  # noqa: E402

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# torch's own rounding: sums, products and intermediate results in the dtype
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float16: {"rtol": 2e-2, "atol": 2e-2},
    torch.bfloat16: {"rtol": 8e-2, "atol": 8e-2},
}
close = torch.testing.assert_close
Options = torch.nn.LinearCrossEntropyOptions
FEW = Options(batch_chunk_size=2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def is_ours(loss: Any) -> bool:
    return loss.grad_fn is not None and loss.grad_fn.name() == "_MadeLinearBackward"


def layer(dtype: Any = torch.float64, rows: int = 7, classes: int = 5) -> Any:
    """Return input, weight, target and bias; the first, second and last want gradients."""
    x, w, b = (
        torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, 3), (classes, 3), (classes,))
    )
    return x, w, torch.randint(classes, (rows,)), b


def run(module: Any, x: Any, w: Any, y: Any, b: Any = None, **kwargs: Any) -> tuple[Any, ...]:
    """Return the loss and the gradients, for factors from above that are not 1."""
    x, w = (t.detach().clone().requires_grad_() for t in (x, w))
    wanted = [x, w]
    if b is not None:
        b = b.detach().clone().requires_grad_()
        wanted.append(b)
    loss = module.linear_cross_entropy(x, w, y, linear_bias=b, **kwargs)
    above = torch.linspace(-0.5, 2, loss.numel()).to(loss.dtype).reshape(loss.shape)
    return loss, *torch.autograd.grad(loss, wanted, above)


def compare(*args: Any, ours: bool = True, **kwargs: Any) -> None:
    found, expected = (run(m, *args, **kwargs) for m in (dropin, functional))
    assert is_ours(found[0]) == ours
    for got, want in zip(found, expected, strict=True):
        close(got, want, equal_nan=True, **TOLERANCE[args[0].dtype])
    with torch.no_grad():
        value = dropin.linear_cross_entropy(*args[:3], linear_bias=(*args, None)[3], **kwargs)
    assert torch.equal(value.nan_to_num(), found[0].nan_to_num())


def outcome(f: Callable[[], Any]) -> Any:
    try:
        return f()
    except Exception as error:
        return type(error), str(error)


# --- torch's own samples --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples() -> Callable[[str, Any], Iterator[Any]]:
    pytest.importorskip("expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

        found = {
            op.variant_test_name: op
            for op in op_db
            if op.name == "nn.functional.linear_cross_entropy"
        }
    assert set(found) == {"", "chunked", "chunked_none"}
    return lambda variant, dtype: list(
        found[variant].sample_inputs("cpu", dtype, requires_grad=True)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["", "chunked", "chunked_none"])
def test_torch_samples(variant: str, dtype: Any, samples: Any) -> None:
    carried = 0
    for sample in samples(variant, dtype):
        x, (w, y), kwargs = sample.input, sample.args, dict(sample.kwargs)
        b = kwargs.pop("linear_bias", None)
        y = y.detach()
        if kwargs.get("weight") is not None:
            kwargs["weight"] = kwargs["weight"].detach()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, expected = (run(m, x, w, y, b, **kwargs) for m in (dropin, functional))
        for got, want in zip(found, expected, strict=True):
            close(got, want, equal_nan=True, **TOLERANCE[dtype])
        carried += is_ours(found[0])
    assert carried > 3


@pytest.mark.parametrize("options", [None, FEW], ids=["", "options"])
def test_torch_s_errors(options: Any) -> None:
    pytest.importorskip("expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import (
            error_inputs_linear_cross_entropy,
        )
    cases = list(error_inputs_linear_cross_entropy(None, "cpu"))
    assert len(cases) > 3
    for case in cases:
        sample = case.sample_input
        with pytest.raises(case.error_type, match=case.error_regex):
            dropin.linear_cross_entropy(
                sample.input, *sample.args, **sample.kwargs, options=options
            )


# --- values and gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_options(dtype: Any, weighted: bool, reduction: str) -> None:
    x, w, y, b = layer(dtype)
    y[1] = 3
    weight = torch.rand(5).to(dtype) if weighted else None
    kwargs: Any = {"weight": weight, "reduction": reduction}
    for bias in (None, b):
        compare(x, w, y, bias, **kwargs)
        compare(x, w, y, bias, **kwargs, options=FEW)
        compare(x, w, y, bias, **kwargs, ignore_index=3, label_smoothing=0.2)
        compare(x, w, torch.rand(7, 5).to(dtype), bias, **kwargs, label_smoothing=0.2)
        compare(x[0], w, y[0], bias, **kwargs)
        compare(x.T.contiguous().T, w.T.contiguous().T, y.flip(0), bias, **kwargs)


def test_all_ignored() -> None:
    x, w, y, b = layer()
    for reduction in ("mean", "sum", "none"):
        compare(x, w, torch.full_like(y, -100), b, reduction=reduction)


def test_ignored_row_leaks_nothing() -> None:
    x, w, y, b = layer()
    x.data[2] = torch.nan
    y[2] = -100
    found = run(dropin, x, w, y, b)
    rest = torch.arange(7) != 2
    expected = run(functional, x[rest], w, y[rest], b)
    close(found[0], expected[0])
    close(found[1][rest], expected[1])
    assert not found[1][2].any()
    close(found[2:], expected[2:])


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (None, None),
        (Options(), None),
        (Options(chunking_method=None), None),
        (Options(batch_chunk_size=3), 3),
        (Options(batch_chunk_size=300), 7),
        (Options(chunking_method="aspect_ratio"), 4),
        (Options(chunking_method="aspect_ratio:2"), 2),
        (Options(acc_policy="balanced", allow_retain_graph=True), None),
    ],
    ids=repr,
)
def test_rows_of_a_chunk(options: Any, rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    evaluate = dropin._linear.evaluate
    monkeypatch.setattr(dropin._linear, "evaluate", lambda *a: asked.append(a[-2]) or evaluate(*a))
    x, w, y, b = layer()
    loss = dropin.linear_cross_entropy(x, w, y, linear_bias=b, options=options)
    close(loss, functional.linear_cross_entropy(x, w, y, linear_bias=b))
    assert asked == [rows]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_first_logits_lie_in_the_gradient(
    dtype: Any, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of as many rows as there are features, where chunks are of fewer."""
    x, w, b = (torch.randn(shape).to(dtype) for shape in ((37, 19), (270, 19), (270,)))
    y = torch.randint(270, (37,))
    y[1::3] = -100
    for t in (x, w, b):
        t.requires_grad_()
    expected = run(functional, x, w, y, b, reduction=reduction)
    monkeypatch.setattr(dropin._linear, "CHUNK_BYTES", 2000 * w.element_size())
    seen = []
    core = dropin._linear._cross_entropy.run
    monkeypatch.setattr(
        dropin._linear._cross_entropy,
        "run",
        lambda x, *rest: seen.append(x.strides[0] == x.itemsize) or core(x, *rest),
    )
    found = run(dropin, x, w, y, b, reduction=reduction)
    assert any(seen)
    assert not all(seen)
    for got, want in zip(found, expected, strict=True):
        close(got, want, **TOLERANCE[dtype])


def test_options_that_disagree() -> None:
    options = Options(batch_chunk_size=3, chunking_method="aspect_ratio")
    x, w, y, _ = layer()
    expected = outcome(lambda: functional.linear_cross_entropy(x, w, y, options=options))
    assert expected[0] is ValueError
    assert outcome(lambda: dropin.linear_cross_entropy(x, w, y, options=options)) == expected


def test_what_options_cannot_do() -> None:
    """It is then torch's, with torch's warning."""
    x, w, y, _ = layer()
    for target, smoothing in ((torch.rand(7, 5).double(), 0.0), (y, 0.1)):
        with pytest.warns(UserWarning, match="`options`` ignored"):
            loss = dropin.linear_cross_entropy(x, w, target, label_smoothing=smoothing, options=FEW)
        close(loss, dropin.linear_cross_entropy(x, w, target, label_smoothing=smoothing))


WRONG: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "label": lambda x, w, y, _: ((x, w, y + 9), {}),
    "int32 labels": lambda x, w, y, _: ((x, w, y.int()), {}),
    "labels of other shape": lambda x, w, y, _: ((x, w, y[:3]), {}),
    "weight of other dtype": lambda x, w, y, _: ((x, w.float(), y), {}),
    "class weight of other shape": lambda x, w, y, _: ((x, w, y), {"weight": torch.ones(3)}),
    "reduction": lambda x, w, y, _: ((x, w, y), {"reduction": "avg"}),
    "label smoothing": lambda x, w, y, _: ((x, w, y), {"label_smoothing": 1.5}),
    "bias of other dtype": lambda x, w, y, b: ((x, w, y), {"linear_bias": b.float()}),
    "bias of other shape": lambda x, w, y, b: ((x, w, y), {"linear_bias": b[:2]}),
    "list": lambda x, w, y, _: (([[1.0]], w, y), {}),
    "options": lambda x, w, y, _: ((x, w, y), {"options": {}}),
    "keyword": lambda x, w, y, _: ((x, w, y), {"bias": None}),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors(case: str) -> None:
    args, kwargs = WRONG[case](*layer())
    expected = outcome(lambda: functional.linear_cross_entropy(*args, **kwargs))
    assert issubclass(expected[0], Exception)
    assert outcome(lambda: dropin.linear_cross_entropy(*args, **kwargs)) == expected


def test_signatures() -> None:
    for name in ("linear_cross_entropy", "LinearCrossEntropyLoss"):
        ours, theirs = (
            inspect.signature(getattr(m, name)).parameters.values()
            for m in (dropin, functional if name.islower() else torch.nn)
        )
        assert [(p.name, p.default, p.kind) for p in ours] == [
            (p.name, p.default, p.kind) for p in theirs
        ]


def test_module() -> None:
    kwargs: Any = {"bias": True, "reduction": "sum", "dtype": torch.float64}
    kwargs |= {"weight": torch.rand(5).double(), "ignore_index": 2, "label_smoothing": 0.1}
    ours, theirs = (m.LinearCrossEntropyLoss(3, 5, **kwargs) for m in (dropin, torch.nn))
    assert isinstance(ours, torch.nn.LinearCrossEntropyLoss)
    assert repr(ours) == repr(theirs)
    theirs.load_state_dict(ours.state_dict())
    x, _, y, _ = layer()
    assert is_ours(ours(x, y))
    close(ours(x, y), theirs(x, y))
    many = {"out_features": (2, 4)}
    ours, theirs = (m.LinearCrossEntropyLoss(3, 5, **many) for m in (dropin, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    y = torch.randint(5, (7, 2, 4))
    close(ours(x.float(), y), theirs(x.float(), y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast(dtype: Any) -> None:
    x, w, y, b = layer(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (run(m, x, w, y, b) for m in (dropin, functional))
    assert is_ours(found[0])
    for got, want in zip(found, expected, strict=True):
        exact = dtype is torch.float64
        close(got, want, **TOLERANCE[torch.float64 if exact else torch.bfloat16])


# In a process of its own: the most memory it ever had beside tensors and gradients, after a small
# call that brings code and threads.
MEMORY = """
import pathlib, re
import torch
from xentfast.dropin.torch import linear_cross_entropy

status = pathlib.Path("/proc/self/status")
most = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text(encoding="ascii"))[1])
x = torch.full((1700, 1024), 0.25, requires_grad=True)
w = torch.full((32_768, 1024), 0.25, requires_grad=True)
y = torch.zeros(1700, dtype=torch.int64)
torch.autograd.grad(linear_cross_entropy(x[:64], w[:64], y[:64]), (x, w))
pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # begins anew
before = most()
linear_cross_entropy(x, w, y).backward()
print(most() - before - x.nbytes - w.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_memory_with_what_the_blas_keeps() -> None:
    command = [sys.executable, "-P", "-c", MEMORY]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert int(result.stdout) < 80 * 2**20  # of 223 MB of logits


# --- autograd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [None, FEW], ids=["", "options"])
def test_gradcheck(options: Any, reduction: str) -> None:
    x, w, y, b = layer(rows=4, classes=3)

    def f(x: Any, w: Any, b: Any) -> Any:
        return dropin.linear_cross_entropy(
            x, w, y, linear_bias=b, options=options, reduction=reduction
        )

    assert is_ours(f(x, w, b))
    assert torch.autograd.gradcheck(f, (x, w, b))
    assert torch.autograd.gradgradcheck(f, (x, w, b))


@pytest.mark.parametrize("wanted", range(8))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_the_gradients_that_are_wanted(wanted: int, reduction: str) -> None:
    x, w, y, b = layer()
    leaves = (x, w, b)
    for i, t in enumerate(leaves):
        t.requires_grad_(bool(wanted >> i & 1))
    loss = dropin.linear_cross_entropy(x, w, y, linear_bias=b, reduction=reduction)
    assert loss.requires_grad == bool(wanted)
    if not wanted:
        return
    for retain_graph in (True, False):
        loss.sum().backward(retain_graph=retain_graph)
    theirs = functional.linear_cross_entropy(x, w, y, linear_bias=b, reduction=reduction)
    expected = torch.autograd.grad(2 * theirs.sum(), [t for t in leaves if t.requires_grad])
    for t in leaves:
        assert (t.grad is not None) == t.requires_grad
    close([t.grad for t in leaves if t.requires_grad], list(expected))


def test_gradients_are_not_copied() -> None:
    x, w, y, b = layer(torch.float32)
    loss = dropin.linear_cross_entropy(x, w, y, linear_bias=b)
    places = [g.data_ptr() for g in loss.grad_fn.gradients]
    loss.backward()
    assert [t.grad.data_ptr() for t in (x, w, b)] == places


def test_second_backward() -> None:
    x, w, y, _ = layer()
    loss = dropin.linear_cross_entropy(x, w, y, options=FEW)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_scaled_gradients_in_half() -> None:
    """The entries are too small for float16 without the scale."""
    x, w = torch.randn(500, 8).half(), torch.randn(900, 8).half()
    y = torch.randint(900, (500,))
    leaves = [t.requires_grad_() for t in (x, w)]
    (dropin.linear_cross_entropy(x, w, y) * 32768).backward()
    wide = [t.detach().double().requires_grad_() for t in leaves]
    (functional.linear_cross_entropy(*wide, y) * 32768).backward()
    for got, want in zip(leaves, wide, strict=True):
        error = (got.grad.double() - want.grad).abs().max()
        assert error < 1e-2 * want.grad.abs().max()


# --- what is torch's ------------------------------------------------------------------------------


def test_gradient_of_targets_and_weights() -> None:
    x, w, _, _ = layer()
    target, weight = torch.rand(7, 5).double(), torch.rand(5).double()
    for t in (target, weight):
        t.requires_grad_()
        ours, theirs = (
            torch.autograd.grad(m.linear_cross_entropy(x, w, target, weight=weight), t)[0]
            for m in (dropin, functional)
        )
        close(ours, theirs)
        t.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_functional_transforms() -> None:
    x, w, y, _ = (t.detach() for t in layer())
    for transform in (
        lambda f: torch.func.grad(f)(x),
        lambda f: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
        lambda f: torch.vmap(f)(torch.stack([x, 2 * x])),
    ):
        ours, theirs = (
            transform(lambda x, m=m: m.linear_cross_entropy(x, w, y)) for m in (dropin, functional)
        )
        close(ours, theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile() -> None:
    x, w, y, b = layer()
    torch.compiler.reset()
    f = torch.compile(dropin.linear_cross_entropy, backend="aot_eager", fullgraph=True)
    loss = f(x, w, y, linear_bias=b)
    close(loss, functional.linear_cross_entropy(x, w, y, linear_bias=b))


def test_other_tensors() -> None:
    x, w, y, _ = layer(rows=0)
    close(*(m.linear_cross_entropy(x, w, y) for m in (dropin, functional)), equal_nan=True)
    meta = dropin.linear_cross_entropy(*(t.to("meta") for t in (x, w, y)), reduction="none")
    assert meta.is_meta


# --- training -------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """Words to the next word: an embedding, a window of three words, the output layer."""

    def __init__(self, words: int, features: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(words, features)
        self.hidden = torch.nn.Linear(3 * features, features)
        self.output = torch.nn.Linear(features, words)

    def forward(self, words: Any) -> Any:
        return self.hidden(self.embedding(words).flatten(1)).tanh()


@pytest.mark.parametrize("names", ["dropin", "module"])
def test_training(names: str) -> None:
    """The losses of 50 steps are those of torch's two steps."""
    words, features, rows = 32_768, 8, 24
    text = torch.randint(words, (50 * rows + 3,)) // (1 + torch.randint(900, (50 * rows + 3,)))
    losses = []
    for ours in (False, True):
        torch.manual_seed(1)
        model = Model(words, features)
        if ours and names == "module":
            module = dropin.LinearCrossEntropyLoss(features, words, bias=True)
            module.linear = model.output
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        found = []
        for step in range(50):
            windows = text[step * rows : (step + 1) * rows + 3].unfold(0, 4, 1)
            inner, target = model(windows[:, :3]), windows[:, 3]
            if not ours:
                loss = functional.cross_entropy(model.output(inner), target)
            elif names == "module":
                loss = module(inner, target)
            else:
                weight, bias = model.output.weight, model.output.bias
                loss = dropin.linear_cross_entropy(inner, weight, target, linear_bias=bias)
            assert is_ours(loss) == ours
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0][-1] < losses[0][0] - 1
    close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-4, atol=0)
