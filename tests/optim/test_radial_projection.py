"""The test for scale invariance, the projection, and what both promise; by themselves and inside chains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import (
    SGD,
    SGDP,
    AdamP,
    AdamW,
    Chained,
    adam_direction,
    momentum,
    orthogonalize,
    project_radial,
    radial_projection,
    radial_projections,
    trust_ratio,
)


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal_to(p: torch.Tensor, seed: int, whole: bool = False) -> torch.Tensor:
    """Random numbers, orthogonal to ``p`` row by row or as one vector."""
    rows, g = p.reshape(1 if whole else len(p), -1), randoms(*p.shape, seed=seed).reshape(1 if whole else len(p), -1)
    return (g - rows * (rows * g).sum(1, keepdim=True) / (rows * rows).sum(1, keepdim=True)).view(p.shape)


WEIGHTS = tensor([3, 4], [0, 2])


@pytest.mark.parametrize(
    ("gradient", "view"),
    [
        (tensor([4, -3], [1, 0]), "channel"),
        (tensor([4, -3], [1, 1]), None),  # the second row's cosine is 0.71, the whole's 0.0715 above 0.1 / 2
        (tensor([4, -2], [0, -2]), "layer"),  # rows at 0.18 and 1, but <p, g> = 0
        (torch.zeros(2, 2, dtype=torch.float64), "channel"),  # nothing speaks against it
        (WEIGHTS, None),
    ],
)
def test_which_view_passes(gradient: torch.Tensor, view: str | None) -> None:
    update = tensor([1, 2], [3, 5])
    before = WEIGHTS.clone(), gradient.clone(), update.clone()
    projected, found = project_radial(WEIGHTS, gradient, update)
    assert found == view
    assert all(torch.equal(a, b) for a, b in zip(before, (WEIGHTS, gradient, update), strict=True))
    rows = (projected * WEIGHTS).sum(1)
    if view == "channel":
        torch.testing.assert_close(rows, torch.zeros_like(rows), rtol=0, atol=1e-6)
    elif view == "layer":
        assert abs(rows.sum().item()) < 1e-6 < abs(rows[0].item())
    else:
        assert torch.equal(projected, update)


def test_the_comparison_is_strict_and_its_ends() -> None:
    """At delta = 0 nothing passes, not even a cosine of 0; at infinity everything does, by channels."""
    assert project_radial(WEIGHTS, tensor([4, -3], [1, 0]), WEIGHTS, delta=0.0)[1] is None
    projected, view = project_radial(WEIGHTS, WEIGHTS, WEIGHTS, delta=float("inf"), eps=0.0)
    assert view == "channel"
    torch.testing.assert_close(projected, torch.zeros_like(projected), rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 3, 3), (1, 6)])
def test_projecting_twice_is_projecting_once_and_shortens(shape: tuple[int, ...]) -> None:
    p, u = randoms(*shape), randoms(*shape, seed=1)
    g = orthogonal_to(p, seed=2)
    once, view = project_radial(p, g, u, eps=0.0)
    twice, _ = project_radial(p, g, once, eps=0.0)
    assert view == "channel" and once.norm() < u.norm()
    torch.testing.assert_close(twice, once, rtol=1e-13, atol=1e-14)
    assert (once * p).flatten(1).sum(1).abs().max() < 1e-13


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_neither_test_nor_projection_depends_on_scales(scale: float) -> None:
    p, u = randoms(4, 6), randoms(4, 6, seed=1)
    for g, view in ((orthogonal_to(p, 2), "channel"), (orthogonal_to(p, 2, whole=True), "layer"), (p + 0.1 * u, None)):
        expected, found = project_radial(p, g, u, eps=0.0)
        projected, scaled = project_radial(scale * p, g / scale, u, eps=0.0)
        assert found == scaled == view
        torch.testing.assert_close(projected, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cls", [AdamP, SGDP])
def test_on_scale_invariant_weights_the_norm_grows_by_the_step_alone(cls) -> None:
    """Pythagoras: each step is orthogonal to the weights."""
    target = torch.arange(1, 6, dtype=torch.float64)
    p = nn.Parameter(randoms(1, 5))
    optimizer = cls([p], lr=0.1, eps=0.0 if cls is SGDP else 1e-12)
    for _ in range(50):
        old = p.detach().clone()
        optimizer.zero_grad()
        (-torch.nn.functional.cosine_similarity(p, target[None], eps=0.0)).sum().backward()
        optimizer.step()
        grown = p.norm() ** 2 - old.norm() ** 2
        torch.testing.assert_close(grown.detach(), (p.detach() - old).norm() ** 2, rtol=1e-8, atol=1e-12)


def on_the_sphere(optimizer_class, steps: int = 300, **settings) -> tuple[list[float], list[float]]:
    """Squared norms of the weights and of the updates p_t on -cos(w, w*) in 5 dimensions, from a unit vector 60.3 degrees off w*."""
    angle = torch.tensor(60.3, dtype=torch.float64).deg2rad()
    turn = torch.linalg.qr(randoms(5, 5)).Q  # where it lies makes no difference
    target = turn[0]
    w = nn.Parameter((angle.cos() * turn[0] + angle.sin() * turn[1])[None])
    optimizer = optimizer_class([w], lr=0.1, momentum=0.9, **settings)
    norms, updates = [w.square().sum().item()], []
    for _ in range(steps):
        old = w.detach().clone()
        optimizer.zero_grad()
        (-torch.nn.functional.cosine_similarity(w, target[None], eps=0.0)).sum().backward()
        optimizer.step()
        norms.append(w.square().sum().item())
        updates.append(((w.detach() - old) / 0.1).square().sum().item())
    return norms, updates


def test_momentum_lengthens_scale_invariant_weights_as_the_paper_says() -> None:
    r"""Heavy ball: :math:`\|w_{t+1}\|^2 = \|w_t\|^2 + \eta^2 \|p_t\|^2 + 2 \eta^2 \sum_{k<t} \mu^{t-k} \|p_k\|^2`; the projected step
    keeps the second term alone."""
    norms, updates = on_the_sphere(SGD)
    past = 0.0
    for t, update in enumerate(updates):
        grown = 0.01 * (update + 2 * past)
        assert norms[t + 1] == pytest.approx(norms[t] + grown, rel=1e-12)
        past = 0.9 * (past + update)
    projected, steps = on_the_sphere(SGDP, eps=0.0)
    for t, step in enumerate(steps):
        assert projected[t + 1] == pytest.approx(projected[t] + 0.01 * step, rel=1e-12)
    assert norms[0] == projected[0] == pytest.approx(1, rel=1e-14)
    assert round(norms[-1], 2) == 10.75 and round(projected[-1], 2) == 1.29


@pytest.mark.parametrize("cls", [AdamP, SGDP])
def test_vectors_and_switched_off_groups_are_left_alone(cls) -> None:
    for shape, settings in (((6,), {}), ((2, 3), {"project": False}), ((2, 3), {"delta": 0.0})):
        p, q = nn.Parameter(randoms(*shape)), nn.Parameter(randoms(*shape))
        optimizer = cls([{"params": [p], **settings}], lr=0.1, weight_decay=0.1)
        plain = Chained([q], adam_direction() if cls is AdamP else momentum(), lr=0.1)
        plain.param_groups[0]["weight_decay"] = 0.1 if cls is AdamP else 0.1 / (1 - 0.9)
        for seed in range(4):
            p.grad = orthogonal_to(p.detach(), seed) if len(shape) > 1 else randoms(*shape, seed=seed)
            q.grad = p.grad.clone()
            optimizer.step()
            plain.step()
        torch.testing.assert_close(p.data, q.data, rtol=1e-13, atol=1e-14)


def test_the_gradient_of_the_step_decides_wherever_the_projection_stands() -> None:
    """Behind a matrix rule and a trust ratio, in its own pass, it still sees the raw gradient."""
    p = nn.Parameter(randoms(4, 3))
    projection = radial_projection(eps=0.0).rename(eps="projection_eps")
    chain = momentum() >> orthogonalize(ns_dtype="float64") >> trust_ratio() >> projection
    optimizer = Chained([p], chain, lr=0.1)
    for step, passes in enumerate((True, False, True)):
        old = p.detach().clone()
        p.grad = orthogonal_to(old, seed=step + 5) if passes else old.clone()
        optimizer.step()
        radial = ((p.detach() - old) * old).sum(1).abs().max().item()
        assert (radial < 1e-14) == passes and (radial > 1e-3) != passes


def test_which_parameters_a_model_would_project() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )
    optimizer = AdamP(model, lr=0.01)
    nn.functional.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.arange(16) % 3).backward()
    before = [p.detach().clone() for p in model.parameters()]
    found = radial_projections(optimizer)
    assert found == {"0.weight": "channel", "1.weight": None, "1.bias": None, "4.weight": None, "4.bias": None}
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)) and not optimizer.state
    assert radial_projections(SGDP([p for p in model.parameters() if p.ndim == 4])) == {"0": "channel"}
    with pytest.raises(ValueError, match=r"^AdamW has no radial_projection or momentum_projection in its chain$"):
        radial_projections(AdamW(model))


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^a rule that works on rows can't take the complex parameter of shape \(2, 2\)"
    ):
        AdamP([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])
