"""Under FSDP2 on several processes every rule does what it does on one, and its checkpoint resumes on another number of them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture
def launch(start_python: Callable[..., Any]) -> Callable[[str, tuple[str, ...], Path, int], None]:
    """``launch("train", RULES, folder, 2)``: all rules in the same processes, as starting those takes longer than training."""

    def run(task: str, names: tuple[str, ...], folder: Path, processes: int) -> None:
        words = (str(WORKER), task, ",".join(names), str(folder))
        programs = [start_python(*words, str(rank), str(processes)) for rank in range(processes)]
        while any(p.poll() is None for p in programs) and not any(p.poll() for p in programs):
            time.sleep(0.05)  # those who wait for one that failed would wait for long
        failed = [p for p in programs if p.poll()]
        assert not failed, failed[0].communicate()[1][-4000:]

    return run


def on_one_process(name: str) -> list[torch.Tensor]:
    model = fsdp_worker.build()
    optimizer = fsdp_worker.optimizer_for(name, model)
    fsdp_worker.train(model, optimizer, 0, fsdp_worker.STEPS)
    return fsdp_worker.whole(model)


def differences(names: tuple[str, ...], task: str, folder: Path) -> dict[str, float]:
    """By how much each rule's parameters differ from those that one process gets."""
    found = {name: zip(torch.load(folder / name / f"{task}.pt"), on_one_process(name), strict=True) for name in names}
    return {name: max((x - y).abs().max().item() for x, y in pairs) for name, pairs in found.items()}


def test_two_processes_equal_one(launch: Callable[..., None], tmp_path: Path) -> None:
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


def test_checkpoint_resumes_on_another_number_of_processes(launch: Callable[..., None], tmp_path: Path) -> None:
    launch("save", KEPT, tmp_path, 2)
    launch("load", KEPT, tmp_path, 3)
    assert {name: d for name, d in differences(KEPT, "load", tmp_path).items() if not d < 1e-5} == {}
