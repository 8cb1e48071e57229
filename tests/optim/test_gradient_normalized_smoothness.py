"""Newton steps within a radius: hand iterates, the acceptance rule, invariances, and problems with inexact curvature."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd.functional import hessian

from thalweg.optim import gradient_regularized_newton
from thalweg.optim.gradient_normalized_smoothness import EPS


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(x)


def log_sum_exp(mu: float, rows: int = 120, size: int = 12):
    """A soft maximum of random affine functions, its minimum at zero, with its exact and its Gauss-Newton curvature."""
    generator = torch.Generator().manual_seed(0)
    A = 2 * torch.rand(rows, size, generator=generator, dtype=torch.float64) - 1
    b = 2 * torch.rand(rows, generator=generator, dtype=torch.float64) - 1
    A = A - (-b / mu).softmax(0) @ A

    def fun(x: torch.Tensor) -> torch.Tensor:
        return mu * ((A @ x - b) / mu).logsumexp(0)

    def weighted(x: torch.Tensor) -> torch.Tensor:
        p = ((A @ x - b) / mu).softmax(0)
        return A.T @ (p[:, None] * A) / mu

    def exact(x: torch.Tensor) -> torch.Tensor:
        mean = ((A @ x - b) / mu).softmax(0) @ A
        return weighted(x) - mean[:, None] * mean / mu

    return fun, exact, weighted, torch.ones(size, dtype=torch.float64)


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """Residuals of half their squared norm."""
    return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def test_half_a_square() -> None:
    result = gradient_regularized_newton(lambda x: 0.5 * x @ x, lambda x: torch.eye(1).double(), vector(1.0))
    path = [trial.x.item() for trial in result.history[:4]]
    assert path == pytest.approx([0.5, 0.1, 0.00243902, 7.434e-7], rel=1e-4)
    assert result.gamma_history[:5] == [1, 2, 4, 8, 16] and result.status == "converged"
    assert result.n_factor == result.nit == len(result.history) == result.n_fun - 1


def test_two_softplus() -> None:
    def fun(x: torch.Tensor) -> torch.Tensor:
        return (softplus(x) + softplus(-2 * x)).sum()

    result = gradient_regularized_newton(fun, lambda x: hessian(fun, x), vector(3.0))
    path = [trial.x.item() for trial in result.history]
    assert path == pytest.approx([2.054896, 0.610319, 0.414001, 0.419603, 0.419618], abs=1e-6)
    assert result.n_factor == result.nit  # nothing was halved


@pytest.mark.parametrize("curvature", ["exact", "weighted", "zero"])
def test_accepted_steps_keep_the_rule(curvature: str) -> None:
    fun, exact, weighted, x0 = log_sum_exp(0.1)
    hess = {"exact": exact, "weighted": weighted, "zero": lambda x: torch.zeros(12, 12).double()}[curvature]
    result = gradient_regularized_newton(fun, hess, x0, max_iter=40)
    assert result.n_factor > result.nit > 5 and len(result.gamma_history) == result.nit + 1
    ruled = [trial for trial in result.history if trial.accepted == "decrease"]
    assert len(ruled) >= result.nit - 2
    before = [float(fun(x)) for x in (x0, *(t.x for t in result.history[:-1]))]
    for trial, value in zip(result.history, before, strict=True):
        assert trial.before == value
        if trial.accepted == "decrease":
            assert trial.before - float(fun(trial.x)) >= trial.grad_norm**2 / (8 * trial.damping) > 0


@pytest.mark.parametrize("mu", [1.0, 0.1])
def test_both_curvatures_of_a_soft_maximum_find_its_minimum(mu: float) -> None:
    fun, exact, weighted, x0 = log_sum_exp(mu)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)
    torch.testing.assert_close(exact(x), hessian(fun, x), rtol=1e-9, atol=1e-12)
    assert torch.linalg.matrix_rank(weighted(x) - exact(x)) == 1
    steps = []
    for hess in (exact, weighted):
        result = gradient_regularized_newton(fun, hess, x0)
        assert result.status == "converged" and result.x.norm() < 1e-6
        steps.append(result.nit)
    assert steps[0] < steps[1] < 400


@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_change_of_coordinates_changes_nothing(orthogonal: bool) -> None:
    fun, exact, _, x0 = log_sum_exp(0.3)
    torch.manual_seed(1)
    T = (
        torch.linalg.qr(torch.randn(12, 12).double())[0]
        if orthogonal
        else torch.eye(12) + 0.2 * torch.randn(12, 12).double()
    )
    back = torch.linalg.inv(T)
    metric = None if orthogonal else back.T @ back
    metric = None if metric is None else (metric + metric.T) / 2
    one = gradient_regularized_newton(fun, exact, x0, max_iter=6)
    other = gradient_regularized_newton(
        lambda y: fun(back @ y), lambda y: back.T @ exact(back @ y) @ back, T @ x0, metric=metric, max_iter=6
    )
    for a, b in zip(one.history, other.history, strict=True):
        torch.testing.assert_close(b.x, T @ a.x, rtol=1e-7, atol=1e-9)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-6)


@pytest.mark.parametrize("metric", [None, torch.diag(vector(1.0, 4.0))])
def test_without_curvature_a_step_is_as_long_as_the_radius(metric: torch.Tensor | None) -> None:
    B = torch.eye(2).double() if metric is None else metric
    result = gradient_regularized_newton(
        lambda x: x[0] ** 4 + softplus(x[1]),
        lambda x: torch.zeros(2, 2).double(),
        vector(5.0, 3.0),
        metric=metric,
        max_iter=8,
    )
    points = [vector(5.0, 3.0), *(trial.x for trial in result.history)]
    for a, b, gamma in zip(points, points[1:], result.gamma_history[1:], strict=False):
        length = ((b - a) @ B @ (b - a)).sqrt().item()
        assert length == pytest.approx(gamma / 2 + EPS, rel=1e-9)  # the radius doubled after the step


def test_on_a_quadratic_every_direction_contracts_by_its_own_factor() -> None:
    values = vector(0.5, 2.0, 30.0)
    x0 = vector(1.0, -1.0, 1.0)
    result = gradient_regularized_newton(lambda x: 0.5 * (values * x) @ x, lambda x: torch.diag(values), x0, max_iter=3)
    x = x0
    for trial in result.history:
        torch.testing.assert_close(trial.x, x * trial.damping / (values + trial.damping), rtol=1e-9, atol=1e-15)
        x = trial.x


def test_gauss_newton_on_rosenbrock_and_products_as_matrices() -> None:
    def fun(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * rosenbrock(x).square().sum()

    def jacobian(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.functional.jacobian(rosenbrock, x)

    x0 = vector(-1.2, 1.0)
    dense = gradient_regularized_newton(fun, lambda x: jacobian(x).T @ jacobian(x), x0)

    def product(x: torch.Tensor):
        J = jacobian(x)
        return lambda v: J.T @ (J @ v)

    free = gradient_regularized_newton(fun, product, x0)
    for result in (dense, free):
        assert result.status == "converged"
        torch.testing.assert_close(result.x, torch.ones(2).double(), rtol=0, atol=1e-7)
    assert abs(dense.nit - free.nit) <= 2
    # A minimum with residuals, where the matrix is wrong and differences of the objective are rounding long before the gradient is.
    far = gradient_regularized_newton(fun, lambda x: jacobian(x).T @ jacobian(x), vector(-1.2, 1.0, 1.0, 1.0))
    assert far.status == "converged" and far.fun > 1 and far.history[-1].accepted == "rounding"


def test_indefinite_curvature_shrinks_the_radius() -> None:
    """From the top of a double well: the Hessian is negative there, and no step is stale."""

    def fun(x: torch.Tensor) -> torch.Tensor:
        return (x[0] ** 2 - 1) ** 2 + x[1] ** 2

    for hess in (lambda x: hessian(fun, x), lambda x: lambda v: hessian(fun, x) @ v):
        result = gradient_regularized_newton(fun, hess, vector(0.05, 1.0))
        assert result.status == "converged" and result.x.abs().tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
        assert result.n_factor > result.n_fun - 1  # some systems had no step to try


def test_a_fixed_radius_and_how_it_ends() -> None:
    quadratic = lambda x: 0.5 * x @ x  # noqa: E731
    fixed = gradient_regularized_newton(
        quadratic, lambda x: torch.eye(1).double(), vector(1.0), adaptive=False, max_iter=5
    )
    assert set(fixed.gamma_history) == {1.0} and {t.accepted for t in fixed.history} == {"fixed"} and fixed.nit == 5
    stuck = gradient_regularized_newton(quadratic, lambda x: -9 * torch.eye(1).double(), vector(1.0), adaptive=False)
    assert stuck.status == "not_positive_definite" and stuck.x.item() == 1.0 and stuck.nit == 0
    wrong = gradient_regularized_newton(
        quadratic, lambda x: torch.eye(1).double(), vector(1.0), grad=lambda x: -x, max_backtracks=5
    )
    assert wrong.status == "backtracking_failed" and wrong.x.item() == 1.0 and wrong.n_factor == 6
    assert (
        gradient_regularized_newton(quadratic, lambda x: torch.eye(1).double(), vector(1.0), max_iter=1).status
        == "max_iter"
    )
    done = gradient_regularized_newton(quadratic, lambda x: torch.eye(1).double(), vector(0.0))
    assert done.status == "converged" and done.nit == 0 and done.n_factor == 0


def test_errors() -> None:
    quadratic, eye = lambda x: 0.5 * x @ x, lambda x: torch.eye(2).double()
    for settings, message in [
        ({"gamma0": 0.0}, "Invalid gamma0: 0.0"),
        ({"gamma0": math.inf}, "Invalid gamma0: inf"),
        ({"metric": -torch.eye(2).double()}, "metric must be symmetric and positive definite"),
        ({"metric": torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double()}, "metric must be symmetric"),
        ({"metric": torch.eye(3).double()}, r"metric must be \(2, 2\), not \(3, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            gradient_regularized_newton(quadratic, eye, vector(1.0, 1.0), **settings)
    with pytest.raises(ValueError, match=r"hess must give \(2, 2\), not \(3, 3\)"):
        gradient_regularized_newton(quadratic, lambda x: torch.eye(3), vector(1.0, 1.0))
    with pytest.raises(ValueError, match="not finite at x0"):
        gradient_regularized_newton(lambda x: x.log().sum(), eye, vector(-1.0, 1.0))
    with pytest.raises(ValueError, match="x0 must be a vector"):
        gradient_regularized_newton(quadratic, eye, torch.ones(2, 2))
