import pytest
import torch

from thalweg.linalg.in_context_step import preconditioned_gd_predict
from thalweg.nn import LinearSelfAttention
from thalweg.probe import read_off_preconditioner
from thalweg.tasks.regression_prompts import linear_prompts

F64 = torch.float64


def layer_of(value_row, columns):
    """A layer with the given last row of P V, (heads, 4), and first columns of K^T Q, (heads, 4, 3); the rest is noise."""
    layer = LinearSelfAttention(4, num_heads=len(value_row), factored=False, std=1.0, dtype=F64)
    with torch.no_grad():
        layer.value_out[:, -1], layer.key_query[:, :, :-1] = value_row, columns
    return layer


def check_prediction(layer, found, n):
    prompts = linear_prompts(50, n, 3, noise_var=0.5, generator=torch.Generator().manual_seed(0))
    predicted = layer(prompts.tokens(), query_only=True)[:, -1]
    assert torch.allclose(predicted, preconditioned_gd_predict(prompts.X, prompts.y, prompts.xq, found.gamma))


def test_a_step_written_the_papers_way():
    gamma = torch.randn(3, 3, dtype=F64)
    columns = torch.cat([gamma.T / 5, torch.zeros(1, 3)])[None]
    layer = layer_of(torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=F64), columns)
    found = read_off_preconditioner(*layer.products(), n=5)
    assert torch.allclose(found.gamma, gamma) and found.leakage == 0
    check_prediction(layer, found, 5)


def test_the_other_way_to_write_a_step_counts_too():
    """u on the inputs and M's last row: a step with a preconditioner of rank one."""
    u = torch.tensor([[1.0, -2.0, 0.5, 0.0]], dtype=F64)
    columns = torch.zeros(1, 4, 3, dtype=F64)
    columns[0, -1] = torch.tensor([0.3, 0.1, -0.2])
    layer = layer_of(u, columns)
    found = read_off_preconditioner(*layer.products(), n=6)
    assert torch.allclose(found.gamma, 6 * torch.outer(columns[0, -1], u[0, :3])) and found.leakage == 0
    check_prediction(layer, found, 6)


def test_heads_add_up_and_can_cancel():
    gamma = torch.randn(3, 3, dtype=F64)
    y, x = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=F64), torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=F64)
    step = torch.cat([gamma.T, torch.zeros(1, 3)])
    other = torch.cat([torch.randn(3, 3, dtype=F64), torch.zeros(1, 3)])
    layer = layer_of(torch.stack([y, y, x, -x]), torch.stack([step / 2, step / 2, other, other]))
    found = read_off_preconditioner(*layer.products(), n=4)
    assert torch.allclose(found.gamma, 4 * gamma) and found.leakage < 1e-12
    check_prediction(layer, found, 4)


def test_scaling_between_the_factors_changes_nothing():
    layer = LinearSelfAttention(4, std=1.0, dtype=F64)
    value_out, key_query = layer.products()
    one, other = (read_off_preconditioner(value_out * c, key_query / c, 3) for c in (1.0, -7.0))
    assert torch.allclose(one.gamma, other.gamma) and one.leakage == pytest.approx(other.leakage)
    assert 0 < one.leakage < 1


def test_moments_of_inputs_alone_are_all_leakage():
    layer = layer_of(torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=F64), torch.eye(4, dtype=F64)[None, :, :3])
    found = read_off_preconditioner(*layer.products(), n=3)
    assert not found.gamma.any() and found.leakage == 1


def test_half_of_the_squares_leaks():
    """u = (1, 1), M = (1, 1) at dim 1: G_xx + 2 G_xy + G_yy, so the leakage is sqrt(2 / 6)."""
    ones = torch.ones(2, 2)
    found = read_off_preconditioner(ones, ones, n=1)
    assert found.gamma.tolist() == [[2.0]] and found.leakage == pytest.approx((2 / 6) ** 0.5)


def test_a_layer_of_zeros():
    found = read_off_preconditioner(torch.zeros(3, 3), torch.zeros(3, 3), n=1)
    assert not found.gamma.any() and found.leakage == 0


@pytest.mark.parametrize(
    ("shapes", "n", "message"),
    [
        (((2, 2), (3, 3)), 1, "must both have shape"),
        (((1, 1), (1, 1)), 1, "must both have shape"),
        (((2, 3), (2, 3)), 1, "must be square"),
        (((2, 2), (2, 2)), 0, "n must be at least 1"),
    ],
)
def test_wrong_arguments(shapes, n, message):
    with pytest.raises(ValueError, match=message):
        read_off_preconditioner(*map(torch.ones, shapes), n=n)
