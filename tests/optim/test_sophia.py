"""Sophia: hand steps, both estimates of curvature, when they are made, and what a checkpoint keeps of it."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.autodiff import Closure, sampled_loss
from thalweg.optim import Chained, SophiaG, SophiaH, momentum
from thalweg.optim.sophia import Sophia


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def with_curvature(curvature: torch.Tensor, **settings) -> tuple[nn.Parameter, SophiaG]:
    """A parameter of ones whose running curvature is as given."""
    p = nn.Parameter(torch.ones_like(curvature))
    optimizer = SophiaG([p], **settings)
    optimizer.set_hessian_estimate([curvature / 0.01])
    return p, optimizer


def problem(seed: int = 0, batch_norm: bool = False) -> tuple[nn.Module, Closure]:
    torch.manual_seed(seed)
    norm = [nn.BatchNorm1d(5)] if batch_norm else []
    net = nn.Sequential(nn.Linear(4, 5), *norm, nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(12, 4, dtype=torch.float64)
    return net, Closure(net, F.cross_entropy, x, torch.arange(12) % 3)


def test_a_step_by_hand() -> None:
    """The batch of 32 of the published form is inside our curvature."""
    p, optimizer = with_curvature(32 * vector(1e-4, 0, 1e-2), lr=0.1, betas=(0.965, 0.99), rho=0.04, weight_decay=0.1)
    p.grad = vector(0.1, -0.2, 1e-4)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], vector(0.0035, -0.007, 3.5e-6), rtol=1e-12, atol=0)
    torch.testing.assert_close(p.data, vector(0.89, 1.09, 0.98997266), rtol=0, atol=5e-9)
    assert optimizer.win_rate() == pytest.approx(1 / 3)


def test_the_published_form_is_the_same_for_nonnegative_curvature(train) -> None:
    curvature = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, optimizer = with_curvature(curvature, lr=0.1, weight_decay=0.1, rho=0.04, betas=(0.9, 0.99))
    q, mean = p.detach().clone(), torch.zeros(40, dtype=torch.float64)
    for step in range(10):
        train(optimizer, [p], step, step + 1)
        mean = 0.9 * mean + 0.1 * p.grad
        q = q * (1 - 0.1 * 0.1)
        q = q - 0.1 * mean.sign() * (mean.abs() / (0.04 * curvature + 1e-15)).clamp(max=1)
    torch.testing.assert_close(p.data, q, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("curvature", [0.0, -1.0])
def test_without_positive_curvature_it_is_signed_momentum(train, curvature: float) -> None:
    p, optimizer = with_curvature(torch.full((20,), curvature).double(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    r = nn.Parameter(p.detach().clone())
    mean_of = Chained([r], momentum(ema=True), lr=1.0)
    for step in range(5):
        before, other = p.detach().clone(), r.detach().clone()
        train(optimizer, [p], step, step + 1)
        train(mean_of, [r], step, step + 1)
        torch.testing.assert_close(before - p, 0.01 * (other - r.data).sign(), rtol=0, atol=1e-15)
    assert optimizer.win_rate() == 0.0


@pytest.mark.parametrize("curvature", [1e-2, 1.0, 1e4])
def test_on_a_quadratic_every_curvature_contracts_alike(curvature: float) -> None:
    p = nn.Parameter(vector(0.7, -0.3))
    optimizer = SophiaH([p], lr=0.3, betas=(0.0, 0.0), rho=1.0, weight_decay=0.0)
    optimizer.set_hessian_estimate([torch.full_like(p, curvature)])
    for _ in range(3):
        p.grad = curvature * p.detach()
        optimizer.step()
    torch.testing.assert_close(p.data, 0.7**3 * vector(0.7, -0.3), rtol=1e-12, atol=0)


def test_no_weight_moves_by_more_than_the_rate(train) -> None:
    p, optimizer = with_curvature(1e-3 * torch.rand(50).double(), lr=0.02, weight_decay=0.0)
    for step in range(10):
        before = p.detach().clone()
        train(optimizer, [p], step, step + 1)
        assert (p - before).abs().max() <= 0.02 * (1 + 1e-9)


def test_both_ways_to_estimate_give_one_curvature() -> None:
    """By itself, by one call, and by a backward pass of one's own."""
    net, closure = problem()
    hessians = []
    for way in ("by itself", "one call", "own backward"):
        twin = copy.deepcopy(net)
        own = Closure(twin, F.cross_entropy, closure.inputs, closure.targets)
        optimizer = SophiaG(twin, lr=0.0, update_every=10 if way == "by itself" else None, seed=3)
        if way == "one call":
            optimizer.estimate_hessian(own)
        if way == "own backward":
            loss, terms = sampled_loss(own, generator=optimizer._generator(twin[0].weight, 0))
            loss.backward()
            optimizer.update_hessian(terms)
        optimizer.step(own)
        hessians.append(torch.cat([optimizer.state[p]["hessian"].flatten() for p in twin.parameters()]))
    assert hessians[0].any() and torch.equal(hessians[0], hessians[1]) and torch.equal(hessians[0], hessians[2])


def test_the_running_curvature_tends_to_the_gauss_newton_diagonal() -> None:
    net, closure = problem()
    probabilities = net(closure.inputs).softmax(1)
    hidden = net[1](net[0](closure.inputs))
    exact = ((probabilities * (1 - probabilities)).T @ hidden.square() / 12).detach()
    optimizer = SophiaG(net, lr=0.0, betas=(0.9, 0.998), update_every=1)
    for _ in range(700):
        optimizer.estimate_hessian(closure)
        optimizer.state[net[0].weight]["step"] += 1  # other draws
    found = optimizer.state[net[2].weight]["hessian"] / (1 - 0.998**700)
    assert ((found - exact).abs() / exact).mean() < 0.15


def test_hutchinsons_estimate_on_a_diagonal_hessian() -> None:
    scales = vector(3.0, -1.0, 0.5)

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(vector(1.0, 2.0, 3.0))
            self.frozen = nn.Parameter(vector(1.0), requires_grad=False)
            self.unused = nn.Parameter(vector(1.0))

        def forward(self, inputs):
            return 0.5 * (scales * self.x**2).sum() * inputs.mean()

    for maximize in (False, True):
        net = Quadratic()
        optimizer = SophiaH(net.parameters(), betas=(0.9, 0.75), lr=0.0, maximize=maximize)
        closure = Closure(net, lambda out, y: out, torch.ones(4, dtype=torch.float64), torch.zeros(4))
        optimizer.step(closure)
        sign = -1 if maximize else 1  # the curvature of what goes down
        torch.testing.assert_close(optimizer.state[net.x]["hessian"], sign * 0.25 * scales, rtol=1e-14, atol=0)
        assert not optimizer.state[net.unused]["hessian"].any() and net.frozen not in optimizer.state


@pytest.mark.parametrize("cls", [SophiaG, SophiaH])
def test_calendar(cls, monkeypatch) -> None:
    """On calls 1, k + 1, 2k + 1, before the step; never for plain closures, without a closure or if told so."""
    net, closure = problem()
    made: list[int] = []
    original = cls.estimate_hessian
    monkeypatch.setattr(cls, "estimate_hessian", lambda self, c: (made.append(self._steps()), original(self, c)))
    optimizer = cls(net, update_every=3)
    for _ in range(8):
        optimizer.step(closure)
    assert made == [0, 3, 6]
    optimizer.step(lambda: closure())
    optimizer.step()
    assert made == [0, 3, 6]
    silent = cls(problem()[0], update_every=None)
    silent.step(closure)
    assert made == [0, 3, 6]


@pytest.mark.parametrize("cls", [SophiaG, SophiaH])
def test_a_resumed_run_goes_on_bit_by_bit(cls) -> None:
    """Curvature, calendar and draws: 7 steps are 4 and 3 from a checkpoint, or from a copy."""
    whole, closure = problem()
    optimizer = cls(whole, lr=0.01, update_every=3)
    for step in range(7):
        if step == 4:
            file = io.BytesIO()
            torch.save({"net": whole.state_dict(), "optimizer": optimizer.state_dict()}, file)
            copied = pickle.loads(pickle.dumps(optimizer))
        optimizer.step(closure)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    net, own = problem(seed=1)
    own = Closure(net, F.cross_entropy, closure.inputs, closure.targets)
    net.load_state_dict(saved["net"])
    resumed = cls(net, lr=0.01, update_every=3)
    resumed.load_state_dict(saved["optimizer"])
    for _ in range(3):
        resumed.step(own)
    for p, q in zip(whole.parameters(), net.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(optimizer.state[p]["hessian"], resumed.state[q]["hessian"])
    assert copied._estimates == optimizer._estimates


@pytest.mark.parametrize("cls", [SophiaG, SophiaH])
def test_estimates_leave_no_trace_in_the_model_and_train_it(cls) -> None:
    net, closure = problem(batch_norm=True)
    optimizer = cls(net, lr=0.02, weight_decay=0.0, update_every=2, hessian_batch_size=6)
    first = closure().item()
    net[1].reset_running_stats()
    for _ in range(20):
        last = optimizer.step(closure).item()
    assert net[1].num_batches_tracked == 20
    assert last < 0.8 * first
    assert 0 <= optimizer.win_rate() <= 1


def test_attention_has_second_derivatives() -> None:
    """The fused kernels don't."""
    q = nn.Parameter(torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0)))

    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(q, x, x, is_causal=True)

    closure = Closure(Attention(), F.mse_loss, torch.randn(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    optimizer = SophiaH([q])
    optimizer.estimate_hessian(closure)
    assert optimizer.state[q]["hessian"].any()


@pytest.mark.parametrize("cls", [SophiaG, SophiaH])
def test_low_precision_keeps_its_curvature_in_float32(cls) -> None:
    net, closure = problem()
    net = net.bfloat16()
    own = Closure(net, F.cross_entropy, closure.inputs.bfloat16(), closure.targets)
    optimizer = cls(net, lr=0.01)
    optimizer.step(own)
    assert all(s["hessian"].dtype is torch.float32 and s["hessian"].isfinite().all() for s in optimizer.state.values())


def test_complex_parameters_take_the_squares_of_both_parts() -> None:
    z = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = SophiaG([z], betas=(0.9, 0.5))
    z.grad = torch.tensor([3 + 1j, 2j])
    optimizer.update_hessian(num_terms=2)
    assert torch.view_as_real(optimizer.state[z]["hessian"]).tolist() == [[9.0, 1.0], [0.0, 4.0]]


@pytest.mark.parametrize("way", ["propagate", "skip", "raise"])
def test_an_estimate_that_is_not_finite(way: str) -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = SophiaG([p], nonfinite=way)
    optimizer.set_hessian_estimate([torch.ones(2)])
    p.grad = torch.tensor([float("inf"), 1.0])
    if way == "raise":
        with pytest.raises(FloatingPointError, match=r"^the curvature estimate is not finite$"):
            optimizer.update_hessian()
    else:
        optimizer.update_hessian()
    curvature = optimizer.state[p]["hessian"]
    assert bool(curvature.isfinite().all()) == (way != "propagate")
    p.grad = torch.ones(2)
    optimizer.step()
    assert bool((p < 1).all())  # infinite curvature is no step, beside the decay


def test_unknown_curvature_is_said_once() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = SophiaG([p])
    p.grad = torch.ones(2)
    with pytest.warns(UserWarning, match="100 steps without a new curvature estimate") as caught:
        for _ in range(250):
            optimizer.step()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(250):
            if step % 50 == 0:
                optimizer.update_hessian()
            optimizer.step()


def test_equals_pytorch_optimizer() -> None:
    """Its clip ``p`` is our rho, its rate times ``p`` ours: it clips m / max(h, eps) at p, we m / max(rho h, rho eps) at 1."""
    package = pytest.importorskip("pytorch_optimizer")
    a, b = (nn.Parameter(torch.linspace(-1, 1, 20, dtype=torch.float64)) for _ in range(2))
    ours = SophiaH([a], lr=0.06 * 0.01, rho=0.01, eps=0.01 * 1e-12, betas=(0.96, 0.99), weight_decay=0.0)
    theirs = package.SophiaH([b], lr=0.06, p=0.01, eps=1e-12, betas=(0.96, 0.99), weight_decay=0.0)
    draws = torch.Generator().manual_seed(0)
    for _ in range(20):
        estimate, gradient = (torch.randn(20, generator=draws, dtype=torch.float64) for _ in range(2))
        estimate *= 1000  # so that some coordinates are clipped and some aren't
        ours.set_hessian_estimate([estimate])
        a.grad, b.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step(hessian=[estimate])
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert 0.1 < ours.win_rate() < 0.9


def test_mistakes() -> None:
    p = nn.Parameter(torch.ones(2))
    for rho in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"^Invalid rho: .* \(must be a number > 0\)$"):
            SophiaG([p], rho=rho)
    with pytest.raises(ValueError, match=r"^Invalid update_every: 0 \(must be None or a whole number >= 1\)$"):
        SophiaG([p], update_every=0)
    with pytest.raises(ValueError, match=r"^Invalid batch_size: 0.5"):
        SophiaH([p], hessian_batch_size=0.5)
    optimizer = SophiaG([p])
    with pytest.raises(ValueError, match=r"^num_terms must be at least 1, not 0$"):
        optimizer.update_hessian(0)
    with pytest.raises(ValueError, match=r"^2 estimates for 1 parameters$"):
        optimizer.set_hessian_estimate([None, None])
    with pytest.raises(ValueError, match=r"^an estimate of shape \(3,\) for a parameter of \(2,\)$"):
        optimizer.set_hessian_estimate([torch.ones(3)])
    net, closure = problem()
    several = Closure(net, F.cross_entropy, closure.inputs, closure.targets, num_processes=2)
    with pytest.raises(RuntimeError, match=r"^SophiaH needs second derivatives, which DDP and FSDP don't pass on"):
        SophiaH(net).step(several)
    assert SophiaG([p]).win_rate() != SophiaG([p]).win_rate()  # NaN: nothing known yet
    assert issubclass(SophiaG, Sophia) and SophiaG.needs_closure
