import pytest

from thalweg.claims import subgm_robust_recovery as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.solve import sign_rip_scale

GOOD = {
    **{f"last/20/{a:g}": a**0.5 / 100 for a in claim.ALPHAS},
    **{f"at {t}/{k}": 0.1 for t in claim.LOOKS for k in (2, 20)},
    **{f"length/{p:g}/{f:g}": sign_rip_scale(f, p, claim.STD, symmetric=True) for p in (0.0, 0.3) for f in claim.NORMS},
    "squared residuals, best": 0.5,
    "whole matrix, last": 1e-5,
    "few, 20 columns": 0.01,
    "few, whole matrix": 0.5,
}


def verdict(changes):
    return claim.judge([Measurement(GOOD | changes)] * 3)


def test_smoke_runs_and_has_theory_s_length():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    expected = sign_rip_scale(1.0, 0.3, claim.STD, symmetric=True)
    assert found.numbers["length/0.3/1"] == pytest.approx(expected, rel=0.1)
    assert claim.judge([found]).because


def test_all_that_is_asked_for():
    found = verdict({})
    assert found.word == "reproduced" and found.explained_by is None


def test_the_control_explains_only_if_it_does_as_well_with_few_measurements_too():
    assert "whole matrix" in verdict({"few, whole matrix": 0.009}).explained_by
    assert verdict({"few, whole matrix": 0.009, "whole matrix, last": 0.1}).explained_by is None


@pytest.mark.parametrize(
    ("changes", "word", "reason"),
    [
        ({"at 250/20": 0.21}, "partly", "surplus columns"),
        ({f"last/20/{a:g}": 1e-3 for a in claim.ALPHAS}, "partly", "isn't the start's"),
        ({"squared residuals, best": 1e-3}, "not reproduced at this scale", "too few measurements for this share"),
        ({"length/0.3/1": 0.7}, "not reproduced at this scale", "mean sub-gradient"),
    ],
)
def test_one_part_failing(changes, word, reason):
    found = verdict(changes)
    assert found.word == word and reason in found.because
