"""Under FSDP2 on several processes every rule does what it does on one, and its checkpoint resumes on another number of them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("fsdp_worker.py")
spec = importlib.util.spec_from_file_location("fsdp_worker", WORKER)
assert spec is not None and spec.loader is not None
fsdp_worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fsdp_worker)


def launch(task: str, name: str, folder: Path, processes: int) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*command, str(WORKER), task, name, str(folder)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[:4000]
    return done.stdout


def on_one_process(name: str) -> list[torch.Tensor]:
    model = fsdp_worker.build()
    optimizer = fsdp_worker.optimizer_for(name, model)
    fsdp_worker.train(model, optimizer, 0, fsdp_worker.STEPS)
    return fsdp_worker.whole(model)


def difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["adamp", "adamw", "fira", "lamb", "lars", "lion_k", "muon", "noisy_lion"])
def test_two_processes_equal_one(name: str, tmp_path: Path) -> None:
    launch("train", name, tmp_path, 2)
    assert difference(torch.load(tmp_path / "train.pt"), on_one_process(name)) < 1e-5
    if name in ("adamp", "lamb"):
        check_looks(name, tmp_path)


def check_looks(name: str, folder: Path) -> None:
    """What the next step would use is the same on every process, and as on one."""
    model = fsdp_worker.build()
    optimizer = fsdp_worker.optimizer_for(name, model)
    fsdp_worker.train(model, optimizer, 0, fsdp_worker.STEPS)
    expected = fsdp_worker.look(name, model, optimizer)
    for rank in range(2):
        found = torch.load(folder / f"look{rank}.pt")
        assert found == (pytest.approx(expected, rel=1e-3) if name == "lamb" else expected)


@pytest.mark.parametrize("name", ["adamw", "remembered"])
def test_checkpoint_resumes_on_another_number_of_processes(name: str, tmp_path: Path) -> None:
    launch("save", name, tmp_path, 2)
    launch("load", name, tmp_path, 3)
    assert difference(torch.load(tmp_path / "load.pt"), on_one_process(name)) < 1e-5
