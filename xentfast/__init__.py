"""Fast, exact and reproducible cross-entropy losses and gradients on CPUs.

The losses, each with `_grad` and `_value_and_grad`: `cross_entropy` (class indices or
distributions) and `binary_cross_entropy`; and `linear_cross_entropy`, with `_value_and_grad`, of
the logits that a linear layer would make. Beside them `entropy`, `is_distribution`, `logsumexp`,
`softmax` and `log_softmax`; `kl_divergence`, `js_divergence` and `topk_kl_divergence`, each with
`_value_and_grad`; `evaluate`, everything that is reported of a model in one pass, and `compare`,
how two models differ. For classes that are spread over workers `shard_statistics`, `merge_shards`,
`shard_loss` and `shard_grad`.

`xentfast.dropin` has the losses of other libraries under their names, `xentfast.dask` takes Dask
arrays, and `xentfast.reference` has the same functions in plain NumPy.
"""

from contextlib import suppress
from importlib.util import find_spec

if find_spec("xentfast._kernels") is None:
    raise ImportError(
        f"not compiled in {__path__[0]}: install xentfast, or run python elsewhere or with -P"
    )

from xentfast import reference
from xentfast._binary import (
    binary_cross_entropy,
    binary_cross_entropy_grad,
    binary_cross_entropy_value_and_grad,
)
from xentfast._compare import Comparison, compare
from xentfast._config import (
    configure,
    get_num_threads,
    num_threads,
    set_num_threads,
    show_config,
)
from xentfast._cross_entropy import (
    cross_entropy,
    cross_entropy_grad,
    cross_entropy_value_and_grad,
)
from xentfast._distillation import (
    js_divergence_value_and_grad,
    kl_divergence_value_and_grad,
    topk_kl_divergence,
    topk_kl_divergence_value_and_grad,
)
from xentfast._divergence import entropy, is_distribution, js_divergence, kl_divergence
from xentfast._evaluate import Evaluation, evaluate
from xentfast._linear import linear_cross_entropy, linear_cross_entropy_value_and_grad
from xentfast._shards import merge_shards, shard_grad, shard_loss, shard_statistics
from xentfast._softmax import log_softmax, logsumexp, softmax

__all__ = [
    "Comparison",
    "Evaluation",
    "binary_cross_entropy",
    "binary_cross_entropy_grad",
    "binary_cross_entropy_value_and_grad",
    "compare",
    "cross_entropy",
    "cross_entropy_grad",
    "cross_entropy_value_and_grad",
    "entropy",
    "evaluate",
    "get_num_threads",
    "is_distribution",
    "js_divergence",
    "js_divergence_value_and_grad",
    "kl_divergence",
    "kl_divergence_value_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_softmax",
    "logsumexp",
    "merge_shards",
    "num_threads",
    "reference",
    "set_num_threads",
    "shard_grad",
    "shard_loss",
    "shard_statistics",
    "show_config",
    "softmax",
    "topk_kl_divergence",
    "topk_kl_divergence_value_and_grad",
]

__version__ = str(show_config()["version"])

configure()
with suppress(ImportError):  # threadpoolctl is not installed, or older than 3.2
    from xentfast import _threadpoolctl  # noqa: F401
del configure, find_spec, suppress
