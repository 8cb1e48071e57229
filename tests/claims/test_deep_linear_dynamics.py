import math

import pytest

from thalweg.claims import deep_linear_dynamics as claim
from thalweg.claims.engine.contract import Measurement

GOOD = {
    "aligned error": 0.006,
    "random start error": 0.05,
    "modes in order": 1.0,
    "steps/orthogonal/3": 12.0,
    "steps/orthogonal/100": 55.0,
    "steps/aligned/3": 4.0,
    "steps/aligned/100": 11.0,
    "steps/gaussian/3": 30.0,
    "steps/gaussian/100": math.inf,
    "steps at infinite depth, theory/orthogonal": 103.0,
    "steps at infinite depth, theory/aligned": 19.5,
}


def measured(**changes):
    """Named with underscores for blanks and slashes."""
    known = {name.replace(" ", "_").replace("/", "_").replace(",", ""): name for name in GOOD}
    return Measurement(GOOD | {known[key]: value for key, value in changes.items()})


def quiet(share, doing=""):
    assert 0 <= share <= 1


@pytest.fixture(scope="module")
def smoke():
    chosen = claim.choose("smoke", report=quiet)
    return chosen, [claim.run("smoke", seed, report=quiet, chosen=chosen) for seed in claim.SCALES["smoke"].seeds]


def test_smoke_follows_theory(smoke):
    chosen, (result,) = smoke
    assert result.numbers["aligned error"] == pytest.approx(0.0061, abs=2e-4)
    assert result.numbers["steps at infinite depth, theory/aligned"] == pytest.approx(19.5, abs=0.2)
    assert set(chosen["lr"]) == {f"{start}/{depth}" for start in claim.STARTS for depth in (3, 10)}
    assert claim.judge([result]).word in ("reproduced", "partly")
    for curve in result.curves:
        assert curve.panel in {panel.key for panel in claim.PANELS}
        assert 0 < len(curve.x) == len(curve.y) <= 301 and not any(map(math.isnan, curve.y))


def test_the_same_seed_gives_the_same_numbers(smoke):
    chosen, (first,) = smoke
    again = claim.run("smoke", claim.SCALES["smoke"].seeds[0], report=quiet, chosen=chosen)
    other = claim.run("smoke", 1, report=quiet, chosen=chosen)
    assert again == first
    assert other.numbers["random start error"] != first.numbers["random start error"]
    assert other.numbers["aligned error"] == pytest.approx(first.numbers["aligned error"], rel=1e-6)


def test_seeds_of_the_verdict_are_not_those_of_tuning():
    assert not {seed for scale in claim.SCALES.values() for seed in scale.seeds} & set(claim.TUNING_SEEDS)


def test_all_that_is_asked_for():
    verdict = claim.judge([measured()] * 3)
    assert verdict.word == "reproduced" and verdict.explained_by is None
    assert "0.60%" in verdict.because and "55 (at most 103)" in verdict.because and "Gaussian never" in verdict.because


@pytest.mark.parametrize(
    "at_the_limit",
    [
        {"aligned_error": 0.02},
        {"random_start_error": 0.1},
        {"steps_orthogonal_100": 103.0},
        {"steps_aligned_100": 19.5},
        {"steps_gaussian_100": 151.0},
    ],
)
def test_limits_belong_to_what_is_allowed(at_the_limit):
    assert claim.judge([measured(**at_the_limit)] * 3).word == "reproduced"


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ({"aligned_error": 0.021}, "too far from theory"),
        ({"random_start_error": 0.11}, "too far from theory"),
        ({"modes_in_order": 0.0}, "too far from theory"),
        ({"steps_orthogonal_100": 104.0}, "grows further"),
        ({"steps_aligned_100": math.inf}, "grows further"),
        ({"steps_gaussian_100": 150.0}, "easy for a Gaussian"),
    ],
)
def test_one_part_failing_is_partly(failing, reason):
    verdict = claim.judge([measured(**failing)] * 3)
    assert verdict.word == "partly" and reason in verdict.because.split("Likely reason:")[1]


def test_no_part_holding():
    nothing = {"aligned_error": math.inf, "steps_orthogonal_100": math.inf, "steps_gaussian_100": 60.0}
    verdict = claim.judge([measured(**nothing)] * 3)
    assert verdict.word == "not reproduced at this scale" and "2.0 times the steps at 3" in verdict.because


@pytest.mark.parametrize("start", ["orthogonal", "aligned", "gaussian"])
def test_no_ratio_without_shallow_networks(start):
    verdict = claim.judge([measured(**{f"steps_{start}_3": math.inf})] * 2 + [measured()])
    assert verdict.word == "not testable at this scale" and start in verdict.because


def test_one_seed_decides_where_every_seed_must_hold_and_not_where_the_median_does():
    assert claim.judge([measured()] * 4 + [measured(aligned_error=0.03)]).word == "partly"
    assert claim.judge([measured()] * 4 + [measured(modes_in_order=0.0)]).word == "partly"
    assert claim.judge(
        [measured()] * 3 + [measured(steps_orthogonal_100=math.inf, random_start_error=0.5)] * 2
    ).word == ("reproduced")
    assert claim.judge([measured()] * 4 + [measured(steps_gaussian_3=math.inf)]).word == "reproduced"
