import math

import pytest
import torch

from thalweg.claims import lazy_to_rich_grokking as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.linalg.mean_field_quadratic import Moments, predict
from thalweg.nn import MeanFieldQuadratic

NAMES = ("0.5", "1", "2", "4", "256")


def quiet(share, doing=""):
    assert 0 <= share <= 1


def made(seed, **changes):
    """One seed's numbers, as all that is claimed would give them."""
    numbers = {"linear: limit": 0.5, "linear: when fitted": 0.55, "off theory": 0.03}
    for i, name in enumerate(NAMES):
        numbers |= {
            f"fitted/{name}": 20.0 * (i + 1),
            f"gap/{name}": 4.0 + 2 * i,
            f"bound/{name}": float(name == "256"),
            f"end/{name}": 0.01 * (i + 1),
            f"norm/{name}": 1.5,
            f"alignment fitted/{name}": 0.05,
            f"alignment later/{name}": 0.06 + 0.001 * seed,
            f"over linear/{name}": 0.5 + 0.12 * i,
        }
    for name, fitted, general in (("eps 0.05", 100.0, 700.0), ("1", 40.0, 400.0), ("eps 0.2", 30.0, 300.0)):
        numbers |= {f"fitted/{name}": fitted, f"general/{name}": general}
    numbers |= {"gap/0.5, half": 4.1, "gap/1, half": 6.2, "gap/eps 0.05": 5.0, "gap/eps 0.2": 7.0}
    return numbers | {name.replace("__", "/"): value for name, value in changes.items()}


def judged(changes=None):
    return claim.judge([Measurement(made(seed) | (changes or {})) for seed in range(5)])


def test_smoke_groks():
    (seed,) = claim.SCALES["smoke"].seeds
    found = claim.run("smoke", seed, report=quiet)
    numbers = found.numbers
    assert numbers["gap/4"] > 1.5 * numbers["gap/0.5"] and numbers["end/1"] < 0.05 < numbers["linear: limit"]
    assert numbers["over linear/256"] > 0.8 and numbers["off theory"] < 0.2
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}


def test_linearized_network_is_that_of_the_module():
    """The closed form against steps of a network whose weights can hardly move."""
    size = claim.Size(6, 20, 15, 1, 1, 0.5, tests=30)
    problem = claim._draw(size, 3)
    draws = torch.Generator().manual_seed(3)
    (
        claim.single_index_quadratic(20, 6, generator=draws),
        claim.single_index_quadratic(30, 6, beta=problem.beta, generator=draws),
    )
    alpha = 1e5
    net = MeanFieldQuadratic(6, 15, claim.EPS, alpha, generator=draws, dtype=torch.float64)
    for _ in range(25):
        (gradient,) = torch.autograd.grad((net(problem.x) - problem.y).square().mean(), [net.weight])
        with torch.no_grad():
            net.weight -= size.speed * 15 / alpha**2 * gradient
    with torch.no_grad():
        expected = [
            (net(x) - y).square().mean().item() for x, y in ((problem.x, problem.y), (problem.x_test, problem.y_test))
        ]
    found = claim._linearized(problem, [0, 25], size.speed)
    assert [losses[1] for losses in found] == pytest.approx(expected, rel=1e-4)
    assert found[0][0] == pytest.approx(problem.y.square().mean().item())


def test_courses_start_from_nothing_and_follow_the_steps():
    problem = claim._draw(claim.Size(6, 20, 15, 5, 5, 0.5, tests=40), 3)
    (course,) = claim._train(problem, [(2.0, 0.1, 0.5)], 5)
    assert course.steps == [0, 1, 2, 3, 4, 5] or (course.steps[:2] == [0, 1] and course.steps[-1] == 5)
    assert course.train[0] == pytest.approx(problem.y.square().mean().item()) and course.norm[0] == 1
    assert course.parts[0][0] == pytest.approx(0.75) and course.train[-1] < course.train[0]
    nothing = Moments(torch.zeros(6).double(), torch.zeros(6, 6).double())
    assert predict(nothing, problem.x, 2.0, 0.1).eq(0).all()


def test_times_and_lower_bounds():
    course = claim.Course(
        [0, 10, 20, 40], [1, 0.05, 0.01, 0], [1, 0.9, 0.5, 0.3], [0.1, 0.2, 0.3, 0.4], [[0]] * 4, [1, 1, 2, 3]
    )
    numbers = claim._numbers("a", course)
    assert numbers["gap/a"] == 4 and numbers["bound/a"] == 1 and math.isinf(numbers["general/a"])
    assert (numbers["alignment fitted/a"], numbers["alignment later/a"], numbers["plateau/a"]) == (0.2, 0.4, 0.9)


def test_all_that_is_asked_for():
    verdict = judged()
    assert verdict.word == "reproduced" and "4.0, 6.0, 8.0, 10.0 (growing" in verdict.because
    assert "lower bounds at alpha 4)" in judged({"bound/4": 1.0}).because


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"over linear/256": 0.85}, "lazy enough"),
        ({"over linear/2": 0.99, "over linear/4": 0.9}, "lazy enough"),
        ({"alignment later/4": 0.05}, "alignment"),
        ({"norm/0.5": 0.9}, "weights shrink"),
        ({"gap/1, half": 7.0}, "step size"),
        ({"general/eps 0.05": 450.0}, "curvature"),
        ({"general/eps 0.2": 400.0}, "curvature"),
        ({"general/eps 0.2": math.inf}, "curvature"),
        ({"general/eps 0.05": math.inf, "general/1": math.inf}, "curvature"),
    ],
)
def test_partly(bad, why):
    verdict = judged(bad)
    assert verdict.word == "partly" and why in verdict.because


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"gap/4": 7.9}, "grow with the scale"),
        ({"gap/0.5": 5.5}, "grow with the scale"),
        ({"linear: limit": 0.1}, "linearized network generalizes"),
        ({"off theory": 0.2}, "error in the code"),
    ],
)
def test_not_reproduced(bad, why):
    verdict = judged(bad)
    assert verdict.word == "not reproduced at this scale" and why in verdict.because


def test_more_delay_than_can_be_counted_is_more():
    assert judged({"general/eps 0.05": math.inf}).word == "reproduced"
    assert "600, 360, 270 steps (ever fewer)" in judged().because


def test_training_data_must_be_fitted():
    verdict = judged({"fitted/256": math.inf})
    assert verdict.word == "not testable at this scale" and "alpha 256" in verdict.because
