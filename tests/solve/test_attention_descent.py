import pytest
import torch
from torch.nn import functional as F

from thalweg.solve import attention_gradient, attention_svm, normalized_attention_descent

F64 = torch.float64


def some(batch=2, n=3, tokens=4, d=4):
    torch.manual_seed(0)
    X, z, v = torch.randn(batch, n, tokens, d), torch.randn(batch, n, d), torch.randn(batch, d)
    return X.double(), z.double(), torch.tensor([1.0, -1.0, 1.0], dtype=F64).expand(batch, n), v.double()


def loss(X, z, y, v, W):
    weights = torch.einsum("bntd,bde,bne->bnt", X, W, z).softmax(-1)
    return F.softplus(-y * torch.einsum("bnt,bntd,bd->bn", weights, X, v)).mean(1).sum()


def test_gradient_is_autograds():
    X, z, y, v = some()
    W = torch.randn(2, 4, 4, dtype=F64, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(X, z, y, v, W), W)
    assert torch.allclose(attention_gradient(X, z, y, v, W.detach()), expected)


def test_gradient_keeps_its_precision_far_out():
    """Two tokens, gap g: the gradient is proportional to exp(-g), where 1 - softmax is no number any more."""
    X, z, y, v = (
        torch.eye(2, dtype=F64)[None],
        torch.tensor([[1.0, 0.0]]).double(),
        torch.ones(1),
        torch.tensor([1.0, 0]),
    )
    first, second = (
        attention_gradient(X, z, y.double(), v.double(), torch.tensor([[g / 2, 0.0], [-g / 2, 0.0]], dtype=F64))
        for g in (100.0, 600.0)
    )
    assert (second[0, 0] / first[0, 0]).log().item() == pytest.approx(-500, rel=1e-9)


def test_direction_outlives_the_gradient():
    """A gap of 2000, where exp(-2000) is zero: K gains 0.1 (1, -1)' e_1' / sqrt(2), and Q 0.1 e_1 e_1'."""
    X, z, y, v = (
        torch.eye(2, dtype=F64)[None],
        torch.tensor([[1.0, 0.0]]).double(),
        torch.ones(1),
        torch.tensor([1.0, 0]),
    )
    K, Q = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]], dtype=F64), torch.eye(2, dtype=F64)
    assert not attention_gradient(X, z, y.double(), v.double(), K).any()
    path = normalized_attention_descent(X, z, y.double(), v.double(), lr=0.1, steps=1, factors=(K, Q))
    entry = (1000 + 0.1 / 2**0.5) * 1.1
    assert path.W.flatten().tolist() == pytest.approx([entry, 0.0, -entry, 0.0])


@pytest.mark.parametrize("factored", [False, True])
def test_steps_have_the_length_asked_for(factored):
    X, z, y, v = some()
    factors = (torch.randn(2, 4, 2, dtype=F64), torch.randn(2, 4, 2, dtype=F64)) if factored else None
    path = normalized_attention_descent(X, z, y, v, lr=0.3, steps=3, factors=factors, record=3)
    assert path.steps == [0, 1, 2, 3] and torch.equal(path.course[-1], path.W)
    if not factored:
        moved = torch.linalg.matrix_norm(path.course.diff(dim=0))
        assert torch.allclose(moved, torch.full((3, 2), 0.3, dtype=F64))
    else:
        K, Q = (factor.clone().requires_grad_() for factor in factors)
        slopes = torch.autograd.grad(loss(X, z, y, v, K @ Q.mT), (K, Q))
        K, Q = (f - 0.3 * g / g.square().sum((1, 2), keepdim=True).sqrt() for f, g in zip((K, Q), slopes, strict=True))
        assert torch.allclose(path.course[1], K @ Q.mT)


def test_problems_of_a_batch_are_alone():
    X, z, y, v = some()
    both = normalized_attention_descent(X, z, y, v, steps=20)
    alone = normalized_attention_descent(X[1], z[1], y[1], v[1], steps=20)
    assert torch.allclose(both.W[1], alone.W) and torch.equal(both.selected[1], alone.selected)


def test_two_tokens_end_at_the_best_and_at_the_svm():
    torch.manual_seed(1)
    X, z, v = (F.normalize(torch.randn(*s, dtype=F64), dim=-1) for s in ((3, 2, 6), (3, 6), (6,)))
    y = torch.tensor([1.0, 1.0, -1.0], dtype=F64)
    path = normalized_attention_descent(X, z, y, v, steps=800)
    assert torch.equal(path.selected, (y[:, None] * (X @ v)).argmax(1)) and path.mass.min() > 1 - 1e-10
    best = attention_svm(X, z, path.selected).W
    assert ((path.W * best).sum() / path.W.norm() / best.norm()).item() > 0.99


def test_errors():
    X, z, y, v = some()
    with pytest.raises(ValueError, match=r"lr must be positive and steps at least record >= 1, not 0, 2000 and 1"):
        normalized_attention_descent(X, z, y, v, lr=0)
    with pytest.raises(ValueError, match="must not start at zero"):
        normalized_attention_descent(X, z, y, v, factors=(torch.zeros(2, 4, 2), torch.ones(2, 4, 2)))


def test_decay_is_the_squared_norms_gradient():
    """A few steps against autograd on the whole loss; W alone and factors."""
    X, z, y, v = (part[0] for part in some())
    start = [torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    path = normalized_attention_descent(X, z, y, v, steps=3, factors=(start[0], start[1]), decay=0.3)
    K, Q = (each.clone().requires_grad_() for each in start)
    for _ in range(3):
        value = loss(X[None], z[None], y[None], v[None], (K @ Q.mT)[None]) + 0.3 * (K.square().sum() + Q.square().sum())
        slopes = torch.autograd.grad(value, [K, Q])
        K, Q = ((w - 0.1 * g / g.norm()).detach().requires_grad_() for w, g in zip((K, Q), slopes, strict=True))
    assert torch.allclose(path.W, K @ Q.mT)
    W = normalized_attention_descent(X, z, y, v, steps=2, decay=0.3).W
    first = normalized_attention_descent(X, z, y, v, steps=1).W.requires_grad_()
    (slope,) = torch.autograd.grad(
        loss(X[None], z[None], y[None], v[None], first[None]) + 0.3 * first.square().sum(), first
    )
    assert torch.allclose(W, first - 0.1 * slope / slope.norm())


def test_a_tiny_decay_ends_the_growth_and_a_negative_one_is_refused():
    """One input of two tokens: where exp(-g) is about 1e-6 times the weights, they stop."""
    X, z, v = torch.eye(2, dtype=F64)[None], torch.tensor([[1.0, 0.0]]).double(), torch.tensor([1.0, 0.0]).double()
    factors = 0.1 * torch.eye(2, dtype=F64), 0.1 * torch.eye(2, dtype=F64)
    lengths = [
        normalized_attention_descent(X, z, torch.ones(1).double(), v, steps=steps, factors=factors, decay=1e-6)
        .W.norm()
        .item()
        for steps in (400, 800)
    ]
    free = normalized_attention_descent(X, z, torch.ones(1).double(), v, steps=400, factors=factors).W.norm().item()
    assert lengths[0] == pytest.approx(lengths[1], rel=0.1) and free > 20 * lengths[1]
    with pytest.raises(ValueError, match="decay"):
        normalized_attention_descent(X, z, torch.ones(1).double(), v, decay=-1.0)
