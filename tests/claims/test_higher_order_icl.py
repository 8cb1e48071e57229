import dataclasses
import math

import pytest
import torch

from thalweg.claims import higher_order_icl as claim
from thalweg.claims.engine.contract import Measurement


def measured(
    newton=6.6,
    descent=10.0,
    error=0.1,
    alike=0.95,
    steps=(1.0, 3.0, 5.0, 8.0),
    doublings=(0.0, 1.0, 3.0, 4.0),
    half=0.7,
):
    numbers = {
        "Newton's steps per factor 10": newton,
        "growth of descent's steps per factor 10": descent,
        "error of the last block": error,
    }
    for block in range(1, 5):
        numbers[f"likeness to Newton/block {block}"] = alike if block > 1 else 0.5
        numbers[f"likeness to Newton, half as long/block {block}"] = half if block > 1 else 0.99
        numbers[f"likeness to Newton, untrained/block {block}"] = 0.6
        numbers[f"steps of Newton, untrained/block {block}"] = 0.0
        numbers[f"steps of Newton/block {block}"] = steps[block - 1]
        numbers[f"log2 of steps of descent/block {block}"] = doublings[block - 1]
    return Measurement(numbers)


def quiet(share, doing=""):
    assert 0 <= share <= 1


def test_smoke_counts_steps_and_runs():
    (seed,) = claim.SCALES["smoke"].seeds
    result = claim.run("smoke", seed, report=quiet)
    assert claim.judge([result]).word == "not testable at this scale"
    assert result.numbers["Newton's steps per factor 10"] == pytest.approx(2 * math.log2(10), abs=1.4)
    assert result.numbers["growth of descent's steps per factor 10"] == pytest.approx(10, rel=0.3)
    assert {curve.panel for curve in result.curves} == {panel.key for panel in claim.PANELS}
    assert result.numbers["squared error, half as long/block 2"] != result.numbers["squared error/block 2"]
    matched = {curve.label: curve for curve in result.curves if curve.panel == "match"}
    assert min(matched["Newton"].y) >= 0.5 and matched["Newton, half as long"].role == "control"
    rates = {(c.label, c.role): c for c in result.curves if c.panel == "rates"}
    for name in ("Newton", "gradient descent"):  # the iterations against what the eigenvalues say
        ours, theory = (dict(zip(c.x, c.y, strict=True)) for c in (rates[name, "measured"], rates[name, "theory"]))
        both = [k for k in ours if k in theory and theory[k] > 1e-9]
        assert set(ours) == set(theory)  # the same steps in every seed
        assert len(both) > 5 and [ours[k] for k in both] == pytest.approx([theory[k] for k in both], rel=1e-3)


def test_the_model_sees_the_past_only():
    torch.manual_seed(0)
    model = claim.InContextRegressor(2, 4, 8, 2)
    X, y = torch.randn(3, 4, 2), torch.randn(3, 4)
    before = model(X, y)
    X2, y2 = X.clone(), y.clone()
    y2[:, 2] += 1
    X2[:, 3] += 1
    assert torch.allclose(model(X2, y2)[:, :3], before[:, :3])
    assert not torch.allclose(model(X2, y2)[:, 3], before[:, 3])


def test_read_out_finds_what_is_there():
    torch.manual_seed(0)
    known, new = torch.randn(400, 3, 5), torch.randn(20, 3, 5)
    predicted = claim._read_out(known, known[..., 1] * 2 - 1, new)
    assert torch.allclose(predicted[:, 1:], (new[..., 1] * 2 - 1)[:, 1:].double(), atol=1e-2)
    assert (predicted[:, 0] == 0).all()


def test_half_the_training_is_a_training_of_its_own(monkeypatch):
    """Its learning rates and those of the whole: both rise alike, and each falls over its own last quarter."""
    rates, draws = [], torch.Generator().manual_seed(0)
    monkeypatch.setattr(claim, "_step", lambda model, adam, size, draws, share: rates.append(share))
    claim._train(dataclasses.replace(claim.SIZES["smoke"], steps=80), draws, quiet)
    assert len(rates) == 60 + 20 + 10
    assert rates[:8] == pytest.approx([(k + 1) / 8 for k in range(8)])
    assert set(rates[8:30]) == {1.0} == set(rates[40:70])
    assert rates[30:40] == pytest.approx([1 - k / 10 for k in range(10)])
    assert rates[70:] == pytest.approx([1 - k / 20 for k in range(20)])


@pytest.mark.parametrize(("half", "said"), [(0.7, "training is short"), (0.85, "not the length of training")])
def test_the_shorter_training_gives_the_reason(half, said):
    verdict = claim.judge([measured(alike=0.8), measured(alike=0.8, half=half)])
    assert (
        verdict.word == "partly"
        and said in verdict.because
        and "untrained, matched with 0.0 steps, 0.600" in verdict.because
    )


def test_line():
    assert claim._line([1.0, 3.0, 5.0]) == pytest.approx((2.0, 1.0))
    assert claim._line([2.0, 2.0, 2.0]) == (0.0, 1.0) and claim._line([1.0]) == (0.0, 0.0)


def test_all_that_is_asked_for():
    verdict = claim.judge([measured(), measured(newton=8.0)])
    assert (
        verdict.word == "reproduced" and "8.0 steps more" in verdict.because and "1.0, 3.0, 5.0, 8.0" in verdict.because
    )


@pytest.mark.parametrize("bad", [{"alike": 0.8}, {"steps": (1.0, 2.0, 2.0, 9.0)}, {"doublings": (0.0, 1.0, 1.5, 2.0)}])
def test_rising_alone_is_partly(bad):
    assert claim.judge([measured(**bad)]).word == "partly"


@pytest.mark.parametrize(
    "bad", [{"newton": 9.0}, {"descent": 4.0}, {"steps": (1.0, 2.0, 5.0, 4.9)}, {"steps": (2.0,) * 4}]
)
def test_failures(bad):
    assert claim.judge([measured(**bad)]).word == "not reproduced at this scale"


def test_something_must_be_learnt():
    assert claim.judge([measured(), measured(error=0.6)]).word == "not testable at this scale"
