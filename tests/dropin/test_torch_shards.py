"""A vocabulary divided over two processes of torch.distributed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xentfast

torch: Any = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

ROWS, CLASSES, IGNORED = 200, 3001, -100
CUTS = (0, 1300, CLASSES)
DATA = f"""
import numpy as np

def whole():
    rng = np.random.default_rng(0)
    logits = 5 * rng.standard_normal(({ROWS}, {CLASSES}), np.float32)
    labels = rng.integers({CLASSES}, size={ROWS})
    labels[::9] = {IGNORED}
    logits[3, :{CUTS[1]}] = -np.inf
    logits[4, 5] = 60
    labels[4] = 5
    return logits, labels
"""
SCRIPT = f"""
import sys
import torch
import torch.distributed as dist
import xentfast

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{{folder}}/store", rank=rank, world_size=2)
logits, labels = whole()
first, end = {CUTS}[rank : rank + 2]
part = logits[:, first:end].copy()  # all that this process works with
del logits

mine = torch.from_numpy(
    xentfast.shard_statistics(part, labels, first, classes={CLASSES}, ignore_index={IGNORED})
)
said = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
dist.all_gather(said, mine)
merged = xentfast.merge_shards(said)
loss = xentfast.shard_loss(merged)
xentfast.shard_grad(part, labels, first, merged, out=part)
np.savez(f"{{folder}}/{{rank}}.npz", loss=loss, gradient=part)
dist.barrier()
dist.destroy_process_group()
"""


def whole() -> tuple[Any, Any]:
    """Return all logits, which no process has, and the labels."""
    names: dict[str, Any] = {}
    exec(DATA, names)
    logits, labels = names["whole"]()
    return logits, labels


def test_two_processes_have_value_and_gradient_of_the_whole(tmp_path: Path) -> None:
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    environment = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    workers = [
        subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", DATA + SCRIPT, str(tmp_path), str(rank)],
            env=os.environ | environment,
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    found = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    assert found[0]["loss"].tobytes() == found[1]["loss"].tobytes()
    gradient = np.concatenate([of["gradient"] for of in found], axis=1)

    logits, labels = whole()
    loss, expected = xentfast.cross_entropy_value_and_grad(logits, labels, ignore_index=IGNORED)
    assert found[0]["loss"] == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(gradient, expected, 1e-6, 1e-9)

    x = torch.from_numpy(logits).double().requires_grad_()
    theirs = torch.nn.functional.cross_entropy(x, torch.from_numpy(labels))
    theirs.backward()
    assert found[0]["loss"] == pytest.approx(theirs.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), 1e-6, 1e-9)
