"""Known patterns of allocation have known peaks; WTA-CRS layers lower that of a training step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.nn import convert_wta_crs
from thalweg.probe import peak_memory


def pattern(*changes: int) -> int:
    """Tensors of so many bytes come; a negative number lets the oldest of that size go."""

    def run() -> None:
        held: list[torch.Tensor] = []
        for change in changes:
            if change > 0:
                held.append(torch.empty(change, dtype=torch.uint8))
            else:
                del held[[t.numel() for t in held].index(-change)]

    return peak_memory(run)


@pytest.mark.parametrize(
    ("changes", "peak"),
    [
        ((), 0),
        ((4096,), 4096),
        ((4096, 1024, -4096, 2048), 5120),  # not the sum 7168
        ((1024, -1024) * 20, 1024),
        ((1024, 4096, -1024, -4096, 3072), 5120),  # the peak isn't at the end
        ((1 << 20, 1 << 22, -(1 << 20), 1 << 21), (1 << 22) + (1 << 21)),
    ],
)
def test_known_patterns(changes: tuple[int, ...], peak: int) -> None:
    assert pattern(*changes) == peak


def test_what_was_there_before_doesn_t_count() -> None:
    before = [torch.empty(8192, dtype=torch.uint8)]

    def swap() -> torch.Tensor:
        before.clear()
        return torch.empty(10000, dtype=torch.uint8)

    assert peak_memory(swap) == 10000  # the allocator forgets sizes while nobody looks
    assert peak_memory(lambda: before) == 0


def test_a_forward_pass_holds_what_backward_needs() -> None:
    """y = relu(x w): x was there, w x is freed once relu has its own copy, which autograd keeps; backward has a gradient of it."""
    x, w = torch.randn(64, 16), torch.randn(16, 32, requires_grad=True)
    product, weight = 64 * 32 * 4, 16 * 32 * 4
    assert peak_memory(lambda: (x @ w).relu()) == 2 * product
    assert 2 * product <= peak_memory(lambda: torch.autograd.grad((x @ w).relu().sum(), w)) <= 2 * product + weight
    with torch.no_grad():
        assert peak_memory(lambda: (x @ w).relu_()) == product


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(ValueError) as caught:
        peak_memory(lambda: None, device)
    assert str(caught.value) == f"peak_memory knows the CPU and CUDA devices, not {device!r}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda() -> None:
    held = torch.zeros(1 << 20, device="cuda")

    def run() -> torch.Tensor:
        a = torch.empty(1 << 20, device="cuda")
        b = torch.empty(1 << 19, device="cuda")
        del a
        return b

    assert peak_memory(run, "cuda") == 6 << 20 and held.sum() == 0


def test_sampled_rows_lower_the_peak_of_a_training_step() -> None:
    """Behind a normalization, which keeps its input, a linear layer keeps its own: half of all; then a quarter of that."""
    peaks = []
    for ratio in (1.0, 0.25):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32)) for _ in range(8)]
        model = convert_wta_crs(nn.Sequential(*blocks), ratio, ["*"])
        x = torch.randn(2048, 32)

        def step(model: nn.Module = model, x: torch.Tensor = x) -> None:
            model(x).square().mean().backward()
            model.zero_grad()

        peaks.append(peak_memory(step))
    assert 0.6 < peaks[1] / peaks[0] < 0.75  # (1 + 1/4) / 2 = 0.63, and what the backward pass needs beside
