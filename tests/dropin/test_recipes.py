"""The listings of the recipes that other libraries run, and what those libraries say themselves."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xentfast

torch: Any = pytest.importorskip("torch")
RECIPES = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def listing(heading: str) -> str:
    """Return the first listing below a heading."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n.*?```(?:python|{{code-cell}})\n(.*?)```",
        RECIPES,
        re.MULTILINE | re.DOTALL,
    )
    assert found is not None, heading
    return re.sub(r"^:tags:.*\n", "", found[1])


def test_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=120, n_positions=32, n_embd=16, n_layer=1, n_head=2,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    dataset = []
    for i in range(11):
        tokens = torch.randint(120, (16,))
        labels = tokens.clone()
        labels[-(i % 4 + 1) :] = -100
        dataset.append({"input_ids": tokens, "labels": labels})

    def arguments(folder: str, **options: Any) -> Any:
        return transformers.TrainingArguments(
            folder, per_device_eval_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True,
            **options,
        )  # fmt: skip

    names = {
        "Trainer": transformers.Trainer,
        "TrainingArguments": arguments,
        "xentfast": xentfast,
        "model": model,
        "dataset": dataset,
    }
    with tempfile.TemporaryDirectory() as folder:
        exec(listing("In Hugging Face's Trainer"), names | {"folder": folder}, names)
        trainer: Any = names["trainer"]
        reports = [trainer.evaluate() for _ in range(2)]
    with torch.inference_mode():
        logits = torch.stack([model(d["input_ids"][None]).logits[0, :-1] for d in dataset])
    labels = torch.stack([d["labels"][1:] for d in dataset])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    counts = labels != -100
    right = (logits.argmax(-1) == labels)[counts].double().mean()
    best = (logits.topk(5).indices == labels[..., None]).any(-1)[counts].double().mean()
    for report in reports:  # the second begins anew
        assert report["eval_perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)
        assert report["eval_accuracy"] == pytest.approx(right.item())
        assert report["eval_top_5"] == pytest.approx(best.item())
        assert 0 <= report["eval_calibration_error"] <= 1


def test_log_likelihoods() -> None:
    names: dict[str, Any] = {"np": np, "xentfast": xentfast, "rng": np.random.default_rng(0)}
    exec(listing("Log-likelihoods, as harnesses want them"), names)
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((20, 9, 50)).astype(np.float32)
    tokens, expected = np.full((20, 9), -100), []
    for i in range(20):
        begin, end = sorted(rng.integers(9, size=2))
        best = logits[i, begin : end + 1].argmax(axis=1)
        tokens[i, begin : end + 1] = np.where(rng.random(end + 1 - begin) < 0.9, best, 3)
        log = torch.log_softmax(torch.tensor(logits[i, begin : end + 1]), -1)
        target = torch.tensor(tokens[i, begin : end + 1])[:, None]
        greedy = bool((log.argmax(-1, keepdim=True) == target).all())
        expected.append((log.gather(1, target).sum().item(), greedy))
    scores, greedy = names["loglikelihoods"](logits, tokens)
    np.testing.assert_allclose(scores, [score for score, _ in expected], rtol=1e-5)
    assert greedy.tolist() == [wanted for _, wanted in expected]
    assert 0 < sum(greedy) < 20


def test_loop_of_torch() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((200, 64)), rng.integers(10, size=200)
    names: dict[str, Any] = {
        "xentfast": xentfast,
        "features": features,
        "labels": labels,
        "test": slice(0, 200),
        "shape": (64, 10),
    }
    exec(listing("In a loop of PyTorch"), names)
    x, y = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    with torch.inference_mode():
        logits = names["network"](x)
        loss = torch.nn.functional.cross_entropy(logits, y).item()
    assert names["found"].count == 200
    assert names["found"].loss == pytest.approx(loss, rel=1e-6)
    assert names["found"].accuracy == pytest.approx((logits.argmax(1) == y).double().mean().item())
