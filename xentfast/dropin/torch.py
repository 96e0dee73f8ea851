"""PyTorch's cross-entropy losses on the CPU: change the import, keep the calls.

`cross_entropy`, `binary_cross_entropy`, `binary_cross_entropy_with_logits` and their modules
`CrossEntropyLoss`, `BCELoss` and `BCEWithLogitsLoss` take, return and raise what those of
`torch.nn.functional` and `torch.nn` do. The gradient is made together with the value, and handed to
backward as it is where the factor from above is 1. `nll_loss` and `NLLLoss`, which pick one number
from each row and compute nothing, are torch's own.

torch itself answers for all that is not carried here: other devices, layouts, dtypes and
subclasses, gradients with respect to targets or weights, negative weights, probabilities so near
to 0 or 1 that torch clips them, functorch transforms, forward-mode derivatives, tracing and other
modes, and every argument that is wrong, so that the error is torch's. Under create_graph the
gradient is torch's too, and may be differentiated again. Under torch.compile the losses are two
operators, `xentfast::loss` and `xentfast::loss_backward`.

Better than torch, on purpose: a small loss and its gradient keep all their digits; an ignored row
gets the gradient 0 whatever it holds, as do all rows where their weights sum to 0; a class of the
logit -inf counts 0 where its target is 0; binary logits of +-inf give the limit, not nan; sums are
taken in double, and 16-bit numbers are rounded once, at the end. Threads: `set_num_threads` of
xentfast.
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
from torch.nn import NLLLoss
from torch.nn import functional as F
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

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_FLOATING = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_CAST = {torch.float32, torch.float16, torch.bfloat16}  # what autocast takes to float32
_ASK_TORCH = (TypeError, ValueError, RuntimeError)
# torch floors p (1 - p) at 1e-12 in a gradient, and clips log p at -100.
_CLIPPED = 2e-12
# A loss as it is passed around below. The dtype is that of the value.
_LOSS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, str kind, str reduction, "
    "int ignore_index, float label_smoothing, ScalarType dtype) -> Tensor"
)


def _array(t: Any) -> Any:
    t = t.detach()
    return t.view(torch.int16).numpy().view(BFLOAT16) if t.dtype is torch.bfloat16 else t.numpy()


def _wide(weight: Any) -> Any:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _softmax(
    factor: float | None, input: Any, target: Any, weight: Any, reduction: str, ignore_index: int
) -> dict[str, Any]:
    """Return options of xentfast.cross_entropy, for the loss times a factor if one is given."""
    axis, dense = min(1, input.dim() - 1), target.is_floating_point()
    options: dict[str, Any] = {"axis": axis, "reduction": reduction}
    if not dense or ignore_index >= 0:  # the latter is refused, by torch too
        options["ignore_index"] = ignore_index
    if weight is not None:
        options["class_weight"] = _wide(weight).numpy()
    if factor is not None and reduction == "mean":
        kept = target if dense else target[target != ignore_index]
        total = kept.numel() / input.shape[axis] if dense else kept.numel()
        if weight is not None and not dense:
            total = _wide(weight)[kept].double().sum().item()
        factor /= total or 1
    if factor is not None:
        options |= {"sample_weight": factor, "reduction": "sum"}
    return options


def _sigmoid(
    factor: float | None, input: Any, weight: Any, pos_weight: Any, kind: str, reduction: str
) -> dict[str, Any]:
    """Return options of xentfast.binary_cross_entropy, likewise."""
    options: dict[str, Any] = {"reduction": reduction}
    if kind == "binary_cross_entropy":
        options["from_logits"] = False
        low, high = (end.item() for end in torch.aminmax(input.detach()))
        if not _CLIPPED <= low <= high <= 1 - _CLIPPED:
            raise ValueError("clipped or refused by torch")
    if pos_weight is not None:
        options["pos_weight"] = _wide(pos_weight).numpy()
    if weight is not None or factor is not None:
        scale = 1.0 if factor is None else factor
        if reduction == "mean":  # over the entries, whatever their weights
            scale /= input.numel()
        if weight is not None:
            weight = _wide(weight) if scale == 1 else _wide(weight) * scale
            scale = weight.expand(input.shape).numpy()
        options["sample_weight"] = scale
        options["reduction"] = "none" if reduction == "none" else "sum"
    return options


def _evaluate(
    wants_gradient: bool,
    factor: float | None,
    input: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    kind: str,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    dtype: Any,
) -> tuple[Any, Any]:
    """Return the value and, if it is wanted, the gradient; raise where torch is to answer."""
    if not input.numel():
        raise ValueError("nothing to compute")
    x, y = _array(input), _array(target)
    options: dict[str, Any] = {}
    if wants_gradient:
        options["out"] = np.empty_like(x)  # in huge pages, unlike torch's: half the time
    if kind == "cross_entropy":
        options |= _softmax(factor, input, target, weight, reduction, ignore_index)
        options["label_smoothing"] = label_smoothing
        if wants_gradient:
            value, gradient = xentfast.cross_entropy_value_and_grad(x, y, **options)
        else:
            value = xentfast.cross_entropy(x, y, **options)
    else:
        options |= _sigmoid(factor, input, weight, pos_weight, kind, reduction)
        if wants_gradient:
            value, gradient = xentfast.binary_cross_entropy_value_and_grad(x, y, **options)
        else:
            value = xentfast.binary_cross_entropy(x, y, **options)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value).to(dtype)
    else:
        value = torch.scalar_tensor(value.item(), dtype=dtype)
    if not wants_gradient:
        return value, None
    if input.dtype is torch.bfloat16:
        return value, torch.from_numpy(gradient.view(np.int16)).view(torch.bfloat16)
    return value, torch.from_numpy(gradient)


def _number(factor: Any) -> Any:
    """Return what comes from above where it is one number, or one expanded."""
    if any(factor.stride()):
        return None
    try:
        return (factor[(0,) * factor.dim()] if factor.dim() else factor).item()
    except RuntimeError:  # a batch of them under vmap
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
    except RuntimeError:  # a batch of them under vmap
        return gradient * factor


def _gradient(factor: Any, *loss: Any) -> Any:
    """Make the gradient; a factor that is one number goes into the kernel, before rounding."""
    number = _number(factor)
    if number is None or number == 1 or not math.isfinite(number):
        return _scaled(_evaluate(True, None, *loss)[1], factor)
    gradient = _evaluate(True, abs(number), *loss)[1]
    return gradient.neg_() if number < 0 else gradient


def _torch(
    input: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    kind: str,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    dtype: Any,
) -> Any:
    """Return torch's own loss."""
    input, target, weight, pos_weight = (
        t if t is None or not t.is_floating_point() else t.to(dtype)
        for t in (input, target, weight, pos_weight)
    )
    options: dict[str, Any] = {"weight": weight, "reduction": reduction}
    if kind == "cross_entropy":
        options |= {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    elif kind == "binary_cross_entropy_with_logits":
        options["pos_weight"] = pos_weight
    return getattr(F, kind)(input, target, **options)


def _torch_gradient(factor: Any, input: Any, *others: Any) -> Any:
    """Return torch's own gradient, which can be differentiated if the input can."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        value = _torch(input, *others)
    return torch.autograd.grad(value, input, factor, create_graph=create_graph)[0]


class _Loss(torch.autograd.Function):
    """A loss and its gradient, made together."""

    @staticmethod
    def forward(ctx: Any, input: Any, loss: Any, value: Any, gradient: Any) -> Any:
        """Keep the gradient, and what a second backward makes another from."""
        ctx.save_for_backward(*loss[:4])
        ctx.options, ctx.gradient = loss[4:], gradient[0]
        return value[0]

    @staticmethod
    def backward(ctx: Any, factor: Any) -> Any:
        """Give the gradient away, once: nobody else holds it, so it may be changed in place."""
        gradient, ctx.gradient = ctx.gradient, None
        if torch.is_grad_enabled():
            gradient = _torch_gradient(factor, *ctx.saved_tensors, *ctx.options)
        elif gradient is None:
            gradient = _gradient(factor, *ctx.saved_tensors, *ctx.options)
        else:
            gradient = _scaled(gradient, factor)
        return gradient, None, None, None


# --- under torch.compile --------------------------------------------------------------------------


@torch.library.custom_op("xentfast::loss", mutates_args=(), schema="(" + _LOSS)
def _loss(*loss: Any) -> Any:
    try:
        return _evaluate(False, None, *loss)[0]
    except _ASK_TORCH:
        return _torch(*loss)


@torch.library.custom_op(
    "xentfast::loss_backward", mutates_args=(), schema="(Tensor factor, " + _LOSS
)
def _loss_backward(factor: Any, *loss: Any) -> Any:
    try:
        gradient = _gradient(factor, *loss)
    except _ASK_TORCH:  # in another thread, for an operator runs where autograd is off
        loss = (loss[0].detach().requires_grad_(), *loss[1:])
        with ThreadPoolExecutor(1) as elsewhere:
            gradient = elsewhere.submit(_torch_gradient, factor, *loss).result().detach()
    place = torch.empty_like(loss[0], device="meta")
    return (
        gradient
        if gradient.stride() == place.stride()
        else torch.empty_like(loss[0]).copy_(gradient)
    )


@_loss.register_fake
def _(input: Any, *rest: Any) -> Any:
    kind, reduction, dtype = rest[3], rest[4], rest[7]
    shape = tuple(input.shape) if reduction == "none" else ()
    return input.new_empty(
        shape[:1] * (len(shape) > 1) + shape[2:] if kind == "cross_entropy" else shape, dtype=dtype
    )


@_loss_backward.register_fake
def _(factor: Any, input: Any, *rest: Any) -> Any:
    return torch.empty_like(input)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, factor: Any) -> Any:
    make = _torch_gradient if torch.is_grad_enabled() else _loss_backward
    return make(factor, *ctx.saved_tensors, *ctx.options), *(None,) * 8


_loss.register_autograd(_backward, setup_context=_keep)


# --- the public names -----------------------------------------------------------------------------


def _carried(kind: str, tensors: list[Any]) -> Any:
    """Return the dtype of the result, None where torch is to answer."""
    if not all(type(t) in _PLAIN and t.is_cpu for t in tensors):
        return None
    if has_torch_function_variadic(*tensors):
        return None
    input, target, *_ = tensors
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors[1:]):
        return None
    if kind == "cross_entropy" and target.dtype is torch.int64:
        tensors = [input, *tensors[2:]]
    dtypes = {t.dtype for t in tensors}
    if torch.is_autocast_enabled("cpu") and dtypes <= _CAST:
        return torch.float32
    return input.dtype if len(dtypes) == 1 and dtypes <= _FLOATING else None


def _try(
    kind: str,
    input: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    reduction: Any,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """Return the loss, None where torch is to answer."""
    tensors = [t for t in (input, target, weight, pos_weight) if t is not None]
    dtype = _carried(kind, tensors) if reduction in ("mean", "sum", "none") else None
    if dtype is None:
        return None
    loss = (
        input, target, weight, pos_weight, kind, reduction, ignore_index, label_smoothing, dtype
    )  # fmt: skip
    if torch.compiler.is_compiling():
        lead = input.shape[: input.dim() > 1] + input.shape[2:]
        return _loss(*loss) if target.shape in (input.shape, lead) else None
    if (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    ):
        return None
    wanted = input.requires_grad and torch.is_grad_enabled()
    try:
        # float16 cannot hold the gradient before the factor of a GradScaler is in it
        at_once = wanted and not (input.dtype is torch.float16 and reduction != "none")
        value, gradient = _evaluate(at_once, None, *loss)
    except _ASK_TORCH:
        return None
    return _Loss.apply(input, loss, [value], [gradient]) if wanted else value


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
    """Return what `torch.nn.functional.cross_entropy` does."""
    if size_average is None and reduce is None:
        loss = _try(
            "cross_entropy", input, target, weight, None, reduction, ignore_index, label_smoothing
        )
        if loss is not None:
            return loss
    return F.cross_entropy(
        input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    )


def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """Return what `torch.nn.functional.binary_cross_entropy` does."""
    if size_average is None and reduce is None:
        loss = _try("binary_cross_entropy", input, target, weight, None, reduction)
        if loss is not None:
            return loss
    return F.binary_cross_entropy(input, target, weight, size_average, reduce, reduction)


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    """Return what `torch.nn.functional.binary_cross_entropy_with_logits` does."""
    kind = "binary_cross_entropy_with_logits"
    if size_average is None and reduce is None:
        loss = _try(kind, input, target, weight, pos_weight, reduction)
        if loss is not None:
            return loss
    return F.binary_cross_entropy_with_logits(
        input, target, weight, size_average, reduce, reduction, pos_weight
    )


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, computed by `cross_entropy`."""

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
    """`torch.nn.BCELoss`, computed by `binary_cross_entropy`."""

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`, computed by `binary_cross_entropy_with_logits`."""

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            pos_weight=self.pos_weight,
            reduction=self.reduction,
        )
