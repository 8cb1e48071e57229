"""Clipping by the norm of the whole gradient, against torch's function."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thalweg.optim import SGD, AdamW, clip_gradient_norm


def make(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in ((4, 3), (3,), ())
    ]


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 3.0, 1e6])
def test_equals_torchs_function_and_leaves_gradients_alone(train, max_norm: float) -> None:
    ours, theirs = make(), make()
    groups = [{"params": ours[:1]}, {"params": ours[1:], "lr": 0.01}]
    clipped = AdamW(groups, lr=0.1, before=clip_gradient_norm(max_norm=max_norm))
    plain = AdamW([{"params": theirs[:1]}, {"params": theirs[1:], "lr": 0.01}], lr=0.1)
    for step in range(4):
        train(clipped, ours, step, step + 1)
        given = [p.grad.clone() for p in ours]
        for p, g in zip(theirs, given, strict=True):
            p.grad = g.clone()
        nn.utils.clip_grad_norm_(theirs, max_norm)
        plain.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, given, strict=True))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)  # torch adds 1e-6 to the norm


def test_zero_missing_and_huge_gradients() -> None:
    params = make(torch.float32)
    before = copy.deepcopy(params)
    optimizer = SGD(params, lr=1.0, momentum=0.0, before=clip_gradient_norm(max_norm=2.0))
    optimizer.step()
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    params[0].grad = torch.full_like(params[0], 1e30)  # its square overflows float32
    params[1].grad = None
    optimizer.step()
    torch.testing.assert_close((params[0] - before[0]).norm().item(), 2.0, rtol=1e-6, atol=0)


def test_complex_gradients_count_by_their_modulus() -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.complex128))
    p.grad = torch.tensor([3 + 4j]).to(p.dtype).conj()
    SGD([p], lr=1.0, momentum=0.0, before=clip_gradient_norm(max_norm=1.0)).step()
    torch.testing.assert_close(p.data, torch.tensor([-0.6 + 0.8j], dtype=torch.complex128))


def test_a_nan_spoils_every_parameter() -> None:
    params = make()
    for p in params:
        p.grad = torch.ones_like(p)
    params[1].grad[0] = float("nan")
    SGD(params, lr=0.1, before=clip_gradient_norm()).step()
    assert not any(p.isfinite().any() for p in params)


def test_range() -> None:
    with pytest.raises(ValueError, match=r"^Invalid max_norm: 0.0 \(must be a number > 0\)$"):
        clip_gradient_norm(max_norm=0.0)
