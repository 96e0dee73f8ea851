"""A language model with a large output layer, trained with torch's losses and with the drop-in's.

`python benchmarks/training.py` trains the same model on the same tokens with each loss, the steps
taking turns, compares the losses of all steps, and prints a table: the median time of a step, and
the most memory of one, in a process of its own, above what the model holds before its first. The
tokens are made here: from a seed, by a rule that can be learned.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch

import xentfast
from dropin_torch import LanguageModel, Loss, Step, peak, peak_elsewhere
from xentfast.dropin import torch as dropin

WORDS, FEATURES, BATCH, LENGTH, STEPS = 32_768, 200, 16, 32, 50
AGREEMENT = 1e-4  # of two losses, relative


def two_steps(x: Any, weight: Any, target: Any, linear_bias: Any) -> Any:
    logits = torch.nn.functional.linear(x, weight, linear_bias)
    return torch.nn.functional.cross_entropy(logits, target)


def chunked(x: Any, weight: Any, target: Any, linear_bias: Any) -> Any:
    return torch.nn.functional.linear_cross_entropy(
        x,
        weight,
        target,
        linear_bias=linear_bias,
        options=torch.nn.LinearCrossEntropyOptions(),
    )


LOSSES: dict[str, Loss] = {
    "torch, `linear` and `cross_entropy`": two_steps,
    "torch, `linear_cross_entropy` in chunks": chunked,
    "xentfast, `linear_cross_entropy`": dropin.linear_cross_entropy,
}


def tokens() -> Any:
    """Return a batch for each step: few words are common, and most tell the next one."""
    generator = torch.Generator().manual_seed(0)
    shape = (STEPS * LENGTH + 1, BATCH)
    drawn = (WORDS ** torch.rand(shape, generator=generator)).long() - 1
    told = torch.rand(shape, generator=generator) < 0.7
    for i in range(1, len(drawn)):
        drawn[i] = torch.where(told[i], (7 * drawn[i - 1] + 1) % 1000, drawn[i])
    return drawn


def training(loss: Loss) -> Step:
    """Return what takes the next step, with the same model for every loss."""
    torch.manual_seed(0)
    model = LanguageModel(WORDS, FEATURES)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batches = (tokens()[i : i + LENGTH + 1] for i in range(0, STEPS * LENGTH, LENGTH))

    def step() -> Any:
        text = next(batches)
        optimizer.zero_grad()
        x, y = model.before_output(text[:-1]), text[1:].flatten()
        value = loss(x, model.output.weight, y, linear_bias=model.output.bias)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    xentfast.set_num_threads(threads)
    if options.peak:
        print(peak(training(LOSSES[options.peak])))
        return
    steps = {name: training(loss) for name, loss in LOSSES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(STEPS):
        for name, step in steps.items():
            start = time.perf_counter()
            losses[name].append(step())
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    first, *_ = LOSSES
    print("| loss | ms a step | times as fast | peak of a step, MiB | loss at the end | off by |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, found in losses.items():
        off = max(abs(a / b - 1) for a, b in zip(found, losses[first], strict=True))
        if off > AGREEMENT:
            raise AssertionError(f"{name}: a loss is off by {off}")
        faster = medians[first] / medians[name]
        print(
            f"| {name} | {medians[name] * 1e3:.0f} | {faster:.2f} | "
            f"{peak_elsewhere(__file__, name) / 2**20:.0f} | {found[-1]:.4f} | {off:.0e} |"
        )
    print(f"\nThe first loss was {losses[first][0]:.4f}; {threads} threads.")


if __name__ == "__main__":
    main()
