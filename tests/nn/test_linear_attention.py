import pytest
import torch

from thalweg.linalg.in_context_step import preconditioned_gd_predict
from thalweg.nn import LinearSelfAttention
from thalweg.tasks.regression_prompts import linear_prompts

F64 = torch.float64


def gradient_step_layer(dim, n, lr):
    """The construction of arXiv:2212.07677: keys and queries see x, values see -y."""
    layer = LinearSelfAttention(dim + 1, dtype=F64)
    x, y = torch.eye(dim + 1, dtype=F64), torch.zeros(dim + 1, dim + 1, dtype=F64)
    x[-1, -1], y[-1, -1] = 0, -1
    weights = {"query": x, "key": x, "value": y, "out": lr / n * torch.eye(dim + 1, dtype=F64)}
    layer.load_state_dict({name: weight[None] for name, weight in weights.items()})
    return layer


@pytest.mark.parametrize("include_query", [False, True])
def test_is_the_sum_over_tokens_and_heads(include_query):
    layer = LinearSelfAttention(4, num_heads=3, key_dim=2, include_query=include_query, std=0.5, dtype=F64)
    tokens = torch.randn(2, 6, 4, dtype=F64)
    expected = tokens.clone()
    for b in range(2):
        for j in range(6):
            for h in range(3):
                for i in range(6 if include_query else 5):
                    score = (layer.key[h] @ tokens[b, i]) @ (layer.query[h] @ tokens[b, j])
                    expected[b, j] += layer.out[h] @ (layer.value[h] @ tokens[b, i]) * score
    assert torch.allclose(layer(tokens), expected)
    assert torch.allclose(layer(tokens, query_only=True), expected[:, -1])


def test_products_make_the_same_function():
    layer = LinearSelfAttention(4, num_heads=2, dtype=F64)
    merged = LinearSelfAttention(4, num_heads=2, factored=False, dtype=F64)
    value_out, key_query = layer.products()
    merged.load_state_dict({"value_out": value_out.detach(), "key_query": key_query.detach()})
    tokens = torch.randn(3, 5, 4, dtype=F64)
    assert torch.allclose(layer(tokens), merged(tokens))


def test_hand_case_of_a_gradient_step():
    """x = (1, 2), y = (3, 1), step 0.5 on the mean: dW = 1.25. All y become y - 1.25 x, the query's -2.5 at x = 2."""
    tokens = torch.tensor([[1.0, 3.0], [2.0, 1.0], [2.0, 0.0]], dtype=F64)
    out = gradient_step_layer(1, 2, 0.5)(tokens)
    assert out[:, 0].tolist() == [1.0, 2.0, 2.0]
    assert out[:, 1].tolist() == pytest.approx([1.75, -1.5, -2.5])


def test_stacked_layers_are_steps_of_gradient_descent():
    prompts = linear_prompts(4, 8, 3, generator=torch.Generator().manual_seed(0))
    layer, tokens = gradient_step_layer(3, 8, 0.3), prompts.tokens()
    w = torch.zeros(4, 3, dtype=F64)
    for _ in range(4):
        tokens = layer(tokens)
        residuals = prompts.y - (prompts.X @ w[..., None]).squeeze(-1)
        w += 0.3 * (prompts.X * residuals[..., None]).mean(1)
        assert torch.allclose(-tokens[:, -1, -1], (w * prompts.xq).sum(-1))
    one = -layer(prompts.tokens(), query_only=True)[:, -1]
    assert torch.allclose(one, preconditioned_gd_predict(prompts.X, prompts.y, prompts.xq, 0.3))


def test_order_of_the_context_does_not_matter():
    layer, tokens = LinearSelfAttention(4, std=0.5, dtype=F64), torch.randn(7, 4, dtype=F64)
    shuffled = tokens[[4, 2, 0, 5, 1, 3, 6]]
    assert torch.allclose(layer(tokens)[-1], layer(shuffled)[-1])


def test_the_same_generator_gives_the_same_start():
    a, b = LinearSelfAttention(3, std=0.2), LinearSelfAttention(3, std=0.2)
    for layer in (a, b):
        layer.reset_parameters(torch.Generator().manual_seed(7))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert len(list(a.parameters())) == 4 and "num_heads=1" in repr(a)


def test_gradients_reach_every_parameter():
    layer = LinearSelfAttention(3, num_heads=2, key_dim=2)
    layer(torch.randn(2, 4, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


def test_wrong_sizes():
    with pytest.raises(ValueError, match="sizes must be at least 1, not 3, 0 and 3"):
        LinearSelfAttention(3, num_heads=0)
    with pytest.raises(ValueError, match=r"shape \(..., T, 3\), not \(2, 4\)"):
        LinearSelfAttention(3)(torch.ones(2, 4))
