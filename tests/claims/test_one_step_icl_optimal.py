import math
from dataclasses import replace

import pytest

from thalweg.claims import one_step_icl_optimal as claim
from thalweg.claims.engine.contract import Measurement

GOOD = {f"preconditioner error/{law}": 0.01 for law in claim.LAWS} | {f"loss gap/{law}": 0.0002 for law in claim.LAWS}
LOSS = {"half loss/B": 0.985, "half loss, best scalar step/B": 1.646}


def measured(**changes):
    """``error_A=``, ``gap_A=``, ``loss=``, ``scalar=``."""
    names = {"error": "preconditioner error/", "gap": "loss gap/", "loss": "half loss/B", "scalar": tuple(LOSS)[1]}
    changed = {names[key.split("_")[0]] + key.partition("_")[2]: value for key, value in changes.items()}
    return Measurement(GOOD | LOSS | changed)


def quiet(share, doing=""):
    assert 0 <= share <= 1


def test_smoke_learns_the_step():
    (seed,) = claim.SCALES["smoke"].seeds
    result = claim.run("smoke", seed, report=quiet)
    assert claim.judge([result]).word == "reproduced"
    assert result.numbers["half loss, theory's step/B"] == pytest.approx(
        result.numbers["half loss, closed form/B"], rel=0.1
    )
    found = {(curve.panel, curve.role) for curve in result.curves}
    assert found >= {(panel.key, "measured") for panel in claim.PANELS}
    assert {("preconditioner", "theory"), ("parabola", "theory"), ("examples", "theory")} < found
    for curve in result.curves:
        assert 0 < len(curve.x) == len(curve.y) < 300 and all(map(math.isfinite, curve.y))
    parabolas = {c.role: c.y for c in result.curves if c.panel == "parabola" and c.label.startswith("A")}
    assert parabolas["measured"] == pytest.approx(parabolas["theory"], rel=0.25)


def test_the_same_seed_gives_the_same_numbers(monkeypatch):
    monkeypatch.setitem(claim.SIZES, "smoke", replace(claim.SIZES["smoke"], steps=5, fresh=200))
    first, again, other = (claim.run("smoke", seed, report=quiet) for seed in (3, 3, 4))
    assert first == again
    assert first.numbers["half loss/B"] != other.numbers["half loss/B"]
    assert claim.judge([first]).word == "not reproduced at this scale"


def test_the_best_losses_are_theorys():
    laws = claim._laws(claim.SIZES["cpu"])
    assert laws["A"].least == pytest.approx(0.984848, abs=1e-6) and laws["B"].least == pytest.approx(0.984848, abs=1e-6)
    assert laws["C"].least == pytest.approx(0.5 * (5 / 2 - 10 * 5 * 0.04 / 4))
    assert laws["A"].gamma.diagonal().tolist() == pytest.approx([10 / 16.5] * 5)


def test_all_that_is_asked_for():
    verdict = claim.judge([measured(), measured(loss=0.986)])
    assert verdict.word == "reproduced" and verdict.explained_by is None
    assert "1.00%, 1.00%, 1.00%" in verdict.because and "0.02%" in verdict.because and "0.660 below" in verdict.because


def test_limits_belong_to_what_is_allowed():
    assert claim.judge([measured(error_C=0.05, gap_B=0.02, gap_A=-0.02)]).word == "reproduced"


@pytest.mark.parametrize("bad", [{"error_B": 0.051}, {"error_C": math.inf}, {"gap_B": 0.021}, {"gap_C": -0.021}])
def test_law_a_alone_is_partly(bad):
    verdict = claim.judge([measured(), measured(**bad)])
    law = next(iter(bad))[-1]
    assert verdict.word == "partly" and f"training in {law} stopped" in verdict.because


@pytest.mark.parametrize("bad", [{"error_A": 0.06}, {"gap_A": 0.03}, {"gap_A": -0.03}, {"error_A": math.inf}])
def test_without_law_a_it_fails(bad):
    assert claim.judge([measured(), measured(**bad)]).word == "not reproduced at this scale"


def test_the_best_plain_step_must_be_beaten():
    tie = claim.judge([measured(scalar=0.985)])
    assert tie.word == "partly" and "differ too little" in tie.because
    spread = [measured(loss=0.9, scalar=1.0), measured(loss=0.95, scalar=1.0)]  # 0.075 below, deviation 0.035
    assert claim.judge(spread).word == "partly"
    assert claim.judge([measured(loss=0.9, scalar=1.0), measured(loss=0.902, scalar=1.0)]).word == "reproduced"


def test_a_diverged_training_is_judged_too():
    lost = measured(error_B=math.inf, gap_B=math.inf, loss=math.inf)
    assert claim.judge([measured(), lost]).word == "partly"
