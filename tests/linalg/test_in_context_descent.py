import pytest
import torch

from thalweg.linalg.in_context_descent import descent_predict, optimal_iid_step
from thalweg.linalg.in_context_step import optimal_gd_step, preconditioned_gd_predict
from thalweg.tasks.regression_prompts import linear_prompts


def some(batch=5, n=8, dim=3):
    return linear_prompts(batch, n, dim, inputs="uniform", generator=torch.Generator().manual_seed(0))


def test_is_gradient_descent_by_autograd():
    p, lrs = some(), [0.7, 0.3, 1.1]
    w = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    for k, lr in enumerate(lrs):
        loss = ((p.X @ w.unsqueeze(-1)).squeeze(-1) - p.y).square().sum() / (2 * 8)
        w = (w - lr * torch.autograd.grad(loss, w)[0]).detach().requires_grad_()
        expected = (w * p.xq).sum(-1).detach()
        assert torch.allclose(descent_predict(p.X, p.y, p.xq, lrs[: k + 1]), expected)
        assert torch.allclose(descent_predict(p.X, p.y, p.xq, lrs[: k + 1], [0.0] * (k + 1)), expected)


def test_transformed_inputs_by_hand():
    """d = 1, x = (1, 2), y = (3, 1), both at 0.5 and 0.1: h = 1.25, y = (1.75, -1.5), x halves; then h = 0.5 * 0.5 * -1.25 / 2."""
    X, y, xq = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 1.0]), torch.tensor([2.0])
    second = 0.25 * (0.5 * 1.75 + 1.0 * -1.5)
    assert descent_predict(X, y, xq, [0.5, 0.5], [0.1, 0.1]).item() == pytest.approx(2.5 + 1.0 * second)


def test_the_last_gamma_and_one_step():
    p = some()
    one = preconditioned_gd_predict(p.X, p.y, p.xq, 0.4)
    assert torch.allclose(descent_predict(p.X, p.y, p.xq, [0.4], [9.0]), one)
    assert torch.allclose(
        descent_predict(p.X, p.y, p.xq, [0.4, 0.2], [0.1, 9.0]), descent_predict(p.X, p.y, p.xq, [0.4, 0.2], [0.1, 0.0])
    )


def test_best_step_is_the_empirical_one():
    """The parabola's minimum over many uniform prompts, and half its squared error there."""
    p = linear_prompts(100_000, 10, 5, inputs="uniform", generator=torch.Generator().manual_seed(1))
    step = optimal_iid_step(5, 10, 1 / 3, 1 / 5)
    assert step == pytest.approx(2.0270, abs=1e-4)
    unit = preconditioned_gd_predict(p.X, p.y, p.xq, 1.0)
    assert ((unit * p.yq).mean() / unit.square().mean()).item() == pytest.approx(step, rel=0.02)
    half = 0.5 * 5 / 3 * (1 - step / 3)
    assert half == pytest.approx(0.27027, abs=1e-5)
    assert ((step * unit - p.yq).square().mean() / 2).item() == pytest.approx(half, rel=0.02)


def test_normal_inputs_agree_with_the_other_formula():
    assert optimal_iid_step(7, 12, 1.0, 3.0) == pytest.approx(optimal_gd_step(7, 12))
    assert optimal_iid_step(7, 12, 4.0, 48.0) == pytest.approx(optimal_gd_step(7, 12) / 4)


def test_errors():
    p = some()
    with pytest.raises(ValueError, match="for each step, not 0 and none"):
        descent_predict(p.X, p.y, p.xq, [])
    with pytest.raises(ValueError, match="not 2 and 1"):
        descent_predict(p.X, p.y, p.xq, [0.1, 0.1], [0.0])
    with pytest.raises(ValueError, match=r"at least 1, not 0 and 4"):
        optimal_iid_step(0, 4, 1.0, 3.0)
    with pytest.raises(ValueError, match=r"no law has second moment 1\.0 and fourth moment 0\.5"):
        optimal_iid_step(2, 4, 1.0, 0.5)
