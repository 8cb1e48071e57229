import pytest
import torch

from thalweg.nn import DenoiserScore


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_score_matching_is_least_squares_on_the_clean_data():
    """(h / alpha)^2 |s - (alpha x0 - x) / h|^2 is |f - x0|^2, whatever f, x0 and x are."""
    t, x, clean, guess = 0.1 + normal(50).abs(), normal(50, 3), normal(50, 3, seed=1), normal(50, 3, seed=2)
    alpha = (-t / 2).exp().unsqueeze(1)
    h = 1 - alpha.square()
    score = DenoiserScore(lambda t, x: guess)(t, x)
    noise = (x - alpha * clean) / h.sqrt()
    matched = ((h / alpha).square() * (score + noise / h.sqrt()).square()).sum(1)
    assert torch.allclose(matched, (guess - clean).square().sum(1), rtol=1e-10)


def test_is_the_derivative_of_the_log_density():
    """Two points +-c on a line: f = c tanh(alpha c x / h)."""
    c, t = 0.7, torch.linspace(0.1, 2, 9, dtype=torch.float64)
    alpha, h = (-t / 2).exp(), 1 - (-t).exp()
    x = normal(9, 1).requires_grad_()
    squares = torch.stack([-(x[:, 0] - sign * alpha * c).square() / (2 * h) for sign in (1, -1)])
    (expected,) = torch.autograd.grad(squares.logsumexp(0).sum(), x)
    score = DenoiserScore(lambda t, x: c * torch.tanh((alpha * c / h).unsqueeze(1) * x))
    assert torch.allclose(score(t, x), expected, rtol=1e-9)


def test_projection_and_truncation():
    t, x = torch.ones(3), torch.tensor([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0]])
    alpha, h = torch.tensor(-0.5).exp(), 1 - torch.tensor(-1.0).exp()
    found = DenoiserScore(lambda t, x: x, radius=1.0, trunc=10.0)(t, x)
    inside = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(found, (alpha * inside - x) / h)


def test_other_processes_and_parameters():
    module = DenoiserScore(torch.nn.Bilinear(1, 2, 2), alpha=torch.ones_like, h=lambda t: t**2)
    assert len(list(module.parameters())) == 2
    exploding = DenoiserScore(lambda t, x: 0 * x, alpha=torch.ones_like, h=lambda t: t**2)
    assert exploding(torch.tensor([2.0]), torch.tensor([[1.0, 3.0]])).tolist() == [[-0.25, -0.75]]


def test_what_is_refused():
    with pytest.raises(ValueError, match="radius must be positive"):
        DenoiserScore(lambda t, x: x, radius=0.0)
    with pytest.raises(ValueError, match="trunc must be positive"):
        DenoiserScore(lambda t, x: x, trunc=-1.0)
    with pytest.raises(ValueError, match="without noise"):
        DenoiserScore(lambda t, x: x)(torch.zeros(1), torch.zeros(1, 2))
