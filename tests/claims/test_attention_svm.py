import pytest
import torch

from thalweg.claims import attention_svm as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.solve import AttentionPath, attention_svm

GOOD = {
    "feasible/W": 1.0,
    "feasible/factors": 1.0,
    "cosine, Frobenius/W": 0.996,
    "cosine, nuclear/W": 0.88,
    "cosine, nuclear/factors": 0.98,
    "cosine, Frobenius/factors": 0.87,
    "cosine, nuclear/decay": 0.996,
}


def measured(**changes):
    names = dict(zip(("exist", "_", "whole", "whole_other", "parts", "parts_other", "decayed"), GOOD, strict=True))
    return Measurement(GOOD | {names[key]: value for key, value in changes.items()})


def quiet(share, doing=""):
    assert 0 <= share <= 1


def test_smoke_turns_towards_the_machines():
    (seed,) = claim.SCALES["smoke"].seeds
    result = claim.run("smoke", seed, report=quiet)
    numbers = result.numbers
    assert numbers["cosine, Frobenius/W"] > max(0.9, numbers["cosine, nuclear/W"])
    assert numbers["cosine, nuclear/factors"] > max(0.97, numbers["cosine, Frobenius/factors"])
    assert numbers["rank/factors"] < numbers["rank/W"] and numbers["length/decay"] < numbers["length/factors"]
    assert numbers["cosine, nuclear/decay"] > 0.97
    assert {curve.panel for curve in result.curves} == {panel.key for panel in claim.PANELS}
    assert claim.judge([result]).word == "not reproduced at this scale"  # 300 steps are too few for 0.99


def test_a_path_along_the_machine_agrees_with_it():
    size, draws = claim.Size(2, 1, 1, (), 1e-4), torch.Generator().manual_seed(0)
    problems = claim._draw(2, 5, draws)
    selected = torch.randint(claim.TOKENS, (2, claim.INPUTS), generator=draws)
    W = torch.stack([attention_svm(problems.X[p], problems.z[p], selected[p]).W for p in range(2)])
    path = AttentionPath(5 * W, selected, torch.ones(2, claim.INPUTS), [0, 1], torch.stack([0 * W, 5 * W]))
    numbers, curves = claim._compare("W", path, problems, size)
    assert numbers["cosine, Frobenius/W"] == pytest.approx(1) and numbers["cosine, nuclear/W"] < 0.99
    (margin,) = next(curve.y for curve in curves if curve.panel == "margins" and curve.role == "measured")
    assert margin == pytest.approx(1, abs=1e-6)


def test_all_that_is_asked_for():
    verdict = claim.judge([measured(), measured(whole=0.99)])
    assert verdict.word == "reproduced" and "0.9930" in verdict.because and "0.9800" in verdict.because
    assert "has it, 0.9960" in verdict.because and claim.judge([measured(decayed=-1.0)]).word == "reproduced"


@pytest.mark.parametrize("bad", [{"parts": 0.96}, {"parts_other": 0.985}])
def test_w_alone_is_partly(bad):
    assert claim.judge([measured(**bad)]).word == "partly"


@pytest.mark.parametrize("bad", [{"whole": 0.98}, {"whole_other": 0.999}])
def test_without_w_it_fails(bad):
    assert claim.judge([measured(**bad)]).word == "not reproduced at this scale"


def test_machines_must_exist():
    assert claim.judge([measured(exist=0.8), measured(exist=0.9)]).word == "not testable at this scale"
