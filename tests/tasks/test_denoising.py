import math

import pytest
import torch

from thalweg.nn import DenoiserScore
from thalweg.tasks.denoising import T0, T, diffused, exact_denoiser, features, reverse_diffusion, ring_of_discs


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_discs():
    atoms = ring_of_discs(50, generator=draws())
    turn = torch.arange(8).repeat_interleave(50) * math.pi / 4
    off = (atoms - torch.stack([turn.cos(), turn.sin()], 1)).norm(dim=1)
    assert off.max() <= 0.1 + 1e-6 and off.square().mean().item() == pytest.approx(0.005, rel=0.1)


def test_the_process_keeps_its_moments():
    atoms = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    noisy = diffused(atoms, 40_000, 0.9999, 1.0001, generator=draws())
    assert torch.allclose(noisy.x.mean(0), math.exp(-0.5) * atoms[0], atol=0.02)
    assert torch.allclose(noisy.x.var(0), torch.full((2,), 1 - math.exp(-1), dtype=torch.float64), atol=0.02)
    spread = diffused(atoms, 1000, generator=draws()).t
    assert T0 <= spread.min() < T0 + 0.1 and T - 0.1 < spread.max() <= T


def test_one_atom_and_two():
    t, x = torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64), torch.tensor([[-0.4], [0.2], [5.0]], dtype=torch.float64)
    one = torch.tensor([[0.3]], dtype=torch.float64)
    assert torch.allclose(exact_denoiser(one, t, x), one.expand(3, 1))
    alpha, h = (-t / 2).exp().unsqueeze(1), 1 - (-t).exp().unsqueeze(1)
    assert torch.allclose(exact_denoiser(torch.cat([one, -one]), t, x), 0.3 * torch.tanh(alpha * 0.3 * x / h))


@pytest.mark.parametrize("std", [0.0, 0.4])
def test_score_is_the_derivative_of_the_log_density(std):
    atoms = torch.randn(5, 2, generator=draws(), dtype=torch.float64)
    t, x = 0.2 + torch.rand(7, generator=draws(1), dtype=torch.float64), torch.randn(7, 2, generator=draws(2)).double()
    x.requires_grad_()
    alpha = (-t / 2).exp()
    v = 1 - alpha.square() * (1 - std**2)
    away = (x.unsqueeze(1) - alpha[:, None, None] * atoms).square().sum(2)
    (expected,) = torch.autograd.grad((-away / (2 * v[:, None])).logsumexp(1).sum(), x)
    score = DenoiserScore(lambda t, x: exact_denoiser(atoms, t, x, std))
    assert torch.allclose(score(t, x), expected, rtol=1e-9)


def test_best_guess_leaves_noise_that_nothing_explains():
    """Residuals have mean 0 given the input: uncorrelated with any function of it, so errors add up."""
    atoms = ring_of_discs(generator=draws())
    noisy = diffused(atoms, 20_000, generator=draws(1))
    best = exact_denoiser(atoms, noisy.t, noisy.x)
    rest = noisy.clean - best
    seen = features(noisy.t, noisy.x)
    assert seen.shape == (20_000, 4) and (seen.mT @ rest / len(rest)).abs().max() < 0.03
    assert (best * rest).sum(1).mean().abs() < 0.01
    assert 0.55 < rest.square().mean().sqrt() < 0.7 and 0.2 < best.square().sum(1).mean() < 0.26


def test_reverse_of_a_gaussian():
    """With the exact score of N(0, 0.25) points at the end have the variance of that time."""

    def score(t, x):
        return DenoiserScore(lambda t, x: exact_denoiser(torch.zeros(1, 1, dtype=x.dtype), t, x, 0.5))(t, x)

    start = torch.randn(20_000, 1, generator=draws(), dtype=torch.float64)
    end = reverse_diffusion(score, start, 200, generator=draws(1))
    assert end.var().item() == pytest.approx(1 - math.exp(-T0) * 0.75, rel=0.05)


def test_what_is_refused():
    for times in ((0.0, 1.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match="t0 < t1"):
            diffused(torch.zeros(1, 2), 3, *times)
