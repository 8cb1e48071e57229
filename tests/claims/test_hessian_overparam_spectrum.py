import pytest
import torch

from thalweg.claims import hessian_overparam_spectrum as claim
from thalweg.claims.engine.contract import Measurement

GOOD = {
    **{f"outliers/{k}": float(k) for k in (2, 4, 6, 10)},
    **{f"mean of top/{h}": 0.2 for h in (10, 20, 60, 120)},
    **{f"factor outside: mean of top/{h}": 0.2 for h in (10, 20, 60, 120)},
    **{f"near zero/{h}": h / 200 for h in (10, 20, 60, 120)},
    "top/0.25": 0.75,
    "top/1": 0.28,
    "barrier / loss at the start": 0.01,
    "outliers from Gauss-Newton": 0.1,
}


def verdict(changes):
    return claim.judge([Measurement(GOOD | changes)] * 3)


def test_smoke_runs():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["near zero/30"] > found.numbers["near zero/10"]
    assert found.numbers["outliers from Gauss-Newton"] < 0.5
    assert claim.judge([found]).because


def test_the_factor_outside_changes_nothing_at_the_start_and_halves_the_pull():
    """At 80 units the factor is a half: the same outputs, and half the gradient by the readout's weights."""
    torch.manual_seed(0)
    x = torch.randn(5, claim.DIM, dtype=torch.float64)
    usual, other = claim._network(claim.DIM, 80, 3, 7), claim._FactorOutside(claim.DIM, 80, 3, 7)
    assert torch.allclose(usual(x), other(x))
    (slope,), (halved,) = (
        torch.autograd.grad(net(x).square().sum(), [weight])
        for net, weight in ((usual, usual[2].weight), (other, other.weight))
    )
    assert torch.allclose(halved, slope / 2)


def test_all_that_is_asked_for():
    assert verdict({}).word == "reproduced"
    assert verdict({"outliers/4": 3.0}).word == "reproduced"
    assert verdict({"outliers/4": 2.0}).word == "reproduced"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outliers/4": 2.0, "outliers/10": 11.0}, "no gap"),
        ({"mean of top/120": 0.28}, "the parametrization decides"),
        ({"mean of top/120": 0.12}, "the parametrization decides"),
        ({"mean of top/120": 0.28, "factor outside: mean of top/120": 0.1}, "the parametrization decides"),
        ({"mean of top/120": 0.28, "factor outside: mean of top/120": 0.28}, "in both"),
        ({"near zero/120": 0.1}, "share near zero doesn't grow"),
        ({"top/0.25": 0.5}, "too little"),
        ({"barrier / loss at the start": 0.1}, "different valleys"),
    ],
)
def test_one_part_failing_is_partly(changes, reason):
    found = verdict(changes)
    assert found.word == "partly" and reason in found.because.split("Likely reason:")[1]


def test_one_part_holding_is_not_enough():
    found = verdict({"outliers/4": 9.0, "outliers/6": 9.0, "mean of top/120": 1.0, "barrier / loss at the start": 0.5})
    assert found.word == "not reproduced at this scale"
