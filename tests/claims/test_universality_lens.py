import pytest
import torch

from thalweg.claims import universality_lens as claim
from thalweg.claims.engine.contract import Measurement


def verdict(samples=0.38, one=0.40, rank=0.98, over=-1.0, wide=3.1, narrow=3.0, regret=1.0):
    numbers = {
        f"coin/0.5/{m}/10/{k}": v for m in (1, 2) for k, v in (("regret", regret), ("integral", 2.0), ("bound", 3.0))
    }
    numbers |= {f"boolean: rank correlation/{w}": rank for w in (8, 64, 512)}
    numbers |= {"boolean: over the bound": over, "boolean: simple/512": wide, "boolean: simple/64": narrow}
    numbers |= {"boolean: uniform prior": 20.0, "moons: one network": one}
    return claim.judge([Measurement(numbers | {"moons: samples": samples + 0.001 * k}) for k in range(4)])


def test_smoke_runs():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["boolean: over the bound"] <= 0
    assert claim.judge([found]).because


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "reproduced"),
        ({"samples": 0.41}, "partly"),
        ({"regret": 2.5}, "not reproduced at this scale"),
        ({"over": 0.1}, "not reproduced at this scale"),
        ({"rank": 0.8}, "not reproduced at this scale"),
        ({"wide": 4.0}, "not reproduced at this scale"),
        ({"narrow": 0.0}, "not testable at this scale"),
    ],
)
def test_verdicts(changes, word):
    assert verdict(**changes).word == word


@pytest.mark.parametrize(
    ("factors", "chance", "n", "regret", "bound"),
    [
        (1, 0.5, 10, 0.522, 1.676),
        (1, 0.5, 100, 1.5868, 2.805),
        (1, 0.01, 100, 3.313, 4.392),
        (2, 0.01, 100, 1.84, 2.90),
        (4, 0.01, 100, 0.57, 1.66),
        (8, 0.5, 100, 12.23, 13.71),
    ],
)
def test_coin(factors, chance, n, regret, bound):
    found = claim.coin(factors, chance, n)
    assert found.regret == pytest.approx(regret, abs=5e-3) and found.bound == pytest.approx(bound, abs=5e-3)
    assert found.regret <= found.integral <= found.bound


def test_weight_of_a_product_against_draws():
    draws = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).prod(1)
    D = 0.2 * (0.2 / draws).log() + 0.8 * (0.8 / (1 - draws)).log()
    eps = torch.tensor([0.003, 0.03, 0.3], dtype=torch.float64)
    drawn = [(e >= D).double().mean().item() for e in eps]
    assert claim.coin_weight(3, 0.2, eps).tolist() == pytest.approx(drawn, rel=0.03)


def test_uniform_prior_over_functions():
    """One input, seen twice: both values of the function, each with both labels."""
    x = torch.tensor([[5, 5]])
    votes = torch.zeros(1, 128).scatter_add_(1, x, torch.tensor([[1.0, -1.0]]))
    expected = torch.tensor(0.09).double().log()
    found = claim._uniform(x, votes, torch.tensor(0.9).log().item(), torch.tensor(0.1).log().item())
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
