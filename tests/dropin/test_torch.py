"""The drop-in for PyTorch against PyTorch itself."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import xentfast
from cases import ISAS
from xentfast import _kernels

torch: Any = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

import xentfast.dropin.torch as dropin  # noqa: E402

CE, BCE, BCEL = "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits"
NAMES = (CE, BCE, BCEL)
MODULES = {CE: "CrossEntropyLoss", BCE: "BCELoss", BCEL: "BCEWithLogitsLoss"}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# torch's own rounding: sums and intermediate results in the dtype
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-14},
    torch.float32: {"rtol": 2e-5, "atol": 2e-6},
    torch.float16: {"rtol": 1e-2, "atol": 1e-2},
    torch.bfloat16: {"rtol": 6e-2, "atol": 6e-2},
}
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def is_ours(loss: Any) -> bool:
    return loss.grad_fn is not None and loss.grad_fn.name() == "_MadeBackward"


def run(module: Any, name: str, logits: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Return the loss and the gradient, for a factor from above that is not 1."""
    x = logits.detach().clone().requires_grad_()
    loss = getattr(module, name)(x, *args, **options)
    above = torch.linspace(0.5, 2, loss.numel()).to(loss.dtype).reshape(loss.shape)
    return loss, torch.autograd.grad(loss, x, above)[0]


def compare(name: str, logits: Any, *args: Any, **options: Any) -> None:
    """Hold value and gradient against torch's, and the value alone against the value."""
    loss, gradient = run(dropin, name, logits, *args, **options)
    expected, expected_gradient = run(functional, name, logits, *args, **options)
    assert is_ours(loss)
    tolerance = TOLERANCE[logits.dtype]
    close(loss, expected, equal_nan=True, **tolerance)
    close(gradient, expected_gradient, equal_nan=True, **tolerance)
    assert gradient.stride() == torch.empty_like(logits).stride()
    assert torch.equal(value_of(name, logits, *args, **options).nan_to_num(), loss.nan_to_num())


def value_of(name: str, *args: Any, **options: Any) -> Any:
    with torch.no_grad():
        return getattr(dropin, name)(*args, **options)


def outcome(f: Callable[[], Any]) -> Any:
    """Return the result, or the kind and text of the error."""
    try:
        return f()
    except Exception as error:
        return type(error), str(error)


def inputs(name: str, dtype: Any = torch.float64, shape: tuple[int, ...] = (4, 5)) -> Any:
    x = torch.randn(shape, dtype=torch.float64)
    if name == CE:
        return x.to(dtype), torch.randint(shape[1], (shape[0], *shape[2:]))
    return (x.sigmoid() if name == BCE else x).to(dtype), torch.rand(shape).to(dtype)


# --- torch's own samples --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples() -> Callable[[str, Any], Iterator[Any]]:
    pytest.importorskip("expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

        found = {op.name: op for op in op_db if op.name in {f"nn.functional.{n}" for n in NAMES}}
        return lambda name, dtype: list(
            found[f"nn.functional.{name}"].sample_inputs("cpu", dtype, requires_grad=True)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_torch_samples(name: str, dtype: Any, samples: Any) -> None:
    carried = 0
    for sample in samples(name, dtype):
        args = [a.detach() for a in (sample.input, *sample.args)]
        options = {
            k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in sample.kwargs.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss, gradient = run(dropin, name, *args, **options)
            expected, expected_gradient = run(functional, name, *args, **options)
        close(loss, expected, equal_nan=True, **TOLERANCE[dtype])
        close(gradient, expected_gradient, equal_nan=True, **TOLERANCE[dtype])
        carried += is_ours(loss)
    assert carried > 3


# --- values and gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", NAMES)
def test_options(name: str, dtype: Any, weighted: bool, reduction: str) -> None:
    x, y = inputs(name, dtype, (4, 5, 3))
    weight = torch.rand(5 if name == CE else (5, 1)).to(dtype) if weighted else None
    options = {"weight": weight, "reduction": reduction}
    if name == BCEL and weighted:
        options["pos_weight"] = 3 * torch.rand(4, 1, 3).to(dtype)
    compare(name, x, y, **options)
    if name == CE:
        y[0, 1] = 3
        for target in (y, x.softmax(1)):
            compare(name, x, target, label_smoothing=0.2, **options)
        compare(name, x, y, label_smoothing=0.2, ignore_index=3, **options)


@pytest.mark.parametrize(
    ("x", "y"),
    [((5,), ()), ((1, 1), (1,)), ((3, 5), (3,)), ((2, 5, 1, 2, 1, 2, 2), (2, 1, 2, 1, 2, 2))],
    ids=str,
)
def test_shapes(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    classes = x[0] if len(x) == 1 else x[1]
    for reduction in ("mean", "sum", "none"):
        compare(CE, torch.randn(x), torch.randint(classes, y), reduction=reduction)
        compare(CE, torch.randn(x), torch.rand(x), reduction=reduction)
        compare(BCEL, torch.randn(x[:6]), torch.rand(x[:6]), reduction=reduction)
    compare(BCEL, torch.randn(()), torch.rand(()))


def layouts() -> dict[str, Any]:
    x = torch.randn(3, 4, 5, 6)
    return {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 5, 6, 4).movedim(-1, 1),
        "slices": torch.randn(6, 4, 5, 12)[::2, :, :, 1::2],
        "expanded": x[:1].expand(3, 4, 5, 6),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", layouts())
def test_layouts(layout: str, dtype: Any) -> None:
    x = layouts()[layout].to(dtype)
    for reduction in ("mean", "none"):
        compare(CE, x, torch.randint(4, (6, 5, 3)).permute(2, 1, 0), reduction=reduction)
        compare(CE, x, layouts()[layout].to(dtype).softmax(1), reduction=reduction)
        compare(BCEL, x, layouts()[layout].to(dtype).sigmoid(), reduction=reduction)


def test_views_are_read_in_place() -> None:
    storage = torch.randn(8, 3, 5)
    x, y = storage[::2].mT.requires_grad_(), torch.randint(5, (4, 3))
    loss = dropin.cross_entropy(x, y)
    close(loss, functional.cross_entropy(x, y))
    with torch.no_grad():
        storage[0, 0, y[0, 0]] -= 9
        close(dropin.cross_entropy(x, y), functional.cross_entropy(x, y))


def test_value_is_that_of_the_core() -> None:
    x, y = torch.randn(40, 30), torch.randint(30, (40,))
    value, gradient = xentfast.cross_entropy_value_and_grad(x.numpy(), y.numpy())
    z = x.clone().requires_grad_()
    loss = dropin.cross_entropy(z, y)
    loss.backward()
    assert loss.item() == value
    assert np.array_equal(z.grad.numpy(), gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(1, 2), (32, 100), (200, 100), (700, 1000)], ids=str)
def test_usual_case(
    shape: tuple[int, int], reduction: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes a way of its own, small or large, to the same bits."""
    monkeypatch.setattr(dropin, "_try", None)
    x, y = torch.randn(shape, dtype=dtype), torch.randint(shape[1], shape[:1])
    y[1:4] = 1
    value, gradient = xentfast.cross_entropy_value_and_grad(
        x.numpy(), y.numpy(), ignore_index=1, reduction=reduction
    )
    options: Any = {"ignore_index": 1, "reduction": reduction}
    with torch.no_grad():
        assert np.array_equal(dropin.cross_entropy(x, y, **options).numpy(), value, True)
    loss = dropin.cross_entropy(x.requires_grad_(), y, **options)
    loss.backward()
    assert loss.dtype is dtype
    assert np.array_equal(loss.detach().numpy(), value, equal_nan=True)
    assert np.array_equal(x.grad.numpy(), gradient)


@pytest.mark.parametrize("isa", ISAS)
def test_usual_case_in_each_instruction_set(isa: str) -> None:
    before = _kernels.get_isa()
    x, y = torch.randn(40, 30), torch.randint(30, (40,))
    _kernels.set_isa(isa)
    try:
        close(dropin.cross_entropy(x, y), functional.cross_entropy(x, y))
    finally:
        _kernels.set_isa(before)


def test_what_cannot_be_read_at_an_address() -> None:
    x, y, gradient = torch.randn(2, 3), torch.tensor([0, 2]), torch.zeros(2, 3)
    places = (x.data_ptr(), y.data_ptr(), gradient.data_ptr())
    at = _kernels.cross_entropy_at
    assert at(*places, 2, 3, False, True, -100) == xentfast.cross_entropy(x.numpy(), y.numpy())
    for wrong in ((0, *places[1:]), (places[0], 0, places[2])):
        assert at(*wrong, 2, 3, False, True, -100) is None
    for shape in ((0, 3), (2, 0), (-1, 3), (2, 2)):  # the last has a label too large
        assert at(*places, *shape, False, True, -100) is None
    assert at(*places, 2, 3, False, True, 2**70) is None
    with pytest.raises(OverflowError):
        at(-1, *places[1:], 2, 3, False, True, -100)
    with torch.no_grad():
        close(dropin.cross_entropy(x, y, ignore_index=2**62), functional.cross_entropy(x, y))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name: str) -> None:
    for reduction in ("mean", "sum", "none"):
        options: Any = {"reduction": reduction}
        for weight in (None, torch.rand(5, dtype=torch.float64)):
            args = inputs(name, shape=(0, 5))
            loss, gradient = run(dropin, name, *args, weight=weight, **options)
            expected, _ = run(functional, name, *args, weight=weight, **options)
            close(loss, expected, equal_nan=True, rtol=0, atol=0)
            assert gradient.shape == (0, 5)


def test_all_ignored() -> None:
    x, y = torch.randn(4, 5), torch.full((4,), -100)
    for reduction in ("mean", "sum", "none"):
        compare(CE, x, y, reduction=reduction)
    compare(CE, x.half(), y)


# --- better than torch ----------------------------------------------------------------------------


def test_ignored_row_leaks_nothing() -> None:
    x, y = torch.randn(3, 4), torch.tensor([1, -100, 2])
    x[1] = torch.nan
    assert run(functional, CE, x, y)[1].isnan().any()
    loss, gradient = run(dropin, CE, x, y)
    close(loss, functional.cross_entropy(x, y))
    assert torch.equal(gradient[1], torch.zeros(4))
    assert gradient.isfinite().all()


def test_confident_row_keeps_its_digits() -> None:
    x, y = torch.tensor([[20.0, 0, 0]]), torch.tensor([0])
    assert functional.cross_entropy(x, y) == 0
    loss, gradient = run(dropin, CE, x, y)
    assert loss.item() == pytest.approx(4.1223072363e-9, rel=1e-6)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-15)
    assert gradient[0, 0].item() == pytest.approx(-4.1223072363e-9 / 2, rel=1e-6)


def test_masked_class() -> None:
    x, t = torch.tensor([[1.0, 2.0, -torch.inf]]), torch.tensor([[0.25, 0.75, 0.0]])
    assert functional.cross_entropy(x, t).isnan()
    close(dropin.cross_entropy(x, t), functional.cross_entropy(x[:, :2], t[:, :2]))
    assert value_of(BCEL, torch.tensor([torch.inf]), torch.ones(1)) == 0


def test_half_does_not_overflow() -> None:
    x, y = torch.ones(1, 70_000, dtype=torch.float16), torch.tensor([0])
    assert functional.cross_entropy(x, y).isinf()
    assert dropin.cross_entropy(x, y).item() == pytest.approx(np.log(70_000), rel=1e-3)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("scale", [32768.0, -32768.0, 0.0])
def test_scaled_gradient_in_half(scale: float, soft: bool, weighted: bool) -> None:
    """Of 1000 rows and 2000 classes the entries are too small for float16 without the scale."""
    x = torch.randn(1000, 2000, dtype=torch.float16, requires_grad=True)
    y = torch.randint(2000, (1000,))
    y[::3] = -100
    target = x.detach().softmax(1) if soft else y
    weight = torch.rand(2000, dtype=torch.float16) if weighted else None
    (dropin.cross_entropy(x, target, weight) * scale).backward()
    z = x.detach().double().requires_grad_()
    wide = [t if t is None or t.dtype is torch.int64 else t.double() for t in (target, weight)]
    (functional.cross_entropy(z, *wide) * scale).backward()
    close(x.grad.double(), z.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", [BCE, BCEL])
def test_scaled_binary_gradient_in_half(name: str) -> None:
    x, t = inputs(name, torch.float16, (300, 400))
    for weight in (None, torch.rand(400, dtype=torch.float16)):
        x = x.detach().requires_grad_()
        z = x.detach().double().requires_grad_()
        (getattr(dropin, name)(x, t, weight) * 4096).backward()
        wide = None if weight is None else weight.double()
        (getattr(functional, name)(z, t.double(), wide) * 4096).backward()
        close(x.grad.double(), z.grad, rtol=1e-3, atol=1e-6)


# --- to the letter --------------------------------------------------------------------------------


def test_signatures() -> None:
    for name in (*NAMES, "nll_loss"):
        ours, theirs = (
            inspect.signature(getattr(m, name)).parameters.values() for m in (dropin, functional)
        )
        assert [(p.name, p.default, p.kind) for p in ours] == [
            (p.name, p.default, p.kind) for p in theirs
        ]
    linear = {"linear_cross_entropy", "LinearCrossEntropyLoss"}
    assert set(dropin.__all__) == {*NAMES, "nll_loss", *MODULES.values(), "NLLLoss", *linear}


def test_log_likelihood_is_torch_s() -> None:
    assert dropin.nll_loss is functional.nll_loss
    assert dropin.NLLLoss is torch.nn.NLLLoss


X, Y, P = torch.ones(3, 4), torch.tensor([0, 1, 2]), torch.full((3, 4), 0.25)
WRONG = {
    "label too large": (CE, (X, torch.tensor([0, 4, 1])), {}),
    "label too small": (CE, (X, torch.tensor([0, -1, 1])), {}),
    "label of an image": (CE, (torch.ones(1, 2, 1, 1), torch.tensor([[[2]]])), {}),
    "int32 labels": (CE, (X, Y.int()), {}),
    "boolean labels": (CE, (X, Y.bool()), {}),
    "labels of the input's shape": (CE, (X, X.long()), {}),
    "too few labels": (CE, (X, Y[:2]), {}),
    "a column of labels": (CE, (X, Y[:, None]), {}),
    "soft labels of other shape": (CE, (X, P[:2]), {}),
    "integer input": (CE, (X.long(), Y), {}),
    "complex input": (CE, (X.cfloat(), Y), {}),
    "input without axes": (CE, (torch.tensor(1.0), torch.tensor(0)), {}),
    "list": (CE, ([[1.0]], Y), {}),
    "array": (CE, (X, Y.numpy()), {}),
    "None": (CE, (X, None), {}),
    "weight of other shape": (CE, (X, Y, torch.ones(3)), {}),
    "weight of other dtype": (CE, (X, Y, torch.ones(4).double()), {}),
    "list of weights": (CE, (X, Y, [1.0] * 4), {}),
    "reduction": (CE, (X, Y), {"reduction": "avg"}),
    "label smoothing": (CE, (X, Y), {"label_smoothing": 1.5}),
    "ignored soft label": (CE, (X, P), {"ignore_index": 1}),
    "ignored fraction": (CE, (X, Y), {"ignore_index": 1.5}),
    "keyword": (CE, (X, Y), {"axis": 1}),
    "size": (BCE, (P, P[:2]), {}),
    "size with logits": (BCEL, (X, X[:2]), {}),
    "probability above 1": (BCE, (X + 1, P), {}),
    "probability nan": (BCE, (X * torch.nan, P), {}),
    "binary label above 1": (BCE, (P, X + 1), {}),
    "integer binary labels": (BCE, (P, X.long()), {}),
    "dtypes": (BCE, (P, P.double()), {}),
    "binary weight": (BCE, (P, P, torch.ones(3)), {}),
    "binary weight with logits": (BCEL, (X, P, torch.ones(3)), {}),
    "integer labels with logits": (BCEL, (X, X.long()), {}),
    "weight that broadens": (BCEL, (X, P, torch.ones(2, 3, 4)), {}),
    "pos_weight": (BCEL, (X, P), {"pos_weight": torch.ones(3)}),
    "binary reduction": (BCEL, (X, P), {"reduction": "avg"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors(case: str) -> None:
    name, args, options = WRONG[case]
    expected = outcome(lambda: getattr(functional, name)(*args, **options))
    assert issubclass(expected[0], Exception)
    assert outcome(lambda: getattr(dropin, name)(*args, **options)) == expected


ODD = {
    "byte labels": (CE, (X, Y.byte()), {}),
    "soft labels in double": (CE, (X, P.double()), {}),
    "negative weight": (CE, (X, Y, -torch.ones(4)), {}),
    "binary label beyond 1 with logits": (BCEL, (X, X + 1), {}),
    "probabilities clipped": (BCE, (torch.tensor([0.0, 1, 1e-13]), torch.tensor([1.0, 0, 1])), {}),
    "negative binary weight": (BCE, (P, P, -torch.ones(4)), {}),
    "eight axes": (
        CE,
        (torch.randn(2, 3, 1, 1, 1, 1, 1, 2), torch.zeros(2, *[1] * 5, 2).long()),
        {},
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_what_torch_allows(case: str) -> None:
    name, args, options = ODD[case]
    loss, gradient = run(dropin, name, *args, **options)
    expected, expected_gradient = run(functional, name, *args, **options)
    close(loss, expected)
    close(gradient, expected_gradient)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}],
    ids=str,
)
def test_legacy_options(name: str, options: Any) -> None:
    args = inputs(name)
    deprecated = "args will be deprecated, please use reduction"
    with pytest.warns(UserWarning, match=deprecated) as expected_warnings:
        expected = getattr(functional, name)(*args, **options)
    with pytest.warns(UserWarning, match=deprecated) as our_warnings:
        loss = getattr(dropin, name)(*args, **options)
    close(loss, expected)
    assert [str(w.message) for w in our_warnings] == [str(w.message) for w in expected_warnings]


@pytest.mark.parametrize("name", NAMES)
def test_modules(name: str) -> None:
    ours, theirs = (getattr(m, MODULES[name]) for m in (dropin, torch.nn))
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    weight = torch.rand(5, dtype=torch.float64)
    options: Any = {"weight": weight, "reduction": "sum"}
    if name == CE:
        options |= {"ignore_index": 2, "label_smoothing": 0.1}
    if name == BCEL:
        options["pos_weight"] = weight + 1
    a, b = ours(**options), theirs(**options)
    assert repr(a) == repr(b)
    assert list(a.state_dict()) == list(b.state_dict())
    x, y = inputs(name)
    x.requires_grad_()
    assert is_ours(a(x, y))
    close(a(x, y), b(x, y))


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_autocast(name: str, dtype: Any, cast: Any) -> None:
    x, y = inputs(name, dtype)
    weight = torch.rand(5, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    with torch.autocast("cpu", cast):
        loss, gradient = run(dropin, name, x, y, weight)
        expected, expected_gradient = run(functional, name, x, y, weight)
        assert is_ours(loss)
        close(loss, expected)
        close(gradient, expected_gradient)
        x.requires_grad_()
        loss = getattr(dropin, name)(x, y, weight)
    slope = torch.autograd.grad(loss, x, create_graph=True)[0]
    close(slope * 0.5, gradient, rtol=2e-2, atol=1e-6)


# --- autograd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str, weighted: bool, reduction: str) -> None:
    x, y = inputs(name)
    weight = torch.rand(5, dtype=torch.float64) + 0.5 if weighted else None

    def f(x: Any) -> Any:
        return getattr(dropin, name)(x, y, weight, reduction=reduction)

    x.requires_grad_()
    assert is_ours(f(x))
    assert torch.autograd.gradcheck(f, x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, x)


def test_gradcheck_soft_and_smooth() -> None:
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    for target in (torch.rand(3, 4, 2, dtype=torch.float64), torch.randint(4, (3, 2))):

        def f(x: Any, target: Any = target) -> Any:
            return dropin.cross_entropy(x, target, ignore_index=-7, label_smoothing=0.3)

        assert torch.autograd.gradcheck(f, x)
        assert torch.autograd.gradgradcheck(f, x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradient_is_given_away_once(name: str, reduction: str) -> None:
    """What a caller does to one gradient shows in no other."""
    x, y = inputs(name)
    x.requires_grad_()
    loss = getattr(dropin, name)(x, y, reduction=reduction).sum()
    gradients = [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2)]
    kept = gradients[1].clone()
    gradients[0].fill_(7)
    gradients.append(torch.autograd.grad(3 * loss, x, retain_graph=True)[0])
    gradients[2].div_(3)
    gradients.append(torch.autograd.grad(loss, x)[0])
    for gradient in gradients[1:]:
        close(gradient, kept)
    assert len({g.data_ptr() for g in gradients}) == 4
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, x)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_not_copied(name: str) -> None:
    x, y = inputs(name, torch.float32)
    x.requires_grad_()
    for reduction in ("mean", "none"):
        loss = getattr(dropin, name)(x, y, reduction=reduction)
        place = loss.grad_fn.gradient.data_ptr()
        x.grad = None
        loss.sum().backward()
        assert x.grad.data_ptr() == place


def test_gradients_accumulate() -> None:
    x, y = inputs(CE)
    x.requires_grad_()
    a, b = dropin.cross_entropy(x, y), dropin.cross_entropy(x, y.flip(0))
    (a + 2 * b).backward()
    (a.detach() * dropin.cross_entropy(x, y)).backward()
    z = x.detach().requires_grad_()
    c, d = functional.cross_entropy(z, y), functional.cross_entropy(z, y.flip(0))
    ((1 + c.detach()) * c + 2 * d).backward()
    close(x.grad, z.grad)


@pytest.mark.parametrize("factor", [torch.nan, 0.0, -2.0])
def test_factors(factor: float) -> None:
    for dtype in (torch.float32, torch.float16):
        x, y = inputs(CE, dtype)
        x.requires_grad_()
        z = x.detach().requires_grad_()
        dropin.cross_entropy(x, y).backward(torch.tensor(factor, dtype=dtype))
        functional.cross_entropy(z, y).backward(torch.tensor(factor, dtype=dtype))
        close(x.grad, z.grad, equal_nan=True, **TOLERANCE[dtype])


def test_logits_may_change_after_the_loss() -> None:
    x, y = inputs(CE)
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    loss = dropin.cross_entropy(logits, y)
    logits.mul_(3)
    loss.backward()
    close(leaf.grad, run(functional, CE, x, y)[1] * 2)


def test_changed_logits_are_noticed() -> None:
    x, y = inputs(CE)
    logits = x.requires_grad_() * 1
    loss = dropin.cross_entropy(logits, y)
    loss.backward(retain_graph=True)
    logits.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_anomaly_mode() -> None:
    x, y = inputs(CE)
    with torch.autograd.set_detect_anomaly(True):
        _, gradient = run(dropin, CE, x, y)
        with pytest.raises(RuntimeError, match="'_MadeBackward' returned nan values"):
            run(dropin, CE, x * torch.nan, y)
    close(gradient, run(functional, CE, x, y)[1])


@pytest.mark.parametrize("name", NAMES)
def test_without_gradients(name: str) -> None:
    x, y = inputs(name)
    f = getattr(dropin, name)
    expected = f(x.requires_grad_(), y).item()
    with torch.no_grad():
        assert not f(x, y).requires_grad
        assert f(x, y).item() == expected
    with torch.inference_mode():
        assert f(x, y).is_inference()
        assert f(x, y).item() == expected
        assert f(x * 1, y).item() == expected
    assert not f(x.detach(), y).requires_grad


def test_checkpoint() -> None:
    from torch.utils.checkpoint import checkpoint

    x, y = inputs(CE)
    z = x.clone().requires_grad_()
    checkpoint(lambda x: dropin.cross_entropy(2 * x, y), z, use_reentrant=False).backward()
    close(z.grad, 2 * run(functional, CE, 2 * x, y)[1] * 2)


# --- what is torch's ------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [1, 2], ids=["target", "weight"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_targets_and_weights(name: str, argument: int) -> None:
    """torch has it but for the weight of probabilities: its error is the answer then."""
    args = [inputs(name)[0].requires_grad_()]
    args += [torch.rand(4, 5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)]
    args[argument].requires_grad_()

    def gradient(module: Any) -> Any:
        return torch.autograd.grad(getattr(module, name)(*args), args[argument])[0]

    ours, theirs = (outcome(lambda m=m: gradient(m)) for m in (dropin, functional))
    if isinstance(theirs, torch.Tensor):
        close(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_functional_transforms() -> None:
    x, y = inputs(CE)
    for transform in (
        lambda f: torch.func.grad(f)(x),
        lambda f: torch.func.hessian(f)(x),
        lambda f: torch.func.jacrev(lambda x: f(x).exp())(x),
        lambda f: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
        lambda f: torch.vmap(f)(torch.stack([x, 2 * x])),
        lambda f: torch.vmap(torch.func.grad(f))(torch.stack([x, 2 * x])),
    ):
        ours, theirs = (
            transform(lambda x, m=m: m.cross_entropy(x, y)) for m in (dropin, functional)
        )
        close(ours, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_forward_mode() -> None:
    from torch.autograd import forward_ad

    x, y = inputs(CE)
    tangents = []
    for module in (dropin, functional):
        with forward_ad.dual_level():
            loss = module.cross_entropy(forward_ad.make_dual(x, torch.ones_like(x) * x), y)
            tangents.append(forward_ad.unpack_dual(loss).tangent)
    assert tangents[0] is not None
    close(*tangents)


def test_other_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    x, y = inputs(CE)
    loss = dropin.cross_entropy(x.to("meta"), y.to("meta"), reduction="none")
    assert loss.is_meta
    assert loss.shape == (4,)
    with FakeTensorMode():
        fake = dropin.cross_entropy(torch.empty(3, 4), torch.zeros(3, dtype=torch.int64))
    assert type(fake).__name__ == "FakeTensor"
    sparse = x.to_sparse()
    expected = outcome(lambda: functional.cross_entropy(sparse, y))
    assert issubclass(expected[0], Exception)
    assert outcome(lambda: dropin.cross_entropy(sparse, y)) == expected
    negative = torch.complex(x, x).conj().imag
    assert negative.is_neg()
    close(dropin.cross_entropy(negative, y), functional.cross_entropy(negative, y))


def test_subclasses_and_modes() -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Tagged(torch.Tensor):
        pass

    class Functions(TorchFunctionMode):
        def __torch_function__(self, f: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(f)
            return f(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, f: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(f)
            return f(*args, **(kwargs or {}))

    x, y = inputs(CE)
    assert type(dropin.cross_entropy(x.as_subclass(Tagged), y)) is Tagged
    seen: list[Any] = []
    with Functions():
        dropin.cross_entropy(x, y)
    assert functional.cross_entropy in seen
    with Operators():
        dropin.cross_entropy(x, y)
    assert torch.ops.aten._log_softmax.default in seen
    assert is_ours(dropin.cross_entropy(torch.nn.Parameter(x), y))


def test_tracing() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, y = inputs(CE)
    expected = functional.cross_entropy(2 * x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(dropin.cross_entropy, (x, y))
    close(traced(2 * x, y), expected)
    close(make_fx(lambda x, y: dropin.cross_entropy(x, y))(x, y)(2 * x, y), expected)


# --- torch.compile --------------------------------------------------------------------------------


def compiled(f: Any, backend: Any = "aot_eager") -> Any:
    torch.compiler.reset()
    return torch.compile(f, fullgraph=True, backend=backend)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile(name: str) -> None:
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    x, y = inputs(name)
    weight = torch.rand(5, dtype=torch.float64)
    x.requires_grad_()

    def f(x: Any) -> Any:
        return getattr(dropin, name)(x, y, weight, reduction="none")

    close(compiled(f, backend)(x), getattr(functional, name)(x, y, weight, reduction="none"))
    assert any("xentfast.loss" in str(node.target) for node in graphs[0].graph.nodes)
    for reduction in ("mean", "none"):

        def step(m: Any, x: Any, reduction: str = reduction) -> Any:
            return -3 * getattr(m, name)(2 * x, y, weight, reduction=reduction).sum()

        x = (x / 2).detach().requires_grad_()
        loss = compiled(lambda x: step(dropin, x))(x)
        close(loss, step(functional, x))
        close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(step(functional, x), x)[0])


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_with_inductor() -> None:
    x, y = torch.randn(6, 8, 3).mT, torch.randint(3, (6, 8))
    leaf = x.clone().requires_grad_()
    loss = compiled(lambda x: 2 * dropin.cross_entropy(3 * x, y), "inductor")(leaf)
    loss.backward()
    expected, gradient = run(functional, CE, 3 * x, y)
    close(loss, 2 * expected)
    close(leaf.grad, 12 * gradient)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_what_is_torch_s() -> None:
    """What only a run can tell is torch's there too, error and gradient."""
    x, y = inputs(CE, torch.float32)
    f = compiled(dropin.cross_entropy)
    y[0] = 5
    with pytest.raises(IndexError, match="Target 5 is out of bounds"):
        f(x, y)
    logits, t = inputs(BCEL, torch.float32)
    z = logits.t().contiguous().t().requires_grad_()
    loss = compiled(dropin.binary_cross_entropy_with_logits)(z, 2 + t)
    expected, gradient = run(functional, BCEL, logits, 2 + t)
    close(loss, expected)
    (loss / 2).backward()
    close(z.grad, gradient)
    odd = compiled(lambda x: dropin.cross_entropy(x, y.clamp(max=4).int().long(), x[0].exp()))
    close(
        odd(x.double()), functional.cross_entropy(x.double(), y.clamp(max=4), x[0].double().exp())
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_functional_transform() -> None:
    x, y = inputs(CE)
    f = compiled(lambda x: torch.func.grad(lambda x: dropin.cross_entropy(x, y))(x))
    close(f(x), torch.func.grad(lambda x: functional.cross_entropy(x, y))(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_half_under_autocast() -> None:
    x, y = inputs(CE, torch.bfloat16)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = compiled(dropin.cross_entropy)(x, y)
        expected = functional.cross_entropy(x, y)
    close(loss, expected)
    close(*(torch.autograd.grad(value, x)[0] for value in (loss, expected)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operator() -> None:
    x, y = inputs(CE)
    x.requires_grad_()
    loss = (x, y, None, None, CE, "mean", -100, 0.1, torch.float64)
    torch.library.opcheck(torch.ops.xentfast.loss.default, loss)
    above = torch.tensor(2.0, dtype=torch.float64)
    torch.library.opcheck(torch.ops.xentfast.loss_backward.default, (above, x.detach(), *loss[1:]))
    f = torch.ops.xentfast.loss.default
    assert torch.autograd.gradgradcheck(lambda x: f(x, *loss[1:]), x)


# --- imports --------------------------------------------------------------------------------------


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, encoding="utf-8", check=False
    )


def test_core_does_not_import_torch() -> None:
    code = "import sys, xentfast, xentfast.dropin; sys.exit('torch' in sys.modules)"
    assert python(code).returncode == 0


def test_missing_torch_names_the_extra() -> None:
    code = "import sys; sys.modules['torch'] = None; import xentfast.dropin.torch"
    assert "pip install 'xentfast[torch]'" in python(code).stderr.splitlines()[-1]
