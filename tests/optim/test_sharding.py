"""Under FSDP2 on several processes every rule does what it does on one, and its checkpoint resumes on another number of them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from thalweg.optim import list_optimizers

WORKER = Path(__file__).with_name("fsdp_worker.py")
spec = importlib.util.spec_from_file_location("fsdp_worker", WORKER)
assert spec is not None and spec.loader is not None
fsdp_worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fsdp_worker)


RULES = (*list_optimizers(), "noisy_lion")
KEPT = ("adamw", "remembered")


def launch(task: str, names: tuple[str, ...], folder: Path, processes: int) -> None:
    """All rules in the same processes: starting those takes longer than training."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    worker = [str(WORKER), task, ",".join(names), str(folder)]
    done = subprocess.run([*command, *worker], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[:4000]


def on_one_process(name: str) -> list[torch.Tensor]:
    model = fsdp_worker.build()
    optimizer = fsdp_worker.optimizer_for(name, model)
    fsdp_worker.train(model, optimizer, 0, fsdp_worker.STEPS)
    return fsdp_worker.whole(model)


def differences(names: tuple[str, ...], task: str, folder: Path) -> dict[str, float]:
    """By how much each rule's parameters differ from those that one process gets."""
    found = {name: zip(torch.load(folder / name / f"{task}.pt"), on_one_process(name), strict=True) for name in names}
    return {name: max((x - y).abs().max().item() for x, y in pairs) for name, pairs in found.items()}


def test_two_processes_equal_one(tmp_path: Path) -> None:
    launch("train", RULES, tmp_path, 2)
    assert {name: d for name, d in differences(RULES, "train", tmp_path).items() if not d < 1e-5} == {}
    for name in ("adamp", "lamb"):
        check_looks(name, tmp_path / name)


def check_looks(name: str, folder: Path) -> None:
    """What the next step would use is the same on every process, and as on one."""
    model = fsdp_worker.build()
    optimizer = fsdp_worker.optimizer_for(name, model)
    fsdp_worker.train(model, optimizer, 0, fsdp_worker.STEPS)
    expected = fsdp_worker.look(name, model, optimizer)
    for rank in range(2):
        found = torch.load(folder / f"look{rank}.pt")
        assert found == (pytest.approx(expected, rel=1e-3) if name == "lamb" else expected)


def test_checkpoint_resumes_on_another_number_of_processes(tmp_path: Path) -> None:
    launch("save", KEPT, tmp_path, 2)
    launch("load", KEPT, tmp_path, 3)
    assert {name: d for name, d in differences(KEPT, "load", tmp_path).items() if not d < 1e-5} == {}
