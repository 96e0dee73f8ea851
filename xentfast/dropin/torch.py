"""PyTorch's cross-entropy losses on the CPU: change the import, keep the calls.

`cross_entropy`, `binary_cross_entropy`, `binary_cross_entropy_with_logits` and their modules
`CrossEntropyLoss`, `BCELoss` and `BCEWithLogitsLoss` take, return and raise what those of
`torch.nn.functional` and `torch.nn` do, and so do `linear_cross_entropy` and
`LinearCrossEntropyLoss`, which never hold more logits than a chunk of rows has. The gradient is
made together with the value, and given to backward as it is where the factor from above is 1.
`nll_loss` and `NLLLoss`, which pick one number from each row and compute nothing, are torch's own.

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
from torch.autograd import forward_ad
from torch.nn import NLLLoss, functional
from torch.nn.functional import nll_loss
from torch.overrides import has_torch_function_variadic

import xentfast
from xentfast import _kernels, _linear
from xentfast._checks import BFLOAT16

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "NLLLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
]

# A loss is passed around as the tuple of these; dtype is that of its value.
_LOSS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, str kind, str reduction, "
    "int ignore_index, float label_smoothing, ScalarType dtype) -> Tensor"
)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Looked up once: small calls are to be short.
_is_compiling, _is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
_has_torch_function = torch._C._has_torch_function
_is_transformed = torch._C._are_functorch_transforms_active
_count_of_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_CAST = {torch.float32, torch.float16, torch.bfloat16}  # what autocast takes to float32
_CARRIED = _CAST | {torch.float64}
_Options = torch.nn.LinearCrossEntropyOptions
_ASK_TORCH = (TypeError, ValueError, RuntimeError)
# Entries from which on NumPy asks for huge pages, and torch does not.
_HUGE = 1 << 19
# torch floors p (1 - p) at 1e-12 in a gradient, and log p at -100.
_CLIPPED = 2e-12


# --- our losses of tensors ------------------------------------------------------------------------


def _array(t: Any) -> Any:
    t = t.detach()
    return t.view(torch.int16).numpy().view(BFLOAT16) if t.dtype is torch.bfloat16 else t.numpy()


def _tensor(a: Any) -> Any:
    if a.dtype == BFLOAT16:
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


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
        gradient = _tensor(gradient)
    else:
        value = getattr(xentfast, name)(x, y, **options)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).to(dtype), gradient
    return torch.scalar_tensor(value.item(), dtype=dtype), gradient


def _plain(
    input: Any, target: Any, reduction: str, ignore_index: int, dtype: Any, with_gradient: bool
) -> tuple[Any, Any]:
    """Do as `_evaluate` for what `_quick` has seen."""
    rows, classes = input.shape
    double, gradient, place = dtype is torch.float64, None, 0
    if with_gradient:
        if rows * classes < _HUGE:
            gradient = torch.empty_like(input)
        else:
            shape = (rows, classes)
            gradient = torch.from_numpy(np.empty(shape, np.float64 if double else np.float32))
        place = gradient.data_ptr()
    value = _kernels.cross_entropy_at(
        input.data_ptr(), target.data_ptr(), place, rows, classes, double, reduction == "mean",
        ignore_index,
    )  # fmt: skip
    if value is None:
        raise ValueError("no rows, or a label out of range")
    return torch.scalar_tensor(value, dtype=dtype), gradient


def _number(factor: Any) -> Any:
    """Return what comes from above as a float where it is one number, or one expanded."""
    strides = factor.stride()
    if any(strides):
        return None
    try:
        return (factor[(0,) * len(strides)] if strides else factor).item()
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
    if number is None or number == 1 or not math.isfinite(number) or _is_plain(loss):
        return _scaled(_make(loss, True)[1], factor)
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
        target, weight, pos_weight = loss[1:4]
        ctx.options = loss[4:]
        if made is None:
            made = _plain(input, target, loss[5], loss[6], loss[8], True)
        ctx.save_for_backward(input, target, weight, pos_weight)
        value, ctx.gradient = made
        return value

    @staticmethod
    def backward(ctx: Any, factor: Any) -> Any:
        """Give the gradient away, once: nobody else holds it, so that it may change in place."""
        gradient, ctx.gradient = ctx.gradient, None
        if _is_grad_enabled():
            gradient = _torch_gradient((*ctx.saved_tensors, *ctx.options), factor)
        elif gradient is None:
            gradient = _gradient((*ctx.saved_tensors, *ctx.options), factor)
        else:
            gradient = _scaled(gradient, factor)
        return gradient, None, None


# define and impl: half the cost of a call of a torch.library.custom_op.
_operators = torch.library.Library("xentfast", "DEF")
_operators.define("loss(" + _LOSS)
_operators.define("loss_backward(Tensor factor, " + _LOSS)


def _is_plain(loss: Any) -> bool:
    input, target, weight, _, kind, reduction, ignore_index, label_smoothing, dtype = loss
    return (
        kind == "cross_entropy"
        and weight is None
        and label_smoothing == 0
        and dtype is input.dtype
        and _fits(input, target, ignore_index, reduction)
    )


def _make(loss: Any, with_gradient: bool) -> Any:
    """Do as `_evaluate`, in the short way where that will do."""
    if _is_plain(loss):
        input, target, _, _, _, reduction, ignore_index, _, dtype = loss
        return _plain(input.detach(), target, reduction, ignore_index, dtype, with_gradient)
    return _evaluate(loss, with_gradient)


def _loss(*loss: Any) -> Any:
    try:
        return _make(loss, False)[0]
    except _ASK_TORCH:
        return _torch(loss)


def _loss_backward(factor: Any, *loss: Any) -> Any:
    try:
        gradient = _gradient(loss, factor)
    except _ASK_TORCH:  # in another thread: autograd is off inside an operator
        loss = (loss[0].detach().requires_grad_(), *loss[1:])
        with ThreadPoolExecutor(1) as elsewhere:
            gradient = elsewhere.submit(_torch_gradient, loss, factor).result()
    if gradient.is_contiguous() and loss[0].is_contiguous():
        return gradient
    same = gradient.stride() == torch.empty_like(loss[0], device="meta").stride()
    return gradient if same else torch.empty_like(loss[0]).copy_(gradient)


_operators.impl("loss", _loss, "CPU")
_operators.impl("loss_backward", _loss_backward, "CPU")


@torch.library.register_fake("xentfast::loss", lib=_operators)
def _(*loss: Any) -> Any:
    input, _, _, _, kind, reduction, *_, dtype = loss
    shape = input.shape if reduction == "none" else ()
    return input.new_empty(_lead(shape) if kind == "cross_entropy" else shape, dtype=dtype)


@torch.library.register_fake("xentfast::loss_backward", lib=_operators)
def _(factor: Any, *loss: Any) -> Any:
    return torch.empty_like(loss[0])


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, factor: Any) -> Any:
    loss = (*ctx.saved_tensors, *ctx.options)
    if torch.is_grad_enabled():
        return _torch_gradient(loss, factor), *(None,) * 8
    return torch.ops.xentfast.loss_backward.default(factor, *loss), *(None,) * 8


torch.library.register_autograd("xentfast::loss", _backward, setup_context=_keep, lib=_operators)


# --- what is carried ------------------------------------------------------------------------------


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


def _at_hand() -> bool:
    """Tell whether tensors hold numbers that may be read, and nobody watches."""
    return not (
        _is_transformed()
        or _count_of_modes()
        or forward_ad._current_level >= 0
        or _tracing_state() is not None
    )


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
    if torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        fits = target.shape in (input.shape, _lead(input.shape))
        return torch.ops.xentfast.loss.default(*loss) if fits else None
    if not _at_hand():
        return None
    wanted = input.requires_grad and torch.is_grad_enabled()
    # A gradient in float16 waits for the factor, without which it may be too small to be held.
    now = wanted and (input.dtype is not torch.float16 or reduction == "none")
    try:
        made = _evaluate(loss, now)
    except _ASK_TORCH:
        return None
    return _Made.apply(input, loss, made) if wanted else made[0]


# Function.apply without what it does for functorch, which is not at work where this is called.
_made = super(torch.autograd.Function, _Made).apply


def _fits(input: Any, target: Any, ignore_index: Any, reduction: str) -> bool:
    """Tell whether this is the usual case: contiguous and of two axes, in the usual dtypes.

    Small batches take about as long to look at as to compute, so that each look counts.
    """
    if (
        type(input) not in _PLAIN
        or type(target) is not torch.Tensor
        or type(ignore_index) is not int
        or _has_torch_function((input, target))
        or not _at_hand()
    ):
        return False
    dtype, shape = input.dtype, input.shape
    return (
        (dtype is torch.float32 or dtype is torch.float64)
        and target.dtype is torch.int64
        and len(shape) == 2
        and target.shape == shape[:1]
        and input.is_cpu
        and target.is_cpu
        and input.is_contiguous()
        and target.is_contiguous()
        and not input.is_neg()
        and (reduction == "mean" or reduction == "sum")
    )


def _quick(input: Any, target: Any, ignore_index: Any, reduction: str) -> Any:
    """Return the loss of the usual case, None where it is not that, or wrong."""
    if _is_compiling() or not _fits(input, target, ignore_index, reduction):
        return None
    dtype = input.dtype
    try:
        if not (input.requires_grad and _is_grad_enabled()):
            return _plain(input, target, reduction, ignore_index, dtype, False)[0]
        loss = (input, target, None, None, "cross_entropy", reduction, ignore_index, 0.0, dtype)
        return _made(input, loss, None)
    except _ASK_TORCH:
        return None


# --- a linear layer and its loss ------------------------------------------------------------------


class _Products(_linear.Products):
    """The products of a chunk by torch's BLAS, in the tensors' own dtype."""

    def dtype(self, dtype: Any) -> Any:
        return dtype

    def takes(self, a: Any) -> bool:
        return True

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        torch.mm(_tensor(a), _tensor(b), out=_tensor(out))

    def add(self, a: Any, out: Any) -> None:
        _tensor(out).add_(_tensor(a))

    def add_product(self, a: Any, b: Any, out: Any, room: Any) -> None:
        _tensor(out).addmm_(_tensor(a).T, _tensor(b))

    def column_sums(self, a: Any) -> Any:
        dtype = torch.promote_types(_tensor(a).dtype, torch.float32)
        return _tensor(a).sum(0, dtype=dtype).numpy()


_products = _Products()


def _evaluate_linear(tensors: Any, options: Any, wanted: Any, factor: Any = None) -> Any:
    """Return the value, and the gradients that are wanted, times a factor from above."""
    input, linear_weight, target, linear_bias, weight = tensors
    reduction, ignore_index, label_smoothing, chunk_rows, dtype = options
    if factor is not None:
        factor = factor.double().expand(input.shape[:-1]).reshape(-1).numpy()
    with torch.no_grad():
        value, gradients = _linear.evaluate(
            _array(input),
            _array(linear_weight),
            _array(target),
            None if linear_bias is None else _array(linear_bias),
            None if weight is None else _wide(weight).numpy(),
            None,
            None if target.is_floating_point() else ignore_index,
            label_smoothing,
            0.0,
            reduction,
            _linear.CHUNK_BYTES,
            None,
            wanted,
            _products,
            chunk_rows,
            factor,
        )
        value = torch.as_tensor(value).to(dtype)
        return value, [g if g is None else _tensor(g) for g in gradients]


def _torch_linear(tensors: Any, options: Any) -> Any:
    input, linear_weight, target, linear_bias, weight = tensors
    reduction, ignore_index, label_smoothing, _, dtype = options
    logits = functional.linear(input, linear_weight, linear_bias).to(dtype)
    target = target.to(dtype) if target.is_floating_point() else target
    weight = None if weight is None else weight.to(dtype)
    return functional.cross_entropy(
        logits, target, weight, None, ignore_index, None, reduction, label_smoothing
    )


class _MadeLinear(torch.autograd.Function):
    """A loss whose gradients have been made with it, or wait for the factor from above."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Any,
        linear_weight: Any,
        linear_bias: Any,
        target: Any,
        weight: Any,
        options: Any,
        wanted: Any,
    ) -> Any:
        """Keep the gradients, and what to make others from."""
        tensors = (input, linear_weight, target, linear_bias, weight)
        ctx.save_for_backward(*tensors)
        ctx.options, ctx.gradients = options, None
        now = options[0] != "none" and input.dtype is not torch.float16
        value, gradients = _evaluate_linear(tensors, options, wanted if now else (False,) * 3)
        if now:
            ctx.gradients = gradients
        return value

    @staticmethod
    def backward(ctx: Any, factor: Any) -> Any:
        """Give the gradients away, once: nobody else holds them."""
        gradients, ctx.gradients = ctx.gradients, None
        tensors, options, wanted = ctx.saved_tensors, ctx.options, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            with torch.enable_grad():
                value = _torch_linear(tensors, options)
            inputs = [t for t, w in zip(_layer(tensors), wanted, strict=True) if w]
            found = iter(torch.autograd.grad(value, inputs, factor, create_graph=True))
            gradients = [next(found) if w else None for w in wanted]
        elif gradients is None:
            gradients = _evaluate_linear(tensors, options, wanted, factor)[1]
        else:
            gradients = [g if g is None else _scaled(g, factor) for g in gradients]
        return *gradients, None, None, None, None


def _layer(tensors: Any) -> Any:
    """Return what gradients are with respect to."""
    return tensors[0], tensors[1], tensors[3]


def _chunk_rows(options: Any, input: Any, linear_weight: Any) -> int | None:
    """Return the rows of a chunk that are asked for."""
    adjusted = options._adjust(
        num_batches=input.shape[0] if input.dim() == 2 else 1,
        in_features=linear_weight.shape[1],
        num_classes=linear_weight.shape[0],
        dtype=input.dtype,
        device=input.device,
    )
    asked = options.batch_chunk_size is not None or options.chunking_method not in (None, "auto")
    return adjusted.batch_chunk_size if asked else None


def _try_linear(
    tensors: Any, reduction: str, ignore_index: Any, label_smoothing: float, options: Any
) -> Any:
    """Return the loss, None where torch is to answer."""
    input, linear_weight, target, linear_bias, weight = tensors
    layer = [input, linear_weight] if linear_bias is None else [input, linear_weight, linear_bias]
    others = [target] if weight is None else [target, weight]
    if not all(type(t) in _PLAIN and t.is_cpu for t in layer) or torch.compiler.is_compiling():
        return None
    dtypes = {t.dtype for t in layer}
    if torch.is_autocast_enabled("cpu") and dtypes <= _CAST:
        layer = [t.to(torch.get_autocast_dtype("cpu")) for t in layer]
    elif len(dtypes) > 1:
        return None
    dtype = _dtype([layer[0], *others], softmax=True)
    if dtype is None or has_torch_function_variadic(*layer) or not _at_hand():
        return None
    dense = target.is_floating_point()
    if (
        reduction not in ("mean", "sum", "none")
        or (dense and ignore_index is not None)
        or input.dim() not in (1, 2)
        or linear_weight.dim() != 2
        or not input.numel()
    ):
        return None
    chunk_rows = None
    try:
        if options is not None:
            if dense or label_smoothing != 0 or type(options) is not _Options:
                return None  # with a warning or an error
            chunk_rows = _chunk_rows(options, input, linear_weight)
        ignore_index = -100 if ignore_index is None else ignore_index
        settings = (reduction, ignore_index, label_smoothing, chunk_rows, dtype)
        input, linear_weight, linear_bias = (*layer, None)[:3]
        enabled = torch.is_grad_enabled()
        wanted = [
            enabled and t is not None and t.requires_grad
            for t in (input, linear_weight, linear_bias)
        ]
        if not any(wanted):
            tensors = (input, linear_weight, target, linear_bias, weight)
            return _evaluate_linear(tensors, settings, wanted)[0]
        return _MadeLinear.apply(
            input, linear_weight, linear_bias, target, weight, settings, wanted
        )
    except _ASK_TORCH:
        return None


# --- the public names -----------------------------------------------------------------------------


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
        if weight is None and type(label_smoothing) is float and label_smoothing == 0:
            loss = _quick(input, target, ignore_index, reduction)
            if loss is not None:
                return loss
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


def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Any:
    """Return the loss of `torch.nn.functional.linear_cross_entropy`.

    Chunks are taken in any case. Of `options`, batch_chunk_size and a chunking_method that is named
    say how many rows; acc_policy and acc_dtype mean nothing, and a second backward is allowed.
    """
    tensors = (input, linear_weight, target, linear_bias, weight)
    loss = _try_linear(tensors, reduction, ignore_index, label_smoothing, options)
    if loss is None:
        loss = functional.linear_cross_entropy(
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
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


class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):
    """The module of `linear_cross_entropy`."""

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        shape, bias = (self.num_classes, *self.out_features), self.linear.bias
        return linear_cross_entropy(
            input,
            self.linear.weight.reshape((*shape, self.linear.in_features)),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )
