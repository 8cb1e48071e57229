"""The claim of gradient-normalized-smoothness: its smallest run, its rivals, and every way its verdict can turn."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd.functional import hessian

from thalweg.claims import gradient_normalized_smoothness as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.claims.engine.smooth_problems import Problem


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    found = claim.run("smoke", 0, report=quiet)
    assert all(isinstance(value, float) and not math.isnan(value) for value in found.numbers.values())
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert all(len(curve.x) == len(curve.y) <= 200 for curve in found.curves)
    assert found.numbers["logistic, exact, GNS: systems"] < 15
    assert claim.judge([found]).word in ("reproduced", "partly")


@pytest.mark.parametrize("name", ["softmax 1", "logistic"])
def test_gradients_and_exact_curvature_belong_to_the_objective(name: str) -> None:
    problem = claim._problems("smoke", 3)[name]
    x = torch.linspace(-0.5, 0.7, len(problem.start), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(problem.fun(x), x)
    torch.testing.assert_close(problem.grad(x.detach()), gradient, rtol=1e-10, atol=1e-12)
    curvature = problem.curvatures["exact"](x.detach())
    torch.testing.assert_close(curvature, hessian(problem.fun, x.detach()), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["Rosenbrock", "Chebyshev"])
def test_equations_and_their_jacobian(name: str) -> None:
    problem = claim._problems("smoke", 3)[name]
    ones = torch.ones_like(problem.start)
    assert problem.fun(ones) == 0 and not problem.grad(ones).any()
    torch.testing.assert_close(problem.curvatures["Gauss-Newton"](ones), hessian(problem.fun, ones))
    x = problem.start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.fun(x), x)
    torch.testing.assert_close(problem.grad(problem.start), gradient)


def test_rivals_on_half_a_square() -> None:
    """Damping 1 from 1 gives 0.5, which is taken, and then a quarter of the constant."""
    eye = torch.eye(1, dtype=torch.float64)
    problem = Problem(lambda x: 0.5 * x @ x, lambda x: x, {"exact": lambda x: eye}, eye[0])
    course = claim._searched(problem, lambda x: eye, 100, claim._damped(1.0))
    first, second = 0.5, 0.5 * 0.125 / 1.125
    assert course.steps[:3] == pytest.approx([1.0, first, second], rel=1e-12)
    assert course.systems == len(course.steps) - 1
    h, damping = claim._cubic(eye, eye[0], 3.0)  # (1 + d) h = -1 with d = 1.5 |h|
    assert float(h) * (1 + damping) == pytest.approx(-1, rel=1e-9) and damping == pytest.approx(-1.5 * float(h))


def test_ratio_of_thirds() -> None:
    assert claim._ratio_of_thirds([0.5**k for k in range(10)]) == pytest.approx(1.0)
    assert claim._ratio_of_thirds([10.0 ** -(2**k) for k in range(7)]) > 2
    assert claim._ratio_of_thirds([1 / (1 + k) for k in range(91)]) < 0.8


def made(**changes: float) -> Measurement:
    """A measurement in which both parts hold."""
    numbers = {}
    for name, kinds in {"softmax 1": ("exact", "Gauss-Newton"), "logistic": ("exact", "Fisher")}.items():
        for kind in kinds:
            numbers |= {f"{name}, {kind}, {m}: systems": 60.0 for m in ("alpha 0", "super-universal 1/2")}
            numbers |= {f"{name}, {kind}, super-universal {a}: systems": 50.0 for a in ("2/3", "1")}
            numbers[f"{name}, {kind}, GNS: systems"] = 40.0
        numbers[f"{name}, {kinds[1]}: last third over middle third"] = 1.1
    assert set(changes) <= set(numbers)
    return Measurement(numbers | changes)


def test_reproduced() -> None:
    verdict = claim.judge([made()])
    assert verdict.word == "reproduced" and verdict.explained_by is None
    assert "0.80 times its rival's" in verdict.because and "below 1 on 4 of 4" in verdict.because
    assert "1.0 times (logistic, Fisher)" in verdict.because
    same = {key: 40.0 for key in made().numbers if "alpha 0" in key}
    assert "without the gradient's norm" in (claim.judge([made(**same)]).explained_by or "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logistic, Fisher, GNS: systems": 61.0}, "half of the systems are wasted"),
        ({"logistic, Fisher: last third over middle third": 0.7}, "theory's condition"),
    ],
)
def test_partly(changes: dict[str, float], reason: str) -> None:
    verdict = claim.judge([made(**changes)])
    assert verdict.word == "partly" and reason in verdict.because


def test_not_reproduced() -> None:
    verdict = claim.judge([made(**{"logistic, Fisher, GNS: systems": math.inf})])
    assert verdict.word == "not reproduced at this scale" and "fails to converge" in verdict.because


def test_seeds_are_put_together_by_median_for_cost_and_by_the_worst_for_the_rate() -> None:
    dear = made(**{"logistic, Fisher, GNS: systems": 90.0})
    assert claim.judge([made(), made(), dear]).word == "reproduced"
    slow = made(**{"logistic, Fisher: last third over middle third": 0.5})
    assert claim.judge([made(), made(), slow]).word == "partly"
