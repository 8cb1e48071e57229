import pytest
import torch

from thalweg.tasks.regression_prompts import linear_prompts, relu_prompts

COV = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_targets_are_linear_and_only_examples_have_noise():
    clean, noisy = (linear_prompts(20, 6, 3, noise_var=v, generator=seeded()) for v in (0.0, 0.25))
    w = torch.linalg.lstsq(clean.X, clean.y[..., None]).solution.squeeze(-1)
    assert torch.allclose((w * clean.xq).sum(-1), clean.yq)
    assert torch.equal(clean.X, noisy.X) and torch.equal(clean.yq, noisy.yq)
    assert (noisy.y - clean.y).std().item() == pytest.approx(0.5, rel=0.25)


def test_covariances():
    prompts = linear_prompts(40_000, 2, 2, cov=COV, weight_cov=torch.linalg.inv(COV), generator=seeded())
    assert torch.allclose(prompts.X.flatten(0, 1).T.cov(), COV, atol=0.05)
    w = torch.linalg.solve(prompts.X, prompts.y)
    assert torch.allclose(w.T.cov(), torch.linalg.inv(COV), atol=0.05)


def test_uniform_inputs():
    prompts = linear_prompts(2000, 4, 3, inputs="uniform", generator=seeded())
    assert prompts.X.abs().max() <= 1 and prompts.X.square().mean().item() == pytest.approx(1 / 3, rel=0.03)


def test_relu_targets():
    """E g^2 = dim / 2, and one unit is positively homogeneous."""
    prompts = relu_prompts(40_000, 1, 4, generator=seeded())
    assert prompts.yq.square().mean().item() == pytest.approx(2.0, rel=0.05)
    assert relu_prompts(500, 6, 4, units=1, generator=seeded()).y.sign().add(1).unique().numel() == 3


def test_tokens():
    prompts = linear_prompts(3, 2, 2, generator=seeded())
    tokens = prompts.tokens()
    assert torch.equal(tokens[:, :2, :2], prompts.X) and torch.equal(tokens[:, :2, 2], prompts.y)
    assert torch.equal(tokens[:, 2, :2], prompts.xq) and not tokens[:, 2, 2].any()


@pytest.mark.parametrize("sample", [linear_prompts, relu_prompts])
def test_seed_and_dtype(sample):
    a, b = (sample(3, 4, 2, noise_var=1.0, generator=seeded(5), dtype=torch.float32) for _ in range(2))
    assert all(torch.equal(x, y) and x.dtype == torch.float32 for x, y in zip(a, b, strict=True))


def test_wrong_inputs():
    with pytest.raises(ValueError, match="'normal' or 'uniform', not 'cube'"):
        linear_prompts(1, 1, 1, inputs="cube")
    with pytest.raises(ValueError, match="uniform inputs take no cov"):
        linear_prompts(1, 1, 2, inputs="uniform", cov=COV)
