import pytest
import torch

from thalweg.linalg.in_context_descent import descent_predict
from thalweg.nn import LinearSelfAttention, gradient_descent_attention
from thalweg.tasks.regression_prompts import linear_prompts

F64 = torch.float64


def layer_of(in_dim, out_dim, n, lr, **options):
    layer = LinearSelfAttention(in_dim + out_dim, dtype=F64)
    layer.load_state_dict(gradient_descent_attention(in_dim, out_dim, n, lr, dtype=F64, **options))
    return layer


@pytest.mark.parametrize("start", ["zero", "random"])
def test_one_step_from_any_weights(start):
    """Against autograd, three targets: residuals of the examples and minus the query's prediction."""
    torch.manual_seed(0)
    X, Y, xq = torch.randn(6, 4, dtype=F64), torch.randn(6, 3, dtype=F64), torch.randn(1, 4, dtype=F64)
    w = (torch.zeros if start == "zero" else torch.randn)(3, 4, dtype=F64).requires_grad_()
    (gradient,) = torch.autograd.grad((X @ w.T - Y).square().sum() / 12, w)
    w, dw = w.detach(), -0.3 * gradient
    tokens = torch.cat([torch.cat([X, xq]), torch.cat([Y, -xq @ w.T])], 1)
    out = layer_of(4, 3, 6, 0.3, w0=None if start == "zero" else w)(tokens)
    assert torch.allclose(out[:, :4], tokens[:, :4])
    assert torch.allclose(out[:-1, 4:], Y - X @ dw.T) and torch.allclose(-out[-1:, 4:], xq @ (w + dw).T)


@pytest.mark.parametrize("gamma", [0.0, 0.05])
def test_layers_are_steps(gamma):
    p = linear_prompts(4, 8, 3, generator=torch.Generator().manual_seed(0))
    layer, tokens = layer_of(3, 1, 8, 0.3, gamma=gamma), p.tokens()
    for k in range(1, 5):
        tokens = layer(tokens)
        assert torch.allclose(-tokens[:, -1, -1], descent_predict(p.X, p.y, p.xq, [0.3] * k, [gamma] * k))


def test_gamma_without_a_step_moves_inputs_alone():
    tokens = torch.tensor([[1.0, 3.0], [2.0, 1.0], [2.0, 0.0]], dtype=F64)
    out = layer_of(1, 1, 2, 0.0, gamma=0.1)(tokens)
    assert out[:, 0].tolist() == pytest.approx([0.5, 1.0, 1.0]) and out[:, 1].tolist() == [3.0, 1.0, 0.0]


def test_errors():
    with pytest.raises(ValueError, match=r"at least 1, not 2, 1 and 0"):
        gradient_descent_attention(2, 1, 0, 0.1)
    with pytest.raises(ValueError, match=r"must be finite, not inf and 0\.0"):
        gradient_descent_attention(2, 1, 4, float("inf"))
    with pytest.raises(ValueError, match=r"w0 must have shape \(1, 2\), not \(2, 1\)"):
        gradient_descent_attention(2, 1, 4, 0.1, w0=torch.ones(2, 1))
