import math

import pytest
import torch

from thalweg.claims import score_ntk_early_stopping as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.solve import kernel_gd_path
from thalweg.tasks import denoising

EXAMPLES = (100, 200, 400, 800)


def made(seed=0, slope=-0.4, zero=0.22, best=0.05, rule=1.2, end=3.0, control=1.05, fall=-0.3, score=3.0):
    numbers = {"slope of coupling": slope}
    for n in EXAMPLES:
        scale = (n / 100) ** fall * (1 + 0.01 * seed * (n > 300))
        numbers[f"error of 0/{n}"] = zero
        ratios = {"best step": 1.0, "rule": rule, "rule with 1 for 2e": control, "end": end}
        for name, ratio in ratios.items():
            numbers[f"error/{name}/{n}"] = best * scale * ratio
        numbers |= {f"score error/rule/{n}": score, f"score error/end/{n}": 1.0}
    return Measurement(numbers)


def judged(**changes):
    return claim.judge([made(seed, **changes) for seed in range(4)])


def test_smoke_runs_and_is_judged():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    numbers = found.numbers
    assert numbers["difference from the kernel/2048"] < numbers["difference from the kernel/64"] < 1
    for n in (100, 200):
        least = numbers[f"error/best step/{n}"]
        others = [numbers[f"error/{name}/{n}"] for name in (*claim.STOPS, "end")]
        assert least < numbers[f"error of 0/{n}"] and numbers[f"error/end/{n}"] > 1.3 * least
        assert min(others) >= 0.95 * least  # stops lie between the recorded steps
        assert numbers[f"step/rule/{n}"] < numbers[f"step/rule with 1 for 2e/{n}"] < 1000
    assert claim.judge([found]).because


def test_course_is_that_of_the_kernel():
    atoms = denoising.ring_of_discs(10, generator=torch.Generator().manual_seed(0))
    problem = claim._problem(atoms, 30, 40, torch.Generator().manual_seed(1))
    numbers, courses, stops = claim._kernel_course(problem, 0.6, 200)
    steps, errors = courses["course"]
    K, K_test = problem.kernels()
    for k, error in ((steps[0], errors[0]), (steps[-1], errors[-1]), stops["rule"], stops["held-out fifth"]):
        off = kernel_gd_path(K, problem.Y, k, K_test=K_test) - problem.best
        assert error == pytest.approx(off.square().sum(1).mean().item())
    assert (steps[0], steps[-1]) == (1, 200) and stops["best step"][1] == min(errors)
    assert numbers["error/end"] == errors[-1] and numbers["step/end"] == 200


def test_weight_is_that_of_the_score():
    """The score of f is (alpha f - x) / h, so a difference of two counts (alpha / h)^2."""
    atoms, draws = denoising.ring_of_discs(1), torch.Generator().manual_seed(1)
    weight = claim._problem(atoms, 3, 50, torch.Generator().manual_seed(1)).weight
    t = [denoising.diffused(atoms, n, generator=draws).t for n in (3, 50)][1]
    assert torch.allclose(weight, ((-t / 2).exp() / (1 - (-t).exp())) ** 2)


def test_wasserstein_of_moved_points():
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = (points + torch.tensor([3.0, 4.0]))[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    assert claim._wasserstein(points, moved) == pytest.approx(5)


def test_slope():
    assert claim._slope({n: 7 * n**-0.5 for n in EXAMPLES}) == pytest.approx(-0.5)


def test_all_that_is_asked_for():
    verdict = judged()
    assert verdict.word == "reproduced" and "slope -0.40" in verdict.because and "3.00 times" in verdict.because


@pytest.mark.parametrize(
    ("changes", "likely"),
    [
        ({"slope": -0.2}, "far from the limit"),
        ({"rule": 2.0}, "too careful"),
        ({"rule": 2.0, "control": 1.9}, "is a bound"),
    ],
)
def test_one_part_missing_is_partly(changes, likely):
    verdict = judged(**changes)
    assert verdict.word == "partly" and likely in verdict.because


@pytest.mark.parametrize(
    ("changes", "likely"),
    [
        ({"end": 1.25}, "noise to be fitted"),
        ({"fall": 0.01}, "too few examples"),
        ({"slope": -0.2, "rule": 2.0}, "limit"),
    ],
)
def test_not_reproduced(changes, likely):
    verdict = judged(**changes)
    assert verdict.word == "not reproduced at this scale" and likely in verdict.because


def test_one_seed_shows_no_fall():
    assert claim.judge([made()]).word == "not reproduced at this scale"


def test_nothing_learnt():
    assert judged(best=0.3).word == "not testable at this scale"


def test_a_stop_that_is_never():
    assert judged(rule=math.inf).word == "not reproduced at this scale"
