"""PyTorch's cross-entropy before and after the import is changed: time, and peak memory.

`python benchmarks/dropin_torch.py` prints a table: the loss with its backward alone, whole training
steps, and output layers whose logits are never held, by NumPy's products too (OPENBLAS_CORETYPE
chooses their kernels: unset it). Times are medians of calls that take turns; each peak is that of a
process of its own, above what it held before the first call, gradients included.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

import xentfast
from xentfast.dropin import torch as dropin

Step: TypeAlias = Callable[[], Any]  # returns the loss
Loss: TypeAlias = Callable[..., Any]

AGREEMENT = 1e-5  # of two losses, relative


def logits(*shape: int) -> Callable[[Loss], Step]:
    """Make the loss of these logits, and its gradient with respect to them."""

    def make(cross_entropy: Loss) -> Step:
        x = torch.randn(shape).requires_grad_()
        y = torch.randint(shape[1], (shape[0], *shape[2:]))

        def step() -> Any:
            loss = cross_entropy(x, y)
            loss.backward()
            x.grad = None
            return loss

        return step

    return make


def output_layer(tokens: int, features: int, classes: int) -> Callable[[Loss], Step]:
    """Make one step of the last layer of a language model."""

    def make(cross_entropy: Loss) -> Step:
        layer = torch.nn.Linear(features, classes, bias=False)
        x = torch.randn(tokens, features).requires_grad_()
        y = torch.randint(classes, (tokens,))

        def step() -> Any:
            loss = cross_entropy(layer(x), y)
            loss.backward()
            x.grad = layer.weight.grad = None
            return loss

        return step

    return make


class LanguageModel(torch.nn.Module):
    """Words to scores of the next word: embedding, two layers of LSTM, output layer."""

    def __init__(self, words: int, features: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(words, features)
        self.lstm = torch.nn.LSTM(features, features, num_layers=2)
        self.output = torch.nn.Linear(features, words)

    def before_output(self, tokens: Any) -> Any:
        return self.lstm(self.embedding(tokens))[0].flatten(0, 1)

    def forward(self, tokens: Any) -> Any:
        return self.output(self.before_output(tokens))


def language_model(
    words: int, batch: int, length: int, linear: bool = False
) -> Callable[[Loss], Step]:
    """Make a whole training step as word-level language models have it.

    The loss is that of the logits, or of the output layer.
    """

    def make(cross_entropy: Loss) -> Step:
        model = LanguageModel(words, 200)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        tokens = torch.randint(words, (length + 1, batch))

        def step() -> Any:
            optimizer.zero_grad()
            if linear:
                x, y = model.before_output(tokens[:-1]), tokens[1:].flatten()
                loss = cross_entropy(x, model.output.weight, y, linear_bias=model.output.bias)
            else:
                loss = cross_entropy(model(tokens[:-1]), tokens[1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            return loss

        return step

    return make


def linear_layer(tokens: int, features: int, classes: int) -> Callable[[Loss], Step]:
    """Make the loss of an output layer, and its gradients of inputs and weight."""

    def make(linear_cross_entropy: Loss) -> Step:
        x = torch.randn(tokens, features).requires_grad_()
        w = (torch.randn(classes, features) / features**0.5).requires_grad_()
        y = torch.randint(classes, (tokens,))

        def step() -> Any:
            loss = linear_cross_entropy(x, w, y)
            if isinstance(loss, torch.Tensor):
                loss.backward()
                x.grad = w.grad = None
            return loss

        return step

    return make


def with_numpy(value_and_grad: Loss) -> Loss:
    return lambda *tensors: value_and_grad(*(t.detach().numpy() for t in tensors))[0]


def two_steps(x: Any, w: Any, y: Any) -> tuple[Any, Any]:
    """Do as a person would with NumPy."""
    d = x @ w.T
    d -= d.max(axis=1, keepdims=True)
    rows = np.arange(len(y))
    at_label = d[rows, y]
    np.exp(d, out=d)
    sums = d.sum(axis=1, keepdims=True)
    value = np.mean(np.log(sums[:, 0]) - at_label)
    d /= sums
    d[rows, y] -= 1
    d /= len(y)
    return value, (d @ w, d.T @ x)


CONTENDERS: dict[str, Callable[[], Loss]] = {
    "torch": lambda: torch.nn.functional.cross_entropy,
    "torch.compile": lambda: torch.compile(torch.nn.functional.cross_entropy),
    "xentfast": lambda: dropin.cross_entropy,
    "xentfast, compiled": lambda: torch.compile(dropin.cross_entropy, fullgraph=True),
}
OF_STEPS: dict[str, Callable[[], Loss]] = {
    "torch": lambda: torch.nn.functional.linear_cross_entropy,
    "xentfast": lambda: dropin.linear_cross_entropy,
}
OF_LAYERS = OF_STEPS | {
    "torch, chunks": lambda: functools.partial(
        torch.nn.functional.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions()
    ),
    "NumPy": lambda: with_numpy(two_steps),
    "xentfast of arrays": lambda: with_numpy(xentfast.linear_cross_entropy_value_and_grad),
}
CASES = {
    "loss and backward (32, 10)": (logits(32, 10), CONTENDERS),
    "loss and backward (2048, 32768)": (logits(2048, 32_768), CONTENDERS),
    "loss and backward (1024, 128256)": (logits(1024, 128_256), CONTENDERS),
    "loss and backward (8, 150, 512, 512)": (logits(8, 150, 512, 512), CONTENDERS),
    "step of an output layer (2048, 256) -> 32768": (output_layer(2048, 256, 32_768), CONTENDERS),
    "step of an output layer (1024, 256) -> 128256": (
        output_layer(1024, 256, 128_256),
        CONTENDERS,
    ),
    "step of a language model, 33278 words, 20 x 35": (
        language_model(33_278, 20, 35),
        CONTENDERS,
    ),
    "linear (2048, 256) -> 32768": (linear_layer(2048, 256, 32_768), OF_LAYERS),
    "linear (4096, 1024) -> 32768": (linear_layer(4096, 1024, 32_768), OF_LAYERS),
    "linear (1024, 768) -> 128256": (linear_layer(1024, 768, 128_256), OF_LAYERS),
    "linear in a language model, 33278 words, 20 x 35": (
        language_model(33_278, 20, 35, linear=True),
        OF_STEPS,
    ),
}


def prepare(case: str, contender: str) -> Step:
    """Give every contender the same numbers."""
    torch.manual_seed(0)
    make, contenders = CASES[case]
    return make(contenders[contender]())


def memory(field: str) -> float:
    """Return a size in /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * float(line.split()[1]) for line in file if line.startswith(field + ":"))


def peak(step: Step) -> float:
    """Return the bytes that three steps hold at most, above those held before the first."""
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # let VmHWM start again
    for _ in range(3):
        step()
    return memory("VmHWM") - before


def peak_elsewhere(script: str, *names: str) -> float:
    """Return what a script prints for --peak and names, in a process of its own."""
    command = [sys.executable, script, "--peak", *names]
    return float(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout)


def times(case: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of each contender; they take turns."""
    torch.compiler.reset()
    steps = {contender: prepare(case, contender) for contender in CASES[case][1]}
    losses = {contender: step().item() for contender, step in steps.items()}
    for contender, loss in losses.items():
        if abs(loss / losses["torch"] - 1) > AGREEMENT:
            raise AssertionError(f"{contender}: loss {loss}, not {losses['torch']}")
    seconds: dict[str, list[float]] = {contender: [] for contender in steps}
    for _ in range(rounds):
        for contender, step in steps.items():
            start = time.perf_counter()
            step()
            once = time.perf_counter() - start
            loops = min(1000, int(0.01 / once))  # short ones fill a sample
            start = time.perf_counter()
            for _ in range(loops):
                step()
            seconds[contender].append((time.perf_counter() - start) / loops if loops else once)
    return {contender: statistics.median(found) for contender, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cases", default="", help="only those whose name has this in it")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    xentfast.set_num_threads(threads)
    if options.peak:
        print(peak(prepare(*options.peak)))
        return
    print(f"torch {torch.__version__}, xentfast {xentfast.__version__}, {threads} threads")
    for case in CASES:
        if options.cases not in case:
            continue
        print(f"\n{case:47}{'ms':>10}{'torch / it':>12}{'peak MB':>10}", flush=True)
        medians = times(case, options.rounds)
        for contender, median in medians.items():
            faster = medians["torch"] / median
            most = peak_elsewhere(__file__, case, contender) / 1e6
            print(f"  {contender:45}{median * 1e3:10.3f}{faster:12.2f}{most:10.0f}", flush=True)


if __name__ == "__main__":
    main()
