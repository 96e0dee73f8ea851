"""PyTorch's cross-entropy losses on the CPU: change the import, keep the calls.

`cross_entropy`, `binary_cross_entropy`, `binary_cross_entropy_with_logits` and their modules
`CrossEntropyLoss`, `BCELoss` and `BCEWithLogitsLoss` take, return and raise what those of
`torch.nn.functional` and `torch.nn` do. The gradient is made together with the value, and given to
backward as it is where the factor from above is 1. `nll_loss` and `NLLLoss`, which pick one number
from each row and compute nothing, are torch's own.

torch itself answers for all that is not carried here: other devices, layouts, dtypes and
subclasses, gradients with respect to targets or weights, negative weights, probabilities so near
to 0 or 1 that torch clips them, functorch transforms, forward-mode derivatives, tracing and other
modes, empty tensors, and every argument that is wrong, so that the error is torch's. Under
create_graph the gradient is torch's too, and may be differentiated again. torch.compile sees two
operators, `xentfast::loss` and `xentfast::loss_backward`.

Better than torch, on purpose: a small loss and its gradient keep all their digits; an ignored row
gets the gradient 0 whatever it holds, as do all rows where their weights sum to 0; a class of the
logit -inf counts 0 where its target is 0; binary logits of +-inf give the limit, not nan; sums are
taken in double, and 16-bit numbers are rounded once, at the end. The threads are those of
`xentfast.set_num_threads`, not torch's.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    message = "xentfast.dropin.torch needs PyTorch: pip install 'xentfast[torch]'"
    raise ModuleNotFoundError(message, name="torch") from error
from torch.nn import NLLLoss, functional
from torch.nn.functional import nll_loss
from torch.overrides import has_torch_function_variadic

import xentfast
from xentfast._checks import BFLOAT16

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "NLLLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "nll_loss",
]

# A loss is passed around as the tuple of these; dtype is that of its value.
_LOSS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, str kind, str reduction, "
    "int ignore_index, float label_smoothing, ScalarType dtype) -> Tensor"
)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_CAST = {torch.float32, torch.float16, torch.bfloat16}  # what autocast takes to float32
_CARRIED = _CAST | {torch.float64}
_ASK_TORCH = (TypeError, ValueError, RuntimeError)
# torch floors p (1 - p) at 1e-12 in a gradient, and log p at -100.
_CLIPPED = 2e-12


# --- our losses of tensors ------------------------------------------------------------------------


def _array(t: Any) -> Any:
    t = t.detach()
    return t.view(torch.int16).numpy().view(BFLOAT16) if t.dtype is torch.bfloat16 else t.numpy()


def _wide(weight: Any) -> Any:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _softmax_options(loss: Any, factor: float | None) -> dict[str, Any]:
    """Return options for the loss, or for the sum that is the loss times a factor."""
    input, target, weight, _, _, reduction, ignore_index, label_smoothing, _ = loss
    axis, dense = min(1, input.dim() - 1), target.is_floating_point()
    options = {"axis": axis, "label_smoothing": label_smoothing, "reduction": reduction}
    if not dense or ignore_index >= 0:  # the latter is refused, by torch too
        options["ignore_index"] = ignore_index
    if weight is not None:
        options["class_weight"] = _wide(weight).numpy()
    if factor is not None:
        total = 1.0
        if reduction == "mean" and dense:
            total = target.numel() / input.shape[axis]
        elif reduction == "mean":
            kept = target[target != ignore_index]
            total = kept.numel() if weight is None else _wide(weight)[kept].double().sum().item()
        options |= {"sample_weight": factor / (total or 1), "reduction": "sum"}
    return options


def _sigmoid_options(loss: Any, factor: float | None) -> dict[str, Any]:
    input, _, weight, pos_weight, kind, reduction, *_ = loss
    options = {"from_logits": kind != "binary_cross_entropy", "reduction": reduction}
    if not options["from_logits"]:
        low, high = (end.item() for end in torch.aminmax(input.detach()))
        if not _CLIPPED <= low <= high <= 1 - _CLIPPED:
            raise ValueError("clipped or refused by torch")
    if pos_weight is not None:
        options["pos_weight"] = _wide(pos_weight).numpy()
    if weight is not None or factor is not None:
        # torch's mean is over the entries, whatever their weights
        scale = (1 if factor is None else factor) / (input.numel() if reduction == "mean" else 1)
        if weight is not None:
            weight = _wide(weight) if scale == 1 else _wide(weight) * scale
        options["sample_weight"] = scale if weight is None else weight.expand(input.shape).numpy()
        options["reduction"] = "none" if reduction == "none" else "sum"
    return options


def _evaluate(loss: Any, with_gradient: bool, factor: float | None = None) -> tuple[Any, Any]:
    """Return the value and, if it is wanted, the gradient; raise where torch is to answer."""
    input, target, _, _, kind, *_, dtype = loss
    if not input.numel():
        raise ValueError("nothing to compute")
    softmax = kind == "cross_entropy"
    options = (_softmax_options if softmax else _sigmoid_options)(loss, factor)
    name = "cross_entropy" if softmax else "binary_cross_entropy"
    x, y, gradient = _array(input), _array(target), None
    if with_gradient:
        # allocated by NumPy in any case: it asks for huge pages, which take half the time to fill
        if not input.is_contiguous():
            options["out"] = np.empty_like(x)
        value, gradient = getattr(xentfast, name + "_value_and_grad")(x, y, **options)
        half = input.dtype is torch.bfloat16
        gradient = torch.from_numpy(gradient.view(np.int16) if half else gradient)
        gradient = gradient.view(torch.bfloat16) if half else gradient
    else:
        value = getattr(xentfast, name)(x, y, **options)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).to(dtype), gradient
    return torch.scalar_tensor(value.item(), dtype=dtype), gradient


def _number(factor: Any) -> Any:
    """Return what comes from above as a float where it is one number, or one expanded."""
    if any(factor.stride()):
        return None
    try:
        return (factor[(0,) * factor.dim()] if factor.dim() else factor).item()
    except RuntimeError:  # many, under vmap
        return None


def _scaled(gradient: Any, factor: Any) -> Any:
    """Multiply in place, or not at all."""
    number = _number(factor)
    if number is not None:
        return gradient if number == 1 else gradient.mul_(number)
    if 0 < factor.dim() < gradient.dim():
        factor = factor.unsqueeze(1)
    try:
        return gradient.mul_(factor)
    except RuntimeError:  # many, under vmap
        return gradient * factor


def _gradient(loss: Any, factor: Any) -> Any:
    """Make the gradient; a factor that is one number goes into the kernel, before rounding."""
    number = _number(factor)
    if number is None or number == 1 or not math.isfinite(number):
        return _scaled(_evaluate(loss, True)[1], factor)
    gradient = _evaluate(loss, True, abs(number))[1]
    return gradient.neg_() if number < 0 else gradient


# --- torch's losses -------------------------------------------------------------------------------


def _torch(loss: Any) -> Any:
    *tensors, kind, reduction, ignore_index, label_smoothing, dtype = loss
    input, target, weight, pos_weight = (
        t.to(dtype) if t is not None and t.is_floating_point() else t for t in tensors
    )
    options = {"weight": weight, "reduction": reduction}
    if kind == "cross_entropy":
        options |= {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    elif pos_weight is not None:
        options["pos_weight"] = pos_weight
    return getattr(functional, kind)(input, target, **options)


def _torch_gradient(loss: Any, factor: Any) -> Any:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        value = _torch(loss)
    return torch.autograd.grad(value, loss[0], factor, create_graph=create_graph)[0]


# --- autograd and torch.compile -------------------------------------------------------------------


class _Made(torch.autograd.Function):
    """A loss whose gradient has been made with it."""

    @staticmethod
    def forward(ctx: Any, input: Any, loss: Any, made: Any) -> Any:
        """Keep the gradient, and what to make another from."""
        ctx.save_for_backward(*loss[:4])
        ctx.options = loss[4:]
        value, ctx.gradient = made
        return value

    @staticmethod
    def backward(ctx: Any, factor: Any) -> Any:
        """Give the gradient away, once: nobody else holds it, so that it may change in place."""
        gradient, ctx.gradient = ctx.gradient, None
        if torch.is_grad_enabled():
            gradient = _torch_gradient((*ctx.saved_tensors, *ctx.options), factor)
        elif gradient is None:
            gradient = _gradient((*ctx.saved_tensors, *ctx.options), factor)
        else:
            gradient = _scaled(gradient, factor)
        return gradient, None, None


@torch.library.custom_op("xentfast::loss", mutates_args=(), schema="(" + _LOSS)
def _loss(*loss: Any) -> Any:
    try:
        return _evaluate(loss, False)[0]
    except _ASK_TORCH:
        return _torch(loss)


@torch.library.custom_op(
    "xentfast::loss_backward", mutates_args=(), schema="(Tensor factor, " + _LOSS
)
def _loss_backward(factor: Any, *loss: Any) -> Any:
    try:
        gradient = _gradient(loss, factor)
    except _ASK_TORCH:  # in another thread: autograd is off inside an operator
        loss = (loss[0].detach().requires_grad_(), *loss[1:])
        with ThreadPoolExecutor(1) as elsewhere:
            gradient = elsewhere.submit(_torch_gradient, loss, factor).result()
    same = gradient.stride() == torch.empty_like(loss[0], device="meta").stride()
    return gradient if same else torch.empty_like(loss[0]).copy_(gradient)


@_loss.register_fake
def _(*loss: Any) -> Any:
    input, _, _, _, kind, reduction, *_, dtype = loss
    shape = input.shape if reduction == "none" else ()
    return input.new_empty(_lead(shape) if kind == "cross_entropy" else shape, dtype=dtype)


@_loss_backward.register_fake
def _(factor: Any, *loss: Any) -> Any:
    return torch.empty_like(loss[0])


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, factor: Any) -> Any:
    loss = (*ctx.saved_tensors, *ctx.options)
    if torch.is_grad_enabled():
        return _torch_gradient(loss, factor), *(None,) * 8
    return _loss_backward(factor, *loss), *(None,) * 8


_loss.register_autograd(_backward, setup_context=_keep)


# --- the public names -----------------------------------------------------------------------------


def _lead(shape: Any) -> Any:
    """Return a shape without its classes."""
    return (*shape[: len(shape) > 1], *shape[2:])


def _dtype(tensors: list[Any], softmax: bool) -> Any:
    """Return the dtype of the value, None where torch is to answer."""
    if not all(type(t) in _PLAIN and t.is_cpu for t in tensors):
        return None
    if has_torch_function_variadic(*tensors):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors[1:]):
        return None
    if softmax and tensors[1].dtype is torch.int64:
        tensors = [tensors[0], *tensors[2:]]
    dtypes = {t.dtype for t in tensors}
    if torch.is_autocast_enabled("cpu") and dtypes <= _CAST:
        return torch.float32
    return tensors[0].dtype if len(dtypes) == 1 and dtypes <= _CARRIED else None


def _try(
    kind: str,
    input: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    reduction: str,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """Return the loss, None where torch is to answer."""
    tensors = [t for t in (input, target, weight, pos_weight) if t is not None]
    dtype = _dtype(tensors, kind == "cross_entropy") if len(tensors) > 1 else None
    if dtype is None or reduction not in ("mean", "sum", "none"):
        return None
    options = (kind, reduction, ignore_index, label_smoothing, dtype)
    loss = (input, target, weight, pos_weight, *options)
    if torch._C._are_functorch_transforms_active():
        return None
    if torch.compiler.is_compiling():
        fits = target.shape in (input.shape, _lead(input.shape))
        return _loss(*loss) if fits else None
    if (
        torch._C._len_torch_dispatch_stack()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    ):
        return None
    wanted = input.requires_grad and torch.is_grad_enabled()
    # A gradient in float16 waits for the factor, without which it may be too small to be held.
    now = wanted and (input.dtype is not torch.float16 or reduction == "none")
    try:
        made = _evaluate(loss, now)
    except _ASK_TORCH:
        return None
    return _Made.apply(input, loss, made) if wanted else made[0]


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Return the loss of `torch.nn.functional.cross_entropy`."""
    loss = None
    if size_average is None and reduce is None:
        kind = "cross_entropy"
        loss = _try(kind, input, target, weight, None, reduction, ignore_index, label_smoothing)
    if loss is None:
        loss = functional.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    return loss


def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """Return the loss of `torch.nn.functional.binary_cross_entropy`."""
    loss = None
    if size_average is None and reduce is None:
        loss = _try("binary_cross_entropy", input, target, weight, None, reduction)
    if loss is None:
        loss = functional.binary_cross_entropy(
            input, target, weight, size_average, reduce, reduction
        )
    return loss


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    """Return the loss of `torch.nn.functional.binary_cross_entropy_with_logits`."""
    loss = None
    if size_average is None and reduce is None:
        kind = "binary_cross_entropy_with_logits"
        loss = _try(kind, input, target, weight, pos_weight, reduction)
    if loss is None:
        loss = functional.binary_cross_entropy_with_logits(
            input, target, weight, size_average, reduce, reduction, pos_weight
        )
    return loss


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """The module of `cross_entropy`."""

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class BCELoss(torch.nn.BCELoss):
    """The module of `binary_cross_entropy`."""

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """The module of `binary_cross_entropy_with_logits`."""

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )
