"""The claim of lion-k: its smallest run, the solutions that it compares with, and every way its verdict can turn."""

from __future__ import annotations

import math

import pytest
import torch

from thalweg.claims import lion_k as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.linalg import convex_kernel


@pytest.fixture(scope="module")
def smoke() -> Measurement:
    return claim.run("smoke", 0, report=lambda share, doing="": None)


def test_the_smallest_run(smoke: Measurement) -> None:
    assert all(isinstance(value, float) and not math.isnan(value) for value in smoke.numbers.values())
    assert {curve.panel for curve in smoke.curves} == {panel.key for panel in claim.PANELS}
    assert all(len(curve.x) == len(curve.y) <= 300 for curve in smoke.curves)
    assert {curve.role for curve in smoke.curves} == {"measured", "theory", "control"}
    assert smoke.numbers["network, Lion, L 30: slope over theory"] == pytest.approx(1, abs=0.01)
    assert claim.judge([smoke]).word == "reproduced"


def test_one_seed_gives_one_set_of_numbers(smoke: Measurement) -> None:
    shares: list[float] = []
    before = torch.random.get_rng_state()
    assert claim.run("smoke", 0, report=lambda share, doing="": shares.append(share)).numbers == smoke.numbers
    assert torch.equal(torch.random.get_rng_state(), before)
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1


@pytest.mark.parametrize(
    ("name", "settings"), [("l1", {}), ("hinge", {"threshold": 3.0}), ("l2sq", {}), ("topk", {"k": 15})]
)
def test_optima_have_no_fenchel_gap(name: str, settings: dict[str, float]) -> None:
    """The solutions that errors are measured from are stationary, to the last digits."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(50, 50, generator=generator, dtype=torch.float64)).Q
    A = basis * torch.logspace(0, 2, 50, dtype=torch.float64) @ basis.T
    goal = torch.randn(50, generator=generator, dtype=torch.float64) / 4
    x = claim._optimum(A, goal, 4.0, name)
    gap = convex_kernel(name, **settings).gap(-(A @ (x - goal)), 4.0 * x)
    assert abs(gap.item()) < 1e-8


def test_projection_on_box_and_sum() -> None:
    x = torch.tensor([3.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    for box, total, expected in (
        (1.0, 9.0, (1.0, -1.0, 0.5, 0.0)),
        (9.0, 2.0, (1.5, -0.5, 0.0, 0.0)),
        (1.0, 1.5, (1.0, -0.5, 0.0, 0.0)),
    ):
        torch.testing.assert_close(claim._project(x, box, total), torch.tensor(expected, dtype=torch.float64))


def made(**changes: float) -> Measurement:
    """A measurement in which all parts hold."""
    numbers: dict[str, float] = {}
    for decay in (1, 8):
        numbers |= {
            f"quadratic, L {decay}: relative error": 1e-4,
            f"quadratic, L {decay}: steps to 0.001": 770.0,
            f"quadratic, L {decay}: steps allowed": 777.0,
        }
    for decay in (1, 3, 10):
        numbers |= {
            f"network, Lion, L {decay}: slope over theory": 1.001,
            f"network, Lion, L {decay}: excess over bound x L": 1e-7,
            f"network, Lion, L {decay}: largest weight x L": 1.001,
            f"network, AdamW, same rates, L {decay}: largest weight x L": 1.2 if decay > 1 else 0.7,
            f"network, AdamW, 10 lr, decay / 10, L {decay}: largest weight x L": 4.0,
        }
    assert set(changes) <= set(numbers)
    return Measurement(numbers | changes)


def test_reproduced() -> None:
    verdict = claim.judge([made(), made()])
    assert verdict.word == "reproduced"
    assert "in time within 0.001 of the box" in verdict.because and "at least 1.20/L (above 1.05/L)" in verdict.because


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quadratic, L 8: relative error": 0.02}, "2.0e-02 from the minimizer"),
        ({"quadratic, L 1: steps to 0.001": 780.0}, "within 0.001 of the box 3 steps too late"),
        ({"quadratic, L 1: steps to 0.001": math.inf}, "never within 0.001 of the box"),
    ],
)
def test_not_reproduced(change: dict[str, float], words: str) -> None:
    verdict = claim.judge([made(), made(**change)])
    assert verdict.word == "not reproduced at this scale"
    assert words in verdict.because and "likely reason" in verdict.because


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network, Lion, L 3: slope over theory": 1.06}, "changes the slope"),
        ({"network, Lion, L 3: slope over theory": 0.94}, "changes the slope"),
        ({"network, Lion, L 10: excess over bound x L": 2e-5}, "changes the slope"),
        ({"network, AdamW, same rates, L 3: largest weight x L": 1.05}, "draws its weights inside as well"),
    ],
)
def test_partly(change: dict[str, float], reason: str) -> None:
    verdict = claim.judge([made(), made(**change)])
    assert verdict.word == "partly" and reason in verdict.because


def test_adamw_may_stay_inside_where_decay_is_small() -> None:
    assert claim.judge([made(**{"network, AdamW, same rates, L 1: largest weight x L": 0.5})]).word == "reproduced"
