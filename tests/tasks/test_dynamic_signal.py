import math

import pytest
import torch

from thalweg.tasks.dynamic_signal import bayes_score, dynamic_signal, linear_error, oracle_error


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_patch_holds_the_signal():
    images = dynamic_signal(200, 3, 4, 0.0, problems=(2,), generator=draws())
    assert images.x.shape == (2, 200, 3, 4)
    filled = images.x.abs().sum(-1) > 0
    assert (filled.sum(-1) == 1).all() and torch.equal(filled.int().argmax(-1), images.patch)
    assert torch.allclose(images.x.sum(-2), images.y.unsqueeze(-1) * images.signal.unsqueeze(-2))
    assert torch.allclose(images.signal.norm(dim=-1), torch.ones(2))
    assert not torch.allclose(images.signal[0], images.signal[1])


def test_noise_and_repetition():
    signal = torch.tensor([0.6, 0.8])
    first, again = (dynamic_signal(5000, 2, 2, 0.3, signal=signal, generator=draws()) for _ in range(2))
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    clean = dynamic_signal(5000, 2, 2, 0.0, signal=signal, generator=draws())
    assert (first.x - clean.x).std().item() == pytest.approx(0.3, rel=0.02)
    assert first.y.mean().abs() < 0.05 and abs(first.patch.double().mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"noise_std": -1.0}, {"signal": torch.tensor([1.0, 1.0])}, {"signal": torch.tensor([1.0, 0.0, 0.0])}],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=r"at least|length 1"):
        dynamic_signal(**({"n": 2, "patches": 2, "patch_dim": 2, "noise_std": 0.1} | wrong))


@pytest.mark.parametrize(
    ("patches", "noise", "threshold"), [(8, 0.2, 0.5), (8, 0.2, 0.0), (4, 0.285, 0.2), (1, 0.5, 0.4)]
)
def test_oracle_error_against_simulation(patches, noise, threshold):
    n = 200_000
    z = noise * torch.randn(n, patches, generator=draws(), dtype=torch.float64)
    z[:, 0] += 1
    f = (z - z.clamp(-threshold, threshold)).sum(1)
    simulated = ((f < 0).double() + (f == 0).double() / 2).mean().item()
    error = oracle_error(patches, noise, threshold)
    assert error == pytest.approx(simulated, abs=4 * math.sqrt(error / n))


@pytest.mark.parametrize("patches", [1, 8])
def test_without_threshold_the_oracle_is_the_best_linear_rule(patches):
    assert oracle_error(patches, 0.3, 0.0) == pytest.approx(linear_error(patches, 0.3), abs=1e-6)


def test_oracle_error_does_not_depend_on_the_lattice():
    assert oracle_error(8, 0.2, 0.4) == pytest.approx(oracle_error(8, 0.2, 0.4, step=2.5e-4), abs=2e-5)
    with pytest.raises(ValueError, match="threshold at least 0"):
        oracle_error(8, 0.2, -0.1)


def test_bayes_score_is_the_log_odds_and_its_rule_the_best():
    images = dynamic_signal(20_000, 4, 5, 0.3, generator=draws(), dtype=torch.float64)
    score = bayes_score(images.x, images.signal, 0.3)
    z = images.x[:3] @ images.signal
    for n in range(3):  # densities of all patches, as they are defined
        like = {y: sum(math.exp(-((z[n] - y * torch.eye(4)[j]) ** 2).sum() / 0.18) for j in range(4)) for y in (1, -1)}
        assert score[n].item() == pytest.approx(math.log(like[1] / like[-1]), rel=1e-6)
    wrong = (score * images.y < 0).double().mean().item()
    assert wrong < min(oracle_error(4, 0.3, b) for b in (0.2, 0.4, 0.6))
    assert torch.sigmoid(score).sub((images.y + 1) / 2).mean().abs() < 0.01  # calibrated
