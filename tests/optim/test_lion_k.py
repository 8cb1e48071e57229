"""Lion-K: Lion to the bit, what each kernel solves, the bound by decay for any gradients, and groups with their own kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thalweg.linalg import ConvexKernel, convex_kernel, register_kernel
from thalweg.optim import Chained, Lion, LionK, implicit_decay, kernel_gradient
from thalweg.optim.lion_k import matrix_kernel_gradient, tensor_kernel_gradient

Q = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
B = torch.tensor([2.0, -1.0], dtype=torch.float64)

CONSTRAINED = {
    "l1": {},
    "l2": {},
    "hinge": {"threshold": 0.5},
    "huber": {"threshold": 0.5},
    "smooth": {"threshold": 0.5},
    "logcosh": {},
    "topk": {"k": 3},
    "group_l2": {},
    "nuclear": {},
}


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def descend(optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> None:
    """Steps on the quadratic x Q x / 2 - B x, whose free minimizer is (1, -1)."""
    for _ in range(steps):
        x.grad = Q @ x.detach() - B
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_l1_is_lion_to_the_bit(train, dtype: torch.dtype) -> None:
    shapes = ((6, 5), (9,), (), (2, 3, 2))
    start = [torch.randn(s, generator=torch.Generator().manual_seed(1)).to(dtype) for s in shapes]
    ours, lions = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    settings = {"lr": 3e-3, "betas": (0.95, 0.98), "weight_decay": 0.7}
    one, two = LionK(ours, **settings), Lion(lions, **settings)
    for step in range(100):
        train(one, ours, step, step + 1)
        train(two, lions, step, step + 1)
        assert all(torch.equal(p, q) for p, q in zip(ours, lions, strict=True))
    states = ([optimizer.state[p]["exp_avg"] for p in params] for optimizer, params in ((one, ours), (two, lions)))
    assert all(torch.equal(m, n) for m, n in zip(*states, strict=True))


@pytest.mark.parametrize(("kernel", "settings"), [("lp", {"p": 1.5}), *CONSTRAINED.items()])
def test_steps_follow_the_formula_with_negative_momentum(train, kernel: str, settings: dict[str, float]) -> None:
    """The paper's own form: m is a mean of negative gradients, and the step is added."""
    gradient = convex_kernel(kernel, **settings).grad
    p = nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    x, m = p.detach().clone(), torch.zeros(4, 5, dtype=torch.float64)
    optimizer = LionK([p], lr=0.01, betas=(0.8, 0.95), weight_decay=0.3, kernel=kernel, **settings)
    for step in range(10):
        train(optimizer, [p], step, step + 1)
        c, m = 0.8 * m - 0.2 * p.grad, 0.95 * m - 0.05 * p.grad
        x = x + 0.01 * (gradient(c) - 0.3 * x)
        torch.testing.assert_close(p.data, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], -m, rtol=1e-12, atol=1e-15)


def test_l1_on_a_quadratic_walks_into_the_box() -> None:
    """First towards the free minimizer, past it since decay pulls on, and to the corner of the box."""
    x = nn.Parameter(vector(3, -3))
    optimizer = LionK([x], lr=1e-3, weight_decay=2.0)
    known = {1: 2.993, 100: 2.3649838, 400: 3.5 * 0.998**400 - 0.5}
    for step in range(1, 401):
        descend(optimizer, x, 1)
        assert x.abs().max().item() - 0.5 <= 2.5 * 0.998**step + 1e-12
        if step in known:
            torch.testing.assert_close(x.data, vector(known[step], -known[step]), rtol=0, atol=1e-7)
    optimizer.param_groups[0]["lr"] = 0.02
    descend(optimizer, x, 500)
    torch.testing.assert_close(x.data, vector(0.5, -0.5), rtol=0, atol=1e-6)


def test_l2sq_is_ridge_regression() -> None:
    x = nn.Parameter(vector(3, -3))
    descend(LionK([x], lr=0.2, betas=(0.5, 0.8), weight_decay=0.7, kernel="l2sq"), x, 500)
    torch.testing.assert_close(x.data, vector(0.7119021, -0.6340378), rtol=0, atol=1e-7)
    torch.testing.assert_close(x.data, torch.linalg.solve(Q + 0.7 * torch.eye(2, dtype=torch.float64), B))


@pytest.mark.parametrize(("kernel", "settings"), CONSTRAINED.items())
def test_every_kernel_minimizes_its_composite(kernel: str, settings: dict[str, float]) -> None:
    """No move within the constraint set lowers f(x) + K*(lam x) / lam, seen from the limit point."""
    lam, steps = 1.5, 800
    settings = {"k": 1} if kernel == "topk" else settings
    bound = convex_kernel(kernel, **settings)
    x = nn.Parameter(torch.tensor([[0.3, 0.2]], dtype=torch.float64))
    optimizer = LionK([x], lr=0.02, betas=(0.3, 0.5), weight_decay=lam, kernel=kernel, **settings)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)  # what chatters at a kink settles
        x.grad = x.detach() @ Q - B
        optimizer.step()

    def composite(points: Tensor) -> Tensor:
        penalties = torch.stack([bound.penalty(lam * point) for point in points])
        return (0.5 * points @ Q * points - B * points).sum((-1, -2)) + penalties / lam

    reached = (x.detach() / max(1.0, bound.gauge(lam * x.detach()).item()))[None]
    noise = torch.randn(60, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = reached + torch.cat([0.3 * noise, 0.03 * noise])
    others = torch.stack([point / max(1.0, bound.gauge(lam * point).item()) for point in others])
    assert composite(reached).item() <= composite(others).min().item() + 1e-4


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(("kernel", "settings"), CONSTRAINED.items())
def test_any_gradients_lead_into_the_set(kernel: str, settings: dict[str, float], implicit: bool) -> None:
    """Pure noise: what exceeds the constraint set shrinks by its factor at every step."""
    rate, lam = 0.02, 3.0
    factor = 1 / (1 + rate * lam) if implicit else 1 - rate * lam
    gauge = convex_kernel(kernel, **settings).gauge
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(5 * torch.randn(4, 3, generator=generator, dtype=torch.float64))
    optimizer = LionK([p], lr=rate, weight_decay=lam, kernel=kernel, implicit_decay=implicit, **settings)
    excess = [max(0.0, gauge(lam * p.detach()).item() - 1)]
    for step in range(60):
        p.grad = 10.0 ** (step % 5) * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        optimizer.step()
        excess.append(max(0.0, gauge(lam * p.detach()).item() - 1))
        assert excess[-1] <= factor * excess[-2] + 1e-12
    assert excess[0] > 1 and excess[-1] <= factor**60 * excess[0] + 1e-12


def test_without_decay_there_is_no_bound() -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = LionK([p], lr=0.1)
    for _ in range(200):
        p.grad = -torch.ones_like(p)
        optimizer.step()
    assert p.min().item() == pytest.approx(20.0)


def test_hinge_leaves_small_signals_alone() -> None:
    p = nn.Parameter(vector(1.0, 1.0))
    optimizer = LionK([p], lr=0.1, betas=(0.0, 0.0), kernel="hinge", threshold=0.5)
    p.grad = vector(0.4, -0.6)
    optimizer.step()
    assert p.tolist() == [1.0, 1.1]


def test_a_threshold_may_follow_a_schedule() -> None:
    p = nn.Parameter(vector(0.0))
    optimizer = LionK([p], lr=1.0, betas=(0.0, 0.0), kernel="huber", threshold=1.0)
    p.grad = vector(-0.25)
    optimizer.step()
    optimizer.param_groups[0]["threshold"] = 0.5
    optimizer.step()
    assert p.item() == 0.75


def test_groups_have_kernels_of_their_own(train) -> None:
    """Matrices and biases of one model, each with the step of its kernel; a checkpoint keeps them."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    weights, biases = [p for p in model.parameters() if p.ndim == 2], [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "kernel": "nuclear"}, {"params": biases, "kernel": "huber", "threshold": 2.0}]
    optimizer = LionK(groups, lr=0.1, betas=(0.0, 0.0))
    assert [group["rule"] for group in optimizer.param_groups] == ["matrix", "element"]
    before = [p.detach().clone() for p in (*weights, *biases)]
    train(optimizer, [*weights, *biases], 0, 1)
    for old, p in zip(before, (*weights, *biases), strict=True):
        kernel = convex_kernel("nuclear") if p.ndim == 2 else convex_kernel("huber", threshold=2.0)
        torch.testing.assert_close(old - p.data, 0.1 * kernel.grad(p.grad), rtol=0, atol=1e-14)
    twin = LionK([{"params": weights}, {"params": biases}], lr=0.1)
    twin.load_state_dict(optimizer.state_dict())
    assert [group["kernel"] for group in twin.param_groups] == ["nuclear", "huber"]
    train(twin, [*weights, *biases], 1, 2)


def test_convolutions_count_as_matrices_and_stacks_as_many(train) -> None:
    kernel = nn.Parameter(torch.zeros(4, 3, 2, 2, dtype=torch.float64))
    train(LionK([kernel], lr=1.0, kernel="nuclear"), [kernel], 0, 1)
    values = torch.linalg.svdvals(kernel.data.flatten(1))
    torch.testing.assert_close(values, torch.ones(4, dtype=torch.float64))
    experts = nn.Parameter(torch.zeros(5, 3, 4, dtype=torch.float64))
    train(LionK([{"params": [experts], "batched": True}], lr=1.0, kernel="topk", k=2), [experts], 0, 1)
    assert (experts.data != 0).flatten(1).sum(1).tolist() == [2] * 5


def test_implicit_decay_divides(train) -> None:
    p, q = (nn.Parameter(vector(1.0, -2.0, 0.5)) for _ in range(2))
    optimizer, plain = LionK([p], lr=0.1, weight_decay=0.5, implicit_decay=True), Lion([q], lr=0.1)
    train(optimizer, [p], 0, 1)
    train(plain, [q], 0, 1)
    torch.testing.assert_close(p.data, q.data / 1.05, rtol=1e-15, atol=0)
    zero = nn.Parameter(vector(1.0))
    zero.grad = vector(1.0)
    Chained([zero], implicit_decay(weight_decay=0.5), lr=0.0).step()
    assert zero.item() == 1.0


def test_a_kernel_of_ones_own() -> None:
    root = ConvexKernel(lambda z: z.abs().pow(1.5).sum() / 1.5, lambda z: z.sign() * z.abs().sqrt())
    register_kernel("test_root", root)
    p = nn.Parameter(vector(0.0))
    optimizer = LionK([p], lr=1.0, betas=(0.0, 0.0), kernel="test_root")
    p.grad = vector(4.0)
    optimizer.step()
    assert p.item() == -2.0


def test_exact_sign_matters_at_zero() -> None:
    for kernel, settings in CONSTRAINED.items():
        p = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
        p.grad = torch.zeros_like(p)
        LionK([p], lr=0.1, kernel=kernel, **settings).step()
        assert torch.equal(p.data, torch.ones_like(p)), kernel


def weight(*shape: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape or (2, 2)))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LionK(weight(), kernel="l0"), "unknown kernel 'l0' (choose from group_l2, "),
        (lambda: LionK([{"params": weight(), "kernel": "l0"}]), "unknown kernel 'l0' (choose from group_l2, "),
        (lambda: LionK(weight(), weight_decay=-1.0), "Invalid weight_decay: -1.0 (must be a number >= 0)"),
        (lambda: LionK(weight(), lr=0.5, weight_decay=2.0), "lr * weight_decay is 1: it must be below 1"),
        (lambda: LionK(weight(), kernel="lp", p=0.5), "Invalid p: 0.5 (must be a number >= 1)"),
        (lambda: LionK(weight(), kernel="huber", threshold=0.0), "Invalid threshold: 0.0 (must be a number > 0)"),
        (lambda: LionK(weight(), kernel="topk", k=0), "Invalid k: 0 (must be a whole number >= 1)"),
        (lambda: LionK(weight(), kernel="topk", k=5), "Invalid k: 5 (a parameter of shape (2, 2) has fewer numbers)"),
        (lambda: LionK(weight(3), kernel="nuclear"), "kernel 'nuclear' needs matrices, not a parameter of shape (3,)"),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_refused_group_is_not_added() -> None:
    optimizer = LionK(weight(), lr=0.5)
    with pytest.raises(ValueError, match="must be below 1"):
        optimizer.add_param_group({"params": weight(), "weight_decay": 3.0})
    assert len(optimizer.param_groups) == 1
    LionK(weight(), lr=0.5, weight_decay=3.0, implicit_decay=True)


def test_kernels_in_the_wrong_transform_are_refused() -> None:
    for transform, kernel, message in (
        (kernel_gradient, "topk", "works per matrix; this transform takes kernels per element: hinge, huber, "),
        (tensor_kernel_gradient, "l1", "works per element; this transform takes kernels per tensor: l2"),
        (matrix_kernel_gradient, "l2", "works per tensor; this transform takes kernels per matrix: group_l2, "),
    ):
        with pytest.raises(ValueError, match=message):
            transform(kernel=kernel)
        with pytest.raises(ValueError, match=message):
            Chained([{"params": weight(), "kernel": kernel}], transform())
