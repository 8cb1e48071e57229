import pytest
import torch

from thalweg.claims import icl_dual_form_momentum_attention as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.nn import ema_values


def measured(momentum=2.0, plain=2.2, previous=2.1, at_16=0.0):
    numbers = {}
    for arm, loss in (("momentum", momentum), ("plain", plain), ("previous token", previous)):
        for length in claim.LENGTHS:
            numbers[f"loss, {arm}/{length} bytes"] = loss + (at_16 if arm == "momentum" and length == 16 else 0.0)
    return Measurement(numbers)


def three(**changes):
    """Three seeds that differ by a little."""
    return [measured(**{"momentum": 2.0 + shift, **changes}) for shift in (0.0, 0.001, 0.002)]


def quiet(share, doing=""):
    assert 0 <= share <= 1


def test_smoke_runs_and_is_judged():
    (seed,) = claim.SCALES["smoke"].seeds
    chosen = claim.choose("smoke", report=quiet)
    assert chosen == pytest.approx({"lr": 10**-2.4, "momentum": 10**-0.7, "previous token": 10**-0.7})
    result = claim.run("smoke", seed, report=quiet, chosen=chosen)
    assert claim.judge([result]).word == "not reproduced at this scale"  # one seed has no interval
    assert {curve.panel for curve in result.curves} == {panel.key for panel in claim.PANELS}
    starts = [curve.y[0] for curve in result.curves if curve.panel == "training" and curve.role != "theory"]
    assert starts == pytest.approx([starts[0]] * 3, abs=0.01)


def test_arms_differ_by_their_sums_alone():
    x = torch.randn(2, 5, 8)
    outs = {}
    for factor, previous in ((0.0, False), (0.3, False), (0.3, True)):
        torch.manual_seed(0)
        outs[factor, previous] = (layer := claim.Attention(8, 2, factor, previous))(x)
    values = layer.inner.qkv_proj(x)[..., 16:]
    sums = ema_values(values, 0.3)[:, :-1]
    added = outs[0.3, False] - outs[0.0, False], outs[0.3, True] - outs[0.0, False]
    assert torch.allclose(added[0], layer.inner.out_proj(sums), atol=1e-6)
    assert torch.allclose(added[1][:, 1:], 0.3 * layer.inner.out_proj(values[:, :-1]), atol=1e-6)
    assert torch.allclose(added[0][:, 1], added[1][:, 1], atol=1e-6)  # at the second token there is only one before


def test_below_both_is_reproduced():
    assert claim.judge(three()).word == "reproduced"


def test_the_control_explains():
    verdict = claim.judge(three(previous=1.99))
    assert verdict.word == "partly" and verdict.explained_by == "adding the previous token's value alone"


@pytest.mark.parametrize("bad", [{"plain": 1.9}, {"at_16": 0.3}])
def test_plain_attention_must_be_beaten_everywhere(bad):
    verdict = claim.judge(three(**bad))
    assert verdict.word == "not reproduced at this scale" and "Likely reason" in verdict.because
