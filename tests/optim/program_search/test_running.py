"""Programs run: AdamW and Lion against code that isn't a program, the functions against NumPy, and what zero does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg.optim import Program
from thalweg.optim.program_search import ADAMW, FUNCTIONS
from thalweg.optim.program_search.running import run_steps, steps_of


def randoms(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def call(source: str, w: list[Tensor], g: list[Tensor], lr: float = 1.0, **buffers: list[Tensor]) -> list[Tensor]:
    zeros = [torch.zeros_like(x) for x in w]
    return run_steps(steps_of(Program.parse(source)), w, g, buffers.get("m", zeros), buffers.get("v", zeros), lr)[0]


def test_adamw_is_adamw_without_bias_correction() -> None:
    w, m, v = [randoms(4, 3)], [torch.zeros(4, 3, dtype=torch.float64)], [torch.zeros(4, 3, dtype=torch.float64)]
    weight, mean, square = w[0].numpy().copy(), 0.0, 0.0
    steps = steps_of(ADAMW)
    for step in range(20):
        g = randoms(4, 3, seed=step + 1)
        update, m, v = run_steps(steps, w, [g], m, v, 0.7)
        w = [w[0] - update[0]]
        mean, square = 0.9 * mean + 0.1 * g.numpy(), 0.999 * square + 0.001 * g.numpy() ** 2
        weight = weight - 0.7 * 0.001 * (mean / np.sqrt(square) + 0.01 * weight)
    np.testing.assert_allclose(w[0].numpy(), weight, rtol=0, atol=1e-12)


EXPECTED = {
    "abs": np.abs, "cos": np.cos, "sin": np.sin, "tan": np.tan, "arcsin": np.arcsin, "arccos": np.arccos,
    "arctan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "arcsinh": np.arcsinh,
    "arccosh": lambda x: np.arccosh(x + 0j).real * np.nan, "arctanh": np.arctanh, "exp": np.exp, "exp2": np.exp2,
    "exp10": lambda x: 10.0**x, "expm1": np.expm1, "log": lambda x: np.log(abs(x)), "log10": lambda x: np.log10(abs(x)),
    "log2": lambda x: np.log2(abs(x)), "log1p": lambda x: np.log(abs(1 + x)), "square": np.square,
    "sqrt": lambda x: np.sqrt(abs(x)), "cube": lambda x: x**3, "cbrt": np.cbrt, "sign": np.sign,
    "reciprocal": lambda x: 1 / x, "neg": np.negative,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_functions_of_one_number(name: str) -> None:
    x = torch.tensor([-0.9, -0.3, 0.2, 0.7], dtype=torch.float64)
    found = FUNCTIONS[name].compute(x)
    np.testing.assert_allclose(found.numpy(), EXPECTED[name](x.numpy()), rtol=1e-12)
    assert set(EXPECTED) == {n for n, f in FUNCTIONS.items() if len(f.slots) == 1} - {"norm", "global_norm"}


def test_functions_of_several_tensors() -> None:
    w, g = [randoms(2, 3), randoms(4)], [randoms(2, 3, seed=1), randoms(4, seed=2)]
    joint = torch.cat([x.flatten() for x in g]).norm().item()

    def check(source: str, expected: list[Tensor]) -> None:
        for found, want in zip(call(source, w, g, lr=0.5), expected, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-12, atol=0)

    check("n = global_norm(g)\nupdate = w * n", [x * joint for x in w])
    check("n = norm(g)\nupdate = w * n", [x * y.norm() for x, y in zip(w, g, strict=True)])
    check("update = clip(g, lr)", [x * 0.5 / joint for x in g])
    check("update = clip(g, 100.0)", g)
    check("d = dot(g, w)\nupdate = w + d", [x + (x * y).sum() for x, y in zip(w, g, strict=True)])
    cosines = [(x * y).sum() / (x.norm() * y.norm()) for x, y in zip(w, g, strict=True)]
    check("c = cosine_sim(g, w)\nupdate = w * c", [x * c for x, c in zip(w, cosines, strict=True)])
    check("update = interp(g, w, 0.75)", [0.25 * y + 0.75 * x for x, y in zip(w, g, strict=True)])
    check("x = pi()\ny = e()\nz = eps()\nx = x * y\nx = x / z\nupdate = w * x",
          [x * math.pi * math.e / 1e-8 for x in w])  # fmt: skip
    check("a = abs(g)\nupdate = power(a, lr)", [y.abs().sqrt() for y in g])


def test_zero_over_zero_is_zero_and_other_infinities_stay() -> None:
    w = [torch.tensor([1.0, 1.0, 1.0, 1.0])]
    found = call(
        "update = g / m", w, [torch.tensor([0.0, 1.0, math.nan, 0.0])], m=[torch.tensor([0.0, 0, 0, math.nan])]
    )
    assert found[0].tolist()[:2] == [0.0, math.inf] and found[0][2:].isnan().all()
    zero = [torch.zeros(3)]
    assert not call("update = clip(g, 0.5)", zero, zero)[0].any()
    assert not call("c = cosine_sim(g, w)\nupdate = w + c", zero, zero)[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_and_shapes_stay(dtype: torch.dtype) -> None:
    shapes = ((), (0,), (3,), (2, 3))
    w = [torch.ones(s, dtype=dtype) for s in shapes]
    update, m, v = run_steps(steps_of(ADAMW), w, w, w, w, 1.0)
    for found in (update, m, v):
        assert [x.shape for x in found] == [x.shape for x in w] and {x.dtype for x in found} == {dtype}
    with pytest.raises(ValueError, match="update must be returned"):
        steps_of(Program.parse("m = sqrt(g)"))


def test_the_buffer_of_what_the_search_found() -> None:
    """One step of its two lines about buffers, on g = 1, v = 0 and the other way round: the coefficients of v'."""
    program = Program.parse("m = interp(g, v, 0.899)\nv = interp(g, m, 1.109)\nupdate = m + v")
    one, zero = [torch.ones(1, dtype=torch.float64)], [torch.zeros(1, dtype=torch.float64)]
    steps = steps_of(program)
    assert run_steps(steps, one, one, zero, zero, 1.0)[2][0].item() == pytest.approx(0.003009, abs=1e-9)
    assert run_steps(steps, one, zero, zero, one, 1.0)[2][0].item() == pytest.approx(0.996991, abs=1e-9)
