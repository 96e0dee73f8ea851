"""PyTorch's cross-entropy before and after the import is changed: time, and peak memory.

`python benchmarks/dropin_torch.py` prints a table: the loss with its backward alone, and whole
training steps. Times are medians of calls that take turns; each peak is that of a process of its
own, above what it held before the first call.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

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

    def forward(self, tokens: Any) -> Any:
        return self.output(self.lstm(self.embedding(tokens))[0]).flatten(0, 1)


def language_model(words: int, batch: int, length: int) -> Callable[[Loss], Step]:
    """Make a whole training step as word-level language models have it."""

    def make(cross_entropy: Loss) -> Step:
        model = LanguageModel(words, 200)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        tokens = torch.randint(words, (length + 1, batch))

        def step() -> Any:
            optimizer.zero_grad()
            loss = cross_entropy(model(tokens[:-1]), tokens[1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            return loss

        return step

    return make


CASES = {
    "loss and backward (32, 10)": logits(32, 10),
    "loss and backward (2048, 32768)": logits(2048, 32_768),
    "loss and backward (1024, 128256)": logits(1024, 128_256),
    "loss and backward (8, 150, 512, 512)": logits(8, 150, 512, 512),
    "step of an output layer (2048, 256) -> 32768": output_layer(2048, 256, 32_768),
    "step of an output layer (1024, 256) -> 128256": output_layer(1024, 256, 128_256),
    "step of a language model, 33278 words, 20 x 35": language_model(33_278, 20, 35),
}
CONTENDERS: dict[str, Callable[[], Loss]] = {
    "torch": lambda: torch.nn.functional.cross_entropy,
    "torch.compile": lambda: torch.compile(torch.nn.functional.cross_entropy),
    "xentfast": lambda: dropin.cross_entropy,
    "xentfast, compiled": lambda: torch.compile(dropin.cross_entropy, fullgraph=True),
}


def prepare(case: str, contender: str) -> Step:
    """Give every contender the same numbers."""
    torch.manual_seed(0)
    return CASES[case](CONTENDERS[contender]())


def memory(field: str) -> float:
    """Return a size in /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * float(line.split()[1]) for line in file if line.startswith(field + ":"))


def peak(case: str, contender: str) -> float:
    """Return the bytes that three steps hold at most, above those held before the first."""
    step = prepare(case, contender)
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # let VmHWM start again
    for _ in range(3):
        step()
    return memory("VmHWM") - before


def peak_elsewhere(case: str, contender: str) -> float:
    command = [sys.executable, __file__, "--peak", case, contender]
    return float(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout)


def times(case: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of each contender; they take turns."""
    torch.compiler.reset()
    steps = {contender: prepare(case, contender) for contender in CONTENDERS}
    losses = {contender: step().item() for contender, step in steps.items()}
    for contender, loss in losses.items():
        if abs(loss / losses["torch"] - 1) > AGREEMENT:
            raise AssertionError(f"{contender}: loss {loss}, not {losses['torch']}")
    seconds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
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
        print(peak(*options.peak))
        return
    print(f"torch {torch.__version__}, xentfast {xentfast.__version__}, {threads} threads")
    for case in CASES:
        if options.cases not in case:
            continue
        print(f"\n{case:47}{'ms':>10}{'torch / it':>12}{'peak MB':>10}", flush=True)
        medians = times(case, options.rounds)
        for contender, median in medians.items():
            faster, most = medians["torch"] / median, peak_elsewhere(case, contender) / 1e6
            print(f"  {contender:45}{median * 1e3:10.3f}{faster:12.2f}{most:10.0f}", flush=True)


if __name__ == "__main__":
    main()
