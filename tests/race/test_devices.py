"""What a machine can't train with is found before a race is stored."""

import multiprocessing

import pytest
import torch

from thalweg.race import RaceError, devices, race
from thalweg.race.job import Conditions


@pytest.mark.parametrize("device", ["cuda", "mps", "gpu"])
def test_an_accelerator_that_is_missing(device, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RaceError, match=f"device '{device}': torch finds none on this machine; choose another"):
        race(tiny, ["adamw"], device=device, workers=0, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    devices.check_devices(Conditions(device=device), None, "auto")  # a cluster may have what this machine lacks


def test_a_precision_that_is_missing():
    pytest.importorskip("lightning_fabric")
    devices.check_devices(Conditions(device="cpu", precision="bf16-true"), 0, None)
    before = torch.get_rng_state()
    with pytest.raises(RaceError, match="precision 'transformer-engine' on this machine: ") as refused:
        devices.check_devices(Conditions(device="cpu", precision="transformer-engine"), 0, None)
    assert "\n" not in str(refused.value)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_in_another_process():
    assert devices._in_child("cpu", "bf16-mixed") == ""
    ours, theirs = multiprocessing.Pipe()
    devices._answer(theirs, "cpu", "nonsense")
    assert "nonsense" in ours.recv()
