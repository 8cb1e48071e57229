"""Large matrices: worked on alone, the rule inside a subspace as a pass, the step taken at once; the results are those of stacks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from thalweg.optim import (
    Chained,
    DCTAdamW,
    Fira,
    Frugal,
    GaLore,
    NaturalGaLore,
    Subspace,
    adam_direction,
    add_decayed_weights,
    lion_direction,
    natural_gradient,
    subspace,
)
from thalweg.optim.engine import halves, matrix_step

MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "galore": lambda p: GaLore(p, rank=2, update_every=3, weight_decay=0.1),
    "galore, decay after": lambda p: GaLore(p, rank=2, update_every=3, weight_decay=0.1, decay="after"),
    "galore, rotated": lambda p: GaLore(p, rank=2, update_every=3, on_switch="rotate"),
    "fira": lambda p: Fira(p, rank=2, update_every=3),
    "columns": lambda p: Frugal(p, projection="columns", density=0.5, update_every=3),
    "rows": lambda p: Frugal(p, projection="rows", density=0.5, update_every=3, state_free_scale=0.5),
    "random": lambda p: Frugal(p, projection="random", density=0.5, update_every=3, state_free="sgd"),
    "blocks": lambda p: Frugal(p, density=0.5, update_every=3),
    "natural": lambda p: NaturalGaLore(p, rank=2, update_every=3, history=2),
    "natural, both": lambda p: NaturalGaLore(p, rank=2, update_every=3, sides="both", keep_history=True, history=2),
    "dct": lambda p: DCTAdamW(p, rank=2, error_feedback=True),
    "lion": lambda p: Subspace(p, lion_direction(), rank=2, residual="sign", update_every=3, state_dtype=torch.float32),
    "maximize": lambda p: GaLore(p, rank=2, maximize=True),
    "density 0": lambda p: Frugal(p, projection="columns", density=0.0),
    "more after it": lambda p: Chained(p, subspace(adam_direction(), rank=2) >> add_decayed_weights(weight_decay=0.1)),
    "two of a kind": lambda p: Chained(p, subspace(adam_direction() >> natural_gradient() >> adam_direction(), rank=2)),
}


def trained(make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (4, 6), (5, 3, 2), (6, 4), (8, 1, 2, 2), (4, 4)]
    params = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]
    params[4] = nn.Parameter(params[4].detach().to(memory_format=torch.channels_last))
    optimizer = make(params)
    for _ in range(7):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
        optimizer.step()
    state = [t for p in params for t in optimizer.state[p].values() if torch.is_tensor(t)]
    return [p.detach() for p in params] + state


@pytest.mark.parametrize("name", MAKERS)
def test_alone_is_as_in_stacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = trained(MAKERS[name])
    for module in (halves, matrix_step):
        monkeypatch.setattr(module, "CACHED_ALONE", 4)
    for found, expected in zip(trained(MAKERS[name]), together, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_half_precision_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = trained(MAKERS["galore"], torch.bfloat16)
    for module in (halves, matrix_step):
        monkeypatch.setattr(module, "CACHED_ALONE", 4)
    for found, expected in zip(trained(MAKERS["galore"], torch.bfloat16), together, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("cls", [GaLore, Fira, DCTAdamW, NaturalGaLore])
def test_products_in_bfloat16(cls: type) -> None:
    def step(dtype: torch.dtype | str | None) -> torch.Tensor:
        p = nn.Parameter(torch.zeros(64, 32))
        p.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
        optimizer = cls([p], lr=1.0, rank=8, projection_dtype=dtype)
        optimizer.step()
        assert {t.dtype for t in optimizer.state[p].values() if torch.is_tensor(t)} <= {
            torch.float32, torch.float64, torch.int32,
        }  # fmt: skip
        return p.detach()

    exact, rounded = step(None), step("bfloat16")
    assert torch.equal(rounded, step(torch.bfloat16)) and torch.equal(exact, step("float32"))
    assert (
        1e-4 < (rounded - exact).norm() / exact.norm() < 2e-1
    )  # Adam's first step is nearly a sign, which rounding turns


def test_unknown_dtype_of_products() -> None:
    with pytest.raises(ValueError) as caught:
        GaLore([nn.Parameter(torch.ones(2, 2))], projection_dtype="int8")
    assert str(caught.value) == "unknown projection_dtype 'int8' (choose from float32, float64, bfloat16)"
