import json

import pytest
import torch

from thalweg.claims import icl_dual_form_momentum_attention as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.claims.engine.language_model import train
from thalweg.nn import MomentumAttention
from thalweg.optim import AdamW


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
    assert chosen["lr"] == pytest.approx(10**-2.4)
    for arm in ("momentum", "previous token"):
        tried = chosen["losses"][arm]
        assert f"{chosen[arm]:.2g}" == min(tried, key=tried.__getitem__)  # the best of those tried
    result = claim.run("smoke", seed, report=quiet, chosen=json.loads(json.dumps(chosen)))
    assert claim.judge([result]).word.startswith("not ")  # one seed has no interval
    assert {curve.panel for curve in result.curves} == {panel.key for panel in claim.PANELS}
    starts = [curve.y[0] for curve in result.curves if curve.panel == "training" and curve.role != "theory"]
    assert starts == pytest.approx([starts[0]] * 3, abs=0.01)


def attention(arm, factor):
    torch.manual_seed(0)
    return claim.Attention(8, 2, claim._sums(arm, factor, 6))


def test_arms_differ_by_their_sums_alone():
    x = torch.randn(2, 5, 8)
    plain, momentum, previous = (
        attention(*arm) for arm in (("plain", 0.0), ("momentum", 0.3), ("previous token", 0.3))
    )
    wanted = MomentumAttention(8, 2, momentum=0.3, bias=False)
    wanted.load_state_dict(momentum.inner.state_dict())
    assert torch.allclose(momentum(x), wanted(x)[0], atol=1e-6)
    assert torch.allclose(plain(x), plain.inner(x)[0], atol=1e-6)
    values = previous.inner.qkv_proj(x)[..., 16:]
    added = previous(x) - plain(x)
    assert torch.allclose(added[:, 1:], 0.3 * previous.inner.out_proj(values[:, :-1]), atol=1e-6)
    assert torch.allclose(added[:, 0], torch.zeros(2, 8), atol=1e-6)


def test_side_by_side_is_as_alone():
    """Against the loop that all other claims train this model with."""
    size = claim.SIZES["smoke"]
    runs = [claim.Run("momentum", 0.3, 5), claim.Run("plain", 0.0, 6)]
    courses, _ = claim.train_side_by_side(runs, 0.01, size)
    for one, course in zip(runs, courses, strict=True):
        alone = train(
            lambda net: AdamW(net, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
            one.seed,
            size,
            model=lambda size, one=one: claim._model(one, size),
        )
        assert course.losses == pytest.approx(alone.losses, rel=1e-4)


def test_below_both_is_reproduced():
    assert claim.judge(three()).word == "reproduced"


def test_the_control_explains():
    verdict = claim.judge(three(previous=1.99))
    assert verdict.word == "partly" and verdict.explained_by == "adding the previous token's value alone"


@pytest.mark.parametrize("bad", [{"plain": 1.9}, {"at_16": 0.3}])
def test_plain_attention_must_be_beaten_everywhere(bad):
    verdict = claim.judge(three(**bad))
    assert verdict.word == "not reproduced at this scale" and "Likely reason" in verdict.because


def test_too_few_seeds_to_tell():
    found = [measured(momentum=2.2 + change) for change in (-0.01, -0.1, -0.01)]
    verdict = claim.judge(found)
    assert verdict.word == "not testable at this scale" and "3 seeds are too few" in verdict.because
